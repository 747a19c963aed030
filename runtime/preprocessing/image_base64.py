"""Decodes images that are written as text: base64 and data URIs."""

import base64
import binascii
import re

from trine.runtime.errors import InputError

__all__ = ["decode_image_base64"]

#: How a data URI starts; its type is not believed, the file's own header is.
DATA_URI = re.compile(r"data:(?P<type>[^,;]{0,100})(?P<parameters>(;[^,;]{0,100}){0,10}),", re.I)
#: What base64 of any flavour may be wrapped with.
WHITE_SPACE = re.compile(rb"[ \t\r\n]+")
#: From the URL-safe alphabet to the standard one.
STANDARD = bytes.maketrans(b"-_", b"+/")


def decode_image_base64(source: str) -> bytes:
    """Return the bytes of a data URI or of bare base64.

    Args:
        source: `data:…;base64,…`, or base64 of the standard or the URL-safe alphabet; padding may
            be missing and white space is skipped.

    Raises:
        InputError: it is not base64.
    """
    if source[:5].lower() == "data:":
        head = DATA_URI.match(source)
        if head is None or not head["parameters"].lower().endswith(";base64"):
            raise InputError(
                f"the data URI starts {source[:40]!r}; it must be data:image/…;base64,…"
            )
        source = source[head.end() :]
    try:
        text = WHITE_SPACE.sub(b"", source.encode("ascii")).translate(STANDARD).rstrip(b"=")
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (UnicodeEncodeError, binascii.Error) as cause:
        raise InputError(
            f"the image starts {source[:40]!r}, which is not base64; send base64 of the file, a "
            "data URI or a URL"
        ) from cause
