"""Parsed items to the items of a call: their images are read, several at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, cast

from trine.runtime.inputs import ImageText
from trine.runtime.serving.api.requests.items import Images, ParsedItem
from trine.runtime.serving.media.image_source import is_url
from trine.runtime.serving.service.call_checks import check_count
from trine.runtime.serving.service.calls import ItemContent, ServiceError
from trine.runtime.serving.service.item_fields import INPUT, ItemFields, place_of
from trine.runtime.serving.service.refusals import at_item

__all__ = ["ImageReader", "read_images"]

#: From a data URI, base64, a URL or the bytes of a file to the bytes of an image file that is
#: within the limits. Raises ServiceError.
ImageReader: TypeAlias = Callable[[str | bytes], Awaitable[bytes]]
#: Images of one request that are read at once; more would let one request hold all connections.
NUM_READERS = 8


async def read_images(
    items: Sequence[ParsedItem],
    read: ImageReader,
    *,
    max_items: int,
    hold: Callable[[int], None],
    fields: ItemFields = INPUT,
) -> tuple[ItemContent, ...]:
    """Return what each item is, with the bytes of its images.

    Args:
        items: of a request.
        read: reads one image.
        max_items: more, or more images in all items, are refused before any image is read.
        hold: told the size of each image that was not in the request; as `CallContext.hold`.
        fields: of the request that held the items, for errors.

    Raises:
        ServiceError: 413 too many items or images; else as `read` and `hold`, with the item's
            index.
    """
    check_count(len(items), max_items, fields)
    num_images = sum(len(item.sources) for item in items if isinstance(item, Images))
    if not num_images:
        return cast(tuple[ItemContent, ...], tuple(items))
    if num_images > max_items:
        raise ServiceError(
            413,
            "too_many_images",
            f"the request has {num_images} images, more than the limit of {max_items}; send fewer",
            param=fields[-1].name,
        )
    slots = asyncio.Semaphore(NUM_READERS)

    async def read_source(source: str | bytes, index: int) -> bytes:
        async with slots:
            try:
                found = await read(source)
                if is_url(source):
                    hold(len(found))
                return found
            except ServiceError as cause:
                raise at_item(place_of(fields, index), cause) from cause

    tasks: list[list[asyncio.Task[bytes]]] = []
    try:
        # A group: the first image that fails cancels the reading of all others.
        async with asyncio.TaskGroup() as group:
            for index, item in enumerate(items):
                sources = item.sources if isinstance(item, Images) else ()
                tasks.append([group.create_task(read_source(s, index)) for s in sources])
    except BaseExceptionGroup as failures:
        raise _first_refusal(failures) from None
    return tuple(
        ImageText(tuple(task.result() for task in opened), item.text)
        if isinstance(item, Images)
        else item
        for item, opened in zip(items, tasks, strict=True)
    )


def _first_refusal(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the failure of the lowest item; a fault of the server goes before a refusal."""
    faults = failures.subgroup(lambda failure: not isinstance(failure, ServiceError))
    found = [e for e in (faults or failures).exceptions if isinstance(e, BaseException)]
    return min(found, key=lambda e: e.index or 0 if isinstance(e, ServiceError) else 0)
