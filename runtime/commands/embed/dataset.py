"""`trine embed … -o FOLDER/`: a dataset folder of Parquet shards, resumable after a kill."""

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trine.runtime.errors import InputError

if TYPE_CHECKING:
    from trine.runtime.bulk.inputs.rows import ReadOptions
    from trine.runtime.bulk.inputs.sources import SourceFile
    from trine.runtime.bulk.job import Job, Setting
    from trine.runtime.bulk.progress import ProgressOutput
    from trine.runtime.bulk.row_embedding import RowOptions
    from trine.runtime.bulk.run import Outcome
    from trine.runtime.bulk.shards import ShardLayout
    from trine.runtime.bundle.bundle import Bundle
    from trine.runtime.bundle.manifest import EngineEntry
    from trine.runtime.embedder import Embedder

__all__ = ["add_options", "is_dataset", "refuse_options", "run_dataset"]

#: Vectors of a shard, by default.
SHARD_BYTES = 128 << 20
#: Tokens of an item, guessed for the default rows of a shard of multi-vectors.
GUESSED_TOKENS = 256
#: Exit code of a job that left rows out.
SKIPPED = 1
#: What was given where an option may be left out.
OPTIONS = {
    "text_column": "--text-column",
    "image_column": "--image-column",
    "id_column": "--id-column",
    "keep": "--keep",
    "template": "--template",
    "shard_rows": "--shard-rows",
    "on_error": "--on-error",
    "max_errors": "--max-errors",
    "progress": "--progress",
    "restart": "--restart",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of dataset folders."""
    group = parser.add_argument_group(
        "dataset folders (-o FOLDER/)",
        "The same command continues a job that was stopped. Inputs may also be .parquet, .arrow, "
        ".csv and .tsv files, folders, and patterns such as 'data/*.parquet'.",
    )
    group.add_argument("--text-column", metavar="NAME", help="the text's column (default: text)")
    group.add_argument(
        "--image-column", metavar="NAME", help="paths or bytes of images (default: image)"
    )
    group.add_argument("--id-column", metavar="NAME", help="ids (default: id, else _id)")
    group.add_argument(
        "--keep",
        metavar="COLUMNS",
        help="columns that travel to the output: names with commas, all that have no other use, "
        "or none (default: all)",
    )
    group.add_argument(
        "--template", metavar="TEXT", help='makes the text of columns, e.g. "{title} {text}"'
    )
    group.add_argument(
        "--shard-rows",
        type=int,
        metavar="N",
        help="rows of a shard (default: those whose vectors are 128 MiB)",
    )
    group.add_argument(
        "--on-error",
        choices=["fail", "skip"],
        help="of a row that cannot be used: end, or list it in _errors.parquet and end with exit "
        "code 1 (default: fail)",
    )
    group.add_argument("--max-errors", type=int, metavar="N", help="rows that may be skipped")
    group.add_argument(
        "--progress",
        choices=["auto", "json"],
        help="auto: a line on a terminal; json: an object a line on the standard output",
    )
    group.add_argument(
        "--restart", action="store_true", default=None, help="remove the dataset and begin anew"
    )


def is_dataset(output: str | None) -> bool:
    """Return whether an output names a folder."""
    return output is not None and (output.endswith(("/", os.sep)) or Path(output).is_dir())


def refuse_options(arguments: argparse.Namespace) -> None:
    """Refuse the options of dataset folders where the output is none."""
    for name, option in OPTIONS.items():
        if getattr(arguments, name) is not None:
            raise InputError(f"{option} is for dataset folders; give one with -o, as in -o out/")


def run_dataset(
    arguments: argparse.Namespace,
    bundle: "Bundle",
    options: "RowOptions",
    load: "Callable[[frozenset[str]], Embedder]",
) -> int:
    """Embed all inputs into a dataset folder, or what of it is not there yet.

    Args:
        arguments: of the command line.
        bundle: that embeds.
        options: of the rows.
        load: loads the embedder with the tasks of the rows.
    """
    from trine.runtime.bulk.inputs.sources import find_sources
    from trine.runtime.bulk.inputs.tables import import_pyarrow
    from trine.runtime.bulk.run import RowFaults, Work, run_job
    from trine.runtime.bundle.atomic import hold
    from trine.runtime.engines.select import read_host, select_engine

    import_pyarrow()
    _check(arguments)
    output = Path(os.path.realpath(arguments.output))
    if output.exists() and not output.is_dir():
        raise InputError(f"{arguments.output}: is a file; give the name of a folder")
    if not output.parent.is_dir():
        raise InputError(f"{arguments.output}: its parent folder does not exist; make it first")
    host = read_host(bundle, arguments.device)
    entry = select_engine(bundle, arguments.engine, host, arguments.quality).entry
    read = _read_options(arguments)
    sources = find_sources(arguments.inputs, output)
    with hold(output, InputError):
        output.mkdir(exist_ok=True)
        job = _open_job(arguments, output, (bundle, entry), (read, options), sources)
        work = Work(
            output=output,
            bundle=bundle.folder.resolve(),
            read=read,
            embed=options,
            layout=_layout(bundle, options, job),
            faults=RowFaults(arguments.on_error == "skip", arguments.max_errors),
            progress=_progress(arguments),
        )
        outcome = run_job(job, work, lambda: load(job.tasks))
    _tell(arguments.output, outcome)
    return SKIPPED if outcome.num_skipped else 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.text or not arguments.inputs or "-" in arguments.inputs:
        raise InputError(
            "a dataset folder is made of files that can be read again when the job is continued; "
            "save texts and the standard input to files"
        )
    if arguments.force:
        raise InputError("--force is for files; a dataset folder takes --restart")
    if arguments.shard_rows is not None and arguments.shard_rows < 1:
        raise InputError(f"--shard-rows is {arguments.shard_rows}; give a number of at least 1")
    if arguments.max_errors is not None and arguments.on_error != "skip":
        raise InputError("--max-errors counts skipped rows; give --on-error skip with it")
    if arguments.max_errors is not None and arguments.max_errors < 0:
        raise InputError(f"--max-errors is {arguments.max_errors}; give a number of at least 0")


def _read_options(arguments: argparse.Namespace) -> "ReadOptions":
    from trine.runtime.bulk.inputs.columns import KEEP_ALL, KEEP_NONE, ColumnOptions
    from trine.runtime.bulk.inputs.files import Inputs
    from trine.runtime.bulk.inputs.rows import ReadOptions

    keep = arguments.keep or KEEP_ALL
    columns = ColumnOptions(
        text=arguments.text_column,
        image=arguments.image_column,
        id=arguments.id_column,
        keep=keep if keep in (KEEP_ALL, KEEP_NONE) else tuple(keep.split(",")),
        template=arguments.template,
    )
    files = Inputs(
        texts=(),
        names=(),
        stdin=None,
        dpi=arguments.dpi,
        txt=arguments.txt or "lines",
        pdf_password=arguments.pdf_password or os.environ.get("TRINE_PDF_PASSWORD"),
    )
    return ReadOptions(columns, files)


def _settings(
    arguments: argparse.Namespace,
    parts: "tuple[Bundle, EngineEntry]",
    options: "RowOptions",
    shard_rows: int,
) -> "dict[str, Setting]":
    """Return all that decides what is in the output; how fast it comes is no part of it."""
    from trine.runtime.bundle.bundle import MANIFEST_NAME, file_sha256

    bundle, entry = parts
    return {
        "bundle": file_sha256(bundle.path(MANIFEST_NAME)),
        "model": bundle.manifest.source.id,
        "revision": bundle.manifest.source.revision,
        "engine": f"{entry.name} by {entry.runner}",
        "precision": entry.precision,
        "version of trine": importlib.metadata.version("trine"),
        "--task": options.task,
        "--prompt": options.prompt,
        "--dim": _dim(bundle, options),
        "--output-dtype": options.output_dtype,
        "--multi-vector": int(options.multi),
        "--max-length": options.max_length,
        "--max-pixels": options.max_pixels,
        "--dpi": arguments.dpi,
        "--txt": arguments.txt or "lines",
        "--text-column": arguments.text_column,
        "--image-column": arguments.image_column,
        "--id-column": arguments.id_column,
        "--keep": arguments.keep or "all",
        "--template": arguments.template,
        "--on-error": arguments.on_error or "fail",
        "--shard-rows": shard_rows,
    }


def _dim(bundle: "Bundle", options: "RowOptions") -> int:
    """Return the dimensions of vectors before they are packed."""
    model = bundle.manifest.model
    return model.projector_dim if options.multi else options.dim or model.default_dim


def _shard_rows(bundle: "Bundle", options: "RowOptions") -> int:
    """Return how many rows have vectors of about `SHARD_BYTES`."""
    from trine.runtime.outputs import stored_shape

    dtype, num_values = stored_shape(options.output_dtype, _dim(bundle, options))
    row_bytes = dtype.itemsize * num_values * (GUESSED_TOKENS if options.multi else 1)
    return max(1, SHARD_BYTES // row_bytes)


def _open_job(
    arguments: argparse.Namespace,
    output: Path,
    parts: "tuple[Bundle, EngineEntry]",
    options: "tuple[ReadOptions, RowOptions]",
    sources: "list[SourceFile]",
) -> "Job":
    """Return the folder's job, begun now if there is none, else checked to be the same."""
    from trine.runtime.bulk.inputs.survey import Tasks, survey_sources
    from trine.runtime.bulk.job import Job, read_job, remove_dataset, write_job

    (bundle, entry), (read, embed) = parts, options
    shard_rows = arguments.shard_rows or _shard_rows(bundle, embed)
    settings = _settings(arguments, parts, embed, shard_rows)
    former = read_job(output)
    if former is not None and not arguments.restart:
        former.check_same(Path(arguments.output), settings, sources)
        return former
    survey = survey_sources(sources, read, Tasks(tuple(entry.decoders), embed.task))
    if survey.first_fault is not None and arguments.on_error != "skip":
        raise survey.first_fault
    if arguments.max_errors is not None and survey.num_faults > arguments.max_errors:
        raise InputError(
            f"{survey.num_faults} rows cannot be used, more than --max-errors "
            f"{arguments.max_errors}, the first one: {survey.first_fault}"
        )
    if survey.repeated is not None:
        print(f"warning: {survey.repeated}", file=sys.stderr)
    _warn_of_side(arguments, survey.tasks)
    job = Job(
        settings=settings,
        sources=tuple(sources),
        num_rows=survey.num_rows,
        tasks=survey.tasks,
        kept_schema=survey.kept_schema,
        shard_rows=shard_rows,
    )
    if arguments.restart:
        remove_dataset(output)
    write_job(output, job)
    return job


def _warn_of_side(arguments: argparse.Namespace, tasks: frozenset[str]) -> None:
    from trine.runtime.task_names import SYMMETRIC_TASKS

    if arguments.prompt is None and not tasks <= set(SYMMETRIC_TASKS):
        print(
            "warning: no side is named, so texts without their own are embedded as queries; give "
            "--prompt passage for texts to be searched, or --prompt query for queries",
            file=sys.stderr,
        )


def _layout(bundle: "Bundle", options: "RowOptions", job: "Job") -> "ShardLayout":
    from trine.runtime.bulk.shards import ShardLayout

    settings = job.settings
    named = {
        "model": "model",
        "revision": "revision",
        "task": "--task",
        "prompt": "--prompt",
        "dim": "--dim",
        "output_dtype": "--output-dtype",
        "engine": "engine",
        "precision": "precision",
        "bundle": "bundle",
        "version": "version of trine",
    }
    metadata = {f"trine.{name}": str(settings[key] or "") for name, key in named.items()}
    return ShardLayout(
        dim=_dim(bundle, options),
        multi=options.multi,
        output_dtype=options.output_dtype,
        kept_schema=job.kept_schema,
        metadata=metadata,
    )


def _progress(arguments: argparse.Namespace) -> "ProgressOutput":
    from trine.runtime.bulk.progress import ProgressOutput

    as_json = arguments.progress == "json"
    if as_json and sys.stdout is None:
        raise InputError("the standard output is closed; open it for --progress json")
    return ProgressOutput(sys.stdout if as_json else sys.stderr, as_json)


def _tell(output: str, outcome: "Outcome") -> None:
    line = (
        f"{outcome.num_rows} rows in {outcome.num_shards} shards in {output} "
        f"({outcome.num_kept_shards} were there before), in {outcome.seconds:.1f} s"
    )
    if outcome.tokens_per_second:
        line += f", {outcome.tokens_per_second:.0f} tokens/s"
    print(line, file=sys.stderr)
    if outcome.num_skipped:
        print(
            f"{outcome.num_skipped} rows could not be used; _errors.parquet in {output} lists them",
            file=sys.stderr,
        )
