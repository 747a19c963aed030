"""The decoder's tensors in the form its graph takes them, with or without an adapter merged in.

Linear weights are stored [in, out], as matrix products read them; the checkpoint has [out, in].
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.graphs.builder import Weight
from trine.runtime.adapters.peft import LoraAdapters

__all__ = ["DecoderWeights", "merged_weight"]


def merged_weight(
    checkpoint: Checkpoint, adapters: LoraAdapters | None, task: str | None, module: str
) -> NDArray[np.float32]:
    """Return float32 [out, in]: W + (alpha / r)·B·A of `task`, computed in float32, or W alone."""
    weight = checkpoint.float32(f"{module}.weight")
    pair = adapters.pair(module, task) if adapters is not None and task is not None else None
    if pair is not None:
        weight += pair.delta()
    return weight


class DecoderWeights:
    """Hands out the decoder's weights, unread.

    Args:
        checkpoint: the base model.
        adapters: the adapters, or None for the base weights alone.
        task: the adapter to merge; None for the base weights alone.
    """

    def __init__(
        self, checkpoint: Checkpoint, adapters: LoraAdapters | None, task: str | None
    ) -> None:
        self._checkpoint = checkpoint
        self._adapters = adapters
        self._task = task

    def linear(self, name: str, modules: Sequence[str]) -> Weight:
        """Return float32 [in, sum of outs]: layers that share their input, side by side."""
        shapes = [self._checkpoint.info(f"{module}.weight").shape for module in modules]
        num_out = sum(shape[0] for shape in shapes)
        return Weight(f"{name}.weight", (shapes[0][1], num_out), lambda: self._read_linear(modules))

    def bias(self, name: str, modules: Sequence[str]) -> Weight:
        """Return float32 [sum of outs]: the biases of `modules` end to end."""
        num_out = sum(self._checkpoint.info(f"{module}.bias").shape[0] for module in modules)
        return Weight(
            f"{name}.bias",
            (num_out,),
            lambda: np.concatenate([self._checkpoint.float32(f"{m}.bias") for m in modules]),
        )

    def vector(self, name: str) -> Weight:
        """Return float32 [n]: a norm's weight, as the checkpoint has it."""
        shape = self._checkpoint.info(name).shape
        return Weight(name, shape, lambda: self._checkpoint.float32(name))

    def _read_linear(self, modules: Sequence[str]) -> NDArray[np.float32]:
        shapes = [self._checkpoint.info(f"{module}.weight").shape for module in modules]
        result = np.empty((shapes[0][1], sum(shape[0] for shape in shapes)), np.float32)
        start = 0
        for module, (num_out, _) in zip(modules, shapes, strict=True):
            weight = merged_weight(self._checkpoint, self._adapters, self._task, module)
            result[:, start : start + num_out] = weight.T
            start += num_out
        return result
