"""The model in plain numpy, layer by layer from the checkpoint: what engines are measured against.

It shares nothing with the graphs but the host's layouts (`trine.runtime.preprocessing.sequence`,
`trine.runtime.preprocessing.vision_inputs`): adapters stay unmerged, attention is written out per sequence, and
each weight is read, multiplied with the rows of all sequences at once, and dropped, so that it runs
on a model of any size in the memory of one layer and reads the model once however many sequences
there are. float32 throughout, with norms and softmax summed in float64.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.reference.operations import attention, gelu, heads, rms_norm, rotate, silu
from trine.kernels.pooling import l2_normalise
from trine.runtime.adapters.layout import PROJECTOR
from trine.runtime.adapters.peft import PeftAdapters
from trine.runtime.bundle.model_config import VISION_NORM_EPS
from trine.runtime.bundle.safetensors_file import widen
from trine.runtime.preprocessing.sequence import TokenSequence, rope_tables
from trine.runtime.preprocessing.vision_inputs import VisionInputs, lay_out_images, window_order

__all__ = ["Fork", "Observer", "Reference", "ReferenceInput", "ReferenceVectors", "Rounding"]

Array = NDArray[np.float32]
#: Most that one activation of the MLP takes at a time; rows beyond wait their turn.
MLP_BYTES = 1 << 28


class Rounding(Protocol):
    """Imitates narrower formats in some places of the model."""

    def covers(self, module: str) -> bool:
        """Return whether this module of the checkpoint is rounded."""
        ...

    def linear(self, module: str, x: Array, weight: Array, bias: Array | np.float32) -> Array:
        """Return x · weightᵀ + bias as the narrower format computes it."""
        ...

    def attention(self, prefix: str, x: Array) -> Array:
        """Return rotated queries or keys, or values, as they enter the attention of a layer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """A copy of another input that is the same up to one layer, and rounded from there.

    Attributes:
        base: index of the other input, which comes before all its forks; None for an input that
            is rounded from its first layer and needs no other.
        start: the layer it leaves its base at, e.g. "layers.3" or "visual.blocks.0"; "" without.
        rounding: from there on.
    """

    base: int | None
    start: str
    rounding: Rounding


@dataclass(frozen=True, slots=True)
class ReferenceInput:
    """One sequence, the task it is embedded for, and where it is rounded, if it is a fork.

    A fork in the vision tower has images of its own, equal to the other's. Inputs that are not
    `observed` are kept from the reference's observer.
    """

    sequence: TokenSequence
    task: str
    fork: Fork | None = None
    observed: bool = True

    @property
    def base(self) -> int | None:
        """Index of the input this one leaves at some layer; None where it has its own start."""
        return None if self.fork is None else self.fork.base

    def starts(self, prefix: str) -> bool:
        """Return whether this is a fork that leaves its base at the layer `prefix`."""
        return self.fork is not None and self.fork.start == prefix


@dataclass(frozen=True, slots=True)
class ReferenceVectors:
    """float32 `single` [hidden] and `multi` [T, projector_dim], normalised."""

    single: Array
    multi: Array


@dataclass(frozen=True, slots=True)
class _Image:
    """An image in the vision tower: the input it belongs to, and its layout."""

    owner: ReferenceInput
    layout: VisionInputs


class Observer(Protocol):
    """Is told of every linear layer's inputs and outputs, all sequences at once."""

    def see(self, module: str, inputs: Sequence[Array], outputs: Sequence[Array]) -> None: ...


class Reference:
    """Embeds sequences with a checkpoint's weights.

    Args:
        checkpoint: the base model.
        adapters: its adapters.
        observer: told of every linear layer; None for nobody.
    """

    def __init__(
        self, checkpoint: Checkpoint, adapters: PeftAdapters, observer: Observer | None = None
    ) -> None:
        self._checkpoint = checkpoint
        self._adapters = adapters
        self._observer = observer
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
        states: dict[int, Array] = {}
        for index, item in enumerate(inputs):
            if item.base is None or (item.fork and item.fork.start.startswith("visual.")):
                states[index] = self._embed(item.sequence, images)
        for layer in range(self._decoder.num_layers):
            prefix = f"layers.{layer}"
            for index, item in enumerate(inputs):
                if item.base is not None and item.starts(prefix):
                    states[index] = states[item.base].copy()
            rows = list(states.values())
            self._layer(prefix, [inputs[index] for index in states], rows)
            states = dict(zip(states, rows, strict=True))
            step(1)
        norm, eps = self._checkpoint.float32("norm.weight"), self._decoder.rms_norm_eps
        hidden = [rms_norm(states[index], norm, eps) for index in range(len(inputs))]
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
        has_bias = module == PROJECTOR or module.endswith(("q_proj", "k_proj", "v_proj"))
        bias = self._checkpoint.float32(f"{module}.bias") if has_bias else np.float32(0)
        results = _products(inputs, module, states, weight, bias)
        for task in dict.fromkeys(item.task for item in inputs):
            pair = self._adapters.pair(module, task)
            if pair is None:
                continue
            members = [index for index, item in enumerate(inputs) if item.task == task]
            rows = np.concatenate([states[index] for index in members])
            deltas = _split((rows @ pair.a.T) @ pair.b.T, [len(states[index]) for index in members])
            for index, delta in zip(members, deltas, strict=True):
                results[index] += delta
        if module != PROJECTOR:
            self._observe(module, inputs, states, results)
        return results

    def _observe(
        self,
        module: str,
        owners: Sequence[ReferenceInput],
        states: Sequence[Array],
        results: Sequence[Array],
    ) -> None:
        if self._observer is not None:
            seen = [index for index, owner in enumerate(owners) if owner.observed]
            if seen:
                self._observer.see(module, [states[i] for i in seen], [results[i] for i in seen])

    def _layer(
        self,
        prefix: str,
        inputs: Sequence[ReferenceInput],
        states: list[Array],
    ) -> None:
        """Advance `states` by one layer, in place."""
        eps = self._decoder.rms_norm_eps
        weight = self._checkpoint.float32(f"{prefix}.input_layernorm.weight")
        normed = [rms_norm(state, weight, eps) for state in states]
        qkv = [self._linear(f"{prefix}.self_attn.{n}_proj", inputs, normed) for n in "qkv"]
        attended = [
            self._attend(prefix, item, *rows) for item, *rows in zip(inputs, *qkv, strict=True)
        ]
        outs = self._linear(f"{prefix}.self_attn.o_proj", inputs, attended)
        for state, out in zip(states, outs, strict=True):
            state += out
        weight = self._checkpoint.float32(f"{prefix}.post_attention_layernorm.weight")
        normed = [rms_norm(state, weight, eps) for state in states]
        # An observer sees all rows of a product at once.
        width = 0 if self._observer else self._decoder.intermediate_size
        for part in _parts(states, width):
            mine, x = inputs[part], normed[part]
            gate = self._linear(f"{prefix}.mlp.gate_proj", mine, x)
            up = self._linear(f"{prefix}.mlp.up_proj", mine, x)
            product = [silu(g) * u for g, u in zip(gate, up, strict=True)]
            outs = self._linear(f"{prefix}.mlp.down_proj", mine, product)
            for state, out in zip(states[part], outs, strict=True):
                state += out

    def _attend(self, prefix: str, item: ReferenceInput, q: Array, k: Array, v: Array) -> Array:
        decoder = self._decoder
        groups = decoder.num_heads // decoder.num_kv_heads
        table = rope_tables(item.sequence.positions, decoder)
        q = rotate(heads(q, decoder.num_heads), *table)
        k = rotate(heads(k, decoder.num_kv_heads), *table)
        v = heads(v, decoder.num_kv_heads)
        if item.fork is not None:
            q, k, v = (item.fork.rounding.attention(prefix, part) for part in (q, k, v))
        k, v = k.repeat(groups, axis=0), v.repeat(groups, axis=0)
        length = q.shape[1]
        return attention(q, k, v, np.tril(np.ones((length, length), np.bool_)))

    def _image_tokens(
        self, inputs: Sequence[ReferenceInput], step: Callable[[int], None]
    ) -> dict[int, Array]:
        """Return the image tokens of each image in raster order, by the image's identity."""
        vision = self._checkpoint.config.vision
        # Forks of the decoder share their base's images.
        own = [
            item
            for item in inputs
            if item.base is None or (item.fork and item.fork.start.startswith("visual."))
        ]
        owners = {id(image): item for item in own for image in item.sequence.images}
        images = {id(image): image for item in own for image in item.sequence.images}
        if not images:
            return {}
        layouts = {key: lay_out_images([image], vision) for key, image in images.items()}
        kernel = self._checkpoint.float32("visual.patch_embed.proj.weight")
        kernel = kernel.reshape(vision.hidden_size, vision.patch_features)
        first = [
            key for key, i in owners.items() if i.base is None or i.starts("visual.patch_embed")
        ]
        patches = [layouts[key].patches for key in first]
        owning = [owners[key] for key in first]
        rows = _products(owning, "visual.patch_embed", patches, kernel, np.float32(0))
        self._observe("visual.patch_embed", owning, patches, rows)
        states = dict(zip(first, rows, strict=True))
        for block in range(vision.depth):
            self._fork_images(f"visual.blocks.{block}", inputs, states)
            entries = [_Image(owners[key], layouts[key]) for key in states]
            full = block in vision.full_attention_blocks
            rows = self._vision_block(
                f"visual.blocks.{block}", list(states.values()), entries, full
            )
            states = dict(zip(states, rows, strict=True))
            step(1)
        self._fork_images("visual.merger", inputs, states)
        entries = [_Image(owners[key], layouts[key]) for key in states]
        tokens = {}
        for key, merged in zip(states, self._merge(list(states.values()), entries), strict=True):
            order, _ = window_order(images[key].grid, vision)
            tokens[key] = np.empty_like(merged)
            tokens[key][order] = merged
        return tokens

    def _fork_images(
        self, prefix: str, inputs: Sequence[ReferenceInput], states: dict[int, Array]
    ) -> None:
        """Add the states of images that leave their base at `prefix`."""
        for item in inputs:
            if item.base is not None and item.starts(prefix):
                bases = inputs[item.base].sequence.images
                for image, base in zip(item.sequence.images, bases, strict=True):
                    states[id(image)] = states[id(base)].copy()

    def _plain_linear(
        self, module: str, states: Sequence[Array], images: Sequence[_Image]
    ) -> list[Array]:
        weight = self._checkpoint.float32(f"{module}.weight")
        bias = self._checkpoint.float32(f"{module}.bias")
        owners = [image.owner for image in images]
        results = _products(owners, module, states, weight, bias)
        self._observe(module, owners, states, results)
        return results

    def _vision_block(
        self, prefix: str, states: list[Array], images: Sequence[_Image], full: bool
    ) -> list[Array]:
        """Return the states after one block; images do not see one another."""
        normed = self._vision_norm(f"{prefix}.norm1", states)
        attended = [
            self._vision_attend(prefix, image, qkv, full)
            for image, qkv in zip(
                images, self._plain_linear(f"{prefix}.attn.qkv", normed, images), strict=True
            )
        ]
        states = _sums(states, self._plain_linear(f"{prefix}.attn.proj", attended, images))
        normed = self._vision_norm(f"{prefix}.norm2", states)
        gate = self._plain_linear(f"{prefix}.mlp.gate_proj", normed, images)
        up = self._plain_linear(f"{prefix}.mlp.up_proj", normed, images)
        product = [silu(g) * u for g, u in zip(gate, up, strict=True)]
        return _sums(states, self._plain_linear(f"{prefix}.mlp.down_proj", product, images))

    def _vision_attend(self, prefix: str, image: _Image, qkv: Array, full: bool) -> Array:
        num_heads, layout = self._checkpoint.config.vision.num_heads, image.layout
        q, k, v = (heads(part, num_heads) for part in np.split(qkv, 3, axis=1))
        table = (layout.rope_cos, layout.rope_sin)
        q, k = rotate(q, *table), rotate(k, *table)
        if image.owner.fork is not None:
            q, k, v = (image.owner.fork.rounding.attention(prefix, part) for part in (q, k, v))
        owner = np.repeat(np.arange(len(layout.window_lengths)), layout.window_lengths)
        return attention(q, k, v, full | (owner[:, None] == owner[None]))

    def _vision_norm(self, name: str, states: Sequence[Array]) -> list[Array]:
        weight = self._checkpoint.float32(f"{name}.weight")
        return [rms_norm(state, weight, VISION_NORM_EPS) for state in states]

    def _merge(self, states: Sequence[Array], images: Sequence[_Image]) -> list[Array]:
        vision = self._checkpoint.config.vision
        width = vision.hidden_size * vision.spatial_merge_size**2
        normed = self._vision_norm("visual.merger.ln_q", states)
        grouped = [state.reshape(-1, width) for state in normed]
        inner = self._plain_linear("visual.merger.mlp.0", grouped, images)
        return self._plain_linear("visual.merger.mlp.2", [gelu(rows) for rows in inner], images)


def _products(
    owners: Sequence[ReferenceInput],
    module: str,
    states: Sequence[Array],
    weight: Array,
    bias: Array | np.float32,
) -> list[Array]:
    """Return x · weightᵀ + bias for each state, rounded where its owner has it rounded.

    Rows of all states that are rounded alike are multiplied at once: BLAS lays the weight out
    anew for each product, which for a short sequence costs more than the product itself.
    """
    groups: dict[Rounding | None, list[int]] = {}
    for index, owner in enumerate(owners):
        rounding = owner.fork.rounding if owner.fork is not None else None
        if rounding is not None and not rounding.covers(module):
            rounding = None
        groups.setdefault(rounding, []).append(index)
    results: dict[int, Array] = {}
    for rounding, members in groups.items():
        rows = np.concatenate([states[index] for index in members])
        if rounding is not None:
            product = rounding.linear(module, rows, weight, bias)
        else:
            product = rows @ weight.T
            product += bias
        lengths = [len(states[index]) for index in members]
        results |= zip(members, _split(product, lengths), strict=True)
    return [results[index] for index in range(len(states))]


def _parts(states: Sequence[Array], width: int) -> Iterator[slice]:
    """Yield slices of the states whose rows, `width` wide, take at most `MLP_BYTES`."""
    first = rows = 0
    for index, state in enumerate(states):
        if rows and (rows + len(state)) * width * state.itemsize > MLP_BYTES:
            yield slice(first, index)
            first, rows = index, 0
        rows += len(state)
    yield slice(first, len(states))


def _split(rows: Array, lengths: Sequence[int]) -> list[Array]:
    """Return views of the rows of each of several sequences."""
    return np.split(rows, np.cumsum(lengths)[:-1])


def _sums(states: Sequence[Array], branches: Sequence[Array]) -> list[Array]:
    return [state + branch for state, branch in zip(states, branches, strict=True)]
