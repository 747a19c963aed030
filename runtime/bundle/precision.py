"""Describes what every tensor and operation of an engine is stored and computed in.

The exporter decides it, the graph carries it, the manifest records it, `trine info` prints it.
Linear layers are named as in the graphs: "layers.3.mlp.down", "blocks.0.attn.qkv", "merger.mlp.2".
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "ALWAYS_FLOAT32",
    "EnginePrecision",
    "GraphName",
    "GraphPrecision",
    "LinearPrecision",
    "Number",
    "Precision",
    "PrecisionMap",
    "PrecisionOverride",
    "linear_role",
]

#: What an engine may be asked for.
Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
#: What an engine of a bundle may have: TensorRT also takes 8-bit floats (E4M3).
EnginePrecision = Literal["fp32", "fp16", "bf16", "int8", "int4", "fp8"]
#: Number formats of tensors.
Number = Literal["fp32", "fp16", "bf16", "int8", "int4", "fp8"]
GraphName = Literal["vision", "decoder"]

#: What no precision touches, in words: rounding here would reach every later layer, or the vectors.
ALWAYS_FLOAT32 = (
    "residual stream",
    "norms and their statistics",
    "rotary tables and rotation",
    "softmax statistics",
    "adapter deltas",
    "pooling",
    "multi-vector projection",
    "L2 normalisation",
)
_NUMBERED = re.compile(r"^(?:layers|blocks)\.\d+\.")


def linear_role(name: str) -> str:
    """Return what a linear layer is in its layer: "layers.3.mlp.down" is an "mlp.down"."""
    return _NUMBERED.sub("", name)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearPrecision:
    """How one linear layer is stored and computed.

    Attributes:
        weight: format of the stored weights; "int8" has a scale for each output channel, "int4" one
            for each block of inputs.
        activation: format in which the input enters the product; "int8" has a scale for each token.
        accumulate: format of the product's sums.
        block: inputs that share a scale; None but for "int4".
        rotation: inputs of a block that are rotated before they are rounded, and the weights with
            them (`trine.kernels.rotation`); None where they are not.
    """

    weight: Number
    activation: Number
    accumulate: Literal["fp32", "int32"] = "fp32"
    block: int | None = None
    rotation: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionOverride:
    """A linear layer or operation that is kept wider than its graph's rule, and why.

    Attributes:
        name: of the layer, or of an operation in a layer, e.g. "layers.3.self_attn.attended".
        precision: it has instead.
        reason: one sentence with the measured value.
    """

    name: str
    precision: LinearPrecision
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPrecision:
    """The precision of one graph.

    Attributes:
        linears: by role (`linear_role`).
        attention: format of the rotated queries, the keys and the values in attention's products.
        swiglu: format of silu(gate) · up.
        wider: exceptions.
        float32_inputs: by layer the number of input channels that are multiplied in float32 beside
            the rest, because their magnitude would take the others' precision.
    """

    linears: Mapping[str, LinearPrecision]
    attention: Number
    swiglu: Number
    wider: tuple[PrecisionOverride, ...] = ()
    float32_inputs: Mapping[str, int] = field(default_factory=dict)

    def of(self, name: str) -> LinearPrecision:
        """Return the precision of the linear layer or operation `name`."""
        for exception in self.wider:
            if exception.name == name:
                return exception.precision
        role = linear_role(name)
        if role in self.linears:
            return self.linears[role]
        number = self.attention if role.endswith("attended") else self.swiglu
        return LinearPrecision(weight=number, activation=number)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionMap:
    """The precision of an engine.

    Attributes:
        vision, decoder: of its graphs.
        embedding: format of the token-embedding table, which is not in a graph.
        float32: what is float32 in every engine.
    """

    vision: GraphPrecision
    decoder: GraphPrecision
    embedding: Number
    float32: tuple[str, ...] = ALWAYS_FLOAT32

    def graphs(self) -> Iterator[tuple[GraphName, GraphPrecision]]:
        """Yield each graph's name and precision."""
        yield "vision", self.vision
        yield "decoder", self.decoder
