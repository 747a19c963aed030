"""`trine tune` keeps the fastest settings, which count on the machine they were found on."""

import dataclasses
import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from trine.kernels.cpu.library import why_unavailable
from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.bundle.tuned_settings import TunedSettings, read_tuned, tuned_path, write_tuned
from trine.runtime.commands.program import main
from trine.runtime.commands.tune.search import Measured, Setting, pick_fastest
from trine.runtime.embedder import Embedder
from trine.runtime.engines.select import select_engine
from trine.runtime.errors import BundleError
from trine.runtime.hardware.cpu import read_cpu

needs_kernels = pytest.mark.skipif(
    why_unavailable() is not None, reason=why_unavailable() or "they are here"
)


def here(**changes: object) -> TunedSettings:
    cpu = read_cpu()
    settings = TunedSettings(
        processor=cpu.name, cores=cpu.cores, engine="ort-fp32", threads=1, batch_tokens=512
    )
    return dataclasses.replace(settings, **changes)  # type: ignore[arg-type]


def measured(engine: str, rate: float, query_ms: float | None) -> Measured:
    return Measured(
        setting=Setting(engine=engine, threads=1, batch_tokens=1),
        tokens_per_s=rate,
        query_ms=query_ms,
    )


@pytest.fixture
def bundle(nano_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(nano_bundle, tmp_path / "bundle"))


def test_settings_count_on_the_machine_they_were_found_on(bundle: Path) -> None:
    assert read_tuned(bundle) is None
    write_tuned(bundle, here())
    assert read_tuned(bundle) == here()
    embedder = Embedder.load(bundle)
    assert "1 threads" in embedder.description
    for change in ({"processor": "abacus"}, {"cores": 999}):
        write_tuned(bundle, here(**change))
        assert read_tuned(bundle) is None


def test_settings_are_those_of_the_engine_that_auto_takes(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tuned(bundle, here())
    read: list[Path] = []

    def count(path: Path, *arguments: str, **options: str) -> str:
        read.append(path)
        return read_text(path, *arguments, **options)

    opened, read_text = open_bundle(bundle), Path.read_text
    monkeypatch.setattr(Path, "read_text", count)
    chosen = select_engine(opened)
    assert (chosen.entry.name, chosen.tuned) == ("ort-fp32", here())
    assert read.count(tuned_path(bundle)) == 1
    assert select_engine(opened, "ort-fp32").tuned is None


@pytest.mark.parametrize("text", ["{", "[]", '{"engine": "ort-fp32"}'])
def test_a_damaged_file_is_named_with_what_to_do(bundle: Path, text: str) -> None:
    tuned_path(bundle).parent.mkdir()
    tuned_path(bundle).write_text(text)
    with pytest.raises(BundleError, match=r"settings\.json: .*run `trine tune` again"):
        Embedder.load(bundle)


def test_numbers_below_1_are_refused(bundle: Path) -> None:
    write_tuned(bundle, here(threads=0))
    with pytest.raises(BundleError, match="numbers below 1"):
        read_tuned(bundle)


def test_the_highest_rate_wins_and_among_equal_ones_the_quicker_query() -> None:
    slow, fast, quick = measured("a", 50, 1), measured("b", 100, 5), measured("c", 98, 4)
    assert pick_fastest([slow, fast]) == fast
    assert pick_fastest([slow, fast, quick]) == quick


@needs_kernels
def test_tune_writes_what_auto_then_takes(
    int8_bundle: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(int8_bundle("merged"), tmp_path / "bundle"))
    left = folder / "tuned" / "decoder-0123456789abcdef-v1.packed"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"of an export before")
    assert main(["tune", str(folder), "--seconds", "2"]) == 0
    assert not left.exists()
    printed = capsys.readouterr().out
    assert "times as fast" in printed
    settings = json.loads(tuned_path(folder).read_text())
    assert settings["engine"] in ("native-int8", "ort-int8")
    assert select_engine(open_bundle(folder)).entry.name == settings["engine"]
    assert settings["threads"] <= read_cpu().cores
    packed = list((folder / "tuned").glob("*.packed"))
    assert len(packed) == (4 if settings["engine"] == "native-int8" else 0)
    Embedder.load(folder).encode_text("one", task="code")


def test_a_time_that_is_none_is_refused(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", str(bundle), "--seconds", "0"]) == 2
    assert "--seconds is 0.0; give a number above 0" in capsys.readouterr().err


def test_a_bundle_that_cannot_be_written_is_said_before_anything_is_measured(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert main(["tune", str(bundle)]) == 2
    assert "tuned: cannot be written (Read-only file system)" in capsys.readouterr().err
