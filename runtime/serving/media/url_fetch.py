"""Fetches images from URLs in requests without becoming a door into the server's own network.

Off unless an operator names hosts. Each URL, redirects included, must name one of them; its name is
resolved here, once, and the connection goes to an address of that very answer, after all of them
were found to be public. So a name that resolves differently the second time gains nothing.
"""

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias
from urllib.parse import urljoin, urlsplit

import httpcore

from trine.runtime.errors import InputError
from trine.runtime.serving.media.public_addresses import is_public_address
from trine.runtime.serving.service.calls import ServiceError

__all__ = ["FetchLimits", "Resolver", "UrlFetcher", "resolve_host"]

#: Longest URL that is looked at; servers refuse longer ones.
MAX_URL_LENGTH = 8192
#: Printable ASCII without what parsers disagree on: white space, backslash, quotes, brackets.
URL_TEXT = re.compile(r"[!#-;=?-\[\]_a-z~]+", re.IGNORECASE)
#: A host name in lower case: labels of letters, digits, hyphens and underscores.
HOST_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_][a-z0-9_-]{0,62})*")
#: What `FetchLimits.hosts` may have.
HOST_PATTERN = re.compile(r"(\*|(\*\.)?[a-z0-9_][a-z0-9_.-]*)(:[0-9]{1,5})?")
#: A last label that makes a host a number: decimal, octal or hexadecimal, which resolvers turn into
#: addresses that do not look like ones.
NUMERIC_LABEL = re.compile(r"(0x[0-9a-f]*|[0-9]+)")
DEFAULT_PORTS = {"http": 80, "https": 443}
#: Statuses that move a request for an image elsewhere.
REDIRECTS = (301, 302, 303, 307, 308)
#: Types that are fetched besides image/*: storage services give them to any file.
PLAIN_TYPES = ("application/octet-stream", "binary/octet-stream", "")
#: Images fetched at once; each may hold a whole file in memory.
MAX_CONCURRENT = 16

#: From host and port to its addresses, in order of preference. Raises OSError.
Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """From where images may come, and how long that may take.

    Attributes:
        hosts: `example.org` for that host, `*.example.org` for those below it, `*` for all public
            ones; with `:8443` behind it for that port instead of the scheme's own.
        timeout_s: for one image: waiting for its turn, name resolution, redirects and body.
        max_redirects: that one image may take.
    """

    hosts: tuple[str, ...]
    timeout_s: float
    max_redirects: int


@dataclass(frozen=True, slots=True)
class _Target:
    """One checked URL, parsed once; `path` has the query in it."""

    scheme: str
    host: str
    port: int
    path: str
    url: str


async def resolve_host(host: str, port: int) -> Sequence[str]:
    """Return a host's addresses as the system resolves them. Raises OSError."""
    import socket

    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class UrlFetcher:
    """Fetches images within `limits`. Proxies of the environment are not used.

    Args:
        limits: of hosts and time.
        resolve: from names to addresses.
        network: opens the connections; None for TCP.

    Raises:
        InputError: a host of `limits` is not in one of the forms above.
    """

    def __init__(
        self,
        limits: FetchLimits,
        resolve: Resolver = resolve_host,
        network: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        for pattern in limits.hosts:
            if not HOST_PATTERN.fullmatch(pattern.lower()):
                raise InputError(
                    f"the host {pattern!r} is no name such as example.org, *.example.org or "
                    "example.org:8443"
                )
        self._limits = limits
        self._resolve = resolve
        self._network = network
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    async def fetch(self, url: str, max_bytes: int) -> bytes:
        """Return the body that a URL of an allowed host answers with.

        Args:
            url: http or https, without user name and password.
            max_bytes: of the body; it is read no further.

        Raises:
            ServiceError: 413 the body is larger; 422 the URL is not allowed, resolves to an
                address that is not public, or does not answer with an image in time.
        """
        try:
            async with asyncio.timeout(self._limits.timeout_s), self._slots:
                return await self._follow(url, max_bytes)
        except TimeoutError as cause:
            raise _failed(
                f"the image took more than {self._limits.timeout_s:g} seconds to fetch"
            ) from cause
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as cause:
            raise _failed(f"fetching the image failed: {type(cause).__name__}") from cause

    async def _follow(self, url: str, max_bytes: int) -> bytes:
        target = self._check_url(url)
        for _ in range(self._limits.max_redirects + 1):
            answer = await self._get(target, max_bytes)
            if isinstance(answer, bytes):
                return answer
            following = self._check_url(urljoin(target.url, answer.location))
            if target.scheme == "https" and following.scheme == "http":
                raise _refused("the URL redirects from https to http; give the final URL")
            target = following
        raise _refused(
            f"the URL redirects more than {self._limits.max_redirects} times; give the final URL"
        )

    def _check_url(self, url: str) -> _Target:
        """Return a URL's parts if its form, host and port are allowed."""
        if len(url) > MAX_URL_LENGTH or not URL_TEXT.fullmatch(url):
            raise _refused(
                f"the URL {url[:80]!r} is longer than {MAX_URL_LENGTH} characters or has "
                "characters that must be percent-encoded (hosts: in their xn-- form)"
            )
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower(), parts.port
        except ValueError as cause:
            raise _refused(f"the URL {url[:80]!r} cannot be parsed: {cause}") from cause
        if parts.scheme not in DEFAULT_PORTS:
            raise _refused(f"the URL's scheme is {parts.scheme!r}; give http or https")
        if "@" in parts.netloc:
            raise _refused("the URL has a user name; give one without credentials")
        own_port = DEFAULT_PORTS[parts.scheme]
        _check_host(host)
        if not self._allows(host, port or own_port, own_port):
            raise _refused(f"the host {parts.netloc[:80]!r} is not among those this server allows")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return _Target(parts.scheme, host, port or own_port, path, url)

    def _allows(self, host: str, port: int, own_port: int) -> bool:
        for pattern in self._limits.hosts:
            name, _, wanted = pattern.lower().partition(":")
            if port != (int(wanted) if wanted else own_port):
                continue
            if name in ("*", host) or (name.startswith("*.") and host.endswith(name[1:])):
                return True
        return False

    async def _get(self, target: _Target, max_bytes: int) -> "bytes | _Redirect":
        addresses = await self._public_addresses(target)
        origin = httpcore.Origin(target.scheme.encode(), target.host.encode(), target.port)
        network = _PinnedNetwork(addresses, self._network)
        connection = httpcore.AsyncHTTPConnection(
            origin,
            ssl_context=self._tls if target.scheme == "https" else None,
            network_backend=network,
        )
        own = target.port == DEFAULT_PORTS[target.scheme]
        headers = (
            ("Host", target.host if own else f"{target.host}:{target.port}"),
            ("User-Agent", "trine"),
            ("Accept", "image/*"),
            # Else a small answer could unfold into a large one.
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
        )
        url = httpcore.URL(
            scheme=target.scheme, host=target.host, port=target.port, target=target.path
        )
        try:
            async with connection, connection.stream("GET", url, headers=headers) as response:
                answered = {name.lower(): value for name, value in response.headers}
                if response.status in REDIRECTS and b"location" in answered:
                    return _Redirect(answered[b"location"].decode("latin-1"))
                return await _read_body(response, answered, max_bytes)
        finally:
            # httpcore forgets a connection whose TLS handshake is cancelled.
            await network.aclose()

    async def _public_addresses(self, target: _Target) -> Sequence[str]:
        """Return a host's addresses, all of them public."""
        try:
            found = await self._resolve(target.host, target.port)
        except OSError as cause:
            raise _failed(f"the host {target.host!r} has no address") from cause
        # One that is not public condemns all: a name with both kinds is made to get past checks.
        if not found or not all(is_public_address(address) for address in found):
            raise _refused(f"the host {target.host!r} has an address that is not public")
        return found


@dataclass(frozen=True, slots=True)
class _Redirect:
    location: str


class _PinnedNetwork(httpcore.AsyncNetworkBackend):
    """Opens connections to addresses that were checked, whatever host is asked for."""

    def __init__(
        self, addresses: Sequence[str], network: httpcore.AsyncNetworkBackend | None
    ) -> None:
        self._addresses = addresses
        self._network = httpcore.AnyIOBackend() if network is None else network
        self._opened: list[httpcore.AsyncNetworkStream] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: object = None,
    ) -> httpcore.AsyncNetworkStream:
        for address in self._addresses[:-1]:
            try:
                return await self._open(address, port, timeout)
            except httpcore.ConnectError:
                continue
        return await self._open(self._addresses[-1], port, timeout)

    async def _open(
        self, address: str, port: int, timeout: float | None
    ) -> httpcore.AsyncNetworkStream:
        stream = await self._network.connect_tcp(address, port, timeout)
        self._opened.append(stream)
        return stream

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def aclose(self) -> None:
        """Close what was opened; what is closed already stays so."""
        for stream in self._opened:
            await stream.aclose()


def _check_host(host: str) -> None:
    """Refuse hosts that are not names, so that an allow-list is all that decides."""
    if not HOST_NAME.fullmatch(host) or NUMERIC_LABEL.fullmatch(host.rpartition(".")[2]):
        raise _refused(f"the URL's host is {host[:80]!r}; give a host name, not an address")


async def _read_body(
    response: httpcore.Response, headers: dict[bytes, bytes], max_bytes: int
) -> bytes:
    """Return the body of an answer that is an image by its status and headers."""
    if response.status != 200:
        raise _failed(f"the URL answers with status {response.status}")
    kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    if not kind.startswith("image/") and kind not in PLAIN_TYPES:
        raise _failed(f"the URL's content type is {kind[:80]!r}, not that of an image")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise _failed("the URL answers with a compressed body, which was not asked for")
    length = headers.get(b"content-length", b"0")
    too_large = ServiceError(
        413,
        "image_too_large",
        f"the image at the URL is larger than {max_bytes} bytes; shrink it",
    )
    if length.isdigit() and int(length) > max_bytes:
        raise too_large
    body = bytearray()
    async for chunk in response.aiter_stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)


def _refused(message: str) -> ServiceError:
    return ServiceError(422, "image_url_refused", message)


def _failed(message: str) -> ServiceError:
    return ServiceError(422, "image_url_failed", message)
