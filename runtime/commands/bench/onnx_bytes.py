"""ONNX models of one matrix product, written byte by byte: the runtime has no onnx package.

Protocol buffers: a field is a varint of (number << 3 | type), then a varint (type 0), or a length
and that many bytes (type 2). Field numbers are those of onnx.proto.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["matmul_model"]

#: ONNX's numbers of the types used here.
ELEMENT_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6}
#: Versions that ONNX Runtime has had for years.
IR_VERSION, OPSET = 8, 17


def matmul_model(op_type: str, weight: NDArray[np.generic], inputs: str, outputs: str) -> bytes:
    """Return the bytes of a model y = op(x, weight) with x [M, K] and y [M, N], M left open.

    Args:
        op_type: "MatMul" or "MatMulInteger".
        weight: float32 or int8 [K, N], C-order.
        inputs: dtype of x, as numpy names it.
        outputs: dtype of y.
    """
    num_in, num_out = weight.shape
    node = b"".join(_text(1, name) for name in ("x", "w")) + _text(2, "y") + _text(4, op_type)
    graph = (
        _message(1, node)
        + _text(2, "matmul")
        + _message(5, _tensor("w", weight))
        + _message(11, _value("x", inputs, ("m", num_in)))
        + _message(12, _value("y", outputs, ("m", num_out)))
    )
    opset = _text(1, "") + _number(2, OPSET)
    return _number(1, IR_VERSION) + _message(7, graph) + _message(8, opset)


def _tensor(name: str, values: NDArray[np.generic]) -> bytes:
    sizes = b"".join(_number(1, size) for size in values.shape)
    kind = _number(2, ELEMENT_TYPES[values.dtype.name])
    return sizes + kind + _text(8, name) + _message(9, values.tobytes())


def _value(name: str, dtype: str, shape: Sequence[int | str]) -> bytes:
    sizes = b"".join(
        _message(1, _text(2, size) if isinstance(size, str) else _number(1, size)) for size in shape
    )
    tensor = _number(1, ELEMENT_TYPES[dtype]) + _message(2, sizes)
    return _text(1, name) + _message(2, _message(1, tensor))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
