"""Makes the workloads of `trine bench`: token ids and images from a seed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.preprocessing.image_processor import patch_image
from trine.runtime.preprocessing.sequence import TokenSequence, image_sequence, text_sequence
from trine.runtime.preprocessing.tokenizer import TextTokenizer

__all__ = ["WORKLOADS", "Workload", "random_image", "random_texts", "sequences_of"]

#: An A4 page at 150 dots an inch.
PAGE = (1240, 1754)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One line of the table.

    Attributes:
        name: in the JSON.
        title: for people.
        lengths: tokens of each text.
        images: (width, height) of each image in pixels.
        unit: "tokens" or "images", what the rate counts.
        latency: whether percentiles matter, and so more calls are made.
    """

    name: str
    title: str
    lengths: tuple[int, ...] = ()
    images: tuple[tuple[int, int], ...] = ()
    unit: str = "tokens"
    latency: bool = False

    @property
    def count(self) -> int:
        """How many of its unit one call does."""
        return sum(self.lengths) if self.unit == "tokens" else len(self.images)


WORKLOADS = (
    Workload(name="query", title="one query of 32 tokens", lengths=(32,), latency=True),
    Workload(
        name="ragged",
        title="8 texts of 18 to 64 tokens",
        lengths=(64, 27, 51, 40, 64, 18, 33, 55),
    ),
    Workload(name="passages", title="4 texts of 512 tokens", lengths=(512,) * 4),
    Workload(name="page", title="one page image 1240×1754", images=(PAGE,), unit="images"),
)


def random_texts(lengths: Sequence[int], model: ModelConfig) -> list[NDArray[np.int64]]:
    """Return token ids, int64 [T] for each length, none of them a marker of images."""
    ids = model.token_ids
    marks = np.array([ids.image_pad, ids.vision_start, ids.vision_end])
    usable = np.setdiff1d(np.arange(model.decoder.vocab_size), marks)
    source = np.random.default_rng(0)
    return [usable[source.integers(0, len(usable), length)] for length in lengths]


def random_image(width: int, height: int) -> NDArray[np.uint8]:
    """Return uint8 [height, width, 3] of noise."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def sequences_of(
    workload: Workload, model: ModelConfig, tokenizer: TextTokenizer
) -> list[TokenSequence]:
    """Return the sequences of a workload; images with the published prompt."""
    texts = random_texts(workload.lengths, model)
    sequences = [text_sequence(text, model.max_tokens) for text in texts]
    for size in workload.images:
        limit = model.image.max_pixels
        image = patch_image(random_image(*size), model.image, model.vision, limit)
        merge = model.vision.spatial_merge_size
        sequences.append(image_sequence([image], None, tokenizer.scaffold, model.token_ids, merge))
    return sequences
