"""The lint's rules for Q/DQ pairs, several of which the builder does not check."""

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import TensorProto

from trine.export.trt.lint_graph import Finding, LintGraph, attribute

__all__ = ["quantisation_findings"]

#: Types with symmetric quantisation in TensorRT.
STORED = (TensorProto.INT8, TensorProto.FLOAT8E4M3FN, TensorProto.INT4)
#: First compute capability with 8-bit floating-point products.
FP8_SM = 89
#: Blocks of inputs that TensorRT documents for 4-bit weights.
INT4_BLOCKS = (64, 128)
PRODUCTS = ("MatMul", "Gemm")


def quantisation_findings(graph: LintGraph, sms: Sequence[int]) -> Iterator[Finding]:
    """Yield what is wrong with the Q/DQ pairs of a graph built for `sms`."""
    old = [sm for sm in sms if sm < FP8_SM]
    for node in graph.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            yield from _node_findings(graph, node)
            if old and _stored_type(graph, node) == TensorProto.FLOAT8E4M3FN:
                yield Finding(
                    rule="fp8-hardware",
                    node=node.name,
                    sentence=f"SM {', '.join(map(str, old))} has no FP8",
                    remedy=f"build for SM {FP8_SM} and later, or quantise to INT8",
                )
        elif node.op_type in PRODUCTS:
            yield from _product_findings(graph, node)


def _stored_type(graph: LintGraph, node: onnx.NodeProto) -> int:
    name = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
    return graph.types.get(name, TensorProto.UNDEFINED)


def _node_findings(graph: LintGraph, node: onnx.NodeProto) -> Iterator[Finding]:
    stored = _stored_type(graph, node)
    if stored not in STORED:
        yield Finding(
            rule="quantised-type",
            node=node.name,
            sentence=f"quantises to {TensorProto.DataType.Name(stored).lower()}",
            remedy="quantise to int8, float8e4m3fn or, weights only, int4",
            # Unsigned integers whose zero point is 0 are read as if they were signed.
            silent=stored == TensorProto.UINT8 and not _shifted(graph, node),
        )
    if _shifted(graph, node):
        yield Finding(
            rule="zero-point",
            node=node.name,
            sentence="has a zero point that is not 0",
            remedy="quantise symmetrically",
        )
    if node.op_type == "QuantizeLinear":
        if stored == TensorProto.INT4:
            yield Finding(
                rule="int4-activation",
                node=node.name,
                sentence="quantises an activation to 4 bits",
                remedy="quantise weights alone to int4",
                silent=True,
            )
        shape = graph.shape(node.input[1])
        if shape is not None and int(np.prod([d or 1 for d in shape])) != 1:
            yield Finding(
                rule="activation-scale",
                node=node.name,
                sentence=f"quantises an activation with scales of shape {list(shape)}",
                remedy="give the whole tensor one scale",
                silent=True,
            )
        if node.input[1] not in graph.initializers:
            yield Finding(
                rule="dynamic-scale",
                node=node.name,
                sentence="has a scale that is computed",
                remedy="calibrate, and store the scale in the graph",
            )
    elif stored == TensorProto.INT4 and attribute(node, "block_size", 0) not in INT4_BLOCKS:
        yield Finding(
            rule="int4-block",
            node=node.name,
            sentence=f"has blocks of {attribute(node, 'block_size', 0)} inputs",
            remedy=f"use blocks of {INT4_BLOCKS[0]} or {INT4_BLOCKS[1]}",
            silent=True,
        )


def _shifted(graph: LintGraph, node: onnx.NodeProto) -> bool:
    zero = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    return zero is not None and bool(np.any(zero.astype(np.float32) != 0))


def _product_findings(graph: LintGraph, node: onnx.NodeProto) -> Iterator[Finding]:
    source, transposed = graph.producers.get(node.input[1]), False
    if node.op_type == "Gemm":
        transposed = bool(attribute(node, "transB", 0))
    if source is not None and source.op_type == "Transpose":
        source, transposed = graph.producers.get(source.input[0]), not transposed
    quantised_input = _dequantised(graph, node.input[0])
    if source is None or source.op_type != "DequantizeLinear":
        if quantised_input:
            yield Finding(
                rule="activation-only",
                node=node.name,
                sentence="has a quantised input and a weight that is not",
                remedy="quantise both, or neither",
                silent=True,
                kind="warning",
            )
        return
    stored = _stored_type(graph, source)
    if stored == TensorProto.INT4:
        yield from _block_findings(graph, node, source, 1 if transposed else 0)
        return
    if not quantised_input:
        yield Finding(
            rule="weight-only",
            node=node.name,
            sentence="has an 8-bit weight and an input that is not quantised: no 8-bit product",
            remedy="put a Q/DQ pair before its input",
            silent=True,
            kind="warning",
        )
    yield from _axis_findings(graph, node, source, 0 if transposed else 1)


def _axis_findings(
    graph: LintGraph, product: onnx.NodeProto, weight: onnx.NodeProto, out_axis: int
) -> Iterator[Finding]:
    scales = graph.shape(weight.input[1])
    if scales is None or int(np.prod([d or 1 for d in scales])) == 1:
        return
    axis = attribute(weight, "axis", 1)
    if axis % 2 != out_axis:
        yield Finding(
            rule="weight-axis",
            node=product.name,
            sentence=f"the scales of its weight follow axis {axis}, which is the input",
            remedy=f"give each output channel a scale: axis {out_axis}",
            silent=True,
        )


def _block_findings(
    graph: LintGraph, product: onnx.NodeProto, weight: onnx.NodeProto, in_axis: int
) -> Iterator[Finding]:
    """Yield what is wrong with a 4-bit weight: blocks are of inputs, and divide their number."""
    axis, block = attribute(weight, "axis", 1) % 2, attribute(weight, "block_size", 0)
    shape = graph.shape(weight.input[0])
    if axis != in_axis:
        yield Finding(
            rule="int4-axis",
            node=product.name,
            sentence=f"the blocks of its weight follow axis {axis}, which is the output",
            remedy=f"give each block of inputs a scale: axis {in_axis}",
            silent=True,
        )
    if shape is not None and block and (shape[axis] or 0) % block:
        yield Finding(
            rule="int4-block",
            node=product.name,
            sentence=f"its weight's {shape[axis]} channels are no multiple of blocks of {block}",
            remedy="choose another block, or leave the layer in 16 bits",
            silent=True,  # the engine has the weight in full
        )


def _dequantised(graph: LintGraph, name: str) -> bool:
    node = graph.producers.get(name)
    return node is not None and node.op_type == "DequantizeLinear"
