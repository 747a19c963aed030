"""Options of all commands that run an engine."""

import argparse

__all__ = ["ENGINE_HELP", "add_device"]

#: What an engine may be called.
ENGINE_HELP = (
    "of the bundle's engines, or 'tensorrt', 'tensorrt_rtx' or 'ort_cuda' to run its "
    " graphs on a GPU"
)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device` to a command."""
    parser.add_argument(
        "--device",
        type=int,
        default=0,
        metavar="N",
        help="ordinal of the GPU, for engines that run on one (default: 0)",
    )
