"""Decides when a batch is captured as a CUDA graph, and which graphs are kept."""

from collections import OrderedDict
from collections.abc import Hashable

from trine.runtime.engines.gpu.cuda.device import Device

__all__ = ["GraphCache"]

#: Runs of one kind until it is captured, where its sizes are nothing special: an image's size may
#: never come again.
SIGHTINGS = 2


class GraphCache:
    """Graphs of one compiled graph's runs, the last used ones. Not thread-safe.

    A graph replays the sizes and addresses it was captured with, so both are in its key. A run
    must have been enqueued with them right before it is captured: what the library does but once
    for new sizes cannot be captured.

    Args:
        device: that launches them.
        capacity: graphs kept.
    """

    def __init__(self, device: Device, capacity: int) -> None:
        self._device = device
        self._capacity = capacity
        self._graphs: OrderedDict[Hashable, int] = OrderedDict()
        self._seen: OrderedDict[Hashable, int] = OrderedDict()

    def find(self, key: Hashable) -> int | None:
        """Return the graph of a run, if it was captured."""
        graph = self._graphs.get(key)
        if graph is not None:
            self._graphs.move_to_end(key)
        return graph

    def wants(self, key: Hashable, expected: bool) -> bool:
        """Count a run, and return whether it is to be captured now.

        Args:
            key: of the run, which was not captured yet.
            expected: whether runs with this key will come again, as those of a bucket's size do.
        """
        count = self._seen.pop(key, 0) + 1
        if expected or count >= SIGHTINGS:
            return True
        self._seen[key] = count
        if len(self._seen) > 4 * self._capacity:
            self._seen.popitem(last=False)
        return False

    def keep(self, key: Hashable, graph: int) -> int | None:
        """Keep a graph; return the one that has to go for it, which queued work may still use."""
        self._graphs[key] = graph
        if len(self._graphs) > self._capacity:
            return self._graphs.popitem(last=False)[1]
        return None
