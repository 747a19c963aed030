"""Lets requests be read, refused and answered while every processor computes vectors."""

import os
import sys
import threading

__all__ = ["NICENESS", "give_way"]

#: By how much threads that compute are nicer. At 10 the kernel gives a thread that has something to
#: do about nine times the processor time of one that computes; what is left over is theirs.
NICENESS = 10


def give_way() -> None:
    """Make the calling thread, and those it will start, give way to the process's other threads.

    Engines start their own threads when they load, so one call in the thread that loads is enough
    for them. Only Linux has a priority for each thread; elsewhere nothing changes.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS)
