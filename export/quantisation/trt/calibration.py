"""Fixed scales for 8-bit layers, from what calibration inputs put through the float32 model.

TensorRT takes one scale for a whole activation, so for INT8 channels are evened out first: each is
divided by a power of its largest magnitude and its row of the weight multiplied by the same
(SmoothQuant, arXiv 2211.10438, with the activations' side alone). FP8 keeps its relative precision
over 15 powers of two and gains nothing from that. What the MLP's last layer reads is rotated before
that (`trine.kernels.rotation`), which shares single large values out. A layer whose inputs do not
fit, because single tokens are far larger than the rest, is left in 16 bits.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trine.export.graphs.trt.precision import Quantisation
from trine.export.quantisation.observer import LinearRange
from trine.export.quantisation.trt.fake_quantisation import prepare_input, round_input

__all__ = ["input_error", "quantise_layers"]

#: How much larger than anything seen an input may be before it is clipped. One clipped channel of a
#: image costs far more than the coarser step; FP8 loses nothing by room above.
INPUT_MARGIN = {"int8": 1.25, "fp8": 2.0}
#: Formats in which rotation pays: FP8 has as many steps for small values as for large ones.
ROTATED_KINDS = ("int8",)
#: Power of a channel's range that is moved from the activation into the weight.
SMOOTHING_POWER = 0.5
#: Smoothing never divides by less than this part of the median, so that dead channels stay small.
LEAST_SMOOTHING = 1e-2
#: Largest relative error of a token's input, root mean square over tokens, with which a layer is
#: quantised. A normal distribution cut at four deviations has 0.01 in INT8, any has 0.03 in FP8.
MAX_INPUT_ERROR = 0.1


def quantise_layers(
    ranges: Mapping[str, LinearRange], kind: Literal["int8", "fp8"]
) -> dict[str, Quantisation]:
    """Return how each layer is quantised; layers that would lose too much are left out.

    Args:
        ranges: of every layer, by name.
        kind: format of activations and weights.
    """
    found = {}
    for name, seen in ranges.items():
        rotated_max = seen.rotated_max if kind in ROTATED_KINDS else None
        channel_max = seen.channel_max if rotated_max is None else rotated_max
        smoothing = _smoothing(channel_max) if kind == "int8" else None
        largest = channel_max if smoothing is None else channel_max / smoothing
        quantisation = Quantisation(
            kind=kind,
            input_max=float(largest.max()) * INPUT_MARGIN[kind],
            smoothing=smoothing,
            rotated=rotated_max is not None,
        )
        if input_error(seen.rows, quantisation) <= MAX_INPUT_ERROR:
            found[name] = quantisation
    return found


def input_error(rows: NDArray[np.float32], quantisation: Quantisation) -> float:
    """Return the root mean square over rows of each row's relative error.

    Args:
        rows: float32 [n, in], a sample of a layer's inputs.
        quantisation: of the layer.
    """
    smooth = prepare_input(rows, quantisation)
    rounded = round_input(rows, quantisation)
    lost = np.square(smooth - rounded).sum(axis=1)
    energy = np.square(smooth).sum(axis=1)
    return float(np.sqrt(np.mean(lost / np.maximum(energy, np.finfo(np.float32).tiny))))


def _smoothing(channel_max: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return float32 [in], around 1."""
    middle = float(np.median(channel_max)) or 1.0
    share = np.maximum(channel_max / middle, LEAST_SMOOTHING)
    return np.asarray(share**SMOOTHING_POWER, np.float32)
