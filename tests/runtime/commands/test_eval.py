"""`trine eval`: the measures by hand and by brute force, files of pairs, and a run on `nano`."""

import dataclasses
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from trine.export.demo.corpus import demo_folder, read_sections
from trine.runtime.bundle.bundle import MANIFEST_NAME, Bundle, open_bundle
from trine.runtime.bundle.manifest import manifest_to_json
from trine.runtime.commands.eval import evaluation
from trine.runtime.commands.eval.command import result_rows, table_rows
from trine.runtime.commands.eval.evaluation import (
    EngineResult,
    EvaluationOptions,
    VectorResult,
    evaluate_pairs,
    num_steps,
)
from trine.runtime.commands.eval.pair_files import read_pairs
from trine.runtime.commands.program import main
from trine.runtime.embedder import Embedder
from trine.runtime.engines.select import Selection, engine_named
from trine.runtime.errors import InputError
from trine.runtime.scoring.rank_metrics import RankMetrics, mean_metrics, rank_metrics

Case = tuple[NDArray[np.float32], list[frozenset[int]]]


@st.composite
def cases(draw: st.DrawFn, ties: bool = True) -> Case:
    """Scores of a few queries with up to 25 candidates, and what each should find."""
    num_queries, num_candidates = draw(st.integers(1, 4)), draw(st.integers(1, 25))
    if ties:
        row = st.lists(st.integers(-2, 2), min_size=num_candidates, max_size=num_candidates)
    else:
        row = st.permutations(range(num_candidates))
    scores = np.array([draw(row) for _ in range(num_queries)], np.float32)
    wanted = st.frozensets(st.integers(0, num_candidates - 1), min_size=1)
    return scores, [draw(wanted) for _ in range(num_queries)]


def literal_metrics(scores: NDArray[np.float32], relevant: Sequence[frozenset[int]]) -> RankMetrics:
    """Return the measures as their definitions read, by sorting everything."""
    values: list[list[float]] = []
    for row, wanted in zip(scores.tolist(), relevant, strict=True):
        ranking = sorted(range(len(row)), key=lambda column: (-row[column], column))
        ranks = [ranking.index(column) + 1 for column in wanted]
        recalls = [sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 5, 10)]
        dcg = sum(1 / math.log2(rank + 1) for rank in ranks if rank <= 10)
        ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(10, len(ranks)) + 1))
        first = min(ranks)
        values.append([*recalls, 1 / first if first <= 10 else 0.0, dcg / ideal])
    means = [sum(column) / len(values) for column in zip(*values, strict=True)]
    return RankMetrics(
        num_queries=len(values),
        recall_at_1=means[0],
        recall_at_5=means[1],
        recall_at_10=means[2],
        mrr_at_10=means[3],
        ndcg_at_10=means[4],
    )


def numbers(metrics: RankMetrics) -> tuple[float, ...]:
    return dataclasses.astuple(metrics)


def write_pairs(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def demo_pairs(folder: Path, title: str) -> Path:
    """Write the queries of a section of the demonstration, each with what it should find."""
    section = next(section for section in read_sections(demo_folder()) if section.title == title)
    contents = {candidate.key: candidate.content for candidate in section.candidates}
    rows = []
    for query in section.queries:
        content = contents[query.expected]
        field = "passage" if isinstance(content, str) else "image"
        rows.append({"query": query.text, field: str(content)})
    return write_pairs(folder / "pairs.jsonl", rows)


def evaluate(bundle: Path, *arguments: object) -> int:
    return main(["eval", str(bundle), *map(str, arguments)])


@pytest.fixture
def image_pairs(tmp_path: Path) -> Path:
    """Captions and images of the demonstration, the images beside the file."""
    shutil.copytree(demo_folder() / "images", tmp_path / "images")
    captions = json.loads((demo_folder() / "captions.json").read_text("utf-8"))
    rows = [{"query": text, "image": f"images/{name}"} for name, text in captions.items()]
    return write_pairs(tmp_path / "pairs.jsonl", rows)


@pytest.fixture
def two_engines(nano_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that lists its engine a second time under another name."""
    folder = tmp_path / "two"
    shutil.copytree(nano_bundle, folder)
    manifest = open_bundle(folder).manifest
    twin = dataclasses.replace(manifest.engines[0], name="twin")
    both = dataclasses.replace(manifest, engines=(*manifest.engines, twin))
    (folder / MANIFEST_NAME).write_text(manifest_to_json(both), encoding="utf-8")
    return folder


def test_measures_are_those_computed_by_hand() -> None:
    scores = np.zeros((2, 12), np.float32)
    scores[0, [7, 3, 0]] = 3, 2, 1  # ranking 7, 3, 0, 1, 2, 4, 5, 6, 8, 9, then 10, 11
    scores[1] = -np.arange(12)  # ranking 0, 1, … 11
    found = rank_metrics(scores, [frozenset({3, 4, 11}), frozenset({9})])
    # First query: ranks 2, 6 and none. Second: rank 10.
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    ndcg = (1 / math.log2(3) + 1 / math.log2(7)) / ideal
    want = (2, 0.0, (1 / 3) / 2, (2 / 3 + 1) / 2, (1 / 2 + 1 / 10) / 2)
    assert numbers(found)[:5] == pytest.approx(want)
    assert found.ndcg_at_10 == pytest.approx((ndcg + 1 / math.log2(11)) / 2)


def test_equal_scores_rank_in_the_order_of_the_candidates() -> None:
    scores = np.zeros((1, 50), np.float32)
    for place in (0, 4, 9, 10, 49):
        found = rank_metrics(scores, [frozenset({place})])
        assert found.mrr_at_10 == pytest.approx(1 / (place + 1) if place < 10 else 0.0)


@given(cases())
def test_measures_are_those_of_the_definitions_read_literally(case: Case) -> None:
    assert numbers(rank_metrics(*case)) == pytest.approx(numbers(literal_metrics(*case)))


@given(cases())
def test_a_perfect_ranking_has_the_best_measures(case: Case) -> None:
    scores, relevant = case
    for row, wanted in zip(scores, relevant, strict=True):
        row[list(wanted)] += 100
    found = rank_metrics(scores, relevant)
    assert found.mrr_at_10 == pytest.approx(1.0)
    assert found.ndcg_at_10 == pytest.approx(1.0)
    best = [min(10, len(wanted)) / len(wanted) for wanted in relevant]
    assert found.recall_at_10 == pytest.approx(sum(best) / len(best))


@given(cases(ties=False), st.randoms(use_true_random=False))
def test_the_order_of_candidates_counts_only_among_equal_scores(case: Case, source: Random) -> None:
    scores, relevant = case
    order = list(range(scores.shape[1]))
    source.shuffle(order)
    moved = [frozenset(order.index(column) for column in wanted) for wanted in relevant]
    assert rank_metrics(scores[:, order], moved) == rank_metrics(scores, relevant)


@given(cases(), st.integers(1, 4))
def test_blocks_of_queries_have_the_measures_of_all(case: Case, size: int) -> None:
    scores, relevant = case
    starts = range(0, len(scores), size)
    parts = [rank_metrics(scores[s : s + size], relevant[s : s + size]) for s in starts]
    assert numbers(mean_metrics(parts)) == pytest.approx(numbers(rank_metrics(scores, relevant)))


@pytest.mark.parametrize(
    ("scores", "relevant", "words"),
    [
        ([[1.0, 2.0]], [], r"\[1, 2\] for 0 queries"),
        ([[]], [frozenset({0})], "at least one of each"),
        ([[1.0, math.nan]], [frozenset({0})], "NaN"),
        ([[1.0, 2.0]], [frozenset()], "query 0"),
        ([[1.0, 2.0]], [frozenset({2})], r"\[2\]"),
        ([[1.0, 2.0]], [frozenset({-1})], r"\[-1\]"),
    ],
)
def test_scores_without_a_meaning_are_refused(
    scores: list[list[float]], relevant: list[frozenset[int]], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        rank_metrics(np.array(scores, np.float32), relevant)


def test_equal_queries_and_equal_candidates_are_one(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    rows = [
        {"query": "q1", "passage": "a.png", "id": 7},
        {"query": "q2", "image": "a.png"},
        {"query": "q1", "image": "./a.png", "passage": None},
        {"query": "q1", "passage": "a.png"},
    ]
    path = write_pairs(tmp_path / "pairs.jsonl", rows)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\n"))
    pairs = read_pairs(path)
    assert [query.content for query in pairs.queries] == ["q1", "q2"]
    assert [item.content for item in pairs.candidates] == ["a.png", tmp_path / "a.png"]
    assert pairs.relevant == (frozenset({0, 1}), frozenset({1}))
    assert pairs.num_pairs == 4
    assert not pairs.texts_only
    assert read_pairs(path, 1).candidates == pairs.candidates[:1]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"query": "q", "passage": ', ":2: not valid JSON"),
        ('["q", "p"]', ":2: holds"),
        ('{"passage": "p"}', ":2: has no query"),
        ('{"query": 5, "passage": "p"}', ":2: query is 5"),
        ('{"query": "q"}', ":2: has neither"),
        ('{"query": "q", "passage": "p", "image": "i.png"}', ":2: has a passage and an image"),
        ('{"query": "q", "image": "absent.png"}', "absent.png' does not exist"),
        ('{"query": "q", "image": "' + "x" * 5000 + '"}', ":2: the image"),
        ('{"query": "\\ud800", "passage": "p"}', ":2: character 1"),
        ('{"query": "q", "image": "notes.png"}', ":2 ("),
    ],
)
def test_a_bad_line_is_named_and_ends_with_code_2(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, words: str
) -> None:
    (tmp_path / "notes.png").write_text("no image")
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"query": "q", "passage": "p"}\n' + line + "\n", encoding="utf-8")
    assert evaluate(nano_bundle, "--pairs", path) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{path}:2" in captured.err
    assert words in captured.err


def test_other_bad_input_ends_with_code_2(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_pairs(tmp_path / "pairs.jsonl", [{"query": "q", "passage": "p"}])
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "latin.jsonl").write_bytes('{"query": "é"}'.encode("latin-1"))
    for arguments, words in (
        (("--pairs", tmp_path / "empty.jsonl"), "holds no pair"),
        (("--pairs", tmp_path / "latin.jsonl"), "latin.jsonl:1: byte"),
        (("--pairs", tmp_path / "absent.jsonl"), "cannot be read"),
        (("--pairs", path, "--limit", 0), "at least 1"),
        (("--pairs", path, "--dim", 257), "--dim is 257"),
        (("--pairs", path, "--task", "law"), "task is 'law'"),
        (("--pairs", path, "--engine", "other"), "no engine 'other'"),
    ):
        assert evaluate(nano_bundle, *arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert words in captured.err


def test_captions_find_their_images(
    nano_bundle: Path, image_pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--dim", 256, "--dim", 64, "--multi-vector", "--json")
    assert evaluate(nano_bundle, "--pairs", image_pairs, *options) == 0
    captured = capsys.readouterr()
    content = json.loads(captured.out)
    assert (content["task"], content["pairs"]) == ("retrieval", 24)
    rows = content["results"]
    assert [(row["vectors"], row["dim"]) for row in rows] == [
        ("single", 256),
        ("single", 64),
        ("multi", None),
    ]
    for row in rows:
        assert (row["engine"], row["queries"], row["candidates"]) == ("ort-fp32", 24, 24)
        assert row["ndcg_at_10_difference"] is None
    assert rows[0]["recall_at_1"] >= 0.8
    assert rows[2]["recall_at_1"] >= 0.8
    assert rows[0]["recall_at_10"] >= rows[0]["ndcg_at_10"] >= rows[0]["recall_at_1"]
    assert "48 items embedded in" in captured.err


def test_runtime_adapters_are_measured_like_merged_ones(
    nano_bundle: Path,
    nano_runtime_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = demo_pairs(tmp_path, "English text → text")
    tables = []
    for bundle in (nano_bundle, nano_runtime_bundle):
        assert evaluate(bundle, "--pairs", path) == 0
        captured = capsys.readouterr()
        tables.append([line.split() for line in captured.out.splitlines()])
        assert "texts/s" in captured.err
    heading, row = tables[0]
    assert tables[1][0] == heading
    assert tables[1][1][1:] == row[1:]
    measures = ["recall@1", "recall@5", "recall@10", "MRR@10", "nDCG@10"]
    assert heading == ["engine", "vectors", "queries", "candidates", *measures]
    assert row[:3] == ["ort-fp32", "single", "256"]
    assert tables[1][1][0] == "ort-fp32-runtime"
    assert float(row[5]) >= 0.8


def test_results_are_those_of_vectors_embedded_apart(nano_bundle: Path, tmp_path: Path) -> None:
    pairs = read_pairs(demo_pairs(tmp_path, "English text → text"))
    embedder = Embedder.load(nano_bundle, self_test=False)
    options = EvaluationOptions(task="retrieval", dims=(64,), single=True, multi=True)
    steps: list[int] = []
    found = evaluate_pairs(embedder, pairs, options, steps.append)
    assert sum(steps) == num_steps(pairs, options)
    sides = [
        embedder.encode(
            [item.item() for item in items],
            "retrieval",
            prompt_name=prompt,
            truncate_dim=64,
            return_multivector=True,
        )
        for items, prompt in ((pairs.queries, "query"), (pairs.candidates, "passage"))
    ]
    scores = [
        np.array([[q @ c for c in sides[1].single] for q in sides[0].single], np.float32),
        np.array(
            [[(q @ c.T).max(1).sum() for c in sides[1].multi] for q in sides[0].multi], np.float32
        ),
    ]
    want = [literal_metrics(matrix, pairs.relevant) for matrix in scores]
    for result, dim, metrics in zip(found.results, (64, None), want, strict=True):
        assert result.dim == dim
        assert numbers(result.metrics) == pytest.approx(numbers(metrics))


def test_small_blocks_have_the_same_results(
    nano_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = read_pairs(demo_pairs(tmp_path, "Docstring → Python function"))
    embedder = Embedder.load(nano_bundle, self_test=False)
    options = EvaluationOptions(task="code", dims=(256, 128), single=True, multi=True)
    whole = evaluate_pairs(embedder, pairs, options).results
    monkeypatch.setattr(evaluation, "BLOCK_SCORES", 1)
    monkeypatch.setattr(evaluation, "NUM_ITEMS", 3)
    apart = evaluate_pairs(embedder, pairs, options).results
    for one, other in zip(whole, apart, strict=True):
        assert numbers(one.metrics) == pytest.approx(numbers(other.metrics))


def test_engines_stand_side_by_side(
    two_engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = demo_pairs(tmp_path, "English text → text")
    assert evaluate(two_engines, "--pairs", path, "--limit", 5, "--multi-vector", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    assert [row["engine"] for row in rows] == ["ort-fp32", "twin"]
    assert [row["ndcg_at_10_difference"] for row in rows] == [None, 0.0]
    assert evaluate(two_engines, "--pairs", path, "--limit", 5, "--engine", "twin") == 0
    captured = capsys.readouterr()
    assert "ort-fp32" not in captured.out + captured.err
    assert "difference" not in captured.out


def test_the_engine_that_auto_stands_for_is_measured_first(
    two_engines: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def the_other(bundle: Bundle, name: str = "auto", host: object = None) -> Selection:
        return Selection(engine_named(bundle, "twin" if name == "auto" else name), None, ())

    monkeypatch.setattr("trine.runtime.engines.select.select_engine", the_other)
    path = demo_pairs(tmp_path, "English text → text")
    assert evaluate(two_engines, "--pairs", path, "--limit", 2, "--json") == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    assert [row["engine"] for row in rows] == ["twin", "ort-fp32"]


def test_differences_are_to_the_first_engine() -> None:
    def engine_run(*values: float) -> EngineResult:
        results = (
            VectorResult(dim, rank_metrics(np.ones((1, 1), np.float32), [frozenset({0})]))
            for dim in (256, None)
        )
        changed = (
            dataclasses.replace(r, metrics=dataclasses.replace(r.metrics, ndcg_at_10=value))
            for r, value in zip(results, values, strict=True)
        )
        return EngineResult(results=tuple(changed), num_truncated=0, encode_s=1.0, score_s=1.0)

    rows = result_rows({"a": engine_run(0.5, 0.75), "b": engine_run(0.625, 0.5)}, 9)
    assert [row.ndcg_at_10_difference for row in rows] == [None, None, 0.125, -0.25]
    table = table_rows(rows)
    assert table[0][-1] == "difference"
    assert [row[-1] for row in table[1:]] == ["first", "first", "+0.1250", "-0.2500"]
    assert [row[1] for row in table[1:]] == ["single 256", "multi"] * 2


def test_a_image_of_no_usable_shape_is_named_by_its_line(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (3000, 4)).save(tmp_path / "strip.png")
    rows = [{"query": "q", "passage": "p"}, {"query": "q", "image": "strip.png"}]
    path = write_pairs(tmp_path / "pairs.jsonl", rows)
    assert evaluate(nano_bundle, "--pairs", path) == 2
    assert f"{path}:2: an image of 3000×4 pixels" in capsys.readouterr().err
