"""Changes of chosen values of a tensor that is drawn block by block, so never held as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Edit", "apply_edits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """value → value · factor + offset where a row of `rows` meets a column of `columns`.

    A tensor's rows are its first axis, its columns all further ones flattened; a vector has one
    column.

    Attributes:
        rows: None for all.
        columns: None for all.
        factor: 0 with an offset sets the values.
        offset: added after the factor.
    """

    rows: tuple[int, ...] | None = None
    columns: tuple[int, ...] | None = None
    factor: float = 1.0
    offset: float = 0.0


def apply_edits(
    block: NDArray[np.float32], start: int, num_columns: int, edits: Sequence[Edit]
) -> None:
    """Apply `edits`, in their order, to a part of a tensor, in place.

    Args:
        block: float32 [n], consecutive values in C-order.
        start: place of the first of them in the flattened tensor.
        num_columns: of the tensor.
        edits: of the whole tensor; what lies outside of the block is left to other blocks.
    """
    for edit in edits:
        for part in _parts(len(block), start, num_columns, edit):
            block[part] = block[part] * np.float32(edit.factor) + np.float32(edit.offset)


def _parts(length: int, start: int, num_columns: int, edit: Edit) -> list[slice]:
    """Return the slices of a block that an edit covers; they do not overlap."""
    if edit.rows is None:
        if edit.columns is None:
            return [slice(None)]
        return [slice((column - start) % num_columns, None, num_columns) for column in edit.columns]
    spans = [
        (row * num_columns + first - start, row * num_columns + end - start)
        for row in edit.rows
        for first, end in _column_spans(num_columns, edit.columns)
    ]
    return [slice(max(first, 0), end) for first, end in spans if end > 0 and first < length]


def _column_spans(num_columns: int, columns: tuple[int, ...] | None) -> list[tuple[int, int]]:
    if columns is None:
        return [(0, num_columns)]
    return [(column, column + 1) for column in columns]
