"""`trine info BUNDLE`: what a bundle holds."""

import argparse
from pathlib import Path

__all__ = ["register", "run"]


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `info` to the program's commands."""
    parser = subparsers.add_parser(
        "info",
        help="show what a bundle holds",
        description="Show what a bundle holds: source, model, engines with sizes and memory, "
        "files, measured parity. Reads no weights and needs no engine.",
    )
    parser.add_argument(
        "bundle", metavar="BUNDLE", type=Path, help="a folder of `trine export`, or a Hub id"
    )
    parser.add_argument(
        "--json", action="store_true", help="print manifest and parity as one JSON object"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the table, or the JSON, to stdout."""
    import dataclasses
    import json

    from trine.runtime.commands.info.bundle_summary import bundle_lines, read_parity
    from trine.runtime.hub import describe_bundle

    bundle = describe_bundle(arguments.bundle)
    if arguments.json:
        content = {
            "manifest": dataclasses.asdict(bundle.manifest),
            "parity": read_parity(bundle),
        }
        print(json.dumps(content, indent=2))
        return 0
    for line in bundle_lines(bundle):
        print(line)
    return 0
