"""An engine's precision in words, for `trine info`."""

from collections.abc import Iterator

from trine.runtime.precision import GraphPrecision, LinearPrecision, PrecisionMap

__all__ = ["precision_lines"]


def precision_lines(precision: PrecisionMap) -> Iterator[str]:
    """Yield what each kind of tensor and operation of an engine is stored and computed in."""
    yield "  precision:"
    for name, graph in precision.graphs():
        yield from _graph_lines(name, graph)
    yield f"    token embeddings: {precision.embedding}"
    yield f"    always float32: {', '.join(precision.float32)}"


def _graph_lines(name: str, graph: GraphPrecision) -> Iterator[str]:
    kinds: dict[str, list[str]] = {}
    for role, linear in graph.linears.items():
        kinds.setdefault(_words(linear), []).append(role)
    for words, roles in kinds.items():
        yield f"    {name} {', '.join(roles)}: {words}"
    yield f"    {name} attention: {graph.attention}, silu(gate) · up: {graph.swiglu}"
    if graph.float32_inputs:
        counts = (f"{name} ({count})" for name, count in graph.float32_inputs.items())
        yield f"    {name}, large input channels in float32: {', '.join(counts)}"
    if graph.wider:
        yield f"    {name}, kept wider: {len(graph.wider)}"
        for tensor in graph.wider:
            yield f"      {tensor.name}: {_words(tensor.precision)}; {tensor.reason}"


def _words(linear: LinearPrecision) -> str:
    if linear.weight == linear.activation == "fp32":
        return "fp32"
    scale = {"int8": " by output channel", "int4": f" by blocks of {linear.block}"}
    weight = f"weights {linear.weight}{scale.get(linear.weight, '')}"
    activation = f"inputs {linear.activation}{' by token' if linear.activation == 'int8' else ''}"
    return f"{weight}, {activation}, sums {linear.accumulate}"
