"""`trine embed BUNDLE [INPUT …]`: texts, images and PDF pages to vectors in a file."""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from trine.runtime.commands.embed.dataset import (
    add_options,
    is_dataset,
    refuse_options,
    run_dataset,
)
from trine.runtime.commands.embed.file_list import read_list
from trine.runtime.commands.engine_options import ENGINE_HELP, add_device, add_quality
from trine.runtime.commands.progress import ProgressBar, is_terminal
from trine.runtime.errors import InputError

if TYPE_CHECKING:
    from trine.runtime.bulk.inputs.files import Inputs
    from trine.runtime.bulk.inputs.items import InputRow
    from trine.runtime.bulk.output_files import OutputFile
    from trine.runtime.bulk.output_rows import JsonLinesWriter, OutputRow
    from trine.runtime.bulk.row_embedding import RowOptions
    from trine.runtime.bundle.bundle import Bundle
    from trine.runtime.embedder import Embedder
    from trine.runtime.inputs import Prompt

__all__ = ["register", "run"]

#: Sharp enough that the model's own limit of pixels decides what is seen of an A4 page.
PDF_DPI = 150
MAX_DPI = 2400


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `embed` to the program's commands."""
    parser = subparsers.add_parser(
        "embed",
        usage="trine embed BUNDLE [INPUT ...] [options]",
        help="turn texts, images and PDF pages into vectors",
        description="Turn texts, images and PDF pages into vectors. An INPUT is a .txt file (a "
        "text a line, or see --txt), a .jsonl file (an object a line: text and/or image, and id, "
        "task, prompt if wanted), a .pdf (an image a page), an image, or - for the standard "
        "input (see --format), which is also read if there is no INPUT and no --text.",
    )
    parser.add_argument(
        "bundle", metavar="BUNDLE", type=Path, help="a folder of `trine export`, or a Hub id"
    )
    parser.add_argument("inputs", metavar="INPUT", nargs="*", help="files, or - for stdin")
    parser.add_argument(
        "--files-from",
        metavar="FILE",
        help="a list of further INPUTs, one a line; - for one on the standard input",
    )
    parser.add_argument(
        "--text", metavar="TEXT", action="append", default=[], help="a text; may be repeated"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help=".npy, .npz, .jsonl or .parquet, or a folder, as in out/, for a dataset (default: "
        "lines of JSON on the standard output)",
    )
    parser.add_argument("--force", action="store_true", help="replace an output that is there")
    parser.add_argument("--task", help="the adapter, for items that name none")
    parser.add_argument(
        "--prompt",
        choices=["query", "passage"],
        help="side of a text, for items that name none (default: query, with a warning for texts "
        "of files and the standard input)",
    )
    parser.add_argument(
        "--format",
        choices=["auto", "text", "jsonl"],
        default="auto",
        help="of the standard input: a text a line, or a JSON object a line; auto takes it for "
        "JSON if the first line that is not blank is an object (default: auto)",
    )
    parser.add_argument(
        "--txt",
        choices=["lines", "document"],
        help="what is an item of a .txt file: each line, or the whole file (default: lines)",
    )
    parser.add_argument(
        "--dim",
        type=int,
        metavar="N",
        help="leading dimensions to keep of single vectors, normalised again; 0 for all",
    )
    parser.add_argument(
        "--multi-vector", action="store_true", help="a vector a token instead of one an item"
    )
    parser.add_argument(
        "--output-dtype",
        metavar="TYPE",
        default="float32",
        help="float32, float16, int8, or bits packed as binary or ubinary (default: %(default)s)",
    )
    _add_limits(parser)
    add_options(parser)
    parser.set_defaults(run=run)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-length",
        type=int,
        default=32768,
        metavar="N",
        help="tokens of a text; the end is cut (default: %(default)s)",
    )
    parser.add_argument(
        "--max-pixels", type=int, metavar="N", help="of an image (default: the checkpoint's)"
    )
    parser.add_argument(
        "--dpi",
        type=int,
        default=PDF_DPI,
        metavar="N",
        help="pixels an inch for pages of PDFs (default: %(default)s)",
    )
    parser.add_argument(
        "--pdf-password",
        metavar="WORD",
        help="of encrypted PDFs; in TRINE_PDF_PASSWORD it does not show among the processes",
    )
    parser.add_argument(
        "--batch-tokens", type=int, metavar="N", help="tokens of one run of the decoder"
    )
    parser.add_argument("--engine", default="auto", metavar="NAME", help=ENGINE_HELP)
    add_quality(parser)
    add_device(parser)
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of one run (default: one a processor)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Embed all inputs and write the vectors; nothing is written if one of them cannot be used."""
    from trine.runtime.bulk.inputs.files import STDIN, Inputs, read_rows, survey_rows
    from trine.runtime.bulk.output_files import check_output
    from trine.runtime.bulk.row_embedding import embed_rows
    from trine.runtime.bundle.bundle import open_bundle
    from trine.runtime.hub import locate_bundle

    if arguments.files_from is not None:
        arguments.inputs += read_list(arguments.files_from, arguments.inputs)
    arguments.bundle = locate_bundle(
        arguments.bundle,
        engine=arguments.engine,
        quality=arguments.quality,
        device=arguments.device,
    )
    bundle = open_bundle(arguments.bundle)
    known_tasks = _known_tasks(bundle, arguments)
    _split_task(arguments, known_tasks)
    options = _options(arguments, bundle, known_tasks)
    if is_dataset(arguments.output):
        return run_dataset(arguments, bundle, options, lambda tasks: _load(arguments, tasks))
    refuse_options(arguments)
    output_path = None if arguments.output is None else Path(arguments.output)
    inputs = Inputs(
        texts=tuple(arguments.text),
        names=tuple(arguments.inputs) or (() if arguments.text else (STDIN,)),
        stdin=None if sys.stdin is None else sys.stdin.buffer,
        dpi=arguments.dpi,
        stdin_format=arguments.format,
        txt=arguments.txt or "lines",
        pdf_password=arguments.pdf_password or os.environ.get("TRINE_PDF_PASSWORD"),
    )
    if output_path is None and sys.stdout is None:
        raise InputError("the standard output is closed; give a file with -o")
    if output_path is not None:
        check_output(output_path, multi=options.multi, force=arguments.force)
    survey = survey_rows(inputs, known_tasks, options.task)
    _announce(inputs, arguments.txt is None)
    embedder = _load(arguments, survey.tasks)
    progress = _Progress(survey.num_rows)
    with _output(output_path, bundle, options) as output:
        read = read_rows(inputs)
        if arguments.prompt is None:
            read = _warn_of_side(read, len(inputs.texts), known_tasks, options.task)
        for rows in embed_rows(embedder, read, options):
            output.write(rows)
            progress.advance(rows)
    progress.finish(output_path, arguments.max_length)
    return 0


class _Progress:
    """What is said on stderr: a bar, or a count where the number of rows is unknown; then a sum."""

    def __init__(self, num_rows: int | None) -> None:
        self._bar = None
        if num_rows is not None:
            self._bar = ProgressBar(sys.stderr, "embedding", num_rows, "items")
        self._started = time.monotonic()
        self._count = 0
        self._num_cut = 0

    def advance(self, rows: "Sequence[OutputRow]") -> None:
        self._count += len(rows)
        self._num_cut += sum(row.truncated for row in rows)
        if self._bar is not None:
            self._bar.advance(len(rows))
        elif is_terminal(sys.stderr):
            print(f"\r{self._count} items embedded", end="", file=sys.stderr, flush=True)

    def finish(self, output: Path | None, max_length: int) -> None:
        if self._bar is not None:
            self._bar.finish()
        elif is_terminal(sys.stderr):
            print(file=sys.stderr)
        where = "" if output is None else f" to {output}"
        seconds = time.monotonic() - self._started
        print(f"{self._count} items embedded{where} in {seconds:.1f} s", file=sys.stderr)
        if self._num_cut:
            print(
                f"{self._num_cut} of {self._count} texts were cut to {max_length} tokens; "
                "split them, or raise --max-length",
                file=sys.stderr,
            )


def _split_task(arguments: argparse.Namespace, known_tasks: tuple[str, ...]) -> None:
    """Take the side that the task's name has, as in retrieval.passage, for that of --prompt."""
    from trine.runtime.task_names import choose_prompt, split_task

    found = None if arguments.task is None else split_task(arguments.task, known_tasks)
    if found is not None:
        arguments.prompt = choose_prompt(*found, arguments.prompt, "--prompt")
        arguments.task = found[0]


def _options(
    arguments: argparse.Namespace, bundle: "Bundle", known: tuple[str, ...]
) -> "RowOptions":
    """Return the options of the run, all checked before the model is loaded."""
    from trine.runtime.bulk.row_embedding import RowOptions
    from trine.runtime.request import check_dim, check_request
    from trine.runtime.scoring.quantisation import bundle_ranges, check_output

    if arguments.multi_vector and arguments.dim is not None:
        raise InputError("--dim is for single vectors: multi-vectors are never cut; leave one out")
    for name, value in (
        ("--batch-tokens", arguments.batch_tokens),
        ("--threads", arguments.threads),
    ):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}; give a number of at least 1")
    if not 1 <= arguments.dpi <= MAX_DPI:
        raise InputError(f"--dpi is {arguments.dpi}; give a number from 1 to {MAX_DPI}")
    dim = check_dim("--dim", arguments.dim, bundle.manifest.model.decoder.hidden_size)
    prompt: Prompt = arguments.prompt or "query"
    tasks = [] if arguments.task is None else [arguments.task]
    request = check_request(
        known,
        bundle.manifest.model,
        num_items=len(tasks),
        task=tasks,
        prompt_name=prompt,
        truncate_dim=dim,
        max_length=arguments.max_length,
        max_pixels=arguments.max_pixels,
        single=not arguments.multi_vector,
        multi=arguments.multi_vector,
        output_dtype=arguments.output_dtype,
    )
    check_output(request, bundle_ranges(bundle))
    return RowOptions(
        task=arguments.task,
        prompt=prompt,
        dim=dim,
        max_length=arguments.max_length,
        max_pixels=arguments.max_pixels,
        multi=arguments.multi_vector,
        output_dtype=request.output_dtype,
    )


def _announce(inputs: "Inputs", txt_by_default: bool) -> None:
    from trine.runtime.bulk.inputs.files import STDIN

    if STDIN in inputs.names and sys.stdin is not None and sys.stdin.isatty():
        print("reading texts from the terminal, one a line; Ctrl-D ends them", file=sys.stderr)
    if txt_by_default and any(name.lower().endswith(".txt") for name in inputs.names):
        print(
            "each line of a .txt file is an item; --txt document makes a file one item, "
            "--txt lines ends this note",
            file=sys.stderr,
        )


def _warn_of_side(
    rows: "Iterator[InputRow]",
    num_given: int,
    known_tasks: tuple[str, ...],
    default_task: str | None,
) -> "Iterator[InputRow]":
    """Yield the rows; warn at the first text whose side is a guess that changes its vector.

    Texts of files mostly are passages, and a passage embedded as a query is found less well.

    Args:
        rows: of the run.
        num_given: how many of the first come from --text, which are queries.
        known_tasks: of the bundle.
        default_task: of rows that name none.
    """
    from trine.runtime.bulk.inputs.files import resolve_row
    from trine.runtime.task_names import SYMMETRIC_TASKS

    warned = False
    for index, row in enumerate(rows):
        if index >= num_given and row.text is not None and not warned:
            named = resolve_row(row, known_tasks, default_task)
            warned = named.prompt is None and named.task not in SYMMETRIC_TASKS
        else:
            named = None
        if named is not None and warned:
            print(
                f"warning: {row.where}: no side is named, so texts are embedded as queries; give "
                "--prompt passage for texts to be searched, or --prompt query for queries",
                file=sys.stderr,
            )
        yield row


def _load(arguments: argparse.Namespace, tasks: frozenset[str] | None) -> "Embedder":
    from trine.runtime.embedder import Embedder
    from trine.runtime.inference.batch_planner import BatchLimits

    limits = BatchLimits()
    if arguments.batch_tokens is not None:
        tokens = arguments.batch_tokens
        limits = BatchLimits(tokens=tokens, window_tokens=max(tokens, limits.window_tokens))
    return Embedder.load(
        arguments.bundle,
        engine=arguments.engine,
        quality=arguments.quality,
        device=arguments.device,
        # None, all of them, also for no rows at all: their task is not known.
        tasks=sorted(tasks) if tasks else None,
        threads=arguments.threads,
        limits=limits,
    )


def _known_tasks(bundle: "Bundle", arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return the tasks of the engine that will run."""
    from trine.runtime.engines.select import read_host, select_engine

    host = read_host(bundle, arguments.device)
    return tuple(select_engine(bundle, arguments.engine, host, arguments.quality).entry.decoders)


@contextmanager
def _output(
    path: Path | None, bundle: "Bundle", options: "RowOptions"
) -> "Iterator[OutputFile | JsonLinesWriter]":
    from trine.runtime.bulk.output_files import open_output
    from trine.runtime.bulk.output_rows import JsonLinesWriter

    if path is None:
        yield JsonLinesWriter(sys.stdout)
        return
    multi = options.multi
    dim = bundle.manifest.model.projector_dim if multi else _single_dim(bundle, options.dim)
    with open_output(path, dim=dim, multi=multi, output_dtype=options.output_dtype) as output:
        yield output


def _single_dim(bundle: "Bundle", dim: int | None) -> int:
    """Return the size of single vectors: what was asked for, else what the checkpoint says."""
    model = bundle.manifest.model
    return dim or model.default_dim
