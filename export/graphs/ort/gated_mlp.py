"""The gated MLP of both stacks: down(silu(gate(x)) · up(x)).

Channels of the product that are far larger than the rest, as trained models have, are computed
apart where the plan says so: in float32 from x, through the columns of gate and up that make them,
to the rows of down that read them. The rest never meets them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trine.export.graphs.builder import CONTRIB, GraphBuilder, Weight
from trine.export.graphs.ort.linears import Linears

__all__ = ["MlpLayer", "MlpLayers", "add_gated_mlp"]

#: (layer, x, base) -> base with what adapters add to it.
Delta = Callable[[str, ir.Value, ir.Value], ir.Value]


@dataclass(frozen=True, slots=True)
class MlpLayer:
    """One linear layer: its name in the graph, float32 weight [in, out] and bias [out], unread."""

    name: str
    weight: Weight
    bias: Weight | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpLayers:
    """The three layers, and the name of the product between them."""

    gate: MlpLayer
    up: MlpLayer
    down: MlpLayer
    product: str


def add_gated_mlp(
    graph: GraphBuilder,
    linears: Linears,
    x: ir.Value,
    layers: MlpLayers,
    with_delta: Delta = lambda name, x, base: base,
) -> ir.Value:
    """Return [T, out] of `x` [T, in].

    Args:
        graph: to add to.
        linears: of the graph.
        x: the normed input.
        layers: of the MLP.
        with_delta: adds adapters to each layer's result.
    """
    channels = linears.float32_inputs(layers.down.name)
    halves = []
    for layer in (layers.gate, layers.up):
        if channels is not None:
            layer = _without(layer, channels)
        base = linears.add(layer.name, x, layer.weight, layer.bias)
        halves.append(with_delta(layer.name, x, base))
    exact = None
    if channels is not None:
        gate, up = (
            _apart(graph, x, layer, half, channels)
            for layer, half in zip((layers.gate, layers.up), halves, strict=True)
        )
        exact = _swiglu(graph, f"{layers.product}.exact", gate, up, linears.standard)
    dtype = linears.dtype(layers.product)
    gate, up = (graph.cast(half, dtype) for half in halves)
    product = _swiglu(graph, layers.product, gate, up, linears.standard)
    down = layers.down
    result = linears.add(down.name, product, down.weight, down.bias, exact)
    return with_delta(down.name, product, result)


def _without(layer: MlpLayer, channels: NDArray[np.int64]) -> MlpLayer:
    bias = None if layer.bias is None else layer.bias.without(channels, 0)
    return MlpLayer(layer.name, layer.weight.without(channels, 1), bias)


def _apart(
    graph: GraphBuilder, x: ir.Value, layer: MlpLayer, half: ir.Value, channels: NDArray[np.int64]
) -> ir.Value:
    """Return float32 [T, n], the outputs `channels` of a layer.

    `half` is the layer's result without them, so that what it has there is adapters' doing.
    """
    name = f"{layer.name}.exact"
    indices = graph.constant(f"{name}_channels", channels.tolist())
    added = graph.node(
        f"{name}_delta", "Gather", [graph.cast(half, ir.DataType.FLOAT), indices], {"axis": 1}
    )
    weight = graph.weight(layer.weight.taken(channels, 1, f"{name}_weight"))
    result = graph.node(name, "Gemm", [graph.cast(x, ir.DataType.FLOAT), weight, added])
    if layer.bias is None:
        return result
    bias = graph.weight(layer.bias.taken(channels, 0, f"{name}_bias"))
    return graph.node(f"{name}_biased", "Add", [result, bias])


def _swiglu(
    graph: GraphBuilder, name: str, gate: ir.Value, up: ir.Value, standard: bool
) -> ir.Value:
    if standard:
        sigmoid = graph.node(f"{name}.sigmoid", "Sigmoid", [gate])
        active = graph.node(f"{name}.silu", "Mul", [gate, sigmoid])
    else:
        # QuickGelu with alpha 1 is SiLU: x · sigmoid(x).
        active = graph.node(f"{name}.silu", "QuickGelu", [gate], {"alpha": 1.0}, CONTRIB)
    return graph.node(name, "Mul", [active, up])
