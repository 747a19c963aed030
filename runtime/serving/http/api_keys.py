"""API keys, kept as SHA-256 and compared in constant time."""

import hashlib
import hmac
from collections.abc import Mapping, Sequence

from trine.runtime.serving.service.calls import ServiceError

__all__ = ["KeyRing", "presented_key"]


def presented_key(headers: Mapping[str, str]) -> str | None:
    """Return the key in `Authorization: Bearer …`, `x-api-key` or Azure's `api-key`; None without.

    Args:
        headers: names in lower case.
    """
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get("x-api-key") or headers.get("api-key") or None


def _digest(key: str) -> bytes:
    """Return the SHA-256 of a key as it came in a header, where each character is a byte."""
    return hashlib.sha256(key.encode("latin-1", "backslashreplace")).digest()


class KeyRing:
    """Knows whose a key is.

    Args:
        keys: NAME=HASH entries; without any, every key and none is accepted.
        admin: hash of the key for administration; None to switch that off.
    """

    def __init__(self, keys: Sequence[str], admin: str | None) -> None:
        pairs = [entry.partition("=") for entry in keys]
        self._hashes = tuple((name, bytes.fromhex(digest)) for name, _, digest in pairs)
        self._admin = None if admin is None else bytes.fromhex(admin)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the keys."""
        return tuple(name for name, _ in self._hashes)

    def identify(self, key: str | None) -> str | None:
        """Return the name of a key; None where no keys are needed.

        Raises:
            ServiceError: 401 there is no key, or it is not known.
        """
        if not self._hashes:
            return None
        if key is None:
            raise ServiceError(
                401, "missing_api_key", "no API key was given; send Authorization: Bearer KEY"
            )
        given = _digest(key)
        # All are compared, so that the time says nothing about which one was nearly right.
        matches = [name for name, digest in self._hashes if hmac.compare_digest(given, digest)]
        if not matches:
            raise ServiceError(401, "invalid_api_key", "the API key is not known; check it")
        return matches[0]

    def require_admin(self, key: str | None) -> None:
        """Return if the key is that of administration.

        Raises:
            ServiceError: 401 there is no key, 403 it is another, 404 administration is off.
        """
        if self._admin is None:
            raise ServiceError(
                404, "admin_off", "there is no administration: the server has no admin key"
            )
        if key is None:
            raise ServiceError(
                401, "missing_api_key", "no admin key was given; send Authorization: Bearer KEY"
            )
        given = _digest(key)
        if not hmac.compare_digest(given, self._admin):
            raise ServiceError(403, "not_admin", "this key may not administer the server")
