"""Vectors as the body that the clients of `/v1/embeddings` and `/v1/multi-vector` read."""

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from trine.runtime.serving.api.endpoint import Embedded, json_response
from trine.runtime.serving.api.responses.output_types import OutputForm, encode_matrix, encode_rows
from trine.runtime.serving.api.responses.raw_bytes import (
    MEDIA_TYPE,
    RawType,
    pack_multi,
    pack_single,
)
from trine.runtime.serving.service.calls import EmbedResult

__all__ = ["embeddings_response", "multi_vectors_of", "single_vectors_of"]


async def embeddings_response(
    embedded: Embedded,
    form: OutputForm,
    raw: RawType | None,
    model: str,
    both_names: bool = False,
) -> Response:
    """Return the response with single vectors, or with multi-vectors if the call was for those.

    Args:
        embedded: single vectors or multi-vectors.
        form: of the vectors.
        raw: for bytes instead of JSON.
        model: that the body names.
        both_names: whether multi-vectors are in `embedding` too, not only in `embeddings`.
    """
    result = embedded.result
    if raw is not None:
        packed = (
            pack_single(single_vectors_of(result), form, raw)
            if result.multi is None
            else pack_multi(result.multi, form, raw)
        )
        headers = {
            **embedded.headers,
            **packed.headers,
            "x-trine-prompt-tokens": str(embedded.usage["prompt_tokens"]),
        }
        return Response(packed.content, 200, headers, MEDIA_TYPE)
    data = (
        await _single_items(result, form)
        if result.multi is None
        else await _multi_items(result, form, both_names)
    )
    body = {"object": "list", "data": data, "model": model, "usage": embedded.usage}
    return json_response(body, embedded.headers)


def single_vectors_of(result: EmbedResult) -> NDArray[np.float32]:
    """Return float32 [B, D], the single vectors of a result that has them."""
    if result.single is None:
        raise ValueError("the result has no single vectors")
    return result.single


def multi_vectors_of(result: EmbedResult) -> tuple[NDArray[np.float32], ...]:
    """Return float32 [T_i, d] of each item, the multi-vectors of a result that has them."""
    if result.multi is None:
        raise ValueError("the result has no multi-vectors")
    return result.multi


async def _single_items(result: EmbedResult, form: OutputForm) -> list[dict[str, object]]:
    rows = await encode_rows(single_vectors_of(result), form)
    return [
        {"object": "embedding", "index": i, "embedding": row, **_counts(result, i)}
        for i, row in enumerate(rows)
    ]


async def _multi_items(
    result: EmbedResult, form: OutputForm, both_names: bool
) -> list[dict[str, object]]:
    data: list[dict[str, object]] = []
    for i, vectors in enumerate(multi_vectors_of(result)):
        rows = await encode_matrix(vectors, form)
        item: dict[str, object] = {"object": "embeddings", "index": i, "embeddings": rows}
        if both_names:
            item["embedding"] = rows
        if result.image_spans[i]:
            item["image_spans"] = result.image_spans[i]
        data.append(item | _counts(result, i))
    return data


def _counts(result: EmbedResult, index: int) -> dict[str, object]:
    """Return what an item's entry says beside its vectors."""
    return {
        "num_tokens": int(result.num_tokens[index]),
        "truncated": bool(result.truncated[index]),
    }
