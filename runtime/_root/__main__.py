"""Runs the program `trine` as `python -m trine`, where its script is not on the path."""

import sys

from trine.runtime.commands.start import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
