"""Export a feature set to one plain file for other programs: `X`, `y`, `paths`, `class_names`, `splits`."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from permafrost.atomic import clear_leftovers, replacing
from permafrost.errors import OptionError
from permafrost.images.splits import SPLITS
from permafrost.options import as_path
from permafrost.store.feature_set import FeatureSet

FORMATS: Final = (".h5", ".npz")

_STEP_BYTES: Final = 16 * 2**20
"""Maximum bytes of features in memory at once."""


def export_features(features: FeatureSet, out: str | os.PathLike[str]) -> Path:
    """Write the features, labels and paths of a set to one file that needs neither a store nor this package.

    The file has the arrays `X` (n, *shape) float32; `y` (n,) int64, indices into `class_names`; `splits` (n,), each
    `train`, `validation` or `test`; and `paths` (n,), relative to the dataset. In HDF5, text is UTF-8 of fixed length;
    paths keep their bytes. In an npz file, text is Unicode, and undecodable bytes are surrogates (PEP 383).

    Args:
        features: the set.
        out: the file, `.h5` or `.npz`. An existing one is replaced atomically.

    Returns:
        The file.

    Raises:
        OptionError: `out` has another ending, or is the set itself.
        ShardError: a shard is missing or damaged.
        WriteError: the disk is full, or similar.
    """
    out = as_path(out, "a file")
    if out.suffix not in FORMATS:
        raise OptionError("features are exported to HDF5 or npz", expected=" or ".join(FORMATS), found=str(out))
    if out.exists() and out.samefile(features.path):
        raise OptionError(f"{out} is the set itself", do="give another name")
    clear_leftovers(out.parent)
    with replacing(out) as temporary, open(temporary, "r+b") as file:
        (_write_npz if out.suffix == ".npz" else _write_hdf5)(file, features)
    return out


def _shape(features: FeatureSet) -> tuple[int, ...]:
    return (len(features), *features.shape)


def _texts(features: FeatureSet) -> dict[str, list[str]]:
    splits = [SPLITS[split] for split in features.content.splits]
    return {"paths": features.names(), "class_names": features.class_names, "splits": splits}


def _pieces(features: FeatureSet) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the features in pieces (k, *shape), each with the number of its first row."""
    step = max(1, _STEP_BYTES // max(1, 4 * math.prod(features.shape)))
    for start in range(0, len(features), step):
        yield start, features.features(np.arange(start, min(start + step, len(features))))


def _write_hdf5(file: IO[bytes], features: FeatureSet) -> None:
    import h5py

    texts = {name: np.array([os.fsencode(text) for text in values], "S") for name, values in _texts(features).items()}
    size = sum(array.nbytes for array in texts.values()) + 8 * len(features) + 2**20
    size += 4 * math.prod(_shape(features))
    with h5py.File(file, "w", libver=("v110", "v110")) as target:
        # On a full disk HDF5 can end the whole process, so the space is allocated before HDF5 writes.
        _allocate(file, size)
        target.create_dataset("X", _shape(features), np.float32)
        for start, piece in _pieces(features):
            target["X"][start : start + len(piece)] = piece
        target["y"] = features.labels()
        for name, array in texts.items():
            target[name] = array.astype(h5py.string_dtype("utf-8", array.dtype.itemsize))


def _allocate(file: IO[bytes], size: int) -> None:
    """Reserve `size` bytes of the disk for a file.

    Raises:
        OSError: the disk is full.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for _ in range(0, size, 2**20):
        file.write(bytes(2**20))
    file.seek(0)


def _write_npz(file: IO[bytes], features: FeatureSet) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as target:
        with target.open("X.npy", "w", force_zip64=True) as part:
            header: dict[str, Any] = {"descr": "<f4", "fortran_order": False, "shape": _shape(features)}
            np.lib.format.write_array_header_1_0(part, header)
            for _, piece in _pieces(features):
                part.write(np.ascontiguousarray(piece, "<f4").data)
        texts = {name: np.array(values) for name, values in _texts(features).items()}
        for name, array in ({"y": features.labels()} | texts).items():
            with target.open(f"{name}.npy", "w", force_zip64=True) as part:
                np.lib.format.write_array(part, array, allow_pickle=False)
