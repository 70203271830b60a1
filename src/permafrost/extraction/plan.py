"""Find out what an extraction would do, without computing or writing anything."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from permafrost.extraction import interrupts
from permafrost.extraction.cache import RowKey
from permafrost.extraction.content import content_without_rows, describe_images
from permafrost.extraction.pipeline import cached_conversion, engine_for
from permafrost.extraction.reader import Reader
from permafrost.extraction.splitting import Splitting

if TYPE_CHECKING:
    from permafrost.engines.engine import Engine


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The work that an extraction would do.

    Attributes:
        set: file of the feature set.
        store: folder of the store.
        images: number of images in the dataset.
        views: views of each training image, the image itself included.
        compute: number of images and views to be computed.
        cached: number of images and views that are cached, or duplicates of others.
        bytes: size of the new features on disk, uncompressed.
        seconds: time to compute them, estimated from one batch.
        shape: shape of the features of one image.
        skipped: number of files that are not images or cannot be read.
        skipped_paths, duplicates, classes, splits, splitting, notes, warnings: as `extract --json` says them.
    """

    set: str
    store: str
    images: int
    views: int
    compute: int
    cached: int
    bytes: int
    seconds: float
    shape: tuple[int, ...]
    skipped: int
    skipped_paths: list[dict[str, str]]
    duplicates: dict[str, Any]
    classes: list[str]
    splits: dict[str, Any]
    splitting: dict[str, Any]
    notes: list[str]
    warnings: list[str]


def make_plans(reader: Reader, splitting: Splitting, paths: Sequence[Path]) -> list[Plan]:
    """Return what an extraction would do for each cut; nothing is written.

    Args:
        reader: reads the images of the dataset without decoding them.
        splitting: decides their splits.
        paths: the file of the feature set of each of the reader's caches.
    """
    dataset, caches = reader.dataset, reader.caches
    missing: list[set[RowKey]] = [set() for _ in caches]
    read: list[tuple[int, bytes]] = []
    skipped: list[tuple[int, str]] = []
    rows = 0
    with interrupts.deferred() as interrupted, contextlib.closing(reader.read()) as images:
        for index, image in enumerate(images):
            interrupted.check()
            rows += len(image.views)
            if image.digest is None:
                skipped.append((index, image.reason))
            else:
                read.append((index, image.digest))
            for row in image.missing:
                for keys, lacks in zip(missing, row.lacking, strict=True):
                    if lacks:
                        keys.add(row.key)
    compute, seconds = len(set().union(*missing)), 0.0
    if compute:
        engine = engine_for(caches, reader.options, cached_conversion(caches))
        seconds = compute / measure_rate(engine, caches[0].spec.image_size)
    content = content_without_rows(splitting, caches[0], paths[0], read, splitting.assign(read), skipped)
    return [
        Plan(
            set=str(path),
            store=str(cache.folder),
            images=len(dataset),
            views=splitting.options.views,
            compute=len(keys),
            cached=rows - len(keys),
            bytes=len(keys) * cache.row_bytes,
            seconds=seconds,
            shape=cache.spec.shapes[0],
            **describe_images(content, splitting, [index for index, _ in read]),
        )
        for cache, path, keys in zip(caches, paths, missing, strict=True)
    ]


def measure_rate(engine: Engine, size: tuple[int, int]) -> float:
    """Measure how many images per second an engine computes, after a warm-up of one batch per stream."""
    pixels = np.zeros((engine.batch_size, *size, 3), np.uint8)
    with ThreadPoolExecutor(engine.streams) as threads:
        for _ in range(2):
            started = time.perf_counter()
            list(threads.map(engine, [pixels] * engine.streams))
    return engine.streams * engine.batch_size / (time.perf_counter() - started)
