"""Lists the texts of whatever holds several in order: lists, generators, Series, Arrow arrays."""

from collections.abc import Iterable, Mapping, Set
from pathlib import Path

import numpy as np

from trine.runtime.errors import InputError

__all__ = ["listed_texts"]


def listed_texts(texts: object) -> list[str]:
    """Return the texts in order.

    Args:
        texts: an iterable of str or of Arrow's scalars. Pandas, polars and pyarrow are not needed.

    Raises:
        InputError: it has no order (a set, a dict) or several columns, or an element is missing or
            no str; the message has its index.
    """
    kind = type(texts).__name__
    if hasattr(texts, "columns"):
        raise InputError(f"texts is a {kind}; give one column of it, such as table['text']")
    # The keys of a dict have an order, though they are a set.
    unordered = isinstance(texts, Mapping) or (isinstance(texts, Set) and kind != "dict_keys")
    if (
        isinstance(texts, Path | bytes | bytearray)
        or not isinstance(texts, Iterable)
        or unordered
        or (isinstance(texts, np.ndarray) and not texts.ndim)
    ):
        raise InputError(f"texts is a {kind}; give a str or a list of str")
    return [_text(index, element) for index, element in enumerate(texts)]


def _text(index: int, element: object) -> str:
    if hasattr(element, "as_py"):
        element = element.as_py()
    if isinstance(element, str):
        return element
    missing = element is None or type(element).__name__ == "NAType"
    if missing or (isinstance(element, float | np.floating) and np.isnan(element)):
        raise InputError(
            f"text {index} is a {type(element).__name__}, not a str: it is missing; "
            "drop it or fill it first"
        )
    raise InputError(f"text {index} is a {type(element).__name__}, not a str; decode it first")
