"""Finds the engines of a bundle that one library can load on one GPU, or says how to build them."""

from collections.abc import Iterator

from trine.runtime.bundle.bundle import Bundle
from trine.runtime.bundle.manifest import Builder, BuiltEngine, EngineEntry
from trine.runtime.errors import EngineError

__all__ = ["built_engine", "rebuild_command"]


def built_engine(
    bundle: Bundle, entry: EngineEntry, graph: str, builder: Builder, version: str, sm: int
) -> BuiltEngine:
    """Return the engine that was built from a graph.

    Args:
        bundle: that has it.
        entry: of the graph.
        graph: path in the bundle.
        builder, version: of the library that is to load it.
        sm: compute capability of the GPU it is to run on.

    Raises:
        EngineError: there is none, or it is for other GPUs or another version; the message has the
            command that builds it.
    """
    made = [b for b in entry.built if (b.graph, b.builder) == (graph, builder)]
    for engine in made:
        if sm in engine.sms and engine.version == version:
            return engine
    raise EngineError(
        f"engine {entry.name}: {_difference(made, builder, version, sm)}; build it: "
        f"{rebuild_command(bundle, entry, builder, sm)}"
    )


def rebuild_command(bundle: Bundle, entry: EngineEntry, builder: Builder, sm: int) -> str:
    """Return the command that builds an entry's engines for one kind of GPU."""
    dashed = builder.replace("_", "-")
    return f"trine build {bundle.folder} --engine {entry.name} --builder {dashed} --sm {sm}"


def _difference(made: list[BuiltEngine], builder: Builder, version: str, sm: int) -> str:
    if not made:
        return f"nothing was built of its graphs with {builder}"
    for engine in made:
        if sm in engine.sms:
            return (
                f"was built with {builder} {engine.version}, and here is {version}, which loads "
                "its own engines only"
            )
    built = ", ".join(f"sm_{number}" for number in sorted(set(_sms(made))))
    return f"was built for {built}, and this GPU is sm_{sm}"


def _sms(made: list[BuiltEngine]) -> Iterator[int]:
    for engine in made:
        yield from engine.sms
