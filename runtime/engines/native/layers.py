"""Makes the native engine's layers from the weights of an int8 or bf16 graph.

Names are those that `trine.export` gives initializers; a graph with any other is refused, so that
nothing it holds is left out of the arithmetic unnoticed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.kernels.cpu.kernels import CpuKernels
from trine.kernels.cpu.packed import (
    DEPTH_MULTIPLE,
    PAIR,
    PackedInt8,
    PackedValues,
    packed_bfloat16_layer,
    packed_layer,
    packed_shape,
)
from trine.kernels.rotation import ROTATION, hadamard
from trine.runtime.engines.native.graph_weights import GraphWeights
from trine.runtime.engines.native.linear import (
    BFloat16Linear,
    FloatLinear,
    Int8Linear,
    Linear,
    Outliers,
    PackedLinear,
)
from trine.runtime.engines.native.packed_file import PackedStore
from trine.runtime.errors import BundleError

__all__ = ["ExactChannels", "GatedMlp", "LayerNames", "LayerReader", "TransformerLayer"]

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNames:
    """What the parts of one transformer layer are called in a graph."""

    input_norm: str
    qkv: str
    o: str
    post_norm: str
    gate: str
    up: str
    down: str


@dataclass(frozen=True, slots=True, eq=False)
class ExactChannels:
    """Channels of silu(gate) · up that are computed in float32, for they would drown the others.

    Attributes:
        channels: int64 [n].
        gate, up: the columns that make them.
    """

    channels: NDArray[np.int64]
    gate: FloatLinear
    up: FloatLinear


@dataclass(frozen=True, slots=True, eq=False)
class GatedMlp:
    """down(silu(gate(x)) · up(x)).

    Attributes:
        pair: gate and up as one packed product; None where they are computed one by one.
        gate, up: where there is no pair.
        down: the last layer.
        exact: channels between that are computed apart, or None.
        width: channels between.
    """

    pair: PackedLinear | None
    gate: Linear | None
    up: Linear | None
    down: Linear
    exact: ExactChannels | None
    width: int

    @property
    def halves(self) -> tuple[Linear, Linear]:
        """Gate and up, where they are no pair."""
        if self.gate is None or self.up is None:
            raise TypeError("a gated MLP has a pair, or a gate and an up")
        return self.gate, self.up

    @property
    def reader(self) -> Linear:
        """The first product that reads the input."""
        return self.pair or self.halves[0]


@dataclass(frozen=True, slots=True, eq=False)
class TransformerLayer:
    """One layer of a stack, with the names adapters know its products by."""

    names: LayerNames
    input_norm: Floats
    qkv: Linear
    o: Linear
    post_norm: Floats
    mlp: GatedMlp

    @property
    def exact_attention(self) -> bool:
        """Whether attention multiplies in float32: where what it reads may not be rounded either.

        Such a layer is kept in float32 because the export found rounding to be too much.
        """
        return isinstance(self.qkv, FloatLinear)


class LayerReader:
    """Reads layers from a graph, each initializer once.

    Args:
        kernels: to pack with.
        weights: of the graph.
        path: of the graph, for messages.
        store: of weights packed before.
    """

    def __init__(
        self, kernels: CpuKernels, weights: GraphWeights, path: str, store: PackedStore
    ) -> None:
        #: What was packed, or found packed, by the names of its layers.
        self.packed: dict[str, PackedValues] = {}
        self._kernels = kernels
        self._store = store
        self._weights = weights
        self._path = path
        self._read: set[str] = set()

    def layer(self, names: LayerNames) -> TransformerLayer:
        """Return one transformer layer."""
        layer = TransformerLayer(
            names,
            self.vector(names.input_norm),
            self.linear(names.qkv),
            self.linear(names.o),
            self.vector(names.post_norm),
            self._mlp(names),
        )
        # Packed weights are copies: the graph's own need stay in memory no longer.
        self._weights.release()
        return layer

    def vector(self, name: str) -> Floats:
        """Return a float32 vector.

        Raises:
            BundleError: it is not there.
        """
        return np.array(self._needed(name))

    def linear(self, name: str, exact: ExactChannels | None = None) -> Linear:
        """Return one linear layer in the precision the graph has it in.

        Args:
            name: of the layer.
            exact: input channels that are computed apart, which are then its outliers.

        Raises:
            BundleError: a part of it is not there.
        """
        if exact is None and self._is_bfloat16(name):
            return self._bfloat16(name)
        if exact is None and self._get(f"{name}.int8") is None:
            return self._float(name)
        packed = self._packed(name)
        outliers = self._outliers(name, (packed.depth, packed.columns), exact)
        return Int8Linear(packed, outliers, rotated=self._is_rotated(name))

    def refuse_rest(self) -> None:
        """Refuse a graph with weights that were not read.

        Names without a dot are of scalars and index vectors, which carry no weights.

        Raises:
            BundleError: some are left; their names are in the message.
        """
        left = sorted(
            name
            for name in self._weights.names - self._read
            if "." in name and not name.endswith((".mask", ".lora_a", ".lora_b"))
        )
        if left:
            raise BundleError(
                f"{self._path}: the native engine knows no use for {len(left)} weights, the first "
                f"{left[:3]}; export the bundle again with this version"
            )

    def _mlp(self, names: LayerNames) -> GatedMlp:
        exact = self._exact(names)
        down = self.linear(names.down, exact)
        pair = self._pair(names)
        if pair is not None:
            return GatedMlp(pair, None, None, down, exact, pair.packed.columns)
        gate, up = self.linear(names.gate), self.linear(names.up)
        width = up.weight.shape[1] if isinstance(up, FloatLinear) else up.packed.columns
        return GatedMlp(None, gate, up, down, exact, width)

    def _pair(self, names: LayerNames) -> PackedLinear | None:
        """Return gate and up as one, if both are packed alike and read their input alike."""
        if self._is_bfloat16(names.gate) and self._is_bfloat16(names.up):
            return self._bfloat16(names.gate, names.up)
        values = [self._weights.get(f"{name}.int8") for name in (names.gate, names.up)]
        if values[0] is None or values[1] is None:
            return None
        outliers = [
            self._outliers(name, self._int8(name).shape, None) for name in (names.gate, names.up)
        ]
        first, second = outliers
        if (None if first is None else first.key) != (None if second is None else second.key):
            return None
        packed = self._packed(names.gate, names.up)
        return Int8Linear(packed, first, None if second is None else second.weight)

    def _exact(self, names: LayerNames) -> ExactChannels | None:
        channels = self._get(f"{names.gate}.exact_channels")
        if channels is None:
            return None
        self._get(f"{names.up}.exact_channels")
        gate, up = (
            FloatLinear(
                np.ascontiguousarray(self._needed(f"{name}.exact_weight")),
                self._floats(f"{name}.exact_bias"),
            )
            for name in (names.gate, names.up)
        )
        return ExactChannels(channels.astype(np.int64), gate, up)

    def _outliers(
        self, name: str, shape: tuple[int, ...], exact: ExactChannels | None
    ) -> Outliers | None:
        found = self._get(f"{name}.outlier_channels") if exact is None else exact.channels
        if found is None:
            return None
        channels = found.astype(np.int64)
        if channels.ndim != 1 or not ((channels >= 0) & (channels < shape[0])).all():
            raise BundleError(
                f"{self._path}: {name}.outlier_channels are no channels of 0 to {shape[0] - 1}; "
                "export the bundle again"
            )
        weight = self._sized(f"{name}.outlier_weight", (len(channels), shape[1]))
        inliers = np.ones(shape[0], np.float32)
        inliers[channels] = 0
        return Outliers(channels, inliers, np.array(weight))

    def _is_rotated(self, name: str) -> bool:
        """Return whether a layer's inputs are rotated, which must be as the kernels do it."""
        blocks = self._get(f"{name}.rotation")
        if blocks is None:
            return False
        if blocks[-1] != ROTATION or not np.array_equal(self._needed("hadamard"), hadamard()):
            raise BundleError(
                f"{self._path}: {name} has its inputs rotated in a way that the native engine does "
                "not know; export the bundle again with this version"
            )
        return True

    def _float(self, name: str) -> FloatLinear:
        weight = self._matrix(f"{name}.weight")
        return FloatLinear(weight, self._bias(name, weight.shape[1]))

    def _packed(self, *names: str) -> PackedInt8:
        """Return one layer's weights, or those of a gate and what it gates."""
        weights = [self._int8(name) for name in names]
        shape = self._shape_of_all([f"{name}.int8" for name in names], weights)
        key = "+".join(names)
        packed = self._store.get(key, packed_shape(shape, len(names), DEPTH_MULTIPLE))
        if packed is None:
            packed = self._kernels.pack(*weights)
        self.packed[key] = packed
        scales = [np.array(self._sized(f"{name}.scales", shape[1:])) for name in names]
        return packed_layer(packed, shape, scales, [self._bias(name, shape[1]) for name in names])

    def _is_bfloat16(self, name: str) -> bool:
        found = self._get(f"{name}.weight")
        return found is not None and found.dtype == np.uint16

    def _bfloat16(self, *names: str) -> BFloat16Linear:
        """Return one layer, or a gate and what it gates."""
        weights = [self._matrix(f"{name}.weight").view(np.uint16) for name in names]
        shape = self._shape_of_all([f"{name}.weight" for name in names], weights)
        key = "+".join(names)
        packed = self._store.get(key, packed_shape(shape, len(names), PAIR))
        if packed is None:
            packed = self._kernels.pack_bfloat16(*weights)
        self.packed[key] = packed
        biases = [self._bias(name, shape[1]) for name in names]
        return BFloat16Linear(packed_bfloat16_layer(packed, shape, biases))

    def _shape_of_all(
        self, names: list[str], weights: Sequence[NDArray[np.generic]]
    ) -> tuple[int, int]:
        """Return the shape (in, out) that all have."""
        shape = weights[0].shape[0], weights[0].shape[1]
        for name, weight in zip(names, weights, strict=True):
            if weight.shape != shape:
                raise self._misshapen(name, weight.shape, str(list(shape)))
        return shape

    def _matrix(self, name: str) -> NDArray[np.generic]:
        found = self._get(name)
        if found is None:
            raise self._missing(name)
        if found.ndim != 2:
            raise self._misshapen(name, found.shape, "[in, out]")
        return found

    def _int8(self, name: str) -> NDArray[np.int8]:
        found = self._get(f"{name}.int8")
        if found is None or found.dtype != np.int8:
            raise self._missing(f"{name}.int8")
        return self._matrix(f"{name}.int8").view(np.int8)

    def _bias(self, name: str, columns: int) -> Floats | None:
        found = self._get(f"{name}.bias")
        if found is None:
            return None
        if found.shape != (columns,):
            raise self._misshapen(f"{name}.bias", found.shape, f"[{columns}]")
        if found.dtype == np.uint16:
            return (found.astype(np.uint32) << 16).view(np.float32)
        return self._floats(f"{name}.bias")

    def _sized(self, name: str, shape: tuple[int, ...]) -> Floats:
        found = self._needed(name)
        if found.shape != shape:
            raise self._misshapen(name, found.shape, str(list(shape)))
        return found

    def _needed(self, name: str) -> Floats:
        found = self._floats(name)
        if found is None:
            raise self._missing(name)
        return found

    def _floats(self, name: str) -> Floats | None:
        self._read.add(name)
        return self._weights.floats(name)

    def _get(self, name: str) -> NDArray[np.generic] | None:
        self._read.add(name)
        return self._weights.get(name)

    def _misshapen(self, name: str, shape: tuple[int, ...], wanted: str) -> BundleError:
        return BundleError(
            f"{self._path}: {name} has shape {list(shape)}, not {wanted}; export the bundle again"
        )

    def _missing(self, name: str) -> BundleError:
        return BundleError(f"{self._path}: has no tensor {name!r}; export the bundle again")
