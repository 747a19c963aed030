"""Computes the vectors that all others are compared with: float32 PyTorch, one item a pass."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from backends.contract import Call, Inputs, Setup, UnsupportedCase
from backends.images import image_sequence
from trine.export.reference.torch_reference import TorchReference

__all__ = ["Reference", "item_tasks"]


def item_tasks(tasks: tuple[str, ...], count: int) -> list[str]:
    """Return the task of each item of a mixed case: all tasks in turn."""
    return [tasks[row % len(tasks)] for row in range(count)]


class Reference:
    """The published model in float32, without padding."""

    def __init__(self, setup: Setup) -> None:
        import torch

        torch.set_num_threads(setup.threads)
        self._setup = setup
        self._model = TorchReference(setup.checkpoint)
        self.file_bytes = 0

    def ready(self, inputs: Inputs) -> Call:
        if inputs.case.kind not in ("texts", "images", "mixed", "cold"):
            raise UnsupportedCase(f"{inputs.case.kind} makes no vectors")
        return lambda: np.array(list(self._vectors(inputs)), np.float32)

    def _vectors(self, inputs: Inputs) -> Iterator[NDArray[np.float32]]:
        count = len(inputs.texts) + len(inputs.images)
        tasks = [self._setup.task] * count
        if inputs.case.kind == "mixed":
            tasks = item_tasks(self._model.tasks, count)
        for text, task in zip(inputs.texts, tasks, strict=False):
            yield self._model.encode(text.tolist(), task)[0]
        for pixels, task in zip(inputs.images, tasks[len(inputs.texts) :], strict=True):
            sequence = image_sequence(pixels, self._setup.bundle)
            (image,) = sequence.images
            places = np.flatnonzero(sequence.pooled)
            single, _ = self._model.encode(
                sequence.token_ids.tolist(),
                task,
                pixels=image.patches,
                grids=[(1, *image.grid)],
                pool=(int(places[0]), int(places[-1]) + 1),
            )
            yield single
