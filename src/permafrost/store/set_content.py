"""The content of a feature set: its dataset, its trunk, and where the features of each image are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from permafrost.store.row_reader import LocatedRows
from permafrost.trunk.spec import TrunkSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewRows:
    """Where the features of augmented views are.

    Attributes:
        spec: the set's trunk, with the augmentation.
        store: the folder of their store, relative to the folder of the set's file.
        shards: names of the shards that hold the rows.
        places: (views, n, 2) int64, starting with view 1: for each image the index of its shard and its row there,
            or -1 for an image without views.
    """

    spec: TrunkSpec
    store: str
    shards: tuple[str, ...]
    places: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetContent:
    """The content of a set's file.

    Attributes:
        spec: the trunk.
        store: the store's folder, relative to the folder of the set's file.
        root: the dataset's absolute path.
        names: for each image its path relative to the root's folder; undecodable bytes are surrogates (PEP 383).
            Names read from a file are decoded on access: as text, those of a million images take 150 MB.
        digests: (n, 32) uint8, the SHA-256 of each image's content.
        labels: (n,) int64, indices into `class_names`.
        splits: (n,) uint8, indices into `splits.SPLITS`.
        class_names: the classes.
        shards: names of the shards that hold the rows.
        places: (n, 2) int64, for each image the index of its shard and its row there.
        skipped: name and reason of everything in the dataset that is not in the set.
        about: how the set was made: the limit on pixels, how splits were decided, versions of libraries.
        views: where the features of augmented views are; None without views.
        groups: (n,) int64, the group of each image, equal for images of one, and -1 for an image without one; None if
            there are no groups.
    """

    spec: TrunkSpec
    store: str
    root: str
    names: Sequence[str]
    digests: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    class_names: tuple[str, ...]
    shards: tuple[str, ...]
    places: np.ndarray
    skipped: tuple[tuple[str, str], ...]
    about: dict[str, Any]
    views: ViewRows | None = None
    groups: np.ndarray | None = None

    @property
    def view_count(self) -> int:
        """The number of views of each training image, including view 0, the image itself."""
        return 1 if self.views is None else 1 + len(self.views.places)

    @property
    def augmentation(self) -> str:
        """The rule that made views above 0 (`augmentation.Augmentation.rule`); empty without such views."""
        return "" if self.views is None else self.views.spec.augmentation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part(LocatedRows):
    """The rows of a set in one store: those of its images, or those of their augmented views.

    Attributes:
        spec: the store's trunk.
        store: the store's folder, relative to the folder of the set's file.
    """

    spec: TrunkSpec
    store: str


def parts(content: SetContent) -> list[Part]:
    """Return the rows of a set by store: its images first, then their augmented views if there are any."""
    images = Part(
        spec=content.spec,
        store=content.store,
        shards=content.shards,
        places=content.places,
        digests=content.digests,
        views=np.zeros(len(content.labels), np.int64),
    )
    views = content.views
    if views is None:
        return [images]
    numbers, rows = np.nonzero(views.places[:, :, 0] >= 0)
    augmented = Part(
        spec=views.spec,
        store=views.store,
        shards=views.shards,
        places=views.places[numbers, rows],
        digests=content.digests[rows],
        views=numbers + 1,
    )
    return [images, augmented]


def with_part(content: SetContent, part: Part) -> SetContent:
    """Return the content of a set with the shards and places of one of its `parts` replaced."""
    if part.store == content.store:
        return dataclasses.replace(content, shards=part.shards, places=part.places)
    assert content.views is not None, "a set's parts are its images and its views"
    places = content.views.places.copy()
    places[places[:, :, 0] >= 0] = part.places
    return dataclasses.replace(content, views=dataclasses.replace(content.views, shards=part.shards, places=places))
