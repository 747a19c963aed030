"""A stack of transformer layers on the native kernels: the decoder, and the vision tower.

Tokens are packed; nothing is padded. Everything but attention goes through the layers in chunks of
rows, so that what lies between two products stays in the cache, and a long input needs little
memory. Causal attention goes in strips of queries, for those need only the keys before them: all
queries are never there at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from trine.kernels.cpu.kernels import CpuKernels, Side
from trine.runtime.engines.native.deltas import RunDeltas
from trine.runtime.engines.native.layers import ExactChannels, GatedMlp, TransformerLayer
from trine.runtime.engines.native.linear import Floats, Linear, Rows
from trine.runtime.engines.native.workspace import Workspace

__all__ = ["AttentionLayout", "StackRun", "TransformerStack", "query_strips", "strip_rows"]

#: Rows of a chunk: few enough for the cache, enough that weights are read seldom.
CHUNK_ROWS = 256
#: Rows of a strip of causal attention, and strips that a longer sequence is cut into, at most: each
#: reads all keys so far.
STRIP_ROWS, MOST_STRIPS = 512, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLayout:
    """Numbers of a stack's attention.

    Attributes:
        heads: of queries, and of keys.
        head_dim: of each.
        causal: whether tokens see only those before them.
    """

    heads: tuple[int, int]
    head_dim: int
    causal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StackRun:
    """What one run of a stack reads beside the residual stream.

    Attributes:
        kernels: to compute with.
        workspace: that no other run uses meanwhile.
        rope_cos, rope_sin: float32 [T, head_dim / 2].
        starts: of a layer by its number, int64 [S + 1]: where sequences (windows, images) begin
            in that layer's attention, then T.
        deltas: of the tokens' adapters, or None.
    """

    kernels: CpuKernels
    workspace: Workspace
    rope_cos: Floats
    rope_sin: Floats
    starts: Callable[[int], NDArray[np.int64]]
    deltas: RunDeltas | None


class TransformerStack:
    """Layers with weights. Stateless, so safe from several threads.

    Args:
        layers: in order.
        final_norm: float32 [hidden].
        epsilon: of all norms.
        attention: its numbers.
    """

    def __init__(
        self,
        layers: Sequence[TransformerLayer],
        final_norm: Floats,
        epsilon: float,
        attention: AttentionLayout,
    ) -> None:
        self._layers = layers
        self._final_norm = final_norm
        self._epsilon = epsilon
        self._attention = attention

    def run(self, residual: Floats, run: StackRun) -> Floats:
        """Return the final norm of the stack's output, in the place of what entered.

        Args:
            residual: float32 [T, hidden], what enters; overwritten.
            run: what else it reads.
        """
        for number, layer in enumerate(self._layers):
            self._attend(number, layer, residual, run)
            for part in _chunks(0, len(residual)):
                self._mlp(layer, residual[part], part, run)
        run.kernels.prepare_rows(
            residual, None, norm_weight=self._final_norm, epsilon=self._epsilon, normed=residual
        )
        return residual

    def _attend(
        self, number: int, layer: TransformerLayer, residual: Floats, run: StackRun
    ) -> None:
        kernels, layout = run.kernels, self._attention
        starts, tokens = run.starts(number), len(residual)
        q_size, kv_size = (heads * layout.head_dim for heads in layout.heads)
        strips = query_strips(starts.tolist()) if layout.causal else [(0, tokens)]
        keys = None
        if len(strips) > 1:
            keys = run.workspace.floats("keys", (tokens, 2 * kv_size))
        for first, last in strips:
            qkv = run.workspace.floats("qkv", (last - first, q_size + 2 * kv_size))
            for part in _chunks(first, last):
                rows = self._normed(residual[part], layer.input_norm, layer.qkv, run)
                delta = _delta(layer.names.qkv, rows.x, part, run)
                layer.qkv.add_to(kernels, rows, qkv[_moved(part, -first)], delta)
            # Queries and keys lie side by side and turn alike.
            turns = run.rope_cos[first:last], run.rope_sin[first:last]
            kernels.rotate(qkv, sum(layout.heads), *turns)
            # What attention makes of a query takes its place.
            attended, seen = qkv[:, :q_size], qkv[:, q_size:]
            if keys is not None:
                keys[first:last] = seen
                seen = keys
            kernels.attention(
                attended,
                seen[:, :kv_size],
                seen[:, kv_size:],
                attended,
                starts,
                layout.heads,
                layout.causal,
                first,
                layer.exact_attention,
            )
            for part in _chunks(first, last):
                rows = Rows(kernels, run.workspace, attended[_moved(part, -first)])
                delta = _delta(layer.names.o, rows.x, part, run)
                layer.o.add_to(kernels, rows, residual[part], delta, add=True)

    def _mlp(self, layer: TransformerLayer, residual: Floats, part: slice, run: StackRun) -> None:
        kernels, mlp, names = run.kernels, layer.mlp, layer.names
        rows = self._normed(residual, layer.post_norm, mlp.reader, run)
        halves = (_delta(names.gate, rows.x, part, run), _delta(names.up, rows.x, part, run))
        product = run.workspace.floats("product", (len(residual), mlp.width))
        _gate(mlp, rows, product, halves, run)
        values = None if mlp.exact is None else _exact(mlp.exact, rows, halves, kernels)
        between = Rows(kernels, run.workspace, product)
        delta = _delta(names.down, product, part, run)
        mlp.down.add_to(kernels, between, residual, delta, values=values, add=True)

    def _normed(self, x: Floats, weight: Floats, reader: Linear, run: StackRun) -> Rows:
        return Rows.normed(run.kernels, run.workspace, x, (weight, self._epsilon), reader)


def _gate(
    mlp: GatedMlp,
    rows: Rows,
    product: Floats,
    deltas: tuple[Side | None, Side | None],
    run: StackRun,
) -> None:
    """Write silu(gate) · up into `product`."""
    if mlp.pair is not None:
        mlp.pair.gate(run.kernels, rows, product, deltas)
        return
    first, second = mlp.halves
    up = run.workspace.floats("up", product.shape)
    first.add_to(run.kernels, rows, product, deltas[0])
    second.add_to(run.kernels, rows, up, deltas[1])
    run.kernels.swiglu(product, up)


def _exact(
    exact: ExactChannels,
    rows: Rows,
    deltas: tuple[Side | None, Side | None],
    kernels: CpuKernels,
) -> Floats:
    """Return float32 [T, n], the channels of silu(gate) · up that are computed apart."""
    halves = []
    for layer, delta in ((exact.gate, deltas[0]), (exact.up, deltas[1])):
        out = np.empty((len(rows.x), len(exact.channels)), np.float32)
        if delta is not None:
            matrix = np.ascontiguousarray(delta.matrix[:, exact.channels])
            delta = Side(delta.factors, matrix, delta.first_rank, delta.rank_count)
        layer.add_to(kernels, rows, out, delta)
        halves.append(out)
    kernels.swiglu(*halves)
    return halves[0]


def _delta(group: str, x: Floats, part: slice, run: StackRun) -> Side | None:
    return None if run.deltas is None else run.deltas.of(group, x, part)


def strip_rows(tokens: int) -> int:
    """Return how many queries causal attention of a run of so many tokens takes at a time."""
    return max(STRIP_ROWS, -(-tokens // MOST_STRIPS))


def query_strips(starts: Sequence[int]) -> list[tuple[int, int]]:
    """Return the strips of causal attention as (first, end) tokens, in order.

    Sequences stay whole up to `STRIP_ROWS`, and longer ones are cut by their own length alone, so
    that a sequence's vectors do not depend on what else is in the run.

    Args:
        starts: where sequences begin, then the number of tokens.
    """
    strips, first = list[tuple[int, int]](), starts[0]
    for start, end in pairwise(starts):
        if first < start and end - first > STRIP_ROWS:
            strips.append((first, start))
            first = start
        if end - start > STRIP_ROWS:
            count = -(-(end - start) // strip_rows(end - start))
            strips += _equal_parts(start, end, count)
            first = end
    if first < starts[-1]:
        strips.append((first, starts[-1]))
    return strips


def _chunks(first: int, last: int) -> list[slice]:
    """Return slices of at most `CHUNK_ROWS` rows, as equal as can be."""
    count = -(-(last - first) // CHUNK_ROWS)
    return [slice(start, end) for start, end in _equal_parts(first, last, count)]


def _equal_parts(first: int, last: int, count: int) -> list[tuple[int, int]]:
    """Return the (first, end) of `count` parts of a range, as equal as can be."""
    ends = [first + (last - first) * i // count for i in range(count + 1)]
    return list(pairwise(ends))


def _moved(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)
