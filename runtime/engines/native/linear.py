"""Linear layers of the native engine: in 8 bits, in bfloat16, or in float32."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.kernels.cpu.kernels import CpuKernels, Quantised, Side
from trine.kernels.cpu.packed import PackedBFloat16, PackedInt8, padded_depth
from trine.kernels.rotation import rotated_width
from trine.runtime.engines.native.workspace import Workspace

__all__ = [
    "BFloat16Linear",
    "FloatLinear",
    "Int8Linear",
    "Linear",
    "Outliers",
    "PackedLinear",
    "Rows",
]

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Outliers:
    """Input channels that are multiplied in float32 beside the rest.

    Attributes:
        channels: int64 [n].
        inliers: float32 [in], 0 for these channels, 1 for the rest.
        weight: float32 [n, out].
    """

    channels: NDArray[np.int64]
    inliers: Floats
    weight: Floats

    @property
    def key(self) -> bytes:
        """What layers must share to share quantised rows."""
        return self.channels.tobytes()


class Rows:
    """Some rows of activations, float32 and, quantised once for all layers that read them, 8-bit.

    Args:
        kernels: to compute with.
        workspace: for the 8-bit rows.
        x: float32 [T, width]; rows may be strided.
    """

    def __init__(self, kernels: CpuKernels, workspace: Workspace, x: Floats) -> None:
        self.x = x
        self._kernels = kernels
        self._workspace = workspace
        self._quantised: dict[tuple[bytes, bool], Quantised] = {}
        self._values: dict[bytes, Floats] = {}

    @classmethod
    def normed(
        cls,
        kernels: CpuKernels,
        workspace: Workspace,
        x: Floats,
        norm: tuple[Floats, float],
        reader: "Linear",
    ) -> "Rows":
        """Return the RMS norm of `x`, quantised on the way where a layer in 8 bits reads it first.

        Args:
            kernels, workspace: as for the class.
            x: float32 [T, width].
            norm: weight float32 [width] and epsilon.
            reader: the first layer that will read the rows.
        """
        normed = workspace.floats("normed", x.shape)
        rows = cls(kernels, workspace, normed)
        if isinstance(reader, Int8Linear):
            rows._prepare(x, reader.outliers, norm)
        else:
            kernels.prepare_rows(x, None, norm_weight=norm[0], epsilon=norm[1], normed=normed)
        return rows

    def quantised(self, outliers: Outliers | None, rotated: bool = False) -> Quantised:
        """Return the rows in 8 bits; channels in `outliers` have no say in the scales.

        Args:
            outliers: of the layer that reads the rows.
            rotated: whether rows, without the outliers, are rotated first.
        """
        key = (b"" if outliers is None else outliers.key, rotated)
        if key not in self._quantised:
            self._prepare(self.x, outliers, None, rotated)
        return self._quantised[key]

    def values(self, outliers: Outliers) -> Floats:
        """Return float32 [T, n], the rows' values in the outliers' channels."""
        if outliers.key not in self._values:
            self._values[outliers.key] = np.ascontiguousarray(self.x[:, outliers.channels])
        return self._values[outliers.key]

    def _prepare(
        self,
        x: Floats,
        outliers: Outliers | None,
        norm: tuple[Floats, float] | None,
        rotated: bool = False,
    ) -> None:
        rows, width = x.shape
        if rotated:
            width = rotated_width(width)
        key = (b"" if outliers is None else outliers.key, rotated)
        place = f"{'rows' if norm else 'more rows'} {len(self._quantised)} {width}"
        quantised = Quantised(
            self._workspace.bytes(place, (rows, padded_depth(width))),
            self._workspace.floats(f"{place} scales", (rows,)),
        )
        self._kernels.prepare_rows(
            x,
            quantised,
            norm_weight=None if norm is None else norm[0],
            epsilon=0.0 if norm is None else norm[1],
            normed=None if norm is None else self.x,
            inliers=None if outliers is None else outliers.inliers,
            rotated=rotated,
        )
        self._quantised[key] = quantised


@dataclass(frozen=True, slots=True, eq=False)
class Int8Linear:
    """A layer in 8 bits, or a gate and what it gates as one.

    Attributes:
        packed: the weights.
        outliers: of the input, or None; of a gated pair those of both.
        gated_outliers: of a gated pair: float32 [n, out], the outliers' weights of the second.
        rotated: whether the weights are, and so the input must be (`trine.kernels.rotation`).
    """

    packed: PackedInt8
    outliers: Outliers | None
    gated_outliers: Floats | None = None
    rotated: bool = False

    def add_to(
        self,
        kernels: CpuKernels,
        rows: Rows,
        out: Floats,
        delta: Side | None = None,
        *,
        values: Floats | None = None,
        add: bool = False,
    ) -> None:
        """Write the layer's output, or add it to what `out` holds.

        Args:
            kernels: to compute with.
            rows: the input.
            out: float32 [T, columns].
            delta: an adapter's.
            values: float32 [T, n] of the outlier channels, where they were computed apart.
            add: rather than write.
        """
        found = self._side(rows, values, None if self.outliers is None else self.outliers.weight)
        quantised = rows.quantised(self.outliers, self.rotated)
        kernels.linear_int8(quantised, self.packed, out, (delta, found), add)

    def gate(
        self, kernels: CpuKernels, rows: Rows, out: Floats, deltas: tuple[Side | None, Side | None]
    ) -> None:
        """Write silu(gate) · up of a gated pair; `deltas` are adapters' of either."""
        first = self._side(rows, None, None if self.outliers is None else self.outliers.weight)
        second = self._side(rows, None, self.gated_outliers)
        sides = (deltas[0], first, deltas[1], second)
        kernels.linear_int8(rows.quantised(self.outliers), self.packed, out, sides)

    def _side(self, rows: Rows, values: Floats | None, weight: Floats | None) -> Side | None:
        if self.outliers is None or weight is None:
            return None
        factors = rows.values(self.outliers) if values is None else values
        return Side(factors, weight, None, factors.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class BFloat16Linear:
    """A layer in bfloat16 with float32 sums, or a gate and what it gates as one.

    Attributes:
        packed: the weights.
    """

    packed: PackedBFloat16

    def add_to(
        self,
        kernels: CpuKernels,
        rows: Rows,
        out: Floats,
        delta: Side | None = None,
        *,
        values: Floats | None = None,
        add: bool = False,
    ) -> None:
        """Write the layer's output, or add it to what `out` holds; arguments as of `Int8Linear`."""
        kernels.linear_bfloat16(rows.x, self.packed, out, (delta,), add)

    def gate(
        self, kernels: CpuKernels, rows: Rows, out: Floats, deltas: tuple[Side | None, Side | None]
    ) -> None:
        """Write silu(gate) · up of a gated pair; `deltas` are adapters' of either."""
        kernels.linear_bfloat16(rows.x, self.packed, out, (deltas[0], None, deltas[1]))


@dataclass(frozen=True, slots=True, eq=False)
class FloatLinear:
    """A layer that is kept in float32.

    Attributes:
        weight: [in, out] in float32, float16 or bfloat16 (as uint16).
        bias: float32 [out] or None.
    """

    weight: NDArray[np.generic]
    bias: Floats | None

    def add_to(
        self,
        kernels: CpuKernels,
        rows: Rows,
        out: Floats,
        delta: Side | None = None,
        *,
        values: Floats | None = None,
        add: bool = False,
    ) -> None:
        """Write the layer's output, or add it to what `out` holds; arguments as of `Int8Linear`."""
        kernels.linear_float(rows.x, self.weight, out, self.bias, add)
        if delta is not None:
            kernels.linear_float(delta.factors, delta.matrix, out, add=True)


PackedLinear = Int8Linear | BFloat16Linear
Linear = PackedLinear | FloatLinear
