"""Times a few batches before the first request, so that speed is known from then on."""

import time

import numpy as np

from trine.runtime.inference.runner import Runner
from trine.runtime.preprocessing.sequence import text_sequence
from trine.runtime.serving.scheduler.engine_meter import EngineBatch

__all__ = ["time_batches"]

#: Tokens of a text, and texts of the small and of the large batch: a line through two sizes.
TEXT_TOKENS = 16
NUM_TEXTS = (1, 8)
#: Batches of each size, whose median counts; none begins after so many seconds, so that a slow
#: machine's start is not delayed further.
TURNS = 3
LONGEST_S = 3.0


def time_batches(runner: Runner) -> list[EngineBatch]:
    """Return what batches of short texts took, the small ones first.

    Args:
        runner: of an engine whose weights were read already.
    """
    adapters = runner.engine.adapters
    task = adapters.names[0]
    end = time.perf_counter() + LONGEST_S
    found: list[EngineBatch] = []
    with adapters.hold({task}) as handles:
        for texts in NUM_TEXTS:
            sequences = [text_sequence(np.arange(TEXT_TOKENS), TEXT_TOKENS)] * texts
            for _ in range(TURNS):
                start = time.perf_counter()
                if start > end:
                    return found
                runner.forward(sequences, [handles[task]] * texts)
                found.append(
                    EngineBatch(
                        graph="decoder",
                        units=texts * TEXT_TOKENS,
                        slots=texts * TEXT_TOKENS,
                        items=texts,
                        seconds=time.perf_counter() - start,
                    )
                )
    return found
