"""Settings of the server, with defaults and checks."""

import dataclasses
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trine.runtime.errors import InputError

__all__ = ["DEFAULT_TASKS", "ServerSettings"]

#: What `default_task` may be: published names of the tasks, role included.
DEFAULT_TASKS = (
    "retrieval.query",
    "retrieval.passage",
    "text-matching",
    "code.query",
    "code.passage",
)
#: A key's name and the SHA-256 of the key, in hexadecimal.
KEY_HASH = re.compile(r"[A-Za-z0-9_.-]{1,64}=[0-9A-Fa-f]{64}")


def _option(default: Any, text: str) -> Any:
    """Return a dataclass field with the help text of its flag."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """All options of `trine serve`; the help texts below are those of its flags.

    A field `max_items` is the flag `--max-items`, the environment's TRINE_MAX_ITEMS and the
    configuration file's `max_items`.

    Raises:
        InputError: a value is out of range.
    """

    bundle: Path = field(metadata={"help": "folder of `trine export`, or a Hub id"})
    host: str = _option("127.0.0.1", "address to listen on; 0.0.0.0 for all")
    port: int = _option(8000, "port to listen on; 0 for a free one")
    workers: int = _option(1, "processes that share the socket")
    worker_weights: Literal["shared", "own"] = _option(
        "shared",
        "with several workers: one copy of the weights for all, memory-mapped, or one for each, "
        "repacked, which is faster for short inputs",
    )

    engine: str = _option("auto", "of the bundle's engines, or a way to run one on a GPU")
    quality: Literal["lossless", "high", "fast"] | None = _option(
        None,
        "that engine auto keeps, the fastest that does: float32, 16 bits too, or any; the bundle's "
        "first precision if none is given",
    )
    device: int = _option(0, "ordinal of the GPU, for engines that run on one")
    tasks: tuple[str, ...] = _option((), "adapters to load; all if none is named")
    threads: int | None = _option(
        None, "of one batch of the engine; what `trine tune` found, else one a processor and worker"
    )
    spin: bool = _option(
        False,
        "let the engine's threads wait for one another busily: faster where clients run elsewhere "
        "and processors are to spare, much slower where not",
    )
    prepare_threads: int = _option(2, "that tokenise texts, and as many that decode images")
    model_name: str | None = _option(
        None, "name in responses and of requests; that of the checkpoint if not given"
    )
    model_aliases: tuple[str, ...] = _option((), "other names that requests may use")
    default_task: str = _option(
        "retrieval.query", "for requests that name none: " + ", ".join(DEFAULT_TASKS)
    )
    token_ids: Literal["refuse", "own", "cl100k"] = _option(
        "refuse",
        "of requests: refuse them, take them as the model's own, or decode them as OpenAI's cl100k",
    )
    adapter_folder: Path | None = field(
        default=None,
        metadata={"help": "adapters may be loaded from folders within it; off if not given"},
    )

    batch_tokens: int | None = _option(
        None, "of one batch of the decoder; what `trine tune` found, else 2048"
    )
    batch_patches: int = _option(4096, "of one run of the vision tower")
    short_tokens: int = _option(256, "items up to this size are not kept behind longer ones")
    queue_tokens: int = _option(
        131072,
        "accepted and not yet computed: of short items, and as many of long ones, per worker",
    )
    queue_patches: int = _option(
        32768, "of images decoded and not yet computed, per worker; 5 kB of memory each"
    )

    max_wait: float = _option(
        5.0, "seconds until the engine begins with a request; one that may wait longer is refused"
    )

    max_requests: int = _option(1024, "being answered at once, per worker")
    max_body_bytes: int = _option(67_108_864, "of a request")
    max_pending_bytes: int = _option(268_435_456, "of all requests' bodies held at once")
    max_items: int = _option(2048, "of a request")
    max_length: int = _option(32768, "tokens of a text; longer ones are cut")
    max_call_tokens: int = _option(131072, "of all items of a request")
    max_image_bytes: int = _option(20_971_520, "of an image's file")
    max_image_pixels: int = _option(50_000_000, "of an image before it is shrunk")
    max_pixels: int | None = _option(None, "an image is shrunk to; the checkpoint's if not given")

    fetch_hosts: tuple[str, ...] = _option(
        (), "that images may be fetched from, e.g. *.example.org; without any, URLs are refused"
    )
    fetch_timeout: float = _option(10.0, "seconds for one image, redirects included")
    fetch_redirects: int = _option(3, "followed for one image, each checked again")

    request_timeout: float = _option(60.0, "seconds until a request is given up")
    drain_delay: float = _option(
        0.0,
        "seconds after SIGTERM in which requests are still taken, while readiness says no; 5 under "
        "Kubernetes",
    )
    drain_timeout: float = _option(30.0, "seconds that accepted requests get after that")
    api_keys: tuple[str, ...] = _option(
        (), "NAME=HASH with the key's SHA-256 in hexadecimal; without any, no key is needed"
    )
    admin_key: str | None = _option(
        None, "SHA-256 of the key for /admin in hexadecimal; off if not given"
    )
    requests_per_minute: int | None = _option(None, "of each key; unlimited if not given")
    tokens_per_minute: int | None = _option(None, "of each key; unlimited if not given")
    cors_origins: tuple[str, ...] = _option(
        (), "origins whose pages may call the server, e.g. https://example.org, or *"
    )
    log_level: Literal["debug", "info", "warning", "error"] = _option("info", "of the JSON logs")
    telemetry: bool = _option(False, "export spans with OpenTelemetry (its OTEL_… variables hold)")

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            # NaN compares as false with everything.
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} is {value!r}; give a number above 0")
        if not 0 <= self.port <= 65535:
            raise InputError(f"port is {self.port}; give one of 0 to 65535")
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}; give 0 or more")
        for entry in self.api_keys:
            if not KEY_HASH.fullmatch(entry):
                raise InputError(
                    f"api_keys has an entry of {len(entry)} characters that is not NAME=HASH; "
                    "make the hash with: printf %s KEY | sha256sum"
                )
        names = [entry.partition("=")[0] for entry in self.api_keys]
        if len(set(names)) != len(names):
            raise InputError(f"api_keys has a name twice in {names}; give each key its own")
        if self.admin_key is not None and not KEY_HASH.fullmatch(f"admin={self.admin_key}"):
            raise InputError(
                "admin_key is not a SHA-256 of 64 hexadecimal digits; make it with: "
                "printf %s KEY | sha256sum"
            )


#: Options that may be 0.
_NOT_NEGATIVE = ("device", "fetch_redirects", "drain_delay")
#: Options that must be above 0 where they are given.
_POSITIVE = tuple(
    option.name
    for option in dataclasses.fields(ServerSettings)
    if option.type in (int, float, int | None) and option.name not in ("port", *_NOT_NEGATIVE)
)
