"""The inputs whose activations decide ranges, scales and which layers stay wider."""

from dataclasses import dataclass
from typing import Literal

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
from trine.export.calibration.texts import ShippedText, long_text, range_texts
from trine.runtime.inputs import Prompt

__all__ = ["CalibrationSet", "CalibrationSize", "CalibrationText", "built_in_calibration"]

CalibrationSize = Literal["brief", "small", "full"]
Pixels = NDArray[np.uint8]

#: Characters of the long text in the small set: some 200 tokens.
SMALL_LONG = 700
#: Characters of the long texts in the full set: some 400 and 1500 tokens of English.
FULL_LONG = (1_500, 6_000)
#: Of the shipped texts the smaller sets take every n-th, beginning with the first.
SMALL_EVERY, BRIEF_EVERY = 3, 5
#: Characters of the long text in the brief set.
BRIEF_LONG = 350
RED, BLUE, GREEN = (230, 20, 30), (20, 40, 220), (20, 200, 60)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """A text and the role it is embedded in."""

    text: str
    prompt: Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSet:
    """What is put through the float32 model.

    Attributes:
        source: where it comes from, for reports.
        texts: at least one.
        images: uint8 [height, width, 3] RGB each, at least one.
    """

    source: str
    texts: tuple[CalibrationText, ...]
    images: tuple[Pixels, ...]


def built_in_calibration(size: CalibrationSize) -> CalibrationSet:
    """Return inputs that come with the exporter; the same on each run.

    Args:
        size: "brief" has some 800 tokens of text and 5 images of up to 80 image tokens, for
            models of which each token takes its time; "small" some 1,500 tokens and 9 images of
            up to 200; "full" some 6,000 tokens and 24 images, the largest as large as a model
            takes.
    """
    shipped = range_texts()
    if size == "brief":
        chosen = shipped[::BRIEF_EVERY]
        long = [long_text(_english(shipped), BRIEF_LONG)]
        images = _brief_images()
    elif size == "small":
        chosen = shipped[::SMALL_EVERY]
        long = [long_text(_english(shipped), SMALL_LONG)]
        images = _small_images()
    else:
        chosen = shipped
        long = [long_text(_english(shipped), FULL_LONG[1]), long_text(shipped, FULL_LONG[0])]
        images = (*_small_images(), *_large_images())
    texts = [CalibrationText(text.text, _prompt(text)) for text in chosen]
    texts += [CalibrationText(text, "passage") for text in long]
    return CalibrationSet(source=f"built in, {size}", texts=tuple(texts), images=images)


def _prompt(text: ShippedText) -> Prompt:
    return "query" if text.kind == "query" else "passage"


def _english(texts: tuple[ShippedText, ...]) -> list[ShippedText]:
    """Return the passages that consist of ASCII and are no code."""
    return [text for text in texts if text.kind == "passage" and text.text.isascii()]


def _page_text() -> str:
    return " ".join(text.text for text in _english(range_texts()))


def _brief_images() -> tuple[Pixels, ...]:
    """Return the kinds that are least like one another."""
    return (
        checkerboard((112, 168), 56),
        text_page((224, 224), _page_text(), points=11),
        bar_chart((168, 168), (20, 45, 95, 60)),
        photo((168, 224), seed=1),
        noise((84, 112), seed=2),
    )


def _small_images() -> tuple[Pixels, ...]:
    """Return one of each kind, as small as shows what the kind is about."""
    return (
        checkerboard((336, 448), 56),
        text_page((280, 224), _page_text(), points=11),
        table((168, 280), 8, 5, seed=3),
        bar_chart((196, 252), (20, 45, 95, 60)),
        photo((224, 168), seed=1),
        noise((112, 140), seed=2),
        gradient((140, 112), BLACK, (255, 240, 220)),
        checkerboard((112, 112), 14, RED, BLUE),
        one_colour((84, 84), WHITE),
    )


def _large_images() -> tuple[Pixels, ...]:
    """Return more of each kind, of many sizes and shapes."""
    return (
        checkerboard((1350, 1800), 56),
        checkerboard((280, 280), 28, WHITE, RED),
        text_page((896, 644), _page_text(), points=18),
        text_page((300, 600), _page_text(), points=26, dark=True),
        table((420, 560), 15, 6, seed=8),
        bar_chart((300, 420), (90, 80, 30, 55, 10, 70), first_colour=2),
        line_chart((280, 392), ((5, 20, 15, 60, 85), (90, 60, 65, 30, 10))),
        pie_chart((252, 252), (50, 30, 20)),
        photo((480, 640), seed=5),
        blobs((336, 504), seed=7, count=24),
        noise((224, 224), seed=11),
        gradient((28, 1120), BLUE, RED),
        stripes((616, 56), 3, GREEN),
        one_colour((112, 112), BLACK),
        one_colour((112, 112), RED),
    )
