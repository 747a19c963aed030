"""An engine's check against the golden vectors of its bundle."""

from collections.abc import Sequence

from trine.runtime.bundle import GOLDEN_NAME, Bundle
from trine.runtime.encoder import Encoder
from trine.runtime.errors import EngineError
from trine.runtime.golden import Deviation, Modality, golden_deviations, load_golden, worst
from trine.runtime.inputs import Item, Prompt
from trine.runtime.manifest import EngineEntry
from trine.runtime.outputs import Embeddings
from trine.runtime.request import check_request

__all__ = ["SELF_TEST_TEXTS", "measure_deviations", "require_golden"]

#: Golden texts embedded at load; one reads every weight, and more would delay a large model.
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
        modality: texts or the picture.
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


def require_golden(
    bundle: Bundle, entry: EngineEntry, encoder: Encoder, tasks: Sequence[str], modality: Modality
) -> None:
    """Raise EngineError if golden vectors come out further off than the engine's tolerance."""
    cosine, difference = worst(
        measure_deviations(bundle, encoder, tasks, modality, SELF_TEST_TEXTS)
    )
    tolerance = entry.tolerance
    if cosine < tolerance.min_cosine or difference > tolerance.max_difference:
        raise EngineError(
            f"engine {entry.name} failed its self-test on {modality}: worst cosine "
            f"{cosine:.6f} (at least {tolerance.min_cosine}), largest difference "
            f"{difference:.2g} (at most {tolerance.max_difference}); run `trine verify`, then "
            "export the bundle again or change the version of the engine's package"
        )
