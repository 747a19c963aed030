"""The two ways a decoder has its adapters: merged into its weights, or beside it as inputs."""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from trine.runtime.adapters.base import AdapterHandle, AdapterSource, MergedAdapters
from trine.runtime.adapters.file import open_adapter
from trine.runtime.adapters.store import SLOTS_PER_RUN, AdapterBank, AdapterView
from trine.runtime.bundle.bundle import HEADS_NAME, Bundle
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.engines.base import DecoderInputs
from trine.runtime.engines.ort.session import SessionSettings, open_session, run_session
from trine.runtime.errors import BundleError
from trine.runtime.inference.pooling import load_base_projector, load_projectors

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["ONNX_TYPES", "Decoders", "MergedDecoders", "SharedDecoder", "open_bank", "rank_mask"]

#: ONNX's numbers of the adapter inputs' types.
ONNX_TYPES = {"BF16": 16, "F16": 10, "F32": 1}


class Decoders(Protocol):
    """The decoder sessions of an engine with the adapters they offer."""

    adapters: AdapterSource

    def batch_group(self, adapter: AdapterHandle) -> Hashable: ...

    def run(
        self, inputs: DecoderInputs, adapters: Sequence[AdapterHandle]
    ) -> NDArray[np.float32]: ...

    def adapter_inputs(
        self, inputs: DecoderInputs, adapters: Sequence[AdapterHandle]
    ) -> dict[str, object]: ...


class MergedDecoders:
    """One session a task; a run is of one task."""

    def __init__(
        self,
        bundle: Bundle,
        entry: EngineEntry,
        tasks: tuple[str, ...],
        settings: SessionSettings,
    ) -> None:
        self.adapters: AdapterSource = MergedAdapters(
            load_projectors(bundle.path(HEADS_NAME), tasks, bundle.manifest.model)
        )
        self._sessions = {
            task: open_session(bundle.path(entry.decoders[task]), settings) for task in tasks
        }

    def batch_group(self, adapter: AdapterHandle) -> Hashable:
        return adapter.name

    def run(self, inputs: DecoderInputs, adapters: Sequence[AdapterHandle]) -> NDArray[np.float32]:
        return run_session(self._sessions[adapters[0].name], inputs)

    def adapter_inputs(
        self, inputs: DecoderInputs, adapters: Sequence[AdapterHandle]
    ) -> dict[str, object]:
        return {}


class SharedDecoder:
    """One session for all; a run may mix adapters of neighbouring slots.

    The graph adds, to each adapted product, ((x·Aᵀ) masked by token) · B with the matrices of all
    slots in the run's view side by side.
    """

    def __init__(
        self,
        bundle: Bundle,
        entry: EngineEntry,
        tasks: tuple[str, ...],
        settings: SessionSettings,
    ) -> None:
        self._bank = open_bank(bundle, entry, tasks)
        self.adapters: AdapterSource = self._bank
        (path,) = set(entry.decoders.values())
        self._session: onnxruntime.InferenceSession = open_session(bundle.path(path), settings)

    def batch_group(self, adapter: AdapterHandle) -> Hashable:
        return adapter.slot // SLOTS_PER_RUN

    def run(self, inputs: DecoderInputs, adapters: Sequence[AdapterHandle]) -> NDArray[np.float32]:
        return run_session(self._session, inputs, self.adapter_inputs(inputs, adapters))

    def adapter_inputs(
        self, inputs: DecoderInputs, adapters: Sequence[AdapterHandle]
    ) -> dict[str, object]:
        """Return the graph's inputs beside `inputs`: the adapters' matrices, and whose is whose."""
        from onnxruntime import OrtValue

        view = self._bank.view([adapter.slot for adapter in adapters])
        layout = self._bank.layout
        # No copy: the values are views into the bank, which outlives every run.
        feeds: dict[str, object] = {
            name: OrtValue.ortvalue_from_numpy_with_onnx_type(array, ONNX_TYPES[layout.dtype])
            for name, array in view.arrays.items()
        }
        slots = np.repeat([adapter.slot for adapter in adapters], inputs.lengths)
        feeds["lora_mask"] = rank_mask(slots, view, layout.max_rank)
        feeds["lora_mask_qkv"] = rank_mask(slots, view, 3 * layout.max_rank)
        return feeds


def open_bank(bundle: Bundle, entry: EngineEntry, tasks: tuple[str, ...]) -> AdapterBank:
    """Return a bank with the adapters of `tasks` resident, for an engine that takes them as inputs.

    Raises:
        BundleError: the manifest names no file of a task.
    """
    model, layout = bundle.manifest.model, bundle.manifest.adapters
    missing = [task for task in tasks if task not in layout.files]
    if missing:
        raise BundleError(
            f"{bundle.folder}: engine {entry.name} takes adapters as inputs, but the manifest "
            f"names no file of {missing}; export the bundle again"
        )
    bank = AdapterBank(model, layout, load_base_projector(bundle.path(HEADS_NAME), model))
    for task in tasks:
        bank.add(task, open_adapter(bundle.path(layout.files[task]), model, layout))
    return bank


def rank_mask(
    slots: NDArray[np.int64], view: AdapterView, ranks_per_slot: int
) -> NDArray[np.bool_]:
    """Return bool [T, slots in view × ranks_per_slot]: the ranks that each token's adapter owns.

    Args:
        slots: int64 [T], the slot of each token.
        view: that the ranks are of.
        ranks_per_slot: rows of a slot.
    """
    own = slots[:, None] == np.arange(view.first, view.last + 1)
    return np.repeat(own, ranks_per_slot, axis=1)
