"""The first directory of a TIFF, which is also the form of EXIF data: read without trust in it.

Pillow misreads a few kinds of TIFF, or gives a misleading reason for refusing them. `sound` finds these
before Pillow opens them.
"""

from __future__ import annotations

import dataclasses
import struct
from typing import Final

from permafrost.errors import ImageError

WIDTHS: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes per value of each type."""

_INTEGERS: Final = {3: "H", 4: "I", 8: "h", 9: "i", 16: "Q"}
"""Types of whole numbers, as `struct` writes them; single bytes hold text."""

BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION, SAMPLES, PLANAR, FORMAT = 258, 259, 262, 274, 277, 284, 339

_XMP: Final = 700

_POINTERS: Final = frozenset({34665, 34853, 40965})
"""Tags of further directories with metadata; Pillow reads them, and they do not matter."""

_NEEDED: Final = frozenset({256, 257, BITS, 273, 279, 324, 325})
"""Tags without which there are no pixels: size, bits, places and lengths of strips or tiles."""

_MAX_VALUES: Final = 64
"""The maximum number of values of a tag that is read."""

_MAX_ENTRIES: Final = 65535
"""The maximum number of tags that is read."""

_MAX_BANDS: Final = 6
"""The maximum number of bands that Pillow reads."""


@dataclasses.dataclass(frozen=True)
class Directory:
    """The entries of the first directory.

    Attributes:
        order: `<` or `>`.
        big: whether it is a BigTIFF.
        whole: whether all of it lies in the file.
        entries: for each tag its bytes, its values if they are whole numbers, and whether they lie in the file.
    """

    order: str
    big: bool
    whole: bool
    entries: dict[int, tuple[bytes, tuple[int, ...], bool]]

    def values(self, tag: int) -> tuple[int, ...]:
        """Return the values of a tag; none if it is missing."""
        return self.entries[tag][1] if tag in self.entries else ()

    def first(self, tag: int, default: int) -> int:
        """Return the first value of a tag."""
        return next(iter(self.values(tag)), default)

    @property
    def bits(self) -> int:
        """Bits per value."""
        return max(self.values(BITS), default=1)

    def __str__(self) -> str:
        bands = self.first(SAMPLES, 1)
        kind = {1: "bits", 2: "bits, signed", 3: "bits, floating point"}.get(self.first(FORMAT, 1), "bits")
        return f"a TIFF with {bands:,} {'band' if bands == 1 else 'bands'} of {self.bits} {kind}"


def read_directory(data: bytes) -> Directory | None:
    """Return the first directory of a TIFF, or None if the data is not one."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return None
    version = struct.unpack_from(f"{order}H", data.ljust(4, b"\0"), 2)[0]
    if version not in (42, 43):
        return None
    big = version == 43
    try:
        (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    except (struct.error, OverflowError):
        return Directory(order, big, whole=False, entries={})
    size, start = (20, start + 8) if big else (12, start + 2)
    entries: dict[int, tuple[bytes, tuple[int, ...], bool]] = {}
    for number in range(min(count, _MAX_ENTRIES, (len(data) - start) // size)):
        raw = data[start + number * size : start + (number + 1) * size]
        entries.setdefault(struct.unpack_from(f"{order}H", raw)[0], _entry(data, raw, order, big=big))
    whole = count <= _MAX_ENTRIES and start + count * size <= len(data)
    return Directory(order, big, whole=whole, entries=entries)


def _entry(data: bytes, raw: bytes, order: str, *, big: bool) -> tuple[bytes, tuple[int, ...], bool]:
    _, kind, count = struct.unpack_from(order + ("HHQ" if big else "HHI"), raw)
    place, room = (12, 8) if big else (8, 4)
    length = WIDTHS.get(kind, 0) * count
    held, offset = raw, place
    if length > room:
        held, (offset,) = data, struct.unpack_from(order + ("Q" if big else "I"), raw, place)
    if kind not in WIDTHS or offset + length > len(held):
        return raw, (), False
    if kind not in _INTEGERS or count > _MAX_VALUES:
        return raw, (), True
    return raw, struct.unpack_from(f"{order}{count}{_INTEGERS[kind]}", held, offset), True


def sound(data: bytes) -> tuple[bytes, Directory | None]:
    """Return a TIFF in a form that Pillow reads correctly, and its first directory; other files as they are.

    Raises:
        ImageError: Pillow would read it wrongly, or complain on standard error.
    """
    directory = read_directory(data)
    if directory is None:
        return data, None
    if not directory.whole or any(not directory.entries[tag][2] for tag in _NEEDED & directory.entries.keys()):
        raise ImageError("a truncated TIFF")
    bands, planar = directory.first(SAMPLES, 1), directory.first(PLANAR, 1) == 2
    if bands > _MAX_BANDS:
        raise ImageError(
            "too many bands", expected="grey or RGB", found=directory, do="save the three bands to show as RGB"
        )
    if planar and bands > 1 and directory.bits > 8 and directory.first(COMPRESSION, 1) == 1:
        # Pillow takes each of the two bytes for a pixel.
        raise ImageError(
            "bands one after another, not compressed, which Pillow reads wrongly",
            expected="pixel after pixel, or 8 bits",
            found=directory,
            do="save it compressed, or with its bands interleaved",
        )
    dropped = {
        tag
        for tag, (_, values, complete) in directory.entries.items()
        # One band has no plane after it, but Pillow treats it in another way. It expects XMP data to be bytes.
        if not complete or tag in _POINTERS or (tag == PLANAR and planar and bands == 1) or (tag == _XMP and values)
    }
    return (_without(data, directory, dropped) if dropped else data), directory


def _without(data: bytes, directory: Directory, dropped: set[int]) -> bytes:
    """Return a TIFF of one image without some of its tags."""
    order, big = directory.order, directory.big
    entries = [raw for tag, (raw, _, _) in directory.entries.items() if tag not in dropped]
    padded = data + b"\0" * (len(data) % 2)
    start = struct.pack(order + ("Q" if big else "I"), len(padded))
    place = 8 if big else 4
    return b"".join(
        (
            padded[:place],
            start,
            padded[place + len(start) :],
            struct.pack(order + ("Q" if big else "H"), len(entries)),
            *entries,
            bytes(len(start)),
        )
    )
