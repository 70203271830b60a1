"""The splits of the images that an extraction uses."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from permafrost.extraction import interrupts
from permafrost.extraction.options import ExtractOptions
from permafrost.extraction.pipeline import only_images
from permafrost.extraction.reader import Reader
from permafrost.extraction.tuned_base import TunedBase, tuned_base
from permafrost.images.dataset import Dataset
from permafrost.images.splits import SPLITS
from permafrost.images.splitting.assignment import assign_splits
from permafrost.images.splitting.units import connect_images, group_numbers
from permafrost.progress import progress_bar
from permafrost.store.shard import digest_rows


@dataclasses.dataclass(frozen=True)
class Splitting:
    """Decides the splits of a dataset's images.

    Attributes:
        dataset: the images.
        options: the options of the extraction.
        groups: (n,) int64 of all images of the dataset; None without groups.
        base: the base, if it comes from a fine-tuned run.
    """

    dataset: Dataset
    options: ExtractOptions
    groups: np.ndarray | None
    base: TunedBase | None = None

    @classmethod
    def of(cls, dataset: Dataset, options: ExtractOptions) -> Splitting:
        """Return the splitting of a dataset."""
        groups = None if dataset.groups is None else group_numbers(dataset.groups)
        return cls(dataset, options, groups, tuned_base(options.base))

    def assign(self, images: Sequence[tuple[int, bytes]]) -> np.ndarray:
        """Return the split of each image, (k,) uint8, given its index in the dataset and its digest."""
        indices, digests = [index for index, _ in images], digest_rows([digest for _, digest in images])
        return assign_splits(
            connect_images(digests, self.groups_of(indices)),
            self._given(indices, digests),
            [self.dataset.labels[index] for index in indices],
            **self.options.fractions,
        )

    def _given(self, indices: Sequence[int], digests: np.ndarray) -> list[str | None]:
        """Return the split that each image is given, by the dataset or by the run that the base comes from."""
        named = self._named(indices)
        return named if self.base is None else self.base.given(digests, named)

    def _named(self, indices: Sequence[int]) -> list[str | None]:
        return [self.dataset.splits[index] for index in indices]

    def notes(self, indices: Sequence[int], digests: np.ndarray) -> list[str]:
        """Return notes on the splits of some images, one line each."""
        return [] if self.base is None else self.base.notes(digests, self._named(indices))

    def warnings(self, indices: Sequence[int], digests: np.ndarray) -> list[str]:
        """Return what is wrong with the splits that the dataset names, one line each."""
        return [] if self.base is None else self.base.warnings(digests, self._named(indices))

    def groups_of(self, indices: Sequence[int]) -> np.ndarray | None:
        """Return the groups of some images, (k,) int64; None without groups."""
        return None if self.groups is None else self.groups[np.asarray(indices, np.int64)]

    def ahead(self) -> np.ndarray:
        """Return the split of each image of the dataset, (n,) uint8, before any is decoded.

        Files are read twice then, unless the dataset gives all splits. Those that cannot be read count for training.
        """
        given = self.dataset.splits
        if all(given) and self.base is None:
            return np.array([SPLITS.index(name) for name in given if name], np.uint8)
        reader = Reader(dataset=self.dataset, caches=[], options=self.options, views_of=only_images, decode=False)
        read: list[tuple[int, bytes]] = []
        with (
            interrupts.deferred() as interrupted,
            contextlib.closing(reader.read()) as images,
            progress_bar(total=len(given), unit=" files", shown=self.options.progress, desc="splitting") as bar,
        ):
            for index, image in enumerate(images):
                interrupted.check()
                bar.update()
                if image.digest is not None:
                    read.append((index, image.digest))
        return self.spread(read)

    def spread(self, images: Sequence[tuple[int, bytes]]) -> np.ndarray:
        """Return the split of each image of the dataset, (n,) uint8, given those that can be used."""
        splits = np.zeros(len(self.dataset), np.uint8)
        splits[[index for index, _ in images]] = self.assign(images)
        return splits

    def record(self, indices: Sequence[int], digests: np.ndarray) -> dict[str, Any]:
        """Return how the splits of some images came about, for a set's `about`."""
        given = sum(split is not None for split in self._given(indices, digests))
        return self.options.fractions | {
            "split_by": self.dataset.grouped_by or None,
            "given": given,
            "decided": len(indices) - given,
        }
