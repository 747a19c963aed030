"""One change of adapters on its way through all workers: what to ask of whom, and how it ended.

An adapter is loaded in two steps. Every worker first does all that can fail, where no request sees
it; only if all of them could, all are told to keep it, else those that could drop it again. What a
name stood for before is never touched, so there is nothing to restore. Unloading has one step.
"""

import dataclasses

from trine.runtime.serving.workers.adapter_admin import ADAPTER_IN_USE, UNKNOWN_ADAPTER
from trine.runtime.serving.workers.control import AdapterChange, Failure, Step

__all__ = ["Round"]


class Round:
    """One change. Sends nothing itself; workers are numbers here.

    Args:
        change: to be made by all.
    """

    def __init__(self, change: AdapterChange) -> None:
        self.change = change
        self._step: Step | None = "make"
        self._waiting: set[int] = set()
        #: By worker that made it: the hash of the adapter that it loaded.
        self._made: dict[int, str | None] = {}
        self._ended: set[int] = set()
        self._failures: list[Failure] = []
        self._stands = False

    @property
    def step(self) -> Step | None:
        """What workers are asked for now; None once the round is over."""
        return self._step

    @property
    def waits(self) -> bool:
        """Whether a worker's answer is due."""
        return bool(self._waiting)

    @property
    def stands(self) -> bool:
        """Whether workers that start from now on have to begin with the change."""
        return self._stands

    @property
    def failure(self) -> Failure | None:
        """What the asker is told; None if all went well."""
        told = self._failures
        if self.change.folder is None and self._made:
            # That some workers had it is enough.
            told = [failure for failure in told if failure.code != UNKNOWN_ADAPTER]
        return told[0] if told else None

    def asked(self, worker: int) -> None:
        """Note that a worker was sent the order of this step."""
        self._waiting.add(worker)

    def answered(self, worker: int, failure: Failure | None, digest: str | None = None) -> None:
        """Note how a worker fared, and the hash of the adapter that it loaded, if it did."""
        if worker not in self._waiting:
            return
        self._waiting.discard(worker)
        if failure is not None:
            self._failures.append(failure)
        # What is still in use is gone for new calls.
        if failure is None or failure.code == ADAPTER_IN_USE:
            self._made[worker] = digest

    def ended(self, worker: int) -> None:
        """Note that a worker's process ended; the one that takes its place may be asked again."""
        self._made.pop(worker, None)
        if worker not in self._waiting:
            return
        self._waiting.discard(worker)
        if self._step == "make" and worker in self._ended:
            # Once may be chance. A change that kills whoever makes it must not go round for ever.
            self._failures.append(
                Failure(
                    500,
                    "worker_ended",
                    "a worker ended twice while it changed its adapters; see the server's log",
                )
            )
        self._ended.add(worker)

    def advance(self) -> frozenset[int]:
        """Go to the next step if no answer is due; return the workers to ask for it."""
        if self._waiting or self._step is None:
            return frozenset()
        if self._step == "make" and self._made:
            load = self.change.folder is not None
            digest, *others = set(self._made.values())
            self.change = dataclasses.replace(self.change, digest=digest)
            if others:
                self._failures.append(_changed(self.change))
            self._stands = not (load and self._failures)
            if load:
                self._step = "keep" if self._stands else "drop"
                return frozenset(self._made)
        self._step = None
        return frozenset()


def _changed(change: AdapterChange) -> Failure:
    return Failure(
        422,
        "unusable_adapter",
        f"{change.folder}: was changed while workers loaded it; load it again",
        "folder",
    )
