"""LangChain, LlamaIndex and Haystack get the vectors of `Embedder`, each side as its own."""

import asyncio
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from trine.runtime.embedder import Embedder
from trine.runtime.errors import InputError
from trine.runtime.inputs import ImageText

pytestmark = pytest.mark.filterwarnings("default")
TEXTS = ["a chess game", "a relational database with SQL queries", "déjà vu 中文"]


@pytest.fixture(scope="module")
def embedder(nano_bundle: Path) -> Embedder:
    return Embedder.load(nano_bundle)


@pytest.fixture(scope="module")
def sides(embedder: Embedder) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors of the texts as queries, and as passages."""
    queries, passages = (
        embedder.encode_text(TEXTS, "retrieval", prompt_name=p) for p in ("query", "passage")
    )
    assert np.abs(queries - passages).max() > 1e-3
    return queries, passages


def near(found: object, want: object) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(want), atol=1e-6)


def load(library: str, module: str) -> Any:
    pytest.importorskip(library)
    return importlib.import_module(f"trine.runtime.integrations.{module}")


def test_langchain(embedder: Embedder, sides: Any) -> None:
    ours = load("langchain_core", "langchain").TrineEmbeddings(embedder)
    from langchain_core.vectorstores import InMemoryVectorStore

    near(ours.embed_documents(TEXTS), sides[1])
    near(ours.embed_query(TEXTS[0]), sides[0][0])
    near(asyncio.run(ours.aembed_query(TEXTS[0])), sides[0][0])
    store = InMemoryVectorStore.from_texts(TEXTS, ours)
    assert store.similarity_search("chess", k=1)[0].page_content == TEXTS[0]
    short = type(ours)(embedder, task="code", truncate_dim=64)
    want = embedder.encode_text(TEXTS, "code", prompt_name="passage", truncate_dim=64)
    near(short.embed_documents(TEXTS), want)


def test_llama_index(embedder: Embedder, sides: Any, tmp_path: Path) -> None:
    ours = load("llama_index.core", "llama_index").TrineEmbedding(embedder)
    near(ours.get_text_embedding_batch(TEXTS), sides[1])
    near(ours.get_query_embedding(TEXTS[0]), sides[0][0])
    near(asyncio.run(ours.aget_query_embedding(TEXTS[0])), sides[0][0])
    path = tmp_path / "red.png"
    Image.new("RGB", (56, 84), "red").save(path)
    want = embedder.encode([ImageText((str(path),))], "retrieval", prompt_name="passage").single
    near(ours.get_image_embedding_batch([str(path)]), want)
    near(ours.get_image_embedding(path), want[0])
    assert ours.model_name == "nano"


def test_haystack(nano_bundle: Path, sides: Any) -> None:
    module = load("haystack", "haystack")
    from haystack import Document, Pipeline

    text = module.TrineTextEmbedder(str(nano_bundle))
    documents = module.TrineDocumentEmbedder(str(nano_bundle), meta_fields=["title"])
    near(text.run(TEXTS[0])["embedding"], sides[0][0])
    given = [Document(content=text) for text in TEXTS]
    found = documents.run(given)["documents"]
    near([document.embedding for document in found], sides[1])
    assert given[0].embedding is None
    titled = Document(content="game", meta={"title": "a chess"})
    near(
        documents.run([titled])["documents"][0].embedding,
        Embedder.load(nano_bundle).encode_text("a chess\ngame", "retrieval", prompt_name="passage"),
    )
    pipeline = Pipeline()
    pipeline.add_component("text", text)
    again = Pipeline.loads(
        pipeline.dumps(), allowed_modules=["trine.runtime.integrations.haystack"]
    )
    near(again.run({"text": {"text": TEXTS[0]}})["text"]["embedding"], sides[0][0])
    with pytest.raises(InputError, match=r"document 0 .* has no content"):
        documents.run([Document(content=None, meta={"a": 1})])
    with pytest.raises(InputError, match="text is a list"):
        text.run(TEXTS)


def test_the_examples_of_the_page_run(run_examples: Any) -> None:
    run_examples(lambda block: "sentence_transformers" not in block, 3)
