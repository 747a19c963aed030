"""The paths of text-embeddings-inference: POST `/`, `/embed`, `/embed_all`, `/similarity`,
`/tokenize`, `/decode` and GET `/info`.

Answers are bare lists: of one input too, `/embed` answers a list with one vector. `prompt_name`
carries the task: a role (`query`) or a task's name (`retrieval.passage`).
"""

from typing import Annotated, Any

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trine.runtime.bundle.model_config import PROMPTS
from trine.runtime.serving.api.endpoint import (
    ApiContext,
    Embedded,
    embed_items,
    endpoint,
    json_response,
)
from trine.runtime.serving.api.requests.bodies import Body, read_body
from trine.runtime.serving.api.requests.embeddings import INPUT_SCHEMA, kept_dimensions
from trine.runtime.serving.api.requests.items import parse_input
from trine.runtime.serving.api.requests.tasks import choose_task
from trine.runtime.serving.api.responses.embeddings import multi_vectors_of, single_vectors_of
from trine.runtime.serving.api.responses.output_types import (
    choose_output,
    encode_matrix,
    encode_rows,
)
from trine.runtime.serving.service.calls import EmbedCall, ServiceError, TokenizedText, Truncation
from trine.runtime.serving.service.item_fields import ItemField

__all__ = ["DecodeBody", "EmbedBody", "SimilarityBody", "TokenizeBody", "routes"]

#: Where requests have their items.
INPUTS = (ItemField("inputs"),)

#: `truncation_direction`: the side of a text that is cut.
DIRECTIONS: dict[str, Truncation] = {"right": "end", "left": "start"}


class EmbedBody(Body, frozen=True, kw_only=True):
    """Texts and images to embed."""

    inputs: Annotated[Any, Meta(extra_json_schema=INPUT_SCHEMA)]
    task: str | None = None
    prompt_name: Annotated[
        str | None, Meta(description="query, passage or a task's name such as retrieval.query")
    ] = None
    normalize: Annotated[bool | None, Meta(description="false for plain means")] = None
    truncate: Annotated[bool | None, Meta(description="false to refuse long texts")] = None
    truncation_direction: Annotated[
        str | None, Meta(description="side that is cut: Right (default) or Left")
    ] = None
    dimensions: Annotated[
        Annotated[int, Meta(ge=0)] | None, Meta(description="leading dimensions to keep")
    ] = None
    encoding_format: Annotated[str | None, Meta(description="float or base64")] = None


class SimilarityInputs(Body, frozen=True, kw_only=True):
    """A text and those it is compared with."""

    source_sentence: str
    sentences: list[str]


class SimilarityParameters(Body, frozen=True, kw_only=True):
    """How texts are embedded that are compared."""

    prompt_name: Annotated[str | None, Meta(description="query, passage or a task's name")] = None
    truncate: bool | None = None
    truncation_direction: str | None = None


class SimilarityBody(Body, frozen=True, kw_only=True):
    """Texts to compare, all embedded alike."""

    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None


class TokenizeBody(Body, frozen=True, kw_only=True):
    """Texts to tokenise."""

    inputs: str | list[str]
    add_special_tokens: Annotated[
        bool | None, Meta(description="accepted; those the model sees are shown")
    ] = None
    prompt_name: Annotated[
        str | None, Meta(description="query or passage, to see its prefix too")
    ] = None


class DecodeBody(Body, frozen=True, kw_only=True):
    """Token ids to turn into text."""

    ids: Annotated[
        list[int | list[int]], Meta(description="ids of one text, or a list of ids for each text")
    ]
    skip_special_tokens: bool | None = None


def routes(api: ApiContext) -> list[Route]:
    """Return the routes of this dialect."""
    return [
        endpoint(api, "/", create_vectors),
        endpoint(api, "/embed", create_vectors),
        endpoint(api, "/embed_all", create_token_vectors),
        endpoint(api, "/similarity", compare),
        endpoint(api, "/tokenize", tokenize),
        endpoint(api, "/decode", decode),
        endpoint(api, "/info", show_info, ("GET",)),
    ]


async def create_vectors(api: ApiContext, request: Request) -> Response:
    """Answer with a list of vectors."""
    body = await read_body(request, EmbedBody, api.max_body_bytes)
    info = api.service.info()
    dimensions = kept_dimensions(body.dimensions, info.dimensions)
    form = choose_output({"encoding_format": body.encoding_format}, dimensions)
    options = EmbedCall(
        items=(),
        dimensions=dimensions,
        truncate=_truncation(body.truncate, body.truncation_direction),
        normalize=body.normalize is not False,
    )
    embedded = await _embed(api, request, body, options)
    rows = await encode_rows(single_vectors_of(embedded.result), form)
    return json_response(rows, embedded.headers)


async def create_token_vectors(api: ApiContext, request: Request) -> Response:
    """Answer with a list of vectors, one a token, for each input."""
    body = await read_body(request, EmbedBody, api.max_body_bytes)
    info = api.service.info()
    dimensions = kept_dimensions(body.dimensions, info.multi_dimensions)
    form = choose_output({"encoding_format": body.encoding_format}, dimensions)
    options = EmbedCall(
        items=(),
        single=False,
        multi=True,
        multi_dimensions=dimensions,
        truncate=_truncation(body.truncate, body.truncation_direction),
    )
    embedded = await _embed(api, request, body, options)
    matrices = [await encode_matrix(m, form) for m in multi_vectors_of(embedded.result)]
    return json_response(matrices, embedded.headers)


async def compare(api: ApiContext, request: Request) -> Response:
    """Answer with the cosine of each sentence with the source."""
    body = await read_body(request, SimilarityBody, api.max_body_bytes)
    parameters = body.parameters or SimilarityParameters()
    sentences = body.inputs.sentences
    if not sentences:
        raise ServiceError(
            422, "empty_input", "sentences is an empty list; give at least one", param="sentences"
        )
    choice = choose_task(api.service.info(), role=parameters.prompt_name, role_field="prompt_name")
    options = EmbedCall(
        items=(), truncate=_truncation(parameters.truncate, parameters.truncation_direction)
    )
    embedded = await embed_items(
        api,
        request,
        [body.inputs.source_sentence, *sentences],
        [choice] * (1 + len(sentences)),
        options,
        (ItemField("source_sentence"), ItemField("sentences", 1)),
    )
    source, *others = single_vectors_of(embedded.result)
    return json_response([float(source @ other) for other in others], embedded.headers)


async def tokenize(api: ApiContext, request: Request) -> Response:
    """Answer with the tokens of each text, their offsets those of the text with its prefix."""
    body = await read_body(request, TokenizeBody, api.max_body_bytes)
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    prompt = None
    if body.prompt_name is not None:
        prompt = choose_task(
            api.service.info(), role=body.prompt_name, role_field="prompt_name"
        ).prompt
    prefix = "" if prompt is None else PROMPTS[prompt]
    found = await api.service.tokenize(texts, prompt)
    return json_response(
        [_tokens(prefix + text, tokens) for text, tokens in zip(texts, found, strict=True)]
    )


async def decode(api: ApiContext, request: Request) -> Response:
    """Answer with the text of each list of ids."""
    body = await read_body(request, DecodeBody, api.max_body_bytes)
    rows = [row for row in body.ids if isinstance(row, list)]
    flat = [token for token in body.ids if isinstance(token, int)]
    if rows and flat:
        raise ServiceError(
            422, "invalid_field", "ids mixes numbers and lists; give one kind", param="ids"
        )
    return json_response(await api.service.decode(rows or [flat]))


async def show_info(api: ApiContext, request: Request) -> Response:
    """Answer with what the model is and what it takes."""
    info = api.service.info()
    return json_response(
        {
            "model_id": info.source,
            "model_sha": info.revision,
            "model_dtype": info.precision,
            "model_type": {"embedding": {"pooling": "mean"}},
            "served_model_name": info.name,
            "max_input_length": info.max_tokens,
            "max_client_batch_size": info.max_items,
            "auto_truncate": True,
            "version": info.version,
            "sha": None,
            "docker_label": None,
            "license": info.license,
            "description": info.note,
            "tasks": info.tasks,
            "default_task": info.default_task,
            "default_prompt": info.default_prompt,
            "dimensions": info.dimensions,
            "default_dimensions": info.default_dimensions,
            "matryoshka_dimensions": info.matryoshka_dimensions,
            "multi_vector_dimensions": info.multi_dimensions,
            "max_pixels": info.max_pixels,
            "engine": info.engine,
            "precision": info.precision,
            "adapters": info.adapters,
            "adapter_hashes": dict(info.adapter_hashes),
            "state": api.service.state,
        }
    )


async def _embed(
    api: ApiContext, request: Request, body: EmbedBody, options: EmbedCall
) -> Embedded:
    items = parse_input(body.inputs, field=INPUTS[0].name)
    choice = choose_task(
        api.service.info(), task=body.task, role=body.prompt_name, role_field="prompt_name"
    )
    return await embed_items(api, request, items, [choice] * len(items), options, INPUTS)


def _truncation(truncate: bool | None, side: str | None) -> Truncation:
    if truncate is False:
        return "none"
    direction = (side or "right").lower()
    if direction not in DIRECTIONS:
        raise ServiceError(
            422,
            "invalid_field",
            f"truncation_direction is {side!r}; give Right or Left",
            param="truncation_direction",
        )
    return DIRECTIONS[direction]


def _tokens(text: str, found: TokenizedText) -> list[dict[str, object]]:
    # No text of a user ever becomes a special token, so none is one.
    return [
        {"id": token, "text": text[start:stop], "special": False, "start": start, "stop": stop}
        for token, (start, stop) in zip(found.ids, found.offsets, strict=True)
    ]
