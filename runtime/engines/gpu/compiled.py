"""The contract between engines and TensorRT, so that their logic runs without it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["Binding", "CompiledGraph", "ExecutionContext", "Library"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What a run works on.

    Attributes:
        profile: number of its bucket.
        shapes: of every input.
        output: name and shape of what it writes, float32.
        addresses: of every input and of the output, in device memory.
        expected: whether runs of these shapes and addresses will come again.
    """

    profile: int
    shapes: Mapping[str, tuple[int, ...]]
    output: tuple[str, tuple[int, ...]]
    addresses: Mapping[str, int]
    expected: bool


class ExecutionContext(Protocol):
    """One bucket of a compiled graph, ready to be given sizes and memory. Not thread-safe."""

    def bind(self, binding: Binding, scratch: int) -> None:
        """Set what the next `enqueue` works on.

        Args:
            binding: of the run.
            scratch: address of the bucket's `CompiledGraph.scratch_bytes`, which nothing else uses
                meanwhile.

        Raises:
            EngineError: a shape is outside the bucket.
        """
        ...

    def enqueue(self, stream: int) -> None:
        """Queue a run on a stream.

        Raises:
            EngineError: the library refuses.
        """
        ...


class CompiledGraph(Protocol):
    """An engine as a builder made it, its weights in device memory."""

    def scratch_bytes(self, profile: int) -> int:
        """Return the device memory that runs of a bucket take beside weights, inputs and outputs.

        Args:
            profile: number of the bucket.
        """
        ...

    def context(self, profile: int, stream: int) -> ExecutionContext:
        """Return a context for the bucket `profile`.

        Args:
            profile: number of the bucket.
            stream: that all its runs will be queued on.
        """
        ...


class Library(Protocol):
    """TensorRT or TensorRT-RTX."""

    @property
    def title(self) -> str:
        """Its name and version."""
        ...

    @property
    def version(self) -> str:
        """Its version; it loads engines of the same one only."""
        ...

    @property
    def captures_graphs(self) -> bool:
        """Whether it makes CUDA graphs of repeated shapes by itself."""
        ...

    def load(self, path: Path) -> CompiledGraph:
        """Return the engine in a file, loaded to the device.

        Raises:
            EngineError: the library refuses it.
        """
        ...
