"""Operations of the model in plain numpy, for the reference (`trine.export.reference.model`).

float32 in and out, with sums of norms and softmax in float64.
"""

from math import erf, sqrt

import numpy as np
from numpy.typing import NDArray

__all__ = ["attention", "gelu", "heads", "rms_norm", "rotate", "silu"]

Array = NDArray[np.float32]


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """Return x / sqrt(mean(x²) + eps) · weight over the last axis."""
    square = np.square(x, dtype=np.float64).mean(axis=-1, keepdims=True)
    return ((x / np.sqrt(square + eps)) * weight).astype(np.float32)


def silu(x: Array) -> Array:
    """Return x · sigmoid(x), without overflow."""
    return x * (0.5 * (1.0 + np.tanh(0.5 * x))).astype(np.float32)


def gelu(x: Array) -> Array:
    """Return x · Φ(x) with the exact error function."""
    gate = np.vectorize(erf, otypes=[np.float64])(x / sqrt(2.0))
    return (x * 0.5 * (1.0 + gate)).astype(np.float32)


def heads(x: Array, num_heads: int) -> Array:
    """Return [heads, T, head size] of [T, heads × head size]."""
    return x.reshape(len(x), num_heads, -1).swapaxes(0, 1)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Return [heads, T, head size] with its halves rotated as pairs by the angle of each token."""
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def attention(q: Array, k: Array, v: Array, visible: NDArray[np.bool_]) -> Array:
    """Return [T, heads × head size] of [heads, T, head size] each; `visible` is bool [T, T]."""
    scores = q @ k.swapaxes(1, 2) / np.float32(np.sqrt(q.shape[-1]))
    scores = np.where(visible, scores, -np.inf).astype(np.float64)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return (weights.astype(np.float32) @ v).swapaxes(0, 1).reshape(q.shape[1], -1)
