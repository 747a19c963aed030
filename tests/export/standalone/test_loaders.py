"""Libraries of the Hub load plain ONNX models and give the published vectors.

They are installed in environments of their own; each test skips where its library is missing.
"""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from trine.export.standalone.export import OnnxReport

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

Vectors = NDArray[np.float32]


@pytest.fixture(scope="module")
def passages() -> tuple[list[str], Vectors]:
    """Texts without a prefix, and their published vectors as passages."""
    texts = json.loads((GOLDEN / "texts.json").read_text())
    with np.load(GOLDEN / "reference.npz") as archive:
        keys = {i: f"text/{i}/retrieval/passage/single" for i, text in enumerate(texts) if text}
        found = {i: archive[key] for i, key in keys.items() if key in archive}
    return [texts[i] for i in found], np.stack(list(found.values()))


def test_optimum_gives_token_embeddings(
    golden_onnx: OnnxReport, passages: tuple[list[str], Vectors]
) -> None:
    optimum = pytest.importorskip("optimum.onnxruntime")
    transformers = pytest.importorskip("transformers")
    folder, (texts, want) = golden_onnx.folder / "retrieval", passages
    model = optimum.ORTModelForFeatureExtraction.from_pretrained(
        folder, subfolder="onnx", file_name="model.onnx"
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer([f"Passage: {t}" for t in texts], padding=True, return_tensors="pt")
    tokens = model(**inputs).last_hidden_state.numpy()
    means = tokens.sum(axis=1)
    found = means / np.linalg.norm(means, axis=1, keepdims=True)
    assert np.abs(found - want).max() <= 1e-5


@pytest.mark.parametrize(("name", "most"), [("model", 1e-5), ("model_quantized", 1e-2)])
def test_sentence_transformers_gives_the_published_vectors(
    golden_onnx: OnnxReport, passages: tuple[list[str], Vectors], name: str, most: float
) -> None:
    pytest.importorskip("optimum.onnxruntime")
    library = pytest.importorskip("sentence_transformers")
    model = library.SentenceTransformer(
        str(golden_onnx.folder / "retrieval"),
        backend="onnx",
        model_kwargs={"file_name": f"onnx/{name}.onnx"},
    )
    texts, want = passages
    found = model.encode_document(texts)
    assert np.abs(found - want).max() <= most


def test_fastembed_takes_it_as_a_custom_model(
    golden_onnx: OnnxReport, passages: tuple[list[str], Vectors]
) -> None:
    fastembed = pytest.importorskip("fastembed")
    described = pytest.importorskip("fastembed.common.model_description")
    texts, want = passages
    fastembed.TextEmbedding.add_custom_model(
        model="local/golden",
        pooling=described.PoolingType.MEAN,
        normalization=True,
        sources=described.ModelSource(hf="local/golden"),
        dim=want.shape[1],
        model_file="onnx/model.onnx",
        additional_files=["onnx/model.onnx_data"],
    )
    model = fastembed.TextEmbedding(
        "local/golden", specific_model_path=str(golden_onnx.folder / "retrieval")
    )
    found = np.stack(list(model.embed([f"Passage: {text}" for text in texts])))
    assert np.abs(found - want).max() <= 1e-5


#: Reads a JSON list of texts from stdin and writes a JSON list of vectors.
NODE_PROGRAM = """
import { env, AutoTokenizer, AutoModel } from '@huggingface/transformers';
env.localModelPath = process.argv[2]; env.allowRemoteModels = false;
const texts = JSON.parse(process.argv[3]);
const tokenizer = await AutoTokenizer.from_pretrained('retrieval');
const options = { dtype: 'fp32', use_external_data_format: true };
const model = await AutoModel.from_pretrained('retrieval', options);
const inputs = tokenizer(texts, { padding: true });
const { sentence_embedding } = await model(inputs);
console.log(JSON.stringify(sentence_embedding.tolist()));
"""


def test_transformers_js_gives_the_published_vectors(
    golden_onnx: OnnxReport, passages: tuple[list[str], Vectors], tmp_path: Path
) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are missing")
    installed = subprocess.run(
        [npm, "install", "--ignore-scripts", "--silent", "@huggingface/transformers"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if installed.returncode:
        pytest.skip("@huggingface/transformers cannot be installed by npm")
    program = tmp_path / "embed.mjs"
    program.write_text(NODE_PROGRAM)
    texts, want = passages
    done = subprocess.run(
        [
            node,
            str(program),
            f"{golden_onnx.folder}/",
            json.dumps([f"Passage: {t}" for t in texts]),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = np.array(json.loads(done.stdout.splitlines()[-1]))
    assert np.abs(found - want).max() <= 1e-5
