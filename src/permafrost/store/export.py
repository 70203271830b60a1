"""A feature set as one plain file for other programs: `X`, `y`, `paths`, `class_names`, `splits`."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from permafrost.atomic import clear_leftovers, replacing
from permafrost.errors import OptionError
from permafrost.images.splits import SPLITS
from permafrost.store.feature_set import FeatureSet

FORMATS: Final = (".h5", ".npz")
_STEP_BYTES: Final = 16 * 2**20
"""So much of the features is in memory at once."""


def export_features(features: FeatureSet, out: str | os.PathLike[str]) -> Path:
    """Write the features of a set, its labels and paths to one file that needs neither a store nor this package.

    The arrays are `X` (n, *shape) float32, and `X_1`, ... where the cut crosses several tensors; `y` (n,) int64,
    numbers in `class_names`; `splits` (n,), `train`, `validation` or `test`; `paths` (n,), as the dataset has them.
    In HDF5 text is UTF-8 of fixed length, and paths are the bytes that they are; in an npz text is Unicode, with bytes
    that are no UTF-8 as surrogates (PEP 383).

    Args:
        features: the set.
        out: the file, `.h5` or `.npz`; it is replaced as a whole, or stays as it is.

    Raises:
        OptionError: another ending, or the set itself.
        ShardError: a shard is missing or damaged.
        WriteError: the disk is full, or the like.
    """
    out = Path(out)
    if out.suffix not in FORMATS:
        raise OptionError("features are exported to HDF5 or npz", expected=" or ".join(FORMATS), found=str(out))
    if out.exists() and out.samefile(features.path):
        raise OptionError(f"{out} is the set itself", do="give another name")
    clear_leftovers(out.parent)
    with replacing(out) as temporary, open(temporary, "r+b") as file:
        (_write_npz if out.suffix == ".npz" else _write_hdf5)(file, features)
    return out


def _shapes(features: FeatureSet) -> dict[str, tuple[int, ...]]:
    """The arrays of features, by name."""
    names = ("X" if number == 0 else f"X_{number}" for number in range(len(features.spec.shapes)))
    return {name: (len(features), *shape) for name, shape in zip(names, features.spec.shapes, strict=True)}


def _texts(features: FeatureSet) -> dict[str, list[str]]:
    splits = [SPLITS[split] for split in features.content.splits]
    return {"paths": features.names(), "class_names": features.class_names, "splits": splits}


def _parts(features: FeatureSet) -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
    """The features in pieces, each with the number of its first row."""
    row_bytes = 4 * sum(int(np.prod(shape)) for shape in features.spec.shapes)
    step = max(1, _STEP_BYTES // max(1, row_bytes))
    for start in range(0, len(features), step):
        x = features.features(np.arange(start, min(start + step, len(features))))
        yield start, x if isinstance(x, tuple) else (x,)


def _write_hdf5(file: IO[bytes], features: FeatureSet) -> None:
    import h5py

    texts = {name: np.array([os.fsencode(text) for text in values], "S") for name, values in _texts(features).items()}
    room = sum(array.nbytes for array in texts.values()) + 8 * len(features) + 2**20
    room += sum(4 * int(np.prod(shape)) for shape in _shapes(features).values())
    with h5py.File(file, "w", libver=("v110", "v110")) as target:
        # HDF5 can end the whole process when a disk is full. So all room is taken before it has much to write.
        _take(file, room)
        for name, shape in _shapes(features).items():
            target.create_dataset(name, shape, np.float32)
        for start, tensors in _parts(features):
            for name, tensor in zip(_shapes(features), tensors, strict=True):
                target[name][start : start + len(tensor)] = tensor
        target["y"] = features.labels()
        for name, array in texts.items():
            target[name] = array.astype(h5py.string_dtype("utf-8", array.dtype.itemsize))


def _take(file: IO[bytes], count: int) -> None:
    """Have the file system give room for `count` bytes.

    Raises:
        OSError: there is none.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, count)
        return
    for _ in range(0, count, 2**20):
        file.write(bytes(2**20))
    file.seek(0)


def _write_npz(file: IO[bytes], features: FeatureSet) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as target:
        # Each tensor is a part of its own, so the features are gone through once for each.
        for number, (name, shape) in enumerate(_shapes(features).items()):
            with target.open(f"{name}.npy", "w", force_zip64=True) as part:
                header: dict[str, Any] = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(part, header)
                for _, tensors in _parts(features):
                    part.write(np.ascontiguousarray(tensors[number], "<f4").data)
        for name, array in [("y", features.labels()), *((n, np.array(t)) for n, t in _texts(features).items())]:
            with target.open(f"{name}.npy", "w", force_zip64=True) as part:
                np.lib.format.write_array(part, np.asarray(array), allow_pickle=False)
