"""An engine's check against the golden vectors of its bundle."""

import threading
from collections.abc import Sequence
from typing import get_args

from trine.runtime.bundle.bundle import GOLDEN_NAME, Bundle
from trine.runtime.bundle.golden import Deviation, Modality, golden_deviations, load_golden, worst
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.errors import EngineError
from trine.runtime.inference.encoder import Encoder
from trine.runtime.inputs import Item, Prompt
from trine.runtime.outputs import Embeddings
from trine.runtime.request import check_request

__all__ = ["SelfTest", "measure_deviations"]

#: Golden texts embedded; one reads every weight, and more would delay a large model.
SELF_TEST_TEXTS = 1


def measure_deviations(
    bundle: Bundle,
    encoder: Encoder,
    tasks: Sequence[str],
    modality: Modality,
    num_texts: int | None = None,
) -> list[Deviation]:
    """Return how far an engine is from the bundle's golden vectors.

    Args:
        bundle: of the golden vectors.
        encoder: of the engine.
        tasks: to measure; those without golden vectors are left out.
        modality: texts or the image.
        num_texts: how many of the golden texts to embed; None for all.
    """
    golden = load_golden(bundle.path(GOLDEN_NAME))
    names = encoder.engine.adapters.names

    def encode(items: Sequence[Item], task: str, prompts: Sequence[Prompt]) -> Embeddings:
        request = check_request(
            names, encoder.model, num_items=len(items), task=task, prompt_name=prompts
        )
        return encoder.encode(items, request, single=True, multi=True)

    known = [task for task in tasks if task in names]
    return list(golden_deviations(golden, encode, known, modality, num_texts or len(golden.texts)))


class SelfTest:
    """Checks an engine once per modality, before its first vectors are given out.

    Safe to call from several threads: those that come while a check runs wait for it.

    Args:
        bundle: of the golden vectors.
        entry: of the engine, for its tolerance.
        encoder: of the engine.
        enabled: False to check nothing.
    """

    def __init__(self, bundle: Bundle, entry: EngineEntry, encoder: Encoder, enabled: bool) -> None:
        self._bundle = bundle
        self._entry = entry
        self._encoder = encoder
        self._pending: frozenset[Modality] = frozenset(get_args(Modality) if enabled else ())
        self._tasks = frozenset(encoder.engine.adapters.names)
        self._lock = threading.Lock()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks the golden vectors speak for: not of adapters that came later under their name."""
        return tuple(task for task in self._encoder.engine.adapters.names if task in self._tasks)

    def disown(self, name: str) -> None:
        """Leave `name` out from now on; waits for a check under way."""
        with self._lock:
            self._tasks -= {name}

    def require(self, modality: Modality) -> None:
        """Check `modality` if that was not done yet.

        Raises:
            EngineError: golden vectors come out further off than the engine's tolerance.
        """
        if modality not in self._pending:
            return
        with self._lock:
            if modality in self._pending:
                self._check(modality)
                self._pending -= {modality}

    def _check(self, modality: Modality) -> None:
        entry, tolerance = self._entry, self._entry.tolerance
        found = measure_deviations(
            self._bundle, self._encoder, self.tasks, modality, SELF_TEST_TEXTS
        )
        cosine, difference = worst(found)
        if cosine < tolerance.min_cosine or difference > tolerance.max_difference:
            raise EngineError(
                f"engine {entry.name} failed its self-test on {modality}: worst cosine "
                f"{cosine:.6f} (at least {tolerance.min_cosine}), largest difference "
                f"{difference:.2g} (at most {tolerance.max_difference}); run `trine verify`, then "
                "export the bundle again or change the version of the engine's package"
            )
