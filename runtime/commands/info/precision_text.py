"""An engine's precision in words, for `trine info`."""

from collections.abc import Iterator

from trine.runtime.bundle.precision import GraphPrecision, LinearPrecision, PrecisionMap

__all__ = ["precision_lines"]


def precision_lines(precision: PrecisionMap, fixed_scales: bool = False) -> Iterator[str]:
    """Yield what each kind of tensor and operation of an engine is stored and computed in.

    Args:
        precision: of the engine.
        fixed_scales: whether 8-bit inputs have one scale for all, not one a token.
    """
    yield "  precision:"
    for name, graph in precision.graphs():
        yield from _graph_lines(name, graph, fixed_scales)
    yield f"    token embeddings: {precision.embedding}"
    yield f"    always float32: {', '.join(precision.float32)}"


def _graph_lines(name: str, graph: GraphPrecision, fixed_scales: bool) -> Iterator[str]:
    kinds: dict[str, list[str]] = {}
    for role, linear in graph.linears.items():
        kinds.setdefault(_words(linear, fixed_scales), []).append(role)
    for words, roles in kinds.items():
        yield f"    {name} {', '.join(roles)}: {words}"
    yield f"    {name} attention: {graph.attention}, silu(gate) · up: {graph.swiglu}"
    if graph.float32_inputs:
        counts = (f"{name} ({count})" for name, count in graph.float32_inputs.items())
        yield f"    {name}, large input channels in float32: {', '.join(counts)}"
    if graph.wider:
        yield f"    {name}, kept wider: {len(graph.wider)}"
        for tensor in graph.wider:
            yield f"      {tensor.name}: {_words(tensor.precision, fixed_scales)}; {tensor.reason}"


def _words(linear: LinearPrecision, fixed_scales: bool) -> str:
    if linear.weight == linear.activation == "fp32":
        return "fp32"
    by_channel = " by output channel"
    scale = {"int8": by_channel, "fp8": by_channel, "int4": f" by blocks of {linear.block}"}
    weight = f"weights {linear.weight}{scale.get(linear.weight, '')}"
    eight_bits = linear.activation in ("int8", "fp8")
    by = " with one scale" if fixed_scales else " by token"
    turned = "" if linear.rotation is None else f" rotated in blocks of {linear.rotation}"
    activation = f"inputs {linear.activation}{by if eight_bits else ''}{turned}"
    return f"{weight}, {activation}, sums {linear.accumulate}"
