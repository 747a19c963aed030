"""`trine info`."""

import argparse

__all__ = ["register", "run"]


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `info` to the program's commands."""
    parser = subparsers.add_parser("info")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run."""
    return 2
