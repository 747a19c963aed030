import asyncio
import base64
import gzip
import hashlib
import json
import logging
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from trine.runtime.serving.observability.logs import WRITE_AFTER_S
from trine.runtime.serving.scheduler.work import Amount, Work
from trine.runtime.serving.service.calls import ServiceError

#: `Served` of conftest.py, which tests cannot import.
Served = Any
Serve = Callable[..., AbstractContextManager[Served]]

EMBEDDINGS = "/v1/embeddings"
ONE = {"input": "a chess game"}


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def test_a_response_says_what_computed_it(served: Served) -> None:
    info = served.service.info()
    response = served.request("POST", EMBEDDINGS, json=ONE)
    assert response.status_code == 200
    headers = response.headers
    assert headers["x-trine-model"] == info.name
    assert headers["x-trine-task"] == "retrieval"
    assert headers["x-trine-adapter"] == f"retrieval={info.adapter_hashes['retrieval']}"
    assert (headers["x-trine-engine"], headers["x-trine-precision"]) == ("ort-fp32", "fp32")
    assert re.fullmatch(
        r"prepare;dur=[\d.]+, queue;dur=[\d.]+, engine;dur=[\d.]+, total;dur=[\d.]+",
        headers["server-timing"],
    )


def test_a_client_reads_the_services_vectors(served: Served) -> None:
    body = {"input": ["a", "b"], "task": "code.query", "encoding_format": "base64"}
    rows = served.request("POST", EMBEDDINGS, json=body).json()["data"]
    found = np.array([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows])
    items = [
        served.request("POST", EMBEDDINGS, json={"input": x, "task": "code.query"}) for x in "ab"
    ]
    wanted = [item.json()["data"][0]["embedding"] for item in items]
    assert np.allclose(found, wanted, atol=2e-6)


@pytest.mark.parametrize("given", ["my-id:1", None, "bad id", "x" * 200])
def test_every_response_has_a_request_id(served: Served, given: str | None) -> None:
    headers = {} if given is None else {"x-request-id": given}
    for path in (EMBEDDINGS, "/nowhere"):
        found = served.request("POST", path, json=ONE, headers=headers).headers["x-request-id"]
        assert found == given if given == "my-id:1" else re.fullmatch("[0-9a-f]{32}", found)


def test_a_trace_goes_on_in_the_response(served: Served) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    sent = f"00-{trace}-b7ad6b7169203331-01"
    found = served.request("POST", EMBEDDINGS, json=ONE, headers={"traceparent": sent}).headers
    version, trace_id, span_id, flags = found["traceparent"].split("-")
    assert (version, trace_id, flags) == ("00", trace, "01")
    assert span_id != "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("POST", "/nowhere", 404, dict),
        ("GET", "/v2/nowhere", 404, str),
        ("DELETE", EMBEDDINGS, 405, dict),
        ("PUT", "/embed", 405, str),
    ],
)
def test_what_the_router_refuses_is_said_in_the_paths_dialect(
    served: Served, method: str, path: str, status: int, kind: type
) -> None:
    response = served.request(method, path)
    assert response.status_code == status
    assert isinstance(response.json()["error"], kind)
    assert status != 405 or response.headers["allow"]


def test_health_says_what_the_service_is_doing(golden_bundle: Path, serve: Serve) -> None:
    with serve(golden_bundle, loaded=False) as early:
        assert early.request("GET", "/health/live").status_code == 200
        assert early.request("GET", "/health").status_code == 200
        assert early.request("GET", "/health/ready").json() == {"status": "loading"}
        assert early.request("GET", "/health/ready").status_code == 503
        assert early.request("GET", "/v1/models").status_code == 200
        refused = early.request("POST", EMBEDDINGS, json=ONE)
        assert refused.status_code == 503
        assert 1 <= int(refused.headers["retry-after"]) <= 120
        assert refused.json()["error"]["code"] == "server_loading"
        early.run(early.service.load())
        assert early.request("GET", "/health/ready").status_code == 200
        assert early.request("POST", EMBEDDINGS, json=ONE).status_code == 200
        early.service.drain()
        assert early.request("GET", "/health/ready").json() == {"status": "draining"}
        assert early.request("POST", EMBEDDINGS, json=ONE).status_code == 503
        assert early.request("GET", "/health/live").status_code == 200


def test_keys_are_needed_where_vectors_are_made(golden_bundle: Path, serve: Serve) -> None:
    keys = (f"a={digest('one')}", f"b={digest('two')}")
    with serve(golden_bundle, api_keys=keys) as guarded:
        for headers in ({}, {"authorization": "Bearer three"}):
            refused = guarded.request("POST", EMBEDDINGS, json=ONE, headers=headers)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
        for key in ("one", "two"):
            bearer = {"authorization": f"Bearer {key}"}
            assert guarded.request("POST", EMBEDDINGS, json=ONE, headers=bearer).is_success
        for path in ("/v1/models", "/health", "/metrics", "/docs"):
            assert guarded.request("GET", path).status_code == 200


def test_a_server_without_keys_takes_any(served: Served) -> None:
    bearer = {"authorization": "Bearer whatever"}
    assert served.request("POST", EMBEDDINGS, json=ONE, headers=bearer).is_success


def test_each_key_has_its_requests_a_minute(golden_bundle: Path, serve: Serve) -> None:
    keys = (f"a={digest('one')}", f"b={digest('two')}")
    limits = {"requests_per_minute": 2, "tokens_per_minute": 1000}
    with serve(golden_bundle, api_keys=keys, **limits) as guarded:
        one, two = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))
        first = guarded.request("POST", EMBEDDINGS, json=ONE, headers=one)
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert 0 < int(first.headers["x-ratelimit-remaining-tokens"]) < 1000
        guarded.request("POST", EMBEDDINGS, json=ONE, headers=one)
        refused = guarded.request("POST", EMBEDDINGS, json=ONE, headers=one)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert guarded.request("POST", EMBEDDINGS, json=ONE, headers=two).is_success


def test_a_body_is_refused_by_its_size(golden_bundle: Path, serve: Serve) -> None:
    with serve(golden_bundle, max_body_bytes=1000) as small:
        assert small.request("POST", EMBEDDINGS, json=ONE).is_success
        for path in (EMBEDDINGS, "/embed", "/v2/models/x/infer", "/nowhere"):
            assert small.request("POST", path, content=b" " * 1001).status_code == 413

        async def chunks() -> Any:
            for _ in range(20):
                yield b" " * 100

        assert small.request("POST", EMBEDDINGS, content=chunks()).status_code == 413


def test_strangers_learn_nothing_of_a_keys_use(golden_bundle: Path, serve: Serve) -> None:
    keys = (f"a={digest('one')}",)
    with serve(golden_bundle, api_keys=keys, admin_key=digest("root"), tokens_per_minute=9) as one:
        for headers in ({}, {"x-api-key": "two"}, {"x-api-key": "root"}):
            for path in ("/admin/adapters", EMBEDDINGS):
                found = one.request("POST", path, json=ONE, headers=headers)
                assert found.status_code >= 400
                assert not [name for name in found.headers if name.startswith("x-ratelimit")]


def test_a_compressed_body_is_unfolded_within_the_limits(golden_bundle: Path, serve: Serve) -> None:
    with serve(golden_bundle, max_body_bytes=5000, max_pending_bytes=6000) as small:

        def ask(body: object, encoding: str = "gzip", path: str = EMBEDDINGS) -> httpx.Response:
            content = gzip.compress(json.dumps(body).encode())
            headers = {"content-encoding": encoding}
            found = small.request("POST", path, content=content, headers=headers)
            assert isinstance(found, httpx.Response)
            return found

        plain = small.request("POST", EMBEDDINGS, json=ONE).json()["data"]
        assert ask(ONE).json()["data"] == plain
        assert ask({"input": "a" * 6000}).status_code == 413
        assert ask(ONE, "br").status_code == 415
        assert ask(ONE, "deflate").status_code == 400
        assert isinstance(ask({"inputs": "a" * 6000}, path="/embed").json()["error"], str)
        # What was unfolded is held as long as the request, like bodies that come as they are.
        small.application.gate.bodies.hold(2000)
        full = ask({"input": "a" * 4500})
        assert (full.status_code, full.json()["error"]["code"]) == (429, "bodies_full")
        small.application.gate.bodies.release(2000)
        assert ask({"input": "a" * 4500}).is_success
        assert small.application.gate.bodies.pending == 0


def test_fetched_images_have_the_bounds_of_a_body(
    golden_bundle: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {"http://img.example/1.png": b"0" * 3000, "http://img.example/2.png": b"1" * 3000}

    async def read(source: str, *_: object) -> bytes:
        return images[source]

    monkeypatch.setattr("trine.runtime.serving.http.app.read_image", read)
    with serve(golden_bundle, max_body_bytes=5000, max_pending_bytes=9000) as small:

        def code(*urls: str) -> str:
            body = {"input": [{"image": url} for url in urls]}
            return str(small.request("POST", EMBEDDINGS, json=body).json()["error"]["code"])

        # The bytes are no image, which shows once they are through.
        assert code(*list(images)[:1]) == "invalid_input"
        assert code(*images) == "images_too_large"
        small.application.gate.bodies.hold(7000)
        assert code(*list(images)[:1]) == "bodies_full"
        small.application.gate.bodies.release(7000)
        assert small.application.gate.bodies.pending == 0


@pytest.mark.parametrize(("timeout", "status"), [("0.000001", 504), ("-1", 400), ("soon", 400)])
def test_a_client_may_ask_for_less_time(served: Served, timeout: str, status: int) -> None:
    headers = {"x-request-timeout": timeout}
    response = served.request("POST", EMBEDDINGS, json=ONE, headers=headers)
    assert response.status_code == status


def test_other_origins_are_let_in_only_if_named(
    golden_bundle: Path, served: Served, serve: Serve
) -> None:
    origin = {"origin": "https://example.org"}
    preflight = origin | {"access-control-request-method": "POST"}
    assert (
        "access-control-allow-origin"
        not in served.request("POST", EMBEDDINGS, json=ONE, headers=origin).headers
    )
    with serve(golden_bundle, cors_origins=("https://example.org",)) as opened:
        for response in (
            opened.request("POST", EMBEDDINGS, json=ONE, headers=origin),
            opened.request("OPTIONS", EMBEDDINGS, headers=preflight),
            opened.request("POST", "/admin/adapters", headers=origin),  # the gate refuses it
        ):
            assert response.headers["access-control-allow-origin"] == "https://example.org"
        read = opened.request("POST", EMBEDDINGS, json=ONE, headers=origin)
        exposed = read.headers["access-control-expose-headers"]
        assert {"x-trine-shape", "x-ratelimit-remaining-tokens"} <= set(exposed.split(", "))
        other = opened.request(
            "POST", EMBEDDINGS, json=ONE, headers={"origin": "https://a.example"}
        )
        assert "access-control-allow-origin" not in other.headers


def test_too_many_requests_at_once_are_refused_unread(golden_bundle: Path, serve: Serve) -> None:
    with serve(golden_bundle, max_requests=4) as narrow:

        async def crowd() -> list[httpx.Response]:
            async with narrow.client() as client:
                asked = (client.post(EMBEDDINGS, json=ONE) for _ in range(20))
                return list(await asyncio.gather(*asked))

        found = [response.status_code for response in narrow.run(crowd())]
        assert set(found) == {200, 429}
        assert found.count(200) >= 4
        assert narrow.request("POST", EMBEDDINGS, json=ONE).is_success


def test_a_full_queue_refuses_before_the_body_is_read(served: Served) -> None:
    async def ask() -> tuple[int, int]:
        parts = 0

        async def chunks() -> Any:
            nonlocal parts
            parts += 1
            yield b"{}"

        held = served.service.admission.admit(Work(Amount(10**6)), 60.0)
        try:
            async with served.client() as client:
                response = await client.post(EMBEDDINGS, content=chunks())
        finally:
            held.release()
        return response.status_code, parts

    assert served.run(ask()) == (429, 0)


def test_a_server_with_too_much_to_do_can_still_be_managed(
    golden_bundle: Path, serve: Serve
) -> None:
    with serve(golden_bundle, admin_key=digest("root"), max_requests=1) as one:
        held = one.service.admission.admit(Work(Amount(10**6)), 60.0)
        one.lag.seconds = 10.0
        try:
            asked = one.request("POST", EMBEDDINGS, json=ONE)
            managed = one.request(
                "POST", "/admin/adapters", json={}, headers={"authorization": "Bearer root"}
            )
        finally:
            held.release()
        assert asked.status_code == 429
        assert managed.status_code in (400, 422)  # read, and found to name nothing


def test_a_loop_that_is_behind_takes_fewer_requests(golden_bundle: Path, serve: Serve) -> None:
    with serve(golden_bundle, max_requests=32) as narrow:

        async def crowd() -> list[int]:
            async with narrow.client() as client:
                asked = (client.post(EMBEDDINGS, json=ONE) for _ in range(20))
                return [response.status_code for response in await asyncio.gather(*asked)]

        assert narrow.run(crowd()) == [200] * 20
        narrow.lag.seconds = 10.0
        assert set(narrow.run(crowd())) == {200, 429}
        assert narrow.request("POST", EMBEDDINGS, json=ONE).is_success


class Leaver:
    """An ASGI connection whose client leaves as soon as its request is complete."""

    def __init__(self, body: bytes) -> None:
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": EMBEDDINGS,
            "raw_path": EMBEDDINGS.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-type", b"application/json")],
            "client": ("test", 1),
            "server": ("server", 80),
            "scheme": "http",
            "http_version": "1.1",
        }
        self._messages = [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        await asyncio.sleep(0)
        return self._messages.pop(0)

    async def send(self, message: Any) -> None:
        self.sent.append(message)


def test_a_client_that_leaves_stops_its_work(served: Served) -> None:
    before = served.counted("trine_items_total", task="retrieval")
    leaver = Leaver(httpx.Request("POST", "http://x", json={"input": ["word " * 900] * 40}).content)
    served.run(served.application.asgi(leaver.scope, leaver.receive, leaver.send))
    assert leaver.sent == []
    assert served.counted("trine_items_total", task="retrieval") == before
    assert served.counted("trine_requests_total", path=EMBEDDINGS, status="499") == 1
    served.request("POST", EMBEDDINGS, json=ONE)
    assert served.service.admission.tokens == 0
    served.run(asyncio.wait_for(served.application.gate.wait_idle(), 5))


def test_a_fault_is_a_500_that_tells_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(served.service, "embed", fail)
    with caplog.at_level(logging.ERROR):
        response = served.request("POST", EMBEDDINGS, json=ONE)
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "secret" not in response.text
    assert "secret" in caplog.text
    assert response.headers["x-should-retry"] == "false"


def test_a_request_is_one_line_in_the_log(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    served.request("POST", EMBEDDINGS, json=ONE, headers={"x-request-id": "mine"})
    served.request("GET", "/health/live")
    time.sleep(2 * WRITE_AFTER_S)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert all(line["path"] != "/health/live" for line in lines)
    (found,) = [line for line in lines if line["request_id"] == "mine"]
    assert (found["path"], found["status"]) == (EMBEDDINGS, 200)
    assert (found["message"], found["level"]) == ("request", "info")
    assert "chess" not in str(found), "texts do not belong into logs"


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        (EMBEDDINGS, {"input": ["a", 3]}, "invalid_input"),
        (EMBEDDINGS, {"input": "a", "task": "poetry"}, "unknown_task"),
        ("/embed", {}, "invalid_field"),
        ("/page/embed", {"items": [], "role": "query"}, "invalid_items"),
        ("/nowhere", {}, "not_found"),
        ("/info", {}, "method_not_allowed"),
    ],
)
def test_errors_that_handlers_answer_are_logged_and_counted(
    served: Served, capsys: pytest.CaptureFixture[str], path: str, body: object, code: str
) -> None:
    before = served.counted("trine_rejected_requests_total", reason=code)
    served.request("POST", path, json=body, headers={"x-request-id": "mine"})
    assert served.counted("trine_rejected_requests_total", reason=code) == before + 1
    time.sleep(2 * WRITE_AFTER_S)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["error"] for line in lines if line["request_id"] == "mine"] == [code]


def test_a_refusal_of_the_queue_is_counted_once(served: Served) -> None:
    before = served.counted("trine_rejected_requests_total", reason="queue_full")

    async def ask() -> int:
        held = served.service.admission.admit(Work(Amount(10**6)), 60.0)
        try:
            async with served.client() as client:
                return (await client.post(EMBEDDINGS, json=ONE)).status_code
        finally:
            held.release()

    assert served.run(ask()) == 429
    assert served.counted("trine_rejected_requests_total", reason="queue_full") == before + 1


def test_options_names_every_method_of_a_path(served: Served) -> None:
    found = served.request("OPTIONS", "/")
    assert found.status_code == 204
    assert found.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    for path in ("/embed", "/v2/models/x/infer"):
        assert served.request("OPTIONS", path).headers["allow"] == "OPTIONS, POST"
    assert served.request("OPTIONS", "/nowhere").status_code == 404
    assert served.request("DELETE", "/").headers["allow"] == "GET, HEAD, OPTIONS, POST"


def test_metrics_count_what_was_done(served: Served) -> None:
    names = {
        "requests": ("trine_requests_total", {"path": EMBEDDINGS, "status": "200"}),
        "items": ("trine_items_total", {"task": "retrieval"}),
        "tokens": ("trine_tokens_total", {"task": "retrieval"}),
        "truncated": ("trine_truncated_items_total", {}),
        "queue": ("trine_queue_duration_seconds_count", {}),
        "runs": ("trine_batch_duration_seconds_count", {"graph": "decoder"}),
        "padding": ("trine_padding_saved_tokens_total", {}),
    }
    before = {key: served.counted(name, **labels) for key, (name, labels) in names.items()}
    body = {"input": ["a", "a longer text than the first"]}
    used = served.request("POST", EMBEDDINGS, json=body).json()["usage"]["total_tokens"]
    grown = {
        key: served.counted(name, **labels) - before[key] for key, (name, labels) in names.items()
    }
    assert grown.pop("padding") > 0
    assert grown == {
        "requests": 1,
        "items": 2,
        "tokens": used,
        "truncated": 0,
        "queue": 1,
        "runs": 1,
    }
    text = served.request("GET", "/metrics").text
    assert "# TYPE trine_requests_total counter" in text or "# TYPE trine_requests counter" in text


def test_paths_of_clients_do_not_become_labels(served: Served) -> None:
    for path in ("/a", "/b", "/v2/models/x/infer", "/v2/models/y/infer", "/admin/adapters/x"):
        served.request("POST", path, json={})
    labels = set(
        re.findall(r'trine_requests_total\{path="([^"]*)"', served.request("GET", "/metrics").text)
    )
    assert not {path for path in labels if path in ("/a", "/b") or "/x" in path or "/y" in path}


def test_a_service_error_survives_every_dialect(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise ServiceError(429, "queue_full", "come back later", retry_after=7)

    monkeypatch.setattr(served.service, "embed", refuse)
    for path, body in ((EMBEDDINGS, ONE), ("/embed", {"inputs": "a"})):
        response = served.request("POST", path, json=body)
        assert (response.status_code, response.headers["retry-after"]) == (429, "7")
