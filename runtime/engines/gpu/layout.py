"""A run's inputs as TensorRT's graphs take them, whole or in parts that fit a bucket.

The graphs (`trine.export.trt`) have axes of their own for images and take no lengths: padding
follows each sequence, where the causal rule hides it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.runtime.engines.base import DecoderInputs
from trine.runtime.engines.gpu.buckets import Sizes, decoder_sizes
from trine.runtime.preprocessing.vision_inputs import VisionInputs, pad_layout

__all__ = ["GraphInput", "ImageRun", "decoder_arrays", "images_of"]


@dataclass(frozen=True, slots=True)
class GraphInput:
    """An input of a graph.

    Attributes:
        values: C-order, what the run has.
        shape: what the graph is given, at least as large on each axis; the rest is zeros.
    """

    values: NDArray[np.generic]
    shape: tuple[int, ...]


def decoder_arrays(inputs: DecoderInputs, members: slice, sizes: Sizes) -> dict[str, GraphInput]:
    """Return the inputs of some sequences of a run, but for the adapters'.

    Zeros behind the tokens are harmless: no token attends to them, and what they come to is
    dropped.

    Args:
        inputs: of the run.
        members: neighbouring sequences.
        sizes: what the graph is given.
    """
    lengths = inputs.lengths
    ends = np.cumsum(lengths)
    first = int(ends[members.start] - lengths[members.start])
    rows = slice(first, int(ends[members.stop - 1]))
    # The padded view is of these sequences alone: another's longest may be longer.
    pad_index, unpad_index = pad_layout(lengths[members])
    padded = decoder_sizes(lengths[members])["length"]
    sequence, place = np.divmod(unpad_index, padded)
    unpad_index = sequence * sizes["length"] + place
    tokens, hidden = sizes["tokens"], inputs.embeddings.shape[1]
    half = inputs.rope_cos.shape[1]
    return {
        "embeddings": GraphInput(inputs.embeddings[rows], (tokens, hidden)),
        "rope_cos": GraphInput(inputs.rope_cos[rows], (tokens, half)),
        "rope_sin": GraphInput(inputs.rope_sin[rows], (tokens, half)),
        "pad_index": GraphInput(pad_index, (sizes["sequences"], sizes["length"])),
        "unpad_index": GraphInput(unpad_index, (tokens,)),
    }


@dataclass(frozen=True, slots=True)
class ImageRun:
    """The images of a vision run, with what is needed to take some of them apart.

    Attributes:
        inputs: of the run.
        windows: int64 [images + 1], where each image's windows start, and their number.
        num_patches: of each image.
    """

    inputs: VisionInputs
    windows: NDArray[np.int64]
    num_patches: int

    @property
    def parts(self) -> Sequence[Sizes]:
        """The sizes of each image alone."""
        lengths = self.inputs.window_lengths
        return [
            {
                "images": 1,
                "patches": self.num_patches,
                "windows": int(last - first),
                "window_length": int(lengths[first:last].max()),
            }
            for first, last in zip(self.windows, self.windows[1:], strict=False)
        ]

    def arrays(self, members: slice) -> tuple[Sizes, Mapping[str, GraphInput]]:
        """Return the sizes and inputs of some neighbouring images."""
        inputs, num_images = self.inputs, members.stop - members.start
        windows = slice(self.windows[members.start], self.windows[members.stop])
        lengths = inputs.window_lengths[windows]
        gather, scatter = pad_layout(lengths.astype(np.int64))
        rows = slice(members.start * self.num_patches, members.stop * self.num_patches)
        found: dict[str, NDArray[np.generic]] = {
            name: array[rows].reshape(num_images, self.num_patches, -1)
            for name, array in (
                ("patches", inputs.patches),
                ("rope_cos", inputs.rope_cos),
                ("rope_sin", inputs.rope_sin),
            )
        }
        found["window_gather"] = gather
        found["window_scatter"] = scatter.reshape(num_images, self.num_patches)
        found["window_lengths"] = lengths
        sizes = {
            "images": num_images,
            "patches": self.num_patches,
            "windows": len(lengths),
            "window_length": gather.shape[1],
        }
        return sizes, {name: GraphInput(array, array.shape) for name, array in found.items()}


def images_of(inputs: VisionInputs) -> ImageRun:
    """Return the images of a vision run, which have equally many patches each."""
    num_images = int(inputs.num_images[0])
    num_patches = len(inputs.patches) // num_images
    ends = np.cumsum(inputs.window_lengths)
    starts = np.searchsorted(ends, np.arange(num_images + 1) * num_patches, side="left")
    # No window crosses images: the windows before `k` images hold exactly their patches.
    windows = np.where(np.arange(num_images + 1) == 0, 0, starts + 1)
    return ImageRun(inputs, windows, num_patches)
