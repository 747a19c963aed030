"""Operations and values moved by each stage of the model, computed from the model's numbers.

An operation is one addition or one multiplication: a product of [m, k] and [k, n] has 2·m·k·n.
Norms, activations, rotations and additions of the residual are left out: their operations are few,
and the best kernels do them while they load or store what a product needs. Attention that masks the
future counts the pairs it needs, not the square.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trine.runtime.adapters.layout import lora_groups
from trine.runtime.bundle.model_config import DecoderConfig, ModelConfig, VisionConfig
from trine.runtime.preprocessing.image_processor import smart_resize
from trine.runtime.preprocessing.vision_inputs import window_order

__all__ = [
    "Stage",
    "image_grid",
    "image_stages",
    "image_tokens",
    "text_stages",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One part of a run.

    Attributes:
        name: what it is.
        kind: "linear" for products with weights, "attention" for products of activations, "head"
            for what stays float32 behind the decoder.
        operations: additions and multiplications.
        weights: values read once a run.
        inputs: activation values read.
        outputs: activation values written.
    """

    name: str
    kind: Literal["linear", "attention", "head"]
    operations: int
    weights: int
    inputs: int
    outputs: int


def text_stages(
    model: ModelConfig, lengths: Sequence[int], lora_rank: int = 0, multi: bool = False
) -> tuple[Stage, ...]:
    """Return the stages of one run over texts.

    Args:
        model: the numbers.
        lengths: tokens of each text, prefix included; packed without padding.
        lora_rank: of the adapter added at run time to each text; 0 where it is merged.
        multi: whether multi-vectors are made, instead of single vectors.
    """
    return (
        *_decoder_stages(model.decoder, lengths, lora_rank),
        _head_stage(model, sum(lengths), len(lengths), multi),
    )


def image_stages(
    model: ModelConfig,
    grid: tuple[int, int],
    num_images: int,
    scaffold_tokens: int,
    lora_rank: int = 0,
    multi: bool = False,
) -> tuple[Stage, ...]:
    """Return the stages of one run over images of equal size.

    Args:
        model: the numbers.
        grid: (rows, columns) of patches of each image.
        num_images: how many; each is an item of its own.
        scaffold_tokens: of the image prompt around the image's own tokens.
        lora_rank, multi: as in `text_stages`.
    """
    length = image_tokens(model.vision, grid) + scaffold_tokens
    return (
        *_vision_stages(model.vision, grid, num_images),
        *text_stages(model, [length] * num_images, lora_rank, multi),
    )


def image_grid(model: ModelConfig, height: int, width: int) -> tuple[int, int]:
    """Return (rows, columns) of patches of an image, resized as the model's processor does.

    Raises:
        InputError: one side is more than 200 times the other.
    """
    vision, image = model.vision, model.image
    factor = vision.patch_size * vision.spatial_merge_size
    rows, columns = smart_resize(height, width, factor, image.min_pixels, image.max_pixels)
    return rows // vision.patch_size, columns // vision.patch_size


def image_tokens(vision: VisionConfig, grid: tuple[int, int]) -> int:
    """Return how many tokens an image of `grid` patches has in the decoder."""
    return grid[0] * grid[1] // vision.spatial_merge_size**2


def _decoder_stages(
    decoder: DecoderConfig, lengths: Sequence[int], lora_rank: int
) -> tuple[Stage, ...]:
    tokens, layers = sum(lengths), decoder.num_layers
    hidden, inner = decoder.hidden_size, decoder.intermediate_size
    queries, keys = decoder.num_heads * decoder.head_dim, decoder.num_kv_heads * decoder.head_dim
    # Each token attends to itself and all before it.
    pairs = sum(length * (length + 1) // 2 for length in lengths)
    stages = [
        _linear("decoder q, k, v", layers, tokens, hidden, queries + 2 * keys),
        Stage(
            name="decoder attention",
            kind="attention",
            operations=layers * 4 * pairs * queries,
            weights=0,
            inputs=layers * tokens * (queries + 2 * keys),
            outputs=layers * tokens * queries,
        ),
        _linear("decoder attention output", layers, tokens, queries, hidden),
        _swiglu("decoder gate and up", layers, tokens, hidden, inner),
        _linear("decoder down", layers, tokens, inner, hidden),
    ]
    if lora_rank:
        stages.append(_adapter_stage(decoder, tokens, lora_rank))
    return tuple(stages)


def _adapter_stage(decoder: DecoderConfig, tokens: int, rank: int) -> Stage:
    """Return the stage of x·Aᵀ·B for one adapter a token; the graph adds it to each product.

    A product of several layers, as q, k and v, has A's of all of them over one input.
    """
    groups = lora_groups(decoder)
    ranks = sum(rank * len(group.modules) for group in groups)
    values = sum(
        rank * (len(group.modules) * group.num_in + sum(group.num_outs)) for group in groups
    )
    return Stage(
        name="adapters",
        kind="linear",
        operations=2 * tokens * values,
        weights=values,
        inputs=tokens * ranks,
        outputs=tokens * ranks,
    )


def _vision_stages(
    vision: VisionConfig, grid: tuple[int, int], num_images: int
) -> tuple[Stage, ...]:
    side, inner = vision.hidden_size, vision.intermediate_size
    patches = grid[0] * grid[1] * num_images
    full = len(vision.full_attention_blocks)
    _, window_tokens = window_order(grid, vision)
    window_sizes = window_tokens * vision.spatial_merge_size**2
    merged = side * vision.spatial_merge_size**2
    tokens = image_tokens(vision, grid) * num_images
    blocks = vision.depth
    return (
        _linear("vision patch embedding", 1, patches, vision.patch_features, side),
        _linear("vision q, k, v", blocks, patches, side, 3 * side),
        _full_attention(
            "vision attention in windows",
            blocks - full,
            int((window_sizes**2).sum()) * num_images,
            patches,
            side,
        ),
        _full_attention(
            "vision attention over the image",
            full,
            (grid[0] * grid[1]) ** 2 * num_images,
            patches,
            side,
        ),
        _linear("vision attention output", blocks, patches, side, side),
        _swiglu("vision gate and up", blocks, patches, side, inner),
        _linear("vision down", blocks, patches, inner, side),
        _linear("vision merger, first", 1, tokens, merged, merged),
        _linear("vision merger, second", 1, tokens, merged, vision.out_hidden_size),
    )


def _head_stage(model: ModelConfig, tokens: int, items: int, multi: bool) -> Stage:
    hidden, dim = model.decoder.hidden_size, model.projector_dim
    return Stage(
        name="projection to multi-vectors" if multi else "mean pooling",
        kind="head",
        operations=2 * tokens * hidden * dim if multi else tokens * hidden,
        weights=hidden * dim if multi else 0,
        inputs=tokens * hidden,
        outputs=tokens * dim if multi else items * hidden,
    )


def _linear(name: str, count: int, rows: int, num_in: int, num_out: int) -> Stage:
    """Return `count` products of [rows, num_in] and [num_in, num_out]."""
    return Stage(
        name=name,
        kind="linear",
        operations=count * 2 * rows * num_in * num_out,
        weights=count * num_in * num_out,
        inputs=count * rows * num_in,
        outputs=count * rows * num_out,
    )


def _swiglu(name: str, count: int, rows: int, num_in: int, inner: int) -> Stage:
    """Return gate and up as one product, silu(gate)·up being all that is written."""
    return Stage(
        name=name,
        kind="linear",
        operations=count * 2 * rows * num_in * 2 * inner,
        weights=count * num_in * 2 * inner,
        inputs=count * rows * num_in,
        outputs=count * rows * inner,
    )


def _full_attention(name: str, count: int, pairs: int, rows: int, side: int) -> Stage:
    """Return `count` attentions in both directions over `pairs` pairs of rows."""
    return Stage(
        name=name,
        kind="attention",
        operations=count * 4 * pairs * side,
        weights=0,
        inputs=count * rows * 3 * side,
        outputs=count * rows * side,
    )
