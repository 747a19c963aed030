"""Says how many processors this process may use; whoever starts threads asks here."""

import math
import os
from pathlib import Path

from trine.runtime.hardware.cgroup import CGROUP, PROC, cpu_quota

__all__ = ["num_processors"]


def num_processors(proc: Path = PROC, cgroup: Path = CGROUP) -> int:
    """Return how many threads that compute can run at once: at least 1.

    That is the processors this process may run on, or what a container's quota of processor time
    comes to where that is less. Half a processor or more counts as one: with a quota of 1.5 two
    threads do half as much again as one, although both pause when the quota is used up; with 1.2
    the pauses cost more than the second thread brings.

    Args:
        proc: the folder with `self/cgroup`.
        cgroup: where the control groups are mounted.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = cpu_quota(proc, cgroup)
    return count if quota is None else max(1, min(count, math.floor(quota + 0.5)))
