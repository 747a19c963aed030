"""`trine export SOURCE BUNDLE`: turn a checkpoint into a bundle."""

import argparse
import sys
from pathlib import Path

from trine.runtime.errors import missing_package
from trine.runtime.progress import format_bytes

__all__ = ["register", "run"]


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
        "--precision", choices=["fp32"], default="fp32", help="of weights and matrix products"
    )
    parser.add_argument("--force", action="store_true", help="replace a bundle that is there")
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="run the engine on the golden inputs before keeping it "
        "(default: for engines up to 2 GiB; larger ones take their own size in memory)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Export, and say what was written."""
    try:
        from trine.export.options import ExportOptions
        from trine.export.pipeline import export_checkpoint
    except ImportError as cause:
        raise missing_package(
            cause.name or "onnx_ir", "export", "to export a checkpoint"
        ) from cause

    tasks = arguments.tasks
    report = export_checkpoint(
        ExportOptions(
            source=arguments.source,
            bundle=arguments.bundle,
            revision=arguments.revision,
            tasks=None
            if tasks is None
            else tuple(t.strip() for t in tasks.split(",") if t.strip()),
            adapters=arguments.adapters,
            max_rank=arguments.max_rank,
            onnx_adapters=arguments.onnx_adapters,
            precision=arguments.precision,
            force=arguments.force,
            check=arguments.check,
        ),
        sys.stderr,
    )
    talk = sys.stderr
    print(f"{report.bundle}: {report.source_id}, tasks {', '.join(report.tasks)}", file=talk)
    for engine in report.engines:
        for name, size in engine.graphs:
            print(f"  {name:<44} {format_bytes(size):>9}", file=talk)
        _print_parity(engine.deviations)
    print(
        f"  {format_bytes(report.num_bytes)} in {report.seconds:.1f} s, "
        f"peak memory {format_bytes(report.peak_bytes)}",
        file=talk,
    )
    return 0


def _print_parity(deviations: "tuple[object, ...] | None") -> None:
    from trine.runtime.golden import Deviation, worst

    if deviations is None:
        print(
            "  the engine was not run here; it is tested when it is loaded (--check runs it now)",
            file=sys.stderr,
        )
        return
    for head in ("single", "multi"):
        found = [d for d in deviations if isinstance(d, Deviation) and d.head == head]
        cosine, difference = worst(found)
        print(
            f"  {head}-vectors against the float32 reference: worst cosine {cosine:.7f}, "
            f"largest difference {difference:.1e}",
            file=sys.stderr,
        )
