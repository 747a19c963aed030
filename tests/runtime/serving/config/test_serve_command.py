"""`trine serve` as processes: start, requests, drain, and a worker that is killed."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from trine import Embedder

EMBEDDINGS = "/v1/embeddings"


class Process:
    """A running `trine serve` on a free port."""

    def __init__(self, bundle: Path, log: Path, *options: str) -> None:
        self.log = log
        program = "import sys; from trine.runtime.commands.program import main; sys.exit(main())"
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program, "serve", str(bundle), "--port", "0", *options],
                stderr=file,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        self.port = int(self.wait_for("listening")[0]["port"])
        self.url = f"http://127.0.0.1:{self.port}"

    def events(self, message: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["message"] == message]

    def wait_for(self, message: str, count: int = 1) -> list[dict[str, Any]]:
        """Return the log's events of a kind, once there are `count`."""
        limit = time.monotonic() + 60
        while time.monotonic() < limit and self.process.poll() is None:
            with contextlib.suppress(ValueError):  # a line half written
                found = self.events(message)
                if len(found) >= count:
                    return found
            time.sleep(0.05)
        raise AssertionError(f"no {count} × {message!r} in: {self.log.read_text()}")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextlib.contextmanager
def started(bundle: Path, folder: Path, *options: str) -> Iterator[Process]:
    process = Process(bundle, folder / "serve.log", *options)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.wait()


def test_a_server_drains_at_sigterm(nano_bundle: Path, tmp_path: Path) -> None:
    texts = [f"document {i} " + "about chess " * 100 for i in range(36)]
    with started(
        nano_bundle, tmp_path, "--threads", "1", "--batch-tokens", "512", "--max-wait", "60"
    ) as server:
        server.wait_for("ready")

        async def scenario() -> tuple[list[httpx.Response], int]:
            limits = httpx.Limits(max_connections=100)
            async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
                asked = [
                    asyncio.ensure_future(client.post(EMBEDDINGS, json={"input": texts[i::6]}))
                    for i in range(6)
                ]
                counted = 0
                while counted < 6:  # all are in
                    metrics = (await client.get("/metrics")).text
                    (value,) = re.findall(r"^trine_requests_in_flight (\S+)", metrics, re.M)
                    counted = int(float(value)) - 1
                server.process.send_signal(signal.SIGTERM)
                refused = []
                while not refused or refused[-1] == 200:
                    refused.append(
                        (await client.post(EMBEDDINGS, json={"input": "new"})).status_code
                    )
                return list(await asyncio.gather(*asked)), refused[-1]

        answers, refusal = asyncio.run(scenario())
        assert [answer.status_code for answer in answers] == [200] * 6
        assert refusal == 503
        assert server.process.wait(30) == 0
    wanted = Embedder.load(nano_bundle).encode_text(texts, task="retrieval")
    for i, answer in enumerate(answers):
        found = np.array([row["embedding"] for row in answer.json()["data"]])
        assert np.allclose(found, wanted[i::6], atol=5e-6)


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_rollout_drops_no_request(nano_bundle: Path, tmp_path: Path, workers: str) -> None:
    options = ("--threads", "1", "--workers", workers, "--drain-delay", "1.5")
    with started(nano_bundle, tmp_path, *options) as server:
        server.wait_for("ready", int(workers))
        ready = f"{server.url}/health/ready"
        with httpx.Client(base_url=server.url, timeout=20) as kept:
            assert kept.post(EMBEDDINGS, json={"input": "before"}).status_code == 200
            server.process.send_signal(signal.SIGTERM)
            signalled = time.monotonic()
            server.wait_for("leaving", int(workers))
            served = []
            while time.monotonic() < signalled + 1:
                assert httpx.get(ready).json() == {"status": "leaving"}
                # On a connection of before, and on a new one.
                served.append(kept.post(EMBEDDINGS, json={"input": "after"}))
                served.append(httpx.post(server.url + EMBEDDINGS, json={"input": "after"}))
        assert {answer.status_code for answer in served} == {200}
        assert {answer.headers["connection"] for answer in served} == {"close"}
        assert server.process.wait(30) == 0
        assert 1.5 < time.monotonic() - signalled < 10
        with pytest.raises(httpx.ConnectError):
            httpx.get(ready)


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_second_signal_ends_a_server_at_once(
    nano_bundle: Path, tmp_path: Path, workers: str
) -> None:
    options = ("--threads", "1", "--workers", workers, "--drain-delay", "60")
    with started(nano_bundle, tmp_path, *options) as server:
        server.wait_for("ready", int(workers))
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("leaving", int(workers))
        server.process.send_signal(signal.SIGINT)
        server.process.wait(5)


def test_a_terminals_interrupt_while_workers_start_shows_no_traceback(
    nano_bundle: Path, tmp_path: Path
) -> None:
    program = "import sys; from trine.runtime.commands.program import main; sys.exit(main())"
    log = tmp_path / "serve.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", program, "serve", nano_bundle, "--port", "0", "--workers", "2"],
            stderr=file,
            start_new_session=True,
        )
    while log.read_text().count("worker started") < 2:
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.15)  # the workers load their modules now
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.wait(30) == 0
    assert "Traceback" not in log.read_text()


def test_a_server_answers_and_ends_though_nobody_reads_its_log(nano_bundle: Path) -> None:
    program = "import sys; from trine.runtime.commands.program import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "serve", str(nano_bundle), "--port", "0"],
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stderr is not None
        port = json.loads(process.stderr.readline())["port"]
        # A pipe holds 64 KiB: some two hundred of these lines.
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            answers = [client.get("/nothing").status_code for _ in range(600)]
            assert client.get("/health/live").status_code == 200
        assert set(answers) == {404}
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.slow
def test_an_answer_that_is_read_slowly_is_read_to_its_end(
    nano_bundle: Path, tmp_path: Path
) -> None:
    body = json.dumps({"input": ["about chess " * 400] * 6}).encode()
    head = (
        "POST /v1/multi-vector HTTP/1.1\r\nhost: server\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    with (
        started(nano_bundle, tmp_path, "--threads", "1", "--drain-timeout", "60") as server,
        socket.socket() as slow,
    ):
        server.wait_for("ready")
        # What the kernel holds for the client must be little of the answer.
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        slow.settimeout(30)
        slow.connect(("127.0.0.1", server.port))
        with socket.create_connection(("127.0.0.1", server.port)):  # it asks for nothing
            slow.sendall(head.encode() + body)
            answer = slow.recv(65536)
            server.process.send_signal(signal.SIGTERM)
            server.wait_for("draining")
            time.sleep(2.5)
            assert server.process.poll() is None, "the answer is not read yet"
            while part := slow.recv(65536):
                answer += part
            ended = time.monotonic()
            assert server.process.wait(30) == 0
            assert time.monotonic() - ended < 10, "the idle connection held it up"
    found, _, content = answer.partition(b"\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 200")
    assert len(content) > 8_000_000
    assert len(json.loads(content)["data"]) == 6


def test_a_killed_worker_takes_only_its_own_requests_along(
    golden_runtime_bundle: Path, tmp_path: Path
) -> None:
    options = ("--workers", "2", "--threads", "1")
    with started(golden_runtime_bundle, tmp_path, *options) as server:
        server.wait_for("ready", 2)
        workers = [event["pid"] for event in server.events("worker started")]

        async def ask(stop: asyncio.Event) -> tuple[int, int]:
            answered = broken = 0
            async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
                while not stop.is_set():
                    try:
                        response = await client.post(EMBEDDINGS, json={"input": "a chess game"})
                        assert response.status_code == 200, response.text
                        answered += 1
                    except httpx.TransportError:
                        broken += 1
            return answered, broken

        async def scenario() -> list[tuple[int, int]]:
            stop = asyncio.Event()
            asking = [asyncio.ensure_future(ask(stop)) for _ in range(8)]
            await asyncio.sleep(0.5)
            os.kill(workers[0], signal.SIGKILL)
            await asyncio.to_thread(server.wait_for, "ready", 3)
            await asyncio.sleep(0.2)
            stop.set()
            return list(await asyncio.gather(*asking))

        found = asyncio.run(scenario())
        assert all(broken <= 1 for _, broken in found), "a request failed that was not the worker's"
        assert all(answered > 0 for answered, _ in found)
        (event,) = server.events("worker ended")
        assert (event["pid"], event["exit_code"]) == (workers[0], -signal.SIGKILL)
        text = httpx.get(f"{server.url}/metrics").text
        counted = re.findall(
            r'^trine_requests_total\{path="/v1/embeddings",status="200"\} (\S+)', text, re.M
        )
        answered = sum(count for count, _ in found)
        # A request is counted once it was answered; of each client one may not have been.
        assert float(counted[0]) >= answered - 8, "the killed worker's requests are forgotten"
        assert re.search(r"^trine_ready_workers 2\.0", text, re.M)
        assert server.stop() == 0
    for pid in [event["pid"] for event in server.events("worker started")]:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_workers_change_their_adapters_together(
    golden_runtime_bundle: Path, tmp_path: Path
) -> None:
    key = "4813494d137e1631bba301d5acab6e7bb7aa74ce1185d456565ef51d737677b2"  # of "root"
    options = ("--workers", "2", "--threads", "1", "--admin-key", key)
    with started(golden_runtime_bundle, tmp_path, *options) as server:
        server.wait_for("ready", 2)
        admin = {"authorization": "Bearer root"}

        def tasks() -> list[list[str]]:
            found = [
                httpx.get(f"{server.url}/admin/adapters", headers=admin).json()["adapters"]
                for _ in range(10)
            ]
            return [sorted(adapters) for adapters in found]

        assert httpx.delete(f"{server.url}/admin/adapters/code", headers=admin).status_code == 204
        assert tasks() == [["retrieval", "text-matching"]] * 10
        assert httpx.delete(f"{server.url}/admin/adapters/code", headers=admin).status_code == 404
        os.kill(server.events("worker started")[1]["pid"], signal.SIGKILL)
        server.wait_for("ready", 3)
        assert tasks() == [["retrieval", "text-matching"]] * 10
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--port", "99999"), "port is 99999"),
        (("--tasks", "poetry"), "are not in the bundle"),
        (("--host", "no.such.host.invalid"), "host is 'no.such.host.invalid'"),
        (("--config", "missing.toml"), "missing.toml: cannot be read"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_sentence(
    golden_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    sentence: str,
) -> None:
    from trine.runtime.commands.program import main

    assert main(["serve", str(golden_bundle), *options]) == 2
    assert sentence in capsys.readouterr().err


def test_a_damaged_bundle_ends_all_workers(golden_bundle: Path, tmp_path: Path) -> None:
    import shutil

    bundle = tmp_path / "bundle"
    shutil.copytree(golden_bundle, bundle)
    golden = bundle / "golden.npz"
    golden.write_bytes(b"\0" * golden.stat().st_size)
    server = Process(bundle, tmp_path / "serve.log", "--workers", "2")
    assert server.process.wait(60) == 2
    assert any("golden.npz" in str(event) for event in server.events(server_message(server)))


def server_message(server: Process) -> str:
    """Return the message of the first error in a server's log."""
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    return str(next(line["message"] for line in lines if line["level"] == "error"))
