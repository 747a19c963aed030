"""Resident adapters whose deltas the decoder takes as inputs, loaded and unloaded while it serves.

Every group of adapted layers has two arrays with a slot for each adapter. A run is given a view of
the slots it needs, without a copy; a mask says which token uses which. Slots that were never used
take no memory, and a slot that was freed is used again, so memory follows the most adapters that
were ever resident at once.
"""

import math
import mmap
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trine.runtime.adapters.base import AdapterHandle
from trine.runtime.adapters.file import AdapterTensors, read_adapter
from trine.runtime.adapters.layout import LoraGroup, lora_groups
from trine.runtime.bundle.manifest import AdapterLayout
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.bundle.safetensors_file import STORAGE
from trine.runtime.errors import InputError
from trine.runtime.inference.pooling import Projector

__all__ = ["MAX_ADAPTERS", "SLOTS_PER_RUN", "AdapterBank", "AdapterView"]

#: Adapters that can be resident at once.
MAX_ADAPTERS = 32
#: A run sees at most this many neighbouring slots; the planner keeps other adapters out of it.
SLOTS_PER_RUN = 4


@dataclass(slots=True, eq=False)
class _Slot:
    """One resident adapter and how many requests use it."""

    handle: AdapterHandle
    users: int = 0


@dataclass(frozen=True, slots=True)
class AdapterView:
    """What a run of the decoder is given of the bank.

    Attributes:
        first, last: slots covered, both included.
        arrays: by input name, `<group>.lora_a` [ranks, in] and `<group>.lora_b` [ranks, out] in the
            bank's storage dtype; views into the bank.
    """

    first: int
    last: int
    arrays: Mapping[str, NDArray[np.generic]] = field(repr=False)


class AdapterBank:
    """The adapters of one decoder. Safe to call from several threads.

    Args:
        model: the model's numbers.
        layout: rank and dtype of the decoder's adapter inputs.
        base_projector: the multi-vector projection without an adapter.
    """

    def __init__(
        self, model: ModelConfig, layout: AdapterLayout, base_projector: Projector
    ) -> None:
        self._model = model
        self.layout = layout
        self._base_projector = base_projector
        self._groups = lora_groups(model.decoder)
        dtype = np.dtype(STORAGE[layout.dtype])
        self._a = {g.name: _reserve(self._rows(g), g.num_in, dtype) for g in self._groups}
        self._b = {g.name: _reserve(self._rows(g), g.num_out, dtype) for g in self._groups}
        self._resident: dict[str, _Slot] = {}
        self._leaving: list[_Slot] = []
        self._free = list(range(MAX_ADAPTERS))
        self._views: dict[tuple[int, int], AdapterView] = {}
        self._filled: Callable[[int], None] = lambda slot: None
        self._changed = threading.Condition()

    @property
    def names(self) -> tuple[str, ...]:
        with self._changed:
            return tuple(self._resident)

    def on_filled(self, call: Callable[[int], None]) -> None:
        """Have `call` told the number of each slot that is written, before requests can name it."""
        self._filled = call

    def prepare(self, name: str, folder: Path, task: str | None) -> AdapterHandle:
        """Fill a slot with the adapter in a PEFT folder; no request sees it until `commit`.

        Args:
            name: the task requests will ask for.
            folder: of PEFT's two files.
            task: which of the folder's adapters, where it holds several; None for the one called
                `name`.

        Raises:
            CheckpointError: the files are damaged or not supported.
            InputError: the rank is larger than the decoder's inputs, or all slots are taken.
        """
        return self._place(name, read_adapter(folder, self._model, self.layout, name, task))

    def commit(self, staged: AdapterHandle) -> None:
        """Make a staged adapter resident under its name; one of that name is replaced.

        Requests under way keep the adapter they started with.
        """
        with self._changed:
            replaced = self._resident.pop(staged.name, None)
            self._resident[staged.name] = _Slot(staged)
            if replaced is not None:
                self._retire(replaced)

    def abort(self, staged: AdapterHandle) -> None:
        """Free the slot of a staged adapter."""
        self._release(staged.slot)

    def add(self, name: str, tensors: AdapterTensors) -> None:
        """Make an adapter that was read and checked resident under `name`."""
        self.commit(self._place(name, tensors))

    def _place(self, name: str, tensors: AdapterTensors) -> AdapterHandle:
        """Fill a slot.

        Raises:
            InputError: all slots are taken.
        """
        with self._changed:
            if not self._free:
                raise InputError(
                    f"adapter {name!r} cannot be loaded: all {MAX_ADAPTERS} slots are taken by "
                    f"{sorted(self._resident)}; unload one first"
                )
            slot = self._free.pop(0)
        try:
            for group in self._groups:
                self._fill(group, slot, tensors)
            self._filled(slot)
            return AdapterHandle(name, slot, self._projector(tensors))
        except BaseException:
            self._release(slot)
            raise

    def unload(self, name: str, timeout_s: float | None) -> None:
        """Take `name` from new requests now, and return when no request uses it any more.

        Raises:
            InputError: the name is not resident, or requests still used it after `timeout_s`; it is
                gone for new requests, and its slot is freed when the last of them ends.
        """
        with self._changed:
            if name not in self._resident:
                raise InputError(
                    f"adapter {name!r} is not loaded; loaded are {list(self._resident)}"
                )
            slot = self._resident.pop(name)
            self._retire(slot)
            if not self._changed.wait_for(lambda: not slot.users, timeout_s):
                raise InputError(
                    f"adapter {name!r} is still used by {slot.users} requests after "
                    f"{timeout_s} s; its memory is freed when they end"
                )

    @contextmanager
    def hold(self, names: Iterable[str]) -> Iterator[Mapping[str, AdapterHandle]]:
        """Yield the handles of `names`, which stay resident until the block ends."""
        wanted = set(names)
        with self._changed:
            unknown = sorted(wanted - set(self._resident))
            if unknown:
                raise InputError(
                    f"adapters {unknown} are not loaded; loaded are {list(self._resident)}"
                )
            held = {name: self._resident[name] for name in wanted}
            for slot in held.values():
                slot.users += 1
        try:
            yield {name: slot.handle for name, slot in held.items()}
        finally:
            with self._changed:
                for slot in held.values():
                    slot.users -= 1
                    if not slot.users and slot in self._leaving:
                        self._leaving.remove(slot)
                        self._free_slot(slot.handle.slot)
                self._changed.notify_all()

    def view(self, slots: Sequence[int]) -> AdapterView:
        """Return the view that covers `slots`, which the caller holds."""
        key = (min(slots), max(slots))
        with self._changed:
            if key not in self._views:
                self._views[key] = self._make_view(*key)
            return self._views[key]

    def _make_view(self, first: int, last: int) -> AdapterView:
        arrays = {}
        for half, store in (("lora_a", self._a), ("lora_b", self._b)):
            for name, array in store.items():
                rows = array[first : last + 1]
                arrays[f"{name}.{half}"] = rows.reshape(-1, array.shape[2])
        return AdapterView(first, last, arrays)

    def _rows(self, group: LoraGroup) -> int:
        return len(group.modules) * self.layout.max_rank

    def _fill(self, group: LoraGroup, slot: int, tensors: AdapterTensors) -> None:
        """Write a group's matrices into a slot: A's rows stacked, B block-diagonal, rest zero."""
        a, b = self._a[group.name][slot], self._b[group.name][slot]
        a[...], b[...] = 0, 0
        column = 0
        for part, (module, num_out) in enumerate(zip(group.modules, group.num_outs, strict=True)):
            pair = tensors.stored(module)
            if pair is not None:
                row, rank = part * self.layout.max_rank, len(pair.a)
                a[row : row + rank] = pair.a
                b[row : row + rank, column : column + num_out] = pair.b
            column += num_out

    def _projector(self, tensors: AdapterTensors) -> Projector:
        """Return the projection with the adapter merged in, float32."""
        delta = tensors.projector_delta
        base = self._base_projector
        return base if delta is None else Projector(base.weight + delta, base.bias)

    def _retire(self, slot: _Slot) -> None:
        """Free a slot that left `_resident`, now or when its last user ends. Holds the lock."""
        if slot.users:
            self._leaving.append(slot)
        else:
            self._free_slot(slot.handle.slot)

    def _release(self, number: int) -> None:
        with self._changed:
            self._free_slot(number)

    def _free_slot(self, number: int) -> None:
        # Lowest first, so that adapters stay neighbours and share runs.
        self._free.append(number)
        self._free.sort()


def _reserve(rows: int, width: int, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """Return zeros [MAX_ADAPTERS, rows, width] of which only slots written to take memory."""
    shape = (MAX_ADAPTERS, rows, width)
    buffer = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # Huge pages would fill in the slots beside the ones in use.
        buffer.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(buffer, dtype).reshape(shape)
