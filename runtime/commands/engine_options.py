"""Options of all commands that run an engine."""

import argparse

__all__ = ["ENGINE_HELP", "add_device", "add_quality"]

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


def add_quality(parser: argparse.ArgumentParser) -> None:
    """Add `--quality` to a command."""
    parser.add_argument(
        "--quality",
        choices=["lossless", "high", "fast"],
        help="that engine auto keeps, the fastest that does: float32, 16 bits too, or any "
        "(default: the precision that the bundle lists first)",
    )
