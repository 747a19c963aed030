"""Errors with which the service ends a call without vectors."""

from trine.runtime.errors import MemoryLimitError
from trine.runtime.serving.service.calls import ServiceError
from trine.runtime.serving.service.item_fields import ItemPlace

__all__ = ["at_item", "client_left", "engine_failure", "item_error", "not_ready", "too_late"]

#: Exceptions that say that memory is missing, which is neither the request's fault nor a defect.
NO_MEMORY = (MemoryLimitError.__name__, MemoryError.__name__)
#: Seconds after which a client should ask again while the server loads or drains.
RETRY_NOT_READY = 5


def not_ready(state: str) -> ServiceError:
    """Return 503: the server is loading, draining or failed."""
    return ServiceError(
        503,
        f"server_{state}",
        f"the server is {state}; try again in {RETRY_NOT_READY} s",
        retry_after=RETRY_NOT_READY,
    )


def too_late() -> ServiceError:
    """Return 504: the call's deadline passed."""
    return ServiceError(
        504, "deadline_exceeded", "the request's time was up before its vectors were computed"
    )


def engine_failure(kind: str) -> ServiceError:
    """Return 503 or 500: a batch ended with the exception called `kind`."""
    if kind in NO_MEMORY:
        return ServiceError(
            503,
            "out_of_memory",
            "the server has not the memory for this request now; try again, or send less at once",
            retry_after=RETRY_NOT_READY,
        )
    return ServiceError(500, "engine_failure", f"the engine failed on this run ({kind})")


def client_left() -> ServiceError:
    """Return 499: nobody waits for the vectors any more."""
    return ServiceError(499, "client_left", "the client closed the connection")


def item_error(
    place: ItemPlace,
    message: str,
    status: int = 422,
    code: str = "invalid_input",
    *,
    param: str | None = None,
) -> ServiceError:
    """Return the error of one item.

    Args:
        place: of the item in the request.
        message: for people; it names the place.
        status: of HTTP.
        code: for programs.
        param: the field at fault, if it is not the one that held the item.
    """
    return ServiceError(status, code, message, param=param or place.field, index=place.index)


def at_item(place: ItemPlace, error: ServiceError) -> ServiceError:
    """Return an error that knew nothing of items as one of the item at a place."""
    return ServiceError(
        error.status,
        error.code,
        f"{place}: {error.message}",
        param=place.field,
        index=place.index,
        retry_after=error.retry_after,
    )
