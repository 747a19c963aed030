"""The golden inputs of every bundle, and their reference vectors.

A few texts and one small image, enough to notice a wrong weight, id, position, window or adapter,
and small enough to be embedded at every load.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.export.reference.model import ReferenceInput, ReferenceVectors
from trine.runtime.bundle.golden import Golden
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.inputs import ImageText
from trine.runtime.preprocessing.preprocessor import Preprocessor
from trine.runtime.preprocessing.tokenizer import TextTokenizer
from trine.runtime.request import check_request

__all__ = ["GOLDEN_TEXTS", "GoldenInputs", "golden_image", "golden_inputs"]

GOLDEN_TEXTS = (
    "Which inverter warranty covers panels that face east?",
    "Straße 7, 東京 – 🚀 café",
    "def area(r):\n    return 3.14159 * r * r",
)
#: Height and width in pixels: more than one attention window, and no whole number of them.
GOLDEN_IMAGE_SIZE = (160, 146)


def golden_image() -> NDArray[np.uint8]:
    """Return uint8 [h, w, 3]: gradients with a disc, the same on every machine."""
    height, width = GOLDEN_IMAGE_SIZE
    row, column = np.indices(GOLDEN_IMAGE_SIZE)
    disc = (row - 70) ** 2 + (column - 50) ** 2 < 40**2
    channels = (row * 255 // height, column * 255 // width, np.where(disc, 230, 30))
    return np.stack(channels, axis=2).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class GoldenInputs:
    """The golden inputs as the reference takes them, and the name of each one's vectors."""

    keys: tuple[str, ...]
    inputs: tuple[ReferenceInput, ...]

    def golden(self, vectors: Sequence[ReferenceVectors]) -> Golden:
        """Return the golden inputs with the reference's vectors of `inputs`."""
        named = {}
        for key, result in zip(self.keys, vectors, strict=True):
            named[f"{key}/single"] = result.single
            named[f"{key}/multi"] = result.multi
        return Golden(GOLDEN_TEXTS, golden_image(), named)


def golden_inputs(
    model: ModelConfig, tokenizer: TextTokenizer, tasks: tuple[str, ...]
) -> GoldenInputs:
    """Return the golden inputs for each of `tasks`, which no observer of the reference sees.

    Args:
        model: the model's numbers.
        tokenizer: of the bundle.
        tasks: to embed them for.
    """
    preprocessor = Preprocessor(model, tokenizer)
    keys: list[str] = []
    inputs: list[ReferenceInput] = []
    for task in tasks:
        seen_prefixes = set()
        for prompt in ("query", "passage"):
            request = check_request(
                model.tasks, model, num_items=len(GOLDEN_TEXTS), task=task, prompt_name=prompt
            )
            if request.prefixes[0] in seen_prefixes:
                continue
            seen_prefixes.add(request.prefixes[0])
            for index, sequence in enumerate(preprocessor.sequences(GOLDEN_TEXTS, request)):
                keys.append(f"text/{index}/{task}/{prompt}")
                inputs.append(ReferenceInput(sequence, task, observed=False))
    request = check_request(model.tasks, model, num_items=1, task=tasks[0])
    (image,) = preprocessor.sequences([ImageText((golden_image(),))], request)
    for task in tasks:
        keys.append(f"image/{task}")
        inputs.append(ReferenceInput(image, task, observed=False))
    return GoldenInputs(tuple(keys), tuple(inputs))
