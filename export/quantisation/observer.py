"""Observes what calibration inputs do to each linear layer of the float32 model.

The reference (`trine.export.reference.model`) reports every product it computes; kept are the
magnitudes that decide whether a tensor fits a narrower format, and a few rows to measure errors on.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.kernels.rotation import rotate_rows
from trine.runtime.bundle.precision import linear_role

__all__ = ["ROTATED_ROLES", "LinearRange", "RangeScan", "linear_name"]

#: Rows of a layer's input that are kept: the first of each sequence, which is often unlike all
#: others, and some of the rest.
KEPT_ROWS = 64
#: Layers that read silu(gate) · up, which has few large values, elsewhere in every row. Rotated
#: they are shared out.
ROTATED_ROLES = frozenset({"mlp.down", "mlp.down_proj"})
#: The reference's modules of the decoder whose products one layer of the graph computes.
_MODULE = re.compile(r"^(layers\.\d+\.)(self_attn\.)?(mlp\.)?([a-z]+)_proj$")


def linear_name(module: str) -> str:
    """Return a module's name in the graphs (`trine.runtime.bundle.precision`)."""
    if module.startswith("visual."):
        return module.removeprefix("visual.")
    match = _MODULE.match(module)
    if match is None:
        return module
    layer, attention, mlp, part = match.groups()
    return f"{layer}{attention or mlp}{'qkv' if part in ('q', 'k', 'v') else part}"


@dataclass(slots=True)
class LinearRange:
    """What was seen of one linear layer.

    Attributes:
        channel_max: float32 [in], largest magnitude of each input channel.
        mean_square: float32 [in], of each input channel over all tokens.
        rows: float32 [n, in], a sample of the inputs.
        output_max: largest magnitude of the output by module, without adapters' bounds.
        rotated_max: float32 [`rotated_width`], as `channel_max` of the rotated inputs
            (`trine.kernels.rotation`); None for layers whose inputs are not worth rotating.
    """

    channel_max: NDArray[np.float32]
    mean_square: NDArray[np.float32]
    rows: NDArray[np.float32]
    output_max: dict[str, float]
    rotated_max: NDArray[np.float32] | None = None

    @property
    def input_max(self) -> float:
        return float(self.channel_max.max())


class RangeScan:
    """Collects ranges while the reference runs; `ranges` is by the graphs' layer names."""

    def __init__(self) -> None:
        self.ranges: dict[str, LinearRange] = {}

    def see(
        self,
        module: str,
        inputs: Sequence[NDArray[np.float32]],
        outputs: Sequence[NDArray[np.float32]],
    ) -> None:
        """Record one module's products for all sequences.

        Args:
            module: of the checkpoint.
            inputs: float32 [T, in] of each sequence.
            outputs: float32 [T, out] of each sequence, biases and adapters included.
        """
        name = linear_name(module)
        if name not in self.ranges:
            self.ranges[name] = _range_of(inputs, linear_role(name) in ROTATED_ROLES)
        self.ranges[name].output_max[module] = max(float(np.abs(y).max()) for y in outputs)


def _range_of(inputs: Sequence[NDArray[np.float32]], rotated: bool) -> LinearRange:
    total = sum(len(x) for x in inputs)
    each = max(1, KEPT_ROWS // len(inputs))
    kept = [x[np.unique(np.linspace(0, len(x) - 1, each).astype(int))] for x in inputs]
    squares = sum(np.square(x, dtype=np.float64).sum(axis=0) for x in inputs)
    return LinearRange(
        channel_max=_channel_max(inputs),
        mean_square=np.asarray(squares / total, np.float32),
        rows=np.concatenate(kept)[: 4 * KEPT_ROWS],
        output_max={},
        rotated_max=_channel_max([rotate_rows(x) for x in inputs]) if rotated else None,
    )


def _channel_max(inputs: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.asarray(np.max([np.abs(x).max(axis=0) for x in inputs], axis=0), np.float32)
