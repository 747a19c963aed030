"""Plain ONNX models give the published vectors in plain ONNX Runtime, wherever padding lies."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from trine.export.standalone.export import OnnxReport

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
PREFIXES = {"query": "Query: ", "passage": "Passage: "}
TASKS = ("retrieval", "text-matching", "code")

Vectors = NDArray[np.float32]


def session_of(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def padded(ids: Sequence[Sequence[int]], side: str) -> dict[str, NDArray[np.int64]]:
    length = max(map(len, ids))
    inputs = {
        name: np.zeros((len(ids), length), np.int64) for name in ("input_ids", "attention_mask")
    }
    for row, found in enumerate(ids):
        slots = slice(0, len(found)) if side == "right" else slice(length - len(found), length)
        inputs["input_ids"][row, slots] = found
        inputs["attention_mask"][row, slots] = 1
    return inputs


def published(task: str) -> list[tuple[str, Vectors, Vectors]]:
    """Return (text with its prefix, single, multi) of the published code."""
    texts = json.loads((GOLDEN / "texts.json").read_text())
    found = []
    with np.load(GOLDEN / "reference.npz") as archive:
        for index, text in enumerate(texts):
            for prompt, prefix in PREFIXES.items():
                key = f"text/{index}/{task}/{prompt}"
                # Control tokens in a text are none here, as in the published code's reference.
                if f"{key}/single" in archive and text:
                    found.append((prefix + text, archive[f"{key}/single"], archive[f"{key}/multi"]))
    return found


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("task", TASKS)
def test_float32_gives_the_published_vectors(golden_onnx: OnnxReport, task: str, side: str) -> None:
    folder = golden_onnx.folder / task
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    cases = published(task)
    assert len(cases) >= 4
    ids = [tokenizer.encode(text).ids for text, _, _ in cases]
    inputs = padded(ids, side)
    tokens, singles, multis, _ = session_of(folder / "onnx" / "model.onnx").run(None, inputs)
    mask = inputs["attention_mask"] == 1
    worst = max(np.abs(singles[i] - single).max() for i, (_, single, _) in enumerate(cases))
    worst_multi = max(
        np.abs(multis[i][mask[i]] - multi).max() for i, (_, _, multi) in enumerate(cases)
    )
    print(f"{len(cases)} texts, largest differences {worst}, {worst_multi}")
    assert worst <= 1e-5
    assert worst_multi <= 1e-5
    assert not tokens[~mask].any()
    assert not multis[~mask].any()


@pytest.mark.parametrize(("name", "least"), [("model_fp16", 0.9999), ("model_quantized", 0.999)])
def test_narrow_models_stay_near_the_published_vectors(
    golden_onnx: OnnxReport, name: str, least: float
) -> None:
    folder = golden_onnx.folder / "retrieval"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    cases = published("retrieval")
    inputs = padded([tokenizer.encode(text).ids for text, _, _ in cases], "right")
    model = session_of(folder / "onnx" / f"{name}.onnx")
    (singles,) = model.run(["sentence_embedding"], inputs)
    cosines = [float(singles[i] @ single) for i, (_, single, _) in enumerate(cases)]
    print(name, min(cosines))
    assert min(cosines) >= least


def test_a_row_does_not_depend_on_its_batch(golden_onnx: OnnxReport) -> None:
    for name in ("model", "model_quantized"):
        model = session_of(golden_onnx.folder / "code" / "onnx" / f"{name}.onnx")
        ids = [[5, 9, 200, 31], [7, 1000, 2000], [3]]
        together = model.run(["sentence_embedding"], padded(ids, "right"))[0]
        alone = np.concatenate(
            [model.run(["sentence_embedding"], padded([row], "right"))[0] for row in ids]
        )
        np.testing.assert_allclose(together, alone, atol=2e-6)


def test_models_have_two_inputs_and_standard_operators_alone(golden_onnx: OnnxReport) -> None:
    for model in golden_onnx.models:
        path = golden_onnx.folder / model.path
        proto = onnx.load(str(path), load_external_data=False)
        assert [opset.domain for opset in proto.opset_import] == [""], model.path
        assert {node.domain for node in proto.graph.node} == {""}, model.path
        onnx.checker.check_model(str(path))
        if "vision" in model.path:
            continue
        session = session_of(path)
        assert [i.name for i in session.get_inputs()] == ["input_ids", "attention_mask"]
        assert [o.name for o in session.get_outputs()] == [
            "token_embeddings",
            "sentence_embedding",
            "multi_vector",
            "last_hidden_state",
        ]
