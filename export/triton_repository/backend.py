"""The Python backend's model `embed`: requests of Triton to vectors.

Runs in the server, which alone has the module `triton_python_backend_utils`.
"""

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trine.export.triton_repository.bls_engine import BlsEngine
from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.embedder import Embedder
from trine.runtime.errors import InputError, TrineError
from trine.runtime.inference.runner import BatchLimits
from trine.runtime.inputs import ImageText, Item
from trine.runtime.outputs import Embeddings

__all__ = ["ReplyRows", "TritonPythonModel", "read_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyRows:
    """One request, read.

    Attributes:
        items: a row each.
        tasks, prompts: of each row.
        dimensions: of single vectors; None for all.
        single, multi: which vectors it asks for.
    """

    items: tuple[Item, ...]
    tasks: tuple[str, ...]
    prompts: tuple[str, ...]
    dimensions: int | None
    single: bool
    multi: bool


class TritonPythonModel:
    """What Triton loads: one embedder for all requests."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle beside the model's file.

        Args:
            args: Triton's: `model_config` as JSON, `model_repository` the model's folder,
                `model_version`.
        """
        self._triton: Any = importlib.import_module("triton_python_backend_utils")
        config = json.loads(args["model_config"])
        parameters = {key: p["string_value"] for key, p in config["parameters"].items()}
        folder = Path(args["model_repository"]) / args["model_version"] / "bundle"
        self._default_task = parameters["default_task"] or None
        if parameters["graphs"] == "models":
            bundle = open_bundle(folder)
            entry = bundle.engine(parameters["engine"])
            engine = BlsEngine(bundle, entry, self._triton)
            # The other models may be loaded after this one; the first request tests them.
            self._embedder = Embedder(bundle, entry, engine, BatchLimits(), True)
        else:
            self._embedder = Embedder.load(folder, engine=parameters["engine"])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return a response for each request; a request that cannot be used fails alone."""
        rows: dict[int, ReplyRows] = {}
        responses: dict[int, Any] = {}
        for index, request in enumerate(requests):
            try:
                rows[index] = read_rows(request, self._triton, self._default_task)
            except InputError as error:
                responses[index] = self._failure(error)
        # ReplyRows of one call share the size of their vectors and which of them are made.
        groups: dict[tuple[int | None, bool, bool], list[int]] = {}
        for index, found in rows.items():
            groups.setdefault((found.dimensions, found.single, found.multi), []).append(index)
        for members in groups.values():
            responses |= self._answer({index: rows[index] for index in members})
        return [responses[index] for index in range(len(requests))]

    def _answer(self, rows: dict[int, ReplyRows]) -> dict[int, Any]:
        """Return responses for requests of one kind, from one call where all can be used."""
        try:
            result = self._encode(list(rows.values()))
        except TrineError as error:
            if len(rows) == 1 or not isinstance(error, InputError):
                return {index: self._failure(error) for index in rows}
            parts = [self._answer({index: found}) for index, found in rows.items()]
            return {index: response for part in parts for index, response in part.items()}
        responses, start = {}, 0
        for index, found in rows.items():
            end = start + len(found.items)
            responses[index] = self._response(result, slice(start, end))
            start = end
        return responses

    def _encode(self, requests: Sequence[ReplyRows]) -> Embeddings:
        first = requests[0]
        return self._embedder.encode(
            [item for rows in requests for item in rows.items],
            [task for rows in requests for task in rows.tasks],
            prompt_name=[prompt for rows in requests for prompt in rows.prompts],
            truncate_dim=first.dimensions,
            return_single=first.single,
            return_multivector=first.multi,
        )

    def _response(self, result: Embeddings, rows: slice) -> Any:
        outputs: dict[str, NDArray[Any]] = {
            "NUM_TOKENS": result.num_tokens[rows, None],
            "TRUNCATED": result.truncated[rows, None],
        }
        if result.single is not None:
            outputs["VECTOR"] = result.single[rows]
        if result.multi is not None:
            outputs["MULTI_VECTOR"] = _padded(result.multi[rows])
        return self._triton.InferenceResponse(
            output_tensors=[self._triton.Tensor(name, array) for name, array in outputs.items()]
        )

    def _failure(self, error: TrineError) -> Any:
        return self._triton.InferenceResponse(error=self._triton.TritonError(str(error)))


def read_rows(request: Any, triton: Any, default_task: str | None) -> ReplyRows:
    """Return what a request asks for.

    Args:
        request: Triton's.
        triton: the module `triton_python_backend_utils`.
        default_task: where it names none.

    Raises:
        InputError: it holds nothing to embed, or names no task.
    """
    columns = {
        name: triton.get_input_tensor_by_name(request, name)
        for name in ("TEXT", "IMAGE", "TASK", "PROMPT", "DIMENSIONS")
    }
    arrays = {name: t.as_numpy().reshape(-1) for name, t in columns.items() if t is not None}
    if "TEXT" not in arrays and "IMAGE" not in arrays:
        raise InputError("the request has neither TEXT nor IMAGE; give one of them")
    count = len(arrays["TEXT"] if "TEXT" in arrays else arrays["IMAGE"])
    images = list(arrays["IMAGE"]) if "IMAGE" in arrays else [b""] * count
    texts = _strings(arrays["TEXT"], "TEXT") if "TEXT" in arrays else (None,) * count
    tasks = _strings(arrays["TASK"], "TASK") if "TASK" in arrays else (default_task or "",) * count
    if "" in tasks:
        raise InputError("the request names no TASK, and the model has no default; give one a row")
    wanted = set(request.requested_output_names())
    return ReplyRows(
        items=tuple(
            _item(text, image, row)
            for row, (text, image) in enumerate(zip(texts, images, strict=True))
        ),
        tasks=tasks,
        prompts=_strings(arrays["PROMPT"], "PROMPT") if "PROMPT" in arrays else ("query",) * count,
        dimensions=_dimensions(arrays.get("DIMENSIONS")),
        single="VECTOR" in wanted or "MULTI_VECTOR" not in wanted,
        multi="MULTI_VECTOR" in wanted,
    )


def _item(text: str | None, image: bytes, row: int) -> Item:
    if image:
        return ImageText((bytes(image),), text or None)
    if text is None:
        raise InputError(f"row {row} has an empty IMAGE and no TEXT; give one of them")
    return text


def _strings(array: NDArray[np.object_], name: str) -> tuple[str, ...]:
    try:
        return tuple(bytes(value).decode("utf-8") for value in array)
    except UnicodeDecodeError as cause:
        raise InputError(f"{name} is not valid UTF-8 ({cause}); encode it so") from cause


def _dimensions(array: NDArray[np.int32] | None) -> int | None:
    if array is None or not len(array) or not array[0]:
        return None
    if (array != array[0]).any():
        raise InputError(f"DIMENSIONS are {array.tolist()}; rows of a request need the same")
    return int(array[0])


def _padded(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return float32 [B, longest, dim], rows padded with zeros."""
    longest = max(len(rows) for rows in vectors)
    result = np.zeros((len(vectors), longest, vectors[0].shape[1]), np.float32)
    for row, found in enumerate(vectors):
        result[row, : len(found)] = found
    return result
