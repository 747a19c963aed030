"""JSON Schemas of what the dialects answer, for the OpenAPI document."""

from typing import Any

__all__ = ["ANSWERS", "ERRORS"]

_NUMBERS: dict[str, Any] = {"type": "array", "items": {"type": "number"}}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_VECTOR: dict[str, Any] = {
    "description": "numbers, base64 of little-endian float32, or both by type",
    "anyOf": [
        _NUMBERS,
        {"type": "string"},
        {"type": "object", "additionalProperties": {"anyOf": [_NUMBERS, {"type": "string"}]}},
    ],
}
_VECTOR_LIST: dict[str, Any] = {"type": "array", "items": {"anyOf": [_NUMBERS, {"type": "string"}]}}
_VECTORS: dict[str, Any] = {
    "description": "a vector a token",
    "anyOf": [_VECTOR_LIST, {"type": "object", "additionalProperties": _VECTOR_LIST}],
}
_USAGE: dict[str, Any] = {
    "type": "object",
    "required": ["prompt_tokens", "total_tokens"],
    "properties": {"prompt_tokens": _COUNT, "total_tokens": _COUNT},
}


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """Return the schema of an object with these properties."""
    return {
        "type": "object",
        "required": list(required),
        "properties": required | optional,
    }


def _list(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


def _answer(item: dict[str, Any], name: str = "data") -> dict[str, Any]:
    """Return the schema of OpenAI's envelope around a list."""
    return _object(
        {"object": {"const": "list"}, name: _list(item), "model": {"type": "string"},
         "usage": _USAGE}
    )  # fmt: skip


_MODEL = _object(
    {"id": {"type": "string"}, "object": {"const": "model"}, "created": {"type": "integer"},
     "owned_by": {"type": "string"}, "max_model_len": _COUNT}
)  # fmt: skip
_RANKING = _answer(
    _object({"index": _COUNT, "relevance_score": {"type": "number"}}, document={"type": "object"}),
    "results",
)

#: By the name that `Operation.answer` has.
ANSWERS: dict[str, dict[str, Any]] = {
    "Embeddings": _answer(
        _object(
            {"object": {"enum": ["embedding", "embeddings"]}, "index": _COUNT,
             "num_tokens": _COUNT, "truncated": {"type": "boolean"}},
            embedding={"anyOf": [_VECTOR, _VECTORS]},
            embeddings=_VECTORS,
            image_spans=_list(
                _object({"start": _COUNT, "rows": _COUNT, "columns": _COUNT, "image": _COUNT})
            ),
        )
    ),
    "Pooling": _answer(
        _object(
            {"object": {"const": "pooling"}, "index": _COUNT,
             "data": {"anyOf": [_VECTOR, _VECTORS]}, "shape": _list(_COUNT),
             "truncated": {"type": "boolean"}}
        )
    ),
    "Scores": _answer(
        _object({"index": _COUNT, "object": {"const": "score"}, "score": {"type": "number"}})
    ),
    "Ranking": _RANKING,
    "AnyRanking": {
        "anyOf": [
            _RANKING,
            _list(_object({"index": _COUNT, "score": {"type": "number"}}, text={})),
        ]
    },
    "Models": _object({"object": {"const": "list"}, "data": _list(_MODEL)}),
    "Model": _MODEL,
    "Vectors": _list(_VECTOR),
    "TokenVectors": _list(_VECTORS),
    "Tokens": _list(
        _list(
            _object(
                {"id": _COUNT, "text": {"type": "string"}, "special": {"type": "boolean"},
                 "start": _COUNT, "stop": _COUNT}
            )
        )
    ),
    "Texts": _list({"type": "string"}),
    "Similarities": _list({"type": "number"}),
    "CohereEmbeddings": _object(
        {"id": {"type": "string"}, "texts": _list({"type": "string"}), "meta": {"type": "object"},
         "embeddings": {"anyOf": [
             _list(_NUMBERS),
             {"type": "object", "additionalProperties": _list(
                 {"anyOf": [_NUMBERS, {"type": "string"}]}
             )},
         ]}}
    ),
    "OllamaEmbeddings": _object(
        {"model": {"type": "string"}, "embeddings": _list(_NUMBERS), "total_duration": _COUNT,
         "load_duration": _COUNT, "prompt_eval_count": _COUNT}
    ),
    "OllamaEmbedding": _object({"embedding": _NUMBERS}),
    "Invocation": {"anyOf": [{"$ref": "#/components/schemas/Embeddings"}, _list(_VECTOR)]},
    "Infer": _object(
        {"model_name": {"type": "string"}, "model_version": {"type": "string"},
         "outputs": _list(
             _object(
                 {"name": {"type": "string"}, "datatype": {"type": "string"},
                  "shape": _list(_COUNT)},
                 data={"type": "array"},
             )
         )},
        id={"type": "string"},
    ),
    "Object": {"type": "object"},
    "Objects": _list({"type": "object"}),
}  # fmt: skip

_TEXT: dict[str, Any] = {"type": "string"}
_MAYBE: dict[str, Any] = {"type": ["string", "null"]}
_INDEX: dict[str, Any] = {"type": ["integer", "null"]}

#: Bodies of errors: on the paths of text-embeddings-inference, of Cohere, of KServe and Ollama, and
#: on all others.
ERRORS: dict[str, dict[str, Any]] = {
    "TeiError": _object(
        {"error": _TEXT, "error_type": _TEXT, "message": _TEXT, "detail": _TEXT, "code": _TEXT,
         "index": _INDEX}
    ),
    "CohereError": _object({"message": _TEXT}),
    "PlainError": _object({"error": _TEXT}),
    "Error": _object(
        {"detail": _TEXT, "message": _TEXT,
         "error": _object(
             {"message": _TEXT, "type": _TEXT, "param": _MAYBE, "code": _MAYBE, "index": _INDEX}
         )}
    ),
}  # fmt: skip
