"""What a model's run used the images of a dataset for, and which of them are scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np

from permafrost.errors import DatasetError, ImageError
from permafrost.images.dataset import Dataset
from permafrost.images.sources import ImageSource
from permafrost.images.splits import SPLITS, TEST, TRAIN
from permafrost.machine import cpu_count
from permafrost.store.run_images import UNKNOWN, RunImages
from permafrost.store.shard import digest_rows
from permafrost.threads import in_order

ALL: Final = "all"
"""Instead of a split: every image is scored."""

_USES: Final = ("was trained on", "was validated on", "was tested on")
"""What a run did with the images of each split."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageUses:
    """What the images of a dataset were used for. Splits are numbers, indices into `splits.SPLITS`, or `UNKNOWN`.

    Attributes:
        used: (n,) int64, the split for which the run used each image, by its content; None if there is no record of
            what the model was trained on.
        given: (n,) int64, the split that the dataset gives each image.
    """

    used: np.ndarray | None
    given: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """(n,) bool, whether the run knows each image."""
        return np.zeros(len(self.given), bool) if self.used is None else self.used != UNKNOWN

    @property
    def splits(self) -> np.ndarray:
        """(n,) int64, the split of each image: the run's own, whatever the dataset says, else the given one."""
        return self.given if self.used is None else np.where(self.known, self.used, self.given)

    @property
    def default_split(self) -> str:
        """The split that is scored if none is given.

        `test` if the run knows any image, or if there is no record and the dataset names test images; else `ALL`.
        """
        if self.used is None:
            return "test" if (self.given == TEST).any() else ALL
        return "test" if self.known.any() else ALL

    def rows(self, split: str) -> np.ndarray:
        """Return the images of a split, or all images: (k,) int64, ascending."""
        if split == ALL:
            return np.arange(len(self.given))
        return np.flatnonzero(self.splits == SPLITS.index(split))

    def trained_on(self, rows: np.ndarray) -> int | None:
        """Return the number of some images that the model was trained on; None if there is no record of it."""
        return None if self.used is None else int((self.used[rows] == TRAIN).sum())

    def unknown_not_scored(self, split: str) -> int:
        """Return the number of images without a split, which are only scored with all."""
        return 0 if split == ALL else int((self.splits == UNKNOWN).sum())

    def notes(self, split: str) -> list[str]:
        """Return notes on the metrics of a split, one line each."""
        if self.used is None:
            lines = ["there is no record of what this model was trained on"]
        else:
            lines = [line for used, line in self._differences(split) if used != TRAIN]
        if unknown := self.unknown_not_scored(split):
            are, them = ("is", "it") if unknown == 1 else ("are", "them")
            lines.append(
                f"{_images(unknown)} {are} not scored: "
                + ("" if self.used is None else f"the run does not know {them}, and ")
                + f"the dataset names no split for {them}; --split all scores every image"
            )
        return lines

    def warnings(self, split: str, scored: np.ndarray) -> list[str]:
        """Return warnings about the metrics of a split, one line each.

        Args:
            split: the split.
            scored: (k,) int64, those of its images that could be decoded.
        """
        lines = [line for used, line in self._differences(split) if used == TRAIN]
        trained, named = self.trained_on(scored), int((self.given[scored] == TRAIN).sum())
        if split == ALL and trained:
            lines.append(f"the model was trained on {trained:,} of the {len(scored):,} images that are scored")
        if split == ALL and self.used is None and named:
            lines.append(f"{named:,} of the {len(scored):,} images that are scored are training images of the dataset")
        return lines

    def nothing_to_score(self, root: str, split: str) -> DatasetError:
        """Return the error for a dataset without images of a split."""
        known, unknown = self.known, ~self.known
        count = len(self.given)
        if self.used is None:
            found = f"{_images(count)}, {self._counts(unknown, self.given) or 'none with a split'}"
        else:
            found = f"{_images(count)}, of which the run knows {known.sum():,}"
            found += f" ({self._counts(known, self.used)})" if known.any() else ""
            given = self._counts(unknown, self.given)
            found += f"; of the others the dataset names {given}" if given else ""
        return DatasetError(
            f"no {split} images in {root}", found=found, do="give another --split, or --split all to score every image"
        )

    def _differences(self, split: str) -> Iterator[tuple[int, str]]:
        """Yield the run's split and a line for each way in which run and dataset differ on images of `split`."""
        if self.used is None or split == ALL:
            return
        wanted = SPLITS.index(split)
        differ = self.known & (self.given != UNKNOWN) & (self.given != self.used)
        for used, given in sorted(set(zip(self.used[differ].tolist(), self.given[differ].tolist(), strict=True))):
            if wanted in (used, given):
                count = int((differ & (self.used == used) & (self.given == given)).sum())
                counts = "it counts" if count == 1 else "they count"
                yield (
                    used,
                    (
                        f"the run {_USES[used]} {_images(count)} that the dataset names {SPLITS[given]}: "
                        f"{counts} as {SPLITS[used]}"
                    ),
                )

    def _counts(self, among: np.ndarray, splits: np.ndarray) -> str:
        counts = {name: int((splits[among] == number).sum()) for number, name in enumerate(SPLITS)}
        return ", ".join(f"{count:,} for {name}" for name, count in counts.items() if count)


def uses_of(dataset: Dataset, images: RunImages | None) -> ImageUses:
    """Return what the images of a dataset were used for.

    Args:
        dataset: the dataset; all of its files are read if there is a record.
        images: the run's record; None if there is none.
    """
    given = np.array([UNKNOWN if split is None else SPLITS.index(split) for split in dataset.splits], np.int64)
    if images is None:
        return ImageUses(used=None, given=given)
    used = np.full(len(dataset), UNKNOWN, np.int64)
    digests = content_digests([dataset.image(index) for index in range(len(dataset))])
    readable = [index for index, digest in enumerate(digests) if digest is not None]
    used[readable] = images.splits_of(digest_rows(digest for digest in digests if digest is not None))
    return ImageUses(used=used, given=given)


def content_digests(images: Sequence[ImageSource]) -> list[bytes | None]:
    """Read images in threads, a bounded number ahead, and return their content digests; None for an unreadable one."""

    def read(image: ImageSource) -> bytes | None:
        try:
            return image.load().digest
        except ImageError:
            return None

    workers = cpu_count()
    with ThreadPoolExecutor(workers, "digests") as threads:
        return list(in_order((threads.submit(read, image) for image in images), ahead=2 * workers))


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"
