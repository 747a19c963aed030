"""Carries out a bulk job: slice by slice, each into a shard of its own, from where it stopped."""

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from trine.runtime.bulk.embedding import embed_slice
from trine.runtime.bulk.inputs.rows import ReadOptions, SourceRow, read_source
from trine.runtime.bulk.inputs.tables import import_pyarrow
from trine.runtime.bulk.job import (
    ERRORS_NAME,
    MANIFEST_NAME,
    SUCCESS_NAME,
    Job,
    finished_shards,
)
from trine.runtime.bulk.progress import Progress, ProgressOutput
from trine.runtime.bulk.row_embedding import RowOptions
from trine.runtime.bulk.shards import (
    Shard,
    ShardLayout,
    ShardWriter,
    open_shard,
    read_shard,
    read_skipped,
    shard_name,
    stored_durably,
)
from trine.runtime.embedder import Embedder
from trine.runtime.errors import InputError

__all__ = ["Outcome", "RowFaults", "Work", "run_job"]


@dataclass(frozen=True, slots=True)
class RowFaults:
    """What happens to rows that cannot be used.

    Attributes:
        skip: whether they are left out and listed; else the first ends the job.
        most: how many may be, over the whole job; None for any number.
    """

    skip: bool
    most: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """How a job is done.

    Attributes:
        output: the dataset's folder.
        bundle: folder of the bundle that embeds, which a search looks for.
        read: how its inputs are read.
        embed: how its rows are embedded.
        layout: of its shards.
        faults: what happens to rows that cannot be used.
        progress: where progress is told.
    """

    output: Path
    bundle: Path
    read: ReadOptions
    embed: RowOptions
    layout: ShardLayout
    faults: RowFaults
    progress: ProgressOutput


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job came to.

    Attributes:
        num_rows: in the dataset.
        num_skipped: rows that could not be used.
        num_shards: in the dataset.
        num_kept_shards: of them, those that were there before.
        seconds: this process worked.
        tokens_per_second: of this process.
    """

    num_rows: int
    num_skipped: int
    num_shards: int
    num_kept_shards: int
    seconds: float
    tokens_per_second: float


def run_job(job: Job, work: Work, load: Callable[[], Embedder]) -> Outcome:
    """Make the shards that are not there yet, then the dataset's manifest.

    Args:
        job: whose statement is in the folder, which this process holds.
        work: how to do it.
        load: loads the embedder; called only if there is something to embed.

    Raises:
        InputError: a row, or too many of them, cannot be used, or the disk is full. Finished
            shards stay.
    """
    shards = finished_shards(work.output, job)
    kept = len(shards)
    pending = [number for number in range(job.num_slices) if number not in shards]
    done = sum(shard.num_read for shard in shards.values())
    skipped = sum(shard.num_skipped for shard in shards.values())
    progress = Progress(work.progress, job.total_rows, done, skipped)
    _check_count(work, skipped)
    success = work.output / SUCCESS_NAME
    if pending or not success.exists():
        success.unlink(missing_ok=True)
        if pending:
            with load() as embedder:
                for number, rows in _pending_slices(job, work.read, pending):
                    shards[number] = _embed_slice(job, work, embedder, (number, rows), progress)
        _write_errors(work.output, shards)
        _write_manifest(work, job, shards)
        with stored_durably(success):
            pass
    progress.finish()
    return Outcome(
        num_rows=sum(shard.num_rows for shard in shards.values()),
        num_skipped=progress.skipped,
        num_shards=len(shards),
        num_kept_shards=kept,
        seconds=progress.seconds,
        tokens_per_second=progress.rates[1],
    )


def _pending_slices(
    job: Job, options: ReadOptions, pending: list[int]
) -> Iterator[tuple[int, Iterator[SourceRow]]]:
    """Yield each slice with its rows, which are read in one go where slices follow each other."""
    first = 0
    while first < len(pending):
        last = first + 1
        while last < len(pending) and pending[last] == pending[last - 1] + 1:
            last += 1
        with closing(_rows_from(job, options, job.slice_rows(pending[first]).start)) as rows:
            for number in pending[first:last]:
                yield number, islice(rows, len(job.slice_rows(number)))
        first = last


def _rows_from(job: Job, options: ReadOptions, start: int) -> Generator[SourceRow, None, None]:
    """Yield the rows of the inputs, one behind the other, from one on."""
    for source, count in zip(job.sources, job.num_rows, strict=True):
        if start >= count:
            start -= count
            continue
        yield from read_source(source, options, job.kept_schema, start)
        start = 0


def _embed_slice(
    job: Job,
    work: Work,
    embedder: Embedder,
    part: tuple[int, Iterator[SourceRow]],
    progress: Progress,
) -> Shard:
    number, rows = part
    path = work.output / shard_name(number)
    with open_shard(path, work.layout) as writer:
        report = _reporter(work, writer, progress)
        for row, result in embed_slice(embedder, rows, work.embed, report):
            writer.add(row, result)
            progress.advance(row.source, result.num_tokens)
        read, expected = writer.num_rows + len(writer.skipped), len(job.slice_rows(number))
        if read != expected:
            raise InputError(
                f"{work.output}: slice {number} has {read} rows in place of {expected}; an input "
                "was changed while it was read: --restart begins anew"
            )
        if writer.skipped:  # they were found as rows were read ahead
            order = {source.path: index for index, source in enumerate(job.sources)}
            writer.skipped.sort(key=lambda row: (order[row.source], row.row))
        writer.finish(number, job.fingerprint)
    return read_shard(path)


def _reporter(
    work: Work, writer: ShardWriter, progress: Progress
) -> Callable[[SourceRow, InputError], None]:
    def report(row: SourceRow, fault: InputError) -> None:
        if not work.faults.skip:
            raise fault
        writer.skip(row, fault)
        progress.skip(row.source)
        _check_count(work, progress.skipped, fault)

    return report


def _check_count(work: Work, skipped: int, last: InputError | None = None) -> None:
    if work.faults.most is not None and skipped > work.faults.most:
        what = "" if last is None else f", the last one: {last}"
        raise InputError(
            f"{skipped} rows cannot be used, more than --max-errors {work.faults.most}{what}"
        )


def _write_errors(output: Path, shards: Mapping[int, Shard]) -> None:
    """Write the rows that were skipped, a row group for each shard that has some."""
    path = output / ERRORS_NAME
    if not any(shard.num_skipped for shard in shards.values()):
        path.unlink(missing_ok=True)
        return
    arrow = import_pyarrow()
    schema = arrow.schema(
        [
            ("source", arrow.string()),
            ("row", arrow.int64()),
            ("id", arrow.string()),
            ("error", arrow.string()),
        ]
    )
    with stored_durably(path) as file, arrow.parquet.ParquetWriter(file, schema) as writer:
        for _, shard in sorted(shards.items()):
            if shard.num_skipped:
                rows = [asdict(row) for row in read_skipped(output / shard.name)]
                writer.write_table(arrow.Table.from_pylist(rows, schema))


def _write_manifest(work: Work, job: Job, shards: Mapping[int, Shard]) -> None:
    ordered = [shard for _, shard in sorted(shards.items())]
    content = {
        "rows": sum(shard.num_rows for shard in ordered),
        "skipped": sum(shard.num_skipped for shard in ordered),
        "fingerprint": job.fingerprint,
        "bundle_path": str(work.bundle),
        "metadata": dict(work.layout.metadata),
        "shards": [
            {
                "name": shard.name,
                "rows": shard.num_rows,
                "skipped": shard.num_skipped,
                "bytes": shard.num_bytes,
            }
            for shard in ordered
        ],
    }
    with stored_durably(work.output / MANIFEST_NAME) as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False).encode("utf-8") + b"\n")
