"""The program `trine`: finds the verb, runs it, turns errors into one sentence and an exit code.

Exit codes: 0 done; 1 a check did not pass; 2 the user's input cannot be used; 130 interrupted.
stdout carries data, stderr carries talk.
"""

import argparse
import importlib
import importlib.metadata
import io
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from trine.kernels.cpu.library import NativeLibraryError
from trine.runtime.commands.start import INTERRUPTED, interrupts_raise
from trine.runtime.errors import TrineError

__all__ = ["main", "make_parser"]

#: The module of each verb, in the order of the help. Only the module of the verb that is run is
#: imported, so that no verb pays for the others.
VERBS = {
    "export": "trine.export.commands.export",
    "embed": "trine.runtime.commands.embed.command",
    "search": "trine.runtime.commands.search.command",
    "info": "trine.runtime.commands.info.command",
    "verify": "trine.export.commands.verify",
    "eval": "trine.runtime.commands.eval.command",
    "bench": "trine.runtime.commands.bench.command",
    "tune": "trine.runtime.commands.tune.command",
    "adapters": "trine.export.commands.adapters",
    "upgrade": "trine.runtime.commands.upgrade",
    "doctor": "trine.runtime.commands.doctor.command",
    "serve": "trine.runtime.commands.serve",
    "push": "trine.runtime.commands.push.command",
    "build": "trine.export.commands.build",
    "export-triton": "trine.export.commands.export_triton",
    "demo": "trine.export.commands.demo",
    "sample-checkpoint": "trine.export.commands.sample_checkpoint",
    "completion": "trine.runtime.commands.completion",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code.

    Args:
        arguments: as after the program's name on a command line; None for the process's own.
    """
    if arguments is None:
        _prepare_streams()
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = make_parser(words[0] if words else "")
    parsed, rest = parser.parse_known_args(words)
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
        interrupts_raise()
        code = int(parsed.run(parsed))
        if sys.stdout is not None:  # closed by who started us
            sys.stdout.flush()  # here, where an error can still be said
        return code
    except (TrineError, NativeLibraryError, MemoryError) as error:
        print(f"trine {parsed.verb}: {str(error) or 'out of memory'}", file=sys.stderr)
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
        return INTERRUPTED


def _prepare_streams() -> None:
    """Make the standard streams safe to use, however the process was started.

    A closed one would give its number to the next file opened, an output among them, and what is
    printed to a `sys.stderr` of None lands in stdout. A character that the encoding of the output
    has not, is written as its escape.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number is taken
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End as by Ctrl-C, so that what was begun is removed."""
    raise KeyboardInterrupt


def _drop_output() -> None:
    """Send what is left of the output nowhere, for Python would try to write it at its end."""
    with suppress(OSError):  # no file of the system, in tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def make_parser(verb: str = "") -> argparse.ArgumentParser:
    """Return the parser of command lines.

    Args:
        verb: the only one to know; all are known where it is none, as help and errors need them.
    """
    parser = argparse.ArgumentParser(
        prog="trine",
        description="jina-embeddings-v4 on ONNX Runtime, without torch.",
        epilog="exit codes: 0 done; 1 a check did not pass; 2 the input cannot be used; "
        "130 interrupted",
    )
    version = importlib.metadata.version("trine")
    parser.add_argument("--version", action="version", version=f"trine {version}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    modules = [VERBS[verb]] if verb in VERBS else VERBS.values()
    for module in modules:
        importlib.import_module(module).register(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
