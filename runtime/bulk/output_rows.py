"""One result of a bulk run, and the formats it is written in.

.jsonl     a line an item: id, embedding (or embeddings), num_tokens, truncated
.npy       float32 [n, D], single vectors only
.npz       vectors float32 [n, D]; or, for multi-vectors, vectors float32 [sum of T, D] behind one
           another with offsets int64 [n + 1]; ids, num_tokens int64 [n], truncated bool [n],
           output_dtype (a str)
.parquet   columns id, embedding list<float> (or embeddings list<list<float>>), num_tokens,
           truncated; in the schema's metadata output_dtype (the extra `parquet`)

In place of float32 stand float16, int8, or int8 and uint8 [n, ceil(D / 8)] for the bits of binary
and ubinary, as the run's output_dtype has it.

Vectors go to the disk as they come; only ids and counts are held until the end, for .npz.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from trine.runtime.bundle.npz_file import write_arrays
from trine.runtime.errors import missing_package
from trine.runtime.outputs import OutputDtype, stored_shape

__all__ = [
    "JsonLinesWriter",
    "NpyWriter",
    "NpzWriter",
    "OutputRow",
    "ParquetWriter",
    "RowWriter",
    "require_pyarrow",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRow:
    """What one item came to.

    Attributes:
        id: of the item.
        vectors: [D], or [T, D] for a multi-vector; float32 and normalised, or of the dtype and
            length that `stored_shape` has for the run's output_dtype.
        num_tokens: after truncation.
        truncated: whether the item's text was cut.
    """

    id: str
    vectors: NDArray[Any]
    num_tokens: int
    truncated: bool


class RowWriter(Protocol):
    """Writes rows to an open file, which belongs to the caller."""

    def write(self, rows: Sequence[OutputRow]) -> None:
        """Write more rows, in order."""
        ...

    def finish(self) -> None:
        """Write what comes behind the last row."""
        ...


class JsonLinesWriter:
    """Writes .jsonl; numbers have the digits that give back the same float32 or float16."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, rows: Sequence[OutputRow]) -> None:
        for row in rows:
            if row.vectors.ndim == 1:
                name, vectors = "embedding", _json_numbers(row.vectors)
            else:
                name = "embeddings"
                vectors = "[" + ", ".join(_json_numbers(vector) for vector in row.vectors) + "]"
            self._file.write(
                f'{{"id": {json.dumps(row.id)}, "{name}": {vectors}, '
                f'"num_tokens": {row.num_tokens}, "truncated": {json.dumps(row.truncated)}}}\n'
            )
        self._file.flush()

    def finish(self) -> None:
        self._file.flush()


class NpyWriter:
    """Writes a .npy file of [n, dim] whose n is known at the end.

    Args:
        file: to write.
        dim: of the vectors before they were packed.
        output_dtype: of the vectors.
    """

    def __init__(self, file: BinaryIO, dim: int, output_dtype: OutputDtype = "float32") -> None:
        self._file = file
        dtype, self._num_values = stored_shape(output_dtype, dim)
        self._dtype = dtype.newbyteorder("<")
        self._num_rows = 0
        self._write_header()

    def write(self, rows: Sequence[OutputRow]) -> None:
        for row in rows:
            self._file.write(np.ascontiguousarray(row.vectors, self._dtype).tobytes())
        self._num_rows += len(rows)

    def finish(self) -> None:
        # The header leaves room for its first number to grow, so that this one is as long.
        self._file.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        np.lib.format.write_array_header_1_0(
            self._file,
            {
                "descr": self._dtype.str,
                "fortran_order": False,
                "shape": (self._num_rows, self._num_values),
            },
        )


class NpzWriter:
    """Writes a .npz file.

    Args:
        file: to write.
        scratch: an empty file where vectors wait for their number to be known.
        dim: of the vectors before they were packed.
        multi: whether they are multi-vectors.
        output_dtype: of the vectors.
    """

    def __init__(
        self,
        file: BinaryIO,
        scratch: IO[bytes],
        dim: int,
        multi: bool,
        output_dtype: OutputDtype = "float32",
    ) -> None:
        self._file = file
        self._scratch = scratch
        self._multi = multi
        self._output_dtype = output_dtype
        self._dtype, self._num_values = stored_shape(output_dtype, dim)
        self._lengths: list[int] = []
        self._ids: list[str] = []
        self._num_tokens: list[int] = []
        self._truncated: list[bool] = []

    def write(self, rows: Sequence[OutputRow]) -> None:
        for row in rows:
            self._scratch.write(np.ascontiguousarray(row.vectors, self._dtype).tobytes())
            self._lengths.append(row.vectors.size // self._num_values)
            self._ids.append(row.id)
            self._num_tokens.append(row.num_tokens)
            self._truncated.append(row.truncated)

    def finish(self) -> None:
        self._scratch.flush()
        count = sum(self._lengths)
        arrays: dict[str, NDArray[Any]] = {
            "vectors": np.memmap(self._scratch, self._dtype, "r", shape=(count, self._num_values))
            if count
            else np.empty((0, self._num_values), self._dtype),
            "ids": np.array(self._ids, np.str_),
            "num_tokens": np.array(self._num_tokens, np.int64),
            "truncated": np.array(self._truncated, np.bool_),
            "output_dtype": np.array(self._output_dtype),
        }
        if self._multi:
            arrays["offsets"] = np.cumsum([0, *self._lengths], dtype=np.int64)
        write_arrays(self._file, arrays)


class ParquetWriter:
    """Writes a .parquet file, a row group for each call of `write`.

    Args:
        file: to write.
        multi: whether the vectors are multi-vectors.
        output_dtype: of the vectors.

    Raises:
        DependencyError: pyarrow is not installed.
    """

    def __init__(self, file: BinaryIO, multi: bool, output_dtype: OutputDtype = "float32") -> None:
        arrow = require_pyarrow()
        dtype, _ = stored_shape(output_dtype, 0)
        vector = arrow.list_(arrow.from_numpy_dtype(dtype))
        self._arrow = arrow
        self._name = "embeddings" if multi else "embedding"
        self._schema = arrow.schema(
            [
                ("id", arrow.string()),
                (self._name, arrow.list_(vector) if multi else vector),
                ("num_tokens", arrow.int64()),
                ("truncated", arrow.bool_()),
            ],
            metadata={"output_dtype": output_dtype},
        )
        self._writer = arrow.parquet.ParquetWriter(file, self._schema)

    def write(self, rows: Sequence[OutputRow]) -> None:
        columns = {
            "id": [row.id for row in rows],
            self._name: [row.vectors if row.vectors.ndim == 1 else [*row.vectors] for row in rows],
            "num_tokens": [row.num_tokens for row in rows],
            "truncated": [row.truncated for row in rows],
        }
        self._writer.write_table(self._arrow.table(columns, schema=self._schema))

    def finish(self) -> None:
        self._writer.close()

    def close(self) -> None:
        """End the writer, before its file is closed, if `finish` has not."""
        self._writer.close()


def require_pyarrow() -> Any:
    """Return the module pyarrow with its part `parquet`, or raise DependencyError."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as cause:
        raise missing_package("pyarrow", "parquet", "to write .parquet files") from cause
    return pyarrow


def _json_numbers(vector: NDArray[Any]) -> str:
    if vector.dtype.kind != "f":
        return json.dumps(vector.tolist())
    # The fewest digits that tell every two neighbouring numbers of the type apart.
    num_digits = 9 if vector.dtype == np.float32 else 5
    return "[" + ", ".join([f"{number:.{num_digits}g}" for number in vector.tolist()]) + "]"
