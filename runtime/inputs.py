"""Kinds of item that go in.

Dimension letters used in all docstrings: B items, T tokens, P patches, N image tokens,
D vector size.
"""

from dataclasses import dataclass
from os import PathLike
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["ImageSource", "ImageText", "Item", "Prompt", "StreamItem", "Task"]

#: Name of an adapter; a checkpoint may have others than the published three.
Task: TypeAlias = str
Prompt: TypeAlias = Literal["query", "passage"]

#: One image: a path, the bytes of an image file, a `PIL.Image.Image` (typed `object` so that
#: Pillow is imported only when an image comes), or uint8 [height, width, 3] RGB (also [h, w]
#: grey).
ImageSource: TypeAlias = str | PathLike[str] | bytes | NDArray[np.uint8] | object


@dataclass(frozen=True, slots=True)
class ImageText:
    """One item of images, with or without a text: a single sequence and a single vector.

    The published model defines separate text and image items only. Here the sequence is the
    published image prompt with one vision span an image and, where there is a `text`, that text
    (with its `Query: ` or `Passage: ` prefix) in place of "Describe the image.". Pooled are the
    vision spans, both markers included, and the text's tokens; the chat scaffolding is not.

    Attributes:
        images: one or more images, in order.
        text: the text, or None for images alone. None with one image is the published image
            item.
    """

    images: tuple[ImageSource, ...]
    text: str | None = None


#: One item of `Embedder.encode`: a text, or images with or without a text.
Item: TypeAlias = str | ImageText


@dataclass(frozen=True, slots=True)
class StreamItem:
    """One item of `Embedder.encode_stream` with options of its own.

    Attributes:
        item: a text, or images with or without a text.
        task: an adapter's name; None for the call's.
        prompt_name: "query" or "passage"; None for the call's.
    """

    item: Item
    task: Task | None = None
    prompt_name: Prompt | None = None
