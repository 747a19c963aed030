"""The items of a request, in any of the shapes that clients give them, before images are read.

A string is a text, unless it starts as a data URI of an image does. A string that merely looks
like a URL is a text: only fields that are for images may name one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeGuard

from trine.runtime.serving.service.calls import ServiceError

__all__ = ["ParsedItem", "Images", "is_image_uri", "parse_input", "parse_item"]

#: How a data URI of an image starts; parameters may stand between the type and `;base64,`.
IMAGE_URI = re.compile(r"data:image/[^,]{0,200};base64,", re.IGNORECASE)
#: Fields of an item that hold images: Jina's, those of its older clients, and OpenAI's.
IMAGE_FIELDS = ("image", "url", "bytes", "image_url", "images")
#: `modality` of infinity: what plain strings are.
MODALITIES = ("text", "image")


@dataclass(frozen=True, slots=True)
class Images:
    """An item of images, with or without a text.

    Attributes:
        sources: data URIs, base64 or URLs as they were sent, or the bytes of image files.
        text: or None.
    """

    sources: tuple[str | bytes, ...]
    text: str | None = None


#: A text, token ids, or images.
ParsedItem: TypeAlias = str | tuple[int, ...] | Images


def is_image_uri(text: str) -> bool:
    """Return whether a string is a data URI of an image."""
    return IMAGE_URI.match(text) is not None


def parse_input(
    value: object, *, modality: str | None = None, field: str = "input"
) -> tuple[ParsedItem, ...]:
    """Return the items of a request's `input`: one item, or a list of them.

    A list of whole numbers is one item of token ids; a list of such lists is many.

    Args:
        value: from JSON.
        modality: "image" where plain strings are images, be they URLs or base64.
        field: that holds it, for messages.

    Raises:
        ServiceError: 422 there is no item, or one is of no known shape.
    """
    if modality is not None and modality not in MODALITIES:
        raise ServiceError(
            422,
            "unknown_modality",
            f"modality is {modality!r}; this model takes {list(MODALITIES)}",
            param="modality",
        )
    images = modality == "image"
    if value is None:
        raise ServiceError(
            422, "missing_input", f"{field} is missing; give a text or a list of items", param=field
        )
    if not isinstance(value, list):
        return (parse_item(value, 0, field, images),)
    if not value:
        raise ServiceError(
            422, "empty_input", f"{field} is an empty list; give at least one item", param=field
        )
    if _is_token_ids(value):
        return (tuple(value),)
    return tuple(parse_item(item, i, field, images) for i, item in enumerate(value))


def parse_item(
    value: object, index: int, field: str = "input", strings_are_images: bool = False
) -> ParsedItem:
    """Return one item: a string, a list of token ids, or an object with a text and images.

    Args:
        value: from JSON.
        index: of the item in the request, for messages.
        field: likewise.
        strings_are_images: whether every string is an image.

    Raises:
        ServiceError: 422 it is of no known shape.
    """
    if isinstance(value, str):
        return Images((value,)) if strings_are_images or is_image_uri(value) else value
    if isinstance(value, list) and value and _is_token_ids(value):
        return tuple(value)
    if isinstance(value, Mapping):
        return _parse_object(value, index, field)
    shown = "an empty list" if value == [] else f"a {_json_type(value)}"
    raise _unusable(
        index,
        field,
        f"{shown}; give a string, token ids, {{'text': …}}, {{'image': …}} or both in one",
    )


def _parse_object(value: Mapping[str, object], index: int, field: str) -> ParsedItem:
    text = value.get("text")
    if text is not None and not isinstance(text, str):
        raise _unusable(index, field, f"an object whose text is a {_json_type(text)}; give a str")
    sources: list[str] = []
    for name in IMAGE_FIELDS:
        found = value.get(name)
        for source in found if isinstance(found, list) else [found]:
            address = source.get("url") if isinstance(source, Mapping) else source
            if isinstance(address, str):
                sources.append(address)
            elif source is not None:
                raise _unusable(
                    index,
                    field,
                    f"an object whose {name} is a {_json_type(source)}; give base64, a data URI "
                    "or a URL as a string",
                )
    if sources:
        return Images(tuple(sources), text)
    if text is None:
        raise _unusable(
            index, field, f"an object with the keys {sorted(value)[:8]}; give it a text or an image"
        )
    return text


def _is_token_ids(value: list[object]) -> TypeGuard[list[int]]:
    # bool is a kind of int in Python, and none in JSON.
    return all(type(element) is int for element in value)


def _json_type(value: object) -> str:
    """Return what JSON calls the type of a value."""
    names = {
        dict: "object", list: "list", str: "string", bool: "boolean",
        int: "number", float: "number", type(None): "null",
    }  # fmt: skip
    return names.get(type(value), type(value).__name__)


def _unusable(index: int, field: str, what: str) -> ServiceError:
    return ServiceError(
        422, "invalid_input", f"item {index} of {field} is {what}", param=field, index=index
    )
