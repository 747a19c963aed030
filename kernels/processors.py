"""How many processors there are for threads."""

import os

__all__ = ["num_processors"]


def num_processors() -> int:
    """Return how many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
