"""An `Embedder` as an object: pickled, copied, closed; and the kinds of lists it reads."""

import copy
import pickle
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trine.runtime.embedder import Embedder
from trine.runtime.errors import CheckpointError, InputError

PEFT = Path(__file__).parents[1] / "data" / "golden" / "checkpoint" / "adapters"
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


def _vectors_in(embedder: Embedder, results: Any) -> None:
    results.put(embedder.encode_text(TEXTS))


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_process_uses_the_embedder_of_its_parent(nano_bundle: Path, threads: int) -> None:
    """Threads are not forked: whoever has used the embedder before must not leave a lock behind."""
    used = Embedder.load(nano_bundle, tasks=["retrieval"], engine="ort-fp32", threads=threads)
    used.task = "retrieval"
    want = used.encode_text(TEXTS)
    context = get_context("fork")
    results = context.Queue()
    child = context.Process(target=_vectors_in, args=(used, results))
    child.start()
    try:
        found = results.get(timeout=60)
    finally:
        child.kill()
        child.join()
    np.testing.assert_array_equal(found, want)
    np.testing.assert_array_equal(used.encode_text(TEXTS), want)


def test_adapters_that_were_loaded_are_loaded_on_the_other_side(
    golden_runtime_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = Embedder.load(golden_runtime_bundle, self_test=False, threads=1)
    monkeypatch.chdir(PEFT.parent)
    first.load_adapter("mine", PEFT.name, task="code")
    first.load_adapter("gone", PEFT.name, task="code")
    first.unload_adapter("gone")
    first.load_adapter("code", PEFT.name, task="retrieval")
    first.unload_adapter("text-matching")
    monkeypatch.chdir(tmp_path)
    other = pickle.loads(pickle.dumps(first))
    assert set(other.tasks) == set(first.tasks) == {"retrieval", "code", "mine"}
    for task in first.tasks:
        np.testing.assert_array_equal(other.encode(TEXTS, task), first.encode(TEXTS, task))
    assert (
        np.abs(np.subtract(other.encode(TEXTS, "mine"), other.encode(TEXTS, "code"))).max() > 0.01
    )


def test_an_adapter_that_is_gone_is_named_on_the_other_side(
    golden_runtime_bundle: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(PEFT, tmp_path / "adapters"))
    first = Embedder.load(golden_runtime_bundle, self_test=False, threads=1)
    first.load_adapter("mine", folder, task="code")
    pickled = pickle.dumps(first)
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match=re.escape(str(folder))):
        pickle.loads(pickled)


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


def _series(library: str) -> Callable[[list[Any]], object]:
    return lambda texts: pytest.importorskip(library).Series(texts)


LISTS: list[Callable[[list[Any]], Any]] = [
    tuple, iter, np.array, _arrow, _series("pandas"), _series("polars"),
    lambda texts: pytest.importorskip("pyarrow").chunked_array([texts[:1], texts[1:]]),
    lambda texts: dict.fromkeys(texts).keys(),
    lambda texts: dict(enumerate(texts)).values(),
]  # fmt: skip


@pytest.mark.parametrize("make", LISTS)
def test_texts_of_any_ordered_iterable_are_read_in_order(
    embedder: Embedder, make: Callable[[list[Any]], Any]
) -> None:
    np.testing.assert_array_equal(embedder.encode_text(make(TEXTS)), vectors(embedder))
    np.testing.assert_array_equal(embedder.encode(make(TEXTS)), vectors(embedder))
    streamed = [one.single for one in embedder.encode_stream(make(TEXTS))]
    np.testing.assert_array_equal(np.stack(streamed), vectors(embedder))


def _missing_in(library: str, element: str) -> object:
    """Return a list of another library whose second element is missing."""
    found = pytest.importorskip(library)
    if library == "pyarrow":
        return found.array(["a", None])
    if library == "polars":
        return found.Series(["a", None])
    return found.Series(["a", getattr(found, element)], dtype=object)


GAPS = [
    pytest.param(lambda: np.array(["a", None], object), id="None"),
    pytest.param(lambda: np.array(["a", float("nan")], object), id="nan"),
    pytest.param(lambda: np.array(["a", np.float32("nan")], object), id="float32"),
    *(
        pytest.param(lambda pair=pair: _missing_in(*pair), id="-".join(pair))
        for pair in (("pandas", "NA"), ("pandas", "NaT"), ("polars", "null"), ("pyarrow", "null"))
    ),
]


@pytest.mark.parametrize("make", GAPS)
def test_a_missing_text_is_named_by_its_index(embedder: Embedder, make: Callable[[], Any]) -> None:
    for method, words in (("encode_text", "text 1 "), ("encode", "item 1 ")):
        with pytest.raises(InputError, match=f"^{words}is a .*missing; drop it or "):
            getattr(embedder, method)(make())
    found = embedder.encode_stream(make())
    next(found)
    with pytest.raises(InputError, match=r"^item 1: is a .*missing; drop it or "):
        next(found)


@pytest.mark.parametrize("method", ["encode_text", "encode", "encode_stream"])
@pytest.mark.parametrize("texts", [{"a": "b"}, {"a", "b"}, frozenset("a"), b"a", Path("a"), 7])
def test_texts_without_an_order_are_refused(embedder: Embedder, method: str, texts: Any) -> None:
    with pytest.raises(InputError, match=f"is a {type(texts).__name__}; give a"):
        getattr(embedder, method)(texts)


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("method", ["encode_text", "encode", "encode_stream"])
def test_a_table_is_asked_for_one_column(embedder: Embedder, method: str, library: str) -> None:
    table = pytest.importorskip(library).DataFrame({"text": TEXTS})
    with pytest.raises(InputError, match=r"is a DataFrame; give one column of it, such as table"):
        getattr(embedder, method)(table)
    np.testing.assert_array_equal(embedder.encode_text(table["text"]), vectors(embedder))
