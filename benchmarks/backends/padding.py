"""Texts for competitors that take rectangles: padded in one batch, or sorted into several."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["BATCH", "embed_padded", "padded"]

#: Texts of a batch where they are sorted by length.
BATCH = 8

#: (token ids int64 [B, S], attention mask int64 [B, S]) → float32 [B, hidden], normalised.
Forward = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]


def padded(texts: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return token ids and attention mask, int64 [B, S] each, zeros behind each text's end."""
    lengths = np.array([len(text) for text in texts])
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    ids = np.zeros_like(mask)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
    return ids, mask


def embed_padded(
    forward: Forward, texts: Sequence[NDArray[np.int64]], batch: int | None
) -> NDArray[np.float32]:
    """Return float32 [texts, hidden], in order.

    Args:
        forward: runs one rectangle.
        texts: int64 [T] each.
        batch: texts a rectangle, sorted by length; None for all in one, as they come.
    """
    order = np.arange(len(texts))
    if batch is not None:
        order = np.argsort([len(text) for text in texts], kind="stable")
    size = batch or len(texts)
    parts = [
        forward(*padded([texts[index] for index in order[start : start + size]]))
        for start in range(0, len(order), size)
    ]
    stacked = np.concatenate(parts)
    vectors = np.empty_like(stacked)
    vectors[order] = stacked
    return vectors
