"""Searches a dataset folder: every vector is scored, a row group in memory at a time.

Scores are exact for what is stored: cosines of single vectors, MaxSim of multi-vectors. Vectors of
8 bits count with the numbers they hold, and bits as +1 and -1, the query staying float32.
"""

import heapq
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from trine.kernels.maxsim import largest, maxsim_scores
from trine.kernels.pooling import l2_normalise
from trine.runtime.bulk.inputs.tables import import_pyarrow
from trine.runtime.bulk.job import MANIFEST_NAME, SUCCESS_NAME
from trine.runtime.bulk.shards import SHARD_NAME
from trine.runtime.errors import InputError
from trine.runtime.hardware.processors import num_processors
from trine.runtime.outputs import OutputDtype

__all__ = ["Dataset", "Hit", "is_finished", "open_dataset", "search_dataset"]

#: Rows whose vectors are in memory at a time; a row of multi-vectors has a thousand of them.
SINGLE_ROWS, MULTI_ROWS = 8192, 64
#: Names of the columns of vectors.
SINGLE, MULTI = "embedding", "embeddings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """What a dataset folder says of its vectors.

    Attributes:
        shards: files, in the order of the rows.
        num_rows: in all of them.
        multi: whether it holds multi-vectors.
        dim: of a vector before it was packed.
        output_dtype: of the stored numbers.
        task: that the rows were embedded with; "" where rows named their own.
        bundle_sha256: of the manifest of the bundle that embedded them.
        bundle_path: where that bundle was; None where the folder does not say.
    """

    shards: tuple[Path, ...]
    num_rows: int
    multi: bool
    dim: int
    output_dtype: OutputDtype
    task: str
    bundle_sha256: str
    bundle_path: Path | None


@dataclass(frozen=True, slots=True)
class Hit:
    """A row that was found.

    Attributes:
        score: cosine, or MaxSim.
        id: of the row.
        source, row: the input file, and the line, page or row in it, from 1.
        columns: those that were kept, by name.
    """

    score: float
    id: str
    source: str
    row: int
    columns: Mapping[str, object]


def open_dataset(folder: Path) -> Dataset:
    """Return what is in a dataset folder, finished or not.

    Raises:
        InputError: the folder holds no shard of a dataset.
        DependencyError: pyarrow is not installed.
    """
    arrow = import_pyarrow()
    listed = sorted(folder.iterdir()) if folder.is_dir() else []
    shards = tuple(path for path in listed if SHARD_NAME.fullmatch(path.name))
    if not shards:
        raise InputError(
            f"{folder}: holds no shard of a dataset; make one with `trine embed BUNDLE INPUT -o "
            f"{folder}/`"
        )
    try:
        schema = arrow.parquet.read_schema(shards[0])
        said = {name.decode(): value.decode() for name, value in (schema.metadata or {}).items()}
        dtype = said["trine.output_dtype"]
        if dtype not in get_args(OutputDtype):
            raise ValueError(f"vectors of the type {dtype!r}")
        return Dataset(
            shards=shards,
            num_rows=sum(arrow.parquet.read_metadata(path).num_rows for path in shards),
            multi=MULTI in schema.names,
            dim=int(said["trine.dim"]),
            output_dtype=dtype,
            task=said["trine.task"],
            bundle_sha256=said["trine.bundle"],
            bundle_path=_bundle_path(folder),
        )
    except (arrow.ArrowException, OSError, KeyError, ValueError) as cause:
        raise InputError(
            f"{folder}: has a shard that is not as this program wrote it ({cause}); make the "
            "dataset anew with --restart"
        ) from cause


def is_finished(folder: Path) -> bool:
    """Return whether a dataset's job came to its end."""
    return (folder / SUCCESS_NAME).exists()


def _bundle_path(folder: Path) -> Path | None:
    try:
        said = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
        return Path(said["bundle_path"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not finished, or of a version before it was said


def search_dataset(dataset: Dataset, query: NDArray[np.float32], top_k: int) -> list[Hit]:
    """Return the rows with the highest scores, best first; of equal ones the earlier first.

    Args:
        dataset: to search.
        query: float32 [dim], or [T, dim] for multi-vectors, of length 1 each.
        top_k: how many rows at most.

    Raises:
        InputError: top_k is below 1, the query has other dimensions, or a shard is damaged.
    """
    if top_k < 1:
        raise InputError(f"--top-k is {top_k}; give a number of at least 1")
    if query.shape[-1] != dataset.dim or query.ndim != 1 + dataset.multi:
        raise InputError(
            f"the query has the shape {list(query.shape)}; the dataset has "
            f"{'multi-' if dataset.multi else ''}vectors of {dataset.dim} dimensions"
        )
    best: list[tuple[float, int, Path, int]] = []
    position = 0
    for path, start, scores in _scored(dataset, query):
        for index in largest(scores, top_k):
            # Of equal scores the earlier row is the larger entry.
            entry = (float(scores[index]), -(position + int(index)), path, start + int(index))
            if len(best) < top_k:
                heapq.heappush(best, entry)
            else:
                heapq.heappushpop(best, entry)
        position += len(scores)
    found = sorted(best, key=lambda entry: (-entry[0], -entry[1]))
    return [_hit(score, path, row) for score, _, path, row in found]


def _scored(
    dataset: Dataset, query: NDArray[np.float32]
) -> Iterator[tuple[Path, int, NDArray[np.float32]]]:
    """Yield a shard, the first row of a batch in it, and the batch's scores, float32 [rows]."""
    arrow = import_pyarrow()
    name, rows = (MULTI, MULTI_ROWS) if dataset.multi else (SINGLE, SINGLE_ROWS)
    for path in dataset.shards:
        start = 0
        try:
            with arrow.parquet.ParquetFile(path, memory_map=True) as file:
                for batch in file.iter_batches(rows, columns=[name]):
                    column = batch.column(0)
                    score = _multi_scores if dataset.multi else _single_scores
                    yield path, start, score(column, query, dataset)
                    start += len(column)
        except (arrow.ArrowException, OSError) as cause:
            raise InputError(
                f"{path}: cannot be read ({cause}); remove it, and the command that made the "
                "dataset makes it anew"
            ) from cause


def _single_scores(
    column: Any, query: NDArray[np.float32], dataset: Dataset
) -> NDArray[np.float32]:
    stored = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    values = _unit_rows(stored, dataset)
    # Row by row: a product of matrices gives a row other last bits in a batch of another size.
    return np.einsum("nd,d->n", values, query)


def _multi_scores(column: Any, query: NDArray[np.float32], dataset: Dataset) -> NDArray[np.float32]:
    lists = column.flatten()
    stored = lists.flatten().to_numpy(zero_copy_only=False).reshape(len(lists), -1)
    values = _unit_rows(stored, dataset)
    bounds = np.asarray(column.offsets) - column.offsets[0].as_py()
    documents = [values[first:end] for first, end in pairwise(bounds.tolist())]
    return maxsim_scores([query], documents, num_processors())[0]


def _unit_rows(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.float32]:
    """Return float32 [n, dim] of stored rows, of length 1; bits are +1 and -1 before."""
    if dataset.output_dtype == "float32":
        return np.ascontiguousarray(stored)
    if dataset.output_dtype in ("binary", "ubinary"):
        # "binary" is "ubinary" less 128.
        packed = stored if dataset.output_dtype == "ubinary" else stored.astype(np.int16) + 128
        bits = np.unpackbits(packed.astype(np.uint8), axis=1, count=dataset.dim)
        return l2_normalise(np.where(bits == 1, np.float32(1), np.float32(-1)))
    return l2_normalise(np.ascontiguousarray(stored, np.float32))


def _hit(score: float, path: Path, row: int) -> Hit:
    """Return a row's columns; its row group is read for it."""
    arrow = import_pyarrow()
    with arrow.parquet.ParquetFile(path, memory_map=True) as file:
        names = [name for name in file.schema_arrow.names if name not in (SINGLE, MULTI)]
        group = 0
        while row >= file.metadata.row_group(group).num_rows:
            row -= file.metadata.row_group(group).num_rows
            group += 1
        (found,) = file.read_row_group(group, columns=names).slice(row, 1).to_pylist()
    own = ("id", "source", "row", "num_tokens", "truncated")
    return Hit(
        score=score,
        id=found["id"],
        source=found["source"],
        row=found["row"],
        columns={name: value for name, value in found.items() if name not in own},
    )
