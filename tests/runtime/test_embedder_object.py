"""An `Embedder` as an object: pickled, copied, closed; and the kinds of lists it reads."""

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trine.runtime.embedder import Embedder
from trine.runtime.errors import InputError

TEXTS = ["a", "Straße", ""]


@pytest.fixture(scope="module")
def embedder(nano_bundle: Path) -> Embedder:
    found = Embedder.load(nano_bundle, self_test=False, tasks=["retrieval"], engine="ort-fp32")
    found.task = "retrieval"
    return found


def vectors(embedder: Embedder) -> NDArray[Any]:
    return np.asarray(embedder.encode(TEXTS))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_a_copy_opens_the_bundle_with_the_same_options(
    embedder: Embedder, copied: Callable[[Embedder], Embedder]
) -> None:
    other = copied(embedder)
    assert other is not embedder
    assert (other.tasks, other.task) == (("retrieval",), "retrieval")
    np.testing.assert_array_equal(vectors(other), vectors(embedder))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_an_embedder_is_sent_to_processes(embedder: Embedder, method: str) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context(method)) as pool:
        found = pool.submit(embedder.encode_text, TEXTS).result(timeout=120)
    np.testing.assert_array_equal(found, vectors(embedder))


def test_a_closed_embedder_says_so(nano_bundle: Path) -> None:
    with Embedder.load(nano_bundle, self_test=False, tasks=["code"]) as embedder:
        embedder.encode_text("a", "code")
    embedder.close()
    for use in (
        lambda: embedder.encode_text("a", "code"),
        lambda: embedder.encode(["a"], "code"),
        lambda: embedder.description,
    ):
        with pytest.raises(InputError, match="closed"):
            use()
    with pytest.raises(TypeError, match="closed"):
        pickle.dumps(embedder)


def test_an_array_of_embeddings_is_their_single_vectors(embedder: Embedder) -> None:
    found = embedder.encode(TEXTS)
    assert np.asarray(found) is found.single
    assert np.asarray(found, np.float64).dtype == np.float64
    assert np.array(found) is not found.single
    multi = embedder.encode(TEXTS, return_single=False, return_multivector=True)
    with pytest.raises(TypeError, match="multi"):
        np.asarray(multi)


def _arrow(texts: list[Any]) -> object:
    return pytest.importorskip("pyarrow").array(texts)


LISTS: list[Callable[[list[Any]], Any]] = [
    tuple, iter, np.array, _arrow, lambda texts: dict.fromkeys(texts).keys(),
    lambda texts: dict(enumerate(texts)).values(),
]  # fmt: skip


@pytest.mark.parametrize("make", LISTS)
def test_texts_of_any_ordered_iterable_are_read_in_order(
    embedder: Embedder, make: Callable[[list[Any]], Any]
) -> None:
    np.testing.assert_array_equal(embedder.encode_text(make(TEXTS)), vectors(embedder))


@pytest.mark.parametrize("missing", [None, float("nan"), np.float32("nan")])
def test_a_missing_text_is_named_by_its_index(embedder: Embedder, missing: Any) -> None:
    with pytest.raises(InputError, match=r"^text 1 is a .*missing"):
        embedder.encode_text(np.array(["a", missing], object))


@pytest.mark.parametrize("texts", [{"a": "b"}, {"a", "b"}, frozenset("a")])
def test_texts_without_an_order_are_refused(embedder: Embedder, texts: Any) -> None:
    with pytest.raises(InputError, match="give a str or a list of str"):
        embedder.encode_text(texts)
