"""`trine demo`: exports the built-in checkpoint, searches with it and writes a page."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trine.runtime.bundle.atomic import write_file
from trine.runtime.errors import missing_package

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = ["register", "run"]


def register(subparsers: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb `demo` to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="export the built-in checkpoint, search texts, images and code, write a page",
        description="Exports the built-in checkpoint `nano` (once), embeds the demo's texts, "
        "images and functions, prints the rankings and writes DIR/index.html. Exit code 1 if too "
        "few expected hits come first.",
    )
    parser.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        type=Path,
        default=Path("build/demo"),
        help="where the bundle and the page go (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the demonstration; return 0, or 1 if too few expected hits came first."""
    # Imported here so that `trine --help` needs no extra.
    try:
        from trine.export.demo.bundle import prepare_bundle
        from trine.export.demo.corpus import demo_folder, read_sections
        from trine.export.demo.page import page_html
        from trine.export.demo.report import report_lines, total_line
        from trine.export.demo.search import measure_speed, search
    except ModuleNotFoundError as cause:
        raise missing_package(
            cause.name or "onnx_ir", "export", "to export the demo's checkpoint"
        ) from cause

    directory: Path = arguments.directory
    print(f"preparing {directory / 'nano.bundle'}", file=sys.stderr)
    bundle, embedder = prepare_bundle(directory)
    sections = read_sections(demo_folder())
    found = [search(embedder, section) for section in sections]
    speed = measure_speed(embedder, sections)
    page = directory / "index.html"
    with write_file(page) as partial:
        partial.write_text(page_html(bundle, found, speed), encoding="utf-8")
    print("\n".join(report_lines(bundle, found, speed)))
    print(f"\n{total_line(found)}\nThe same with images: {page}")
    return 0 if all(part.enough for part in found) else 1
