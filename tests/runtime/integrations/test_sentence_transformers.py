"""A bundle loaded by sentence-transformers gives the vectors of `Embedder`."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from trine.runtime.embedder import Embedder
from trine.runtime.errors import InputError
from trine.runtime.inputs import ImageText

st = pytest.importorskip("sentence_transformers", minversion="6.0")
TrineModule = pytest.importorskip("trine.runtime.integrations.sentence_transformers").TrineModule
pytestmark = pytest.mark.filterwarnings("default")
TEXTS = ["a chess game", "a relational database with SQL queries", "bread", "déjà vu 中文"]


@pytest.fixture(scope="module")
def embedder(nano_bundle: Path) -> Embedder:
    return Embedder.load(nano_bundle)


@pytest.fixture(scope="module")
def model(nano_bundle: Path) -> "st.SentenceTransformer":
    return st.SentenceTransformer(str(nano_bundle), trust_remote_code=True)


def near(found: object, want: object) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(want), atol=1e-6)


def test_a_bundle_names_its_module(nano_bundle: Path) -> None:
    (module,) = json.loads((nano_bundle / "modules.json").read_text(encoding="utf-8"))
    assert module["type"].endswith("integrations.sentence_transformers.TrineModule")


def test_queries_and_documents_are_the_embedders(model, embedder) -> None:
    queries, passages = (
        embedder.encode_text(TEXTS, "retrieval", prompt_name=p) for p in ("query", "passage")
    )
    assert np.abs(queries - passages).max() > 1e-3
    near(model.encode_query(TEXTS), queries)
    near(model.encode_document(TEXTS), passages)
    near(model.encode(TEXTS, prompt_name="query"), queries)
    near(model.encode(TEXTS, prompt_name="passage"), passages)
    near(model.encode(TEXTS, prompt="Passage: "), passages)
    near(model.encode(TEXTS), queries)
    near(model.encode(TEXTS[0]), queries[0])
    assert model.encode([]).shape == (0,)


@pytest.mark.parametrize("task", ["text-matching", "code", "code.passage", "retrieval.passage"])
def test_a_task_is_named_as_elsewhere(model, embedder, task: str) -> None:
    near(model.encode(TEXTS, task=task), embedder.encode_text(TEXTS, task))


def test_the_adapter_of_calls_that_name_none_is_chosen_at_load(nano_bundle, embedder) -> None:
    coder = st.SentenceTransformer(
        str(nano_bundle),
        trust_remote_code=True,
        model_kwargs={"task": "code", "threads": 1, "engine": "ort-fp32"},
    )
    near(coder.encode_document(TEXTS), embedder.encode_text(TEXTS, "code", prompt_name="passage"))


def test_cut_vectors_are_the_embedders(nano_bundle, embedder) -> None:
    short = st.SentenceTransformer(str(nano_bundle), trust_remote_code=True, truncate_dim=64)
    found = short.encode_query(TEXTS, normalize_embeddings=True)
    near(found, embedder.encode_text(TEXTS, "retrieval", truncate_dim=64))
    assert short.get_embedding_dimension() == 64


def test_images_and_items_of_both(model, embedder) -> None:
    image = Image.new("RGB", (56, 84), "red")
    want = embedder.encode([ImageText((image,))], "retrieval").single
    near(model.encode([image]), want)
    near(model.encode([{"image": image}]), want)
    want = embedder.encode(
        [ImageText((image,), "a wall")], "retrieval", prompt_name="passage"
    ).single
    near(model.encode_document([{"image": image, "text": "a wall"}]), want)


def test_similarity_and_size(model, embedder) -> None:
    query, documents = model.encode_query(TEXTS[:1]), model.encode_document(TEXTS)
    near(model.similarity(query, documents), query @ documents.T)
    assert model.get_embedding_dimension() == 256
    assert model.max_seq_length == 32768


def test_multi_vectors_are_the_embedders(nano_bundle, embedder) -> None:
    multi = st.MultiVectorEncoder(modules=[TrineModule.load(str(nano_bundle))])
    for found, prompt in (
        (multi.encode_query(TEXTS), "query"),
        (multi.encode_document(TEXTS), "passage"),
    ):
        want = embedder.encode_text(TEXTS, "retrieval", prompt_name=prompt, return_multivector=True)
        for ours, theirs in zip(found, want, strict=True):
            near(ours, theirs)


@pytest.mark.slow
def test_several_processes_give_the_same(model, embedder) -> None:
    pool = model.start_multi_process_pool(["cpu", "cpu"])
    try:
        found = model.encode(TEXTS * 4, prompt_name="passage", pool=pool, chunk_size=4)
    finally:
        model.stop_multi_process_pool(pool)
    near(found, embedder.encode_text(TEXTS * 4, "retrieval", prompt_name="passage"))


def test_a_saved_model_is_a_bundle(model, embedder, tmp_path: Path) -> None:
    model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    near(Embedder.load(tmp_path / "saved").encode_text(TEXTS, "code"), want_code(embedder))
    again = st.SentenceTransformer(str(tmp_path / "saved"), trust_remote_code=True)
    near(again.encode(TEXTS, task="code"), want_code(embedder))


def want_code(embedder: Embedder) -> NDArray[np.float32]:
    return embedder.encode_text(TEXTS, "code")


def test_what_the_model_has_not_is_one_sentence(model, nano_bundle) -> None:
    with pytest.raises(InputError, match=r"prompt is 'poem: '; this model knows"):
        model.encode(TEXTS, prompt="poem: ")
    with pytest.raises(InputError, match="task is 'poems'; known are"):
        model.encode(TEXTS, task="poems")
    with pytest.raises(InputError, match=r"model_kwargs has \['torch_dtype'\]"):
        st.SentenceTransformer(
            str(nano_bundle), trust_remote_code=True, model_kwargs={"torch_dtype": "auto"}
        )


@pytest.mark.slow
def test_loading_adds_little_to_the_embedders(nano_bundle: Path) -> None:
    times = []
    for load in (
        lambda: Embedder.load(nano_bundle),
        lambda: st.SentenceTransformer(str(nano_bundle), trust_remote_code=True),
    ):
        started = time.perf_counter()
        load()
        times.append(time.perf_counter() - started)
    print(f"Embedder.load {times[0]:.2f} s, SentenceTransformer {times[1]:.2f} s")
    assert times[1] < times[0] + 0.5


def test_the_examples_of_the_page_run(run_examples) -> None:
    run_examples(lambda block: "sentence_transformers" in block, 2)
