"""The program `trine`: finds the verb, runs it, turns errors into one sentence and an exit code.

Exit codes: 0 done; 1 a check did not pass; 2 the user's input cannot be used; 130 interrupted.
stdout carries data, stderr carries talk.
"""

import argparse
import importlib.metadata
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from trine.export.commands import (
    adapters,
    build,
    demo,
    export,
    export_triton,
    sample_checkpoint,
    verify,
)
from trine.kernels.cpu.library import NativeLibraryError
from trine.runtime.commands import serve
from trine.runtime.commands.bench import command as bench
from trine.runtime.commands.doctor import command as doctor
from trine.runtime.commands.embed import command as embed
from trine.runtime.commands.eval import command as evaluate
from trine.runtime.commands.info import command as info
from trine.runtime.commands.roofline import command as roofline
from trine.runtime.commands.tune import command as tune
from trine.runtime.errors import TrineError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code.

    Args:
        arguments: as after the program's name on a command line; None for the process's own.
    """
    parser = _parser()
    parsed, rest = parser.parse_known_args(arguments)
    # argparse takes an empty list of INPUTs where options follow BUNDLE, and leaves those behind
    # the options over.
    unknown = [word for word in rest if word.startswith("-") and word != "-"]
    if rest and (unknown or not hasattr(parsed, "inputs")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        parsed.inputs.extend(rest)
    # A server ends in its own way.
    if arguments is None and parsed.verb != "serve":
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = int(parsed.run(parsed))
        if sys.stdout is not None:  # closed by who started us
            sys.stdout.flush()  # here, where an error can still be said
        return code
    except TrineError as error:
        print(f"trine {parsed.verb}: {error}", file=sys.stderr)
        return 2
    except (NativeLibraryError, MemoryError) as error:
        print(f"trine {parsed.verb}: {error or 'out of memory'}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of our output left, as `head` does; nothing more can be said to it.
        _drop_output()
        return 0
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        reason = error.strerror or error
        print(f"trine {parsed.verb}: {place}{reason}; check path and disk", file=sys.stderr)
        _drop_output()
        return 2
    except KeyboardInterrupt:
        print(f"trine {parsed.verb}: interrupted", file=sys.stderr)
        return 130


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End as by Ctrl-C, so that what was begun is removed."""
    raise KeyboardInterrupt


def _drop_output() -> None:
    """Send what is left of the output nowhere, for Python would try to write it at its end."""
    with suppress(OSError):  # no file of the system, in tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trine", description="jina-embeddings-v4 on ONNX Runtime, without torch."
    )
    version = importlib.metadata.version("trine")
    parser.add_argument("--version", action="version", version=f"trine {version}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for command in (
        *(export, embed, info, verify, evaluate, bench, tune, adapters, doctor),
        *(serve, roofline, build, export_triton, demo, sample_checkpoint),
    ):
        command.register(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
