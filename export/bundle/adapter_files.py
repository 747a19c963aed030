"""Writes the adapters kept beside a decoder: in the bundle's own files, and in ONNX Runtime's."""

import math
from pathlib import Path

from trine.export.bundle.safetensors_writer import entry_from_array, write_safetensors
from trine.runtime.adapters.file import AdapterTensors, adapter_from_peft
from trine.runtime.adapters.peft import LoraAdapters
from trine.runtime.adapters.projector import Projector
from trine.runtime.adapters.store import AdapterBank
from trine.runtime.bundle.manifest import AdapterLayout, AdapterMode
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.errors import InputError

__all__ = [
    "adapter_path",
    "choose_layout",
    "write_adapter",
    "write_adapters",
    "write_onnx_adapters",
]

#: Largest rank a decoder is made for without need: address space is kept for every rank.
MOST_RANKS = 4096


def adapter_path(name: str) -> str:
    """Return where an adapter lies in a bundle."""
    return f"adapters/{name}.safetensors"


def choose_layout(
    adapters: LoraAdapters, tasks: tuple[str, ...], mode: AdapterMode, max_rank: int | None
) -> AdapterLayout:
    """Return the form in which a decoder takes these adapters, and their files unless merged.

    They keep the dtype of their file where multiplying B by alpha / r is exact in it, that is by a
    power of two, and are float32 otherwise.

    Args:
        adapters: of the checkpoint.
        tasks: to keep.
        mode: in which the decoders have them.
        max_rank: wished for; None for the largest there is.

    Raises:
        InputError: an adapter has a larger rank than wished for, or the rank is beyond all use.
    """
    pairs = {(module, task) for task in tasks for module in adapters.modules(task)}
    # One that is merged into the weights has no layers; others may be loaded beside it.
    largest = max((adapters.rank(module, task) for module, task in pairs), default=1)
    if max_rank is not None and max_rank < largest:
        raise InputError(
            f"max_rank is {max_rank}, but the checkpoint's adapters have rank {largest}; "
            f"give at least {largest}"
        )
    if max_rank is not None and max_rank > max(largest, MOST_RANKS):
        raise InputError(f"max_rank is {max_rank}; give at most {max(largest, MOST_RANKS)}")
    dtypes = {adapters.dtype(task) for task in tasks}
    dtype = dtypes.pop() if len(dtypes) == 1 else "F32"
    exact = all(math.frexp(adapters.scaling(*pair))[0] == 0.5 for pair in pairs)
    return AdapterLayout(
        max_rank=max_rank or largest,
        dtype="BF16" if dtype == "BF16" and exact else "F16" if dtype == "F16" and exact else "F32",
        files={} if mode == "merged" else {task: adapter_path(task) for task in tasks},
    )


def write_adapters(adapters: LoraAdapters, layout: AdapterLayout, folder: Path) -> None:
    """Write each adapter of `layout` into the bundle in `folder`.

    Raises:
        CheckpointError: a value is not finite.
    """
    (folder / "adapters").mkdir()
    for task, name in layout.files.items():
        write_adapter(adapter_from_peft(adapters, task, layout), folder / name)


def write_adapter(tensors: AdapterTensors, path: Path) -> None:
    """Write one adapter as a bundle's own file (`trine.runtime.adapters.file`)."""
    entries = [
        entry_from_array(f"{module}.{half}", array, tensors.dtype)
        for module, pair in tensors.pairs.items()
        for half, array in (("a", pair.a), ("b", pair.b))
    ]
    write_safetensors(path, entries, {})


def write_onnx_adapters(
    adapters: LoraAdapters, layout: AdapterLayout, model: ModelConfig, folder: Path
) -> None:
    """Write each adapter of `layout` in ONNX Runtime's format, beside the bundle's own file.

    Such a file holds the decoder's inputs `<group>.lora_a` and `.lora_b` of one adapter, for a
    session outside this project: `RunOptions.add_active_adapter`, with `lora_mask` and
    `lora_mask_qkv` all true.
    """
    import numpy as np

    from trine.runtime.engines.ort.decoders import ONNX_TYPES
    from trine.runtime.libraries import import_onnxruntime

    onnxruntime = import_onnxruntime()
    make = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type
    base = np.zeros((model.projector_dim, model.decoder.hidden_size), np.float32)
    for task, name in layout.files.items():
        bank = AdapterBank(model, layout, Projector(base, base[:, 0]))
        bank.add(task, adapter_from_peft(adapters, task, layout))
        values = {
            key: make(array, ONNX_TYPES[layout.dtype])
            for key, array in bank.view([0]).arrays.items()
        }
        file = onnxruntime.AdapterFormat()
        file.set_adapter_version(1)
        file.set_model_version(1)
        file.set_parameters(values)
        file.export_adapter(str((folder / name).with_suffix(".onnx_adapter")))
