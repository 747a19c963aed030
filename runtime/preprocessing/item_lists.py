"""Lists what callers give as texts or items: lists, generators, Series, Arrow arrays, in order."""

from collections.abc import Iterable, Mapping, Set
from os import PathLike

import numpy as np

from trine.runtime.errors import InputError
from trine.runtime.inputs import ImageText, Item

__all__ = ["check_ordered", "item_problem", "listed_items", "listed_texts", "plain_item"]


def listed_texts(texts: object) -> list[str]:
    """Return the texts in order.

    Args:
        texts: an iterable of str or of Arrow's scalars. Pandas, polars and pyarrow are not needed.

    Raises:
        InputError: it has no order (a set, a dict) or several columns, or an element is missing or
            no str; the message has its index.
    """
    found = []
    for index, element in enumerate(check_ordered("texts", texts, "a str or a list of str")):
        text = plain_item(element)
        if not isinstance(text, str):
            raise InputError(f"text {index} {_text_problem(text)}")
        found.append(text)
    return found


def listed_items(items: object) -> list[Item]:
    """Return texts and images in order; as `listed_texts`, with `ImageText` among them."""
    found = []
    for index, element in enumerate(check_ordered("items", items, "a list, be it of one item")):
        item = plain_item(element)
        if not isinstance(item, str | ImageText):
            raise InputError(f"item {index} {item_problem(item)}")
        found.append(item)
    return found


def check_ordered(name: str, values: object, wanted: str) -> Iterable[object]:
    """Return `values` if they are several things in an order.

    Raises:
        InputError: they are one thing, have no order, or are a table of columns.
    """
    kind = type(values).__name__
    if hasattr(values, "columns"):
        raise InputError(f"{name} is a {kind}; give one column of it, such as table['text']")
    # The keys of a dict have an order, though they are a set.
    unordered = isinstance(values, Mapping) or (isinstance(values, Set) and kind != "dict_keys")
    one = isinstance(values, str | bytes | bytearray | PathLike) or (
        isinstance(values, np.ndarray) and not values.ndim
    )
    if unordered or one or not isinstance(values, Iterable):
        raise InputError(f"{name} is a {kind}; give {wanted}")
    return values


def plain_item(element: object) -> object:
    """Return an element as Python has it: what Arrow's scalars hold, all else unchanged."""
    return element.as_py() if hasattr(element, "as_py") else element


def item_problem(element: object) -> str:
    """Return what is wrong with an element that is no item, to follow "item 3"."""
    kind = type(element).__name__
    if _is_missing(element):
        return f"is a {kind}, no item: it is missing; drop it or give a str"
    return f"is a {kind}; give a str, or ImageText((image,)) for an image"


def _text_problem(element: object) -> str:
    kind = type(element).__name__
    if _is_missing(element):
        return f"is a {kind}, not a str: it is missing; drop it or fill it first"
    return f"is a {kind}, not a str; decode it first"


def _is_missing(element: object) -> bool:
    """Return whether an element is None, NaN, or pandas' NA or NaT."""
    if element is None or type(element).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(element, float | np.floating) and bool(np.isnan(element))
