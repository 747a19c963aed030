"""Vectors in the types that vector databases store, and the ranges that int8 needs.

What is quantised is what would have been returned: the leading dimensions of a single vector,
normalised again (cut, then normalised, then quantised). Normalising stretches each vector by its
own factor, so the ranges of a cut do not follow from those of the whole vector: each task has
ranges for each of its cuts.

`calibrate_ranges` gives all dimensions of a cut one range, [-r, r]. The format would take a range
for each dimension, as sentence-transformers measures them, and ranges of that kind may be given
here too; but databases rank int8 vectors by the dot product of the codes, which then weighs the
dimensions by how narrow they are and shifts each by its middle. One range with 0 in its middle
keeps the codes proportional to the values, so their dot product ranks as that of the floats does.
docs/output-types.md has both measured.

A bundle keeps its ranges in output_ranges.npz: for each task and cut the key `<task>/<dim>` with
float32 [2, dim], the lowest and the highest value of each dimension.
"""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trine.kernels.pooling import truncate
from trine.kernels.quantise import pack_binary, pack_ubinary, quantise_int8, to_float16
from trine.runtime.bundle.bundle import Bundle
from trine.runtime.errors import BundleError, InputError
from trine.runtime.outputs import Embeddings, OutputDtype

__all__ = [
    "RANGES_NAME",
    "Int8Ranges",
    "bundle_ranges",
    "calibrate_ranges",
    "check_output",
    "quantise_embeddings",
    "quantise_multi",
    "quantise_single",
    "read_ranges",
    "write_ranges",
]

#: In a bundle.
RANGES_NAME = "output_ranges.npz"
#: How much further than the largest calibrated value a range reaches. Values beyond a range are
#: clipped, and 1 % of clipped values cost 2 points of nDCG@10, while steps half as large again cost
#: nothing that can be measured. Texts of another kind than the calibrated ones went further than
#: 1.25 times, none as far as 1.5 times.
MARGIN = 1.5


@dataclass(frozen=True, slots=True)
class Int8Ranges:
    """Ranges by task and number of dimensions: float32 [2, dim], lowest and highest values.

    Raises:
        InputError: an array has another shape, or holds a range that is not one.
    """

    by_task: Mapping[str, Mapping[int, NDArray[np.float32]]]

    def __post_init__(self) -> None:
        for task, cuts in self.by_task.items():
            for dim, ranges in cuts.items():
                if ranges.shape != (2, dim) or ranges.dtype != np.float32:
                    raise InputError(
                        f"the ranges of task {task!r} at {dim} dimensions are {ranges.dtype} "
                        f"{list(ranges.shape)}; give float32 [2, {dim}]"
                    )
                if not np.isfinite(ranges).all() or (ranges[0] > ranges[1]).any():
                    raise InputError(
                        f"the ranges of task {task!r} at {dim} dimensions hold a low end above its "
                        "high end, NaN or infinity; calibrate them again"
                    )

    def of(self, task: str, dim: int) -> NDArray[np.float32]:
        """Return float32 [2, dim].

        Raises:
            InputError: there are none for this task and number of dimensions.
        """
        found = self.by_task.get(task, {}).get(dim)
        if found is None:
            raise InputError(
                f"output_dtype 'int8' needs the ranges of task {task!r} at {dim} dimensions, which "
                f"the bundle's {RANGES_NAME} would hold: export the bundle again, or calibrate your"
                f" own, embedder.output_ranges = calibrate_ranges({{{task!r}: vectors}}, [{dim}])"
            )
        return found


def calibrate_ranges(vectors: Mapping[str, NDArray[np.float32]], dims: Sequence[int]) -> Int8Ranges:
    """Return ranges that hold what vectors like these are made of.

    A cut's range is [-r, r] in all its dimensions, with r the largest absolute value among the cut
    and normalised vectors times 1.5, and at most 1, which no normalised vector exceeds.

    Args:
        vectors: for each task float32 [N, D], whole single vectors, normalised; of both queries
            and passages, and of images if there will be any, since all are compared with each
            other and so need the same ranges.
        dims: numbers of leading dimensions that will be asked for, each at most D. D itself is
            always added.

    Raises:
        InputError: a task has no vectors, or fewer dimensions than asked for.
    """
    by_task = {}
    for task, rows in vectors.items():
        if rows.ndim != 2 or 0 in rows.shape or not np.isfinite(rows).all():
            raise InputError(
                f"the vectors of task {task!r} are {list(rows.shape)}; give finite [vectors, "
                "dimensions], at least one"
            )
        size = rows.shape[1]
        if any(not 1 <= dim <= size for dim in dims):
            raise InputError(
                f"dims are {list(dims)}, but the vectors of task {task!r} have {size} dimensions"
            )
        by_task[task] = {dim: _shared_range(truncate(rows, dim)) for dim in {*dims, size}}
    return Int8Ranges(by_task)


def _shared_range(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return float32 [2, D], the same range for each dimension of normalised [N, D]."""
    reach = min(1.0, MARGIN * float(np.abs(vectors).max()))
    ends = np.array([[-reach], [reach]], np.float32)
    return np.repeat(ends, vectors.shape[1], axis=1)


def write_ranges(path: Path, ranges: Int8Ranges) -> None:
    """Write a .npz file; the same ranges make the same bytes."""
    arrays = {
        f"{task}/{dim}": ranges.by_task[task][dim]
        for task in sorted(ranges.by_task)
        for dim in sorted(ranges.by_task[task])
    }
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_ranges(path: Path) -> Int8Ranges:
    """Return the ranges that `write_ranges` wrote.

    Raises:
        BundleError: the file is damaged or holds something else.
    """
    by_task: dict[str, dict[int, NDArray[np.float32]]] = {}
    try:
        # Opened here, because numpy leaves a file open that it finds to be damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            for name in archive.files:
                task, _, dim = name.rpartition("/")
                by_task.setdefault(task, {})[int(dim)] = archive[name]
        return Int8Ranges(by_task)
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as cause:
        raise BundleError(f"{path}: damaged ({cause}); copy the bundle again") from cause


def bundle_ranges(bundle: Bundle) -> Int8Ranges:
    """Return the ranges that a bundle carries; none if it was exported without them.

    Raises:
        BundleError: the file is damaged.
    """
    if RANGES_NAME not in bundle.manifest.files:
        return Int8Ranges({})
    return read_ranges(bundle.path(RANGES_NAME))


def check_output(
    output_dtype: OutputDtype, tasks: Sequence[str], dim: int, multi: bool, ranges: Int8Ranges
) -> None:
    """Check that vectors can be returned in a type, before they cost anything.

    Args:
        output_dtype: wanted.
        tasks: of the items.
        dim: of their single vectors.
        multi: whether multi-vectors are wanted.
        ranges: that are known.

    Raises:
        InputError: it is int8 and ranges are missing, or multi-vectors are wanted.
    """
    if output_dtype != "int8":
        return
    if multi:
        raise InputError(
            "output_dtype is 'int8', which multi-vectors do not come in; ask for 'float16' or "
            "'binary', or for single vectors alone"
        )
    for task in dict.fromkeys(tasks):
        ranges.of(task, dim)


def quantise_embeddings(
    found: Embeddings, tasks: Sequence[str], output_dtype: OutputDtype, ranges: Int8Ranges
) -> Embeddings:
    """Return float32 embeddings in another type.

    Args:
        found: what `check_output` let pass.
        tasks: of each item.
        output_dtype: wanted.
        ranges: for int8.
    """
    single, multi = found.single, found.multi
    return replace(
        found,
        single=None if single is None else quantise_single(single, tasks, output_dtype, ranges),
        multi=None if multi is None else quantise_multi(multi, output_dtype),
    )


def quantise_single(
    vectors: NDArray[np.float32],
    tasks: Sequence[str],
    output_dtype: OutputDtype,
    ranges: Int8Ranges,
) -> NDArray[Any]:
    """Return single vectors in another type.

    Args:
        vectors: float32 [B, D], cut and normalised.
        tasks: of each vector.
        output_dtype: float32 returns `vectors` itself.
        ranges: for int8, of these tasks and D.

    Returns:
        float16 or int8 [B, D], or int8 or uint8 [B, ceil(D / 8)] for binary and ubinary.

    Raises:
        InputError: int8 ranges are missing.
    """
    if output_dtype != "int8":
        return _convert(vectors, output_dtype)
    codes = np.empty(vectors.shape, np.int8)
    owners = np.array(tasks, np.str_)
    for task in dict.fromkeys(tasks):
        rows = owners == task
        codes[rows] = quantise_int8(vectors[rows], ranges.of(task, vectors.shape[1]))
    return codes


def quantise_multi(
    vectors: Sequence[NDArray[np.float32]], output_dtype: OutputDtype
) -> list[NDArray[Any]]:
    """Return multi-vectors in another type, each token's vector by itself.

    Args:
        vectors: float32 [T_i, D] each, rows normalised.
        output_dtype: not int8.
    """
    return [_convert(rows, output_dtype) for rows in vectors]


def _convert(vectors: NDArray[np.float32], output_dtype: OutputDtype) -> NDArray[Any]:
    """Return float32 [..., D] in a type that needs no ranges."""
    if output_dtype == "float32":
        return vectors
    if output_dtype == "float16":
        return to_float16(vectors)
    if output_dtype == "binary":
        return pack_binary(vectors)
    if output_dtype == "ubinary":
        return pack_ubinary(vectors)
    raise ValueError(f"{output_dtype} needs ranges")
