"""Reads from an AVIF or HEIC file how large its coded frames are, without decoding one.

The size that the container declares is what Pillow reports. A decoder makes room for what the
bitstream says, which may be more: 300 bytes can declare 16×16 pixels and hold a frame of 268
million. Formats: ISO/IEC 14496-12 (boxes), 23008-12 (items), AV1 5.5 (sequence header), H.265
7.3.2.2 (sequence parameter set).
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

__all__ = ["coded_sizes", "is_heic", "is_iso_media"]

#: Brands of HEIC files; those of AVIF begin with "avi".
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
#: Items without a frame of their own.
DERIVED = (b"grid", b"iden", b"iovl", b"Exif", b"mime", b"tmap", b"uri ")
UNIQUE = (b"ftyp", b"meta", b"iprp", b"ipco", b"iloc", b"iinf", b"idat")
AV1_SEQUENCE_HEADER = 1
HEVC_SEQUENCE = 33


def is_iso_media(head: bytes) -> bool:
    """Return whether a file that begins with `head`, 8 bytes at least, is of boxes, as AVIF is."""
    return head[4:8] == b"ftyp"


def is_heic(head: bytes) -> bool:
    """Return whether a file that begins with `head`, 12 bytes at least, is HEIC by its brand."""
    return is_iso_media(head) and head[8:12] in HEIC_BRANDS


def coded_sizes(data: bytes) -> list[tuple[int, int]]:
    """Return width and height of each coded frame, tiles and alpha among them.

    Args:
        data: the whole file.

    Raises:
        ValueError: the file is damaged, a sequence of images, or of another codec.
    """
    try:
        return list(_sizes(data))
    except (IndexError, struct.error, KeyError) as cause:
        raise ValueError("its boxes are damaged") from cause


def _sizes(data: bytes) -> Iterator[tuple[int, int]]:
    top = _named(data)
    if b"moov" in top:
        raise ValueError("it is a sequence of images; send a still one")
    meta = _named(top[b"meta"][4:])
    properties = [
        content for kind, content in _boxes(_named(meta[b"iprp"])[b"ipco"]) if kind == b"hvcC"
    ]
    for content in properties:
        for unit in _configured_units(content):
            yield from _hevc_sizes(unit)
    lengths = {(content[21] & 3) + 1 for content in properties}
    places = _item_places(meta[b"iloc"])
    for number, kind in _item_kinds(meta[b"iinf"]).items():
        if kind in DERIVED:
            continue
        item = b"".join(_extents(data, meta.get(b"idat", b""), places[number]))
        if kind == b"av01":
            yield from _av1_sizes(item)
        elif kind in (b"hvc1", b"hev1") and len(lengths) == 1:
            for unit in _units(item, *lengths):
                yield from _hevc_sizes(unit)
        else:
            raise ValueError(f"it has an item of the kind {kind.decode('latin-1')!r}")


def _named(data: bytes) -> dict[bytes, bytes]:
    """Return the content of each box by its kind. Of two a reader could take the other."""
    found: dict[bytes, bytes] = {}
    for kind, content in _boxes(data):
        if kind in found and kind in UNIQUE:
            raise ValueError(f"it has two {kind.decode('latin-1')} boxes")
        found[kind] = content
    return found


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of each box."""
    at = 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
            head = 16
        size = size or len(data) - at
        if size < head or at + size > len(data):
            raise ValueError("its boxes are damaged")
        yield kind, data[at + head : at + size]
        at += size


def _item_kinds(content: bytes) -> dict[int, bytes]:
    """Return the kind of each item by its number (`iinf`)."""
    kinds = {}
    for kind, entry in _boxes(content[6 if content[0] == 0 else 8 :]):
        if kind == b"infe":
            form = ">H2x4s" if entry[0] == 2 else ">I2x4s"
            number, name = struct.unpack_from(form, entry, 4)
            kinds[number] = name
    return kinds


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an item's bytes are: parts of the file, or of `idat`."""

    in_idat: bool
    extents: tuple[tuple[int, int], ...]


def _item_places(content: bytes) -> Mapping[int, _Place]:
    """Return where each item is (`iloc`)."""
    version = content[0]
    sizes = (content[4] >> 4, content[4] & 15, content[5] >> 4, content[5] & 15)
    fields = _Fields(content, 6)
    places = {}
    for _ in range(fields.take(2 if version < 2 else 4)):
        number = fields.take(2 if version < 2 else 4)
        method = fields.take(2) & 15 if version else 0
        fields.take(2)
        base = fields.take(sizes[2])
        extents = []
        for _ in range(fields.take(2)):
            fields.take(sizes[3] if version else 0)
            offset = fields.take(sizes[0])
            extents.append((base + offset, fields.take(sizes[1])))
        if method > 1:
            raise ValueError("it has items made of other items")
        places[number] = _Place(method == 1, tuple(extents))
    return places


def _extents(data: bytes, idat: bytes, place: _Place) -> Iterator[bytes]:
    source = idat if place.in_idat else data
    for offset, length in place.extents:
        end = offset + length if length else len(source)
        if end > len(source):
            raise ValueError("an item lies outside the file")
        yield source[offset:end]


def _av1_sizes(item: bytes) -> Iterator[tuple[int, int]]:
    """Yield the largest frame that each sequence header of an AV1 item allows."""
    at = 0
    while at < len(item):
        head = item[at]
        at += 2 if head & 4 else 1
        length = len(item) - at
        if head & 2:
            length = shift = 0
            while True:
                byte = item[at]
                at += 1
                length |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
        if at + length > len(item):
            raise ValueError("its AV1 data end early")
        if head >> 3 & 15 == AV1_SEQUENCE_HEADER:
            yield _av1_size(_Bits(item[at : at + length]))
        at += length


def _av1_size(bits: "_Bits") -> tuple[int, int]:
    bits.take(4)  # profile, still picture
    reduced = bits.take(1)
    if reduced:
        bits.take(5)  # level
    else:
        _skip_operating_points(bits)
    widths = bits.take(4) + 1, bits.take(4) + 1
    width, height = bits.take(widths[0]) + 1, bits.take(widths[1]) + 1
    # A frame of its own size is coded in as many bits, and no decoder holds it to the maximum.
    return (width, height) if reduced else (1 << widths[0], 1 << widths[1])


def _skip_operating_points(bits: "_Bits") -> None:
    delay_bits = 0
    if bits.take(1):  # timing info
        bits.take(64)
        if bits.take(1):
            bits.exp_golomb()
        if bits.take(1):  # decoder model
            delay_bits = bits.take(5) + 1
            bits.take(42)
    delays = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if delay_bits and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if delays and bits.take(1):
            bits.take(4)


def _configured_units(content: bytes) -> Iterator[bytes]:
    """Yield the parameter sets of an `hvcC` box."""
    fields = _Fields(content, 22)
    for _ in range(fields.take(1)):
        fields.take(1)
        for _ in range(fields.take(2)):
            yield fields.bytes(fields.take(2))


def _units(item: bytes, length_size: int) -> Iterator[bytes]:
    fields = _Fields(item, 0)
    while fields.at < len(item):
        yield fields.bytes(fields.take(length_size))


def _hevc_sizes(unit: bytes) -> Iterator[tuple[int, int]]:
    """Yield the size that a unit declares, if it is a sequence parameter set."""
    if unit[0] >> 1 & 63 != HEVC_SEQUENCE:
        return
    bits = _Bits(unit[2:].replace(b"\0\0\3", b"\0\0"))
    bits.take(4)
    layers = bits.take(3)
    bits.take(1 + 88 + 8)
    present = [(bits.take(1), bits.take(1)) for _ in range(layers)]
    if layers:
        bits.take(2 * (8 - layers))
    for profile, level in present:
        bits.take(88 * profile + 8 * level)
    bits.exp_golomb()
    if bits.exp_golomb() == 3:
        bits.take(1)
    yield bits.exp_golomb(), bits.exp_golomb()


class _Fields:
    """Whole bytes as big-endian numbers, one after the other."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.at = at

    def bytes(self, count: int) -> bytes:
        """Return the next bytes; `ValueError` if there are fewer."""
        found = self._data[self.at : self.at + count]
        if len(found) < count:
            raise ValueError("its boxes are damaged")
        self.at += count
        return found

    def take(self, count: int) -> int:
        """Return the number that the next bytes hold."""
        return int.from_bytes(self.bytes(count), "big")


class _Bits:
    """Bits as numbers, the most significant first."""

    def __init__(self, data: bytes) -> None:
        self._left = 8 * len(data)
        self._value = int.from_bytes(data, "big")

    def take(self, count: int) -> int:
        """Return the number that the next bits hold; `ValueError` if there are fewer."""
        self._left -= count
        if self._left < 0:
            raise ValueError("its codec's header ends early")
        return self._value >> self._left & (1 << count) - 1

    def exp_golomb(self) -> int:
        """Return an unsigned number of variable length: ue(v) of H.265, uvlc() of AV1."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 31:
                raise ValueError("its codec's header is damaged")
        return (1 << zeros) - 1 + self.take(zeros)
