"""A dataset that was stopped goes on where it was, and ends as if it had not been."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trine.runtime.bundle.atomic import hold
from trine.runtime.commands.program import main
from trine.runtime.embedder import Embedder
from trine.runtime.errors import InputError

pytest.importorskip("pyarrow", reason="needs the `parquet` extra")

OPTIONS = ("--task", "retrieval", "--prompt", "passage", "--shard-rows", "4")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    write(path, range(18))
    return path


@pytest.fixture
def embed(nano_bundle: Path, source: Path, tmp_path: Path) -> Callable[..., int]:
    """Embed `source` into out/; later options win."""

    def run(*arguments: object, bundle: Path = nano_bundle, out: str = "out") -> int:
        words = ["embed", bundle, source, "-o", f"{tmp_path / out}/", *OPTIONS, *arguments]
        return main(list(map(str, words)))

    return run


def write(path: Path, numbers: range) -> None:
    rows = [{"id": str(n), "text": "word " * (n % 7) + str(n), "n": n} for n in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file, by its name; the job's own statement of it included."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def full_disk_after(shards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk be full once so many shards were written."""
    fsync, seen = os.fsync, []

    def fail(file: int) -> None:
        seen.append(file)
        # Of each file its content and its folder are written; the first file states the job.
        if len(seen) > 2 * (shards + 1):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    monkeypatch.setattr(os, "fsync", fail)


@pytest.mark.parametrize("shards", [0, 1, 4])
def test_a_full_disk_keeps_what_was_finished_and_the_rest_follows(
    embed: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shards: int,
) -> None:
    assert embed(out="whole") == 0
    with monkeypatch.context() as patch:
        full_disk_after(shards, patch)
        assert embed() == 2
    assert "No space left" in capsys.readouterr().err
    out = tmp_path / "out"
    assert sorted(contents(out)) == ["_job.json", *(f"part-{n:06}.parquet" for n in range(shards))]
    assert embed() == 0
    assert f"({shards} were there before)" in capsys.readouterr().err
    assert contents(out) == contents(tmp_path / "whole")


def test_an_interrupt_loses_only_the_slice_in_flight(
    embed: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert embed(out="whole") == 0
    stream, calls = Embedder.encode_stream, []

    def interrupted(self: Embedder, *arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        for count, found in enumerate(stream(self, *arguments, **options)):
            if len(calls) == 3 and count == 2:
                raise KeyboardInterrupt
            yield found

    with monkeypatch.context() as patch:
        patch.setattr(Embedder, "encode_stream", interrupted)
        assert embed() == 130
    out = tmp_path / "out"
    assert sorted(contents(out)) == ["_job.json", "part-000000.parquet", "part-000001.parquet"]
    assert embed() == 0
    assert contents(out) == contents(tmp_path / "whole")


def test_a_shard_that_was_removed_is_made_again(embed: Callable[..., int], tmp_path: Path) -> None:
    assert embed() == 0
    out = tmp_path / "out"
    before = contents(out)
    for number in (1, 3):
        (out / f"part-{number:06}.parquet").unlink()
    assert embed() == 0
    assert contents(out) == before


def test_a_finished_dataset_is_left_alone_and_its_inputs_unread(
    embed: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert embed("--shard-rows", 1) == 0
    before = contents(tmp_path / "out")

    def unwanted(*arguments: object, **options: object) -> None:
        raise AssertionError("read an input, or loaded the model")

    monkeypatch.setattr("trine.runtime.bulk.inputs.survey.read_source", unwanted)
    monkeypatch.setattr("trine.runtime.bulk.run.read_source", unwanted)
    monkeypatch.setattr(Embedder, "load", unwanted)
    assert embed("--shard-rows", 1) == 0
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--prompt", "query"), "--prompt was 'passage' and is 'query' now"),
        (("--dim", "64"), "--dim was 256 and is 64 now"),
        (("--keep", "none"), "--keep was 'all' and is 'none' now"),
        (("--shard-rows", "5"), "--shard-rows was 4 and is 5 now"),
    ],
)
def test_other_options_are_refused_by_name(
    embed: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    said: str,
) -> None:
    assert embed() == 0
    before = contents(tmp_path / "out")
    assert embed(*options) == 2
    assert said in capsys.readouterr().err
    assert contents(tmp_path / "out") == before


def test_another_bundle_is_refused_by_name(
    embed: Callable[..., int],
    nano_runtime_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert embed() == 0
    assert embed(bundle=nano_runtime_bundle) == 2
    assert "holds another job: bundle was" in capsys.readouterr().err


def test_other_inputs_are_refused_by_name(
    embed: Callable[..., int], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed() == 0
    more = tmp_path / "more.jsonl"
    write(more, range(2))
    assert embed(more) == 2
    assert f"{more} is an input now and was none" in capsys.readouterr().err
    write(source, range(19))
    assert embed() == 2
    assert f"{source} was changed since" in capsys.readouterr().err


def test_restart_begins_anew_and_leaves_the_files_of_others(
    embed: Callable[..., int], source: Path, tmp_path: Path
) -> None:
    assert embed() == 0
    out = tmp_path / "out"
    (out / "notes.txt").write_text("mine")
    write(source, range(3))
    assert embed("--restart") == 0
    assert sorted(contents(out)) == [
        *("_SUCCESS", "_job.json", "_manifest.json"),
        *("notes.txt", "part-000000.parquet"),
    ]


@pytest.mark.parametrize("options", [(), ("--restart",)])
def test_a_folder_of_others_is_refused(
    embed: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-000000.parquet").write_text("mine")
    assert embed(*options) == 2
    assert "holds 'part-000000.parquet' and no dataset" in capsys.readouterr().err
    assert contents(tmp_path / "out") == {"part-000000.parquet": b"mine"}


def test_a_restart_that_cannot_begin_keeps_what_is_there(
    embed: Callable[..., int], source: Path, tmp_path: Path
) -> None:
    assert embed() == 0
    before = contents(tmp_path / "out")
    source.write_text("{broken\n")
    assert embed("--restart") == 2
    assert contents(tmp_path / "out") == before


def test_a_damaged_shard_is_named(
    embed: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed() == 0
    shard = tmp_path / "out" / "part-000001.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    assert embed() == 2
    assert f"{shard}: is no whole shard" in capsys.readouterr().err


def test_a_second_process_on_one_output_says_so(
    embed: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with hold(tmp_path / "out", InputError):
        assert embed() == 2
    assert "another process is writing it" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(
    nano_bundle: Path, source: Path, tmp_path: Path, embed: Callable[..., int]
) -> None:
    write(source, range(3000))
    assert embed("--shard-rows", 40, out="whole") == 0
    out = tmp_path / "out"
    program = "from trine.runtime.commands.start import main; raise SystemExit(main())"
    words = ["embed", nano_bundle, source, "-o", f"{out}/", *OPTIONS, "--shard-rows", 40]
    command = [sys.executable, "-c", program, *map(str, words)]
    moments = random.Random(0)
    kills = 0
    for _ in range(20):
        # The moment is one of the work, not of the clock: processors differ too much in speed.
        wanted = len(list(out.glob("part-*.parquet"))) + moments.choice([0, 1, 2])
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while len(list(out.glob("part-*.parquet"))) < wanted and process.poll() is None:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 10
    assert subprocess.run(command, check=False).returncode == 0
    assert contents(out) == contents(tmp_path / "whole")
