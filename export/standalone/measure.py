"""Runs a written model with plain ONNX Runtime and says how far it is from the reference."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trine.runtime.bundle.golden import Golden
from trine.runtime.bundle.model_config import PROMPTS
from trine.runtime.libraries import import_onnxruntime
from trine.runtime.preprocessing.tokenizer import TextTokenizer

__all__ = ["ModelDistance", "measure_model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDistance:
    """How far a model's vectors are from float32's, on the golden texts of its task.

    Attributes:
        mean_cosine, worst_cosine: of sentence embeddings.
        max_difference: largest difference of one number of a sentence embedding.
        multi_max_difference: the same of multi-vectors.
    """

    mean_cosine: float
    worst_cosine: float
    max_difference: float
    multi_max_difference: float


def measure_model(path: Path, golden: Golden, task: str, tokenizer: TextTokenizer) -> ModelDistance:
    """Return the distance of the model at `path` from the golden vectors of `task`."""
    ort = import_onnxruntime("export", "to measure a model")
    options = ort.SessionOptions()
    options.log_severity_level = 3  # it warns of every input that has a default
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    cosines, singles, multis = [], [], []
    for key in (k for k in golden.vectors if k.startswith("text/") and k.endswith("/single")):
        _, index, of, prompt, _ = key.split("/")
        if of != task:
            continue
        text = PROMPTS[prompt] + golden.texts[int(index)]
        single, multi = session.run(
            ["sentence_embedding", "multi_vector"], _inputs(tokenizer, text)
        )
        want = golden.vectors[key]
        cosines.append(float(single[0] @ want))
        singles.append(float(np.abs(single[0] - want).max()))
        want = golden.vectors[key.replace("/single", "/multi")]
        multis.append(float(np.abs(multi[0] - want).max()))
    return ModelDistance(
        mean_cosine=float(np.mean(cosines)),
        worst_cosine=min(cosines),
        max_difference=max(singles),
        multi_max_difference=max(multis),
    )


def _inputs(tokenizer: TextTokenizer, text: str) -> Mapping[str, NDArray[np.int64]]:
    (ids,) = tokenizer.encode([text])
    whole = np.concatenate([tokenizer.ends.start, ids, tokenizer.ends.end])[None]
    return {"input_ids": whole, "attention_mask": np.ones_like(whole)}
