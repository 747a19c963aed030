"""Learns what a batch of the decoder costs: so much a batch, so much a token.

That says whether items are better computed in turn or together. An engine that is done with a few
tokens as soon as with many gains from large runs; one whose time grows with the tokens gains
nothing, and in a large run the first answer waits for the last.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["CostMeter", "ForwardCost", "fit_cost"]

#: Runs of a size that are remembered, and how few of them say nothing yet.
RUNS_OF_A_SIZE = 15
FEWEST_RUNS = 3
#: Runs after which one is forgotten. If all were of one size since then, the cost is unknown
#: again, and large runs are tried again: what was learned may not hold any more.
MEMORY_RUNS = 512
#: How much larger the largest remembered runs must be than the smallest for a line through them.
SPREAD = 1.5


@dataclass(frozen=True, slots=True)
class ForwardCost:
    """What a run costs.

    Attributes:
        run: seconds, whatever is in it.
        token: seconds more for each token.
    """

    run: float
    token: float

    @property
    def fixed_tokens(self) -> float:
        """Tokens in whose time the costs of the run itself are paid; infinite if those are all."""
        return self.run / self.token if self.token else float("inf")


def fit_cost(points: Sequence[tuple[float, float]]) -> ForwardCost:
    """Return the line through points that errs least, in parts of each run's seconds.

    Args:
        points: (tokens, seconds) of runs, at least two numbers of tokens; all above 0.
    """
    # Weighted least squares; a held-up machine errs in proportion to a run's length.
    weights = [1 / seconds**2 for _, seconds in points]
    whole = sum(weights)
    mean_tokens = sum(w * x for w, (x, _) in zip(weights, points, strict=True)) / whole
    mean_seconds = sum(w * y for w, (_, y) in zip(weights, points, strict=True)) / whole
    spread = sum(w * (x - mean_tokens) ** 2 for w, (x, _) in zip(weights, points, strict=True))
    both = sum(
        w * (x - mean_tokens) * (y - mean_seconds)
        for w, (x, y) in zip(weights, points, strict=True)
    )
    slope = both / spread
    start = mean_seconds - slope * mean_tokens
    if slope <= 0:
        return ForwardCost(mean_seconds, 0.0)
    if start < 0:
        return ForwardCost(0.0, mean_seconds / mean_tokens)
    return ForwardCost(start, slope)


class CostMeter:
    """Learns a run's cost. `cost` may be read from any thread while one other calls `add`.

    Runs are remembered by size, in powers of two, so that what is known of large ones stays while
    small ones come. Of each size the median counts: runs that other work on the machine held up
    move nothing.
    """

    def __init__(self) -> None:
        self._sizes: dict[int, deque[tuple[int, int, float]]] = {}
        self._number = 0
        self._cost: ForwardCost | None = None
        #: Tokens of the largest runs that are remembered.
        self.largest = 0.0

    @property
    def cost(self) -> ForwardCost | None:
        """What a run costs; None while runs of too few sizes are known."""
        return self._cost

    def add(self, tokens: int, seconds: float) -> None:
        """Learn from a run.

        Args:
            tokens: of it, at least 1.
            seconds: it took.
        """
        self._number += 1
        known = self._sizes.setdefault(tokens.bit_length(), deque(maxlen=RUNS_OF_A_SIZE))
        known.append((self._number, tokens, max(seconds, 1e-9)))
        self._cost = self._fit()

    def _fit(self) -> ForwardCost | None:
        points = []
        for size in self._sizes.values():
            while size and size[0][0] <= self._number - MEMORY_RUNS:
                size.popleft()
            if len(size) >= FEWEST_RUNS:
                points.append((median(run[1] for run in size), median(run[2] for run in size)))
        tokens = [point[0] for point in points]
        self.largest = max(tokens, default=0.0)
        if not points or max(tokens) < SPREAD * min(tokens):
            return None
        return fit_cost(points)
