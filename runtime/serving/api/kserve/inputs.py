"""The tensors of a KServe v2 request as items, tasks and options."""

from collections.abc import Sequence

from trine.runtime.serving.api.kserve.models import ServedModel
from trine.runtime.serving.api.kserve.protocol import InferRequest, Tensor
from trine.runtime.serving.api.requests.embeddings import kept_dimensions
from trine.runtime.serving.api.requests.items import Images, ParsedItem, is_image_uri
from trine.runtime.serving.api.requests.tasks import TaskChoice, choose_task
from trine.runtime.serving.service.calls import EmbedCall, ModelInfo, ServiceError

__all__ = ["items_of", "options_of", "task_choices"]

#: Integer types that `dimensions` may come in.
INTEGER_TYPES = ("INT32", "INT64", "UINT32", "UINT64")


def items_of(asked: InferRequest) -> tuple[ParsedItem, ...]:
    """Return the items of `input_text` and `image`.

    With both, each item has an image and a text, and an empty text is none. An element of `image`
    is an image file's bytes, or base64, a data URI or a URL.

    Raises:
        ServiceError: 400 both are missing or of unlike length, or a text is not UTF-8.
    """
    text_tensor, image_tensor = asked.inputs.get("input_text"), asked.inputs.get("image")
    texts = None if text_tensor is None else _texts(text_tensor)
    if image_tensor is None:
        if not texts:
            raise _unusable("input_text", "is missing or empty; give at least one text")
        return tuple(Images((text,)) if is_image_uri(text) else text for text in texts)
    sources = [_source(element) for element in _strings(image_tensor)]
    if not sources:
        raise _unusable("image", "is empty; give at least one image")
    if texts is None:
        return tuple(Images((source,)) for source in sources)
    if len(texts) != len(sources):
        raise _unusable("image", f"has {len(sources)} elements for {len(texts)} of input_text")
    return tuple(
        Images((source,), text or None) for source, text in zip(sources, texts, strict=True)
    )


def task_choices(
    info: ModelInfo, model: ServedModel, asked: InferRequest, num_items: int
) -> Sequence[TaskChoice]:
    """Return task and prompt of each item: of the input `task`, one for all or one each, else of
    the parameter `task`, else of the model's name.

    Raises:
        ServiceError: 400 there are too many or too few tasks; 422 one is unknown.
    """
    tensor = asked.inputs.get("task")
    if tensor is not None:
        names = _texts(tensor)
        if len(names) not in (1, num_items):
            raise _unusable("task", f"has {len(names)} elements for {num_items} items")
        choices = [choose_task(info, task=name) for name in names]
        return choices * num_items if len(choices) == 1 else choices
    name = asked.parameters.get("task")
    if name is None:
        return [model.choice] * num_items
    if not isinstance(name, str):
        raise _unusable("task", f"is {name!r} in parameters; give a string")
    return [choose_task(info, task=name)] * num_items


def options_of(info: ModelInfo, model: ServedModel, asked: InferRequest) -> EmbedCall:
    """Return the options of the call, without items.

    Raises:
        ServiceError: 400 an input or parameter is of another kind, or no input has that name; 422
            there are not as many dimensions.
    """
    known = [spec.name for spec in model.inputs]
    for name in asked.inputs:
        if name not in known:
            raise _unusable(name, f"is no input of the model {model.name!r}; it has {known}")
    whole = info.multi_dimensions if model.multi else info.dimensions
    kept = kept_dimensions(_dimensions(asked), whole)
    return EmbedCall(
        items=(),
        single=not model.multi,
        multi=model.multi,
        dimensions=None if model.multi else kept,
        multi_dimensions=kept if model.multi else None,
    )


def _dimensions(asked: InferRequest) -> int | None:
    tensor = asked.inputs.get("dimensions")
    if tensor is None:
        value = asked.parameters.get("dimensions")
        if value is not None and type(value) is not int:
            raise _unusable("dimensions", f"is {value!r} in parameters; give a whole number")
        return value
    if tensor.datatype not in INTEGER_TYPES or len(tensor.data) != 1:
        raise _unusable("dimensions", f"is {tensor.datatype} {list(tensor.shape)}; give INT32 [1]")
    return int(tensor.data[0])


def _texts(tensor: Tensor) -> list[str]:
    texts: list[str] = []
    for index, element in enumerate(_strings(tensor)):
        try:
            texts.append(element if isinstance(element, str) else element.decode())
        except UnicodeDecodeError as cause:
            raise _unusable(tensor.name, f"has an element {index} that is not UTF-8") from cause
    return texts


def _strings(tensor: Tensor) -> list[str | bytes]:
    """Return the elements of a tensor of BYTES with one axis, or a second of size 1."""
    if not isinstance(tensor.data, list):
        raise _unusable(tensor.name, f"is of {tensor.datatype}; give BYTES")
    if len(tensor.shape) != 1 and tensor.shape[1:] != (1,):
        raise _unusable(tensor.name, f"has the shape {list(tensor.shape)}; give [n] or [n, 1]")
    return tensor.data


def _source(element: str | bytes) -> str | bytes:
    """Return an image's bytes, or the text that stands for it: no image file is all ASCII."""
    if isinstance(element, bytes) and element.isascii():
        return element.decode("ascii")
    return element


def _unusable(name: str, what: str) -> ServiceError:
    return ServiceError(400, "invalid_infer_request", f"the input {name!r} {what}", param=name)
