"""The plain export in ONNX Runtime, float32 or its tool's dynamic INT8."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from backends.contract import Call, Inputs, Setup, UnsupportedCase
from backends.padding import embed_padded

__all__ = ["PlainOnnx", "text_call"]

#: ONNX Runtime's level for errors.
LOG_ERRORS = 3


class PlainOnnx:
    """One session of the exported decoder.

    Args:
        setup: whose work folder holds the graphs.
        int8: whether the dynamic INT8 graph is run.
        batch: texts a rectangle, sorted by length; None for all in one.
    """

    def __init__(self, setup: Setup, int8: bool, batch: int | None) -> None:
        import onnxruntime

        path = setup.work / ("plain-int8.onnx" if int8 else "plain.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = setup.threads
        options.log_severity_level = LOG_ERRORS
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self._batch = batch
        self.file_bytes = sum(
            file.stat().st_size for file in (path, path.with_name(path.name + ".data"))
        )

    def ready(self, inputs: Inputs) -> Call:
        return text_call(self._embed, inputs, self._batch)

    def _embed(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        (vectors,) = self._session.run(None, {"input_ids": ids, "attention_mask": mask})
        return np.asarray(vectors, np.float32)


def text_call(
    forward: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]],
    inputs: Inputs,
    batch: int | None,
) -> Call:
    """Return the call of a competitor that has the text part only.

    Raises:
        UnsupportedCase: the case is not of texts.
    """
    kind = inputs.case.kind
    if kind not in ("texts", "cold", "load"):
        raise UnsupportedCase("the plain export holds the text part only")
    texts = inputs.texts[:1] if kind == "load" else inputs.texts
    return lambda: embed_padded(forward, texts, batch)
