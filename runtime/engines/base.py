"""The contract between the runtime and its engines."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from trine.runtime.adapters.base import AdapterHandle, AdapterSource
from trine.runtime.outputs import Heads
from trine.runtime.preprocessing.vision_inputs import VisionInputs

__all__ = [
    "DecoderBatch",
    "DecoderInputs",
    "Engine",
    "EngineOptions",
    "HeadVectors",
    "VectorEngine",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderInputs:
    """The decoder graph's inputs for sequences packed behind one another.

    Attributes:
        embeddings: float32 [T, hidden], text and image tokens alike. A run may overwrite them: long
            inputs would otherwise be in memory twice.
        rope_cos, rope_sin: float32 [T, head_dim / 2].
        pad_index: int64 [B, S], the token in each slot of the padded view; 0 in unused slots.
        unpad_index: int64 [T], the slot of each token in the flattened padded view.
        last_index: int32 [B], length of each sequence minus one.
        padded_length: int32 [], S.
    """

    embeddings: NDArray[np.float32]
    rope_cos: NDArray[np.float32]
    rope_sin: NDArray[np.float32]
    pad_index: NDArray[np.int64]
    unpad_index: NDArray[np.int64]
    last_index: NDArray[np.int32]
    padded_length: NDArray[np.int32]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [B], the tokens of each sequence."""
        return self.last_index.astype(np.int64) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How to run an engine.

    Attributes:
        threads: of one run on the processor; None for one a processor.
        tasks: whose decoders to load.
        share_weights: whether other processes run the same engine, so that weights are to stay in
            the mapped files, which all of them share, and not be repacked into memory of each.
            Engines that can only run from memory of their own ignore it.
        spin: whether threads that wait for one another within a run may do so busily. That is
            faster while nothing else needs the processors, and slows everything down otherwise.
            Engines whose threads never do ignore it.
        device: ordinal of the GPU, for engines that run on one.
        cuda_graphs: whether such engines replay repeated runs as CUDA graphs.
        device_memory_bytes: most that ONNX Runtime may take of the GPU's memory; None for all.
    """

    threads: int | None
    tasks: tuple[str, ...]
    share_weights: bool = False
    spin: bool = True
    device: int = 0
    cuda_graphs: bool = True
    device_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderBatch:
    """A run of the decoder and of the heads behind it.

    Attributes:
        inputs: packed sequences.
        adapters: of each sequence, held by the caller, all of one `batch_group`.
        pooled: bool [T], tokens that count for single vectors.
        heads: which vectors are wanted.
    """

    inputs: DecoderInputs
    adapters: Sequence[AdapterHandle]
    pooled: NDArray[np.bool_]
    heads: Heads


@dataclass(frozen=True, slots=True)
class HeadVectors:
    """What a run came to, owned by the caller.

    Attributes:
        single: float32 [B, dim], normalised; None if not wanted.
        multi: float32 [T, projector_dim], rows normalised; None if not wanted.
    """

    single: NDArray[np.float32] | None
    multi: NDArray[np.float32] | None


class Engine(Protocol):
    """Runs the two graphs. Implementations are safe to call from several threads."""

    @property
    def adapters(self) -> AdapterSource:
        """The adapters it can run with."""
        ...

    @property
    def pads_attention(self) -> bool:
        """Whether attention computes every slot of the padded view, used or not."""
        ...

    @property
    def weights_in_memory(self) -> bool:
        """Whether loading read the decoders' weights; False if runs read them from mapped files."""
        ...

    @property
    def description(self) -> str:
        """One line: what runs, where, in which precision."""
        ...

    def forward_vision(self, inputs: VisionInputs) -> NDArray[np.float32]:
        """Return image tokens, float32 [N, hidden] in window order, owned by the caller."""
        ...

    def batch_group(self, adapter: AdapterHandle) -> Hashable:
        """Return a key that sequences must share to share a run of the decoder."""
        ...

    def forward_decoder(
        self, inputs: DecoderInputs, adapters: Sequence[AdapterHandle]
    ) -> NDArray[np.float32]:
        """Return hidden states after the final norm, float32 [T, hidden], owned by the caller.

        Args:
            inputs: packed sequences.
            adapters: of each sequence, held by the caller, all of one `batch_group`.
        """
        ...


@runtime_checkable
class VectorEngine(Engine, Protocol):
    """An engine that has the heads as well, so that hidden states stay where they were computed."""

    def forward_vectors(self, runs: Iterable[DecoderBatch]) -> Iterator[HeadVectors]:
        """Yield the vectors of each run, in order.

        A run is drawn from `runs` while the one before computes; drawing it must not use the
        engine, and what is yielded must be asked for to the end.
        """
        ...
