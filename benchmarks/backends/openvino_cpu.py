"""The plain export in OpenVINO: float32, bfloat16, or INT8 by NNCF's static quantisation.

Needs no Trine, so that it may run in an environment of its own.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from backends.contract import Call, Inputs, Setup
from backends.openvino_export import INT8_NAME
from backends.plain_onnx import text_call

__all__ = ["OpenVino"]

Precision = Literal["fp32", "bf16", "int8"]
#: OpenVINO's names; beside INT8 layers the rest runs in bfloat16, which was the faster choice.
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}


class OpenVino:
    """One compiled model.

    Args:
        setup: whose work folder holds the plain export.
        precision: of the matrix products.
        batch: texts a rectangle, sorted by length; None for all in one.
    """

    def __init__(self, setup: Setup, precision: Precision, batch: int | None) -> None:
        import openvino

        core = openvino.Core()
        path = setup.work / "plain.onnx"
        if precision == "int8":
            path = setup.work / INT8_NAME
        settings = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": str(setup.threads),
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._model = core.compile_model(str(path), "CPU", settings)
        self._batch = batch
        self.file_bytes = sum(file.stat().st_size for file in _weight_files(path))

    def ready(self, inputs: Inputs) -> Call:
        return text_call(self._embed, inputs, self._batch)

    def _embed(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        found = self._model.create_infer_request().infer([ids, mask])
        return np.array(found[0], np.float32)


def _weight_files(path: Path) -> Iterator[Path]:
    yield path
    beside = (path.with_suffix(".bin"), path.with_name(path.name + ".data"))
    yield from (file for file in beside if file.exists())
