"""Makes a sample checkpoint as hard to quantise as a trained one.

Random weights keep all activations on one scale; trained models do not. Each trait imitates one
way in which they do not (Massive Activations in Large Language Models,
https://arxiv.org/abs/2402.17762; SmoothQuant, https://arxiv.org/abs/2211.10438). What a trait
makes large is made small again further on, so that the rest still shows in the vectors.

swiglu       some channels of SiLU(gate) · up reach about 1e3 to 1e5, or more where traits meet, in
             every second block of both stacks, the last one included; the columns of down_proj
             that read them are small
residual     some hidden channels are about constant and at least 50 times the others, in every
             layer of the decoder and after the first attention of the vision tower; norm weights
             lower them, but not to the others' size
first-token  the first MLP of the decoder answers the first token of a sequence with a product of
             about 1e4 and writes it to a few hidden channels: from then on its hidden state is at
             least 100 times that of others
k-bias       ±100 among the biases of every k_proj
patch-spike  the last MLP of the vision tower answers patches that are red with 1e5 and more in one
             hidden channel, which float16 cannot hold
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from trine.export.sample.edits import Edit
from trine.export.sample.layout import IN_CHANNELS
from trine.export.sample.spec import HardTrait, SampleSpec

__all__ = ["hard_edits"]

#: Largest values of the SwiGLU channels, the first and the last of a geometric series.
SWIGLU_PEAKS = (1e3, 1e5)
#: One channel of so many is large, but at least the two ends of the series.
SWIGLU_SHARE, SWIGLU_LEAST = 1024, 2
#: SiLU(gate) · up of a channel that was not changed, at its largest among some hundred tokens.
USUAL_PEAK = 3.0
#: How loud a large channel is beyond down_proj, where 1 is as loud as another channel.
SWIGLU_LOUDNESS = 3.0
#: How many times the others a large hidden channel is, at least, and at most behind a norm.
RESIDUAL_FACTOR, RESIDUAL_LOUDNESS = 50.0, 8.0
#: Spread of a large hidden channel against the others'.
RESIDUAL_SPREAD = 5.0
#: Behind a norm, large channels have at most this share of the others' energy: narrow models would
#: hear nothing else.
RESIDUAL_ENERGY = 0.1
#: One hidden channel of so many is large, but at least one.
RESIDUAL_SHARE = 512
#: What a layer adds to the variance of a usual hidden channel, which starts at 1.
DECODER_GROWTH, VISION_GROWTH = 0.6, 0.2
#: Hidden channels that carry the first token's state.
FIRST_TOKEN_CHANNELS = 4
#: Size of the first token's state against the others', with room for what norm weights take.
FIRST_TOKEN_FACTOR = 200.0
#: Product that the first token causes: large, but within float16.
FIRST_TOKEN_PRODUCT = 1e4
#: The channel that tells the first token from others: its value there, and the others' size.
MARKER, MARKER_OTHERS = 16.0, 0.05
K_BIAS = 100.0
#: What the channel that tells red patches is per unit of normalised red less blue.
REDNESS = 4.0
#: Behind the norm, where that channel begins to cause a spike; the gate's slope from there; up's
#: bias; the weight of their product.
SPIKE_START, SPIKE_GATE, SPIKE_UP, SPIKE_DOWN = 2.0, 20.0, 200.0, 20.0

Edits = Iterator[tuple[str, Edit]]


@dataclass(frozen=True, slots=True)
class _Stack:
    """One stack's hidden state: its size, its course, and the channels that traits make large.

    No two of the hidden channels are alike, nor of the channels of an MLP.
    """

    size: int
    depth: int
    growth: float
    residual: tuple[int, ...]
    massive: tuple[int, ...]
    marker: int
    swiglu: tuple[int, ...]
    trigger: int

    def usual(self, depth: int) -> float:
        """Return the root mean square of a usual channel after `depth` layers."""
        return sqrt(1 + self.growth * depth)

    @property
    def large(self) -> float:
        """The value of a large channel, the same at every depth."""
        return RESIDUAL_FACTOR * self.usual(self.depth)

    def norm(self, name: str, depth: int, loudness: float | None = None) -> Edits:
        """Undo what large channels do to the others behind a norm, and lower them to `loudness`."""
        relative, count = self.large / self.usual(depth), len(self.residual)
        if loudness is None:
            loudness = min(RESIDUAL_LOUDNESS, sqrt(RESIDUAL_ENERGY * self.size / count))
        yield f"{name}.weight", Edit(factor=sqrt(1 + count * relative**2 / self.size))
        yield f"{name}.weight", Edit(rows=self.residual, factor=loudness / relative)


def hard_edits(spec: SampleSpec, first_ids: Sequence[int]) -> Mapping[str, Sequence[Edit]]:
    """Return the edits of the tensors that `spec.hard` changes, by published name.

    Args:
        spec: all numbers.
        first_ids: token ids that a sequence can begin with.
    """
    decoder = _stack(
        spec, "decoder", spec.hidden_size, spec.intermediate_size, spec.num_layers, DECODER_GROWTH
    )
    vision = _stack(
        spec,
        "vision",
        spec.vision_hidden_size,
        spec.vision_intermediate_size,
        spec.vision_depth,
        VISION_GROWTH,
    )
    traits: dict[HardTrait, Callable[[], Edits]] = {
        "swiglu": lambda: _swiglu(spec, decoder, vision),
        "residual": lambda: _residual(decoder, vision),
        "first-token": lambda: _first_token(spec, decoder, first_ids),
        "k-bias": lambda: _k_bias(spec),
        "patch-spike": lambda: _patch_spike(spec, vision),
    }
    edits: defaultdict[str, list[Edit]] = defaultdict(list)
    for trait, changes in traits.items():
        if trait in spec.hard:
            for name, edit in changes():
                edits[name].append(edit)
    return dict(edits)


def _random(spec: SampleSpec, purpose: str) -> np.random.Generator:
    seed = hashlib.sha256(f"{spec.seed}:hard:{purpose}".encode()).digest()
    return np.random.Generator(np.random.SFC64(int.from_bytes(seed, "little")))


def _stack(
    spec: SampleSpec, name: str, size: int, mlp_size: int, depth: int, growth: float
) -> _Stack:
    source = _random(spec, name)
    hidden, inner = source.permutation(size).tolist(), source.permutation(mlp_size).tolist()
    massive_end = 1 + FIRST_TOKEN_CHANNELS
    residual_end = massive_end + max(1, size // RESIDUAL_SHARE)
    return _Stack(
        size=size,
        depth=depth,
        growth=growth,
        residual=tuple(hidden[massive_end:residual_end]),
        massive=tuple(hidden[1:massive_end]),
        marker=hidden[0],
        swiglu=tuple(inner[1 : 1 + max(SWIGLU_LEAST, mlp_size // SWIGLU_SHARE)]),
        trigger=inner[0],
    )


def _swiglu(spec: SampleSpec, decoder: _Stack, vision: _Stack) -> Edits:
    for layer in _every_second(spec.num_layers):
        prefix = f"layers.{layer}.mlp"
        for channel, gain in _gains(decoder):
            for name in ("gate_proj", "up_proj"):
                yield from _decoder_rows(spec, f"{prefix}.{name}", (channel,), sqrt(gain))
            yield from _decoder_columns(
                spec, f"{prefix}.down_proj", (channel,), SWIGLU_LOUDNESS / gain
            )
    for block in _every_second(spec.vision_depth):
        prefix = f"visual.blocks.{block}.mlp"
        for channel, gain in _gains(vision):
            for name in ("gate_proj", "up_proj"):
                yield from _vision_rows(f"{prefix}.{name}", (channel,), sqrt(gain))
            down = Edit(columns=(channel,), factor=SWIGLU_LOUDNESS / gain)
            yield f"{prefix}.down_proj.weight", down


def _gains(stack: _Stack) -> Iterator[tuple[int, float]]:
    """Yield the SwiGLU channels, and how many times what they were they become."""
    peaks = np.geomspace(*SWIGLU_PEAKS, len(stack.swiglu)) / USUAL_PEAK
    yield from zip(stack.swiglu, peaks.tolist(), strict=True)


def _residual(decoder: _Stack, vision: _Stack) -> Edits:
    rows = decoder.residual
    spread = RESIDUAL_SPREAD
    embedded = Edit(columns=rows, factor=spread, offset=decoder.large)
    yield "model.embed_tokens.weight", embedded
    yield from _vision_rows("visual.merger.mlp.2", rows, spread)
    yield "visual.merger.mlp.2.bias", Edit(rows=rows, offset=decoder.large)
    for layer in range(decoder.depth):
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield from decoder.norm(f"model.layers.{layer}.{name}", layer)
    yield from decoder.norm("model.norm", decoder.depth, loudness=1.0)
    # A patch embedding has no bias that could make a channel constant, but the first block has.
    yield "visual.blocks.0.attn.proj.bias", Edit(rows=vision.residual, offset=vision.large)
    for block in range(vision.depth):
        if block:
            yield from vision.norm(f"visual.blocks.{block}.norm1", block)
        yield from vision.norm(f"visual.blocks.{block}.norm2", block)
    yield from vision.norm("visual.merger.ln_q", vision.depth, loudness=1.0)


def _first_token(spec: SampleSpec, stack: _Stack, first_ids: Sequence[int]) -> Edits:
    marker, trigger, prefix = (stack.marker,), (stack.trigger,), "layers.0.mlp"
    yield "model.embed_tokens.weight", Edit(columns=marker, factor=MARKER_OTHERS)
    marked = Edit(rows=tuple(first_ids), columns=marker, factor=0.0, offset=MARKER)
    yield "model.embed_tokens.weight", marked
    yield from _vision_rows("visual.merger.mlp.2", marker, MARKER_OTHERS)
    yield from _decoder_rows(spec, "layers.0.self_attn.o_proj", marker, MARKER_OTHERS)
    num_large = len(stack.residual) if "residual" in spec.hard else 0
    others = sqrt(stack.usual(stack.depth) ** 2 + num_large * stack.large**2 / stack.size)
    before = sqrt(1 + num_large * stack.large**2 / stack.size)
    normed = MARKER * before / sqrt(before**2 + MARKER**2 / stack.size)
    for name in ("gate_proj", "up_proj"):
        yield from _decoder_rows(spec, f"{prefix}.{name}", trigger, 0.0)
        reading = Edit(rows=trigger, columns=marker, offset=sqrt(FIRST_TOKEN_PRODUCT) / normed)
        yield f"model.{prefix}.{name}.weight", reading
    yield from _decoder_columns(spec, f"{prefix}.down_proj", trigger, 1 / FIRST_TOKEN_PRODUCT)
    target = FIRST_TOKEN_FACTOR * others * sqrt(stack.size / len(stack.massive))
    for index, row in enumerate(stack.massive):
        value = (-1) ** index * target / FIRST_TOKEN_PRODUCT
        written = Edit(rows=(row,), columns=trigger, factor=0.0, offset=value)
        yield f"model.{prefix}.down_proj.weight", written


def _k_bias(spec: SampleSpec) -> Edits:
    """Set the pair of the slowest rotation in every head, and one more channel in one head."""
    source, half = _random(spec, "k-bias"), spec.head_dim // 2
    for layer in range(spec.num_layers):
        slowest = [
            head * spec.head_dim + channel
            for head in range(spec.num_kv_heads)
            for channel in (half - 1, spec.head_dim - 1)
        ]
        another = int(source.integers(spec.num_kv_heads * spec.head_dim))
        for row in sorted({*slowest, another}):
            value = K_BIAS if source.integers(2) else -K_BIAS
            edit = Edit(rows=(row,), factor=0.0, offset=value)
            yield f"model.layers.{layer}.self_attn.k_proj.bias", edit


def _patch_spike(spec: SampleSpec, stack: _Stack) -> Edits:
    marker, trigger, prefix = (stack.marker,), (stack.trigger,), "visual.blocks"
    num_features = IN_CHANNELS * spec.temporal_patch_size * spec.patch_size**2
    per_channel = num_features // IN_CHANNELS
    for first, sign in ((0, 1), (per_channel, 0), (num_features - per_channel, -1)):
        columns = tuple(range(first, first + per_channel))
        redness = Edit(
            rows=marker, columns=columns, factor=0.0, offset=sign * REDNESS / per_channel
        )
        yield "visual.patch_embed.proj.weight", redness
    mlp = f"{prefix}.{stack.depth - 1}.mlp"
    for name in ("gate_proj", "up_proj"):
        yield from _vision_rows(f"{mlp}.{name}", trigger, 0.0)
    yield f"{mlp}.gate_proj.weight", Edit(rows=trigger, columns=marker, offset=SPIKE_GATE)
    yield f"{mlp}.gate_proj.bias", Edit(rows=trigger, offset=-SPIKE_GATE * SPIKE_START)
    yield f"{mlp}.up_proj.bias", Edit(rows=trigger, offset=SPIKE_UP)
    yield f"{mlp}.down_proj.weight", Edit(columns=trigger, factor=1 / (SPIKE_GATE * SPIKE_UP))
    spike = Edit(rows=stack.massive[:1], columns=trigger, factor=0.0, offset=SPIKE_DOWN)
    yield f"{mlp}.down_proj.weight", spike


def _every_second(count: int) -> range:
    return range((count - 1) % 2, count, 2)


def _decoder_rows(spec: SampleSpec, module: str, rows: tuple[int, ...], factor: float) -> Edits:
    """Scale outputs of a decoder layer without a bias, and of all its adapters."""
    edit = Edit(rows=rows, factor=factor)
    yield f"model.{module}.weight", edit
    for task in spec.tasks:
        yield f"base_model.model.model.language_model.{module}.lora_B.{task}.weight", edit


def _decoder_columns(
    spec: SampleSpec, module: str, columns: tuple[int, ...], factor: float
) -> Edits:
    """Scale what a decoder layer makes of some inputs, and what its adapters make of them."""
    edit = Edit(columns=columns, factor=factor)
    yield f"model.{module}.weight", edit
    for task in spec.tasks:
        yield f"base_model.model.model.language_model.{module}.lora_A.{task}.weight", edit


def _vision_rows(module: str, rows: tuple[int, ...], factor: float) -> Edits:
    """Scale outputs of a linear layer with a bias."""
    edit = Edit(rows=rows, factor=factor)
    yield f"{module}.weight", edit
    yield f"{module}.bias", edit
