"""`trine adapters list|add|remove`: the adapters a bundle carries beside its decoder."""

import argparse
import sys
from pathlib import Path

from trine.runtime.commands.progress import format_bytes

__all__ = ["register", "run"]


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `adapters` to the program's commands."""
    parser = subparsers.add_parser(
        "adapters",
        help="list, add or remove the adapters of a bundle",
        description="List, add or remove the adapters that a bundle exported with "
        "--adapters runtime carries beside its decoder.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="print each adapter's name, size and file")
    adding = actions.add_parser("add", help="add an adapter from a PEFT folder")
    removing = actions.add_parser("remove", help="remove an adapter")
    for action in (listing, adding, removing):
        action.add_argument("bundle", metavar="BUNDLE", type=Path)
    for action in (adding, removing):
        action.add_argument("name", metavar="NAME", help="the task callers ask for")
    adding.add_argument(
        "folder",
        metavar="FOLDER",
        type=Path,
        help="with adapter_config.json and adapter_model.safetensors",
    )
    adding.add_argument(
        "--task", help="which of the folder's adapters (default: its only one, or the one NAME)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """List, add or remove."""
    from trine.export.bundle.edit import add_adapter, remove_adapter

    if arguments.action == "add":
        add_adapter(arguments.bundle, arguments.name, arguments.folder, arguments.task)
        print(f"{arguments.bundle}: added {arguments.name}", file=sys.stderr)
    elif arguments.action == "remove":
        remove_adapter(arguments.bundle, arguments.name)
        print(f"{arguments.bundle}: removed {arguments.name}", file=sys.stderr)
    else:
        _print_adapters(arguments.bundle)
    return 0


def _print_adapters(folder: Path) -> None:
    from trine.runtime.bundle.bundle import open_bundle

    manifest = open_bundle(folder).manifest
    if manifest.engines[0].adapters == "merged":
        for task in manifest.engines[0].decoders:
            print(f"{task}\tmerged")
        return
    for name, file in manifest.adapters.files.items():
        print(f"{name}\t{format_bytes(manifest.files[file].size)}\t{file}")
