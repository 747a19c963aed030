"""Runs calibration inputs through the float32 reference and keeps what plans are tried on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.export.calibration.inputs import CalibrationSet, CalibrationSize
from trine.export.quantisation.observer import RangeScan
from trine.export.reference.model import ReferenceInput
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.inputs import ImageText
from trine.runtime.preprocessing.preprocessor import Preprocessor
from trine.runtime.request import check_request

__all__ = [
    "CalibrationRun",
    "affordable_size",
    "calibration_inputs",
    "choose_affordable",
    "max_probe_tokens",
    "operations_per_token",
]

#: Operations spent on fake-quantising the model once, and on probing its layers: a quarter of a
#: minute and a minute on two cores for the largest models, and no limit in practice for small ones.
IMITATION_OPERATIONS = 2e12
PROBING_OPERATIONS = 1e13
#: Operations of a token in the decoder from which on a model is large: calibration and checks take
#: fewer inputs then.
LARGE_MODEL_OPERATIONS = 2e9


@dataclass(frozen=True, slots=True)
class CalibrationRun:
    """What calibration inputs came to in the float32 reference.

    Attributes:
        inputs: that were run; a task each, by turns.
        scan: of the ranges.
        singles: float32 [n, hidden], the single vector of each, normalised.
    """

    inputs: tuple[ReferenceInput, ...]
    scan: RangeScan
    singles: NDArray[np.float32]

    def singles_of(self, task: str) -> NDArray[np.float32]:
        """Return float32 [n, hidden] of the inputs of one task, none or more."""
        return self.singles[[item.task == task for item in self.inputs]]


def calibration_inputs(
    model: ModelConfig,
    preprocessor: Preprocessor,
    calibration: CalibrationSet,
    tasks: Sequence[str],
) -> Iterator[ReferenceInput]:
    """Yield the inputs of a set, whose tasks take turns.

    Args:
        model: the model's numbers.
        preprocessor: of the bundle's tokenizer.
        calibration: the texts and images.
        tasks: to choose from.
    """
    texts = calibration.texts
    turns = [tasks[index % len(tasks)] for index in range(max(len(texts), len(calibration.images)))]
    request = check_request(
        model.tasks,
        model,
        num_items=len(texts),
        task=turns[: len(texts)],
        prompt_name=[text.prompt for text in texts],
    )
    sequences = preprocessor.sequences([text.text for text in texts], request)
    for sequence, task in zip(sequences, turns, strict=False):
        yield ReferenceInput(sequence, task)
    images = [ImageText((image,)) for image in calibration.images]
    request = check_request(model.tasks, model, num_items=len(images), task=turns[: len(images)])
    for sequence, task in zip(preprocessor.sequences(images, request), turns, strict=False):
        yield ReferenceInput(sequence, task)


def affordable_size(model: ModelConfig) -> CalibrationSize:
    """Return how many of the built-in inputs an export of this model runs."""
    return "brief" if operations_per_token(model) > LARGE_MODEL_OPERATIONS else "small"


def choose_affordable(inputs: Sequence[ReferenceInput], model: ModelConfig) -> tuple[int, ...]:
    """Return which inputs to try plans with: all of a small model's, some of a large one's.

    They are spread over the texts and over the images, so that no language or kind of image
    that the inputs have is passed over for being late in them. There is at least one text and
    one image, if the inputs have them.
    """
    budget = IMITATION_OPERATIONS / operations_per_token(model)
    chosen: list[int] = []
    for images in (False, True):
        kind = [i for i, item in enumerate(inputs) if bool(item.sequence.images) == images]
        lengths = [len(inputs[index].sequence) for index in kind]
        if sum(lengths) <= budget / 2:
            chosen += kind
            continue
        total = 0
        for place in _spread(len(kind)):
            if total and total + lengths[place] > budget / 2:
                continue
            total += lengths[place]
            chosen.append(kind[place])
    return tuple(sorted(chosen))


def _spread(count: int) -> list[int]:
    """Return the numbers below `count`, each as far as may be from those before it."""
    order: dict[int, None] = {}
    step = 1 << max(count - 1, 0).bit_length()
    while step:
        order |= dict.fromkeys(range(0, count, step))
        step //= 2
    return list(order)


def max_probe_tokens(model: ModelConfig) -> int:
    """Return how many tokens each layer of a model may be probed with, in texts or in images."""
    groups = 3 * model.decoder.num_layers + 3 * model.vision.depth
    return int(PROBING_OPERATIONS / (operations_per_token(model) * groups))


def operations_per_token(model: ModelConfig) -> int:
    """Return the operations of one token in the decoder's linear layers."""
    decoder = model.decoder
    attention = decoder.hidden_size + decoder.num_kv_heads * decoder.head_dim
    layer = 2 * attention + 3 * decoder.intermediate_size
    return 2 * decoder.num_layers * decoder.hidden_size * layer
