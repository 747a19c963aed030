"""Keeps the lanes full: queues the parts of a request ahead of the one whose result is awaited."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from trine.runtime.engines.gpu.cuda.lanes import Lane, Lanes, PendingBatch

__all__ = ["Start", "run_all"]

#: Queues one part in a lane.
Start = Callable[[Lane], PendingBatch]
Results = dict[str, NDArray[np.float32]]
_Label = TypeVar("_Label")


def run_all(
    lanes: Lanes, parts: Iterable[tuple[_Label, Start]]
) -> Iterator[tuple[_Label, Results]]:
    """Yield the results of parts in order.

    The next part is drawn from `parts` and queued while the one before computes, so the work of
    making it is hidden as well. Threads may do so at once: each holds lanes only as long as its own
    parts run, and waits for a lane only while it holds none.
    """
    flying: deque[tuple[_Label, PendingBatch]] = deque()
    try:
        for label, start in parts:
            lane = lanes.try_acquire()
            while lane is None and flying:
                first, ticket = flying.popleft()
                yield first, ticket.result()
                lane = lanes.try_acquire()
            if lane is None:
                lane = lanes.take()
            flying.append((label, start(lane)))
        while flying:
            first, ticket = flying.popleft()
            yield first, ticket.result()
    finally:
        # Not all were asked for, or one failed: the others' lanes are given back all the same.
        for _, ticket in flying:
            ticket.abandon()
