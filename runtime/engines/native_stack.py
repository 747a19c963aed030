"""A stack of transformer layers on the native kernels: the decoder, and the vision tower.

Tokens are packed; nothing is padded. Everything but attention goes through the layers in chunks of
rows, so that what lies between two products stays in the cache, and a long input needs little
memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from trine.kernels.cpu.kernels import CpuKernels, Side
from trine.runtime.engines.native_deltas import RunDeltas
from trine.runtime.engines.native_layers import ExactChannels, GatedMlp, TransformerLayer
from trine.runtime.engines.native_linear import Floats, Outliers, Rows
from trine.runtime.engines.workspace import Workspace

__all__ = ["AttentionLayout", "StackInputs", "TransformerStack"]

#: Rows of a chunk: few enough for the cache, enough that weights are read seldom.
CHUNK_ROWS = 256


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
class StackInputs:
    """What one run of a stack reads beside the residual stream.

    Attributes:
        rope_cos, rope_sin: float32 [T, head_dim / 2].
        starts: of a layer by its number, int64 [S + 1]: where sequences (windows, pictures) begin
            in that layer's attention, then T.
        deltas: of the tokens' adapters, or None.
    """

    rope_cos: Floats
    rope_sin: Floats
    starts: Callable[[int], NDArray[np.int64]]
    deltas: RunDeltas | None


class TransformerStack:
    """Layers with weights.

    Args:
        kernels: to compute with.
        layers: in order.
        final_norm: float32 [hidden].
        epsilon: of all norms.
        attention: its numbers.
    """

    def __init__(
        self,
        kernels: CpuKernels,
        layers: Sequence[TransformerLayer],
        final_norm: Floats,
        epsilon: float,
        attention: AttentionLayout,
    ) -> None:
        self._kernels = kernels
        self._layers = layers
        self._final_norm = final_norm
        self._epsilon = epsilon
        self._attention = attention

    def run(self, residual: Floats, inputs: StackInputs, workspace: Workspace) -> Floats:
        """Return the final norm of the stack's output, float32 [T, hidden], owned by the caller.

        Args:
            residual: float32 [T, hidden], what enters; overwritten.
            inputs: of the run.
            workspace: that no other run uses meanwhile.
        """
        for number, layer in enumerate(self._layers):
            self._attend(number, layer, residual, inputs, workspace)
            for part in _chunks(len(residual)):
                self._mlp(layer, residual[part], inputs.deltas, part, workspace)
        out = np.empty_like(residual)
        self._kernels.prepare_rows(
            residual, None, norm_weight=self._final_norm, epsilon=self._epsilon, normed=out
        )
        return out

    def _attend(
        self,
        number: int,
        layer: TransformerLayer,
        residual: Floats,
        inputs: StackInputs,
        workspace: Workspace,
    ) -> None:
        kernels, layout, deltas = self._kernels, self._attention, inputs.deltas
        tokens = len(residual)
        q_size, kv_size = (heads * layout.head_dim for heads in layout.heads)
        qkv = workspace.floats("qkv", (tokens, q_size + 2 * kv_size))
        for part in _chunks(tokens):
            rows = self._normed(residual[part], layer.input_norm, layer.qkv.outliers, workspace)
            layer.qkv.add_to(
                kernels, rows, qkv[part], _delta(deltas, layer.names.qkv, rows.x, part)
            )
        # Queries and keys lie side by side and turn alike.
        kernels.rotate(qkv, sum(layout.heads), inputs.rope_cos, inputs.rope_sin)
        attended = workspace.floats("attended", (tokens, q_size))
        kernels.attention(
            qkv[:, :q_size],
            qkv[:, q_size : q_size + kv_size],
            qkv[:, q_size + kv_size :],
            attended,
            inputs.starts(number),
            layout.heads,
            layout.causal,
        )
        for part in _chunks(tokens):
            rows = Rows(kernels, workspace, attended[part])
            delta = _delta(deltas, layer.names.o, rows.x, part)
            layer.o.add_to(kernels, rows, residual[part], delta, add=True)

    def _mlp(
        self,
        layer: TransformerLayer,
        residual: Floats,
        deltas: RunDeltas | None,
        part: slice,
        workspace: Workspace,
    ) -> None:
        kernels, mlp, names = self._kernels, layer.mlp, layer.names
        rows = self._normed(residual, layer.post_norm, mlp.outliers, workspace)
        halves = (
            _delta(deltas, names.gate, rows.x, part),
            _delta(deltas, names.up, rows.x, part),
        )
        product = workspace.floats("product", (len(residual), mlp.width))
        self._gate(mlp, rows, product, halves, workspace)
        values = None
        if mlp.exact is not None:
            values = self._exact(mlp.exact, rows, halves)
        between = Rows(kernels, workspace, product)
        delta = _delta(deltas, names.down, product, part)
        mlp.down.add_to(kernels, between, residual, delta, values=values, add=True)

    def _gate(
        self,
        mlp: GatedMlp,
        rows: Rows,
        product: Floats,
        deltas: tuple[Side | None, Side | None],
        workspace: Workspace,
    ) -> None:
        """Write silu(gate) · up into `product`."""
        if mlp.pair is not None:
            mlp.pair.gate(self._kernels, rows, product, deltas)
            return
        if mlp.gate is None or mlp.up is None:
            raise TypeError("a gated MLP has a pair, or a gate and an up")
        up = workspace.floats("up", product.shape)
        mlp.gate.add_to(self._kernels, rows, product, deltas[0])
        mlp.up.add_to(self._kernels, rows, up, deltas[1])
        self._kernels.swiglu(product, up)

    def _exact(
        self, exact: ExactChannels, rows: Rows, deltas: tuple[Side | None, Side | None]
    ) -> Floats:
        """Return float32 [T, n], the channels of silu(gate) · up that are computed apart."""
        halves = []
        for layer, delta in ((exact.gate, deltas[0]), (exact.up, deltas[1])):
            out = np.empty((len(rows.x), len(exact.channels)), np.float32)
            if delta is not None:
                matrix = np.ascontiguousarray(delta.matrix[:, exact.channels])
                delta = Side(delta.factors, matrix, delta.first_rank, delta.rank_count)
            layer.add_to(self._kernels, rows, out, delta)
            halves.append(out)
        self._kernels.swiglu(*halves)
        return halves[0]

    def _normed(
        self, x: Floats, weight: Floats, outliers: Outliers | None, workspace: Workspace
    ) -> Rows:
        return Rows.normed(self._kernels, workspace, x, (weight, self._epsilon), outliers)


def _delta(deltas: RunDeltas | None, group: str, x: Floats, part: slice) -> Side | None:
    return None if deltas is None else deltas.of(group, x, part)


def _chunks(rows: int) -> list[slice]:
    """Return slices of at most `CHUNK_ROWS` rows, as equal as can be."""
    count = -(-rows // CHUNK_ROWS)
    ends = [rows * i // count for i in range(count + 1)]
    return [slice(first, last) for first, last in pairwise(ends)]
