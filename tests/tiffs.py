"""TIFF files of kinds that Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

SHORT, LONG = 3, 4


def tiff(
    pixels: np.ndarray,
    *,
    photometric: int = 2,
    planar: int = 1,
    order: str = "<",
    extra: Sequence[int] = (),
    compressed: bool = False,
    tags: Mapping[int, tuple[int, Sequence[int]]] | None = None,
) -> bytes:
    """Return a TIFF of (h, w, c) pixels of any number type, in two strips per plane.

    `tags` are further ones, each with its type and values.
    """
    height, width, bands = pixels.shape
    planes = [pixels] if planar == 1 else [pixels[:, :, band : band + 1] for band in range(bands)]
    rows = (height + 1) // 2
    dtype = pixels.dtype.newbyteorder(order)
    strips = [plane[start : start + rows].astype(dtype).tobytes() for plane in planes for start in (0, rows)]
    strips = [zlib.compress(strip) if compressed else strip for strip in strips]
    data, offsets = b"", []
    for strip in strips:
        offsets.append(8 + len(data))
        data += strip + b"\0" * (len(strip) % 2)
    every: dict[int, tuple[int, Sequence[int]]] = {
        256: (SHORT, [width]),
        257: (SHORT, [height]),
        258: (SHORT, [pixels.dtype.itemsize * 8] * bands),
        259: (SHORT, [8 if compressed else 1]),
        262: (SHORT, [photometric]),
        273: (LONG, offsets),
        277: (SHORT, [bands]),
        278: (SHORT, [rows]),
        279: (LONG, [len(strip) for strip in strips]),
        284: (SHORT, [planar]),
        339: (SHORT, [{"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]] * bands),
        **({338: (SHORT, extra)} if extra else {}),
        **(tags or {}),
    }
    start = 8 + len(data)
    tail, entries = b"", b""
    for tag, (kind, values) in sorted(every.items()):
        held = struct.pack(order + {SHORT: "H", LONG: "I"}[kind] * len(values), *values)
        if len(held) > 4:
            place = start + 2 + 12 * len(every) + 4 + len(tail)
            tail += held
            held = struct.pack(f"{order}I", place)
        entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + held.ljust(4, b"\0")
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return b"".join(
        (mark, struct.pack(f"{order}I", start), data, struct.pack(f"{order}H", len(every)), entries, bytes(4), tail)
    )
