"""Puts calibration inputs through the float32 reference, and chooses some for dearer runs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.export.calibration.inputs import CalibrationSet
from trine.export.range_scan import RangeScan
from trine.export.reference import Reference, ReferenceInput
from trine.runtime.inputs import ImageText
from trine.runtime.model_config import ModelConfig
from trine.runtime.preparation import Preparation
from trine.runtime.request import check_request

__all__ = [
    "CalibrationRun",
    "calibration_inputs",
    "choose_short",
    "max_probe_tokens",
    "run_calibration",
]

#: Operations spent on imitating a plan once, and on probing its layers: a minute or two on two
#: cores for the largest models, and no limit in practice for small ones.
IMITATION_OPERATIONS = 4e12
PROBING_OPERATIONS = 3e13


@dataclass(frozen=True, slots=True)
class CalibrationRun:
    """What came of it.

    Attributes:
        inputs: that were run; a task each, by turns.
        scan: of the ranges.
        singles: float32 [n, hidden] of each task, normalised.
    """

    inputs: tuple[ReferenceInput, ...]
    scan: RangeScan
    singles: dict[str, NDArray[np.float32]]


def calibration_inputs(
    model: ModelConfig,
    preparation: Preparation,
    calibration: CalibrationSet,
    tasks: Sequence[str],
) -> Iterator[ReferenceInput]:
    """Yield the inputs of a set, whose tasks take turns.

    Args:
        model: the model's numbers.
        preparation: of the bundle's tokenizer.
        calibration: the texts and pictures.
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
    sequences = preparation.sequences([text.text for text in texts], request)
    for sequence, task in zip(sequences, turns, strict=False):
        yield ReferenceInput(sequence, task)
    pictures = [ImageText((image,)) for image in calibration.images]
    request = check_request(
        model.tasks, model, num_items=len(pictures), task=turns[: len(pictures)]
    )
    for sequence, task in zip(preparation.sequences(pictures, request), turns, strict=False):
        yield ReferenceInput(sequence, task)


def run_calibration(
    reference: Reference,
    scan: RangeScan,
    inputs: Sequence[ReferenceInput],
    step: Callable[[int], None],
) -> CalibrationRun:
    """Return what the inputs came to.

    Args:
        reference: whose observer is `scan`.
        scan: to be filled.
        inputs: texts and pictures.
        step: called with 1 after each layer.
    """
    vectors = reference.run(inputs, step)
    singles: dict[str, list[NDArray[np.float32]]] = {}
    for item, found in zip(inputs, vectors, strict=True):
        singles.setdefault(item.task, []).append(found.single)
    stacked = {task: np.stack(rows) for task, rows in singles.items()}
    return CalibrationRun(tuple(inputs), scan, stacked)


def choose_short(inputs: Sequence[ReferenceInput], model: ModelConfig) -> list[ReferenceInput]:
    """Return the inputs to imitate plans with: all of a small model's, the short ones of a large.

    There is at least one text and one picture, if the inputs have them.
    """
    budget = IMITATION_OPERATIONS / _operations(model)
    chosen: list[ReferenceInput] = []
    for pictures in (False, True):
        kind = [item for item in inputs if bool(item.sequence.images) == pictures]
        total = 0
        for place, item in enumerate(sorted(kind, key=lambda item: len(item.sequence))):
            total += len(item.sequence)
            if place and total > budget / 2:
                break
            chosen.append(item)
    return chosen


def max_probe_tokens(model: ModelConfig) -> int:
    """Return how many tokens each layer of a model may be probed with, in texts or in pictures."""
    groups = 3 * model.decoder.num_layers + 3 * model.vision.depth
    return int(PROBING_OPERATIONS / (_operations(model) * groups))


def _operations(model: ModelConfig) -> int:
    """Return the operations of one token in the decoder's linear layers."""
    decoder = model.decoder
    attention = decoder.hidden_size + decoder.num_kv_heads * decoder.head_dim
    layer = 2 * attention + 3 * decoder.intermediate_size
    return 2 * decoder.num_layers * decoder.hidden_size * layer
