"""Memory that runs of the published widths take beside the weights, as the real builder has it."""

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from trine.export.commands.build import DEFAULT_BUCKETS
from trine.export.graphs.builder import Weight, save_graph
from trine.export.graphs.trt.decoder import build_trt_decoder
from trine.export.graphs.trt.precision import Quantisation, uniform_plan
from trine.export.graphs.trt.vision import build_trt_vision
from trine.export.sample.config import sample_model
from trine.export.sample.spec import SampleSpec
from trine.export.trt.build_spec import BuildSpec, DecoderBucket, parse_buckets
from trine.export.trt.engine_build import build_engine

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="the extra tensorrt-rtx is not installed",
)
#: The most that an image of 16,384 patches may take, and a pass of 8 texts of 2,048 tokens.
MOST_BYTES = 320 << 20
PUBLISHED = sample_model(SampleSpec.full())
#: One block with windows and one without.
VISION = dataclasses.replace(PUBLISHED.vision, depth=2, full_attention_blocks=(1,))
DECODER = dataclasses.replace(PUBLISHED.decoder, num_layers=1)
BLOCK = ("attn.qkv", "attn.proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


class ZeroVision:
    """A checkpoint of the vision tower whose weights are zeros."""

    def info(self, name: str) -> Any:
        hidden, inner, merged = VISION.hidden_size, VISION.intermediate_size, 4 * VISION.hidden_size
        shapes = {
            "attn.qkv": (3 * hidden, hidden),
            "attn.proj": (hidden, hidden),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
            "merger.mlp.0": (merged, merged),
            "merger.mlp.2": (VISION.out_hidden_size, merged),
            "patch_embed.proj": (hidden, VISION.patch_features),
        }
        layer, _, kind = name.rpartition(".")
        found = next((shape for end, shape in shapes.items() if layer.endswith(end)), (hidden,))
        return SimpleNamespace(shape=found if kind == "weight" else found[:1])

    def float32(self, name: str) -> np.ndarray:
        return np.zeros(self.info(name).shape, np.float32)


class ZeroDecoder:
    """The decoder's weights, zeros."""

    def linear(self, name: str, modules: Sequence[str]) -> Weight:
        hidden, inner = DECODER.hidden_size, DECODER.intermediate_size
        sizes = {"qkv": (hidden, 2560), "o": (hidden, hidden), "down": (inner, hidden)}
        return _zeros(f"{name}.weight", sizes.get(name.rpartition(".")[2], (hidden, inner)))

    def bias(self, name: str, modules: Sequence[str]) -> Weight:
        return _zeros(f"{name}.bias", (2560,))

    def vector(self, name: str) -> Weight:
        return _zeros(name, (DECODER.hidden_size,))


def _zeros(name: str, shape: tuple[int, ...]) -> Weight:
    return Weight(name, shape, lambda: np.zeros(shape, np.float32))


def _scratch(model: ir.Model, kind: Any, buckets: str, folder: Path) -> tuple[int, ...]:
    """Return the memory of each bucket, in the order of `parse_buckets`."""
    graph = folder / f"{kind}.onnx"
    save_graph(model, graph, lambda _: None)
    decoder, vision = parse_buckets(buckets)
    spec = BuildSpec(builder="tensorrt_rtx", sms=(89,), decoder=decoder, vision=vision, max_rank=32)
    record, _ = build_engine(graph, kind, spec, VISION, folder / "built")
    return record.scratch_bytes


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_image_of_16384_patches(tmp_path: Path, precision: str) -> None:
    layers = [f"blocks.{block}.{role}" for block in range(VISION.depth) for role in BLOCK]
    quantised = {
        name: Quantisation(kind="int8", input_max=8.0, rotated=name.endswith("down_proj"))
        for name in layers
        if precision == "int8"
    }
    model = build_trt_vision(VISION, ZeroVision(), uniform_plan("bf16", quantised))  # type: ignore[arg-type]
    (found,) = _scratch(model, "vision", "image=16384x1", tmp_path)
    print(f"{precision}: {found / 2**20:.1f} MiB")
    assert found <= MOST_BYTES


def test_passes_of_8_texts_of_2048_tokens(tmp_path: Path) -> None:
    model = build_trt_decoder(DECODER, ZeroDecoder(), uniform_plan("bf16"))  # type: ignore[arg-type]
    buckets, _ = parse_buckets(DEFAULT_BUCKETS)
    found = dict(zip(buckets, _scratch(model, "decoder", DEFAULT_BUCKETS, tmp_path), strict=True))
    # No run of many sequences goes to a larger bucket (test_build_spec.py).
    passes = [size for bucket, size in found.items() if bucket.tokens <= 2048]
    print([f"{size / 2**20:.1f} MiB" for size in passes])
    assert DecoderBucket(2048, 2, 2048) in found
    assert max(passes) <= MOST_BYTES
