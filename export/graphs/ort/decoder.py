"""The decoder's graph in ONNX Runtime's operators, most of which are its own (`CONTRIB`)."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trine.export.graphs.builder import CONTRIB
from trine.export.graphs.decoder import DecoderGraph
from trine.export.graphs.decoder_weights import DecoderWeights
from trine.export.graphs.ort.gated_mlp import MlpLayer, MlpLayers, add_gated_mlp
from trine.export.graphs.ort.linears import GraphPlan, Linears
from trine.export.graphs.ort.rotary_embedding import RotaryEmbedding
from trine.runtime.bundle.manifest import AdapterLayout
from trine.runtime.bundle.model_config import DecoderConfig

__all__ = ["build_decoder"]

#: ONNX Runtime's GroupQueryAttention takes heads of a multiple of this; others are padded with
#: zeros.
HEAD_MULTIPLE = 8


def build_decoder(
    config: DecoderConfig,
    weights: DecoderWeights,
    plan: GraphPlan,
    adapters: AdapterLayout | None = None,
) -> ir.Model:
    """Return the graph with `weights`, unread, in the precision of `plan`.

    With `adapters`, each adapted product y = x·W gets ((x·Aᵀ) where the mask is set, else 0) · B.

    Inputs: those of `DecoderGraph`, and `last_index` int32 [B], sequence lengths minus one;
    `padded_length` int32 [], S. Adapters are by default without rows, that is without effect.
    Output: `hidden` float32 [T, hidden], after the final norm.
    """
    graph = _OrtDecoder(config, weights, plan, adapters)
    width = config.hidden_size
    return graph.graph.build([(graph.hidden_states(), "hidden", ["tokens", width])])


def _no_rows(dtype: ir.DataType, width: int) -> NDArray[np.generic]:
    return np.empty((0, width), dtype.numpy())


class _OrtDecoder(DecoderGraph):
    def __init__(
        self,
        config: DecoderConfig,
        weights: DecoderWeights,
        plan: GraphPlan,
        adapters: AdapterLayout | None,
    ) -> None:
        super().__init__(config, weights, adapters)
        self.linears: Linears = Linears(self.graph, plan)
        self.rows = self.graph.row_numbers("token_rows", self.unpad_index)

    def declare_inputs(self) -> None:
        super().declare_inputs()
        self.last_index = self.graph.input("last_index", ir.DataType.INT32, ["sequences"])
        self.padded_length = self.graph.input("padded_length", ir.DataType.INT32, [])

    def norm(self, name: str, x: ir.Value, stored: str) -> ir.Value:
        return self.graph.node(
            name,
            "SimplifiedLayerNormalization",
            [x, self.graph.weight(self.norm_weight(stored))],
            {"epsilon": self.config.rms_norm_eps, "axis": -1},
        )

    def add_norm(
        self, name: str, branch: tuple[str, ir.Value], residual: ir.Value, stored: str
    ) -> tuple[ir.Value, ir.Value]:
        normed, _, _, total = self.graph.nodes(
            [name, "", "", f"{name}.residual"],
            "SkipSimplifiedLayerNormalization",
            [
                self.graph.cast(branch[1], ir.DataType.FLOAT),
                residual,
                self.graph.weight(self.norm_weight(stored)),
            ],
            {"epsilon": self.config.rms_norm_eps},
            CONTRIB,
        )
        return normed, total

    def with_delta(self, name: str, x: ir.Value, base: ir.Value) -> ir.Value:
        group = self.groups.get(name)
        if group is None:
            return base
        graph, parts = self.graph, len(group.modules)
        x, base = graph.cast(x, ir.DataType.FLOAT), graph.cast(base, ir.DataType.FLOAT)
        ranks = "ranks_qkv" if parts == 3 else "ranks"
        a, b = (
            graph.cast(
                graph.optional_input(
                    f"{name}.lora_{half}",
                    self.lora_dtype,
                    [ranks, width],
                    ir.Tensor(_no_rows(self.lora_dtype, width), dtype=self.lora_dtype),
                ),
                ir.DataType.FLOAT,
            )
            for half, width in (("a", group.num_in), ("b", group.num_out))
        )
        low = graph.node(f"{name}.lora_low", "Gemm", [x, a], {"transB": 1})
        # A selection, not a product with 0 and 1: other adapters' values cannot reach this token.
        kept = graph.node(
            f"{name}.lora_kept",
            "Where",
            [self.masks[parts], low, graph.scalar("zero_float", 0.0)],
            dtype=ir.DataType.FLOAT,
        )
        return graph.node(f"{name}.adapted", "Gemm", [kept, b, base])

    def rotate(self, name: str, x: ir.Value, num_heads: int) -> ir.Value:
        rotary = RotaryEmbedding(self.graph, self.rows, self.cos, self.sin)
        return rotary.rotate(name, x, num_heads)

    @property
    def _head_padding(self) -> int:
        return -self.config.head_dim % HEAD_MULTIPLE

    def padded(self, name: str, x: ir.Value, num_heads: int) -> ir.Value:
        """Return [B, S, heads × head size] of packed [T, heads × head_dim]."""
        graph, config = self.graph, self.config
        if self._head_padding:
            heads = graph.constant(f"heads_{num_heads}", [0, num_heads, config.head_dim])
            x = graph.node(f"{name}.heads", "Reshape", [x, heads])
            pads = graph.constant("head_pads", [0, 0, 0, 0, 0, self._head_padding])
            x = graph.node(f"{name}.wide", "Pad", [x, pads])
            wide = num_heads * (config.head_dim + self._head_padding)
            x = graph.node(
                f"{name}.flat", "Reshape", [x, graph.constant(f"wide_{num_heads}", [0, wide])]
            )
        return graph.node(f"{name}.padded", "Gather", [x, self.pad_index])

    def attend(self, name: str, qkv: Sequence[ir.Value]) -> ir.Value:
        config = self.config
        attended, _, _ = self.graph.nodes(
            [f"{name}.attended", f"{name}.present_k", f"{name}.present_v"],
            "GroupQueryAttention",
            [*qkv, None, None, self.last_index, self.padded_length],
            {
                "num_heads": config.num_heads,
                "kv_num_heads": config.num_kv_heads,
                "scale": config.head_dim**-0.5,
            },
            CONTRIB,
        )
        return attended

    @property
    def attended_width(self) -> int:
        return self.config.num_heads * (self.config.head_dim + self._head_padding)

    def unpadded(self, name: str, attended: ir.Value) -> ir.Value:
        graph, config = self.graph, self.config
        x = super().unpadded(name, attended)
        if self._head_padding:
            heads = [0, config.num_heads, config.head_dim + self._head_padding]
            x = graph.node(f"{name}.o_heads", "Reshape", [x, graph.constant("wide_heads", heads)])
            x = graph.node(
                f"{name}.o_narrow",
                "Slice",
                [
                    x,
                    graph.constant("zero", [0]),
                    graph.constant("head_end", [config.head_dim]),
                    graph.constant("head_axis", [2]),
                ],
            )
            flat_width = graph.constant("flat_width", [0, config.hidden_size])
            x = graph.node(f"{name}.o_flat", "Reshape", [x, flat_width])
        return x

    def mlp(self, name: str, x: ir.Value) -> ir.Value:
        layers = MlpLayers(
            gate=MlpLayer(
                f"{name}.gate", self.weights.linear(f"{name}.gate", [f"{name}.gate_proj"])
            ),
            up=MlpLayer(f"{name}.up", self.weights.linear(f"{name}.up", [f"{name}.up_proj"])),
            down=MlpLayer(
                f"{name}.down", self.weights.linear(f"{name}.down", [f"{name}.down_proj"])
            ),
            product=f"{name}.product",
        )
        return add_gated_mlp(self.graph, self.linears, x, layers, self.with_delta)
