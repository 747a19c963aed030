"""The number types that vectors are answered in.

float     JSON numbers; float32's shortest digits, which read back as the same float32
base64    little-endian float32 in base64
ubinary   uint8, eight dimensions each: a bit is whether the value is above 0, first dimension in
          the most significant bit
binary    int8, ubinary - 128 (not its two's complement)

`base64` means what OpenAI's clients decode, so other types are never packed in base64.
"""

import asyncio
import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
import orjson
from numpy.typing import NDArray

from trine.kernels.quantise import pack_binary, pack_ubinary
from trine.runtime.serving.service.calls import ServiceError

__all__ = [
    "OutputForm",
    "OutputType",
    "choose_output",
    "encode_matrix",
    "encode_numbers",
    "encode_rows",
]

OutputType: TypeAlias = Literal["float", "base64", "binary", "ubinary"]
#: Numbers put into JSON at once, about 2 ms; between such pieces other requests get their turn.
PIECE = 32_768


@dataclass(frozen=True, slots=True)
class OutputForm:
    """What a vector is answered as.

    Attributes:
        types: at least one, each once.
        keyed: whether a vector is an object keyed by type, as it is when the request has a list.
    """

    types: tuple[OutputType, ...] = ("float",)
    keyed: bool = False


def choose_output(
    fields: Mapping[str, str | Sequence[str] | None], dimensions: int | None
) -> OutputForm:
    """Return the form that a request asks for; "float" where it says nothing.

    Args:
        fields: what the request has by name, the most specific first. The first that is not null
            holds: OpenAI's clients always send `encoding_format`, be there an `embedding_type` or
            not.
        dimensions: of the vectors, or None if not known.

    Raises:
        ServiceError: 422 a type is unknown, or `dimensions` cannot be packed eight to a byte.
    """
    known = get_args(OutputType)
    for field, value in fields.items():
        if value is None or value == []:
            continue
        names = (value,) if isinstance(value, str) else tuple(dict.fromkeys(value))
        for name in names:
            if name not in known:
                raise ServiceError(
                    422,
                    "unknown_output_type",
                    f"{field} names {name!r}; known are {list(known)}",
                    param=field,
                )
        types = cast(tuple[OutputType, ...], names)
        if dimensions is not None and dimensions % 8 and {"binary", "ubinary"} & set(types):
            raise ServiceError(
                422,
                "invalid_dimensions",
                f"{dimensions} dimensions do not fill whole bytes; give a multiple of 8 for "
                f"{field} {value!r}",
                param="dimensions",
            )
        return OutputForm(types, not isinstance(value, str))
    return OutputForm()


async def encode_rows(vectors: NDArray[np.float32], form: OutputForm) -> list[object]:
    """Return float32 [B, D] as B values for `orjson.dumps`, one vector each."""
    by_type = [await _rows(vectors, name) for name in form.types]
    if not form.keyed:
        return by_type[0]
    return [dict(zip(form.types, row, strict=True)) for row in zip(*by_type, strict=True)]


async def encode_matrix(vectors: NDArray[np.float32], form: OutputForm) -> object:
    """Return float32 [T, D] as one value for `orjson.dumps`: a list of T vectors, or such lists
    keyed by type."""
    by_type = [await _matrix(vectors, name) for name in form.types]
    return dict(zip(form.types, by_type, strict=True)) if form.keyed else by_type[0]


async def encode_numbers(numbers: NDArray[Any]) -> orjson.Fragment:
    """Return a C-order array of any type and shape as nested JSON lists."""
    texts: list[bytes] = []
    for piece in _pieces(numbers):
        texts.append(_dump(piece)[1:-1])
        await asyncio.sleep(0)
    return orjson.Fragment(b"[" + b",".join(texts) + b"]")


async def _rows(vectors: NDArray[np.float32], name: OutputType) -> list[object]:
    if name == "base64":
        return _base64_rows(vectors)
    packed = _packed(vectors, name)
    rows: list[object] = []
    for piece in _pieces(packed):
        rows += [orjson.Fragment(_dump(row)) for row in piece]
        await asyncio.sleep(0)
    return rows


async def _matrix(vectors: NDArray[np.float32], name: OutputType) -> object:
    if name == "base64":
        return _base64_rows(vectors)
    return await encode_numbers(_packed(vectors, name))


def _packed(vectors: NDArray[np.float32], name: OutputType) -> NDArray[Any]:
    if name == "ubinary":
        return pack_ubinary(vectors)
    if name == "binary":
        return pack_binary(vectors)
    return np.ascontiguousarray(vectors)


def _base64_rows(vectors: NDArray[np.float32]) -> list[object]:
    little = np.ascontiguousarray(vectors, "<f4")
    return [base64.b64encode(row.data).decode("ascii") for row in little]


def _pieces(rows: NDArray[Any]) -> list[NDArray[Any]]:
    """Return slices along the first axis with about `PIECE` numbers each, in order."""
    step = max(1, PIECE // max(1, math.prod(rows.shape[1:])))
    return [rows[start : start + step] for start in range(0, len(rows), step)]


def _dump(numbers: NDArray[Any]) -> bytes:
    return orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)
