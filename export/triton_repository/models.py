"""Lists the models of a repository: `embed` from items to vectors, and one for each graph."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from trine.export.triton_repository.graph_tensors import graph_tensors
from trine.export.triton_repository.model_config import (
    Batching,
    Device,
    ServedModel,
    TensorConfig,
)
from trine.runtime.bundle.bundle import Bundle
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.bundle.model_config import ModelConfig

__all__ = [
    "EMBED",
    "MODEL_FILE",
    "VISION",
    "Graphs",
    "ServingChoices",
    "decoder_name",
    "embed_model",
    "graph_models",
]

#: Names of models; those of decoders are made by `decoder_name`.
EMBED, VISION = "embed", "vision"
#: Triton's Python backend looks for this file.
MODEL_FILE = "model.py"
#: "models": the graphs are models of their own, called by `embed`; "embedded": `embed` opens them.
Graphs = Literal["models", "embedded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingChoices:
    """What the user chose.

    Attributes:
        graphs: where the graphs run.
        device: of the graphs' models.
        instances: of each graph's model.
        batching: of `embed`.
        default_task: for requests that name none; None makes them name one.
    """

    graphs: Graphs
    device: Device
    instances: int
    batching: Batching
    default_task: str | None


def decoder_name(task: str) -> str:
    """Return the name of a task's decoder model."""
    return f"decoder-{task}"


def embed_model(entry: EngineEntry, model: ModelConfig, choices: ServingChoices) -> ServedModel:
    """Return the Python model from texts and images to vectors.

    A row of a request has a TEXT (UTF-8), an IMAGE (the bytes of an image file), or both; an empty
    IMAGE is none. Outputs are normalised float32. MULTI_VECTOR holds a vector a token, padded with
    zeros to the request's longest row; NUM_TOKENS says how many count. Only outputs that a request
    asks for are computed.
    """
    return ServedModel(
        name=EMBED,
        backend="python",
        file=MODEL_FILE,
        inputs=tuple(
            TensorConfig(name=name, data_type=kind, dims=(1,), optional=True)
            for name, kind in (
                ("TEXT", "TYPE_STRING"),
                ("IMAGE", "TYPE_STRING"),
                ("TASK", "TYPE_STRING"),
                ("PROMPT", "TYPE_STRING"),
                ("DIMENSIONS", "TYPE_INT32"),
            )
        ),
        outputs=(
            TensorConfig(name="VECTOR", data_type="TYPE_FP32", dims=(-1,)),
            TensorConfig(
                name="MULTI_VECTOR", data_type="TYPE_FP32", dims=(-1, model.projector_dim)
            ),
            TensorConfig(name="NUM_TOKENS", data_type="TYPE_INT64", dims=(1,)),
            TensorConfig(name="TRUNCATED", data_type="TYPE_BOOL", dims=(1,)),
        ),
        batching=choices.batching,
        # Preprocessor of items runs here, on processors; graphs have their own models.
        device="cpu" if choices.graphs == "models" else choices.device,
        instances=1,
        parameters={
            "engine": entry.name,
            "graphs": choices.graphs,
            "default_task": choices.default_task or "",
        },
    )


def graph_models(
    bundle: Bundle, entry: EngineEntry, choices: ServingChoices
) -> dict[str, ServedModel]:
    """Return a model for each graph of an engine with merged adapters, by the graph's path.

    Their inputs are packed (`trine.runtime.engines.base.DecoderInputs`), so Triton joins no
    requests; `embed` does, before it packs.
    """
    names = {entry.vision: VISION}
    names |= {path: decoder_name(task) for task, path in entry.decoders.items()}
    width = bundle.manifest.model.decoder.hidden_size
    models = {}
    for path, name in names.items():
        inputs, outputs = graph_tensors(bundle.path(path))
        # The graphs leave the width of their one output open, but ONNX Runtime infers it, and
        # Triton's backend wants the inferred size.
        outputs = tuple(replace(t, dims=(t.dims[0], width)) for t in outputs)
        models[path] = ServedModel(
            name=name,
            backend="onnxruntime",
            file=Path(path).name,
            inputs=inputs,
            outputs=outputs,
            batching=None,
            device=choices.device,
            instances=choices.instances,
            parameters={},
        )
    return models
