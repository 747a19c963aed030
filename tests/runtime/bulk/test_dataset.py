"""`trine embed … -o out/`: what is in a dataset folder, and what is said of inputs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trine.runtime.commands.program import main
from trine.runtime.embedder import Embedder

arrow: Any = pytest.importorskip("pyarrow", reason="needs the `parquet` extra")
parquet: Any = pytest.importorskip("pyarrow.parquet", reason="needs the `parquet` extra")
ipc: Any = pytest.importorskip("pyarrow.ipc", reason="needs the `parquet` extra")

TEXTS = [f"text {number} of some words" for number in range(7)]
OPTIONS = ("--task", "retrieval", "--prompt", "passage")


@pytest.fixture(scope="module")
def embedder(nano_bundle: Path) -> Embedder:
    return Embedder.load(nano_bundle, self_test=False)


@pytest.fixture
def embed(nano_bundle: Path, tmp_path: Path) -> Callable[..., int]:
    def run(*arguments: object) -> int:
        words = ["embed", nano_bundle, *arguments, "-o", f"{tmp_path}/out/", *OPTIONS]
        return main(list(map(str, words)))

    return run


def read(folder: Path) -> Any:
    """Return all shards as one table, in order."""
    return arrow.concat_tables(
        [parquet.read_table(path) for path in sorted(folder.glob("part-*.parquet"))]
    )


def write_jsonl(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_table(path: Path, columns: dict[str, Any]) -> Path:
    table = arrow.table(columns)
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=2)
    else:
        with ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    return path


def vectors(table: Any) -> np.ndarray[Any, Any]:
    return np.stack(table["embedding"].to_numpy())


def test_shards_hold_what_encode_returns_and_where_it_came_from(
    embed: Callable[..., int], embedder: Embedder, tmp_path: Path
) -> None:
    source = tmp_path / "texts.txt"
    source.write_text("\n".join(TEXTS) + "\n")
    assert embed(source, "--shard-rows", 3, "--dim", 64) == 0
    out = tmp_path / "out"
    table = read(out)
    assert [len(parquet.read_table(path)) for path in sorted(out.glob("part-*"))] == [3, 3, 1]
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[64]"
    want = embedder.encode(TEXTS, "retrieval", prompt_name="passage", truncate_dim=64)
    np.testing.assert_allclose(vectors(table), want.single, atol=1e-6)
    assert table["num_tokens"].to_pylist() == want.num_tokens.tolist()
    assert table["truncated"].to_pylist() == [False] * 7
    assert table["source"].to_pylist() == [str(source)] * 7
    assert table["row"].to_pylist() == [1, 2, 3, 4, 5, 6, 7]
    assert table["id"].to_pylist() == [f"{source}:{number}" for number in range(1, 8)]
    said = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert said["trine.model"] == "nano"
    assert said["trine.task"] == "retrieval"
    assert said["trine.prompt"] == "passage"
    assert said["trine.dim"] == "64"
    assert said["trine.engine"].startswith(embedder.entry.name)
    assert len(said["trine.bundle"]) == 64
    manifest = json.loads((out / "_manifest.json").read_text())
    assert (manifest["rows"], manifest["skipped"]) == (7, 0)
    assert [shard["rows"] for shard in manifest["shards"]] == [3, 3, 1]
    assert (out / "_SUCCESS").exists()


@pytest.mark.parametrize(
    ("output_dtype", "kind"),
    [("float16", "halffloat"), ("int8", "int8"), ("ubinary", "uint8"), ("binary", "int8")],
)
def test_vectors_have_the_output_type(
    embed: Callable[..., int], embedder: Embedder, tmp_path: Path, output_dtype: Any, kind: str
) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])
    assert embed(source, "--output-dtype", output_dtype) == 0
    table = read(tmp_path / "out")
    want = embedder.encode(
        TEXTS, "retrieval", prompt_name="passage", output_dtype=output_dtype
    ).single
    assert want is not None
    type_ = table.schema.field("embedding").type
    assert (str(type_.value_type), type_.list_size) == (kind, want.shape[1])
    np.testing.assert_array_equal(vectors(table), want)


def test_multi_vectors_are_lists_of_vectors(
    embed: Callable[..., int], embedder: Embedder, tmp_path: Path
) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])
    assert embed(source, "--multi-vector") == 0
    column = read(tmp_path / "out")["embeddings"]
    want = embedder.encode(
        TEXTS, "retrieval", prompt_name="passage", return_single=False, return_multivector=True
    ).multi
    assert want is not None
    for found, multi in zip(column.to_pylist(), want, strict=True):
        np.testing.assert_array_equal(np.array(found, np.float32), multi)


def test_columns_travel_with_their_types(embed: Callable[..., int], tmp_path: Path) -> None:
    times = arrow.array([1, None, 1_700_000_000_123_456_789], arrow.timestamp("ns", "UTC"))
    columns = {
        "_id": [10, 11, 12],
        "text": ["a", "b", "c"],
        "tags": arrow.array([["x", "y"], None, []], arrow.list_(arrow.string())),
        "when": times,
    }
    source = write_table(tmp_path / "a.parquet", columns)
    other = write_table(tmp_path / "b.arrow", {"text": ["d"], "extra": [True]})
    assert embed(source, other, "--shard-rows", 2) == 0
    table = read(tmp_path / "out")
    assert table["id"].to_pylist() == ["10", "11", "12", f"{other}#row=1"]
    assert table["tags"].to_pylist() == [["x", "y"], None, [], None]
    assert table["when"].type == times.type
    assert table["when"].cast(arrow.int64()).to_pylist() == [
        1,
        None,
        1_700_000_000_123_456_789,
        None,
    ]
    assert table["extra"].to_pylist() == [None, None, None, True]


def test_json_fields_travel_and_numbers_widen(embed: Callable[..., int], tmp_path: Path) -> None:
    rows = [
        {"text": "a", "n": 1, "m": {"k": [1]}},
        {"text": "b", "n": 2.5},
        {"text": "c", "n": None},
    ]
    assert embed(write_jsonl(tmp_path / "a.jsonl", rows)) == 0
    table = read(tmp_path / "out")
    assert table["n"].to_pylist() == [1.0, 2.5, None]
    assert table["m"].to_pylist() == ['{"k": [1]}', None, None]


@pytest.mark.parametrize(
    ("keep", "want"), [("none", []), ("year", ["year"]), ("all", ["title", "year"])]
)
def test_keep_says_which_columns_travel(
    embed: Callable[..., int], tmp_path: Path, keep: str, want: list[str]
) -> None:
    source = tmp_path / "beir.csv"
    source.write_text('_id,title,text,year\nd1,T,"one, two",1999\n')
    assert embed(source, "--keep", keep) == 0
    own = {"id", "embedding", "source", "row", "num_tokens", "truncated"}
    table = read(tmp_path / "out")
    assert [name for name in table.column_names if name not in own] == want
    assert table["id"].to_pylist() == ["d1"]


def test_a_template_makes_the_text_of_columns(
    embed: Callable[..., int], embedder: Embedder, tmp_path: Path
) -> None:
    source = tmp_path / "beir.tsv"
    source.write_text("_id\ttitle\ttext\nd1\tMoon\tfar away\nd2\t\tnear\n")
    assert embed(source, "--template", "{title} {text}") == 0
    want = embedder.encode(["Moon far away", "near"], "retrieval", prompt_name="passage").single
    np.testing.assert_array_equal(vectors(read(tmp_path / "out")), want)


def test_folders_and_patterns_are_read_in_a_fixed_order(
    embed: Callable[..., int], tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl"):
        write_jsonl(folder / name, [{"id": name, "text": name}])
    (folder / "notes.rst").write_text("of no known kind")
    pattern = f"{tmp_path}/data/[ab].jsonl"
    assert embed(folder, pattern) == 0
    assert read(tmp_path / "out")["id"].to_pylist() == [
        *("a.jsonl", "b.jsonl", "sub/c.jsonl"),
        *("a.jsonl", "b.jsonl"),
    ]


def test_images_are_read_of_bytes_and_of_hugging_face_structs(
    embed: Callable[..., int], tmp_path: Path
) -> None:
    from io import BytesIO

    from PIL import Image

    file = BytesIO()
    Image.new("RGB", (56, 56), "red").save(file, "PNG")
    content = file.getvalue()
    source = write_table(
        tmp_path / "a.parquet",
        {"image": [{"bytes": content, "path": None}], "raw": [content], "n": [1]},
    )
    assert embed(source, "--keep", "n") == 0
    struct = vectors(read(tmp_path / "out"))
    assert embed(source, "--keep", "n", "--image-column", "raw", "--restart") == 0
    np.testing.assert_array_equal(vectors(read(tmp_path / "out")), struct)


def test_progress_is_told_as_lines_of_json(
    embed: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])
    assert embed(source, "--progress", "json") == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told[-1]["event"] == "done"
    assert (told[-1]["rows"], told[-1]["total_rows"], told[-1]["skipped"]) == (7, 7, 0)


@pytest.mark.parametrize("library", ["pandas", "polars", "duckdb", "pyarrow.dataset"])
def test_other_programs_read_a_dataset(
    embed: Callable[..., int], tmp_path: Path, library: str
) -> None:
    module = pytest.importorskip(library)
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS] + [{"text": 1}])
    assert embed(source, "--shard-rows", 3, "--on-error", "skip") == 1
    shards = f"{tmp_path}/out/part-*.parquet"
    if library == "pandas":
        count = len(module.read_parquet(tmp_path / "out"))
    elif library == "polars":
        count = len(module.read_parquet(shards))
    elif library == "duckdb":
        count = module.sql(f"select count(embedding) from '{shards}'").fetchall()[0][0]
    else:
        count = module.dataset(tmp_path / "out").to_table().num_rows
    assert count == 7


def test_rows_that_cannot_be_used_are_listed(
    embed: Callable[..., int],
    embedder: Embedder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    source = tmp_path / "a.jsonl"
    write_jsonl(
        source,
        [
            {"id": "a", "text": "one"},
            {"id": "b", "text": 5},
            {"id": "c", "text": "two"},
            {"id": "d", "image": "bad.png"},
            {"id": "e", "text": "three"},
            {"id": "f", "text": None},
        ],
    )
    with source.open("a") as file:
        file.write("{broken\n")
        file.write('{"id": "g", "text": "a", "task": "none"}\n')
    assert embed(source, "--on-error", "skip") == 1
    assert "5 rows could not be used" in capsys.readouterr().err
    out = tmp_path / "out"
    table = read(out)
    assert table["id"].to_pylist() == ["a", "c", "e"]
    want = embedder.encode(["one", "two", "three"], "retrieval", prompt_name="passage").single
    np.testing.assert_allclose(vectors(table), want, atol=1e-6)
    errors = parquet.read_table(out / "_errors.parquet").to_pylist()
    assert [(row["row"], row["id"]) for row in errors] == [
        (2, "b"),
        (4, "d"),
        (6, "f"),
        (7, None),
        (8, "g"),
    ]
    assert f"{source}:2: text is 5" in errors[0]["error"]
    assert f"{source}:4" in errors[1]["error"]
    assert f"{source}:8: task is 'none'" in errors[4]["error"]
    assert embed(source, "--on-error", "skip") == 1  # there already, and still not all


def test_more_errors_than_allowed_end_the_job(
    embed: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("bad1.png", "bad2.png"):
        (tmp_path / name).write_bytes(b"no image")
    rows = [{"image": "bad1.png"}, {"text": "one"}, {"image": "bad2.png"}]
    source = write_jsonl(tmp_path / "a.jsonl", rows)
    options = ("--on-error", "skip", "--shard-rows", 1)
    assert embed(source, *options, "--max-errors", 1) == 2
    assert "2 rows cannot be used, more than --max-errors 1" in capsys.readouterr().err
    # Raising the limit goes on with what was done.
    assert embed(source, *options, "--max-errors", 2) == 1
    assert "2 were there before" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        ({"body": ["a"]}, (), "has no column 'text' or 'image'; name one of ['body']"),
        ({"text": ["a"]}, ("--text-column", "body"), "has no column 'body'; it has ['text']"),
        ({"text": ["a"]}, ("--keep", "year"), "has no column 'year'; it has ['text']"),
        ({"text": ["a"]}, ("--template", "{title}"), "has no column 'title'; it has ['text']"),
        ({"text": [1]}, (), "column 'text' is int64; name one of strings"),
        ({"text": ["a", None]}, (), "#row=2: has neither a text nor an image"),
        ({"text": ["a"], "id": [None]}, (), "#row=1: its id is null"),
        ({"text": ["a"], "id": [1.5]}, (), "column 'id' is double; name one of strings or whole"),
        ({"text": ["a"], "row": [1]}, (), "the columns ['row'] have names of the output's own"),
        ({"text": ["a"], "image": [b"no image"]}, (), "#row=1"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_sentence(
    embed: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    columns: dict[str, Any],
    options: tuple[str, ...],
    said: str,
) -> None:
    source = write_table(tmp_path / "a.parquet", columns)
    assert embed(source, *options) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.glob("out/part-*"))


def test_columns_of_different_types_are_refused(
    embed: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": "a", "n": 1}, {"text": "b", "n": "two"}])
    assert embed(source) == 2
    assert f"{source}:2: 'n' is string, but int64 in {source}:1" in capsys.readouterr().err


def test_repeated_ids_are_told_and_kept(
    embed: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[object] = [
        {"id": "x", "text": "a"},
        {"id": "y", "text": "b"},
        {"id": "x", "text": "c"},
    ]
    source = write_jsonl(tmp_path / "a.jsonl", rows)
    assert embed(source) == 0
    assert f"{source}:3: id 'x' is also that of {source}:1" in capsys.readouterr().err
    assert read(tmp_path / "out")["id"].to_pylist() == ["x", "y", "x"]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_file_cut_in_half_is_one_sentence(
    embed: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    source = write_table(tmp_path / f"a{suffix}", {"text": TEXTS})
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    assert embed(source) == 2
    err = capsys.readouterr().err
    assert f"{source}: cannot be read as {suffix}" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("none.txt",), "none.txt: does not exist"),
        (("none-*.txt",), "none-*.txt: matches no file"),
        (("-",), "files that can be read again"),
        (("--text", "a"), "files that can be read again"),
        (("a.txt", "--max-errors", "3"), "give --on-error skip with it"),
        (("a.txt", "--shard-rows", "0"), "--shard-rows is 0"),
        (("a.txt", "--template", "title"), "names no column"),
        (("a.txt", "--force"), "takes --restart"),
    ],
)
def test_arguments_that_cannot_be_used_are_one_sentence(
    embed: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("a\n")
    assert embed(*arguments) == 2
    assert said in capsys.readouterr().err
    assert not Path("out/_job.json").exists()


def test_options_of_datasets_are_refused_for_files(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "embed",
        nano_bundle,
        "--text",
        "a",
        "-o",
        tmp_path / "a.npy",
        "--keep",
        "all",
        *OPTIONS,
    ]
    assert main(list(map(str, words))) == 2
    assert "--keep is for dataset folders" in capsys.readouterr().err
