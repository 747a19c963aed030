"""The server's runs on the simulated GPU: only vectors come back, where its heads make them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.engines.gpu.simulated_tensorrt import SimulatedDrivers
from trine.runtime.adapters.base import AdapterHandle
from trine.runtime.bundle.bundle import EMBEDDING_NAME, TOKENIZER_NAME, open_bundle
from trine.runtime.engines.base import EngineOptions, VectorEngine
from trine.runtime.engines.gpu.opening import open_gpu_engine
from trine.runtime.engines.select import engine_named
from trine.runtime.inference.batch_planner import BatchLimits, Load
from trine.runtime.inference.embedding_table import EmbeddingTable
from trine.runtime.inference.runner import Runner
from trine.runtime.preprocessing.preprocessor import Preprocessor
from trine.runtime.preprocessing.sequence import TokenSequence
from trine.runtime.preprocessing.tokenizer import TextTokenizer
from trine.runtime.request import check_request
from trine.runtime.serving.scheduler.engine_meter import EngineBatch, metered
from trine.runtime.serving.scheduler.vectors import forward_entries, item_vectors
from trine.runtime.serving.scheduler.work_queue import Entry

MakeBundle = Callable[..., Path]
TEXTS = ["one two three", "four", "five six " * 8, "seven eight nine ten " * 12]
#: What each text's call wants: (single vectors, multi-vectors).
WANTED = [(True, False), (False, True), (True, True), (True, False)]


def entry(
    sequence: TokenSequence,
    adapter: AdapterHandle,
    wanted: tuple[bool, bool],
    spans: tuple[tuple[int, int], ...] = (),
    normalize: bool = True,
) -> Entry:
    return Entry(
        sequence=sequence,
        adapter=adapter,
        load=Load(len(sequence), 0, 0),
        short=True,
        spans=spans,
        deadline=0.0,
        due=0.0,
        abandoned=bool,
        owner=None,
        index=0,
        single=wanted[0],
        multi=wanted[1],
        normalize=normalize,
    )


class Server:
    """A runner on the simulated GPU as the server has it."""

    def __init__(self, folder: Path) -> None:
        bundle = open_bundle(folder)
        self.drivers = SimulatedDrivers()
        options = EngineOptions(threads=None, tasks=("code",))
        engine = open_gpu_engine(bundle, engine_named(bundle, "tensorrt"), options, self.drivers)
        self.runs: list[EngineBatch] = []
        self.model = bundle.manifest.model
        table = EmbeddingTable(bundle.path(EMBEDDING_NAME), self.model.decoder)
        watched = metered(engine, self.runs.append)
        assert isinstance(watched, VectorEngine)
        self.runner = Runner(self.model, watched, table, BatchLimits(tokens=64))
        preprocessor = Preprocessor(self.model, TextTokenizer(bundle.path(TOKENIZER_NAME)))
        request = check_request(("code",), self.model, num_items=len(TEXTS), task="code")
        self.sequences = list(preprocessor.sequences(TEXTS, request))
        with engine.adapters.hold(["code"]) as handles:
            self.adapter = handles["code"]

    def entries(self, **last: object) -> list[Entry]:
        """Return an entry for each text; `last` changes the last one."""
        rows = [
            entry(sequence, self.adapter, wanted)
            for sequence, wanted in zip(self.sequences, WANTED, strict=True)
        ]
        if last:
            rows[-1] = entry(self.sequences[-1], self.adapter, WANTED[-1], **last)  # type: ignore[arg-type]
        return rows

    def by_hidden_states(self, entries: Sequence[Entry]) -> list[object]:
        sequences = [e.sequence for e in entries]
        hidden = self.runner.forward(sequences, [self.adapter] * len(entries))
        return [item_vectors(e, rows) for e, rows in zip(entries, hidden, strict=True)]

    def copied(self) -> int:
        return sum(size for kind, size in self.drivers.simulated.log if kind == "download")


def check_same(have: object, want: object) -> None:
    for a, b in zip(have, want, strict=True):  # type: ignore[call-overload]
        for x, y in zip(a, b, strict=True):
            for kind in ("single", "multi"):
                one, other = getattr(x, kind), getattr(y, kind)
                assert (one is None) == (other is None)
                if one is not None:
                    np.testing.assert_allclose(one, other, atol=2e-5)


def test_hidden_states_stay_on_the_device(make_bundle: MakeBundle) -> None:
    server = Server(make_bundle())
    entries = server.entries()
    want = server.by_hidden_states(entries)
    server.runs.clear()
    server.drivers.simulated.log.clear()
    check_same(forward_entries(server.runner, entries), want)
    tokens = sum(len(sequence) for sequence in server.sequences)
    hidden, projected = server.model.decoder.hidden_size, server.model.projector_dim
    assert server.copied() == 4 * (len(entries) * hidden + tokens * projected)
    assert server.copied() < 4 * tokens * hidden
    # One batch, reported once.
    assert len(server.runs) == 1
    assert sum(run.units for run in server.runs) == tokens
    assert sum(run.items for run in server.runs) == len(entries)
    assert all(run.graph == "decoder" and run.seconds > 0 for run in server.runs)


@pytest.mark.parametrize("last", [{"spans": ((0, 3), (3, 9))}, {"normalize": False}])
def test_what_the_heads_do_not_make_comes_from_hidden_states(
    make_bundle: MakeBundle, last: dict[str, object]
) -> None:
    server = Server(make_bundle())
    entries = server.entries(**last)
    want = server.by_hidden_states(entries)
    server.drivers.simulated.log.clear()
    check_same(forward_entries(server.runner, entries), want)
    tokens = sum(len(sequence) for sequence in server.sequences)
    assert server.copied() == 4 * tokens * server.model.decoder.hidden_size


def test_heads_on_the_host_give_the_same(make_bundle: MakeBundle) -> None:
    server = Server(make_bundle(kernels=False))
    entries = server.entries()
    check_same(forward_entries(server.runner, entries), server.by_hidden_states(entries))
