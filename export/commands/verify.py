"""`trine verify BUNDLE`: check files, golden vectors and, with --source, PyTorch."""

import argparse
import sys
from pathlib import Path

from trine.runtime.commands.engine_options import add_device
from trine.runtime.errors import missing_package

__all__ = ["register", "run"]


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `verify` to the program's commands."""
    parser = subparsers.add_parser(
        "verify",
        help="check a bundle's files and vectors",
        description="Check that a bundle's files are as they were written and that its engines "
        "return the golden vectors; with --source also the vectors of PyTorch. Exit code 0 if all "
        "is well, 1 if a file was changed or a vector is outside its tolerance.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a folder of `trine export`")
    parser.add_argument(
        "--source",
        metavar="CHECKPOINT",
        help="what the bundle was made from ('nano', a folder or a Hub id): compare with PyTorch, "
        "which takes the extra `reference` and 4 bytes a parameter of memory",
    )
    parser.add_argument(
        "--engine", metavar="NAME", help="of the bundle (default: all that can run here)"
    )
    add_device(parser)
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of one run (default: one a processor)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Verify, print the report to stdout, and return 0 if all is well, else 1."""
    try:
        from trine.export.verify.report import report_lines
        from trine.export.verify.verify import verify_bundle
    except ImportError as cause:
        raise missing_package(cause.name or "onnx_ir", "export", "to verify a bundle") from cause

    report = verify_bundle(
        arguments.bundle,
        engine=arguments.engine,
        device=arguments.device,
        source=arguments.source,
        threads=arguments.threads,
        said=lambda step: print(step, file=sys.stderr),
    )
    for line in report_lines(report):
        print(line)
    return 0 if report.passed else 1
