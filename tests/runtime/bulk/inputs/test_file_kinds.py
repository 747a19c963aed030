"""Compressed inputs and other names of kinds are read as what they hold."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trine.runtime.bulk.inputs.file_kinds import kind_of
from trine.runtime.commands.program import main

arrow: Any = pytest.importorskip("pyarrow", reason="needs the `parquet` extra")
parquet: Any = pytest.importorskip("pyarrow.parquet", reason="needs the `parquet` extra")
feather: Any = pytest.importorskip("pyarrow.feather", reason="needs the `parquet` extra")

CONTENTS = {
    "txt": "one\ntwo and more\n\nfour\n",
    "md": "# a title\n\nwords\n",
    "jsonl": '{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n',
    "csv": "id,text,year\na,one,1\nb,two,2\n",
    "tsv": "id\ttext\tyear\na\tone\t1\nb\ttwo\t2\n",
}
Embed = Callable[[Path], list[dict[str, Any]]]


@pytest.fixture
def embed(nano_bundle: Path, tmp_path: Path) -> Embed:
    """Returns the rows of a dataset that an input becomes, without where they came from."""

    def run(source: Path) -> list[dict[str, Any]]:
        out = f"{tmp_path}/{source.name}.out/"
        options = ["-o", out, "--task", "retrieval", "--prompt", "passage"]
        assert main(["embed", str(nano_bundle), str(source), *options]) == 0
        rows: list[dict[str, Any]] = parquet.read_table(
            Path(out, "part-000000.parquet")
        ).to_pylist()
        for row in rows:
            row["id"] = row["id"].replace(row.pop("source"), "FILE")
        return rows

    return run


def packed(path: Path, data: bytes) -> Path:
    if path.suffix == ".gz":
        # Two members, as `cat a.gz b.gz` makes them.
        half = data.index(b"\n") + 1
        path.write_bytes(gzip.compress(data[:half]) + gzip.compress(data[half:]))
    else:
        with arrow.output_stream(str(path), compression="zstd") as file:
            file.write(data)
    return path


@pytest.mark.parametrize("suffix", ["gz", "zst"])
@pytest.mark.parametrize("kind", CONTENTS)
def test_a_compressed_file_gives_the_rows_of_the_file(
    embed: Embed, tmp_path: Path, kind: str, suffix: str
) -> None:
    data = CONTENTS[kind].encode()
    plain = tmp_path / f"a.{kind}"
    plain.write_bytes(data)
    assert embed(packed(tmp_path / f"a.{kind}.{suffix}", data)) == embed(plain)


def test_other_names_of_kinds(embed: Embed, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(CONTENTS["jsonl"])
    (tmp_path / "a.ndjson").write_text(CONTENTS["jsonl"])
    assert embed(tmp_path / "a.ndjson") == embed(tmp_path / "a.jsonl")
    table = arrow.table({"id": ["a", "b"], "text": ["one", "two"]})
    feather.write_feather(table, tmp_path / "b.feather", compression="uncompressed")
    assert [row["id"] for row in embed(tmp_path / "b.feather")] == ["a", "b"]


def test_a_folder_and_a_single_output_take_them_too(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    packed(folder / "a.jsonl.gz", CONTENTS["jsonl"].encode())
    (folder / "b.md").write_text(CONTENTS["md"])
    (folder / "c.tar.gz").write_bytes(b"no kind that is known")
    out = ["-o", f"{tmp_path}/out/", "--task", "retrieval", "--prompt", "passage"]
    assert main(["embed", str(nano_bundle), str(folder), *out]) == 0
    assert parquet.read_table(tmp_path / "out/part-000000.parquet")["id"].to_pylist() == [
        "a",
        "b",
        str(folder / "b.md"),
    ]
    capsys.readouterr()
    arguments = ["embed", str(nano_bundle), str(folder / "a.jsonl.gz"), "--task", "code"]
    assert main([*arguments, "--prompt", "query"]) == 0
    ids = [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()]
    assert ids == ["a", "b"]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.txt.gz", "a.csv.gz", "a.jsonl.zst", "a.md.zst"])
@pytest.mark.parametrize("damage", ["cut", "text"])
def test_damaged_data_are_one_sentence_and_nothing_is_written(
    nano_bundle: Path,
    tmp_path: Path,
    name: str,
    damage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = CONTENTS[name.split(".")[1]].encode() * 50
    path = packed(tmp_path / name, data)
    path.write_bytes(path.read_bytes()[:-12] if damage == "cut" else b"plain words\n" * 9)
    out = ["-o", f"{tmp_path}/out/", "--task", "retrieval", "--prompt", "passage"]
    assert main(["embed", str(nano_bundle), str(path), *out]) == 2
    said = capsys.readouterr().err
    assert name in said
    assert "damaged" in said
    assert not list((tmp_path / "out").glob("part-*"))


def test_a_list_of_files_is_read_from_a_file_and_from_the_standard_input(
    nano_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = [tmp_path / name for name in ("one.txt", "a file.txt", "two.txt")]
    for path in names:
        path.write_text(path.stem + "\n", encoding="utf-8")
    listed = "".join(f"{path}\n" for path in names[1:]) + "\n"
    (tmp_path / "list").write_text(listed, encoding="utf-8")
    arguments = ["embed", str(nano_bundle), str(names[0]), "--task", "code", "--prompt", "query"]

    def embedded(source: str) -> list[str]:
        capsys.readouterr()
        assert main([*arguments, "--files-from", source]) == 0
        return [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()]

    assert embedded(str(tmp_path / "list")) == [f"{path}:1" for path in names]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(listed.encode())))
    assert embedded("-") == [f"{path}:1" for path in names]
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "bytes").write_bytes(b"\xff")
    for source, words in (
        (str(tmp_path / "empty"), "names no file"),
        (str(tmp_path / "none"), "No such file"),
        (str(tmp_path / "bytes"), "not UTF-8"),
    ):
        assert main([*arguments, "--files-from", source]) == 2
        assert words in capsys.readouterr().err
    assert main([*arguments, "-", "--files-from", "-"]) == 2
    assert "either texts or a list of files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.JSONL.GZ", ".jsonl"),
        ("a.b.txt", ".txt"),
        ("a.gz", ".gz"),
        ("a.png.gz", ".gz"),
        ("a.tar.gz", ".gz"),
        ("a.parquet.zst", ".zst"),
        ("a.NDJSON.zst", ".jsonl"),
        ("a", ""),
    ],
)
def test_kinds_by_name(name: str, kind: str) -> None:
    assert kind_of(Path(name)) == kind
