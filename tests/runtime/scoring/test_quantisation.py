"""Output types: calibrated ranges, what `encode` returns, `embed` writes and `eval` ranks."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trine.kernels.pooling import l2_normalise, truncate
from trine.kernels.quantise import (
    dequantise_int8,
    hamming_distances,
    pack_binary,
    pack_ubinary,
    quantise_int8,
)
from trine.runtime.bundle.bundle import MANIFEST_NAME, file_sha256, open_bundle
from trine.runtime.bundle.manifest import FileEntry, manifest_to_json
from trine.runtime.commands.eval.evaluation import EvaluationOptions, evaluate_pairs, num_steps
from trine.runtime.commands.eval.pair_files import read_pairs
from trine.runtime.commands.program import main
from trine.runtime.embedder import Embedder
from trine.runtime.errors import BundleError, InputError
from trine.runtime.inference.encoder import Encoder
from trine.runtime.inputs import ImageText, Item
from trine.runtime.outputs import OUTPUT_DTYPES, OutputDtype, stored_shape
from trine.runtime.scoring.quantisation import (
    RANGES_NAME,
    Int8Ranges,
    bundle_ranges,
    calibrate_ranges,
    quantise_multi,
    quantise_single,
    read_ranges,
    write_ranges,
)
from trine.runtime.scoring.rank_metrics import rank_metrics

TASKS = ("retrieval", "text-matching", "code")
DIMS = (32, 64, 128, 256)
TEXTS = ("How far is the moon?", "", "Straße 東京 🚀", "def area(r): return 3 * r * r")
IMAGE = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
modest = settings(max_examples=60, deadline=None, derandomize=True)


def unit_vectors(rows: int, dim: int, seed: int) -> NDArray[np.float32]:
    return l2_normalise(np.random.default_rng(seed).standard_normal((rows, dim), np.float32))


def write_bundle(source: Path, folder: Path, ranges: Int8Ranges | None) -> Path:
    """Copy a bundle, with these ranges in place of those that it may have."""
    shutil.copytree(source, folder)
    manifest = open_bundle(folder).manifest
    files = {name: entry for name, entry in manifest.files.items() if name != RANGES_NAME}
    path = folder / RANGES_NAME
    path.unlink(missing_ok=True)
    if ranges is not None:
        write_ranges(path, ranges)
        files[RANGES_NAME] = FileEntry(size=path.stat().st_size, sha256=file_sha256(path))
    changed = dataclasses.replace(manifest, files=files)
    (folder / MANIFEST_NAME).write_text(manifest_to_json(changed), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def ranges(nano_bundle: Path) -> Int8Ranges:
    """Ranges of the tasks "retrieval" and "code"."""
    embedder = Embedder.load(nano_bundle, self_test=False)
    found = {task: embedder.encode(TEXTS, task).single for task in ("retrieval", "code")}
    return calibrate_ranges({k: v for k, v in found.items() if v is not None}, DIMS)


@pytest.fixture(scope="module")
def calibrated(nano_bundle: Path, ranges: Int8Ranges, tmp_path_factory: Any) -> Path:
    """A bundle with ranges."""
    return write_bundle(nano_bundle, tmp_path_factory.mktemp("b") / "calibrated", ranges)


@pytest.fixture(scope="module")
def embedder(calibrated: Path) -> Embedder:
    return Embedder.load(calibrated, self_test=False)


def converted(
    vectors: NDArray[np.float32], dtype: OutputDtype, ranges: NDArray[np.float32]
) -> NDArray[Any]:
    """Return float32 [B, D] in a type, by the kernels."""
    return {
        "float32": lambda: vectors,
        "float16": lambda: vectors.astype(np.float16),
        "int8": lambda: quantise_int8(vectors, ranges),
        "binary": lambda: pack_binary(vectors),
        "ubinary": lambda: pack_ubinary(vectors),
    }[dtype]()


@modest
@given(st.integers(1, 40), st.integers(2, 96), st.integers(0, 99))
def test_calibrated_vectors_are_inside_their_ranges(rows: int, size: int, seed: int) -> None:
    vectors = unit_vectors(rows, size, seed)
    dims = sorted({1, size // 2, size})
    found = calibrate_ranges({"code": vectors}, dims)
    assert sorted(found.by_task["code"]) == dims
    for dim in dims:
        low, high = found.of("code", dim)
        cut = truncate(vectors, dim)
        assert (low == -high).all()
        assert (high == high[0]).all()
        # Half as far again as the largest value, and no further than a unit vector can go.
        assert high[0] == pytest.approx(min(1.0, 1.5 * np.abs(cut).max()))


@modest
@given(st.integers(2, 40), st.integers(8, 96), st.integers(0, 99))
def test_products_of_codes_are_those_of_vectors(rows: int, dim: int, seed: int) -> None:
    vectors = unit_vectors(rows, dim, seed)
    found = calibrate_ranges({"code": vectors}, [])
    codes = quantise_single(vectors, ["code"] * rows, "int8", found)
    step = 2 * found.of("code", dim)[1, 0] / 255
    # A code is off by at most 1 1/2 steps: one for the digits dropped, half for the odd middle.
    error = np.linalg.norm(codes * step - vectors, axis=1).max()
    assert error <= 1.5 * step * dim**0.5
    wide = codes.astype(np.float32)
    off = np.abs(wide @ wide.T * step**2 - vectors @ vectors.T).max()
    assert off <= 2 * error + error**2 + 1e-5


def test_ranges_of_a_cut_are_those_of_vectors_normalised_again() -> None:
    vectors = np.array([[0.1, 0, 0.995, 0]], np.float32)
    found = calibrate_ranges({"code": l2_normalise(vectors)}, [2])
    assert found.of("code", 2)[1, 0] == 1
    codes = quantise_single(truncate(vectors, 2), ["code"], "int8", found)
    assert codes[0, 0] >= 126


def test_each_task_has_its_own_ranges() -> None:
    vectors = unit_vectors(6, 16, 0)
    tasks = ["a", "b", "b", "a", "a", "b"]
    wide = np.array([[-1.0] * 16, [1.0] * 16], np.float32)
    found = Int8Ranges({"a": {16: wide}, "b": {16: wide * np.float32(0.5)}})
    codes = quantise_single(vectors, tasks, "int8", found)
    for row, task in enumerate(tasks):
        np.testing.assert_array_equal(codes[row], quantise_int8(vectors[row], found.of(task, 16)))


def test_ranges_of_a_dimension_each_may_be_given(calibrated: Path) -> None:
    """As sentence-transformers measures them: the lowest and highest value of each dimension."""
    embedder = Embedder.load(calibrated, tasks=["code"], self_test=False)
    vectors = embedder.encode(TEXTS, "code").single
    assert vectors is not None
    own = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    embedder.output_ranges = Int8Ranges({"code": {256: own}})
    found = embedder.encode_text(TEXTS, "code", output_dtype="int8")
    np.testing.assert_array_equal(found, quantise_int8(vectors, own))


def test_ranges_come_back_from_their_file(tmp_path: Path) -> None:
    found = calibrate_ranges({"a/b": unit_vectors(3, 16, 0), "c": unit_vectors(3, 24, 1)}, [8])
    write_ranges(tmp_path / "a.npz", found)
    write_ranges(tmp_path / "b.npz", Int8Ranges(dict(reversed(list(found.by_task.items())))))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again = read_ranges(tmp_path / "a.npz")
    assert {task: sorted(cuts) for task, cuts in again.by_task.items()} == {
        "a/b": [8, 16],
        "c": [8, 24],
    }
    for task, cuts in found.by_task.items():
        for dim, ranges in cuts.items():
            np.testing.assert_array_equal(again.of(task, dim), ranges)


@pytest.mark.parametrize(
    "arrays",
    [
        {"code/four": np.zeros((2, 4), np.float32)},
        {"code/4": np.zeros((2, 5), np.float32)},
        {"code/4": np.zeros((2, 4))},
        {"code/4": np.array([[1.0], [0.0]], np.float32).repeat(4, axis=1)},
        {"code/4": np.full((2, 4), np.nan, np.float32)},
        {"code/4": np.array([[None] * 4] * 2)},
    ],
)
def test_a_file_of_something_else_is_refused(
    tmp_path: Path, arrays: Mapping[str, NDArray[Any]]
) -> None:
    path = tmp_path / RANGES_NAME
    with path.open("wb") as file:
        np.savez(file, **arrays)
    with pytest.raises(BundleError, match="damaged"):
        read_ranges(path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / RANGES_NAME
    write_ranges(path, calibrate_ranges({"code": unit_vectors(2, 64, 0)}, []))
    content = path.read_bytes()
    for damaged in (b"", content[: len(content) // 2], content[:90] + b"\xff" + content[91:]):
        path.write_bytes(damaged)
        with pytest.raises(BundleError, match=RANGES_NAME):
            read_ranges(path)


@pytest.mark.parametrize(
    ("vectors", "dims", "words"),
    [
        (np.zeros((0, 8), np.float32), [], r"\[0, 8\]"),
        (np.zeros(8, np.float32), [], r"\[8\]"),
        (np.full((2, 8), np.nan, np.float32), [], "finite"),
        (np.ones((2, 8), np.float32), [9], "8 dimensions"),
        (np.ones((2, 8), np.float32), [0], "8 dimensions"),
    ],
)
def test_what_ranges_cannot_come_from_is_refused(
    vectors: NDArray[np.float32], dims: list[int], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        calibrate_ranges({"code": vectors}, dims)


@pytest.mark.parametrize("dtype", OUTPUT_DTYPES)
@pytest.mark.parametrize("dim", [None, 64])
def test_single_vectors_are_cut_normalised_and_then_converted(
    embedder: Embedder, ranges: Int8Ranges, dtype: OutputDtype, dim: int | None
) -> None:
    items: list[Item] = [*TEXTS, ImageText((IMAGE,))]
    tasks = ["retrieval", "code", "code", "retrieval", "code"]
    found = embedder.encode(items, tasks, truncate_dim=dim, output_dtype=dtype)
    plain = embedder.encode(items, tasks, truncate_dim=dim)
    assert found.single is not None
    assert plain.single is not None
    assert (found.single.dtype, found.single.shape[1]) == stored_shape(dtype, dim or 256)
    for row, task in enumerate(tasks):
        want = converted(plain.single[row], dtype, ranges.of(task, dim or 256))
        np.testing.assert_array_equal(found.single[row], want)
    assert found.single.flags.c_contiguous
    assert found.single.flags.writeable
    np.testing.assert_array_equal(found.num_tokens, plain.num_tokens)


@pytest.mark.parametrize("dtype", ["float16", "binary", "ubinary"])
def test_multi_vectors_are_converted_token_by_token(embedder: Embedder, dtype: OutputDtype) -> None:
    found = embedder.encode(TEXTS, "text-matching", return_multivector=True, output_dtype=dtype)
    plain = embedder.encode(TEXTS, "text-matching", return_multivector=True)
    assert found.multi is not None
    assert plain.multi is not None
    for rows, want, num_tokens in zip(found.multi, plain.multi, found.num_tokens, strict=True):
        assert rows.shape == (num_tokens, stored_shape(dtype, 64)[1])
        np.testing.assert_array_equal(rows, converted(want, dtype, np.empty(0, np.float32)))


@pytest.mark.parametrize("dtype", OUTPUT_DTYPES)
def test_published_methods_take_a_type(embedder: Embedder, dtype: OutputDtype) -> None:
    kind, size = stored_shape(dtype, 32)
    for found, shape in (
        (embedder.encode_text("moon", "code", truncate_dim=32, output_dtype=dtype), (size,)),
        (embedder.encode_text(["a", "b"], "code", truncate_dim=32, output_dtype=dtype), (2, size)),
        (embedder.encode_text([], "code", truncate_dim=32, output_dtype=dtype), (0, size)),
        (embedder.encode_image([IMAGE], "code", truncate_dim=32, output_dtype=dtype), (1, size)),
    ):
        assert isinstance(found, np.ndarray)
        assert (found.dtype, found.shape) == (kind, shape)


def test_an_unusable_type_is_refused_before_anything_is_embedded(
    nano_bundle: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = Embedder.load(write_bundle(nano_bundle, tmp_path / "bare", None), self_test=False)
    assert not bare.output_ranges.by_task
    monkeypatch.setattr(Encoder, "encode", None)
    with pytest.raises(InputError, match=r"'float64'; known are .*'ubinary'"):
        embedder.encode(["a"], "code", output_dtype="float64")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="multi-vectors do not come in"):
        embedder.encode(["a"], "code", return_multivector=True, output_dtype="int8")
    with pytest.raises(InputError, match=r"'text-matching' at 64 .*output_ranges.npz.*calibrate"):
        embedder.encode_text("a", "text-matching", truncate_dim=64, output_dtype="int8")
    with pytest.raises(InputError, match=r"'code' at 256 .*output_ranges.npz"):
        bare.encode_text("a", "code", output_dtype="int8")


def test_ranges_of_ones_own_may_be_put_in_place(nano_bundle: Path, tmp_path: Path) -> None:
    """The way that the error about missing ranges describes."""
    bare = Embedder.load(write_bundle(nano_bundle, tmp_path / "bare", None), self_test=False)
    vectors = bare.encode(TEXTS, "code").single
    assert vectors is not None
    bare.output_ranges = calibrate_ranges({"code": vectors}, [64])
    codes = bare.encode_text(TEXTS, "code", truncate_dim=64, output_dtype="int8")
    back = dequantise_int8(np.asarray(codes), bare.output_ranges.of("code", 64))
    np.testing.assert_allclose(back, truncate(vectors, 64), atol=2 / 255)


@pytest.mark.parametrize("dtype", OUTPUT_DTYPES)
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".jsonl", ".parquet"])
def test_files_have_the_type_asked_for(
    calibrated: Path, embedder: Embedder, tmp_path: Path, dtype: OutputDtype, suffix: str
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="needs the `parquet` extra")
    out = tmp_path / f"out{suffix}"
    texts = [argument for text in TEXTS for argument in ("--text", text)]
    options = ["--task", "code", "--dim", "64", "--output-dtype", dtype, "-o", str(out)]
    assert main(["embed", str(calibrated), *texts, *options]) == 0
    want = embedder.encode(TEXTS, "code", truncate_dim=64, output_dtype=dtype).single
    assert want is not None
    if suffix == ".npy":
        found = np.load(out)
    elif suffix == ".npz":
        with np.load(out) as archive:
            found, name = archive["vectors"], archive["output_dtype"]
        assert str(name) == dtype
    elif suffix == ".jsonl":
        rows = [json.loads(line)["embedding"] for line in out.read_text("utf-8").splitlines()]
        assert dtype.startswith("float") or all(type(n) is int for row in rows for n in row)
        found = np.array(rows).astype(want.dtype)
    else:
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(out)
        assert table.schema.metadata[b"output_dtype"] == dtype.encode()
        column = table["embedding"]
        assert column.type.value_type.to_pandas_dtype() == want.dtype
        found = np.array(column.to_pylist(), want.dtype)
    assert found.dtype == want.dtype
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("suffix", [".npz", ".jsonl", ".parquet"])
def test_files_of_packed_multi_vectors_are_whole(
    calibrated: Path, embedder: Embedder, tmp_path: Path, suffix: str
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="needs the `parquet` extra")
    out = tmp_path / f"out{suffix}"
    texts = [argument for text in TEXTS for argument in ("--text", text)]
    options = ["--task", "code", "--multi-vector", "--output-dtype", "ubinary", "-o", str(out)]
    assert main(["embed", str(calibrated), *texts, *options]) == 0
    want = embedder.encode(
        TEXTS, "code", return_single=False, return_multivector=True, output_dtype="ubinary"
    ).multi
    assert want is not None
    if suffix == ".npz":
        with np.load(out) as archive:
            parts = np.split(archive["vectors"], archive["offsets"][1:-1])
    elif suffix == ".jsonl":
        lines = out.read_text("utf-8").splitlines()
        parts = [np.array(json.loads(line)["embeddings"], np.uint8) for line in lines]
    else:
        import pyarrow.parquet

        column = pyarrow.parquet.read_table(out)["embeddings"]
        parts = [np.array(rows, np.uint8) for rows in column.to_pylist()]
    for part, rows in zip(parts, want, strict=True):
        assert part.dtype == np.uint8
        np.testing.assert_array_equal(part, rows)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--output-dtype", "float64"), "output_dtype is 'float64'; known are"),
        (("--output-dtype", "int8", "--task", "text-matching"), "'text-matching' at 256"),
        (("--output-dtype", "int8", "--multi-vector"), "multi-vectors do not come in"),
    ],
)
def test_programs_refuse_a_type_before_the_model_is_loaded(
    calibrated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.delattr(Embedder, "load")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"query": "q", "passage": "p"}\n', encoding="utf-8")
    for start in (["embed", "--text", "moon", "--task", "code"], ["eval", "--pairs", str(pairs)]):
        assert main([start[0], str(calibrated), *start[1:], *options]) == 2
        assert words in capsys.readouterr().err


def demo_pairs(folder: Path) -> Path:
    """Write pairs that are hard enough for the types to rank them differently."""
    words = ("disk", "mail", "chess", "music", "photo", "font", "game", "clock", "shell", "chart")
    rows = [
        {"query": f"{a} {b}", "passage": f"a program for {b}, with a {a} in it"}
        for a in words
        for b in words
        if a != b
    ]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_types_are_ranked_as_databases_rank_them(
    embedder: Embedder, ranges: Int8Ranges, tmp_path: Path
) -> None:
    pairs = read_pairs(demo_pairs(tmp_path))
    options = EvaluationOptions(
        task="retrieval", dims=(256, 32), single=True, multi=False, output_dtypes=OUTPUT_DTYPES
    )
    steps: list[int] = []
    results = evaluate_pairs(embedder, pairs, options, steps.append).results
    assert sum(steps) == num_steps(pairs, options)
    assert [(r.dim, r.output_dtype) for r in results] == [
        (dim, dtype) for dim in (256, 32) for dtype in OUTPUT_DTYPES
    ]
    sides = [
        embedder.encode([i.item() for i in items], "retrieval", prompt_name=prompt).single
        for items, prompt in ((pairs.queries, "query"), (pairs.candidates, "passage"))
    ]
    for result in results:
        dim, dtype = result.dim, result.output_dtype
        assert dim is not None
        queries, candidates = (
            converted(truncate(np.asarray(side), dim), dtype, ranges.of("retrieval", dim))
            for side in sides
        )
        if dtype in ("binary", "ubinary"):
            scores = -hamming_distances(queries, candidates)
        else:
            scores = queries.astype(np.float32) @ candidates.astype(np.float32).T
        assert result.metrics == rank_metrics(scores, pairs.relevant)
    by_type = {(r.dim, r.output_dtype): r.metrics.ndcg_at_10 for r in results}
    assert by_type[32, "binary"] == by_type[32, "ubinary"] < by_type[32, "int8"]


def test_packed_multi_vectors_are_ranked_by_equal_bits(embedder: Embedder, tmp_path: Path) -> None:
    pairs = read_pairs(demo_pairs(tmp_path), 30)
    options = EvaluationOptions(
        task="retrieval", dims=(), single=False, multi=True, output_dtypes=("float16", "binary")
    )
    results = evaluate_pairs(embedder, pairs, options).results
    assert [result.output_dtype for result in results] == ["float16", "binary"]
    queries, candidates = (
        quantise_multi(
            embedder.encode(
                [i.item() for i in items],
                "retrieval",
                prompt_name=prompt,
                return_single=False,
                return_multivector=True,
            ).multi
            or [],
            "binary",
        )
        for items, prompt in ((pairs.queries, "query"), (pairs.candidates, "passage"))
    )
    scores = [[-hamming_distances(q, c).min(axis=1).sum() for c in candidates] for q in queries]
    want = rank_metrics(np.array(scores, np.float32), pairs.relevant)
    assert results[1].metrics == want


def test_the_table_has_a_row_for_each_type_and_its_loss(
    calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = demo_pairs(tmp_path)
    command = ["eval", str(calibrated), "--pairs", str(path), "--dim", "256", "--dim", "32"]
    command += ["--output-dtype", "float32", "--output-dtype", "int8", "--output-dtype", "binary"]
    assert main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    assert [(r["dim"], r["output_dtype"]) for r in rows] == [
        (dim, dtype) for dim in (256, 32) for dtype in ("float32", "int8", "binary")
    ]
    for row in rows:
        (base,) = (r for r in rows if (r["dim"], r["output_dtype"]) == (row["dim"], "float32"))
        loss = row["ndcg_at_10"] - base["ndcg_at_10"]
        assert row["ndcg_at_10_difference"] == (None if row is base else pytest.approx(loss))
    assert main([*command, "--limit", "9"]) == 0
    heading, *table = (line.split() for line in capsys.readouterr().out.splitlines())
    assert heading[:3] == ["engine", "vectors", "type"]
    assert [row[3] for row in table] == ["float32", "int8", "binary"] * 2
    assert [row[-1] == "first" for row in table] == [True, False, False] * 2


def test_a_bundle_without_ranges_has_none(nano_bundle: Path, tmp_path: Path) -> None:
    bare = write_bundle(nano_bundle, tmp_path / "bare", None)
    assert not bundle_ranges(open_bundle(bare)).by_task
