"""Vectors as bytes without JSON, for clients whose `Accept` header asks for them.

`Accept: application/octet-stream` is answered with the vectors' numbers, little-endian, row by
row, and headers that say what they are:

x-trine-dtype           "float32", or "float16" for `application/octet-stream; dtype=float16`;
                        "int8" and "uint8" for binary and ubinary vectors
x-trine-shape           "B,D", or "R,D" for multi-vectors, whose R rows follow one another
x-trine-offsets-bytes   of multi-vectors only: how many bytes at the front of the body are int64
                        [B + 1], little-endian: item i has the rows offsets[i] to offsets[i + 1]
x-trine-prompt-tokens   the usage
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from trine.kernels.quantise import pack_binary, pack_ubinary, to_float16
from trine.runtime.serving.api.responses.output_types import OutputForm
from trine.runtime.serving.service.calls import ServiceError

__all__ = ["MEDIA_TYPE", "RawBody", "RawType", "accepted_raw_type", "pack_multi", "pack_single"]

RawType: TypeAlias = Literal["float32", "float16"]
MEDIA_TYPE = "application/octet-stream"
JSON_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class RawBody:
    """A body of bytes and the headers that describe it."""

    content: bytes
    headers: dict[str, str]


def accepted_raw_type(accept: str, form: OutputForm) -> RawType | None:
    """Return the type that an `Accept` header asks for, or None where JSON will do.

    Bytes are sent only where they are named and preferred to JSON.

    Args:
        accept: the header; empty if there is none.
        form: of the vectors.

    Raises:
        ServiceError: 422 the header names an unknown dtype, or `form` has several types.
    """
    found: RawType | None = None
    quality = {JSON_TYPE: 0.0, MEDIA_TYPE: 0.0}
    for entry in accept.split(","):
        media, *rest = (part.strip() for part in entry.split(";"))
        parameters = dict(part.lower().split("=", 1) for part in rest if "=" in part)
        if media.lower() not in quality:
            continue
        try:
            quality[media.lower()] = float(parameters.get("q", "1"))
        except ValueError:
            quality[media.lower()] = 0.0
        if media.lower() == MEDIA_TYPE:
            name = parameters.get("dtype", "float32").strip('"')
            if name not in get_args(RawType):
                raise ServiceError(
                    422,
                    "unknown_output_type",
                    f"Accept asks for the dtype {name!r}; known are {list(get_args(RawType))}",
                    param="Accept",
                )
            found = cast(RawType, name)
    if found is None or quality[MEDIA_TYPE] <= quality[JSON_TYPE]:
        return None
    if len(form.types) > 1:
        raise ServiceError(
            422,
            "too_many_output_types",
            f"bytes hold one type at a time, not {list(form.types)}; ask for JSON, or name one",
            param="embedding_type",
        )
    return found


def pack_single(vectors: NDArray[np.float32], form: OutputForm, raw: RawType) -> RawBody:
    """Return float32 [B, D] as bytes of the first type of `form`."""
    rows = _packed(vectors, form, raw)
    return RawBody(rows.tobytes(), _headers(rows))


def pack_multi(vectors: Sequence[NDArray[np.float32]], form: OutputForm, raw: RawType) -> RawBody:
    """Return one float32 [T_i, D] an item as bytes of the first type of `form`: offsets, rows."""
    offsets = np.cumsum([0, *(len(item) for item in vectors)], dtype="<i8").tobytes()
    stacked = np.concatenate(list(vectors)) if vectors else np.empty((0, 0), np.float32)
    rows = _packed(stacked, form, raw)
    headers = _headers(rows) | {"x-trine-offsets-bytes": str(len(offsets))}
    return RawBody(offsets + rows.tobytes(), headers)


def _packed(vectors: NDArray[np.float32], form: OutputForm, raw: RawType) -> NDArray[Any]:
    if form.types[0] == "ubinary":
        return pack_ubinary(vectors)
    if form.types[0] == "binary":
        return pack_binary(vectors)
    if raw == "float16":
        return to_float16(vectors).astype("<f2", copy=False)
    return vectors.astype("<f4", copy=False)


def _headers(rows: NDArray[Any]) -> dict[str, str]:
    return {
        "x-trine-dtype": rows.dtype.name,
        "x-trine-shape": ",".join(str(size) for size in rows.shape),
    }
