"""The contract between engines and a GPU, so that their logic runs without one."""

from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Device", "HostBlock"]

#: Page-locked host memory, uint8 [n]: the device copies from and to it while the processor works.
HostBlock = NDArray[np.uint8]


class Device(Protocol):
    """One GPU. Addresses and handles are integers; may be called from several threads.

    Work is queued on streams and runs later, in the order of its stream; only `synchronise` waits.
    Memory that queued work uses must stay as it is until then.
    """

    @property
    def index(self) -> int:
        """Its ordinal."""
        ...

    @property
    def name(self) -> str:
        """What the driver calls it."""
        ...

    @property
    def sm(self) -> int:
        """Its compute capability times 10, e.g. 89."""
        ...

    def current(self) -> AbstractContextManager[None]:
        """Return a context in which libraries that the thread calls use this GPU."""
        ...

    def allocate(self, num_bytes: int) -> int:
        """Return the address of device memory, a multiple of 256.

        Raises:
            EngineError: there is not as much free.
        """
        ...

    def free(self, address: int) -> None:
        """Free device memory that no queued work uses."""
        ...

    def allocate_host(self, num_bytes: int) -> HostBlock:
        """Return page-locked host memory."""
        ...

    def free_host(self, block: HostBlock) -> None:
        """Free page-locked memory that no queued work uses."""
        ...

    def make_stream(self) -> int:
        """Return a stream that waits for no other."""
        ...

    def make_event(self) -> int:
        """Return an event."""
        ...

    def free_event(self, event: int) -> None:
        """Free an event that nothing waits for."""
        ...

    def upload(self, address: int, source: HostBlock, stream: int) -> None:
        """Queue a copy from page-locked memory to the device."""
        ...

    def download(self, target: HostBlock, address: int, stream: int) -> None:
        """Queue a copy from the device to page-locked memory."""
        ...

    def record(self, event: int, stream: int) -> None:
        """Have an event happen when all that is queued on a stream so far has run."""
        ...

    def wait(self, stream: int, event: int) -> None:
        """Have what is queued on a stream from now on run after an event."""
        ...

    def synchronise(self, event: int) -> None:
        """Return when an event has happened.

        Raises:
            EngineError: work before it failed.
        """
        ...

    def begin_capture(self, stream: int) -> None:
        """Have this thread's work for a stream be kept for a graph, not run."""
        ...

    def end_capture(self, stream: int) -> int:
        """Return the graph of what was queued since `begin_capture`, ready to be launched."""
        ...

    def launch_graph(self, graph: int, stream: int) -> None:
        """Queue all of a graph's work, with the addresses and sizes it was captured with."""
        ...

    def destroy_graph(self, graph: int) -> None:
        """Free a graph that no queued work uses."""
        ...
