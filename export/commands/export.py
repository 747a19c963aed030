"""`trine export SOURCE BUNDLE`: turn a checkpoint into a bundle."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trine.runtime.errors import missing_package

if TYPE_CHECKING:
    from trine.export.options import ExportOptions

__all__ = ["register", "run"]

#: Above this an export on a terminal asks first.
ASKED_BYTES = 20 * 10**9


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `export` to the program's commands."""
    parser = subparsers.add_parser(
        "export",
        help="turn a checkpoint into a bundle",
        description="Turn a checkpoint into a bundle: graphs, weights, tokenizer and golden "
        "vectors in one folder. No torch is needed, and no more memory than a few of the "
        "largest tensors.",
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="'nano' (built in), a checkpoint folder, or a Hub id"
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="the folder to write")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub (default: main)")
    parser.add_argument(
        "--tasks", metavar="A,B", help="the adapters to export (default: all of the checkpoint)"
    )
    parser.add_argument(
        "--adapters",
        choices=["merged", "runtime"],
        default="merged",
        help="merged: one decoder a task, the adapter in its weights; runtime: one decoder for "
        "all, adapters beside it, mixed in a batch, loaded and unloaded while it serves",
    )
    parser.add_argument(
        "--max-rank",
        type=int,
        metavar="N",
        help="with --adapters runtime: rank up to which adapters fit (default: the checkpoint's)",
    )
    parser.add_argument(
        "--onnx-adapters",
        action="store_true",
        help="with --adapters runtime: also write adapters in ONNX Runtime's own format",
    )
    parser.add_argument(
        "--precision",
        choices=["fp32", "fp16", "bf16", "int8", "int4", "fp8"],
        action="append",
        help="of weights and matrix products; several make a bundle of several engines, the first "
        "of which is the default (default: fp32; bf16 for TensorRT)",
    )
    parser.add_argument(
        "--target",
        choices=["cpu", "cuda", "tensorrt", "tensorrt-rtx"],
        default="cpu",
        help="what runs the engines: ONNX Runtime on a processor or with CUDA, or TensorRT, for "
        "which graphs are written beside a float32 engine, and `trine build` builds the engines "
        "(default: cpu)",
    )
    parser.add_argument(
        "--layout",
        choices=["bundle", "onnx"],
        default="bundle",
        help="bundle: what Trine runs; onnx: a folder a task with one plain ONNX model from token "
        "ids to vectors, as other programs load it, fp32, fp16 or int8 (default: bundle)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say the sizes, the memory and the time that config.json lets expect, and write "
        "nothing; of a Hub id only the files with the model's numbers are downloaded",
    )
    parser.add_argument(
        "--yes",
        action="store_true",
        help="do not ask before more than 20 GB are written (asked on a terminal only)",
    )
    parser.add_argument("--force", action="store_true", help="replace a bundle that is there")
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="run the engines before keeping them (default: all but float32 ones over 2 GiB)",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE|DIR",
        help="texts and images like those to be embedded, from which ranges and the layers to "
        "keep wider are found (default: built-in ones)",
    )
    parser.add_argument(
        "--min-cosine",
        type=float,
        metavar="C",
        help="least mean cosine with float32 of engines narrower than that, in place of the "
        "thresholds of their precisions: fewer layers are kept wider for a smaller one, more for a "
        "larger one",
    )
    parser.add_argument(
        "--allow-below-threshold",
        action="store_true",
        help="keep an engine that is further from float32 than its precision may be",
    )
    # The name of the release before.
    parser.add_argument(
        "--allow-below-floor",
        action=_OldFlag,
        nargs=0,
        default=False,
        dest="allow_below_threshold",
        help=argparse.SUPPRESS,
    )
    parser.set_defaults(run=run)


class _OldFlag(argparse.Action):
    """A flag of the release before: it sets what the new one sets, and says the new name."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: object
    ) -> None:
        setattr(namespace, self.dest, True)
        new = "--" + self.dest.replace("_", "-")
        print(f"{parser.prog}: {self.option_strings[0]} is now called {new}", file=sys.stderr)


def run(arguments: argparse.Namespace) -> int:
    """Export, and say what was written."""
    try:
        from trine.export.bundle.report import export_lines
        from trine.export.export import export_checkpoint
        from trine.export.options import ExportOptions, chosen_precisions
    except ImportError as cause:
        raise missing_package(
            cause.name or "onnx_ir", "export", "to export a checkpoint"
        ) from cause

    tasks = arguments.tasks
    precisions, tensorrt = chosen_precisions(arguments.target, arguments.precision)
    options = ExportOptions(
        source=arguments.source,
        bundle=arguments.bundle,
        revision=arguments.revision,
        tasks=None if tasks is None else tuple(t.strip() for t in tasks.split(",") if t.strip()),
        adapters=arguments.adapters,
        max_rank=arguments.max_rank,
        onnx_adapters=arguments.onnx_adapters,
        precisions=precisions,
        force=arguments.force,
        check=arguments.check,
        calibration=arguments.calibration,
        min_cosine=arguments.min_cosine,
        allow_below_threshold=arguments.allow_below_threshold,
        tensorrt=tensorrt,
    )
    if not _goes_on(arguments, options):
        return 0
    if arguments.layout == "onnx":
        from trine.export.standalone.export import export_onnx

        print("\n".join(export_onnx(options, sys.stderr).lines()), file=sys.stderr)
        return 0
    report = export_checkpoint(options, sys.stderr)
    for line in export_lines(report):
        print(line, file=sys.stderr)
    return 0 if all(engine.written for engine in report.engines) else 1


def _goes_on(arguments: argparse.Namespace, options: "ExportOptions") -> bool:
    """Say what the export will take, where that matters; return whether to go on."""
    asks = sys.stdin.isatty() and sys.stderr.isatty() and not arguments.yes
    if not (arguments.dry_run or asks):
        return True
    from trine.export.checkpoint.config import read_model_config
    from trine.export.checkpoint.source import NUMBER_FILES, resolve_source
    from trine.export.estimate import estimate_export

    source = resolve_source(options.source, options.revision, NUMBER_FILES)
    model, plain = read_model_config(source.folder), arguments.layout == "onnx"
    estimate = estimate_export(model, options, plain)
    if not arguments.dry_run and estimate.written_bytes <= ASKED_BYTES:
        return True
    print("\n".join([f"{options.bundle}: {source.id}", *estimate.lines()]), file=sys.stderr)
    if arguments.dry_run:
        return False
    if options.adapters == "merged" and not plain:
        print(
            "  --adapters runtime writes one decoder for all tasks, --precision int8 a quarter",
            file=sys.stderr,
        )
    print("write it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
