"""qdrant-client in embedded mode: pages of a document found by single, binary and multi-vectors."""

import base64
import io
import textwrap

import httpx
import numpy as np
import pytest

qdrant = pytest.importorskip("qdrant_client")
pytestmark = pytest.mark.clients

#: What the pages of the document are about; shapes are what the built-in checkpoint knows.
PAGES = ["red circle", "blue square", "green triangle", "purple hexagon"]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Real pages: a PDF file is made and its pages are rendered, as data URIs."""
    from PIL import Image, ImageDraw

    pdfium = pytest.importorskip("pypdfium2")
    sheets = []
    for title in PAGES:
        colour, shape = title.split()
        sheet = Image.new("RGB", (336, 336), "white")
        draw = ImageDraw.Draw(sheet)
        sides = {"circle": 64, "square": 4, "triangle": 3, "hexagon": 6}[shape]
        turn = 45 if shape == "square" else 0
        draw.regular_polygon((168, 160, 120), sides, rotation=turn, fill=colour)
        draw.text((20, 310), "\n".join(textwrap.wrap(f"Page about a {title}", 40)), fill="black")
        sheets.append(sheet)
    path = tmp_path_factory.mktemp("pdf") / "pages.pdf"
    sheets[0].save(path, save_all=True, append_images=sheets[1:], resolution=72)
    uris = []
    with pdfium.PdfDocument(path) as document:
        for page in document:
            file = io.BytesIO()
            page.render(scale=1).to_pil().save(file, "PNG")
            uris.append("data:image/png;base64," + base64.b64encode(file.getvalue()).decode())
    return uris


@pytest.fixture(scope="module")
def embed(server):
    """From items and a task to the `data` of the answer."""

    def post(items, task, **options):
        body = {"model": "jina-embeddings-v4", "input": items, "task": task, **options}
        answer = httpx.post(f"{server}/v1/embeddings", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    return post


@pytest.fixture
def client():
    made = qdrant.QdrantClient(":memory:")
    yield made
    made.close()


def points(vectors):
    return [
        qdrant.models.PointStruct(id=i, vector=vector, payload={"page": PAGES[i]})
        for i, vector in enumerate(vectors)
    ]


def test_single_vectors(client, embed, pages):
    models = qdrant.models
    vectors = [d["embedding"] for d in embed([{"image": p} for p in pages], "retrieval.passage")]
    client.create_collection(
        "pages", models.VectorParams(size=256, distance=models.Distance.COSINE)
    )
    client.upsert("pages", points(vectors))
    query = embed(["a blue square"], "retrieval.query")[0]["embedding"]
    found = client.query_points("pages", query, limit=4).points
    scores = np.array(vectors) @ np.array(query)
    assert [point.id for point in found] == list(np.argsort(-scores))
    np.testing.assert_allclose([p.score for p in found], np.sort(scores)[::-1], atol=1e-5)
    assert found[0].payload["page"] == "blue square"


def test_binary_vectors(client, embed, pages):
    """One bit a dimension: bits as ±1 rank by dot product as by Hamming distance."""
    models = qdrant.models
    items = [{"image": page} for page in pages]
    packed = [d["embedding"] for d in embed(items, "retrieval.passage", embedding_type="ubinary")]
    assert all(len(row) == 32 for row in packed)
    bits = np.unpackbits(np.array(packed, np.uint8), axis=1).astype(np.float32) * 2 - 1
    client.create_collection(
        "bits",
        models.VectorParams(size=256, distance=models.Distance.DOT),
        quantization_config=models.BinaryQuantization(binary=models.BinaryQuantizationConfig()),
    )
    client.upsert("bits", points(bits.tolist()))
    row = embed(["a blue square"], "retrieval.query", embedding_type="ubinary")[0]["embedding"]
    query = np.unpackbits(np.array(row, np.uint8)).astype(np.float32) * 2 - 1
    found = client.query_points("bits", query.tolist(), limit=4).points
    distances = (bits != query).sum(axis=1)
    assert [256 - 2 * distances[point.id] for point in found] == [p.score for p in found]
    assert found[0].payload["page"] == "blue square"


def test_multi_vectors(client, embed, pages):
    models = qdrant.models
    items = [{"image": page} for page in pages]
    data = embed(items, "retrieval.passage", return_multivector=True)
    vectors = [item["embeddings"] for item in data]
    client.create_collection(
        "tokens",
        models.VectorParams(
            size=64,
            distance=models.Distance.COSINE,
            multivector_config=models.MultiVectorConfig(
                comparator=models.MultiVectorComparator.MAX_SIM
            ),
            hnsw_config=models.HnswConfigDiff(m=0),
        ),
    )
    client.upsert("tokens", points(vectors))
    query = embed(["a blue square"], "retrieval.query", return_multivector=True)[0]["embeddings"]
    found = client.query_points("tokens", query, limit=4).points
    scores = [(np.array(query) @ np.array(v).T).max(axis=1).sum() for v in vectors]
    assert [point.id for point in found] == list(np.argsort(-np.array(scores)))
    np.testing.assert_allclose([p.score for p in found], np.sort(scores)[::-1], atol=1e-4)
    assert found[0].payload["page"] == "blue square"
