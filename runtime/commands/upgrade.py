"""`trine upgrade BUNDLE`: bring a bundle of an older format version up to date in place."""

import argparse
import sys
from pathlib import Path

__all__ = ["register", "run"]


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `upgrade` to the program's commands."""
    parser = subparsers.add_parser(
        "upgrade",
        help="bring a bundle of an older format version up to date",
        description="Bring a bundle of an older format version up to date in place. Only its "
        "manifest is written, at once or not at all; neither the checkpoint nor an export is "
        "needed.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a folder of `trine export`")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Upgrade, and say from which version."""
    from trine.runtime.bundle.manifest import FORMAT_VERSION
    from trine.runtime.bundle.upgrade import upgrade_bundle

    former = upgrade_bundle(arguments.bundle)
    done = (
        f"is of format version {FORMAT_VERSION} already"
        if former == FORMAT_VERSION
        else f"format version {former} became {FORMAT_VERSION}"
    )
    print(f"{arguments.bundle}: {done}", file=sys.stderr)
    return 0
