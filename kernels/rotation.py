"""Rotation of channels in blocks before they are rounded to 8 bits.

A row's step is set by its largest value. Rotated, large values are shared out among the channels of
their block, and the step shrinks: three quarters for silu(gate) · up, whose values are seldom large
and then very (QuaRot, arXiv 2404.00456). The matrix is orthogonal, so that weights rotated the same
way give the same product.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["ROTATION", "hadamard", "rotate_rows", "rotate_weight", "rotated_width"]

#: Channels of a block.
ROTATION = 64


def hadamard() -> NDArray[np.float32]:
    """Return float32 [64, 64]: Sylvester's Hadamard matrix over 8, which is its own inverse."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < ROTATION:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.float32(ROTATION**0.5)


def rotated_width(channels: int) -> int:
    """Return the channels of a rotated row: the last block is filled with zeros first."""
    return -(-channels // ROTATION) * ROTATION


def rotate_rows(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return float32 [T, `rotated_width`] of float32 `x` [T, channels]."""
    padded = np.pad(x, ((0, 0), (0, rotated_width(x.shape[1]) - x.shape[1])))
    return (padded.reshape(-1, ROTATION) @ hadamard()).reshape(padded.shape)


def rotate_weight(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return float32 [`rotated_width`, out] of float32 `weight` [channels, out].

    `rotate_rows(x) @ rotate_weight(weight)` is x · weight.
    """
    channels, num_out = weight.shape
    padded = np.pad(weight, ((0, rotated_width(channels) - channels), (0, 0)))
    return (hadamard() @ padded.reshape(-1, ROTATION, num_out)).reshape(padded.shape)
