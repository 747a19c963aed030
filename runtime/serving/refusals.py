"""Why the service ends a call without vectors."""

from trine.runtime.serving.calls import ServiceError

__all__ = ["client_left", "engine_failure", "not_ready", "too_late"]

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
    """Return 500: a run ended with the exception called `kind`."""
    return ServiceError(500, "engine_failure", f"the engine failed on this run ({kind})")


def client_left() -> ServiceError:
    """Return 499: nobody waits for the vectors any more."""
    return ServiceError(499, "client_left", "the client closed the connection")
