import dataclasses
from pathlib import Path

import pytest

from trine.runtime.bundle.bundle import Bundle, open_bundle
from trine.runtime.bundle.tuned_settings import TunedSettings, write_tuned
from trine.runtime.engines import select
from trine.runtime.engines.base import EngineOptions
from trine.runtime.engines.native.packed_file import packed_path
from trine.runtime.engines.opening import open_engine
from trine.runtime.engines.select import engine_named
from trine.runtime.errors import InputError
from trine.runtime.hardware.cpu import read_cpu
from trine.runtime.serving.config.settings import ServerSettings
from trine.runtime.serving.service.core import chosen_engine


@pytest.fixture
def int8_copy(golden_bundle: Path, tmp_path: Path) -> Bundle:
    """A bundle that lists its float32 graphs as int8 ones, which native kernels could run."""
    opened = open_bundle(golden_bundle)
    listed = dataclasses.replace(opened.manifest.engines[0], name="ort-int8", precision="int8")
    return Bundle(tmp_path, dataclasses.replace(opened.manifest, engines=(listed,)))


@pytest.fixture
def native_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose native kernels are the faster way for int8."""
    monkeypatch.setattr(select, "why_unavailable", lambda: None)
    monkeypatch.setattr(select, "prefers_native", lambda entry: True)


@pytest.mark.usefixtures("native_kernels")
def test_workers_that_share_weights_run_an_engine_that_can(int8_copy: Bundle) -> None:
    def chosen(**settings: object) -> str:
        options = ServerSettings(bundle=int8_copy.folder, **settings)  # type: ignore[arg-type]
        return chosen_engine(int8_copy, options)[0].name

    assert chosen() == "native-int8"
    assert chosen(workers=2) == "ort-int8"
    assert chosen(workers=2, worker_weights="own") == "native-int8"
    assert chosen(workers=2, engine="ort-int8") == "ort-int8"
    with pytest.raises(InputError, match="--worker-weights own"):
        chosen(workers=2, engine="native-int8")
    entry = int8_copy.manifest.engines[0]
    for graph in {*entry.decoders.values(), entry.vision}:
        path = packed_path(int8_copy, graph)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert chosen(workers=2) == "native-int8"


def test_a_server_takes_what_was_tuned(int8_copy: Bundle) -> None:
    cpu = read_cpu()
    tuned = TunedSettings(
        processor=cpu.name, cores=cpu.cores, engine="ort-int8", threads=1, batch_tokens=512
    )
    (int8_copy.folder / "tuned").mkdir()
    write_tuned(int8_copy.folder, tuned)

    def settings(**given: object) -> tuple[int | None, int | None]:
        options = ServerSettings(bundle=int8_copy.folder, **given)  # type: ignore[arg-type]
        found = chosen_engine(int8_copy, options)[1]
        return found.threads, found.batch_tokens

    assert settings() == (1, 512)
    assert settings(threads=2, batch_tokens=256) == (2, 256)
    assert settings(engine="ort-int8") == (None, 2048)
    # Found for one process, with all processors to itself.
    assert settings(workers=2) == (None, 512)


def test_shared_weights_stay_in_their_files(golden_bundle: Path) -> None:
    bundle = open_bundle(golden_bundle)
    entry = engine_named(bundle, "ort-fp32")
    options = EngineOptions(threads=1, tasks=("code",))
    shared = open_engine(bundle, entry, dataclasses.replace(options, share_weights=True))
    assert open_engine(bundle, entry, options).weights_in_memory
    assert not shared.weights_in_memory
    assert "memory-mapped" in shared.description
