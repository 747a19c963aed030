"""One graph from token ids to vectors, of standard operators, for programs that know only ONNX.

Around the decoder, which is the one of the bundles, come the embedding table, positions, packing
and both heads. Tokens are packed where the attention mask is 1, so padding may lie on either side
and costs no products.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.graphs.builder import Weight
from trine.export.graphs.decoder_weights import DecoderWeights, merged_weight
from trine.export.graphs.ort.gated_mlp import MlpLayer, MlpLayers, add_gated_mlp
from trine.export.graphs.ort.linears import GraphPlan, Linears
from trine.export.graphs.trt.decoder import StandardDecoder
from trine.export.graphs.trt.operators import IR_VERSION, OPSET
from trine.runtime.adapters.layout import PROJECTOR
from trine.runtime.adapters.peft import LoraAdapters
from trine.runtime.inference.embedding_table import EMBEDDING_TENSOR

__all__ = ["TextModelSource", "build_text_model"]

#: Least length of a vector, so that one of zeros is divided by no zero.
LEAST_LENGTH = 1e-12


@dataclass(frozen=True, slots=True)
class TextModelSource:
    """The weights of a graph: a checkpoint with the adapter of a task merged in."""

    checkpoint: Checkpoint
    adapters: LoraAdapters
    task: str


def build_text_model(source: TextModelSource, plan: GraphPlan, table: ir.DataType) -> ir.Model:
    """Return the graph with its weights unread.

    Inputs: `input_ids`, `attention_mask` int64 [B, S], a sequence a row, padding where the mask is
    0. With defaults, for images: `image_tokens` float32 [N, hidden], which take the slots of the
    image-pad id in order; `position_shift` int64 [3, B, S], added to a token's number to make its
    time, height and width position; `pooling_mask` int64 [B, S], 0 for tokens that are not pooled.
    Outputs, float32: `token_embeddings` [B, S, hidden], zero where padding is;
    `sentence_embedding` [B, hidden], the normalised mean; `multi_vector` [B, S, projector], each
    normalised, zero where padding is; `last_hidden_state`, the token embeddings again.

    Args:
        source: of the weights.
        plan: of the linear layers' precision.
        table: dtype of the embedding table.
    """
    return _TextModel(source, plan, table).build()


class _TextModel(StandardDecoder):
    def __init__(self, source: TextModelSource, plan: GraphPlan, table: ir.DataType) -> None:
        self.source = source
        self.table = table
        weights = DecoderWeights(source.checkpoint, source.adapters, source.task)
        super().__init__(source.checkpoint.config.decoder, weights, None)
        self.linears: Linears = Linears(self.graph, plan, standard=True)

    def build(self) -> ir.Model:
        width = self.config.hidden_size
        hidden = self.hidden_states()
        tokens = self._spread("tokens", hidden)
        vectors = self._normalised("multi", self._projected(hidden))
        rows: list[int | str] = ["batch", "sequence"]
        # optimum knows token embeddings by this name only.
        again = self._node("tokens.again", "Identity", tokens)
        model = self.graph.build(
            [
                (tokens, "token_embeddings", [*rows, width]),
                (self._sentence(tokens), "sentence_embedding", ["batch", width]),
                (
                    self._spread("multi", vectors),
                    "multi_vector",
                    [*rows, self.source.checkpoint.config.projector_dim],
                ),
                (again, "last_hidden_state", [*rows, width]),
            ]
        )
        model.graph.opset_imports.clear()
        model.graph.opset_imports[""] = OPSET
        model.ir_version = IR_VERSION
        return model

    # What the decoder has as inputs elsewhere

    def declare_inputs(self) -> None:
        graph, rows = self.graph, ["batch", "sequence"]
        self.ids = graph.input("input_ids", ir.DataType.INT64, rows)
        self.mask = graph.input("attention_mask", ir.DataType.INT64, rows)
        self._lay_out()
        self.embeddings = self._embedded()
        self.cos, self.sin = self._rope_tables()

    def _lay_out(self) -> None:
        """Compute which slots hold tokens, and how packed tokens go into the padded view."""
        mask, flat = self.mask, self._ints("flat", [-1])
        self.used = self._cast("used", mask, ir.DataType.BOOL)
        self.flat_mask = self._node("mask.flat", "Reshape", mask, flat)
        first = self._ints("zero", [0])
        found = self.graph.node(
            "sources.found", "NonZero", [self.flat_mask], dtype=ir.DataType.INT64
        )
        self.sources = self._node("sources", "Squeeze", found, first)
        one, last = self._ints("one", [1]), self._int("last_axis_number", 1)
        counted = self._node("order.counted", "CumSum", mask, last)
        self.order = self._node("order", "Sub", counted, one)
        lengths = self._node("lengths", "ReduceSum", mask, one)
        starts = self.graph.node(
            "starts", "CumSum", [lengths, self._int("first_axis_number", 0)], {"exclusive": 1}
        )
        self.length = self.graph.node(
            "length", "Shape", [mask], {"start": 1, "end": 2}, dtype=ir.DataType.INT64
        )
        zero, one_number = self._int("zero_number", 0), self._int("one_number", 1)
        count = self._node("length.number", "Squeeze", self.length, first)
        slots = self._node("slot_numbers", "Range", zero, count, one_number)
        filled = self.graph.node("filled", "Less", [slots, lengths], dtype=ir.DataType.BOOL)
        packed = self._node("pad_index.packed", "Add", starts, slots)
        self.pad_index = self.graph.node(
            "pad_index", "Where", [filled, packed, zero], dtype=ir.DataType.INT64
        )
        row = self._node("rows", "Div", self.sources, self.length)
        begin = self._node("rows.begin", "Mul", row, self.length)
        order = self._packed("order", self.order)
        self.unpad_index = self._node("unpad_index", "Add", begin, order)

    def _embedded(self) -> ir.Value:
        """Return float32 [T, hidden]: rows of the table, and image tokens in their slots."""
        graph, config = self.graph, self.source.checkpoint.config
        width = config.decoder.hidden_size
        none = ir.Tensor(np.empty((0, width), np.float32))
        images = graph.optional_input("image_tokens", ir.DataType.FLOAT, ["images", width], none)
        tokens = self._packed("ids", self.ids)
        checkpoint = self.source.checkpoint
        table = Weight(
            EMBEDDING_TENSOR,
            checkpoint.info(EMBEDDING_TENSOR).shape,
            lambda: checkpoint.float32(EMBEDDING_TENSOR),
        )
        rows = self._node("embedded", "Gather", graph.weight(table.to(self.table)), tokens)
        rows = graph.cast(rows, ir.DataType.FLOAT)
        count = graph.node("images.count", "Shape", [images], {"end": 1}, dtype=ir.DataType.INT64)
        pad = self._ints("image_pad", [config.token_ids.image_pad])
        is_pad = graph.node("images.pads", "Equal", [tokens, pad], dtype=ir.DataType.BOOL)
        some = graph.node(
            "images.some", "Greater", [count, self._ints("zero", [0])], dtype=ir.DataType.BOOL
        )
        is_image = self._node("images.are", "And", is_pad, some)
        numbers = self._node(
            "images.counted",
            "CumSum",
            self._cast("images.ones", is_image, ir.DataType.INT64),
            self._int("first_axis_number", 0),
        )
        numbers = self._node("images.numbers", "Sub", numbers, self._ints("one", [1]))
        # Other tokens take a row of zeros behind the images' own, so that there always is one.
        numbers = graph.node(
            "images.rows", "Where", [is_image, numbers, count], dtype=ir.DataType.INT64
        )
        zeros = graph.matrix("images.zeros", np.zeros((1, width), np.float32))
        whole = graph.node("images.whole", "Concat", [images, zeros], {"axis": 0})
        taken = self._node("images.taken", "Gather", whole, numbers)
        chosen = self._node("images.chosen", "Unsqueeze", is_image, self._ints("one", [1]))
        return graph.node("embeddings", "Where", [chosen, taken, rows], dtype=ir.DataType.FLOAT)

    def _rope_tables(self) -> tuple[ir.Value, ir.Value]:
        """Return cosines and sines, float32 [T, head_dim / 2], as `rope_tables` computes them."""
        graph, config = self.graph, self.config
        none = ir.Tensor(np.zeros((3, 1, 1), np.int64))
        shift = graph.optional_input(
            "position_shift", ir.DataType.INT64, [3, "batch", "sequence"], none
        )
        positions = self._node("positions", "Add", self.order, shift)
        positions = self._node("positions.flat", "Reshape", positions, self._ints("axes", [3, -1]))
        positions = graph.node("positions.packed", "Gather", [positions, self.sources], {"axis": 1})
        axes = self._ints("rope.axes", np.repeat(np.arange(3), config.mrope_section).tolist())
        chosen = self._node("rope.positions", "Gather", positions, axes)
        chosen = graph.node("rope.across", "Transpose", [chosen], {"perm": [1, 0]})
        exponent = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
        power = (config.rope_theta ** exponent.astype(np.float64)).astype(np.float32)
        frequency = graph.matrix("rope.frequency", np.float32(1.0) / power)
        angles = self._node("rope.angles", "Mul", graph.cast(chosen, ir.DataType.FLOAT), frequency)
        return self._node("rope_cos", "Cos", angles), self._node("rope_sin", "Sin", angles)

    # The heads

    def _projected(self, hidden: ir.Value) -> ir.Value:
        source, graph = self.source, self.graph
        shape = source.checkpoint.info(f"{PROJECTOR}.weight").shape
        weight = Weight(
            f"{PROJECTOR}.weight",
            (shape[1], shape[0]),
            lambda: np.ascontiguousarray(
                merged_weight(source.checkpoint, source.adapters, source.task, PROJECTOR).T
            ),
        )
        bias = self.weights.vector(f"{PROJECTOR}.bias")
        product = self._node("projected.product", "MatMul", hidden, graph.weight(weight))
        return self._node("projected", "Add", product, graph.weight(bias))

    def _sentence(self, tokens: ir.Value) -> ir.Value:
        """Return [B, hidden]: the normalised mean of the pooled tokens."""
        graph, one = self.graph, self._ints("one", [1])
        all_tokens = ir.Tensor(np.ones((1, 1), np.int64))
        pooled = graph.optional_input(
            "pooling_mask", ir.DataType.INT64, ["batch", "sequence"], all_tokens
        )
        weights = self._node("pooled", "Mul", self.mask, pooled)
        weights = graph.cast(weights, ir.DataType.FLOAT)
        column = self._node("pooled.column", "Unsqueeze", weights, self._ints("two", [2]))
        kept = self._node("pooled.tokens", "Mul", tokens, column)
        total = graph.node("pooled.sum", "ReduceSum", [kept, one], {"keepdims": 0})
        count = self._node("pooled.count", "ReduceSum", weights, one)
        count = self._node("pooled.some", "Max", count, graph.scalar("one_float", 1.0))
        return self._normalised("sentence", self._node("sentence.mean", "Div", total, count))

    def _normalised(self, name: str, x: ir.Value) -> ir.Value:
        length = self._node(f"{name}.length", "ReduceL2", x, self._ints("last_axis", [-1]))
        least = self.graph.scalar("least_length", LEAST_LENGTH)
        return self._node(
            f"{name}.unit", "Div", x, self._node(f"{name}.some", "Max", length, least)
        )

    def _spread(self, name: str, packed: ir.Value) -> ir.Value:
        """Return [B, S, n] of [T, n]: each token in its slot, zeros where padding is."""
        graph, first = self.graph, self._int("first_axis_number", 0)
        counted = self._node(f"{name}.counted", "CumSum", self.flat_mask, first)
        numbers = self._node(f"{name}.numbers", "Sub", counted, self._ints("one", [1]))
        # Padding before the first token takes that token's row, which the mask takes out again.
        numbers = self._node(f"{name}.rows", "Max", numbers, self._int("zero_number", 0))
        shape = graph.node(f"{name}.shape", "Shape", [self.mask], dtype=ir.DataType.INT64)
        numbers = self._node(f"{name}.places", "Reshape", numbers, shape)
        spread = self._node(f"{name}.spread", "Gather", packed, numbers)
        column = self._node(f"{name}.used", "Unsqueeze", self.used, self._ints("two", [2]))
        zero = graph.scalar("zero_float", 0.0)
        return graph.node(name, "Where", [column, spread, zero], dtype=ir.DataType.FLOAT)

    # The decoder's own

    def with_delta(self, name: str, x: ir.Value, base: ir.Value) -> ir.Value:
        return base

    def mlp(self, name: str, x: ir.Value) -> ir.Value:
        gate, up, down = (
            MlpLayer(
                f"{name}.{part}", self.weights.linear(f"{name}.{part}", [f"{name}.{part}_proj"])
            )
            for part in ("gate", "up", "down")
        )
        layers = MlpLayers(gate=gate, up=up, down=down, product=f"{name}.product")
        return add_gated_mlp(self.graph, self.linears, x, layers)

    # Short forms

    def _node(self, name: str, op_type: str, *inputs: ir.Value) -> ir.Value:
        return self.graph.node(name, op_type, inputs)

    def _ints(self, name: str, values: Sequence[int]) -> ir.Value:
        return self.graph.constant(name, values)

    def _int(self, name: str, number: int) -> ir.Value:
        return self.graph.whole_number(name, number)

    def _cast(self, name: str, x: ir.Value, dtype: ir.DataType) -> ir.Value:
        return self.graph.node(name, "Cast", [x], {"to": int(dtype)}, dtype=dtype)

    def _packed(self, name: str, x: ir.Value) -> ir.Value:
        """Return int64 [T] of [B, S]: the values at the tokens' slots."""
        flat = self._node(f"{name}.flat", "Reshape", x, self._ints("flat", [-1]))
        return self._node(f"{name}.packed", "Gather", flat, self.sources)
