"""Compressing cached feature maps: size and speed of HDF5's filters, and of a bit mask with the nonzero values.

Feature maps after ReLU are mostly zeros. The mask has one bit per number, made with NumPy alone. Speeds are of
uncompressed megabytes, in one thread, in memory.

    python benchmarks/compression.py --store features/store/inception_v3-mixed7-0123456789ab --rows 64
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import common
import h5py
import numpy as np

FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "gzip 1": {"compression": "gzip", "compression_opts": 1},
    "shuffle, gzip 1": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
    "lzf": {"compression": "lzf"},
}


def by_filter(tensor: np.ndarray, options: dict[str, Any]) -> tuple[int, float, float]:
    """Return bytes, and seconds for writing and reading, with an HDF5 filter."""
    buffer = io.BytesIO()

    def write() -> None:
        with h5py.File(buffer, "w") as file:
            file.create_dataset("x", data=tensor, chunks=(1, *tensor.shape[1:]) if options else None, **options)

    def read() -> np.ndarray:
        with h5py.File(buffer) as file:
            return file["x"][...]

    written, (seconds, found) = common.timed(write)[0], common.timed(read)
    assert np.array_equal(found, tensor)
    return len(buffer.getvalue()), written, seconds


def by_mask(tensor: np.ndarray) -> tuple[int, float, float]:
    """Return bytes, and seconds for writing and reading, with a bit mask and the nonzero values."""

    def pack() -> tuple[np.ndarray, np.ndarray]:
        mask = tensor.reshape(len(tensor), -1) != 0
        return np.packbits(mask, axis=1), tensor.reshape(len(tensor), -1)[mask]

    def unpack(bits: np.ndarray, values: np.ndarray) -> np.ndarray:
        mask = np.unpackbits(bits, axis=1, count=tensor[0].size).astype(bool)
        found = np.zeros(mask.shape, tensor.dtype)
        found[mask] = values
        return found.reshape(tensor.shape)

    written, packed = common.timed(pack)
    seconds, found = common.timed(lambda: unpack(*packed))
    assert np.array_equal(found, tensor)
    return sum(part.nbytes for part in packed), written, seconds


def main() -> None:
    given = common.arguments(__doc__, store="features/store", rows=64)
    with h5py.File(max(Path(given.store).rglob("*.h5"), key=lambda path: path.stat().st_size)) as shard:
        tensors = {name: shard[name][: given.rows] for name in sorted(shard) if name.startswith("features")}
    common.show_machine()
    for name, tensor in tensors.items():
        print(f"{name} {tensor.shape} {tensor.dtype}, zeros: {(tensor == 0).mean():.2f}")
        ways = {way: by_filter(tensor, options) for way, options in FILTERS.items()} | {"mask": by_mask(tensor)}
        for way, (size, written, read) in ways.items():
            mega = tensor.nbytes / 1e6
            print(
                f"  {way:16} {size / tensor.nbytes:.2f} of the size; "
                f"written at {mega / written:,.0f} MB/s, read at {mega / read:,.0f} MB/s"
            )


if __name__ == "__main__":
    main()
