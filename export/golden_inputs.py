"""The golden inputs of every bundle, and their reference vectors.

A few texts and one small picture, enough to notice a wrong weight, id, position, window or adapter,
and small enough to be embedded at every load.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.export.reference import Reference, ReferenceInput
from trine.runtime.golden import Golden
from trine.runtime.inputs import ImageText
from trine.runtime.model_config import ModelConfig
from trine.runtime.preparation import Preparation
from trine.runtime.request import check_request
from trine.runtime.tokenizer import TextTokenizer

__all__ = ["GOLDEN_TEXTS", "GoldenInputs", "golden_image", "golden_inputs", "make_golden"]

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


def golden_inputs(
    model: ModelConfig, tokenizer: TextTokenizer, tasks: tuple[str, ...]
) -> GoldenInputs:
    """Return the golden inputs for each of `tasks`.

    Args:
        model: the model's numbers.
        tokenizer: of the bundle.
        tasks: to embed them for.
    """
    preparation = Preparation(model, tokenizer)
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
            for index, sequence in enumerate(preparation.sequences(GOLDEN_TEXTS, request)):
                keys.append(f"text/{index}/{task}/{prompt}")
                inputs.append(ReferenceInput(sequence, task))
    request = check_request(model.tasks, model, num_items=1, task=tasks[0])
    (picture,) = preparation.sequences([ImageText((golden_image(),))], request)
    for task in tasks:
        keys.append(f"image/{task}")
        inputs.append(ReferenceInput(picture, task))
    return GoldenInputs(tuple(keys), tuple(inputs))


def make_golden(
    model: ModelConfig,
    tokenizer: TextTokenizer,
    reference: Reference,
    tasks: tuple[str, ...],
    step: Callable[[int], None],
) -> Golden:
    """Return the golden inputs with what the reference makes of them for each of `tasks`.

    Args:
        model: the model's numbers.
        tokenizer: of the bundle.
        reference: of the checkpoint.
        tasks: to compute.
        step: called with 1 after each layer of the model.
    """
    found = golden_inputs(model, tokenizer, tasks)
    vectors = {}
    for key, result in zip(found.keys, reference.run(found.inputs, step), strict=True):
        vectors[f"{key}/single"] = result.single
        vectors[f"{key}/multi"] = result.multi
    return Golden(GOLDEN_TEXTS, golden_image(), vectors)
