"""Adapters are loaded, replaced and unloaded while requests are under way."""

import gc
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trine.runtime.adapters.store import MAX_ADAPTERS
from trine.runtime.embedder import Embedder
from trine.runtime.engines.ort.engine import OrtCpuEngine
from trine.runtime.errors import InputError
from trine.runtime.inference.batch_planner import BatchLimits
from trine.runtime.outputs import Embeddings

PEFT = Path(__file__).parents[2] / "data" / "golden" / "checkpoint" / "adapters"
MAX_DIFFERENCE = 2e-5
#: How long a test waits for what must happen, and for what must not, in seconds.
SOON, A_WHILE = 20, 0.1
#: No item shares a run, and a window holds a few: a request of many has many of both.
SMALL = BatchLimits(tokens=1, patches=1, window_tokens=40)


class Gate:
    """Stops the runs of one thread's decoder from the second on, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self.run = OrtCpuEngine.forward_decoder
        self.stopped: int | None = None
        self.runs = 0
        gate = self

        def run(engine: OrtCpuEngine, inputs: Any, adapters: Any) -> Any:
            if threading.get_ident() == gate.stopped:
                gate.runs += 1
                if gate.runs == 2:
                    gate.reached.set()
                    assert gate.opened.wait(SOON)
            return gate.run(engine, inputs, adapters)

        monkeypatch.setattr(OrtCpuEngine, "forward_decoder", run)

    def start(self, pool: ThreadPoolExecutor, work: Callable[[], Any]) -> "Future[Any]":
        """Begin `work` in another thread; return when its second run is about to start."""

        def stopped() -> Any:
            self.stopped = threading.get_ident()
            return work()

        future = pool.submit(stopped)
        assert self.reached.wait(SOON)
        return future


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


@pytest.fixture
def embedder(golden_runtime_bundle: Path) -> Embedder:
    """Tasks retrieval, text-matching, code, and `mine`, which is the same as `code`."""
    loaded = Embedder.load(golden_runtime_bundle, limits=SMALL, threads=1, self_test=False)
    loaded.load_adapter("mine", PEFT, task="code")
    return loaded


LONG = tuple(f"text {number} " * (number % 9 + 1) for number in range(24))


def encode(embedder: Embedder, task: str, texts: Sequence[str] = LONG) -> Embeddings:
    return embedder.encode(texts, task, return_multivector=True)


def rows_of(found: Embeddings) -> list[np.ndarray]:
    """Return each item's single vector and multi-vector behind one another, float32 [n]."""
    assert found.single is not None
    assert found.multi is not None
    pairs = zip(found.single, found.multi, strict=True)
    return [np.concatenate([single, multi.ravel()]) for single, multi in pairs]


def difference(found: Embeddings, want: Embeddings) -> float:
    pairs = zip(rows_of(found), rows_of(want), strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def test_a_request_keeps_the_adapter_it_began_with(embedder: Embedder, gate: Gate) -> None:
    old, new = encode(embedder, "code"), encode(embedder, "retrieval")
    with ThreadPoolExecutor(1) as pool:
        request = gate.start(pool, lambda: encode(embedder, "mine"))
        embedder.load_adapter("mine", PEFT, task="retrieval")
        assert difference(encode(embedder, "mine"), new) <= MAX_DIFFERENCE
        # Of what is loaded now nothing may come to lie where the request's adapter is.
        for name in ("other", "another"):
            embedder.load_adapter(name, PEFT, task="text-matching")
        gate.opened.set()
        assert difference(request.result(SOON), old) <= MAX_DIFFERENCE
    assert difference(encode(embedder, "mine"), new) <= MAX_DIFFERENCE
    assert difference(old, new) > 0.1


def test_unloading_waits_for_a_request_under_way(embedder: Embedder, gate: Gate) -> None:
    want = encode(embedder, "code")
    with ThreadPoolExecutor(2) as pool:
        request = gate.start(pool, lambda: encode(embedder, "mine"))
        unloading = pool.submit(embedder.unload_adapter, "mine")
        while "mine" in embedder.tasks:
            assert not unloading.done()
        with pytest.raises(InputError, match="task is 'mine'; known are"):
            encode(embedder, "mine")
        with pytest.raises(TimeoutError):
            unloading.result(A_WHILE)
        gate.opened.set()
        assert difference(request.result(SOON), want) <= MAX_DIFFERENCE
        unloading.result(SOON)
    assert embedder.tasks == ("retrieval", "text-matching", "code")


def test_unloading_with_a_timeout_gives_up_waiting_and_frees_the_slot_later(
    embedder: Embedder, gate: Gate
) -> None:
    want = encode(embedder, "code")
    with ThreadPoolExecutor(1) as pool:
        request = gate.start(pool, lambda: encode(embedder, "mine"))
        with pytest.raises(InputError, match=f"still used by 1 requests after {A_WHILE} s"):
            embedder.unload_adapter("mine", timeout_s=A_WHILE)
        assert "mine" not in embedder.tasks
        free = MAX_ADAPTERS - 4
        for number in range(free):
            embedder.load_adapter(f"n{number}", PEFT, task="retrieval")
        with pytest.raises(InputError, match="slots are taken"):
            embedder.load_adapter("last", PEFT, task="retrieval")
        gate.opened.set()
        assert difference(request.result(SOON), want) <= MAX_DIFFERENCE
    embedder.load_adapter("last", PEFT, task="retrieval")
    assert len(embedder.tasks) == MAX_ADAPTERS


def test_a_request_that_fails_lets_go_of_its_adapters(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    with monkeypatch.context() as broken:
        broken.setattr(OrtCpuEngine, "forward_decoder", fail)
        with pytest.raises(RuntimeError, match="broken"):
            encode(embedder, "mine")
    embedder.unload_adapter("mine", timeout_s=0.0)


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Worker:
    """Encodes batches of several tasks until it is stopped, and checks each row.

    Attributes:
        answered, refused: requests.
        worst: largest difference of a row from the right one.
    """

    def __init__(self, embedder: Embedder, want: dict[str, list[np.ndarray]], seed: int) -> None:
        self.answered = self.refused = 0
        self.worst = 0.0
        self._embedder, self._want = embedder, want
        self._source = np.random.default_rng(seed)

    def run(self, texts: list[str], stop: threading.Event) -> None:
        known: tuple[str, ...] = ()
        while not stop.is_set():
            if self.answered % 4 == 0:  # between, what is known may be out of date
                known = self._embedder.tasks
            names = [str(name) for name in self._source.choice(known, len(texts))]
            try:
                found = rows_of(self._embedder.encode(texts, names, return_multivector=True))
            except InputError:
                assert any("+" in name for name in names)
                self.refused += 1
                known = self._embedder.tasks
                continue
            self.answered += 1
            self._check(found, names)

    def _check(self, found: list[np.ndarray], names: list[str]) -> None:
        swapped = set()
        for place, name in enumerate(names):
            tasks = ("code", "retrieval") if name == "swapped" else (name.partition("+")[0],)
            errors = {t: float(np.abs(found[place] - self._want[t][place]).max()) for t in tasks}
            best = min(errors, key=lambda task: errors[task])
            self.worst = max(self.worst, errors[best])
            if name == "swapped":
                swapped.add(best)
        assert len(swapped) <= 1  # one request, one adapter


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_adapters_come_and_go_while_others_encode(golden_runtime_bundle: Path) -> None:
    """200 times, and memory does not grow after the first 50."""
    texts = ["one", "two words", "def area(r):", "東京 " * 9]
    embedder = Embedder.load(golden_runtime_bundle, threads=1, self_test=False)
    want = {task: rows_of(encode(embedder, task, texts)) for task in embedder.tasks}
    embedder.load_adapter("swapped", PEFT, task="code")
    stop, sizes = threading.Event(), {}
    workers = [Worker(embedder, want, seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(worker.run, texts, stop) for worker in workers]
        try:
            for cycle in range(1, 201):
                task = ("code", "retrieval")[cycle % 2]
                embedder.load_adapter(f"{task}+{cycle % 7}", PEFT, task=task)
                embedder.load_adapter("swapped", PEFT, task=task)
                if cycle > 2:
                    embedder.unload_adapter(f"{task}+{(cycle - 2) % 7}", timeout_s=SOON)
                if cycle in (50, 200):
                    sizes[cycle] = resident_bytes()
        finally:
            stop.set()
        for future in futures:
            future.result(SOON)
    worst, growth = max(worker.worst for worker in workers), sizes[200] - sizes[50]
    print(f"answered and refused {[(w.answered, w.refused) for w in workers]}, worst {worst:.2e}")
    print(f"resident {sizes[50] / 1e6:.1f} MB, growth {growth / 1e6:.2f} MB")
    assert all(worker.answered for worker in workers)
    assert worst <= MAX_DIFFERENCE
    assert growth < max(0.02 * sizes[50], 8e6)
