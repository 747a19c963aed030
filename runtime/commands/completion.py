"""`trine completion SHELL`: the script with which a shell completes verbs, options and paths."""

import argparse

from trine.runtime.errors import missing_package

__all__ = ["register", "run"]

SHELLS = ("bash", "zsh", "tcsh", "fish")


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `completion` to the program's commands."""
    parser = subparsers.add_parser(
        "completion",
        help="print a script of completions for a shell",
        description="Print a script of completions. For bash: trine completion bash > "
        "~/.local/share/bash-completion/completions/trine",
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the script, which needs nothing of Trine when it runs."""
    from trine.runtime.commands.program import make_parser

    try:
        import shtab
    except ImportError as cause:
        raise missing_package("shtab", "completion", "to write completions") from cause
    print(shtab.complete(make_parser(), shell=arguments.shell))
    return 0
