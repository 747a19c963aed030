"""Checks a call before any work: counts, tasks, options."""

from collections.abc import Sequence

from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.inputs import ImageText
from trine.runtime.serving.config.settings import ServerSettings
from trine.runtime.serving.service.calls import EmbedCall, EmbedItem, ServiceError
from trine.runtime.serving.service.item_fields import INPUT, ItemField, ItemFields, place_of
from trine.runtime.serving.service.refusals import item_error

__all__ = ["check_call", "check_count", "check_shown", "document_groups", "num_images"]


def check_count(num_items: int, max_items: int, fields: ItemFields = INPUT) -> None:
    """Check how many items a request has.

    Args:
        num_items: of the request.
        max_items: allowed.
        fields: that held them.

    Raises:
        ServiceError: 413 too many.
    """
    if num_items > max_items:
        raise item_error(
            place_of(fields, max_items),
            f"the request has {num_items} items, more than {max_items}; split it",
            413,
            "too_many_items",
        )


def check_shown(settings: ServerSettings, num_rows: int, size: int, per_token: int) -> None:
    """Check what is to be tokenised or decoded: each token of it becomes an entry of JSON.

    Args:
        settings: whose limits hold.
        num_rows: texts or lists of ids.
        size: characters or ids of all.
        per_token: characters or ids for each token that a request may have.

    Raises:
        ServiceError: 413 it is too much.
    """
    param = "inputs" if per_token > 1 else "ids"
    check_count(num_rows, settings.max_items, (ItemField(param),))
    limit = settings.max_call_tokens * per_token
    if size > limit:
        what = "characters" if per_token > 1 else "ids"
        raise ServiceError(
            413,
            "too_many_tokens",
            f"the request has {size} {what}, more than {limit}; split it",
            param=param,
        )


def check_call(call: EmbedCall, tasks: Sequence[str], model: ModelConfig, max_items: int) -> None:
    """Check a call.

    Args:
        call: to check.
        tasks: that items may name now.
        model: of the sizes.
        max_items: of a call.

    Raises:
        ServiceError: 413 too many items; 422 a task is not loaded, or an option is out of range.
    """
    check_count(len(call.items), max_items, call.fields)
    known = frozenset(tasks)
    for index, item in enumerate(call.items):
        if item.task not in known:
            place = call.place(index)
            raise item_error(
                place,
                f"{place} asks for the task {item.task!r}; loaded are {list(tasks)}",
                code="unknown_task",
                param="task",
            )
    if not call.single and not call.multi:
        raise _wrong("return_multivector", "neither single nor multi-vectors were asked for")
    _check_range("dimensions", call.dimensions, model.decoder.hidden_size)
    _check_range("dimensions", call.multi_dimensions, model.projector_dim)
    _check_range("max_length", call.max_length, None)
    if call.late_chunking:
        _check_documents(call)


def num_images(item: EmbedItem) -> int:
    """Return how many images an item has."""
    return len(item.content.images) if isinstance(item.content, ImageText) else 0


def sequence_groups(call: EmbedCall) -> list[range]:
    """Return the numbers of the items of each sequence: one, or with late chunking a document."""
    if call.late_chunking:
        return document_groups(call)
    return [range(index, index + 1) for index in range(len(call.items))]


def document_groups(call: EmbedCall) -> list[range]:
    """Return the numbers of the items of each document, with late chunking."""
    groups, start = [], 0
    for size in call.late_groups or (len(call.items),):
        groups.append(range(start, start + size))
        start += size
    return groups


def _check_documents(call: EmbedCall) -> None:
    if call.late_groups and (sum(call.late_groups) != len(call.items) or min(call.late_groups) < 1):
        raise _wrong(
            "late_groups",
            f"late_groups {list(call.late_groups)} do not make up the {len(call.items)} items",
        )
    for group in document_groups(call):
        for index in group:
            item, first = call.items[index], call.items[group[0]]
            place = call.place(index)
            if isinstance(item.content, ImageText):
                raise item_error(
                    place,
                    f"{place} has an image; late chunking takes texts only",
                    param="late_chunking",
                )
            if (item.task, item.prompt) != (first.task, first.prompt):
                raise item_error(
                    place,
                    f"{place} has another task than the first of its document; late chunking "
                    "embeds all of one document with one task",
                    param="task",
                )


def _check_range(param: str, value: int | None, largest: int | None) -> None:
    if value is not None and (value < 1 or (largest is not None and value > largest)):
        bound = "at least 1" if largest is None else f"1 to {largest}"
        raise _wrong(param, f"{param} is {value}; give {bound}")


def _wrong(param: str, message: str) -> ServiceError:
    return ServiceError(422, "invalid_value", message, param=param)
