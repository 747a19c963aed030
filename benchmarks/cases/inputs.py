"""The arrays of a case, the same for every backend."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["image_pixels", "multi_vectors", "page_pixels", "token_ids"]

#: Of a multi-vector.
DIMENSIONS = 128


def token_ids(
    lengths: Sequence[int], num_ids: int, excluded: Sequence[int], seed: int = 0
) -> list[NDArray[np.int64]]:
    """Return int64 [T] for each length, drawn evenly.

    Args:
        lengths: of the texts, in tokens.
        num_ids: size of the vocabulary.
        excluded: ids that mean something to the model, such as the image token.
        seed: of the draw.
    """
    usable = np.setdiff1d(np.arange(num_ids), np.array(excluded, np.int64))
    source = np.random.default_rng(seed)
    return [usable[source.integers(0, len(usable), length)] for length in lengths]


def image_pixels(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return uint8 [height, width, 3]: smooth colours with noise, as photographs have."""
    source = np.random.default_rng(seed)
    coarse = source.uniform(0, 255, (height // 32 + 2, width // 32 + 2, 3))
    large = coarse.repeat(32, axis=0).repeat(32, axis=1)[:height, :width]
    noisy = large + source.normal(0, 12, (height, width, 1))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def page_pixels(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return uint8 [height, width, 3]: dark words of random widths in lines on white paper."""
    source = np.random.default_rng(seed)
    page = np.full((height, width, 3), 255, np.uint8)
    margin = width // 10
    for top in range(margin, height - margin, 24):
        left = margin
        while left < width - margin:
            word = int(source.integers(20, 110))
            page[top : top + 12, left : min(left + word, width - margin)] = 40
            left += word + 10
    return page


def multi_vectors(lengths: Sequence[int], seed: int = 0) -> list[NDArray[np.float32]]:
    """Return float32 [T, 128] for each length, rows of length 1."""
    source = np.random.default_rng(seed)
    found = []
    for length in lengths:
        rows = source.standard_normal((length, DIMENSIONS), np.float32)
        found.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    return found
