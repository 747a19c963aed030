"""Watches an engine's runs: what they held, how long they took, how fast work goes."""

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.runtime.adapters.base import AdapterHandle, AdapterSource
from trine.runtime.engines.base import (
    DecoderBatch,
    DecoderInputs,
    Engine,
    HeadVectors,
    VectorEngine,
)
from trine.runtime.preprocessing.vision_inputs import VisionInputs
from trine.runtime.serving.scheduler.forward_cost import CostMeter, ForwardCost

__all__ = ["EngineBatch", "MeteredEngine", "MeteredVectorEngine", "Speed", "metered"]

#: What a batch's share shrinks by with each that follows: some ten runs make the average.
FADE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBatch:
    """One run of a graph.

    Attributes:
        graph: "decoder" or "vision".
        units: tokens, or patches.
        slots: tokens if every sequence were padded to the longest; patches for the vision tower,
            which pads nothing.
        items: sequences, or 0.
        seconds: it took.
    """

    graph: str
    units: int
    slots: int
    items: int
    seconds: float


class MeteredEngine:
    """An engine whose runs are reported.

    Args:
        engine: that does the work.
        report: called after each run, in the thread that ran it.
    """

    def __init__(self, engine: Engine, report: Callable[[EngineBatch], None]) -> None:
        self._engine = engine
        self._report = report

    @property
    def adapters(self) -> AdapterSource:
        return self._engine.adapters

    @property
    def pads_attention(self) -> bool:
        return self._engine.pads_attention

    @property
    def weights_in_memory(self) -> bool:
        return self._engine.weights_in_memory

    @property
    def description(self) -> str:
        return self._engine.description

    def batch_group(self, adapter: AdapterHandle) -> Hashable:
        return self._engine.batch_group(adapter)

    def forward_vision(self, inputs: VisionInputs) -> NDArray[np.float32]:
        start = time.perf_counter()
        result = self._engine.forward_vision(inputs)
        seconds = time.perf_counter() - start
        patches = len(inputs.patches)
        self._report(
            EngineBatch(graph="vision", units=patches, slots=patches, items=0, seconds=seconds)
        )
        return result

    def forward_decoder(
        self, inputs: DecoderInputs, adapters: Sequence[AdapterHandle]
    ) -> NDArray[np.float32]:
        start = time.perf_counter()
        result = self._engine.forward_decoder(inputs, adapters)
        self._report(_decoder_run(inputs, time.perf_counter() - start))
        return result


class MeteredVectorEngine(MeteredEngine):
    """An engine with heads of its own whose runs are reported.

    A run's time is that until its vectors are there, from when the ones before it were taken: runs
    overlap, and what one of them waits for another counts once.

    Args:
        engine: that does the work.
        report: called after each run, in the thread that ran it.
    """

    def __init__(self, engine: VectorEngine, report: Callable[[EngineBatch], None]) -> None:
        super().__init__(engine, report)
        self._vector_engine = engine

    def forward_vectors(self, runs: Iterable[DecoderBatch]) -> Iterator[HeadVectors]:
        drawn: deque[EngineBatch] = deque()

        def watched() -> Iterator[DecoderBatch]:
            for run in runs:
                drawn.append(_decoder_run(run.inputs, 0.0))
                yield run

        start = time.perf_counter()
        for vectors in self._vector_engine.forward_vectors(watched()):
            seconds = time.perf_counter() - start
            self._report(dataclasses.replace(drawn.popleft(), seconds=seconds))
            yield vectors
            start = time.perf_counter()


def metered(engine: Engine, report: Callable[[EngineBatch], None]) -> Engine:
    """Return the engine with its runs reported, its own heads among what it offers if it has some.

    Args:
        engine: that does the work.
        report: called after each run, in the thread that ran it.
    """
    if isinstance(engine, VectorEngine):
        return MeteredVectorEngine(engine, report)
    return MeteredEngine(engine, report)


def _decoder_run(inputs: DecoderInputs, seconds: float) -> EngineBatch:
    return EngineBatch(
        graph="decoder",
        units=len(inputs.embeddings),
        slots=int(inputs.padded_length) * len(inputs.last_index),
        items=len(inputs.last_index),
        seconds=seconds,
    )


class Speed:
    """How long work takes, learned from the last batches.

    A batch of the decoder costs so much a batch and so much a token; as long as that is unknown,
    a token costs what it did on average, larger batches counting for more. What the last batches
    took beyond that, for their vectors or because others use the machine, is expected to go on.

    `seconds` and `cost` may be used from any thread while one other calls `add` and `finish`: what
    they read is replaced whole.

    Args:
        batch_tokens: of one batch, at most.
    """

    def __init__(self, batch_tokens: int) -> None:
        self._batch_tokens = batch_tokens
        self._sums = {"decoder": (0.0, 0.0), "vision": (0.0, 0.0)}
        self._runs: list[EngineBatch] = []
        self._meter = CostMeter()
        # Kept while the meter asks for larger batches to learn anew.
        self._last_cost: ForwardCost | None = None
        self._largest = 0.0
        self._last_size = 0
        self._taken = (0.0, 0.0)

    def begin_with(self, runs: Sequence[EngineBatch]) -> None:
        """Predict from runs that were timed before there was any work.

        Batches are planned by what real ones took: `cost` stays unknown.
        """
        meter = CostMeter()
        for run in runs:
            self.add(run)
            if run.graph == "decoder":
                meter.add(run.units, run.seconds)
        self._runs = []
        self._last_cost, self._largest = meter.cost, meter.largest

    def add(self, run: EngineBatch) -> None:
        """Learn from a run of a graph."""
        seconds, units = self._sums[run.graph]
        self._sums[run.graph] = (seconds * FADE + run.seconds, units * FADE + run.units)
        self._runs.append(run)

    def finish(self, whole: float) -> None:
        """Learn from a batch whose graphs' runs were all added.

        Args:
            whole: seconds of the batch, with its preprocessor and its vectors.
        """
        runs, self._runs = self._runs, []
        predicted = sum(self._predict(run.graph, run.units) for run in runs)
        taken = self._taken
        self._taken = (taken[0] * FADE + whole, taken[1] * FADE + predicted)
        # Of a batch of several runs it is not known what each one took.
        if len(runs) == 1 and runs[0].graph == "decoder":
            self._meter.add(runs[0].units, whole)
            self._adopt_cost(runs[0].units)

    def _adopt_cost(self, tokens: int) -> None:
        """Predict from the meter's line from now on, if batches of several sizes made it lately.

        While all are of one size, a machine that became slower would bend the line, since its
        other end is remembered from before.
        """
        size = tokens.bit_length()
        cost = self._meter.cost
        if cost is not None and (self._last_cost is None or size != self._last_size):
            if self._last_cost is None:
                self._taken = (0.0, 0.0)  # it was relative to the average
            self._last_cost, self._largest = cost, self._meter.largest
        self._last_size = size

    def cost(self) -> ForwardCost | None:
        """Return what a run of the decoder costs, with all around it; None while unknown."""
        return self._meter.cost

    def seconds(self, tokens: int, patches: int) -> float:
        """Return how long that much work would take; 0 until something was run."""
        predicted = self._predict("decoder", tokens) + self._predict("vision", patches)
        taken, expected = self._taken
        return predicted * taken / expected if expected else predicted

    def _predict(self, graph: str, units: int) -> float:
        """Return the seconds of so many units, in batches as full as they may be."""
        cost = self._last_cost
        if graph == "decoder" and cost is not None:
            full, rest = divmod(units, self._batch_tokens)
            return full * self._batch(cost, self._batch_tokens) + self._batch(cost, rest)
        seconds, known = self._sums[graph]
        return units * seconds / known if known else 0.0

    def _batch(self, cost: ForwardCost, tokens: int) -> float:
        """Return the seconds of one batch.

        One that is larger than any known so far takes at most as long a token as those did. The
        line says less, but where runs were few and the machine busy it may even fall.
        """
        if not tokens:
            return 0.0
        known = min(tokens, self._largest)
        return (cost.run + cost.token * known) * tokens / known
