"""Reads the projectors of multi-vectors, one a task, from heads.safetensors."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.bundle.safetensors_file import TensorFile
from trine.runtime.errors import BundleError

__all__ = ["Projector", "load_base_projector", "load_projectors"]


@dataclass(frozen=True, slots=True)
class Projector:
    """A multi-vector projection.

    Attributes:
        weight: float32 [projector_dim, hidden], an adapter merged in or not.
        bias: float32 [projector_dim].
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


def load_projectors(path: Path, tasks: tuple[str, ...], model: ModelConfig) -> dict[str, Projector]:
    """Return the projector of each task from heads.safetensors.

    Raises:
        BundleError: the file is damaged, lacks a task or is of another model.
    """
    file = TensorFile(path, BundleError)
    return {task: _projector(file, f"{task}.weight", f"{task}.bias", model) for task in tasks}


def load_base_projector(path: Path, model: ModelConfig) -> Projector:
    """Return the projector without an adapter from heads.safetensors.

    Raises:
        BundleError: the file is damaged, lacks it or is of another model.
    """
    return _projector(TensorFile(path, BundleError), "weight", "bias", model)


def _projector(file: TensorFile, weight: str, bias: str, model: ModelConfig) -> Projector:
    file.require(weight, (model.projector_dim, model.decoder.hidden_size))
    file.require(bias, (model.projector_dim,))
    return Projector(file.float32(weight), file.float32(bias))
