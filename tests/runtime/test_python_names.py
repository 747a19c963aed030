"""Names of sentence-transformers and of the published API work in Python."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trine.runtime.embedder import Embedder
from trine.runtime.errors import InputError
from trine.runtime.inference.batch_planner import BatchLimits
from trine.runtime.inputs import StreamItem

TEXTS = ["how tall is the tower", "the tower is 330 m tall"]


@pytest.fixture(scope="module")
def embedder(nano_bundle: Path) -> Embedder:
    return Embedder.load(nano_bundle, self_test=False, engine="ort-fp32")


@pytest.fixture(scope="module")
def sides(embedder: Embedder) -> dict[str, Any]:
    """The vectors of the texts as each side; they differ."""
    found = {
        side: embedder.encode_text(TEXTS, "retrieval", prompt_name=side)
        for side in ("query", "passage")
    }
    assert np.abs(found["query"] - found["passage"]).max() > 1e-3
    return found


def test_queries_and_documents_are_embedded_as_their_sides(
    embedder: Embedder, sides: dict[str, Any]
) -> None:
    np.testing.assert_array_equal(embedder.encode_query(TEXTS, "retrieval"), sides["query"])
    np.testing.assert_array_equal(embedder.encode_document(TEXTS, "retrieval"), sides["passage"])
    one = embedder.encode_query(TEXTS[0], "retrieval", truncate_dim=64)
    assert (type(one), one.shape) == (np.ndarray, (64,))
    multi = embedder.encode_document(TEXTS, "retrieval", return_multivector=True)
    assert [rows.ndim for rows in multi] == [2, 2]


def test_the_size_of_vectors_is_told(embedder: Embedder, sides: dict[str, Any]) -> None:
    assert embedder.get_sentence_embedding_dimension() == sides["query"].shape[1]


def test_similarity_is_the_cosine(embedder: Embedder, sides: dict[str, Any]) -> None:
    found = embedder.similarity(sides["query"], sides["passage"])
    np.testing.assert_allclose(found, sides["query"] @ sides["passage"].T, atol=1e-6)
    assert embedder.similarity(sides["query"][0], sides["query"][0]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("vectors", "fragment"),
    [
        ([np.ones((2, 4), np.float32), np.ones((3, 4), np.float32)], "multi-vectors"),
        (np.ones((2, 16), np.uint8), "uint8; give float vectors"),
    ],
)
def test_what_has_no_cosine_is_refused(embedder: Embedder, vectors: Any, fragment: str) -> None:
    with pytest.raises(InputError, match=f"^a (holds|is of dtype) {fragment}"):
        embedder.similarity(vectors, vectors)


@pytest.mark.parametrize("side", ["query", "passage"])
def test_a_task_may_be_named_with_its_side(
    embedder: Embedder, sides: dict[str, Any], side: str
) -> None:
    name = f"retrieval.{side}"
    np.testing.assert_array_equal(embedder.encode_text(TEXTS, name), sides[side])
    np.testing.assert_array_equal(embedder.encode_text(TEXTS, name, prompt_name=side), sides[side])
    np.testing.assert_array_equal(embedder.encode_text(TEXTS, [name] * 2), sides[side])
    np.testing.assert_array_equal(embedder.encode(TEXTS, name).single, sides[side])
    streamed = embedder.encode_stream(TEXTS, name)
    np.testing.assert_array_equal(np.stack([one.single for one in streamed]), sides[side])
    of_items = embedder.encode_stream([StreamItem(text, name) for text in TEXTS])
    np.testing.assert_array_equal(np.stack([one.single for one in of_items]), sides[side])


def test_a_list_of_tasks_may_name_several_sides(embedder: Embedder, sides: dict[str, Any]) -> None:
    found = embedder.encode(TEXTS, ["retrieval.query", "retrieval.passage"]).single
    assert found is not None
    np.testing.assert_allclose(found[0], sides["query"][0], atol=1e-6)
    np.testing.assert_allclose(found[1], sides["passage"][1], atol=1e-6)


def test_an_item_of_a_stream_goes_before_the_call(
    embedder: Embedder, sides: dict[str, Any]
) -> None:
    items = [StreamItem(TEXTS[0], prompt_name="passage"), StreamItem(TEXTS[1], "retrieval.passage")]
    for options in ({"task": "retrieval.query"}, {"task": "retrieval", "prompt_name": "query"}):
        found = np.stack([one.single for one in embedder.encode_stream(items, **options)])
        np.testing.assert_allclose(found, sides["passage"], atol=1e-6)


@pytest.mark.parametrize("method", ["encode", "encode_text", "encode_stream"])
def test_a_task_and_a_prompt_that_contradict_are_refused(embedder: Embedder, method: str) -> None:
    sentence = (
        "^task 'retrieval.query' names the side 'query', but prompt_name is 'passage'; "
        "give one of the two$"
    )
    with pytest.raises(InputError, match=sentence):
        getattr(embedder, method)(TEXTS, "retrieval.query", prompt_name="passage")
    with pytest.raises(InputError, match=r"^item 1: task 'code\.query' names"):
        list(embedder.encode_stream(["a", StreamItem("b", "code.query", "passage")], "code"))


@pytest.mark.parametrize("name", ["retrieval.document", "retrieval.", ".query", "none.query"])
def test_other_names_are_no_tasks(embedder: Embedder, name: str) -> None:
    with pytest.raises(InputError, match=r"task is .*; known are"):
        embedder.encode_text(TEXTS, name)


@pytest.mark.parametrize("value", [0, -1, 1.5, "8", None, True])
@pytest.mark.parametrize("field", ["tokens", "patches", "window_tokens"])
def test_limits_are_whole_numbers(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^BatchLimits.{field} is .*whole number of at least 1"):
        BatchLimits(**{field: value})


def test_limits_of_numpy_are_as_good_and_others_are_refused(nano_bundle: Path) -> None:
    assert type(BatchLimits(tokens=np.int64(8)).tokens) is int  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^limits is 512; give a BatchLimits"):
        Embedder.load(nano_bundle, limits=512)  # type: ignore[arg-type]
