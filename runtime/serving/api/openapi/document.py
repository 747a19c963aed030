"""The OpenAPI 3.1 document at `/openapi.json`, made of the types that requests are decoded with."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from trine.runtime.serving.api.endpoint import ApiContext, endpoint, json_response
from trine.runtime.serving.api.openapi.operations import OPERATIONS, Operation
from trine.runtime.serving.api.openapi.page import DOCS_POLICY, docs_page
from trine.runtime.serving.api.openapi.schemas import ANSWERS, ERRORS
from trine.runtime.serving.api.requests.tasks import model_names
from trine.runtime.serving.api.responses.errors import COHERE_PATHS, TEI_PATHS
from trine.runtime.serving.service.calls import ModelInfo
from trine.runtime.task_names import task_names

__all__ = ["openapi_document", "routes"]

REF = "#/components/schemas/{name}"
#: Fields of a body of which one set is needed, beside those that always are.
ALTERNATIVES = {
    "EmbeddingsBody": (["input"], ["messages"]),
    "ScoreBody": (["text_1", "text_2"], ["queries", "documents"]),
    "RerankBody": (["documents"], ["texts"]),
}


def routes(api: ApiContext) -> list[Route]:
    """Return the routes of the document and of the page that shows it."""
    return [
        endpoint(api, "/openapi.json", show_document, ("GET",)),
        endpoint(api, "/docs", show_docs, ("GET",)),
    ]


async def show_document(api: ApiContext, request: Request) -> Response:
    """Answer with the document."""
    return json_response(openapi_document(api.service.info()))


async def show_docs(api: ApiContext, request: Request) -> Response:
    """Answer with a page for people, which loads nothing from elsewhere."""
    document = openapi_document(api.service.info())
    return HTMLResponse(docs_page(document), headers={"content-security-policy": DOCS_POLICY})


def openapi_document(
    info: ModelInfo, operations: Sequence[Operation] = OPERATIONS
) -> dict[str, Any]:
    """Return the document of what this model's server answers.

    Args:
        info: of the model; its tasks and names become enumerations.
        operations: to describe.
    """
    bodies = [op.body for op in operations if op.body is not None]
    _, components = msgspec.json.schema_components(set(bodies), ref_template=REF)
    for name, sets in ALTERNATIVES.items():
        if name in components:
            components[name]["anyOf"] = [{"required": fields} for fields in sets]
    for schema in components.values():
        _enumerate(schema, "task", task_names(info.tasks) + list(info.tasks))
        _enumerate(schema, "model", model_names(info))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Trine: {info.name}",
            "version": info.version,
            "description": "Vectors of texts and images, in the dialects of several servers.",
        },
        "paths": paths,
        "components": {
            "schemas": {**components, **ANSWERS, **ERRORS},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        # A key, or none: whether one is needed is the operator's choice.
        "security": [{}, {"key": []}],
    }


def _enumerate(schema: dict[str, Any], name: str, values: Sequence[str]) -> None:
    """Narrow a nullable string property of a body, if it has it, to the names known here."""
    described = schema.get("properties", {}).get(name)
    if described is not None:
        kept = {key: described[key] for key in ("description", "default") if key in described}
        schema["properties"][name] = kept | {"enum": [*dict.fromkeys(values), None]}


def _described(operation: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {
        "application/json": {"schema": {"$ref": REF.format(name=operation.answer)}}
    }
    if operation.binary:
        content["application/octet-stream"] = {}
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{operation.method.lower()}:{operation.path}",
        "tags": [operation.tag],
        "responses": {
            "200": {"description": "done", "content": content},
            "4XX": _error(operation, "the request cannot be answered as it is"),
            "5XX": _error(operation, "the server cannot answer now"),
        },
    }
    names = re.findall(r"{(\w+)}", operation.path)
    if names:
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": REF.format(name=operation.body.__name__)},
                    "example": operation.example,
                }
            },
        }
    return described


def _error(operation: Operation, description: str) -> dict[str, Any]:
    name = "Error"
    if operation.path in COHERE_PATHS:
        name = "CohereError"
    elif operation.path.startswith(("/v2", "/api/")):
        name = "PlainError"
    elif operation.path in TEI_PATHS:
        name = "TeiError"
    schema = {"$ref": REF.format(name=name)}
    return {"description": description, "content": {"application/json": {"schema": schema}}}
