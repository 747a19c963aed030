"""Checks a bundle: its files, its engines against golden vectors, and against PyTorch if asked."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.verify.report import Check, EngineVerification, VerifyReport
from trine.export.verify.torch_comparison import Head, check_comparison, compare_with_torch
from trine.runtime.bundle.bundle import Bundle, open_bundle
from trine.runtime.bundle.golden import Modality, worst
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.embedder import Embedder
from trine.runtime.engines.select import engine_named, engines_of, obstacle_to, read_host
from trine.runtime.errors import InputError

__all__ = ["verify_bundle"]


def verify_bundle(
    folder: Path,
    *,
    engine: str | None = None,
    device: int = 0,
    source: str | None = None,
    threads: int | None = None,
    said: Callable[[str], None] = lambda step: None,
) -> VerifyReport:
    """Check the bundle in `folder`, and return what was found, good or bad.

    Args:
        folder: of the bundle.
        engine: to run; None for all that this machine can run.
        device: ordinal of the GPU, for engines that run on one.
        source: the checkpoint it was made from, to compare with PyTorch: "nano", a folder or a Hub
            id. None leaves PyTorch out.
        threads: of one run of an engine; None for one a processor.
        said: called with what is done next.

    Raises:
        BundleError: the folder holds no bundle, files are missing or of another size, or it has no
            such engine.
        CheckpointError: the source is not usable, or is of another model.
        EngineError: an engine cannot run here.
        InputError: threads is not a number of at least 1.
        DependencyError: a package is missing.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; give a number of at least 1")
    bundle = open_bundle(folder)
    entries, not_run = _chosen(bundle, engine, device)
    # Before any work: hashing and embedding take minutes.
    checkpoint = None if source is None else check_comparison(bundle, source)
    files = bundle.manifest.files
    said(f"hashing {len(files)} files")
    problems = bundle.check_hashes()
    options = _RunOptions(device, threads)
    engines = [] if problems else _engines(bundle, entries, checkpoint, options, said)
    return VerifyReport(
        bundle=folder,
        num_files=len(files),
        num_bytes=sum(entry.size for entry in files.values()),
        problems=tuple(problems),
        engines=tuple(engines),
        not_run=not_run,
    )


@dataclass(frozen=True, slots=True)
class _RunOptions:
    """Ordinal of the GPU, and threads of one run on the processor."""

    device: int
    threads: int | None


def _chosen(
    bundle: Bundle, engine: str | None, device: int
) -> tuple[tuple[EngineEntry, ...], tuple[tuple[str, str], ...]]:
    """Return the entries to run, and the names of others with why they cannot run here."""
    if engine is not None:
        return (engine_named(bundle, engine),), ()
    host = read_host(bundle, device)
    entries = [engine_named(bundle, entry.name) for entry in engines_of(bundle)]
    obstacles = [obstacle_to(bundle, entry, host) for entry in entries]
    found = list(zip(entries, obstacles, strict=True))
    return (
        tuple(entry for entry, why in found if why is None),
        tuple((entry.name, why) for entry, why in found if why is not None),
    )


def _engines(
    bundle: Bundle,
    entries: tuple[EngineEntry, ...],
    checkpoint: Checkpoint | None,
    options: _RunOptions,
    said: Callable[[str], None],
) -> list[EngineVerification]:
    checks = {entry.name: list(_golden(bundle, entry, options, said)) for entry in entries}
    if checkpoint is not None:
        compared = compare_with_torch(bundle, entries, checkpoint, options.threads, said)
        for name, more in compared.items():
            checks[name] += more
    return [
        EngineVerification(
            name=entry.name,
            checks=tuple(checks[entry.name]),
            unchecked=tuple(
                task for task in entry.decoders if task not in {c.task for c in checks[entry.name]}
            ),
        )
        for entry in entries
    ]


def _golden(
    bundle: Bundle, entry: EngineEntry, options: _RunOptions, said: Callable[[str], None]
) -> Iterator[Check]:
    """Yield the checks against the golden vectors, task by task, so one decoder is in memory."""
    for task in entry.decoders:
        said(f"running {entry.name} on the golden inputs of {task}")
        embedder = Embedder.open(
            bundle, entry, tasks=(task,), threads=options.threads, device=options.device
        )
        for modality in get_args(Modality):
            found = embedder.deviations(modality)
            for head in get_args(Head):
                members = [deviation for deviation in found if deviation.head == head]
                if not members:
                    continue  # an adapter added after the export
                cosine, difference = worst(members)
                yield Check(
                    against="golden",
                    task=task,
                    modality=modality,
                    head=head,
                    num_vectors=len(members),
                    mean_cosine=None,
                    p1_cosine=None,
                    min_cosine=cosine,
                    max_difference=difference,
                    tolerance=entry.tolerance,
                )
