"""Runs a server: opens the socket, then one process or several."""

import logging
import socket

from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.errors import InputError
from trine.runtime.serving.config.settings import ServerSettings
from trine.runtime.serving.http.event_loop import run_on_loop
from trine.runtime.serving.observability.log_writer import bounded_stderr
from trine.runtime.serving.observability.logs import set_up_logs
from trine.runtime.serving.service.core import chosen_engine, chosen_tasks
from trine.runtime.serving.service.model_info import default_role
from trine.runtime.serving.workers.supervisor import Supervisor
from trine.runtime.serving.workers.worker import WorkerOptions, run_worker

__all__ = ["serve"]

logger = logging.getLogger(__name__)

#: Connections that the system holds until they are accepted.
BACKLOG = 2048


def serve(settings: ServerSettings) -> int:
    """Serve until SIGTERM or SIGINT; return an exit code.

    Raises:
        BundleError: the bundle is missing, damaged or newer than this code.
        InputError: a setting cannot be used, or the address is taken.
    """
    # What is wrong with the bundle or a name is said before any process is started.
    bundle = open_bundle(settings.bundle)
    entry, _ = chosen_engine(bundle, settings)
    chosen_tasks(entry, settings)
    default_role(settings)
    with open_listener(settings.host, settings.port) as listener, bounded_stderr() as writer:
        set_up_logs(settings.log_level)
        if settings.workers == 1:
            return run_on_loop(run_worker(settings, listener, WorkerOptions(), writer))
        return Supervisor(settings, listener).run()


def open_listener(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        InputError: the address cannot be listened on.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as cause:
        raise InputError(f"host is {host!r}: {cause.strerror}; give an address") from cause
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as cause:
        listener.close()
        raise InputError(
            f"{host}:{port} cannot be listened on ({cause.strerror}); choose another --port"
        ) from cause
    return listener
