"""The record of what a run used each image for, by content: the file `images.h5` in a run's folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from permafrost.errors import RunError
from permafrost.images.splits import SPLITS
from permafrost.store.hdf5 import READ_ERRORS, arrays_checksum, hdf5_bytes, plain_dataset, read_text, write_text

IMAGES_FILE: Final = "images.h5"
FORMAT: Final = "permafrost run images"

DATASETS: Final = {"digests": "|u1", "splits": "|u1"}
"""The datasets of the file, each with its dtype, in the order of the checksum."""

UNKNOWN: Final = -1
"""Instead of the number of a split, for an image that a run does not know."""


@dataclasses.dataclass(frozen=True)
class RunImages:
    """What a run used images for.

    Attributes:
        digests: (n, 32) uint8, the SHA-256 of each image's content, ascending, each once.
        splits: (n,) uint8, indices into `splits.SPLITS`.
    """

    digests: np.ndarray
    splits: np.ndarray

    def __len__(self) -> int:
        return len(self.splits)

    @classmethod
    def of(cls, digests: np.ndarray, splits: np.ndarray) -> RunImages:
        """Return the record of images, some of which may have equal content.

        Content that was used in several ways counts as training if it was trained on, else as validation.

        Args:
            digests: (n, 32) uint8.
            splits: (n,) numbers of splits.
        """
        keys, numbers = np.unique(_keys(digests), return_inverse=True)
        first = np.full(len(keys), len(SPLITS), np.uint8)
        np.minimum.at(first, numbers.reshape(-1), splits.astype(np.uint8))
        return cls(keys.view(np.uint8).reshape(-1, 32), first)

    @classmethod
    def of_rows(cls, digests: np.ndarray, rows: Mapping[str, np.ndarray]) -> RunImages:
        """Return the record of the images of a feature set.

        Args:
            digests: (n, 32) uint8, those of the whole set.
            rows: the rows of the set that were used for each split.
        """
        splits = np.repeat(np.arange(len(SPLITS)), [len(rows[split]) for split in SPLITS])
        return cls.of(digests[np.concatenate([rows[split] for split in SPLITS])], splits)

    def joined(self, other: RunImages) -> RunImages:
        """Return the record of all images of two runs, the second of which continues the first."""
        digests, splits = [self.digests, other.digests], [self.splits, other.splits]
        return RunImages.of(np.concatenate(digests), np.concatenate(splits))

    def splits_of(self, digests: np.ndarray) -> np.ndarray:
        """Return what images were used for.

        Args:
            digests: (k, 32) uint8.

        Returns:
            (k,) int64, indices into `splits.SPLITS`; `UNKNOWN` for an image that is not in the record.
        """
        found = np.full(len(digests), UNKNOWN, np.int64)
        if len(self):
            own, keys = _keys(self.digests), _keys(digests)
            places = np.minimum(own.searchsorted(keys), len(own) - 1)
            known = own[places] == keys
            found[known] = self.splits[places[known]]
        return found

    def own_rows(
        self, digests: np.ndarray, rows: Mapping[str, np.ndarray], splits: Sequence[str] = SPLITS
    ) -> dict[str, np.ndarray]:
        """Return the rows of a feature set by split, without those that the record has in another split.

        Args:
            digests: (n, 32) uint8, those of the whole set.
            rows: rows of the set by split.
            splits: the splits to look through; the rows of others are returned as they are.
        """
        found = {split: self.splits_of(digests[rows[split]]) for split in splits}
        own = {split: np.isin(used, (SPLITS.index(split), UNKNOWN)) for split, used in found.items()}
        return {split: chosen[own[split]] if split in own else chosen for split, chosen in rows.items()}

    @property
    def checksum(self) -> str:
        """XXH3 (128 bits) of the record, 32 hex digits."""
        return arrays_checksum(self._arrays(), DATASETS)

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        arrays, checksum = self._arrays(), self.checksum

        def fill(file: Any) -> None:
            for name, array in arrays.items():
                file[name] = array
            write_text(file, "format", FORMAT)
            write_text(file, "checksum", checksum)

        return hdf5_bytes(fill)

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"digests": self.digests, "splits": self.splits}


def read_run_images(path: Path, *, checksum: str) -> RunImages:
    """Read a run's record of its images. Nothing in the file is trusted before it is checked.

    Args:
        path: the file.
        checksum: the record's checksum in `run.json`.

    Raises:
        RunError: the file is missing or damaged, or belongs to another run.
    """
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            if read_text(file, "format") != FORMAT:
                raise ValueError("it has another format")
            arrays = {name: _read_array(file, name) for name in DATASETS}
            stated = read_text(file, "checksum")
        images = _checked(arrays, stated)
    except READ_ERRORS as error:
        raise RunError(f"damaged record of a run's images: {path}", found=str(error), do="fit again") from error
    if images.checksum != checksum:
        raise RunError(
            f"{path} is not the record that this run wrote", expected=checksum, found=images.checksum, do="fit again"
        )
    return images


def _read_array(file: Any, name: str) -> np.ndarray:
    dataset = plain_dataset(file, name)
    if dataset.dtype.str != DATASETS[name]:
        raise ValueError(f"{name} has dtype {dataset.dtype.str} instead of {DATASETS[name]}")
    array: np.ndarray = dataset[...]
    return array


def _checked(arrays: Mapping[str, np.ndarray], stated: str) -> RunImages:
    """Refuse arrays that do not fit together: a file that was made by hand may have a valid checksum."""
    digests, splits = arrays["digests"], arrays["splits"]
    if splits.ndim != 1 or digests.shape != (len(splits), 32):
        raise ValueError(f"digests has shape {digests.shape}, and splits {splits.shape}")
    if arrays_checksum(arrays, DATASETS) != stated:
        raise ValueError("its checksum does not match")
    if (splits >= len(SPLITS)).any():
        raise ValueError("splits has values other than " + ", ".join(SPLITS))
    keys = _keys(digests)
    if (keys[1:] <= keys[:-1]).any():
        raise ValueError("digests are not in ascending order")
    return RunImages(digests, splits)


def _keys(digests: np.ndarray) -> np.ndarray:
    """Return digests (n, 32) uint8 as (n,) values that NumPy can sort and compare.

    NumPy ignores zero bytes at the end of such values; among values of one length that changes no comparison.
    """
    return np.ascontiguousarray(digests, np.uint8).reshape(-1, 32).view("S32").reshape(-1)
