"""The OpenAPI document describes what is served, and its examples work."""

import json
import re
from typing import Any

import pytest
from starlette.routing import Route

from trine.runtime.serving.api.endpoint import ApiContext
from trine.runtime.serving.api.openapi.document import openapi_document
from trine.runtime.serving.api.openapi.operations import OPERATIONS, Operation
from trine.runtime.serving.api.requests.token_ids import TokenIdPolicy
from trine.runtime.serving.api.routes import DIALECTS

#: Served, but not described: other names for the list of models, and the document itself.
UNLISTED = {"/models", "/models/{model}", "/openapi.json", "/docs"}


async def _no_images(source: str | bytes) -> bytes:
    raise AssertionError(source)


def test_every_route_is_described_and_the_other_way_round(service: Any) -> None:
    api = ApiContext(
        service=service,
        read_image=_no_images,
        max_body_bytes=1,
        token_ids=TokenIdPolicy(),
    )
    routes: list[Route] = []
    for dialect in DIALECTS:
        routes += dialect.routes(api)
    served = {
        (re.sub(r":path}", "}", route.path), method)
        for route in routes
        for method in (route.methods or set()) - {"HEAD"}
    }
    described = {(operation.path, operation.method) for operation in OPERATIONS}
    assert {pair for pair in served if pair[0] not in UNLISTED} == described


@pytest.mark.parametrize(
    "operation", OPERATIONS, ids=lambda operation: f"{operation.method} {operation.path}"
)
def test_examples_are_answered(client: Any, operation: Operation) -> None:
    path = operation.path.replace("{model}", "jina-embeddings-v4").replace("{version}", "1")
    response = client.request(operation.method, path, json=operation.example)
    assert response.status_code == 200, response.text


def test_the_document_is_whole(client: Any) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    schemas = document["components"]["schemas"]
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references <= set(schemas)
    body = schemas["EmbeddingsBody"]["properties"]
    assert "retrieval.query" in body["task"]["enum"]
    assert "jina-embeddings-v4:text-matching" in body["model"]["enum"]
    identities = [o["operationId"] for p in document["paths"].values() for o in p.values()]
    assert len(identities) == len(set(identities))


def test_the_page_loads_nothing_from_elsewhere(client: Any, info: Any) -> None:
    response = client.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//", response.text)
    for operation in OPERATIONS:
        assert operation.path in response.text
    # Names come from operators: they are shown, not run.
    evil = openapi_document(info)
    evil["info"]["title"] = "<script>alert(1)</script>"
    from trine.runtime.serving.api.openapi.page import docs_page

    assert "<script>alert" not in docs_page(evil)
