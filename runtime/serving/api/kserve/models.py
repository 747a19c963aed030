"""The models that KServe v2 shows: one with single vectors, one with multi-vectors.

Each has exactly one two-dimensional output, which clients take for the embeddings. Multi-vectors
are ragged, so their rows follow one another, and `offsets` says where each item's begin.
"""

from dataclasses import dataclass

from trine.runtime.serving.api.requests.tasks import TaskChoice, choose_task
from trine.runtime.serving.service.calls import ModelInfo, ServiceError

__all__ = [
    "VERSION",
    "ServedModel",
    "TensorSpec",
    "config",
    "find_model",
    "metadata",
    "served_names",
]

#: The only version of each model; a bundle is not replaced while it is served.
VERSION = "1"
#: Behind the model's name: the model with multi-vectors.
MULTI_SUFFIX = "-multi-vector"
#: Types of the protocol as Triton's model configuration spells them.
CONFIG_TYPES = {"BYTES": "TYPE_STRING"}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a model takes or gives; -1 in `shape` is any size. `usual` outputs come unasked."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    usual: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model as a request named it.

    Attributes:
        name: as the request spelled it.
        multi: whether it gives multi-vectors.
        choice: task and prompt of items that name none.
        inputs: all but one of the first two may be left out.
        outputs: in order.
    """

    name: str
    multi: bool
    choice: TaskChoice
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def find_model(info: ModelInfo, name: str, version: str | None = None) -> ServedModel:
    """Return the model of a name; the name may carry a task behind a colon.

    Raises:
        ServiceError: 404 there is no such model or version.
    """
    if version not in (None, "", VERSION):
        raise ServiceError(
            404,
            "model_not_found",
            f"the model {name!r} has no version {version!r}; it has {VERSION!r}",
        )
    multi = MULTI_SUFFIX in name
    choice = choose_task(info, model=name.replace(MULTI_SUFFIX, "", 1) if multi else name)
    size = info.multi_dimensions if multi else info.default_dimensions
    vectors = (
        (TensorSpec("embeddings", "FP32", (-1, size)), TensorSpec("offsets", "INT64", (-1,)))
        if multi
        else (TensorSpec("embedding", "FP32", (-1, size)),)
    )
    return ServedModel(
        name=name,
        multi=multi,
        choice=choice,
        inputs=(
            TensorSpec("input_text", "BYTES", (-1,)),
            TensorSpec("image", "BYTES", (-1,)),
            TensorSpec("task", "BYTES", (-1,)),
            TensorSpec("dimensions", "INT32", (1,)),
        ),
        outputs=(
            *vectors,
            TensorSpec("num_tokens", "INT64", (-1,), usual=False),
            TensorSpec("truncated", "BOOL", (-1,), usual=False),
        ),
    )


def served_names(info: ModelInfo) -> list[str]:
    """Return the names of the models, without those that carry a task."""
    return [info.name, info.name + MULTI_SUFFIX]


def metadata(model: ServedModel) -> dict[str, object]:
    """Return what GET of a model answers."""
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": "trine",
        "inputs": [_described(spec) for spec in model.inputs],
        "outputs": [_described(spec) for spec in model.outputs],
    }


def config(model: ServedModel) -> dict[str, object]:
    """Return the model's configuration in Triton's terms.

    `max_batch_size` is 0: shapes are whole, and batches are formed behind the protocol.
    """
    return {
        "name": model.name,
        "platform": "",
        "backend": "trine",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 0,
        "input": [_configured(spec) | {"optional": True} for spec in model.inputs],
        "output": [_configured(spec) for spec in model.outputs],
    }


def _described(spec: TensorSpec) -> dict[str, object]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}


def _configured(spec: TensorSpec) -> dict[str, object]:
    kind = CONFIG_TYPES.get(spec.datatype, f"TYPE_{spec.datatype}")
    return {"name": spec.name, "data_type": kind, "dims": spec.shape}
