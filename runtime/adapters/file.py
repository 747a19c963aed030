"""One adapter in the form the decoder takes it: from a PEFT folder, or from a bundle's own file.

A bundle's `adapters/<name>.safetensors` holds `<module>.a` [r, in] and `<module>.b` [r, out] in the
dtype of the decoder's inputs, B multiplied by alpha / r, and `multi_vector_projector.a` and `.b`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trine.runtime.adapters.layout import PROJECTOR, adapted_shapes
from trine.runtime.adapters.peft import SINGLE_TASK, LoraAdapters, PeftAdapters
from trine.runtime.bundle.dtypes import narrow, widen
from trine.runtime.bundle.manifest import AdapterLayout
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.bundle.safetensors_file import TensorFile
from trine.runtime.errors import BundleError, InputError

__all__ = ["AdapterTensors", "StoredPair", "adapter_from_peft", "open_adapter", "read_adapter"]

#: Largest finite value of the dtypes an adapter is kept in, but for rounding.
MAX_VALUES = {"F16": 65504.0, "BF16": 3.38e38, "F32": math.inf}


@dataclass(frozen=True, slots=True)
class StoredPair:
    """One layer's matrices in the storage dtype of the decoder's inputs.

    Attributes:
        a: [r, in].
        b: [r, out], multiplied by alpha / r.
    """

    a: NDArray[np.generic]
    b: NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class AdapterTensors:
    """One adapter, read and checked.

    Attributes:
        pairs: by short module name; layers that are not adapted are absent.
        dtype: of the arrays, e.g. "BF16" (as uint16 bits).
    """

    pairs: Mapping[str, StoredPair]
    dtype: str

    def stored(self, module: str) -> StoredPair | None:
        """Return a layer's matrices, or None where the adapter leaves it alone."""
        return self.pairs.get(module)

    @property
    def projector_delta(self) -> NDArray[np.float32] | None:
        """float32 [projector_dim, hidden], what is added to the projector's weight, or None."""
        pair = self.pairs.get(PROJECTOR)
        if pair is None:
            return None
        return widen(pair.b, self.dtype).T @ widen(pair.a, self.dtype)


def read_adapter(
    folder: Path, model: ModelConfig, layout: AdapterLayout, name: str, task: str | None
) -> AdapterTensors:
    """Return one adapter of a PEFT folder.

    Args:
        folder: of PEFT's two files.
        model: the model it adapts.
        layout: rank and dtype of the decoder's inputs.
        name: it will have.
        task: which of the folder's adapters; None for its only one, else the one called `name`.

    Raises:
        CheckpointError: the files are damaged or not supported.
        InputError: the folder has no such task, or the rank is too large.
    """
    peft = PeftAdapters(folder, model, None)
    tasks = peft.tasks
    chosen = task if task is not None else (tasks[0] if len(tasks) == 1 else name)
    if chosen not in tasks:
        shown = "one without a name" if tasks == (SINGLE_TASK,) else str(list(tasks))
        raise InputError(f"{folder}: has no adapter {chosen!r}; it has {shown}")
    return adapter_from_peft(peft, chosen, layout)


def adapter_from_peft(peft: LoraAdapters, task: str, layout: AdapterLayout) -> AdapterTensors:
    """Return a task's adapter in the layout's dtype (rounded, if that is narrower than its own).

    Raises:
        InputError: a layer's rank is larger than the layout's.
        CheckpointError: a value is not finite.
    """
    pairs = {}
    for module in peft.modules(task):
        if (rank := peft.rank(module, task)) > layout.max_rank:
            raise InputError(
                f"{peft.files[1]}: {module} has rank {rank}, this bundle takes up to "
                f"{layout.max_rank}; export it again with --max-rank {rank}"
            )
        pair = peft.pair(module, task)
        if pair is not None:
            largest = max(float(abs(half).max(initial=0.0)) for half in (pair.a, pair.b))
            if largest > MAX_VALUES[layout.dtype]:
                raise InputError(
                    f"{peft.files[1]}: {module} has a value of {largest:.3g}, more than this "
                    f"bundle's {layout.dtype} adapters hold; export it with a float32 adapter"
                )
            pairs[module] = StoredPair(narrow(pair.a, layout.dtype), narrow(pair.b.T, layout.dtype))
    return AdapterTensors(pairs, layout.dtype)


def open_adapter(path: Path, model: ModelConfig, layout: AdapterLayout) -> AdapterTensors:
    """Return the adapter in a file of a bundle, its arrays mapped from the file.

    Raises:
        BundleError: the file is damaged, or its tensors do not fit the model and the layout.
    """
    file = TensorFile(path, BundleError)
    pairs = {}
    shapes = adapted_shapes(model)
    known = {f"{module}.{half}" for module in shapes for half in "ab"}
    problems = [f"{name} is unknown" for name in file.tensors if name not in known]
    for module, (num_out, num_in) in shapes.items():
        halves = [file.tensors.get(f"{module}.{half}") for half in "ab"]
        if halves == [None, None]:
            continue
        for half, info, width in zip("ab", halves, (num_in, num_out), strict=True):
            if (
                info is None
                or info.dtype != layout.dtype
                or len(info.shape) != 2
                or info.shape[0] > layout.max_rank
                or info.shape[1] != width
            ):
                shown = "missing" if info is None else f"{info.dtype} {list(info.shape)}"
                problems.append(f"{module}.{half} is {shown}")
        if len({info.shape[:1] for info in halves if info is not None}) > 1:
            problems.append(f"{module}.a and .b have different ranks")
        if not problems:
            pairs[module] = StoredPair(file.stored(f"{module}.a"), file.stored(f"{module}.b"))
    if problems:
        raise BundleError(
            f"{path}: {len(problems)} tensors do not fit: {'; '.join(problems[:4])}; "
            "add the adapter again with `trine adapters add`"
        )
    return AdapterTensors(pairs, layout.dtype)
