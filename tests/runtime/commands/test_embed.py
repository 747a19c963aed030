"""`trine embed`: every kind of input and output, and that nothing half-done remains."""

import errno
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trine.runtime.bulk.output_rows import NpyWriter, OutputRow
from trine.runtime.commands.program import main
from trine.runtime.embedder import Embedder
from trine.runtime.inputs import ImageText

TEXTS = ("How far is the moon?", "", "Straße 東京 🚀", "def area(r): return 3 * r * r")


@pytest.fixture(scope="module")
def embedder(nano_bundle: Path) -> Embedder:
    return Embedder.load(nano_bundle, self_test=False)


@pytest.fixture
def texts_file(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    return path


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def embed(bundle: Path, *arguments: object) -> int:
    return main(["embed", str(bundle), *map(str, arguments)])


def give_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def json_lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def write_lines(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_npy_holds_what_encode_returns(
    nano_bundle: Path, embedder: Embedder, texts_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.npy"
    options = ("--task", "retrieval", "--prompt", "passage", "--dim", 64)
    assert embed(nano_bundle, texts_file, "-o", out, *options) == 0
    found = np.load(out)
    want = embedder.encode(TEXTS, "retrieval", prompt_name="passage", truncate_dim=64).single
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, want)


def test_npz_holds_vectors_and_what_is_known_of_them(
    nano_bundle: Path, embedder: Embedder, texts_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.npz"
    assert embed(nano_bundle, texts_file, "-o", out, "--task", "code", "--max-length", 5) == 0
    want = embedder.encode(TEXTS, "code", max_length=5)
    with np.load(out) as found:
        assert set(found) == {"vectors", "ids", "num_tokens", "truncated", "output_dtype"}
        np.testing.assert_array_equal(found["vectors"], want.single)
        np.testing.assert_array_equal(found["num_tokens"], want.num_tokens)
        np.testing.assert_array_equal(found["truncated"], want.truncated)
        assert found["ids"].tolist() == [f"{texts_file}:{n}" for n in range(1, len(TEXTS) + 1)]
    assert want.truncated.any()


def test_npz_of_multi_vectors_is_cut_by_its_offsets(
    nano_bundle: Path, embedder: Embedder, texts_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.npz"
    assert embed(nano_bundle, texts_file, "-o", out, "--task", "retrieval", "--multi-vector") == 0
    want = embedder.encode(TEXTS, "retrieval", return_single=False, return_multivector=True).multi
    assert want is not None
    with np.load(out) as found:
        offsets = found["offsets"]
        assert offsets.dtype == np.int64
        assert len(offsets) == len(TEXTS) + 1
        assert offsets[-1] == len(found["vectors"])
        parts = np.split(found["vectors"], offsets[1:-1])
    for part, multi in zip(parts, want, strict=True):
        np.testing.assert_array_equal(part, multi)


@pytest.mark.parametrize("multi", [False, True])
def test_json_lines_on_stdout_give_back_the_same_numbers(
    nano_bundle: Path,
    embedder: Embedder,
    texts_file: Path,
    capsys: pytest.CaptureFixture[str],
    multi: bool,
) -> None:
    options = ("--multi-vector",) if multi else ()
    assert embed(nano_bundle, texts_file, "--task", "text-matching", *options) == 0
    rows = json_lines(capsys.readouterr().out)
    want = embedder.encode(
        TEXTS, "text-matching", return_single=not multi, return_multivector=multi
    )
    vectors = want.multi if multi else want.single
    assert vectors is not None
    name = "embeddings" if multi else "embedding"
    for row, vector, num_tokens in zip(rows, vectors, want.num_tokens, strict=True):
        assert list(row) == ["id", name, "num_tokens", "truncated"]
        np.testing.assert_array_equal(np.array(row[name], np.float32), vector)
        assert (row["num_tokens"], row["truncated"]) == (num_tokens, False)


@pytest.mark.parametrize("multi", [False, True])
def test_parquet_holds_what_encode_returns(
    nano_bundle: Path, embedder: Embedder, texts_file: Path, tmp_path: Path, multi: bool
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the `parquet` extra")
    out = tmp_path / "out.parquet"
    options = ("--multi-vector",) if multi else ()
    assert embed(nano_bundle, texts_file, "-o", out, "--task", "code", *options) == 0
    table = parquet.read_table(out)
    want = embedder.encode(TEXTS, "code", return_single=not multi, return_multivector=multi)
    vectors = want.multi if multi else want.single
    assert vectors is not None
    column = table["embeddings" if multi else "embedding"]
    assert str(column.type).count("float") == 1  # float32; float64 is called double
    for found, vector in zip(column.to_pylist(), vectors, strict=True):
        np.testing.assert_array_equal(np.array(found, np.float32), vector)
    assert table["num_tokens"].to_pylist() == want.num_tokens.tolist()
    assert table["id"].to_pylist()[0] == f"{texts_file}:1"


def test_lines_of_json_choose_id_task_prompt_and_images(
    nano_bundle: Path,
    embedder: Embedder,
    image_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    items = write_lines(
        tmp_path / "items.jsonl",
        [
            {"id": "a", "text": "moon", "prompt": "passage"},
            {"id": 7, "image": image_file.name},
            {"text": "two", "image": [image_file.name, str(image_file)], "task": "code"},
            {"text": "moon", "task": "text-matching"},
        ],
    )
    assert embed(nano_bundle, items, "--task", "retrieval") == 0
    rows = json_lines(capsys.readouterr().out)
    want = [
        embedder.encode(["moon"], "retrieval", prompt_name="passage"),
        embedder.encode([ImageText((image_file,))], "retrieval"),
        embedder.encode([ImageText((image_file, image_file), "two")], "code"),
        embedder.encode(["moon"], "text-matching"),
    ]
    assert [row["id"] for row in rows] == ["a", "7", f"{items}:3", f"{items}:4"]
    for row, one in zip(rows, want, strict=True):
        # Items that share a run may differ in the last bit from items alone.
        np.testing.assert_allclose([row["embedding"]], one.single, rtol=0, atol=1e-6)
        assert row["num_tokens"] == one.num_tokens[0]


def test_texts_come_from_the_command_line_and_from_stdin(
    nano_bundle: Path,
    embedder: Embedder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    give_stdin(monkeypatch, "\ufeffone\r\nzwei \u2028 drei\n\nno end".encode())
    assert embed(nano_bundle, "-", "--text", "zero", "--task", "retrieval") == 0
    rows = json_lines(capsys.readouterr().out)
    assert [row["id"] for row in rows] == ["text:1", *(f"stdin:{n}" for n in (1, 2, 3, 4))]
    want = embedder.encode(["zero", "one", "zwei \u2028 drei", "", "no end"], "retrieval").single
    np.testing.assert_array_equal(np.array([r["embedding"] for r in rows], np.float32), want)


def test_without_inputs_stdin_is_read_and_may_be_empty(
    nano_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_stdin(monkeypatch, b"")
    out = tmp_path / "out.npy"
    assert embed(nano_bundle, "--task", "retrieval", "-o", out) == 0
    assert np.load(out).shape == (0, 256)


def test_more_rows_than_a_window_holds_keep_their_order(
    nano_bundle: Path, embedder: Embedder, tmp_path: Path
) -> None:
    texts = [f"{n} " * (1 + n % 5) for n in range(700)]
    path, out = tmp_path / "many.txt", tmp_path / "out.npy"
    path.write_text("\n".join(texts), encoding="utf-8")
    assert embed(nano_bundle, path, "-o", out, "--task", "retrieval", "--batch-tokens", 512) == 0
    want = embedder.encode(texts, "retrieval").single
    found = np.load(out)
    assert found.shape == (700, 256)
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)


def test_cut_texts_are_counted_on_stderr(
    nano_bundle: Path, texts_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(nano_bundle, texts_file, "--task", "retrieval", "--max-length", 6) == 0
    captured = capsys.readouterr()
    cut = sum(bool(row["truncated"]) for row in json_lines(captured.out))
    assert 0 < cut < len(TEXTS)
    assert f"{cut} of {len(TEXTS)} texts were cut to 6 tokens" in captured.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', "not valid JSON"),
        ('["text"]', "write an object"),
        ('{"txt": "a"}', "fields ['txt'] are unknown"),
        ('{"id": "a"}', "neither a text nor an image"),
        ('{"text": 1}', "text is 1"),
        ('{"text": "\\ud800"}', "half of a surrogate pair"),
        ('{"text": "a", "prompt": "document"}', "prompt is 'document'"),
        ('{"text": "a", "task": "clustering"}', "task is 'clustering'"),
        ('{"text": "a", "id": [1]}', "id is [1]"),
        ('{"image": "absent.png"}', "absent.png' does not exist"),
        ('{"image": 3}', "image is 3"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_a_faulty_line_is_named_and_nothing_is_written(
    nano_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    line: str,
    message: str,
) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text('{"text": "fine"}\n\n' + line + "\n", encoding="utf-8")
    assert embed(nano_bundle, items, "-o", tmp_path / "out.npy", "--task", "retrieval") == 2
    error = capsys.readouterr().err
    assert f"{items}:3" in error
    assert message in error
    assert sorted(tmp_path.iterdir()) == [items]


def test_a_line_that_is_not_utf8_is_named(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"fine\nf\xfcr\n")
    assert embed(nano_bundle, path, "--task", "retrieval") == 2
    captured = capsys.readouterr()
    assert f"{path}:2: byte 2 of the line is not UTF-8" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".jsonl", ".parquet"])
def test_a_image_found_broken_midway_leaves_no_file(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="needs the `parquet` extra")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    # Long enough that the texts before the image are written before it is opened.
    texts = tmp_path / "texts.txt"
    texts.write_text("moon\n" * 600, encoding="utf-8")
    out = tmp_path / f"out{suffix}"
    assert embed(nano_bundle, texts, broken, "-o", out, "--task", "retrieval") == 2
    assert "broken.png" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [broken, texts]


def test_a_image_that_the_model_cannot_take_is_named(
    nano_bundle: Path, texts_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = tmp_path / "long.png"
    Image.new("RGB", (2010, 10)).save(long)
    assert embed(nano_bundle, texts_file, long, "--task", "retrieval") == 2
    assert f"trine embed: {long}: an image of 2010×10 pixels" in capsys.readouterr().err


def test_interrupting_leaves_no_file_and_keeps_the_old_one(
    nano_bundle: Path, texts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Embedder, "encode_stream", interrupt)
    out = tmp_path / "out.npz"
    out.write_bytes(b"old")
    assert embed(nano_bundle, texts_file, "-o", out, "--task", "retrieval", "--force") == 130
    assert out.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [out, texts_file]


def test_a_full_disk_is_an_error_that_names_the_output(
    nano_bundle: Path,
    texts_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def no_room(self: NpyWriter, rows: Sequence[OutputRow]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(NpyWriter, "write", no_room)
    out = tmp_path / "out.npy"
    assert embed(nano_bundle, texts_file, "-o", out, "--task", "retrieval") == 2
    assert f"{out}: cannot be written (No space left on device)" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [texts_file]


def test_an_output_that_is_there_is_replaced_only_by_force(
    nano_bundle: Path, texts_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.npy"
    out.write_bytes(b"old")
    assert embed(nano_bundle, texts_file, "-o", out, "--task", "retrieval") == 2
    assert "use --force" in capsys.readouterr().err
    assert out.read_bytes() == b"old"
    assert embed(nano_bundle, texts_file, "-o", out, "--task", "retrieval", "--force") == 0
    assert len(np.load(out)) == len(TEXTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--task", "retrieval", "--multi-vector", "-o", "out.npy"), "multi-vectors differ"),
        (("--task", "retrieval", "--multi-vector", "--dim", "64"), "never cut"),
        (("--task", "retrieval", "--dim", "257"), "--dim is 257; give 1 to 256, or 0 for all"),
        (("--task", "retrieval", "-o", "out.csv"), "'.csv' is no output format"),
        (("--task", "retrieval", "-o", "absent/out.npy"), "its folder does not exist"),
        (("--task", "retrieval", "--dpi", "0"), "--dpi is 0"),
        (("--task", "retrieval", "--threads", "0"), "--threads is 0"),
        (("--task", "retrieval", "--batch-tokens", "0"), "--batch-tokens is 0"),
        (("--task", "retrieval", "--max-length", "0"), "max_length is 0"),
        (("--task", "retrieval", "--engine", "tensorrt"), "no engine 'tensorrt'"),
        (("--task", "clustering"), "task is 'clustering'"),
        ((), "no task; give --task"),
    ],
)
def test_an_unusable_option_is_refused_before_the_model_is_loaded(
    nano_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.delattr(Embedder, "load")
    monkeypatch.chdir(tmp_path)
    assert embed(nano_bundle, "--text", "moon", *options) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.txt", "does not exist"),
        ("table.csv", "the suffix '.csv' is of no known kind"),
        ("folder", "is a folder"),
        ("broken.pdf", "cannot be opened as a PDF"),
    ],
)
def test_an_unusable_file_is_refused_before_the_model_is_loaded(
    nano_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    message: str,
) -> None:
    if name.endswith(".pdf"):
        pytest.importorskip("pypdfium2", reason="needs the `pdf` extra")
    monkeypatch.delattr(Embedder, "load")
    (tmp_path / "folder").mkdir()
    for file in ("table.csv", "broken.pdf"):
        (tmp_path / file).write_text("a,b\n", encoding="utf-8")
    assert embed(nano_bundle, tmp_path / name, "--task", "retrieval") == 2
    error = capsys.readouterr().err
    assert name in error
    assert message in error


def test_only_the_tasks_that_rows_name_are_loaded(
    nano_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[str, ...]] = []
    encode_stream = Embedder.encode_stream

    def watch(self: Embedder, *arguments: object, **options: object) -> object:
        loaded.append(self.tasks)
        return encode_stream(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Embedder, "encode_stream", watch)
    items = write_lines(
        tmp_path / "items.jsonl", [{"text": "a"}, {"text": "b", "task": "text-matching"}]
    )
    assert embed(nano_bundle, items, "--task", "code") == 0
    assert [set(tasks) for tasks in loaded] == [{"code", "text-matching"}]


@pytest.mark.parametrize("dim", [100, 1, 0])
def test_any_number_of_leading_dimensions_is_kept_as_in_python(
    nano_bundle: Path, texts_file: Path, embedder: Embedder, tmp_path: Path, dim: int
) -> None:
    out = tmp_path / "out.npy"
    command = ["embed", str(nano_bundle), str(texts_file), "--task", "code", "-o", str(out)]
    assert main([*command, "--prompt", "query", "--dim", str(dim)]) == 0
    found = np.load(out)
    assert found.shape == (len(TEXTS), dim or 256)
    wanted = embedder.encode_text(list(TEXTS), "code", truncate_dim=dim)
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
