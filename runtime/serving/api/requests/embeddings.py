"""The body of `/v1/embeddings`, and of the paths that take the same one, as a plan of work.

One body for two contracts that share the path: OpenAI's and Jina's, with the names that other
servers' clients use for the same things. A field that is null is as good as absent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from msgspec import Meta

from trine.runtime.errors import InputError
from trine.runtime.request import check_dim
from trine.runtime.serving.api.requests.bodies import Body
from trine.runtime.serving.api.requests.items import ParsedItem, parse_input
from trine.runtime.serving.api.requests.messages import parse_messages
from trine.runtime.serving.api.requests.tasks import TaskChoice, choose_task
from trine.runtime.serving.api.responses.output_types import OutputForm, OutputType, choose_output
from trine.runtime.serving.service.calls import EmbedCall, ModelInfo, ServiceError, Truncation
from trine.runtime.serving.service.item_fields import INPUT, ItemField, ItemFields

__all__ = [
    "INPUT_SCHEMA",
    "ITEM_SCHEMA",
    "EmbeddingPlan",
    "EmbeddingsBody",
    "kept_dimensions",
    "plan_embeddings",
    "text_length",
    "truncation",
]

_IMAGE: dict[str, object] = {
    "description": "base64, a data URI or, where the server fetches, a URL",
    "type": "string",
}
#: JSON Schema of one item. msgspec reads such fields untyped, and `inputs` checks them.
ITEM_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "description": "a text, or an image as data:image/…;base64,…"},
        {
            "type": "object",
            "required": ["text"],
            "properties": {"text": {"type": "string"}},
            "description": "a text",
        },
        {
            "type": "object",
            "required": ["image"],
            "properties": {"image": _IMAGE, "text": {"type": ["string", "null"]}},
            "description": "an image, with or without a text; url and bytes are other names",
        },
    ],
}
_TOKEN_IDS: dict[str, object] = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0},
    "minItems": 1,
    "description": "token ids, where the server was started to take them (--token-ids)",
}
#: JSON Schema of `input`.
INPUT_SCHEMA: dict[str, Any] = {
    "anyOf": [
        *ITEM_SCHEMA["anyOf"],
        _TOKEN_IDS,
        {
            "type": "array",
            "items": {"anyOf": [*ITEM_SCHEMA["anyOf"], _TOKEN_IDS]},
            "minItems": 1,
        },
    ]
}
_MESSAGES_SCHEMA: dict[str, Any] = {
    "type": ["array", "null"],
    "description": "one conversation, which is one item; a list of such lists is many",
}

_OneType = Annotated[str, Meta(extra_json_schema={"enum": list(get_args(OutputType))})]
Size = Annotated[int, Meta(ge=0)]
#: One name of an output type, or several.
Types = _OneType | list[_OneType] | None


class EmbeddingsBody(Body, frozen=True, kw_only=True):
    """Texts and images to embed. Fields that are not listed are ignored."""

    input: Annotated[Any, Meta(extra_json_schema=INPUT_SCHEMA)] = None
    messages: Annotated[Any, Meta(extra_json_schema=_MESSAGES_SCHEMA)] = None
    model: Annotated[
        str | None, Meta(description="the model, which may carry a task: name:retrieval.query")
    ] = None
    task: Annotated[
        str | None, Meta(description="such as retrieval.query, retrieval.passage, text-matching")
    ] = None
    input_type: Annotated[
        str | None, Meta(description="query or passage, where task names no role")
    ] = None
    prompt_name: Annotated[str | None, Meta(description="as input_type")] = None
    dimensions: Annotated[
        Size | None, Meta(description="leading dimensions to keep, normalised again; 0 for all")
    ] = None
    output_dimension: Annotated[Size | None, Meta(description="as dimensions")] = None
    embedding_type: Annotated[
        Types, Meta(description="float, base64, binary or ubinary, or a list of them")
    ] = None
    encoding_type: Annotated[Types, Meta(description="as embedding_type")] = None
    encoding_format: Annotated[Types, Meta(description="as embedding_type")] = None
    return_multivector: Annotated[
        bool | None, Meta(description="one vector a token, in data[i].embeddings")
    ] = None
    late_chunking: Annotated[
        bool | None, Meta(description="read all texts as one, pool each by itself")
    ] = None
    late_groups: Annotated[
        list[int] | None, Meta(description="texts of each document, for late_chunking")
    ] = None
    truncate: Annotated[
        bool | str | None,
        Meta(description="end of a text that is cut (start, end), or false to refuse it"),
    ] = None
    truncate_prompt_tokens: Annotated[
        int | None, Meta(description="tokens kept of a text; -1 for the model's limit")
    ] = None
    normalized: Annotated[bool | None, Meta(description="false for plain means")] = None
    normalize: Annotated[bool | None, Meta(description="as normalized")] = None
    modality: Annotated[str | None, Meta(description="image where plain strings are images")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingPlan:
    """A body understood.

    Attributes:
        items: before images are read.
        fields: of the body that held them.
        choice: task and prompt of all.
        options: of the call, without items.
        form: of the vectors in the answer.
    """

    items: tuple[ParsedItem, ...]
    fields: ItemFields
    choice: TaskChoice
    options: EmbedCall
    form: OutputForm


def plan_embeddings(
    body: EmbeddingsBody, info: ModelInfo, *, multi: bool, task: str | None
) -> EmbeddingPlan:
    """Return what a body asks for.

    Args:
        body: of a request.
        info: of the model.
        multi: whether multi-vectors are answered.
        task: the body's, unless the path gives that field another meaning.

    Raises:
        ServiceError: 404 the model is unknown; 422 a field cannot be used.
    """
    role_field = "prompt_name" if body.input_type is None else "input_type"
    choice = choose_task(
        info,
        model=body.model,
        task=task,
        role=body.prompt_name if body.input_type is None else body.input_type,
        role_field=role_field,
    )
    whole = info.multi_dimensions if multi else info.dimensions
    if body.dimensions is None and body.output_dimension is not None:
        kept = kept_dimensions(body.output_dimension, whole, "output_dimension")
    else:
        kept = kept_dimensions(body.dimensions, whole)
    form = choose_output(
        {
            "embedding_type": body.embedding_type,
            "encoding_type": body.encoding_type,
            "encoding_format": body.encoding_format,
        },
        kept or (info.multi_dimensions if multi else info.default_dimensions),
    )
    items = (
        parse_input(body.input, modality=body.modality)
        if body.messages is None
        else parse_messages(body.messages)
    )
    normalize = body.normalize if body.normalized is None else body.normalized
    options = EmbedCall(
        items=(),
        single=not multi,
        multi=multi,
        dimensions=None if multi else kept,
        multi_dimensions=kept if multi else None,
        max_length=text_length(body.truncate_prompt_tokens, info),
        truncate=truncation(body.truncate),
        normalize=normalize is not False,
        late_chunking=body.late_chunking is True,
        late_groups=_groups(body, items),
    )
    return EmbeddingPlan(
        items=items,
        fields=INPUT if body.messages is None else (ItemField("messages"),),
        choice=choice,
        options=options,
        form=form,
    )


def kept_dimensions(asked: int | None, whole: int, field: str = "dimensions") -> int | None:
    """Return how many leading dimensions to keep, or None for the model's default.

    Args:
        asked: of the request; 0 means all.
        whole: size of the vectors.
        field: of the request that asks, for the message.

    Raises:
        ServiceError: 422 there are not as many.
    """
    try:
        return check_dim(field, asked, whole)
    except InputError as cause:
        raise ServiceError(422, "invalid_dimensions", str(cause), param=field) from cause


def text_length(
    asked: int | None, info: ModelInfo, field: str = "truncate_prompt_tokens"
) -> int | None:
    """Return how many tokens of a text to keep, or None for the server's limit.

    Args:
        asked: of the request; -1 means the limit, as does more than it.
        info: has the limit.
        field: of the request that asks, for the message.

    Raises:
        ServiceError: 422 it is 0 or below -1.
    """
    if asked is None or asked == -1 or asked >= info.max_tokens:
        return None
    if asked < 1:
        raise ServiceError(
            422,
            "invalid_field",
            f"{field} is {asked}; give 1 or more, or -1 for the limit",
            param=field,
        )
    return asked


def truncation(value: bool | str | None) -> Truncation:
    """Return which end of a long text is cut. Absent is "end", as in the published code.

    Raises:
        ServiceError: 422 the word is unknown.
    """
    words: Mapping[str, Truncation] = {"end": "end", "start": "start", "none": "none"}
    if value is None or isinstance(value, bool):
        return "none" if value is False else "end"
    word = words.get(value.lower())
    if word is None:
        raise ServiceError(
            422,
            "invalid_field",
            f"truncate is {value!r}; known are true, false and {sorted(words)}",
            param="truncate",
        )
    return word


def _groups(body: EmbeddingsBody, items: Sequence[ParsedItem]) -> tuple[int, ...]:
    if not body.late_groups or not body.late_chunking:
        return ()
    if min(body.late_groups) < 1 or sum(body.late_groups) != len(items):
        raise ServiceError(
            422,
            "invalid_field",
            f"late_groups has groups of {body.late_groups[:8]} for {len(items)} items; give counts "
            "of at least 1 that sum to it",
            param="late_groups",
        )
    return tuple(body.late_groups)
