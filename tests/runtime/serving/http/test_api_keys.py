import hashlib
from pathlib import Path

import pytest

from trine.runtime.serving.config.settings import ServerSettings
from trine.runtime.serving.http.api_keys import KeyRing, presented_key
from trine.runtime.serving.service.calls import ServiceError


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


RING = KeyRing([f"a={digest('one')}", f"b={digest('two')}"], digest("root"))


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"authorization": "Bearer one"}, "one"),
        ({"authorization": "bearer  one "}, "one"),
        ({"x-api-key": "one"}, "one"),
        ({"api-key": "one"}, "one"),
        ({"authorization": "Bearer one", "x-api-key": "two", "api-key": "three"}, "one"),
        ({"x-api-key": "", "api-key": "three"}, "three"),
        ({"authorization": "Basic b25l"}, None),
        ({"authorization": "Bearer "}, None),
        ({}, None),
    ],
)
def test_where_a_key_is_read_from(headers: dict[str, str], key: str | None) -> None:
    assert presented_key(headers) == key


def test_a_key_is_the_bytes_that_were_hashed() -> None:
    sent = {"authorization": "Bearer " + "schlüssel".encode().decode("latin-1")}
    assert KeyRing([f"a={digest('schlüssel')}"], None).identify(presented_key(sent)) == "a"


def test_a_hash_may_be_written_in_upper_case() -> None:
    settings = ServerSettings(
        bundle=Path("b"), api_keys=(f"a={digest('one').upper()}",), admin_key=digest("root").upper()
    )
    ring = KeyRing(settings.api_keys, settings.admin_key)
    assert ring.identify("one") == "a"
    ring.require_admin("root")


def test_each_key_has_its_name() -> None:
    assert [RING.identify("one"), RING.identify("two")] == ["a", "b"]


@pytest.mark.parametrize("key", [None, "three", "", digest("one"), "one\udc80"])
def test_other_keys_are_refused(key: str | None) -> None:
    with pytest.raises(ServiceError) as refused:
        RING.identify(key)
    assert refused.value.status == 401
    assert "one" not in refused.value.message.split()


def test_without_keys_any_or_none_will_do() -> None:
    ring = KeyRing([], None)
    assert ring.identify(None) is None
    assert ring.identify("whatever") is None


@pytest.mark.parametrize(("key", "status"), [(None, 401), ("one", 403), ("roo", 403)])
def test_administration_takes_its_own_key_only(key: str | None, status: int) -> None:
    RING.require_admin("root")
    with pytest.raises(ServiceError) as refused:
        RING.require_admin(key)
    assert refused.value.status == status


def test_administration_is_off_without_a_key() -> None:
    with pytest.raises(ServiceError) as refused:
        KeyRing([], None).require_admin("root")
    assert refused.value.status == 404
