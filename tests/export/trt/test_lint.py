"""The lint's verdict is the builder's, but for what the builder accepts silently."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trine.export.trt.build_worker import build
from trine.export.trt.lint import lint_file, lint_model
from trine.export.trt.lint_graph import Finding

FLOAT, HALF, INT8, INT4, FP8 = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT8,
    TensorProto.INT4,
    TensorProto.FLOAT8E4M3FN,
)
WIDTH = 64


def _model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[int]]],
    constants: dict[str, np.ndarray],
    fp8: dict[str, list[int]] | None = None,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    for name, shape in (fp8 or {}).items():
        zeros = bytes(int(np.prod(shape)))
        tensors.append(helper.make_tensor(name, FP8, shape, zeros, raw=True))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info("y", HALF, None)],
        tensors,
    )
    imports = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=11)


def _product(
    *,
    axis: int = 1,
    scales: int = WIDTH,
    zero: int = 0,
    stored: type = np.int8,
    quantised_input: bool = True,
) -> onnx.ModelProto:
    """Return x · W with 8-bit weights."""
    source = np.random.default_rng(0)
    constants = {
        "step": np.array(0.1, np.float16),
        "zero": np.array(zero, stored),
        "w": source.integers(0, 100, (WIDTH, WIDTH)).astype(np.int8),
        "w_scale": np.full(scales, 0.01, np.float16) if scales > 1 else np.array(0.01, np.float16),
        "w_zero": np.zeros(scales if scales > 1 else (), np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["dq"], "dq"),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wd"], "wd", axis=axis),
        helper.make_node("MatMul", ["dq" if quantised_input else "x", "wd"], ["y"], "product"),
    ]
    kept = nodes if quantised_input else nodes[2:]
    return _model(kept, {"x": (HALF, [8, WIDTH])}, constants)


def _attention(
    *, kind: int = HALF, size: int = 64, mask: bool = False, causal: int = 0, **attributes: float
) -> onnx.ModelProto:
    names = ["x", "k", "v", "m"] if mask else ["x", "k", "v"]
    inputs = {name: (kind, [1, 2, 16, size]) for name in ("x", "k", "v")}
    if mask:
        inputs["m"] = (TensorProto.BOOL, [1, 1, 1, 16])
    node = helper.make_node("Attention", names, ["a"], "a", is_causal=causal, **attributes)
    return _model([node, helper.make_node("Cast", ["a"], ["y"], "c", to=HALF)], inputs, {})


def _fp8() -> onnx.ModelProto:
    constants = {"step": np.array(0.1, np.float16), "w_scale": np.full(WIDTH, 0.1, np.float16)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["dq"], "dq"),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wd"], "wd", axis=1),
        helper.make_node("MatMul", ["dq", "wd"], ["y"], "product"),
    ]
    narrow = {"zero": [], "w": [WIDTH, WIDTH], "w_zero": [WIDTH]}
    return _model(nodes, {"x": (HALF, [8, WIDTH])}, constants, narrow)


def _four_bits(
    *, block: int = 64, axis: int = 0, num_in: int = 256, activation: bool = False
) -> onnx.ModelProto:
    """Return x · W with 4-bit weights, blocks of them along `axis`."""
    shape = [num_in, 256]
    scales = [size // block if place == axis else size for place, size in enumerate(shape)]
    tensors = [
        helper.make_tensor("w", INT4, shape, bytes(num_in * 128), raw=True),
        numpy_helper.from_array(np.full(scales, 0.01, np.float16), "w_scale"),
        numpy_helper.from_array(np.array(0.1, np.float16), "step"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step"], ["q"], "q", output_dtype=INT4),
        helper.make_node("DequantizeLinear", ["q", "step"], ["dq"], "dq"),
        helper.make_node(
            "DequantizeLinear", ["w", "w_scale"], ["wd"], "wd", axis=axis, block_size=block
        ),
        helper.make_node("MatMul", ["dq" if activation else "x", "wd"], ["y"], "product"),
    ]
    kept = nodes if activation else nodes[2:]
    model = _model(kept, {"x": (HALF, [8, num_in])}, {})
    model.graph.initializer.extend(tensors if activation else tensors[:2])
    return model


def _mixed_types() -> onnx.ModelProto:
    weight = {"w": np.ones((WIDTH, WIDTH), np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "product"),
        helper.make_node("Cast", ["a"], ["y"], "c", to=HALF),
    ]
    return _model(nodes, {"x": (HALF, [8, WIDTH])}, weight)


def _plain(op_type: str, domain: str = "") -> onnx.ModelProto:
    node = helper.make_node(op_type, ["x"], ["n"], "odd", domain=domain)
    cast = helper.make_node("Cast", ["n"], ["y"], "c", to=HALF)
    return _model([node, cast], {"x": (HALF, [8, WIDTH])}, {})


#: (graph, SM, rule that is broken or None, whether the builder accepts it)
CASES: dict[str, tuple[Callable[[], onnx.ModelProto], int, str | None, bool]] = {
    "int8": (_product, 86, None, True),
    "int8, one scale": (lambda: _product(scales=1), 86, None, True),
    "int8, scales of inputs": (lambda: _product(axis=0), 86, "weight-axis", True),
    "int8, weight only": (lambda: _product(quantised_input=False), 86, "weight-only", True),
    "a zero point": (lambda: _product(zero=3), 86, "zero-point", False),
    "unsigned, no shift": (lambda: _product(stored=np.uint8), 86, "quantised-type", True),
    "unsigned, shift": (lambda: _product(stored=np.uint8, zero=128), 86, "zero-point", False),
    "fp8 on SM 86": (_fp8, 86, "fp8-hardware", False),
    "fp8 on SM 89": (_fp8, 89, None, True),
    "int4, blocks of 64": (_four_bits, 86, None, True),
    "int4, blocks of 128": (lambda: _four_bits(block=128), 86, None, True),
    "int4, blocks of 32": (lambda: _four_bits(block=32), 86, "int4-block", True),
    "int4, blocks that do not fit": (
        lambda: _four_bits(block=128, num_in=192),
        86,
        "int4-block",
        True,
    ),
    "int4, blocks of outputs": (lambda: _four_bits(axis=1), 86, "int4-axis", True),
    "int4, activation": (lambda: _four_bits(activation=True), 86, "int4-activation", True),
    "attention": (_attention, 86, None, True),
    "attention, causal": (lambda: _attention(causal=1), 86, None, True),
    "attention, mask": (lambda: _attention(mask=True), 86, None, True),
    "attention, mask and causal": (
        lambda: _attention(mask=True, causal=1),
        86,
        "attention-mask",
        False,
    ),
    "attention, float32": (lambda: _attention(kind=FLOAT), 86, "attention-type", False),
    "attention, heads of 512": (lambda: _attention(size=512), 86, "attention-heads", False),
    "attention, softcap": (lambda: _attention(softcap=3.0), 86, "attention-form", False),
    "mixed types": (_mixed_types, 86, "types", False),
    "NonZero": (lambda: _plain("NonZero"), 86, "operator", False),
    "another domain": (lambda: _plain("QuickGelu", "com.microsoft"), 86, "domain", False),
}


@pytest.mark.parametrize("case", CASES)
def test_each_rule_is_found_where_it_is_broken_and_only_there(case: str) -> None:
    make, sm, rule, accepted = CASES[case]
    found = lint_model(make(), [sm])
    rules = {finding.rule for finding in found}
    assert rules == set() if rule is None else rule in rules, found
    assert all(finding.silent for finding in found) == accepted, found


@pytest.mark.parametrize("case", CASES)
def test_the_verdict_is_the_builders(case: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")
    make, sm, _, _ = CASES[case]
    model = make()
    graph = tmp_path / "small.onnx"
    onnx.save(model, graph)
    request = {
        "builder": "tensorrt_rtx",
        "graph": str(graph),
        "engine": str(tmp_path / "engine"),
        "sms": [sm],
        "workspace_bytes": None,
        "profiles": [],
    }
    report = build(json.loads(json.dumps(request)))
    silent = all(finding.silent for finding in lint_file(graph, [sm]))
    assert report["built"] == silent, report["messages"]


def test_a_finding_says_what_to_do() -> None:
    (found,) = lint_model(_product(axis=0), [86])
    assert isinstance(found, Finding)
    assert str(found) == (
        "product: the scales of its weight follow axis 0, which is the input; "
        "give each output channel a scale: axis 1"
    )
