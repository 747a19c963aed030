"""The contract of engines that time their operators: seconds and operations by class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from trine.runtime.adapters.base import AdapterHandle
from trine.runtime.engines.base import DecoderInputs
from trine.runtime.preprocessing.vision_inputs import VisionInputs

__all__ = ["OpClass", "OperatorTime", "ProfilingEngine"]

OpClass = Literal[
    "GEMM", "attention", "quantisation", "norms", "elementwise", "gather and layout", "other"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorTime:
    """All runs of one operator in one pass.

    Attributes:
        kind: what it does.
        operator: its name, as the engine calls it.
        seconds: that it took, quantising and rescaling included where it does them itself.
        operations: additions and multiplications of matrix products; 0 where it has none.
    """

    kind: OpClass
    operator: str
    seconds: float
    operations: int


@runtime_checkable
class ProfilingEngine(Protocol):
    """An engine that can time its parts. What timing costs must not be in its other runs."""

    def profile_vision(self, inputs: VisionInputs, runs: int) -> Sequence[OperatorTime]:
        """Return the operators of a pass of the vision tower, averaged over `runs`."""
        ...

    def profile_decoder(
        self, inputs: DecoderInputs, adapters: Sequence[AdapterHandle], runs: int
    ) -> Sequence[OperatorTime]:
        """Return the operators of a pass of the decoder, averaged over `runs`.

        Args:
            inputs: packed sequences.
            adapters: of each sequence, held by the caller, all of one `batch_group`.
            runs: to average over.
        """
        ...
