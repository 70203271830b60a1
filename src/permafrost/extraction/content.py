"""The content of a feature set that an extraction writes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from permafrost.extraction.cache import FeatureCache, library_versions
from permafrost.extraction.pipeline import UsedImage
from permafrost.extraction.splitting import Splitting
from permafrost.store.description import describe_splits, split_warnings
from permafrost.store.duplicates import describe_duplicates
from permafrost.store.row_index import place_rows
from permafrost.store.set_content import SetContent, ViewRows
from permafrost.store.shard import digest_rows


def content_without_rows(
    splitting: Splitting,
    cache: FeatureCache,
    path: Path,
    images: Sequence[tuple[int, bytes]],
    splits: np.ndarray,
    skipped: Sequence[tuple[int, str]],
) -> SetContent:
    """Return the content of a set, with everything about its images except where their features are.

    Args:
        splitting: the dataset and the options.
        cache: the cache of the set's trunk.
        path: the set's file.
        images: index in the dataset and digest of each image.
        splits: (k,) uint8, the split of each.
        skipped: index and reason of each image that cannot be used.
    """
    dataset, indices = splitting.dataset, [index for index, _ in images]
    digests = digest_rows([digest for _, digest in images])
    about = {"max_pixels": splitting.options.max_pixels, "splits": splitting.record(indices, digests)}
    if dataset.pixels is not None:
        about["pixels"] = dataset.pixels.record()
    if splitting.base is not None:
        about["base_run"] = splitting.base.record()
    return SetContent(
        spec=cache.spec,
        store=os.path.relpath(cache.folder, path.parent),
        root=dataset.root,
        names=tuple(dataset.names[index] for index in indices),
        digests=digests,
        labels=np.array([dataset.labels[index] for index in indices], np.int64),
        splits=splits,
        class_names=dataset.class_names,
        shards=(),
        places=np.full((len(images), 2), -1, np.int64),
        skipped=(*dataset.skipped, *((dataset.names[index], reason) for index, reason in skipped)),
        about=library_versions() | about,
        groups=splitting.groups_of(indices),
    )


def with_rows(
    content: SetContent, cache: FeatureCache, path: Path, images: Sequence[UsedImage], *, views: int
) -> SetContent:
    """Return the content of a set with the places of the features of its images, and of their views if there are any.

    Args:
        content: the content without rows.
        cache: the cache that holds the rows.
        path: the set's file.
        images: the images.
        views: views of each training image, the image itself included.
    """
    shards, places = place_rows(cache.addresses([image.digest for image in images]))
    more = None if cache.views is None else _view_rows(cache, path, images, views)
    return dataclasses.replace(content, shards=shards, places=places, views=more)


def describe_images(content: SetContent, splitting: Splitting, indices: Sequence[int]) -> dict[str, Any]:
    """Return what `extract --json` says about the images, with or without rows.

    Args:
        content: the content of the set.
        splitting: the dataset and the options.
        indices: the index in the dataset of each image.
    """
    dataset = splitting.dataset
    return {
        "skipped": len(content.skipped),
        "skipped_paths": [{"path": name, "reason": reason} for name, reason in content.skipped],
        "duplicates": describe_duplicates(content),
        "classes": list(content.class_names),
        "splits": describe_splits(content),
        "splitting": content.about["splits"],
        "notes": [*dataset.notes, *splitting.notes(indices, content.digests)],
        "warnings": [
            *dataset.warnings,
            *splitting.warnings(indices, content.digests),
            *split_warnings(content),
        ],
    }


def _view_rows(cache: FeatureCache, path: Path, images: Sequence[UsedImage], count: int) -> ViewRows:
    """Return where the augmented views of images are, `count` of each with the image itself."""
    assert cache.views is not None
    wanted = [(view, row, image.digest) for row, image in enumerate(images) for view in image.views if view]
    shards, found = place_rows(cache.views.addresses([(digest, view) for view, _, digest in wanted]))
    places = np.full((count - 1, len(images), 2), -1, np.int64)
    for place, (view, row, _) in zip(found, wanted, strict=True):
        places[view - 1, row] = place
    store = os.path.relpath(cache.views.folder, path.parent)
    return ViewRows(spec=cache.views.spec, store=store, shards=shards, places=places)
