"""`trine embed`."""

import argparse

__all__ = ["register", "run"]


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `embed` to the program's commands."""
    parser = subparsers.add_parser("embed")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run."""
    return 2
