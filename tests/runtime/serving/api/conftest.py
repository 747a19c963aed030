"""A service without a model: vectors are a fixed function of an item, its task and its prompt."""

import asyncio
import base64
import binascii
import hashlib
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from trine.runtime.bundle.model_config import PROMPTS
from trine.runtime.inputs import ImageText, Prompt
from trine.runtime.serving.api.responses.errors import answer_http_exception
from trine.runtime.serving.api.routes import api_routes
from trine.runtime.serving.config.settings import ServerSettings
from trine.runtime.serving.http.request_context import set_call_context
from trine.runtime.serving.service.calls import (
    CallContext,
    EmbedCall,
    EmbedItem,
    EmbedResult,
    ImageSpan,
    ModelInfo,
    ReadyState,
    ServiceError,
    Timings,
    TokenizedText,
)
from trine.runtime.serving.service.refusals import item_error

DIM = 256
MULTI_DIM = 128

INFO = ModelInfo(
    name="jina-embeddings-v4",
    aliases=("v4",),
    source="jinaai/jina-embeddings-v4",
    revision="abc",
    license="cc-by-nc-4.0",
    version="0.1.0",
    created=1_700_000_000,
    tasks=("retrieval", "text-matching", "code"),
    default_task="retrieval",
    default_prompt="query",
    dimensions=DIM,
    default_dimensions=DIM,
    matryoshka_dimensions=(64, 128, 256),
    multi_dimensions=MULTI_DIM,
    max_tokens=1000,
    max_items=32,
    max_pixels=602_112,
    vocab_size=1000,
    engine="ort-fp32",
    precision="fp32",
    adapters="merged",
    adapter_hashes={"retrieval": "a1", "text-matching": "b2", "code": "c3"},
)


def matrix_of(item: EmbedItem) -> NDArray[np.float32]:
    """Return float32 [T, MULTI_DIM], rows normalised: T depends on the content's length."""
    content = item.content
    kind = "image" if isinstance(content, ImageText) else type(content).__name__
    seed = hashlib.sha256(repr((kind, content, item.task, item.prompt)).encode()).digest()
    rng = np.random.default_rng(int.from_bytes(seed[:8], "little"))
    size = 9 if isinstance(content, ImageText) else len(content) % 7 + 1
    rows = rng.standard_normal((size, MULTI_DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def vector_of(item: EmbedItem, dimensions: int | None = None) -> NDArray[np.float32]:
    """Return float32 [dimensions], normalised."""
    whole = np.resize(matrix_of(item).reshape(-1), DIM) + np.linspace(-0.01, 0.01, DIM)
    cut = whole[: dimensions or DIM].astype(np.float32)
    return (cut / np.linalg.norm(cut)).astype(np.float32)


class FakeService:
    """Answers from `matrix_of`, and remembers its calls."""

    def __init__(self, info: ModelInfo = INFO) -> None:
        self.state: ReadyState = "ready"
        self.calls: list[EmbedCall] = []
        self._info = info

    def info(self) -> ModelInfo:
        return self._info

    async def embed(self, call: EmbedCall, context: CallContext) -> EmbedResult:
        await asyncio.sleep(0)
        self.calls.append(call)
        long = [isinstance(i.content, str) and len(i.content) > 2000 for i in call.items]
        if call.truncate == "none" and any(long):
            place = call.place(long.index(True))
            raise item_error(place, f"{place} is too long")
        single = [vector_of(item, call.dimensions) for item in call.items]
        return EmbedResult(
            single=np.stack(single) if call.single else None,
            multi=tuple(
                np.ascontiguousarray(matrix_of(item)[:, : call.multi_dimensions])
                for item in call.items
            )
            if call.multi
            else None,
            num_tokens=np.array([len(matrix_of(item)) for item in call.items], np.int64),
            num_image_tokens=np.zeros(len(call.items), np.int64),
            truncated=np.array(long, np.bool_),
            image_spans=tuple(
                (ImageSpan(2, 2, 2),) if isinstance(item.content, ImageText) else ()
                for item in call.items
            ),
            adapter_hashes={i.task: self._info.adapter_hashes[i.task] for i in call.items},
            timings=Timings(prepare_s=0.001, queue_s=0.0, engine_s=0.002, total_s=0.003),
        )

    async def tokenize(
        self, texts: Sequence[str], prompt: Prompt | None = None
    ) -> list[TokenizedText]:
        prefix = "" if prompt is None else PROMPTS[prompt]
        return [
            TokenizedText(
                tuple(ord(c) for c in prefix + text),
                tuple(prefix + text),
                tuple((i, i + 1) for i in range(len(prefix + text))),
                len(prefix),
            )
            for text in texts
        ]

    async def decode(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        if any(not 0 <= i < self._info.vocab_size for row in token_ids for i in row):
            raise ServiceError(422, "unknown_token_id", "an id is not in the vocabulary")
        return [" ".join(str(i) for i in row) for row in token_ids]

    async def load_adapter(self, name: str, folder: str, task: str | None = None) -> None:
        raise ServiceError(409, "adapters_merged", "the engine's adapters are merged")

    async def unload_adapter(self, name: str) -> None:
        raise ServiceError(409, "adapters_merged", "the engine's adapters are merged")


async def read_source(source: str | bytes) -> bytes:
    """Return the bytes of base64 or a data URI, or those given; URLs are refused, as where nothing
    is fetched."""
    if isinstance(source, bytes):
        return source
    if source.startswith("http"):
        raise ServiceError(422, "url_refused", "images are not fetched from URLs here")
    try:
        content = base64.b64decode(source.rpartition(",")[2], validate=True)
    except (binascii.Error, ValueError) as cause:
        raise ServiceError(422, "invalid_image", "the image is not base64") from cause
    if not content:
        raise ServiceError(422, "invalid_image", "the image is empty")
    return content


class WithContext:
    """Middleware that gives each request a context, as the server's own does."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            context = CallContext(
                request_id="r1",
                key_name=None,
                deadline=time.monotonic() + 10,
                disconnected=lambda: False,
            )
            set_call_context(scope, context)
        await self.app(scope, receive, send)


def api_app(service: FakeService, settings: ServerSettings) -> ASGIApp:
    """Return an application with the dialects' routes only."""
    routes = api_routes(service, settings, read_source)
    handlers = {HTTPException: answer_http_exception}
    return WithContext(Starlette(routes=routes, exception_handlers=handlers))


class Client:
    """Sends requests to an application in this process, each in an event loop of its own.

    A fault in a handler is raised here, so that a test cannot take it for an error response.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def request(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                sent = headers or {}
                if json is not None:
                    return await client.request(method, path, json=json, headers=sent)
                return await client.request(method, path, content=content, headers=sent)

        return asyncio.run(send())

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)

    def post(
        self,
        path: str,
        json: object = None,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        return self.request("POST", path, json=json, content=content, headers=headers)


@pytest.fixture
def service() -> FakeService:
    """A service without a model, which remembers its calls."""
    return FakeService()


@pytest.fixture
def client(service: FakeService) -> Client:
    """Sends requests to the dialects' routes over `service`."""
    return Client(api_app(service, ServerSettings(bundle=Path("none"), max_body_bytes=1_000_000)))


@pytest.fixture
def info() -> ModelInfo:
    """The model of `service`."""
    return INFO


@pytest.fixture
def vector() -> Callable[..., NDArray[np.float32]]:
    """From content, task, prompt and dimensions to the vector that `service` gives it."""

    def of(
        content: object,
        task: str = "retrieval",
        prompt: Prompt = "query",
        dimensions: int | None = None,
    ) -> NDArray[np.float32]:
        return vector_of(EmbedItem(content, task, prompt), dimensions)  # type: ignore[arg-type]

    return of


@pytest.fixture
def matrix() -> Callable[..., NDArray[np.float32]]:
    """Likewise, to the multi-vector."""

    def of(
        content: object, task: str = "retrieval", prompt: Prompt = "query"
    ) -> NDArray[np.float32]:
        return matrix_of(EmbedItem(content, task, prompt))  # type: ignore[arg-type]

    return of


@pytest.fixture(scope="session")
def png() -> bytes:
    """An image file."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (56, 56), (0, 0, 255)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def png_base64(png: bytes) -> str:
    """The same in base64."""
    return base64.b64encode(png).decode("ascii")


@pytest.fixture(scope="session")
def png_uri(png_base64: str) -> str:
    """The same as a data URI."""
    return f"data:image/png;base64,{png_base64}"
