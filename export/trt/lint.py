"""Finds in milliseconds what TensorRT's builder would refuse in minutes, or accept and get wrong.

The rules are those of TensorRT 11 and TensorRT-RTX 1.7: strongly typed networks, fused attention,
explicit symmetric quantisation. Operators and cases that were not tried with the builder are
findings too, so a clean graph is one that is known to build.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
from onnx import TensorProto

from trine.export.trt.lint_graph import Finding, LintGraph, attribute
from trine.export.trt.lint_quantisation import quantisation_findings

__all__ = ["lint_file", "lint_model"]

#: Versions of the standard the parser reads.
OPSETS = range(18, 26)
#: Operators this project's graphs may have, each built with the real builder.
OPERATORS = frozenset(
    (
        "Abs",
        "Add",
        "Attention",
        "Cast",
        "Concat",
        "DequantizeLinear",
        "Gather",
        "Gelu",
        "Gemm",
        "Less",
        "MatMul",
        "Min",
        "Mul",
        "Pad",
        "QuantizeLinear",
        "RMSNormalization",
        "Range",
        "Reshape",
        "RotaryEmbedding",
        "Shape",
        "Sigmoid",
        "Slice",
        "Softmax",
        "Split",
        "Squeeze",
        "Sub",
        "Transpose",
        "Unsqueeze",
        "Where",
    )
)
#: Why the builder refuses some others, which look as if it took them.
REFUSED = {
    "NonZero": "its result's shape depends on data",
    "DynamicQuantizeLinear": "TensorRT quantises with fixed scales only",
    "MatMulInteger": "TensorRT reads integer products from Q/DQ pairs only",
}
#: Operators all of whose operands have one type, by the places of the operands.
SAME_TYPES = {
    "Add": slice(0, 2),
    "Sub": slice(0, 2),
    "Mul": slice(0, 2),
    "Less": slice(0, 2),
    "Min": slice(0, None),
    "MatMul": slice(0, 2),
    "Gemm": slice(0, 3),
    "Where": slice(1, 3),
    "Concat": slice(0, None),
    "Attention": slice(0, 3),
    "RMSNormalization": slice(0, 2),
    "RotaryEmbedding": slice(0, 3),
}
#: Types for which there are fused attention kernels.
ATTENTION_TYPES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
#: Head sizes with fused attention kernels are multiples of the first from the second to the third.
HEAD_STEP, HEAD_MIN, HEAD_MAX = 8, 16, 256
#: Attributes and inputs of Attention that the parser refuses.
ATTENTION_REFUSED = ("softcap", "softmax_precision", "qk_matmul_output_mode")


def lint_file(path: Path, sms: Sequence[int]) -> list[Finding]:
    """Return what is wrong with the graph at `path`; its external data are not read.

    Args:
        path: of the .onnx file.
        sms: compute capabilities the engine is for, e.g. 89.
    """
    return lint_model(onnx.load(path, load_external_data=False), sms)


def lint_model(model: onnx.ModelProto, sms: Sequence[int]) -> list[Finding]:
    """Return what is wrong with a model, in the order of its nodes.

    Args:
        model: with or without its external data.
        sms: compute capabilities the engine is for.
    """
    graph = LintGraph(model)
    found = [*_model_findings(model)]
    for node in graph.nodes:
        found += _operator_findings(node)
        found += _type_findings(graph, node)
        if node.op_type == "Attention":
            found += _attention_findings(graph, node)
    return found + list(quantisation_findings(graph, sms))


def _model_findings(model: onnx.ModelProto) -> Iterator[Finding]:
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version not in OPSETS:
            yield Finding(
                rule="opset",
                node=model.graph.name,
                sentence=f"uses opset {opset.version}",
                remedy=f"write it with opset {OPSETS[0]} to {OPSETS[-1]}",
            )
    for value in model.graph.input:
        if value.type.tensor_type.elem_type == TensorProto.DOUBLE:
            yield Finding(
                rule="double",
                node=value.name,
                sentence="is float64, which becomes float32",
                remedy="declare it as float32",
                silent=True,
            )


def _operator_findings(node: onnx.NodeProto) -> Iterator[Finding]:
    if node.domain not in ("", "ai.onnx"):
        yield Finding(
            rule="domain",
            node=node.name,
            sentence=f"{node.domain}.{node.op_type} is not a standard operator",
            remedy="write it with standard operators",
        )
    elif node.op_type not in OPERATORS:
        why = REFUSED.get(node.op_type, "it was never built")
        yield Finding(
            rule="operator",
            node=node.name,
            sentence=f"{node.op_type} is not among the operators of this dialect: {why}",
            remedy=f"use only {', '.join(sorted(OPERATORS))}",
        )


def _type_findings(graph: LintGraph, node: onnx.NodeProto) -> Iterator[Finding]:
    places = SAME_TYPES.get(node.op_type)
    if places is None or node.domain:
        return
    types = [graph.types.get(name, TensorProto.UNDEFINED) for name in node.input[places] if name]
    if len(set(types)) > 1:
        names = ", ".join(TensorProto.DataType.Name(t).lower() for t in types)
        yield Finding(
            rule="types",
            node=node.name,
            sentence=f"the operands of {node.op_type} are {names}",
            remedy="add a Cast, so that all have one type",
        )


def _attention_findings(graph: LintGraph, node: onnx.NodeProto) -> Iterator[Finding]:
    inputs = list(node.input)
    if (
        any(inputs[4:])
        or len(node.output) > 1
        or any(a.name in ATTENTION_REFUSED for a in node.attribute)
    ):
        yield Finding(
            rule="attention-form",
            node=node.name,
            sentence="Attention has a softcap, a cache, a second output or a softmax precision",
            remedy="keep to queries, keys, values and one mask",
        )
    if len(inputs) > 3 and inputs[3] and attribute(node, "is_causal", 0):
        yield Finding(
            rule="attention-mask",
            node=node.name,
            sentence="Attention has a mask and is_causal",
            remedy="put the causal rule into the mask, or leave the mask out",
        )
    kind = graph.types.get(inputs[0], TensorProto.UNDEFINED)
    if kind not in ATTENTION_TYPES:
        yield Finding(
            rule="attention-type",
            node=node.name,
            sentence=f"no fused attention for {TensorProto.DataType.Name(kind).lower()}",
            remedy="cast queries, keys and values to float16 or bfloat16",
        )
    size = _head_size(graph, node)
    if size is not None and (size % HEAD_STEP or not HEAD_MIN <= size <= HEAD_MAX):
        yield Finding(
            rule="attention-heads",
            node=node.name,
            sentence=f"no fused attention for heads of {size}",
            remedy=f"pad heads to a multiple of {HEAD_STEP} from {HEAD_MIN} to {HEAD_MAX}",
        )


def _head_size(graph: LintGraph, node: onnx.NodeProto) -> int | None:
    shape = graph.shape(node.input[0])
    if shape is None or shape[-1] is None:
        return None
    heads = attribute(node, "q_num_heads", 0)
    return shape[-1] // heads if len(shape) == 3 and heads else shape[-1]
