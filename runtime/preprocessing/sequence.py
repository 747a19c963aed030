"""Assembles what the decoder reads of one item: token ids, rotary positions, what is pooled."""

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.runtime.bundle.model_config import DecoderConfig, TokenIds
from trine.runtime.preprocessing.image_processor import ImagePatches
from trine.runtime.preprocessing.tokenizer import Scaffold

__all__ = ["TokenSequence", "image_sequence", "rope_tables", "text_sequence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSequence:
    """One item as the decoder sees it.

    Attributes:
        token_ids: int64 [T]; image tokens hold the image-pad id.
        positions: int64 [3, T]: time, height and width position of each token.
        pooled: bool [T], the tokens that make the single vector.
        images: the images, in order.
        image_slots: int64 [N], places in the sequence that image tokens fill, images in order and
            each in raster order.
        truncated: whether the text was cut.
    """

    token_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    pooled: NDArray[np.bool_]
    images: tuple[ImagePatches, ...] = ()
    image_slots: NDArray[np.int64]
    truncated: bool = False

    def __len__(self) -> int:
        return len(self.token_ids)


def text_sequence(token_ids: NDArray[np.int64], max_length: int) -> TokenSequence:
    """Return the sequence of a text whose prefix is already in `token_ids` (int64 [T]).

    The end is cut beyond `max_length` tokens; all tokens are pooled.
    """
    kept = token_ids[:max_length]
    return TokenSequence(
        token_ids=kept,
        positions=np.broadcast_to(np.arange(len(kept)), (3, len(kept))),
        pooled=np.ones(len(kept), np.bool_),
        image_slots=np.empty(0, np.int64),
        truncated=len(kept) < len(token_ids),
    )


def image_sequence(
    images: SequenceOf[ImagePatches],
    text_ids: NDArray[np.int64] | None,
    scaffold: Scaffold,
    ids: TokenIds,
    merge: int,
    truncated: bool = False,
) -> TokenSequence:
    """Return the sequence of images, with a text or the published "Describe the image.".

    Pooled are the vision spans with both their markers, and the caller's text; not the scaffolding.
    Positions as Qwen2.5-VL's `get_rope_index` has them: text runs on in all three axes, an image
    token takes the row and column of its place in the merged grid, and what follows an image
    starts behind its longest side.

    Args:
        images: at least one.
        text_ids: int64 [T], prefix included, already cut; None for the published prompt.
        scaffold: token ids around the images.
        ids: of the vision markers.
        merge: patches per image token along each side.
        truncated: whether the caller cut the text.
    """
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], bool]] = []
    slots = []
    next_position = length = 0

    def append_text(token_ids: NDArray[np.int64], pooled: bool) -> None:
        nonlocal next_position, length
        span = next_position + np.arange(len(token_ids))
        parts.append((token_ids, np.broadcast_to(span, (3, len(span))), pooled))
        next_position += len(token_ids)
        length += len(token_ids)

    append_text(scaffold.head, False)
    for image in images:
        append_text(np.array([ids.vision_start]), True)
        rows, columns = (side // merge for side in image.grid)
        row, column = np.divmod(np.arange(rows * columns), columns)
        positions = next_position + np.stack([np.zeros_like(row), row, column])
        parts.append((np.full(len(row), ids.image_pad), positions, True))
        slots.append(length + np.arange(len(row)))
        next_position += max(rows, columns)
        length += len(row)
        append_text(np.array([ids.vision_end]), True)
    append_text(scaffold.text if text_ids is None else text_ids, text_ids is not None)
    append_text(scaffold.tail, False)
    return TokenSequence(
        token_ids=np.concatenate([token_ids for token_ids, _, _ in parts]),
        positions=np.concatenate([positions for _, positions, _ in parts], axis=1),
        pooled=np.concatenate([np.full(len(t), pooled) for t, _, pooled in parts]),
        images=tuple(images),
        image_slots=np.concatenate(slots),
        truncated=truncated,
    )


def rope_tables(
    positions: NDArray[np.int64], decoder: DecoderConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cosines and sines, float32 [T, head_dim / 2], of the decoder's rotary embedding.

    Frequency pairs are shared out among the three axes by `mrope_section`. The angle is a float32
    product of position and frequency, as in the published code, whose rounding shows at positions
    in the thousands.

    Args:
        positions: int64 [3, T].
        decoder: rotary base and sections.
    """
    dim = decoder.head_dim
    exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    power = (decoder.rope_theta ** exponent.astype(np.float64)).astype(np.float32)
    frequency = np.float32(1.0) / power
    axis = np.repeat(np.arange(3), decoder.mrope_section)
    angles = positions.astype(np.float32)[axis].T * frequency
    return np.cos(angles), np.sin(angles)
