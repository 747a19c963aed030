"""The numbers of a sample checkpoint: which they are, which sets of them are ready, what is valid.

The three ready sets are `tiny` (seconds in a test), `slice` (the published widths, few layers) and
`full` (every number as published); any number of theirs can be changed.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from math import gcd
from typing import Any, Literal, get_args

from trine.runtime.errors import InputError

__all__ = [
    "HARD_TRAITS",
    "SPECIAL_TOKENS",
    "Dtype",
    "HardTrait",
    "KeySpelling",
    "SampleSpec",
    "changed_spec",
]

Dtype = Literal["bfloat16", "float16", "float32"]
#: `published`: model.layers…, visual…; `resaved`: model.language_model.layers…, model.visual….
KeySpelling = Literal["published", "resaved"]
#: What can make a checkpoint hard to quantise; `trine.export.sample.hardness` says what they do.
HardTrait = Literal["swiglu", "residual", "first-token", "k-bias", "patch-spike"]
HARD_TRAITS: tuple[HardTrait, ...] = get_args(HardTrait)

#: Special tokens in the order of their ids, which begin at `SampleSpec.first_special_id`.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
#: A byte-level vocabulary has one symbol per byte value before anything else.
NUM_BYTE_SYMBOLS = 256
#: Derived Matryoshka sizes halve the vector at most this often, and not below this size.
MAX_HALVINGS, MIN_MATRYOSHKA_DIM = 4, 16
#: Least widths that leave most channels ordinary when a few are made large.
HARD_LEAST = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "vision_hidden_size": 16,
    "vision_intermediate_size": 16,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSpec:
    """Everything that decides the bytes of a sample checkpoint.

    Raises:
        InputError: the numbers do not make a model; all problems are listed at once.
    """

    # Decoder
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    #: Rotary pairs that follow the time, height and width position; sums to head_dim / 2.
    mrope_section: tuple[int, ...]
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6
    max_positions: int = 128_000
    # Vocabulary
    vocab_size: int
    #: Id of `SPECIAL_TOKENS[0]`; the others follow.
    first_special_id: int
    # Vision tower
    vision_hidden_size: int
    vision_depth: int
    vision_heads: int
    vision_intermediate_size: int
    #: Side of an attention window in pixels.
    window_size: int = 112
    full_attention_blocks: tuple[int, ...]
    patch_size: int = 14
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2
    min_pixels: int = 3_136
    max_pixels: int = 602_112
    # Outputs and adapters
    projector_dim: int
    matryoshka_dims: tuple[int, ...]
    tasks: tuple[str, ...] = ("retrieval", "text-matching", "code")
    rank: int
    alpha: int
    #: (pattern, rank) and (pattern, alpha) as in PEFT: a regular expression for the module name's
    #: end; the first that matches decides.
    rank_pattern: tuple[tuple[str, int], ...] = ()
    alpha_pattern: tuple[tuple[str, int], ...] = ()
    #: What makes the checkpoint hard to quantise; empty for values that all are of one scale.
    hard: tuple[HardTrait, ...] = ()
    # Files
    dtype: Dtype = "bfloat16"
    key_spelling: KeySpelling = "published"
    #: 1 writes `model.safetensors` without an index.
    num_shards: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [*_not_positive(self)]
        if not problems:  # the further checks divide by these numbers
            problems = [*_decoder_problems(self), *_vision_problems(self), *_other_problems(self)]
        if problems:
            raise InputError("the sample checkpoint cannot be made: " + "; ".join(problems))

    @classmethod
    def tiny(cls) -> "SampleSpec":
        """Return a model of about 0.2 million parameters, for tests."""
        return cls(
            hidden_size=64,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            intermediate_size=128,
            mrope_section=(2, 3, 3),
            vocab_size=800,
            first_special_id=768,
            vision_hidden_size=32,
            vision_depth=2,
            vision_heads=2,
            vision_intermediate_size=52,
            full_attention_blocks=(1,),
            projector_dim=16,
            matryoshka_dims=(16, 32, 64),
            rank=4,
            alpha=8,
        )

    @classmethod
    def slice(cls) -> "SampleSpec":
        """Return the published widths and vocabulary with 4 layers and 4 vision blocks."""
        return replace(
            cls.full(), num_layers=4, vision_depth=4, full_attention_blocks=(1, 3), num_shards=1
        )

    @classmethod
    def full(cls) -> "SampleSpec":
        """Return every number of the published model: 3.93 billion parameters with the adapters."""
        return cls(
            hidden_size=2048,
            num_layers=36,
            num_heads=16,
            num_kv_heads=2,
            intermediate_size=11008,
            mrope_section=(16, 24, 24),
            vocab_size=151_936,
            first_special_id=151_643,
            vision_hidden_size=1280,
            vision_depth=32,
            vision_heads=16,
            vision_intermediate_size=3420,
            full_attention_blocks=(7, 15, 23, 31),
            projector_dim=128,
            matryoshka_dims=(128, 256, 512, 1024, 2048),
            rank=32,
            alpha=32,
            num_shards=2,
        )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    def special_id(self, token: str) -> int:
        """Return the id of one of `SPECIAL_TOKENS`."""
        return self.first_special_id + SPECIAL_TOKENS.index(token)


def changed_spec(base: SampleSpec, changes: Mapping[str, Any]) -> SampleSpec:
    """Return `base` with `changes`, and with what follows from them unless that is given too.

    Follow: KV heads from heads; the rotary sections from the head size; the Matryoshka sizes from
    the hidden size; the full-attention blocks from the vision depth; the special ids and the
    vocabulary size from each other.

    Args:
        base: usually one of the ready sets.
        changes: values by field name.

    Raises:
        InputError: a name is not a field, or the result is not valid.
    """
    known = {field.name for field in fields(SampleSpec)}
    if unknown := sorted(set(changes) - known):
        raise InputError(f"a sample checkpoint has no {unknown}; known are {sorted(known)}")
    derived: dict[str, Any] = {}
    heads = changes.get("num_heads", base.num_heads)
    hidden = changes.get("hidden_size", base.hidden_size)
    if "num_heads" in changes:
        derived["num_kv_heads"] = gcd(heads, base.num_kv_heads)
    if heads > 0 and {"num_heads", "hidden_size"} & set(changes):
        derived["mrope_section"] = _mrope_section(hidden // heads)
    if "hidden_size" in changes:
        derived["matryoshka_dims"] = _matryoshka_dims(hidden)
    if "vision_depth" in changes:
        depth = changes["vision_depth"]
        kept = tuple(block for block in base.full_attention_blocks if block < depth)
        derived["full_attention_blocks"] = kept or (depth - 1,)
    if "vocab_size" in changes:
        room = changes["vocab_size"] - len(SPECIAL_TOKENS)
        derived["first_special_id"] = min(base.first_special_id, room)
    if "first_special_id" in changes:
        least = changes["first_special_id"] + len(SPECIAL_TOKENS)
        derived["vocab_size"] = max(base.vocab_size, least)
    return replace(base, **{**derived, **changes})


def _mrope_section(head_dim: int) -> tuple[int, int, int]:
    """Split half the head size into time, height and width about as 16:24:24."""
    pairs = head_dim // 2
    side = max(1, pairs * 3 // 8)
    return pairs - 2 * side, side, side


def _matryoshka_dims(hidden_size: int) -> tuple[int, ...]:
    dims = [hidden_size]
    while len(dims) <= MAX_HALVINGS and dims[0] % 2 == 0 and dims[0] // 2 >= MIN_MATRYOSHKA_DIM:
        dims.insert(0, dims[0] // 2)
    return tuple(dims)


def _not_positive(spec: SampleSpec) -> Iterator[str]:
    for field in fields(spec):
        value = getattr(spec, field.name)
        least = 0 if field.name == "seed" else 1
        if isinstance(value, int) and value < least:
            yield f"{field.name} is {value}, give at least {least}"
    for name in ("rope_theta", "rms_norm_eps"):
        if getattr(spec, name) <= 0:
            yield f"{name} is {getattr(spec, name)}, give a positive number"


def _decoder_problems(spec: SampleSpec) -> Iterator[str]:
    if spec.hidden_size % spec.num_heads or spec.head_dim % 2:
        yield (
            f"hidden_size {spec.hidden_size} over num_heads {spec.num_heads} is not an even "
            "whole number"
        )
    if spec.num_heads % spec.num_kv_heads:
        yield f"num_kv_heads {spec.num_kv_heads} does not divide num_heads {spec.num_heads}"
    section = spec.mrope_section
    if len(section) != 3 or min(section) < 1 or 2 * sum(section) != spec.head_dim:
        yield (
            f"mrope_section {list(section)} must be three positive numbers that sum to half the "
            f"head size of {spec.head_dim}"
        )
    last = spec.first_special_id + len(SPECIAL_TOKENS)
    if spec.first_special_id < NUM_BYTE_SYMBOLS or last > spec.vocab_size:
        yield (
            f"first_special_id {spec.first_special_id} must be at least {NUM_BYTE_SYMBOLS} and "
            f"leave {len(SPECIAL_TOKENS)} ids below vocab_size {spec.vocab_size}"
        )


def _vision_problems(spec: SampleSpec) -> Iterator[str]:
    if spec.vision_hidden_size % spec.vision_heads or (
        spec.vision_hidden_size // spec.vision_heads % 4
    ):
        yield (
            f"vision_hidden_size {spec.vision_hidden_size} over vision_heads {spec.vision_heads} "
            "is not a multiple of 4"
        )
    factor = spec.patch_size * spec.spatial_merge_size
    if spec.window_size % factor:
        yield f"window_size {spec.window_size} is not a multiple of a merged patch of {factor}"
    blocks = spec.full_attention_blocks
    if sorted(set(blocks)) != list(blocks) or not set(blocks) <= set(range(spec.vision_depth)):
        yield (
            f"full_attention_blocks {list(blocks)} must be ascending and below vision_depth "
            f"{spec.vision_depth}"
        )
    if not factor**2 <= spec.min_pixels <= spec.max_pixels:
        yield (
            f"min_pixels {spec.min_pixels} must lie between {factor**2} and max_pixels "
            f"{spec.max_pixels}"
        )


def _other_problems(spec: SampleSpec) -> Iterator[str]:
    dims = spec.matryoshka_dims
    if not dims or sorted(set(dims)) != list(dims) or dims[0] < 1 or dims[-1] > spec.hidden_size:
        yield (
            f"matryoshka_dims {list(dims)} must be ascending and at most hidden_size "
            f"{spec.hidden_size}"
        )
    if not spec.tasks or len(set(spec.tasks)) != len(spec.tasks):
        yield f"tasks {list(spec.tasks)} must be at least one name, each once"
    if bad := [task for task in spec.tasks if not re.fullmatch(r"[A-Za-z0-9_-]+", task)]:
        yield f"tasks {bad} must consist of letters, digits, '-' and '_'"
    for name, allowed in (("dtype", get_args(Dtype)), ("key_spelling", get_args(KeySpelling))):
        if getattr(spec, name) not in allowed:
            yield f"{name} is {getattr(spec, name)!r}, choose one of {list(allowed)}"
    if spec.hard:
        yield from _hard_problems(spec)
    for pattern, value in (*spec.rank_pattern, *spec.alpha_pattern):
        if value < 1:
            yield f"the pattern {pattern!r} has {value}, give at least 1"
        try:
            re.compile(pattern)
        except re.error as cause:
            yield f"the pattern {pattern!r} is not a regular expression ({cause})"


def _hard_problems(spec: SampleSpec) -> Iterator[str]:
    if unknown := [trait for trait in spec.hard if trait not in HARD_TRAITS]:
        yield f"hard has {unknown}, choose of {list(HARD_TRAITS)}"
    if len(set(spec.hard)) != len(spec.hard):
        yield f"hard {list(spec.hard)} must have each name once"
    for name, least in HARD_LEAST.items():
        if getattr(spec, name) < least:
            yield f"{name} is {getattr(spec, name)}, a hard checkpoint needs at least {least}"
