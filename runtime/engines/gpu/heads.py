"""The heads on the device: hidden states are pooled and projected where they are.

Only vectors are copied back then. The kernels are compiled ahead of time
(`trine.kernels.triton.compile`) and launched through the driver alone.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trine.kernels.triton.launches import (
    DeviceArray,
    Launch,
    launch_pool_segments,
    launch_project_rows,
)
from trine.kernels.triton.specs import ALIGNMENT, find_spec
from trine.runtime.adapters.base import AdapterHandle
from trine.runtime.adapters.projector import Projector
from trine.runtime.adapters.store import MAX_ADAPTERS
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.engines.gpu.cuda.device import Device
from trine.runtime.engines.gpu.cuda.lanes import Lane, Output
from trine.runtime.engines.gpu.cuda.memory import DeviceBuffer
from trine.runtime.engines.gpu.cuda.transfer import upload_now
from trine.runtime.engines.gpu.layout import GraphInput
from trine.runtime.outputs import Heads

__all__ = ["HEAD_KERNELS", "DeviceHeads", "HeadPart", "Kernels", "heads_obstacle"]

POOL, PROJECT = "pool_segments.fp32", "project_rows.fp32"
HEAD_KERNELS = (POOL, PROJECT)
#: Projections kept on the device: of all resident adapters, and of as many that they replaced.
NUM_PROJECTORS = 2 * MAX_ADAPTERS


class Kernels(Protocol):
    """Compiled kernels on one device, such as `trine.kernels.triton.launch.CudaKernels`."""

    def launch(self, launch: Launch, stream: int) -> None:
        """Queue a launch."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadPart:
    """What the heads make of some sequences behind one another.

    Attributes:
        lengths: int64 [B], tokens of each sequence.
        adapters: of each sequence.
        pooled: bool [T], tokens that count for single vectors.
        heads: which vectors are wanted.
    """

    lengths: NDArray[np.int64]
    adapters: Sequence[AdapterHandle]
    pooled: NDArray[np.bool_]
    heads: Heads


def heads_obstacle(model: ModelConfig) -> str | None:
    """Return why the kernels cannot be used for a model, None if they can."""
    hidden = model.decoder.hidden_size
    most = find_spec(POOL).constant("BLOCK_D")
    widest = find_spec(PROJECT).constant("BLOCK_D")
    if hidden % ALIGNMENT or hidden > most:
        return f"hidden size {hidden} is no multiple of {ALIGNMENT} up to {most}"
    if model.projector_dim > widest or model.projector_dim % 4:
        return f"multi-vectors of {model.projector_dim} are no multiple of 4 up to {widest}"
    return None


class DeviceHeads:
    """Pools and projects on one stream. Not thread-safe: the lanes' order is its own.

    Args:
        device: of the hidden states.
        kernels: compiled for it.
        model: that `heads_obstacle` finds nothing against.
        stream: that runs are queued on.
    """

    def __init__(self, device: Device, kernels: Kernels, model: ModelConfig, stream: int) -> None:
        self._device = device
        self._kernels = kernels
        self._hidden_size = model.decoder.hidden_size
        self._dim = model.projector_dim
        self._stream = stream
        self._projectors: OrderedDict[int, _OnDevice] = OrderedDict()

    def inputs(self, part: HeadPart) -> dict[str, GraphInput]:
        """Return what is to be copied to the device for a part."""
        if not part.heads.single:
            return {}
        starts = np.concatenate([[0], np.cumsum(part.lengths)]).astype(np.int32)
        pooled = part.pooled.astype(np.uint8)
        return {
            "cu_seqlens": GraphInput(starts, starts.shape),
            "pooled": GraphInput(pooled, pooled.shape),
        }

    def queue(
        self, part: HeadPart, hidden: int, addresses: Mapping[str, int], lane: Lane
    ) -> list[Output]:
        """Queue the heads behind the decoder; return what to copy back.

        Args:
            part: of the run.
            hidden: address of float32 [T, hidden size].
            addresses: of `inputs`.
            lane: that has memory for the vectors.
        """
        outputs = []
        num_tokens = int(part.lengths.sum())
        if part.heads.single:
            shape = (len(part.lengths), part.heads.dim)
            place = lane.reserve("single", _num_bytes(shape))
            launch = launch_pool_segments(
                self._rows(hidden, 0, num_tokens),
                DeviceArray(
                    pointer=addresses["cu_seqlens"], shape=(len(part.lengths) + 1,), dtype="i32"
                ),
                DeviceArray(pointer=addresses["pooled"], shape=(num_tokens,), dtype="u8"),
                DeviceArray(pointer=place, shape=shape, dtype="fp32"),
            )
            self._kernels.launch(launch, self._stream)
            outputs.append(Output(name="single", address=place, shape=shape))
        if part.heads.multi:
            shape = (num_tokens, self._dim)
            place = lane.reserve("multi", _num_bytes(shape))
            for projector, first, last in _same_projector(part):
                self._project(projector, hidden, place, first, last)
            outputs.append(Output(name="multi", address=place, shape=shape))
        return outputs

    def _project(
        self, projector: Projector, hidden: int, place: int, first: int, last: int
    ) -> None:
        kept = self._on_device(projector)
        row_bytes = _num_bytes((self._dim,))
        out = DeviceArray(
            pointer=place + first * row_bytes, shape=(last - first, self._dim), dtype="fp32"
        )
        launch = launch_project_rows(self._rows(hidden, first, last), kept.weight, kept.bias, out)
        self._kernels.launch(launch, self._stream)

    def _rows(self, hidden: int, first: int, last: int) -> DeviceArray:
        row_bytes = _num_bytes((self._hidden_size,))
        shape = (last - first, self._hidden_size)
        return DeviceArray(pointer=hidden + first * row_bytes, shape=shape, dtype="fp32")

    def _on_device(self, projector: Projector) -> "_OnDevice":
        """Return a projection's arrays on the device, copied there at its first use."""
        key = id(projector)
        if key in self._projectors:
            self._projectors.move_to_end(key)
            return self._projectors[key]
        if len(self._projectors) >= NUM_PROJECTORS:
            # `upload_now` below waits for all of this stream, so nothing uses what is freed after.
            _, oldest = self._projectors.popitem(last=False)
            upload_now(self._device, self._stream, ())
            oldest.release()
        kept = _OnDevice(self._device, projector)
        upload_now(
            self._device,
            self._stream,
            ((kept.weight.pointer, projector.weight), (kept.bias.pointer, projector.bias)),
        )
        self._projectors[key] = kept
        return kept


class _OnDevice:
    """A projection in device memory; keeps what it was made of, so that its key stays its own."""

    def __init__(self, device: Device, projector: Projector) -> None:
        self.projector = projector
        self._buffers = DeviceBuffer(device), DeviceBuffer(device)
        self.weight, self.bias = (
            DeviceArray(pointer=buffer.require(array.nbytes), shape=array.shape, dtype="fp32")
            for buffer, array in zip(self._buffers, (projector.weight, projector.bias), strict=True)
        )

    def release(self) -> None:
        for buffer in self._buffers:
            buffer.release()


def _same_projector(part: HeadPart) -> list[tuple[Projector, int, int]]:
    """Return (projector, first token, end) of neighbouring sequences that share a projector."""
    found: list[tuple[Projector, int, int]] = []
    end = 0
    for adapter, length in zip(part.adapters, part.lengths.tolist(), strict=True):
        start, end = end, end + length
        if found and found[-1][0] is adapter.projector:
            found[-1] = (adapter.projector, found[-1][1], end)
        else:
            found.append((adapter.projector, start, end))
    return found


def _num_bytes(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape)) * np.dtype(np.float32).itemsize
