"""`trine search`: the best rows of a dataset folder, exactly."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trine.runtime.bulk import search
from trine.runtime.bulk.search import open_dataset, search_dataset
from trine.runtime.commands.program import main
from trine.runtime.embedder import Embedder
from trine.runtime.errors import InputError
from trine.runtime.scoring.similarity import maxsim

pytest.importorskip("pyarrow", reason="needs the `parquet` extra")
WORDS = ["chess", "bread", "database", "compiler", "river", "stone", "music", "red"]
TEXTS = [f"{a} and {b}" for a in WORDS for b in WORDS if a != b]
QUERY = "a chess game"
Embed = Callable[..., Path]


@pytest.fixture(scope="module")
def embedder(nano_bundle: Path) -> Embedder:
    return Embedder.load(nano_bundle, self_test=False)


@pytest.fixture
def embed(nano_bundle: Path, tmp_path: Path) -> Embed:
    """Embeds inputs into a folder."""

    def run(*arguments: object) -> Path:
        options = ("-o", f"{tmp_path}/out/", "--task", "retrieval", "--prompt", "passage")
        assert main(list(map(str, ("embed", nano_bundle, *arguments, *options)))) == 0
        return tmp_path / "out"

    return run


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return path


def found(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["search", *map(str, arguments), "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "binary", "ubinary"])
def test_single_vectors_rank_by_cosine_over_all_shards(
    embed: Embed,
    texts: Path,
    embedder: Embedder,
    dtype: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "SINGLE_ROWS", 5)
    out = embed(texts, "--shard-rows", 20, "--output-dtype", dtype, "--dim", 64)
    query = embedder.encode_text(QUERY, "retrieval", prompt_name="query", truncate_dim=64)
    stored = embedder.encode_text(
        TEXTS, "retrieval", prompt_name="passage", truncate_dim=64, output_dtype=dtype
    )
    if dtype in ("binary", "ubinary"):
        packed = (stored.astype(np.int16) + 128 * (dtype == "binary")).astype(np.uint8)
        stored = np.unpackbits(packed, axis=1) * 2.0 - 1
    values = stored.astype(np.float64)
    scores = values @ query / np.linalg.norm(values, axis=1)
    hits = found(capsys, out, QUERY, "--top-k", 7)
    assert [hit["row"] - 1 for hit in hits] == np.argsort(-scores, kind="stable")[:7].tolist()
    assert np.allclose([hit["score"] for hit in hits], np.sort(scores)[::-1][:7], atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "ubinary"])
def test_multi_vectors_rank_by_maxsim(
    embed: Embed,
    texts: Path,
    embedder: Embedder,
    dtype: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "MULTI_ROWS", 3)
    out = embed(texts, "--shard-rows", 20, "--multi-vector", "--output-dtype", dtype)
    query, documents = (
        embedder.encode_text(
            items, "retrieval", prompt_name=prompt, return_multivector=True, output_dtype=kind
        )
        for items, prompt, kind in (([QUERY], "query", "float32"), (TEXTS, "passage", dtype))
    )
    if dtype == "ubinary":
        documents = [np.unpackbits(rows, axis=1) * 2.0 - 1 for rows in documents]
        documents = [rows / np.linalg.norm(rows[0]) for rows in documents]
    scores = maxsim(query, [rows.astype(np.float32) for rows in documents])[0]
    hits = found(capsys, out, QUERY, "--top-k", 5)
    assert np.allclose([hit["score"] for hit in hits], np.sort(scores)[::-1][:5], atol=1e-4)
    assert {hit["row"] - 1 for hit in hits} == set(np.argsort(-scores, kind="stable")[:5].tolist())


def test_of_equal_scores_the_earlier_row_comes_first(
    embed: Embed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "same.txt").write_text("same\n" * 9, encoding="utf-8")
    out = embed(tmp_path / "same.txt", "--shard-rows", 2)
    assert [hit["row"] for hit in found(capsys, out, "same", "--top-k", 4)] == [1, 2, 3, 4]
    assert len(found(capsys, out, "same", "--top-k", 100)) == 9


def test_kept_columns_and_texts_are_shown(
    embed: Embed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": str(i), "text": text, "year": 1990 + i} for i, text in enumerate(TEXTS[:9])]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out = embed(path, "--keep", "year")
    best = found(capsys, out, TEXTS[3], "--top-k", 1)[0]
    assert (best["id"], best["year"]) == ("3", 1993)
    assert main(["search", str(out), TEXTS[3], "--top-k", "2"]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("  1  ")
    assert TEXTS[3] in line


def test_the_page_has_thumbnails_and_nothing_from_outside(
    embed: Embed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for color in ("red", "blue"):
        Image.new("RGB", (700, 400), color).save(folder / f"{color}.png")
    Image.new("RGB", (200, 280), "white").save(folder / "a.pdf")
    (folder / "notes.txt").write_text("<b>bold</b> words\n", encoding="utf-8")
    out, page = embed(folder), tmp_path / "page.html"
    assert main(["search", str(out), "<i>red", "--html", str(page)]) == 0
    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/jpeg;base64,") == 3
    assert "&lt;b&gt;bold&lt;/b&gt; words" in html
    assert "<title>&lt;i&gt;red</title>" in html
    assert re.findall(r"(?:src|href)=\"(?!data:)", html) == []
    (folder / "red.png").unlink()
    assert main(["search", str(out), "red", "--html", str(page)]) == 0
    assert page.read_text(encoding="utf-8").count("data:image/jpeg;base64,") == 2
    best = found(capsys, out, "--image", folder / "blue.png", "--top-k", 1)[0]
    assert best["source"].endswith("blue.png")


def test_what_cannot_be_searched_is_one_sentence(
    embed: Embed,
    texts: Path,
    nano_bundle: Path,
    golden_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = embed(texts, "--shard-rows", 20)

    def refused(*arguments: object) -> str:
        capsys.readouterr()
        assert main(["search", *map(str, arguments)]) == 2
        return capsys.readouterr().err

    assert "give a text to search for, or --image" in refused(out)
    assert "and not both" in refused(out, "a", "--image", "b.png")
    assert "--top-k is 0" in refused(out, "a", "--top-k", 0)
    assert "holds no shard of a dataset" in refused(tmp_path / "nowhere", "a")
    assert "is not the bundle that embedded" in refused(out, "a", "--bundle", golden_bundle)
    query = np.ones(3, np.float32)
    with pytest.raises(InputError, match=r"shape \[3\]; the dataset has vectors of 256"):
        search_dataset(open_dataset(out), query, 3)
    (out / "_SUCCESS").unlink()
    (out / "_manifest.json").unlink()
    assert "does not say which bundle embedded it" in refused(out, "a")
    capsys.readouterr()
    assert main(["search", str(out), "a", "--bundle", str(nano_bundle)]) == 0
    assert "its job is not finished; 56 rows are searched" in capsys.readouterr().err
    shard = out / "part-000001.parquet"
    shutil.copyfile(shard, tmp_path / "whole")
    shard.write_bytes((tmp_path / "whole").read_bytes()[:-100])
    assert "make the dataset anew" in refused(out, "a", "--bundle", nano_bundle)
