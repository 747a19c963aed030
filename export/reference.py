"""The model in plain numpy, layer by layer from the checkpoint: what engines are measured against.

It shares nothing with the graphs but the host's layouts (`trine.runtime.sequence`,
`trine.runtime.vision_layout`): adapters stay unmerged, attention is written out per sequence, and
each weight is read, used for all tasks, and dropped, so that it runs on a model of any size in the
memory of one layer. float32 throughout, with norms and softmax summed in float64.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.export.checkpoint import Checkpoint
from trine.kernels.pooling import l2_normalise
from trine.runtime.lora_layout import PROJECTOR
from trine.runtime.model_config import VISION_NORM_EPS
from trine.runtime.peft_adapter import PeftAdapters
from trine.runtime.sequence import TokenSequence, rope_tables
from trine.runtime.tensor_file import widen
from trine.runtime.vision_layout import lay_out_images, window_order

__all__ = ["Reference", "ReferenceInput", "ReferenceVectors"]

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ReferenceInput:
    """One sequence and the task it is embedded for."""

    sequence: TokenSequence
    task: str


@dataclass(frozen=True, slots=True)
class ReferenceVectors:
    """float32 `single` [hidden] and `multi` [T, projector_dim], normalised."""

    single: Array
    multi: Array


class Reference:
    """Embeds sequences with a checkpoint's weights.

    Args:
        checkpoint: the base model.
        adapters: its adapters.
    """

    def __init__(self, checkpoint: Checkpoint, adapters: PeftAdapters) -> None:
        self._checkpoint = checkpoint
        self._adapters = adapters
        self._decoder = checkpoint.config.decoder

    def run(
        self, inputs: Sequence[ReferenceInput], step: Callable[[int], None] = lambda _: None
    ) -> list[ReferenceVectors]:
        """Return the vectors of each input.

        Args:
            inputs: any tasks and lengths.
            step: called with 1 after each layer.
        """
        images = self._image_tokens(inputs, step)
        states = [self._embed(item.sequence, images) for item in inputs]
        tables = [rope_tables(item.sequence.positions, self._decoder) for item in inputs]
        for layer in range(self._decoder.num_layers):
            self._layer(f"layers.{layer}", inputs, states, tables)
            step(1)
        norm, eps = self._checkpoint.float32("norm.weight"), self._decoder.rms_norm_eps
        hidden = [_rms_norm(state, norm, eps) for state in states]
        projected = self._linear(PROJECTOR, inputs, hidden)
        return [
            ReferenceVectors(
                l2_normalise(rows[item.sequence.pooled].mean(0, np.float64).astype(np.float32)),
                l2_normalise(multi),
            )
            for item, rows, multi in zip(inputs, hidden, projected, strict=True)
        ]

    def _embed(self, sequence: TokenSequence, images: dict[int, Array]) -> Array:
        table = self._checkpoint.stored("embed_tokens.weight")
        rows = widen(table[sequence.token_ids], self._checkpoint.info("embed_tokens.weight").dtype)
        if sequence.images:
            rows[sequence.image_slots] = np.concatenate(
                [images[id(image)] for image in sequence.images]
            )
        return rows

    def _linear(
        self, module: str, inputs: Sequence[ReferenceInput], states: Sequence[Array]
    ) -> list[Array]:
        """Return W·x + scale·B·(A·x) + bias for each state, with its input's adapter."""
        weight = self._checkpoint.float32(f"{module}.weight")
        pairs = {task: self._adapters.pair(module, task) for task in {item.task for item in inputs}}
        has_bias = module == PROJECTOR or module.endswith(("q_proj", "k_proj", "v_proj"))
        bias = self._checkpoint.float32(f"{module}.bias") if has_bias else np.float32(0)
        results = []
        for item, state in zip(inputs, states, strict=True):
            pair = pairs[item.task]
            result = state @ weight.T + bias
            if pair is not None:
                result += (state @ pair.a.T) @ pair.b.T
            results.append(result)
        return results

    def _layer(
        self,
        prefix: str,
        inputs: Sequence[ReferenceInput],
        states: list[Array],
        tables: Sequence[tuple[Array, Array]],
    ) -> None:
        """Advance `states` by one layer, in place."""
        eps = self._decoder.rms_norm_eps
        weight = self._checkpoint.float32(f"{prefix}.input_layernorm.weight")
        normed = [_rms_norm(state, weight, eps) for state in states]
        q, k, v = (self._linear(f"{prefix}.self_attn.{n}_proj", inputs, normed) for n in "qkv")
        attended = [
            self._attend(q_rows, k_rows, v_rows, table)
            for q_rows, k_rows, v_rows, table in zip(q, k, v, tables, strict=True)
        ]
        for state, out in zip(
            states, self._linear(f"{prefix}.self_attn.o_proj", inputs, attended), strict=True
        ):
            state += out
        weight = self._checkpoint.float32(f"{prefix}.post_attention_layernorm.weight")
        normed = [_rms_norm(state, weight, eps) for state in states]
        gate = self._linear(f"{prefix}.mlp.gate_proj", inputs, normed)
        up = self._linear(f"{prefix}.mlp.up_proj", inputs, normed)
        product = [_silu(g) * u for g, u in zip(gate, up, strict=True)]
        for state, out in zip(
            states, self._linear(f"{prefix}.mlp.down_proj", inputs, product), strict=True
        ):
            state += out

    def _attend(self, q: Array, k: Array, v: Array, table: tuple[Array, Array]) -> Array:
        decoder = self._decoder
        groups = decoder.num_heads // decoder.num_kv_heads
        q = _rotate(_heads(q, decoder.num_heads), *table)
        k = _rotate(_heads(k, decoder.num_kv_heads), *table).repeat(groups, axis=0)
        v = _heads(v, decoder.num_kv_heads).repeat(groups, axis=0)
        length = q.shape[1]
        return _attention(q, k, v, np.tril(np.ones((length, length), np.bool_)))

    def _image_tokens(
        self, inputs: Sequence[ReferenceInput], step: Callable[[int], None]
    ) -> dict[int, Array]:
        """Return the image tokens of each picture in raster order, by the picture's identity."""
        vision = self._checkpoint.config.vision
        images = {id(image): image for item in inputs for image in item.sequence.images}
        if not images:
            return {}
        layouts = {key: lay_out_images([image], vision) for key, image in images.items()}
        kernel = self._checkpoint.float32("visual.patch_embed.proj.weight")
        kernel = kernel.reshape(vision.hidden_size, vision.patch_features)
        states = {key: layout.patches @ kernel.T for key, layout in layouts.items()}
        for block in range(vision.depth):
            full = block in vision.full_attention_blocks
            for key, layout in layouts.items():
                lengths = layout.window_lengths
                owner = np.repeat(np.arange(len(lengths)), lengths)
                visible = np.ones((len(owner),) * 2, np.bool_)
                if not full:
                    visible = owner[:, None] == owner[None]
                table = (layout.rope_cos, layout.rope_sin)
                states[key] = self._vision_block(
                    f"visual.blocks.{block}", states[key], table, visible
                )
            step(1)
        tokens = {}
        for key, image in images.items():
            order, _ = window_order(image.grid, vision)
            merged = self._merge(states[key])
            tokens[key] = np.empty_like(merged)
            tokens[key][order] = merged
        return tokens

    def _plain_linear(self, module: str, x: Array) -> Array:
        weight = self._checkpoint.float32(f"{module}.weight")
        return x @ weight.T + self._checkpoint.float32(f"{module}.bias")

    def _vision_block(
        self, prefix: str, state: Array, table: tuple[Array, Array], visible: NDArray[np.bool_]
    ) -> Array:
        num_heads = self._checkpoint.config.vision.num_heads
        normed = self._vision_norm(f"{prefix}.norm1", state)
        q, k, v = (
            _heads(part, num_heads)
            for part in np.split(self._plain_linear(f"{prefix}.attn.qkv", normed), 3, axis=1)
        )
        attended = _attention(_rotate(q, *table), _rotate(k, *table), v, visible)
        state = state + self._plain_linear(f"{prefix}.attn.proj", attended)
        normed = self._vision_norm(f"{prefix}.norm2", state)
        gate = self._plain_linear(f"{prefix}.mlp.gate_proj", normed)
        up = self._plain_linear(f"{prefix}.mlp.up_proj", normed)
        return state + self._plain_linear(f"{prefix}.mlp.down_proj", _silu(gate) * up)

    def _vision_norm(self, name: str, state: Array) -> Array:
        return _rms_norm(state, self._checkpoint.float32(f"{name}.weight"), VISION_NORM_EPS)

    def _merge(self, state: Array) -> Array:
        vision = self._checkpoint.config.vision
        width = vision.hidden_size * vision.spatial_merge_size**2
        grouped = self._vision_norm("visual.merger.ln_q", state).reshape(-1, width)
        return self._plain_linear(
            "visual.merger.mlp.2", _gelu(self._plain_linear("visual.merger.mlp.0", grouped))
        )


def _rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """Return x / sqrt(mean(x²) + eps) · weight over the last axis."""
    square = np.square(x, dtype=np.float64).mean(axis=-1, keepdims=True)
    return ((x / np.sqrt(square + eps)) * weight).astype(np.float32)


def _silu(x: Array) -> Array:
    """Return x · sigmoid(x), without overflow."""
    return x * (0.5 * (1.0 + np.tanh(0.5 * x))).astype(np.float32)


def _gelu(x: Array) -> Array:
    """Return x · Φ(x) with the exact error function."""
    from math import erf, sqrt

    gate = np.vectorize(erf, otypes=[np.float64])(x / sqrt(2.0))
    return (x * 0.5 * (1.0 + gate)).astype(np.float32)


def _heads(x: Array, num_heads: int) -> Array:
    """Return [heads, T, head size] of [T, heads × head size]."""
    return x.reshape(len(x), num_heads, -1).swapaxes(0, 1)


def _rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Return [heads, T, head size] with its halves rotated as pairs by the angle of each token."""
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _attention(q: Array, k: Array, v: Array, visible: NDArray[np.bool_]) -> Array:
    """Return [T, heads × head size] of [heads, T, head size] each; `visible` is bool [T, T]."""
    scores = q @ k.swapaxes(1, 2) / np.float32(np.sqrt(q.shape[-1]))
    scores = np.where(visible, scores, -np.inf).astype(np.float64)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return (weights.astype(np.float32) @ v).swapaxes(0, 1).reshape(q.shape[1], -1)
