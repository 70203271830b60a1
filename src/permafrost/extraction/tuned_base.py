"""What the base of an extraction was trained on, if the base comes from a fine-tuned run."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from permafrost.errors import BaseError, RunError
from permafrost.images.splits import SPLITS, TRAIN
from permafrost.store.run_images import IMAGES_FILE, UNKNOWN, RunImages, read_run_images
from permafrost.trunk.run_base import RUN_FILE, run_folder


@dataclasses.dataclass(frozen=True)
class TunedBase:
    """A base that comes from a fine-tuned run.

    Attributes:
        folder: the absolute path of the run.
        images: what the run used images for. Features of those that it was trained on are not those of new images.
        missing: why images are missing in that record; None if it is complete.
    """

    folder: str
    images: RunImages
    missing: str | None

    def record(self) -> dict[str, str | None]:
        """Return what a set's `about` holds, for `with_images_behind`."""
        return {"folder": self.folder, "images_checksum": self.images.checksum, "images_missing": self.missing}

    def given(self, digests: np.ndarray, named: Sequence[str | None]) -> list[str | None]:
        """Return the split that each image is given.

        An image that the run was trained on is a training image, whatever the dataset names it. Otherwise the dataset
        decides; where it names no split, an image keeps the one that it has in the run.

        Args:
            digests: (k, 32) uint8.
            named: the splits that the dataset names.
        """
        return [
            SPLITS[used] if used == TRAIN or (used != UNKNOWN and split is None) else split
            for used, split in zip(self.images.splits_of(digests).tolist(), named, strict=True)
        ]

    def notes(self, digests: np.ndarray, named: Sequence[str | None]) -> list[str]:
        """Return notes on the splits of images, one line each; `digests` and `named` are as for `given`."""
        given = [UNKNOWN if split is None else SPLITS.index(split) for split in self.given(digests, named)]
        used = self.images.splits_of(digests)
        same = int(((used != UNKNOWN) & (used == given)).sum())
        return [f"{same:,} images have the split that they have in {self.folder}, the base"] if same else []

    def warnings(self, digests: np.ndarray, named: Sequence[str | None]) -> list[str]:
        """Return what is wrong with the splits of images; `digests` and `named` are as for `given`."""
        used = self.images.splits_of(digests)
        return missing_warnings(self.missing) + [
            f"the base {self.folder} was trained on {count:,} images that the dataset names {split}: "
            "they are training images"
            for split in SPLITS[1:]
            if (count := sum(name == split for name, is_train in zip(named, used == TRAIN, strict=True) if is_train))
        ]


def tuned_base(base: str | None) -> TunedBase | None:
    """Return the base that an option names if its weights were trained in a run; None for any other base.

    Raises:
        BaseError: the run is damaged, or does not say what it was trained on.
        RunError: the run's record of its images is damaged.
    """
    if base is None:
        return None
    folder = run_folder(base)
    if folder is None:
        return None
    try:
        about = json.loads((folder / RUN_FILE).read_bytes())
        trained = about["kind"] == "finetune" or "base_run" in about["libraries"]
        checksum, missing = about.get("images_checksum"), about.get("images_missing")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BaseError(f"damaged run {folder}", found=repr(error), do="fit again") from error
    if not trained:
        return None
    if checksum is None:
        raise BaseError(f"{folder} does not say which images it was trained on", do="fit again")
    images = read_run_images(folder / IMAGES_FILE, checksum=str(checksum))
    return TunedBase(os.path.abspath(folder), images, missing)


def missing_warnings(missing: str | None) -> list[str]:
    """Return a warning if images are missing in the record of what a base was trained on; `missing` is the reason."""
    return [f"what the base was trained on is not fully known: {missing}"] if missing else []


def with_images_behind(images: RunImages, about: Mapping[str, Any]) -> tuple[RunImages, str | None]:
    """Add what the base of a feature set was trained on to the record of a run that is fitted to it.

    Args:
        images: what the run used the images of the set for.
        about: the set's.

    Returns:
        The record, and why images are missing in it; None if it is complete.
    """
    base = about.get("base_run")
    if base is None:
        return images, None
    try:
        behind = read_run_images(Path(base["folder"], IMAGES_FILE), checksum=base["images_checksum"])
    except RunError as error:
        return images, str(error)
    trained = behind.splits == TRAIN
    return images.joined(RunImages(behind.digests[trained], behind.splits[trained])), base["images_missing"]
