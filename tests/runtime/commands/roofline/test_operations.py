"""Counted operations against the exported graphs, and against sums done by hand."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trine.runtime.adapters.layout import adapted_shapes
from trine.runtime.bundle.bundle import Bundle, open_bundle
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.commands.roofline.stages import (
    Stage,
    image_grid,
    image_stages,
    image_tokens,
    text_stages,
)
from trine.runtime.preprocessing.image_processor import ImagePatches, patch_format
from trine.runtime.preprocessing.vision_inputs import lay_out_images, pad_layout

onnx = pytest.importorskip("onnx", reason="needs the `export` extra")


@pytest.fixture(scope="module")
def bundle(nano_bundle: Path) -> Bundle:
    return open_bundle(nano_bundle)


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> ModelConfig:
    return bundle.manifest.model


def operations(stages: tuple[Stage, ...], kind: str, prefix: str) -> int:
    return sum(s.operations for s in stages if s.kind == kind and s.name.startswith(prefix))


def run_products(path: Path, feeds: dict[str, Any]) -> Iterator[tuple[tuple[int, ...], int]]:
    """Run a graph; yield the shape of every MatMul's and Gemm's result with its inner dimension."""
    import onnxruntime

    graph = onnx.load(path, load_external_data=False)
    nodes = [node for node in graph.graph.node if node.op_type in ("MatMul", "Gemm")]
    inner = {
        node.output[0]: next(t.dims[0] for t in graph.graph.initializer if t.name == node.input[1])
        for node in nodes
    }
    known = {output.name for output in graph.graph.output}
    graph.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in inner
        if name not in known
    )
    copy = path.with_name("all-outputs-of-" + path.name)
    onnx.save(graph, copy)
    options = onnxruntime.SessionOptions()
    # A fused node would hide the product in it.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(copy, options, providers=["CPUExecutionProvider"])
    for name, result in zip(inner, session.run(list(inner), feeds), strict=True):
        yield result.shape, inner[name]


@pytest.fixture
def products(bundle: Bundle, tmp_path: Path) -> Callable[[str, dict[str, Any]], int]:
    """Counts 2·m·k·n over the products that a graph of the bundle really runs."""

    def count(name: str, feeds: dict[str, Any]) -> int:
        for suffix in (".onnx", ".data"):
            source = bundle.path(name).with_suffix(suffix)
            (tmp_path / source.name).hardlink_to(source)
        place = tmp_path / Path(name).name
        return sum(2 * int(np.prod(shape)) * k for shape, k in run_products(place, feeds))

    return count


def test_linear_operations_of_a_text_are_the_graphs(
    bundle: Bundle, model: ModelConfig, products: Callable[[str, dict[str, Any]], int]
) -> None:
    lengths = np.array([7, 12, 1])
    tokens, half = int(lengths.sum()), model.decoder.head_dim // 2
    pad_index, unpad_index = pad_layout(lengths)
    source = np.random.default_rng(0)
    feeds = {
        "embeddings": source.standard_normal((tokens, model.decoder.hidden_size), np.float32),
        "rope_cos": np.ones((tokens, half), np.float32),
        "rope_sin": np.zeros((tokens, half), np.float32),
        "pad_index": pad_index,
        "unpad_index": unpad_index,
        "last_index": (lengths - 1).astype(np.int32),
        "padded_length": np.array(pad_index.shape[1], np.int32),
    }
    (path, *_) = bundle.manifest.engines[0].decoders.values()
    expected = operations(text_stages(model, lengths.tolist()), "linear", "decoder")
    assert products(path, feeds) == expected


def black_image(model: ModelConfig, grid: tuple[int, int]) -> ImagePatches:
    size = model.vision.patch_size
    pixels = np.zeros((grid[0] * size, grid[1] * size, 3), np.uint8)
    return ImagePatches(pixels, patch_format(model.image, model.vision))


def test_linear_operations_of_a_image_are_the_graphs(
    bundle: Bundle, model: ModelConfig, products: Callable[[str, dict[str, Any]], int]
) -> None:
    merge = model.vision.spatial_merge_size
    grid = (6 * merge, 5 * merge)
    inputs = lay_out_images([black_image(model, grid)] * 2, model.vision)
    feeds = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
    stages = image_stages(model, grid, 2, scaffold_tokens=11)
    expected = operations(stages, "linear", "vision")
    assert products(bundle.manifest.engines[0].vision, feeds) == expected


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_causal_attention_counts_the_pairs_it_needs(model: ModelConfig, lengths: list[int]) -> None:
    pairs = sum(1 for length in lengths for q in range(length) for k in range(length) if k <= q)
    decoder = model.decoder
    # A score and a weighted sum a pair and head: two products of head_dim additions each.
    expected = decoder.num_layers * decoder.num_heads * pairs * 2 * 2 * decoder.head_dim
    assert operations(text_stages(model, lengths), "attention", "decoder") == expected


@given(rows=st.integers(1, 20), columns=st.integers(1, 20))
def test_vision_attention_counts_pairs_in_windows_and_in_the_image(
    model: ModelConfig, rows: int, columns: int
) -> None:
    vision = model.vision
    merge = vision.spatial_merge_size
    grid = (rows * merge, columns * merge)
    window_lengths = lay_out_images([black_image(model, grid)], vision).window_lengths
    stages = {s.name: s for s in image_stages(model, grid, 1, scaffold_tokens=11)}
    full = len(vision.full_attention_blocks)
    a_pair = 2 * 2 * vision.hidden_size
    in_windows = sum(int(length) ** 2 for length in window_lengths)
    found = stages["vision attention in windows"].operations
    assert found == (vision.depth - full) * in_windows * a_pair
    found = stages["vision attention over the image"].operations
    assert found == full * (grid[0] * grid[1]) ** 2 * a_pair


def test_adapters_cost_their_matrices(model: ModelConfig) -> None:
    rank, tokens = 4, 10
    stages = {s.name: s for s in text_stages(model, [tokens], lora_rank=rank)}
    values = sum(
        rank * (num_out + num_in)
        for name, (num_out, num_in) in adapted_shapes(model).items()
        if name.startswith("layers.")
    )
    assert stages["adapters"].operations == 2 * tokens * values
    assert stages["adapters"].weights == values
    assert "adapters" not in {s.name for s in text_stages(model, [tokens])}


def test_the_head_is_one_of_two(model: ModelConfig) -> None:
    *_, single = text_stages(model, [3, 5])
    *_, multi = text_stages(model, [3, 5], multi=True)
    hidden, dim = model.decoder.hidden_size, model.projector_dim
    assert (single.operations, single.outputs) == (8 * hidden, 2 * hidden)
    assert (multi.operations, multi.outputs) == (2 * 8 * hidden * dim, 8 * dim)


def test_weights_are_the_models(model: ModelConfig, bundle: Bundle) -> None:
    """All matrices; biases and norms are not counted."""
    graphs = (bundle.manifest.engines[0].vision, *bundle.manifest.engines[0].decoders.values())
    stored = 0
    for path in graphs[:2]:
        graph = onnx.load(bundle.path(path), load_external_data=False).graph
        names = {n.input[1] for n in graph.node if n.op_type in ("MatMul", "Gemm")}
        stored += sum(int(np.prod(t.dims)) for t in graph.initializer if t.name in names)
    stages = image_stages(model, (16, 16), 1, scaffold_tokens=11)
    assert sum(stage.weights for stage in stages) == stored


def test_a_image_is_resized_as_the_model_does(model: ModelConfig) -> None:
    grid = image_grid(model, 3000, 2000)
    unit = model.vision.patch_size
    assert grid[0] * grid[1] * unit**2 <= model.image.max_pixels
    small = replace(model, image=replace(model.image, max_pixels=model.image.min_pixels * 4))
    assert image_tokens(model.vision, image_grid(small, 3000, 2000)) < image_tokens(
        model.vision, grid
    )
