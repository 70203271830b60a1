"""HDF5 files of contiguous numbers and fixed-length text: built in memory, and read without trusting them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from permafrost.trunk.spec import canonical_json

if TYPE_CHECKING:
    import h5py

READ_ERRORS: Final = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError)
"""What HDF5 and the functions below raise for a file that is damaged or of another kind."""


def hdf5_bytes(fill: Callable[[h5py.File], None]) -> bytes:
    """Build an HDF5 file in memory and return its bytes: HDF5 never writes to a disk.

    Equal content gives equal bytes. Metadata has checksums, as in every file of HDF5 1.10's layout.

    Args:
        fill: writes the content to the open file.
    """
    import h5py

    buffer = io.BytesIO()
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    # Otherwise the root group records its time, and `h5py.File` has no option for it.
    creation.set_obj_track_times(False)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, buffer)
    name = repr(buffer).encode("ascii")
    with h5py.File(h5py.h5f.create(name, h5py.h5f.ACC_TRUNC, fcpl=creation, fapl=access)) as file:
        fill(file)
    return buffer.getvalue()


def write_text(file: h5py.File, name: str, text: str) -> None:
    """Write `text` as an attribute of fixed length: it is stored in the object header, which has a checksum.

    Strings of variable length are stored in a heap without a checksum: a flipped bit there can make HDF5 read for ever.
    """
    file.attrs[name] = np.bytes_(text.encode("utf-8"))


def read_text(file: h5py.File, name: str) -> str:
    """Return the attribute that `write_text` wrote.

    Raises:
        KeyError: there is no such attribute.
        ValueError: it is of another kind; it is not read.
    """
    if file.attrs.get_id(name).dtype.kind != "S":
        raise ValueError(f"attribute {name} is not a string of fixed length")
    return str(file.attrs[name].decode("utf-8"))


def read_version(file: h5py.File) -> int:
    """Return the attribute `version`, a whole number.

    Raises:
        KeyError: there is no such attribute.
        ValueError: it is of another kind; it is not read.
    """
    attribute = file.attrs.get_id("version")
    if attribute.dtype.kind not in "iu" or attribute.shape != ():
        raise ValueError("attribute version is not a whole number")
    return int(file.attrs["version"])


def plain_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Return a dataset whose values are in this file itself, contiguous and without filters.

    Links, external and virtual data could read any other file; filters could run a plug-in or unpack without end;
    values that were never written would read as zeros.

    Raises:
        ValueError: it is of another kind.
    """
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is not a plain dataset: missing, or a link")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise ValueError(f"{name} is not a plain dataset: a group, or outside this file")
    if dataset.id.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS:
        raise ValueError(f"{name} is not a plain dataset: in chunks, which may have filters")
    claimed = math.prod(dataset.shape or ()) * dataset.dtype.itemsize
    held = max(0, file.id.get_filesize() - (dataset.id.get_offset() or 0))
    if dataset.shape is None or dataset.dtype.kind not in "iuf":
        raise ValueError(f"{name} is not a plain dataset: no numbers")
    if dataset.id.get_storage_size() != claimed or claimed > held:
        raise ValueError(f"{name} claims more than the file holds")
    return dataset


def arrays_checksum(arrays: Mapping[str, np.ndarray], dtypes: Mapping[str, str]) -> str:
    """Return the XXH3 (128 bits) of the names, shapes, dtypes and bytes of a file's datasets.

    Args:
        arrays: the datasets.
        dtypes: the dtype of each, in the order in which they are added.
    """
    import xxhash

    hasher = xxhash.xxh3_128()
    for name, dtype in dtypes.items():
        array = np.ascontiguousarray(arrays[name])
        hasher.update(canonical_json([name, list(array.shape), dtype]))
        hasher.update(array.reshape(-1).view(np.uint8).data)
    return hasher.hexdigest()
