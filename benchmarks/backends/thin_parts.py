"""Other ways to preprocess images and to score multi-vectors."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from cases.inputs import multi_vectors

from backends.contract import Call, Inputs, Setup, UnsupportedCase

__all__ = ["NumpyMaxSim", "PublishedProcessor", "TorchMaxSim"]


@dataclass(frozen=True, slots=True)
class PublishedProcessor:
    """transformers' Qwen2-VL image processor, the torchvision one or the one on Pillow."""

    setup: Setup
    kind: Literal["torchvision", "pillow"]
    file_bytes: int = 0

    def ready(self, inputs: Inputs) -> Call:
        _require(inputs, "preprocessing")
        process = self._processor()

        def run() -> None:
            process(list(inputs.images))

        return run

    def _processor(self) -> Callable[..., object]:
        import torch

        torch.set_num_threads(self.setup.threads)
        if self.kind == "torchvision":
            _import_torchvision()
            from transformers import Qwen2VLImageProcessorFast as Processor
        else:
            from transformers import Qwen2VLImageProcessor as Processor
        processor = Processor.from_pretrained(self.setup.checkpoint)
        tensors = "pt" if self.kind == "torchvision" else "np"
        return lambda images: processor(images=images, return_tensors=tensors)


@dataclass(frozen=True, slots=True)
class NumpyMaxSim:
    """MaxSim as one product of the query with all documents' rows, then the largest of each."""

    setup: Setup
    file_bytes: int = 0

    def ready(self, inputs: Inputs) -> Call:
        _require(inputs, "maxsim")
        query, *documents = multi_vectors(inputs.case.lengths)
        stacked = np.concatenate(documents)
        starts = np.cumsum([0, *(len(document) for document in documents[:-1])])

        def run() -> None:
            np.maximum.reduceat(query @ stacked.T, starts, axis=1).sum(axis=0)

        return run


@dataclass(frozen=True, slots=True)
class TorchMaxSim:
    """MaxSim over documents of equal length in one batched product of PyTorch."""

    setup: Setup
    file_bytes: int = 0

    def ready(self, inputs: Inputs) -> Call:
        import torch

        _require(inputs, "maxsim")
        torch.set_num_threads(self.setup.threads)
        query, *documents = multi_vectors(inputs.case.lengths)
        stacked = torch.from_numpy(np.stack(documents))
        rows = torch.from_numpy(query)

        def run() -> None:
            with torch.inference_mode():
                (stacked @ rows.T).amax(dim=1).sum(dim=1)

        return run


def _import_torchvision() -> None:
    """Import torchvision; its Python part is enough where its operators do not fit this PyTorch.

    Resizing needs none of them, but the import wants two to be declared.
    """
    import torch

    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("qnms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
        library.define("nms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        import torchvision  # noqa: F401

        # The operators exist as long as this object does.
        torch.library._torchvision_names = library


def _require(inputs: Inputs, kind: str) -> None:
    if inputs.case.kind != kind:
        raise UnsupportedCase(f"only for {kind}")
