"""Names the field of a request that an item came from, for errors in the client's terms.

A call has one list of items; a request may have had them in several fields, such as a query and
documents.
"""

from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["INPUT", "ItemField", "ItemFields", "ItemPlace", "place_of"]


@dataclass(frozen=True, slots=True)
class ItemField:
    """One field of a request.

    Attributes:
        name: of the field.
        start: number in the call of the first item that it held.
    """

    name: str
    start: int = 0


#: The fields that held a call's items, in order; the first starts at 0.
ItemFields: TypeAlias = tuple[ItemField, ...]

#: Of requests with one list that has no better name.
INPUT: ItemFields = (ItemField("input"),)


@dataclass(frozen=True, slots=True)
class ItemPlace:
    """Where a request had an item; as a text, e.g. "item 3 of documents".

    Attributes:
        field: its name.
        index: of the item in the field, from 0.
    """

    field: str
    index: int

    def __str__(self) -> str:
        return f"item {self.index} of {self.field}"


def place_of(fields: ItemFields, number: int) -> ItemPlace:
    """Return where a request had the item that has a number in the call."""
    held = next(field for field in reversed(fields) if field.start <= number)
    return ItemPlace(held.name, number - held.start)
