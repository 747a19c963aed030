"""The two ways a decoder on the device has its adapters: merged, or beside it as inputs."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trine.runtime.adapters.base import AdapterHandle, AdapterSource, MergedAdapters
from trine.runtime.adapters.store import SLOTS_PER_RUN, AdapterBank
from trine.runtime.bundle.bundle import HEADS_NAME, Bundle
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.engines.gpu.adapters import DeviceAdapters
from trine.runtime.engines.gpu.cuda.device import Device
from trine.runtime.engines.gpu.layout import GraphInput
from trine.runtime.engines.gpu.program import Program
from trine.runtime.engines.ort.decoders import open_bank, rank_mask
from trine.runtime.inference.pooling import load_projectors

__all__ = ["AdapterInputs", "DeviceDecoders", "OpenProgram", "merged_decoders", "shared_decoder"]

#: Loads the engine of a graph of the bundle.
OpenProgram = Callable[[str], Program]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterInputs:
    """What a run's adapters come to.

    Attributes:
        masks: to be copied to the device.
        resident: address and shape of what is there, by name.
    """

    masks: Mapping[str, GraphInput]
    resident: Mapping[str, tuple[int, tuple[int, ...]]]


class DeviceDecoders(Protocol):
    """The decoders of an engine with the adapters they offer."""

    adapters: AdapterSource

    def batch_group(self, adapter: AdapterHandle) -> Hashable:
        """Return a key that sequences must share to share a run."""
        ...

    def program(self, adapters: Sequence[AdapterHandle]) -> Program:
        """Return the decoder of a run."""
        ...

    def inputs(
        self, adapters: Sequence[AdapterHandle], lengths: NDArray[np.int64], num_tokens: int
    ) -> AdapterInputs:
        """Return the adapters' inputs of a run.

        Args:
            adapters: of each sequence.
            lengths: of the sequences.
            num_tokens: rows of the masks, padding included.
        """
        ...


class _Merged:
    def __init__(self, adapters: AdapterSource, programs: Mapping[str, Program]) -> None:
        self.adapters = adapters
        self._programs = programs

    def batch_group(self, adapter: AdapterHandle) -> Hashable:
        return adapter.name

    def program(self, adapters: Sequence[AdapterHandle]) -> Program:
        return self._programs[adapters[0].name]

    def inputs(
        self, adapters: Sequence[AdapterHandle], lengths: NDArray[np.int64], num_tokens: int
    ) -> AdapterInputs:
        return AdapterInputs(masks={}, resident={})


class _Shared:
    def __init__(self, bank: AdapterBank, resident: DeviceAdapters, program: Program) -> None:
        self.adapters: AdapterSource = bank
        self._bank = bank
        self._resident = resident
        self._program = program

    def batch_group(self, adapter: AdapterHandle) -> Hashable:
        return adapter.slot // SLOTS_PER_RUN

    def program(self, adapters: Sequence[AdapterHandle]) -> Program:
        return self._program

    def inputs(
        self, adapters: Sequence[AdapterHandle], lengths: NDArray[np.int64], num_tokens: int
    ) -> AdapterInputs:
        view = self._bank.view([adapter.slot for adapter in adapters])
        slots = np.repeat([adapter.slot for adapter in adapters], lengths)
        rank = self._bank.layout.max_rank
        masks = {}
        for name, ranks in (("lora_mask", rank), ("lora_mask_qkv", 3 * rank)):
            mask = rank_mask(slots, view, ranks)
            masks[name] = GraphInput(mask, (num_tokens, mask.shape[1]))
        return AdapterInputs(masks=masks, resident=self._resident.inputs(view))


def merged_decoders(
    bundle: Bundle, entry: EngineEntry, tasks: tuple[str, ...], load: OpenProgram
) -> DeviceDecoders:
    """Return one decoder a task.

    Raises:
        BundleError: the projections are damaged.
        EngineError: an engine cannot be loaded.
    """
    projectors = load_projectors(bundle.path(HEADS_NAME), tasks, bundle.manifest.model)
    programs = {task: load(entry.decoders[task]) for task in tasks}
    return _Merged(MergedAdapters(projectors), programs)


def shared_decoder(
    bundle: Bundle,
    entry: EngineEntry,
    tasks: tuple[str, ...],
    load: OpenProgram,
    device: Device,
) -> DeviceDecoders:
    """Return one decoder for all adapters, theirs on the device.

    Raises:
        BundleError: an adapter is missing or damaged.
        EngineError: the engine cannot be loaded.
    """
    bank = open_bank(bundle, entry, tasks)
    resident = DeviceAdapters(device, bank)
    with bank.hold(tasks) as handles:
        for handle in handles.values():
            resident.upload(handle.slot)
    bank.on_filled(resident.upload)
    (path,) = set(entry.decoders.values())
    return _Shared(bank, resident, load(path))
