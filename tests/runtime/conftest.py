"""Adapters in PEFT's files, made for tests of this folder."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from trine.export.checkpoint_config import read_model_config
from trine.export.tensor_writer import entry_from_array, write_safetensors
from trine.runtime.lora_layout import PROJECTOR, adapted_shapes
from trine.runtime.tensor_file import narrow

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "checkpoint"
#: A and B of each adapted layer.
Matrices = dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]


def _random_adapter(rank: int, seed: int, *ends: str) -> Matrices:
    """Return an adapter of the golden checkpoint's layers with one of `ends`, or of all layers."""
    source = np.random.default_rng(seed)
    return {
        module: (
            (source.standard_normal((rank, num_in)) / num_in**0.5).astype(np.float32),
            (source.standard_normal((num_out, rank)) * 0.3 / rank**0.5).astype(np.float32),
        )
        for module, (num_out, num_in) in adapted_shapes(read_model_config(GOLDEN)).items()
        if not ends or module.endswith(ends)
    }


def _write_peft(
    folder: Path,
    *adapters: tuple[str, Matrices],
    prefix: str = "base_model.model.model.language_model.",
    dtype: str = "BF16",
    **config: object,
) -> Path:
    """Write adapters, each with what follows `lora_A`, into a PEFT folder; alpha is twice r."""
    folder.mkdir()
    rank = len(next(iter(adapters[0][1].values()))[0])
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none"} | config
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    entries = []
    for suffix, matrices in adapters:
        for module, pair in matrices.items():
            start = "base_model.model." if module == PROJECTOR else prefix
            for half, array in zip("AB", pair, strict=True):
                name = f"{start}{module}.lora_{half}{suffix}.weight"
                entries.append(entry_from_array(name, narrow(array, dtype), dtype))
    write_safetensors(folder / "adapter_model.safetensors", entries, {"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def random_adapter() -> Callable[..., Matrices]:
    """Makes float32 matrices for the golden checkpoint of (rank, seed, ends of layers' names)."""
    return _random_adapter


@pytest.fixture(scope="session")
def write_peft() -> Callable[..., Path]:
    """Writes (folder, (suffix, matrices) …, prefix, dtype, settings) and returns the folder."""
    return _write_peft
