"""The built-in corpus on which engines' rankings are compared with those of float32.

Nothing says which passage answers a query: the float32 ranking is the truth, so any model can be
measured, also one whose vectors mean nothing. None of the inputs is used for calibration.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.export.calibration.images import (
    bar_chart,
    blobs,
    checkerboard,
    gradient,
    line_chart,
    noise,
    one_colour,
    photo,
    pie_chart,
    stripes,
    table,
    text_page,
)
from trine.export.calibration.inputs import CalibrationSize
from trine.export.calibration.texts import corpus_texts
from trine.runtime.inputs import ImageText, Item, Prompt

__all__ = ["RankingCorpus", "built_in_corpus"]

#: Every how many queries, passages and images are taken.
EVERY: dict[CalibrationSize, tuple[int, int, int]] = {
    "full": (1, 1, 1),
    "small": (3, 3, 2),
    "brief": (7, 13, 7),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingCorpus:
    """Queries and what they are searched in.

    Attributes:
        queries: texts for the prompt "query".
        passages: texts for the prompt "passage".
        images: uint8 [height, width, 3] RGB each.
    """

    queries: tuple[str, ...]
    passages: tuple[str, ...]
    images: tuple[NDArray[np.uint8], ...]

    @property
    def documents(self) -> tuple[Item, ...]:
        """Passages, then images, as the embedder takes them."""
        return (*self.passages, *(ImageText((image,)) for image in self.images))

    @property
    def sides(self) -> tuple[tuple[tuple[Item, ...], Prompt], ...]:
        """Queries, passages and images, each with the prompt they are embedded with."""
        image_items = tuple(ImageText((image,)) for image in self.images)
        return (self.queries, "query"), (self.passages, "passage"), (image_items, "query")


def built_in_corpus(size: CalibrationSize) -> RankingCorpus:
    """Return the corpus; the same on each run.

    Args:
        size: "full" has 60 queries, 139 passages and 24 images; "small" a third of the texts
            and half of the images; "brief" 9 queries, 11 passages and 4 images.
    """
    texts = corpus_texts()
    query, passage, image = EVERY[size]
    return RankingCorpus(
        queries=tuple(text.text for text in texts if text.kind == "query")[::query],
        passages=tuple(text.text for text in texts if text.kind == "passage")[::passage],
        images=_images()[::image],
    )


def _images() -> tuple[NDArray[np.uint8], ...]:
    page = " ".join(text.text for text in corpus_texts() if text.text.isascii())
    return (
        text_page((196, 168), page, points=10),
        bar_chart((168, 196), (10, 30, 50, 70, 90)),
        text_page((224, 168), page[900:], points=13),
        bar_chart((168, 196), (90, 60, 40, 15), first_colour=1),
        text_page((140, 280), page[2000:], points=16, dark=True),
        bar_chart((140, 224), (50, 52, 48, 51, 49, 50), first_colour=3),
        table((168, 224), 7, 4, seed=21),
        pie_chart((168, 168), (60, 25, 15)),
        table((112, 280), 4, 6, seed=22),
        pie_chart((140, 196), (20, 20, 20, 20, 20)),
        line_chart((168, 224), ((10, 20, 35, 60, 95),)),
        blobs((168, 196), seed=31, count=8),
        line_chart((168, 224), ((80, 20, 75, 25, 70), (30, 35, 40, 45, 50))),
        blobs((196, 168), seed=32, count=30),
        photo((168, 224), seed=41),
        checkerboard((168, 168), 28),
        photo((224, 168), seed=42),
        checkerboard((140, 196), 14, (20, 150, 60), (250, 230, 40)),
        photo((112, 336), seed=43),
        gradient((168, 168), (10, 20, 90), (180, 220, 255)),
        noise((112, 112), seed=51),
        gradient((140, 196), (255, 120, 0), (90, 0, 60)),
        stripes((168, 140), 10, (200, 30, 60)),
        one_colour((112, 112), (220, 20, 30)),
    )
