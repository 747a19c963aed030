"""Fetching images: what is fetched, and that no forbidden address is ever connected to."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.serving.image_servers import (
    PUBLIC,
    Answer,
    RecordingNetwork,
    Resolver,
    fetcher,
    image,
    redirect,
    reply,
    serving,
)
from trine.runtime.errors import InputError
from trine.runtime.serving.media.public_addresses import is_public_address
from trine.runtime.serving.media.url_fetch import FetchLimits, UrlFetcher, resolve_host
from trine.runtime.serving.service.calls import ServiceError

FORBIDDEN = (
    "0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1",
    "127.255.255.254", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192",
    "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.7", "203.0.113.9",
    "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:93.184.216.34", "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::5db8:d822", "64:ff9b:1::a00:1", "100::1", "2001::1",
    "2001:db8::1", "2002:7f00:1::1", "2002:a00:1::", "3fff::1", "fc00::1", "fd00:ec2::254",
    "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "2600:1f18::5efe:7f00:1",
    "2600:1f18::200:5efe:a00:1", "", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1",
)  # fmt: skip
#: Hosts that resolvers or other parsers turn into an address, most of them 127.0.0.1.
ADDRESS_HOSTS = (
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0x7f.0.0.0x1",
    "0177.0.0.1", "017700000001", "0", "127.0.0.1.", "[::1]", "[::]", "[::ffff:127.0.0.1]",
    "[0:0:0:0:0:ffff:7f00:1]", "[64:ff9b::7f00:1]", "[fe80::1%25eth0]", "93.184.216.34",
    "169.254.169.254", "①②⑦.⓪.⓪.①", "127。0。0。1", "１２７.0.0.1",
)  # fmt: skip


def get(
    answers: Mapping[str, Answer],
    url: str = "http://img.example/a.png",
    *,
    table: Mapping[str, tuple[str, ...]] | None = None,
    hosts: tuple[str, ...] = ("*",),
    timeout_s: float = 5.0,
    max_bytes: int = 10_000,
) -> tuple[bytes | ServiceError, RecordingNetwork, Resolver]:
    """Fetch a URL from a server with `answers`; return what came, and who was asked."""

    async def run() -> tuple[bytes | ServiceError, RecordingNetwork, Resolver]:
        async with serving(answers) as port:
            network = RecordingNetwork(port)
            resolver = Resolver({"img.example": (PUBLIC,)} if table is None else table)
            source = fetcher(network, resolver, hosts=hosts, timeout_s=timeout_s)
            try:
                return await source.fetch(url, max_bytes), network, resolver
            except ServiceError as error:
                return error, network, resolver

    return asyncio.run(run())


def refusal(found: tuple[bytes | ServiceError, RecordingNetwork, Resolver]) -> ServiceError:
    """Return the error of a fetch that connected to public addresses only."""
    error, network, _ = found
    assert isinstance(error, ServiceError), error
    assert error.status in (413, 422)
    assert all(address == PUBLIC for address, _ in network.connected)
    return error


def test_fetches_a_image_from_an_allowed_host() -> None:
    found, network, _ = get({"/a.png?x=1": reply(image())}, "http://img.example/a.png?x=1#part")
    assert found == image()
    assert network.connected == [(PUBLIC, 80)]


def test_a_body_without_a_length_is_read_to_its_end() -> None:
    found, _, _ = get({"/a.png": b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n" + image()})
    assert found == image()


@pytest.mark.parametrize("address", FORBIDDEN)
def test_address_is_not_public(address: str) -> None:
    assert not is_public_address(address)


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "172.32.0.1", "100.128.0.1", "2600::1"])
def test_address_is_public(address: str) -> None:
    assert is_public_address(address)


@given(st.ip_addresses(network="::ffff:0:0/96") | st.ip_addresses(network="fc00::/7"))
def test_addresses_outside_global_unicast_are_not_public(address: object) -> None:
    assert not is_public_address(str(address))


@pytest.mark.parametrize("address", FORBIDDEN)
def test_a_name_with_a_forbidden_address_is_not_connected_to(address: str) -> None:
    found = get({}, table={"img.example": (address,)})
    assert refusal(found).code == "image_url_refused"
    assert found[1].connected == []


@pytest.mark.parametrize("addresses", [(PUBLIC, "10.0.0.1"), ("10.0.0.1", PUBLIC), ()])
def test_one_forbidden_address_among_public_ones_refuses_the_name(addresses: tuple[str]) -> None:
    found = get({"/a.png": reply(image())}, table={"img.example": addresses})
    refusal(found)
    assert found[1].connected == []


@pytest.mark.parametrize("host", ADDRESS_HOSTS)
def test_hosts_that_are_addresses_are_refused_unresolved(host: str) -> None:
    found = get({}, f"http://{host}/a.png", table={host.strip("[]"): (PUBLIC,)})
    refusal(found)
    assert found[2].asked == []


@pytest.mark.parametrize(
    "url",
    [
        "ftp://img.example/a.png",
        "file:///etc/passwd",
        "gopher://img.example/",
        "http:///a.png",
        "http://img.example:99999/a.png",
        "http://img.example:22/a.png",
        "http://img.example@evil.example/a.png",
        "http://evil.example\\@img.example/a.png",
        "http://user:password@img.example/a.png",
        "http://img.example%2f.evil.example/",
        "http://img.example%00.evil.example/",
        "http://img.example\r\nHost: evil.example/",
        "http://img.example /a.png",
        "http://img..example/",
        "http://.img.example/",
        "http://[::1/a.png",
        "http://" + "a" * 300 + "/",
        "http://img.example/" + "a" * 9000,
        "http://evil.example#@img.example/",
        "http://evil.example?@img.example/",
        "http://evil.example;img.example/",
        "http://img.example.evil.example/",
        "http://xn--img.example/",
    ],
)
def test_tricks_with_the_url_are_refused_unresolved(url: str) -> None:
    found = get({}, url, hosts=("img.example",))
    assert refusal(found).code == "image_url_refused"
    assert found[2].asked == []


@pytest.mark.parametrize(
    ("pattern", "url", "allowed"),
    [
        ("img.example", "http://IMG.example/a.png", True),
        ("*.example", "http://img.example/a.png", True),
        ("*.img.example", "http://img.example/a.png", False),
        ("*.mg.example", "http://img.example/a.png", False),
        ("img.example:8080", "http://img.example:8080/a.png", True),
        ("img.example:8080", "http://img.example/a.png", False),
        ("*", "http://img.example:8080/a.png", False),
        ("*:8080", "http://img.example:8080/a.png", True),
    ],
)
def test_the_allow_list_decides_by_host_and_port(pattern: str, url: str, allowed: bool) -> None:
    found = get({"/a.png": reply(image())}, url, hosts=(pattern,))
    assert (found[0] == image()) is allowed
    assert bool(found[1].connected) is allowed


@pytest.mark.parametrize("pattern", ["", "http://img.example", "a b", "img.*", "*img.example"])
def test_a_host_pattern_of_another_form_is_refused_at_the_start(pattern: str) -> None:
    with pytest.raises(InputError, match="is no name"):
        UrlFetcher(FetchLimits(hosts=(pattern,), timeout_s=1.0, max_redirects=0))


@pytest.mark.parametrize("status", ["301 x", "302 x", "303 x", "307 x", "308 x"])
def test_redirects_are_followed_within_the_allow_list(status: str) -> None:
    answers = {"/a.png": redirect("b.png?c=d", status), "/b.png?c=d": reply(image())}
    assert get(answers)[0] == image()


@pytest.mark.parametrize("host", [*ADDRESS_HOSTS[:17], "local.example", "other.example"])
def test_redirects_to_forbidden_hosts_are_not_followed(host: str) -> None:
    table = {"img.example": (PUBLIC,), "local.example": ("127.0.0.1",), "other.example": (PUBLIC,)}
    found = get(
        {"/a.png": redirect(f"http://{host}/secret")},
        table=table,
        hosts=("img.example", "local.example"),
    )
    refusal(found)
    assert found[1].connected == [(PUBLIC, 80)]


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "//127.0.0.1/x", "http://x@img.example/", "\\\\127.0.0.1\\x"]
)
def test_redirects_to_other_schemes_and_tricks_are_not_followed(location: str) -> None:
    found = get({"/a.png": redirect(location)})
    refusal(found)
    assert found[1].connected == [(PUBLIC, 80)]


def test_redirects_end() -> None:
    found = get({"/a.png": redirect("/a.png")})
    assert "more than 3 times" in refusal(found).message
    assert len(found[1].connected) == 4


def test_the_connection_goes_to_the_checked_address_though_the_name_changes() -> None:
    class Rebinding(Resolver):
        async def __call__(self, host: str, port: int) -> list[str]:
            self.asked.append(host)
            return [PUBLIC] if len(self.asked) == 1 else ["127.0.0.1"]

    async def run() -> None:
        async with serving({"/a": redirect("/b"), "/b": reply(image())}) as port:
            network, resolver = RecordingNetwork(port), Rebinding({})
            with pytest.raises(ServiceError, match="not public"):
                await fetcher(network, resolver).fetch("http://img.example/a", 10_000)
            # One answer a connection: the first was used, the second condemned the redirect.
            assert network.connected == [(PUBLIC, 80)]
            assert len(resolver.asked) == 2

    asyncio.run(run())


def test_the_second_address_is_tried_where_the_first_does_not_answer() -> None:
    class HalfDown(RecordingNetwork):
        async def connect_tcp(self, host: str, port: int, *rest: object, **more: object) -> object:
            import httpcore

            self.connected.append((host, port))
            if len(self.connected) == 1:
                raise httpcore.ConnectError("down")
            return await self._tcp.connect_tcp("127.0.0.1", self.port)

    async def run() -> None:
        async with serving({"/a": reply(image())}) as port:
            network = HalfDown(port)
            resolver = Resolver({"img.example": ("2600::1", PUBLIC)})
            assert await fetcher(network, resolver).fetch("http://img.example/a", 9999) == image()
            assert network.connected == [("2600::1", 80), (PUBLIC, 80)]

    asyncio.run(run())


async def drip(writer: asyncio.StreamWriter) -> None:
    """Send a byte now and then, for ever."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def drip_headers(writer: asyncio.StreamWriter) -> None:
    """Send one header after another, for ever."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: x\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


async def silence(writer: asyncio.StreamWriter) -> None:
    """Say nothing for long."""
    await asyncio.sleep(30)


@pytest.mark.parametrize("answer", [drip, drip_headers, silence])
def test_slow_servers_are_left_when_the_time_is_up(answer: Answer) -> None:
    error = refusal(get({"/a.png": answer}, timeout_s=0.3))
    assert "0.3 seconds" in error.message


def test_a_slow_resolver_counts_too() -> None:
    async def slow(host: str, port: int) -> list[str]:
        await asyncio.sleep(30)
        return [PUBLIC]

    async def run() -> None:
        limits = FetchLimits(hosts=("*",), timeout_s=0.2, max_redirects=0)
        with pytest.raises(ServiceError, match=r"0\.2 seconds"):
            await UrlFetcher(limits, slow, RecordingNetwork(1)).fetch("http://img.example/a", 9)

    asyncio.run(run())


def test_endless_bodies_are_read_no_further_than_the_limit() -> None:
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()

    assert refusal(get({"/a.png": endless}, max_bytes=100_000)).status == 413
    # What lies in socket buffers was sent too.
    assert sent < 20_000_000


def test_a_declared_length_beyond_the_limit_is_refused_before_the_body() -> None:
    async def declare(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 99999\r\n\r\n")
        await silence(writer)

    assert refusal(get({"/a.png": declare}, timeout_s=5.0)).status == 413


@pytest.mark.parametrize(
    "answer",
    [
        reply(image(), "text/html"),
        reply(image(), "application/json"),
        reply(image(), "image/png", "404 Not Found"),
        reply(image(), "image/png", "500 x"),
        reply(image(), "image/png", "200 OK", "Content-Encoding: gzip\r\n"),
        reply(b"", "image/png", "302 x"),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\nContent-Type: image/png\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000,
    ],
    ids=range(11),
)
def test_answers_that_are_no_image_are_a_refusal(answer: bytes) -> None:
    assert refusal(get({"/a.png": answer})).code == "image_url_failed"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_https_checks_the_certificate(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    files = ["-subj", "/CN=img.example", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    asked: list[str] = []

    def name(_: object, server_name: str, __: object) -> None:
        asked.append(server_name)

    tls.sni_callback = name

    async def run() -> None:
        async with serving({"/a.png": reply(image())}, tls) as port:
            network = RecordingNetwork(port)
            source = fetcher(network, Resolver({"img.example": (PUBLIC,)}))
            with pytest.raises(ServiceError) as caught:
                await source.fetch("https://img.example/a.png", 10_000)
            assert caught.value.code == "image_url_failed"
            assert network.connected == [(PUBLIC, 443)]

    asyncio.run(run())
    assert asked == ["img.example"]


def test_a_server_that_speaks_no_tls_is_left_when_the_time_is_up() -> None:
    found = get({"/a.png": reply(image())}, "https://img.example/a.png", timeout_s=0.3)
    assert refusal(found).code == "image_url_failed"


def test_a_name_without_an_address_is_a_refusal() -> None:
    assert "has no address" in refusal(get({}, table={})).message


def test_the_systems_resolver_is_asked_and_its_loopback_answer_refused() -> None:
    async def run() -> None:
        assert set(await resolve_host("localhost", 80)) <= {"127.0.0.1", "::1"}
        network = RecordingNetwork(1)
        limits = FetchLimits(hosts=("*",), timeout_s=5.0, max_redirects=0)
        with pytest.raises(ServiceError, match="not public"):
            await UrlFetcher(limits, network=network).fetch("http://localhost/", 9)
        assert network.connected == []

    asyncio.run(run())
