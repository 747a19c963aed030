"""Adapters in PEFT's files, and bundles in 8 bits, made for tests of this folder."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from trine.export.bundle.safetensors_writer import entry_from_array, write_safetensors
from trine.export.checkpoint.config import read_model_config
from trine.export.export import export_checkpoint
from trine.export.graphs.ort.linears import GraphPlan
from trine.export.options import ExportOptions
from trine.export.quantisation.engine_making import EngineMaker
from trine.export.quantisation.mixed_plan import FLOAT32
from trine.export.quantisation.plan_refinement import RefinedPlan
from trine.export.quantisation.precision_plan import EnginePlan, plan_engine, with_wider
from trine.runtime.adapters.layout import PROJECTOR, adapted_shapes
from trine.runtime.bundle.dtypes import narrow

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


#: Input channels that are multiplied in float32: alike and unlike ones of gate and up, those of
#: down, which are computed apart, and those of attention.
DECODER_OUTLIERS = {
    "layers.0.self_attn.qkv": [3, 17, 100],
    "layers.0.self_attn.o": [0, 255],
    "layers.0.mlp.gate": [5, 6],
    "layers.0.mlp.up": [5, 6],
    "layers.0.mlp.down": [1, 2, 700],
    "layers.1.mlp.gate": [9],
    "layers.1.mlp.down": [4],
    "layers.2.mlp.down": [8, 9],
}
DECODER_WIDE = ("layers.2.mlp.gate", "layers.3.mlp.down", "layers.3.self_attn.qkv")
VISION_OUTLIERS = {
    "blocks.0.attn.qkv": [1, 2],
    "blocks.0.mlp.down_proj": [0, 31],
    "blocks.1.mlp.up_proj": [7],
    "merger.mlp.0": [11],
}
VISION_WIDE = ("blocks.1.mlp.gate_proj", "blocks.1.attn.proj", "patch_embed", "merger.mlp.2")


def _varied(plan: GraphPlan, outliers: dict[str, list[int]], wide: tuple[str, ...]) -> GraphPlan:
    channels = {name: np.array(found, np.int64) for name, found in outliers.items()}
    planned = GraphPlan(precision=plan.precision, float32_inputs=channels)
    return with_wider(planned, dict.fromkeys(wide, "to show it"), FLOAT32)


def varied_plan() -> RefinedPlan:
    """Return a plan of nano with layers of every form."""
    plan = plan_engine("int8", {})
    return RefinedPlan(
        EnginePlan(
            vision=_varied(plan.vision, VISION_OUTLIERS, VISION_WIDE),
            decoder=_varied(plan.decoder, DECODER_OUTLIERS, DECODER_WIDE),
        ),
        None,
    )


@pytest.fixture(scope="session")
def int8_bundle(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Literal["merged", "runtime"]], Path]:
    """Makes a bundle of nano in 8 bits by `varied_plan`, once for each kind of adapters."""
    made: dict[str, Path] = {}

    def make(adapters: Literal["merged", "runtime"]) -> Path:
        if adapters not in made:
            folder = tmp_path_factory.mktemp("int8") / adapters
            options = ExportOptions(
                source="nano", bundle=folder, adapters=adapters, precisions=("int8",), check=False
            )
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(EngineMaker, "plan", lambda *_: varied_plan())
                export_checkpoint(options, io.StringIO())
            made[adapters] = folder
        return made[adapters]

    return make


@pytest.fixture(scope="session")
def bf16_bundle(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Literal["merged", "runtime"]], Path]:
    """Makes a bundle of nano in bfloat16, once for each kind of adapters."""
    made: dict[str, Path] = {}

    def make(adapters: Literal["merged", "runtime"]) -> Path:
        if adapters not in made:
            folder = tmp_path_factory.mktemp("bf16") / adapters
            options = ExportOptions(
                source="nano", bundle=folder, adapters=adapters, precisions=("bf16",), check=False
            )
            export_checkpoint(options, io.StringIO())
            made[adapters] = folder
        return made[adapters]

    return make
