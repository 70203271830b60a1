"""`extract`: turn the images of a dataset into a feature set."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from permafrost.atomic import clear_leftovers
from permafrost.errors import DatasetError
from permafrost.extraction import interrupts
from permafrost.extraction.cache import FeatureCache, RowKey, library_versions
from permafrost.extraction.extracted import ExtractedSet
from permafrost.extraction.naming import SetIdentity, check_set_path, default_path
from permafrost.extraction.options import (
    DEFAULT_FOLDER,
    ExtractOptions,
    ExtractSettings,
    PipelineOptions,
    TrunkOptions,
)
from permafrost.extraction.pipeline import PipelineResult, cached_conversion, engine_for, run_images
from permafrost.extraction.reader import Reader
from permafrost.images.augmentation import read_views
from permafrost.images.dataset import Dataset, read_dataset
from permafrost.images.splits import SPLITS, assign_splits
from permafrost.keras_state import keras_defaults
from permafrost.options import documented
from permafrost.store.duplicates import describe_duplicates
from permafrost.store.feature_set import STORE_FOLDER
from permafrost.store.row_index import place_rows
from permafrost.store.set_content import SetContent, ViewRows
from permafrost.store.set_file import write_set
from permafrost.store.shard import digest_rows

if TYPE_CHECKING:
    from permafrost.engines.engine import Engine
    from permafrost.trunk.cutting import Trunk
    from permafrost.trunk.spec import TrunkSpec


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
        skipped: number of files that are not images or cannot be read.
        bytes: size of the new features on disk, uncompressed.
        seconds: time to compute them, estimated from one batch.
        shape: shape of the features of one image.
    """

    set: str
    store: str
    images: int
    views: int
    compute: int
    cached: int
    skipped: int
    bytes: int
    seconds: float
    shape: tuple[int, ...]


@documented(ExtractOptions)
def extract(data: str | os.PathLike[str], **options: Unpack[ExtractSettings]) -> Any:
    """Run the frozen base once over the images of a dataset and cache its features.

    Images whose features are cached are not computed again, whatever their names, folders and labels are.

    Args:
        data: a folder with one folder per class, or with `train`, `validation` and `test` folders of those; a CSV with
            the columns `path,label[,split][,group]`; or an `.npz` with `X_train, y_train[, X_validation, ...]`.
        **options: documented from the fields.

    Returns:
        An `ExtractedSet`; a list of them if `cut` is a list.

    Raises:
        PermafrostError: the request or its input is wrong; see `permafrost.errors`.
    """
    chosen = ExtractOptions(**options)
    sets = Extraction(data, chosen).run()
    return sets if isinstance(chosen.cut, list | tuple) else sets[0]


class Extraction:
    """A prepared extraction: the dataset has been read, and the trunks have been built.

    Args:
        data: the dataset, as for `extract`.
        options: the options of `extract`.

    Raises:
        PermafrostError: the request or its input is wrong.
    """

    def __init__(self, data: str | os.PathLike[str], options: ExtractOptions) -> None:
        # Everything else is checked before the base is built, which takes seconds.
        self._started = time.perf_counter()
        self._options = options
        self._views = read_views(options.views, options.augment)
        self.dataset = read_dataset(data, options)
        out = None if options.out is None else check_set_path(Path(options.out))
        trunks = build_trunks_of(options)
        folder = Path(DEFAULT_FOLDER) if out is None else out.parent
        self._caches = [FeatureCache(trunk, folder / STORE_FOLDER, self._views.rule) for trunk in trunks]
        self._paths = [self._path(trunk.spec, out, several=len(trunks) > 1) for trunk in trunks]
        self._start_seconds = time.perf_counter() - self._started

    def _path(self, spec: TrunkSpec, out: Path | None, *, several: bool) -> Path:
        if out is None:
            identity = SetIdentity(spec=spec, views=self._options.views, augmentation=self._views.rule)
            return default_path(self.dataset, identity)
        return out.with_stem(f"{out.stem}-{spec.cut}") if several else out

    @keras_defaults(load=False)
    def plan(self) -> list[Plan]:
        """Return what `run` would do for each cut; nothing is written."""
        missing: list[set[RowKey]] = [set() for _ in self._caches]
        skipped, rows = len(self.dataset.skipped), 0
        reader = Reader(
            dataset=self.dataset, caches=self._caches, options=self._options, views_of=self._views_of, decode=False
        )
        with interrupts.deferred() as interrupted, contextlib.closing(reader.read()) as images:
            for image in images:
                interrupted.check()
                rows += len(image.views)
                skipped += image.digest is None
                for row in image.missing:
                    for keys, lacks in zip(missing, row.lacking, strict=True):
                        if lacks:
                            keys.add(row.key)
        compute = len(set().union(*missing))
        seconds = 0.0
        if compute:
            engine = engine_for(self._caches, self._options, cached_conversion(self._caches))
            seconds = compute / measure_rate(engine, self._caches[0].spec.image_size)
        return [
            Plan(
                set=str(path),
                store=str(cache.folder),
                images=len(self.dataset),
                views=self._options.views,
                compute=len(keys),
                cached=rows - len(keys),
                skipped=skipped,
                bytes=len(keys) * cache.row_bytes,
                seconds=seconds,
                shape=cache.spec.shapes[0],
            )
            for cache, path, keys in zip(self._caches, self._paths, missing, strict=True)
        ]

    @keras_defaults(load=False)
    def run(self) -> list[ExtractedSet]:
        """Compute what is missing, write the feature set of each cut, and return them."""
        for folder in {path.parent for path in self._paths}:
            clear_leftovers(folder)
        result = run_images(
            self.dataset,
            self._caches,
            self._options,
            augmentation=self._views.augmentation,
            views_of=self._views_of,
        )
        if not result.images:
            index, reason = result.skipped[0]
            raise DatasetError(
                f"none of the {len(self.dataset)} images in {self.dataset.root} can be read",
                found=f"{self.dataset.location(index)}: {reason}",
            )
        return [self._write_set(cache, path, result) for cache, path in zip(self._caches, self._paths, strict=True)]

    def _write_set(self, cache: FeatureCache, path: Path, result: PipelineResult) -> ExtractedSet:
        from permafrost.trunk.cutting import save_trunk

        content = self._content(cache, path, result)
        save_trunk(cache.trunk, cache.folder)
        write_set(path, content)
        summary = self._summary(cache, result) | {
            "set": str(path),
            "skipped": len(content.skipped),
            "skipped_paths": [{"path": name, "reason": reason} for name, reason in content.skipped],
            "duplicates": describe_duplicates(content),
            "classes": list(content.class_names),
        }
        return ExtractedSet(path, content, summary=summary, trunk=cache.trunk)

    def _summary(self, cache: FeatureCache, result: PipelineResult) -> dict[str, Any]:
        engine = result.engine
        seconds = result.seconds | {
            "start": self._start_seconds + result.seconds["engine"],
            "total": time.perf_counter() - self._started,
        }
        return {
            "store": str(cache.folder),
            "images": len(result.images),
            "computed": cache.computed,
            "views": self._options.views,
            "cached": sum(len(image.views) for image in result.images) - cache.computed,
            "damaged": cache.damaged,
            "shape": list(cache.spec.shapes[0]),
            "engine": engine.name if engine else None,
            "engine_difference": engine.difference if engine else None,
            "engine_why": engine.why if engine else "",
            "limit": result.limit,
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
        }

    def _content(self, cache: FeatureCache, path: Path, result: PipelineResult) -> SetContent:
        dataset = self.dataset
        indices, digests = [image.index for image in result.images], [image.digest for image in result.images]
        splits = assign_splits(digests, (dataset.splits[index] for index in indices), **self._options.fractions)
        shards, places = place_rows(cache.addresses(digests))
        return SetContent(
            spec=cache.spec,
            store=os.path.relpath(cache.folder, path.parent),
            root=dataset.root,
            names=tuple(dataset.names[index] for index in indices),
            digests=digest_rows(digests),
            labels=np.array([dataset.labels[index] for index in indices], np.int64),
            splits=np.array([SPLITS.index(split) for split in splits], np.uint8),
            class_names=dataset.class_names,
            shards=shards,
            places=places,
            skipped=(*dataset.skipped, *((dataset.names[index], reason) for index, reason in result.skipped)),
            about=library_versions() | {"max_pixels": self._options.max_pixels},
            views=_view_rows(cache, path, result, self._options.views),
        )

    def _views_of(self, index: int, digest: bytes) -> Sequence[int]:
        """Return the wanted views of an image: all for a training image, only the image itself for others."""
        if self._options.views == 1:
            return (0,)
        (split,) = assign_splits([digest], [self.dataset.splits[index]], **self._options.fractions)
        return range(self._options.views) if split == "train" else (0,)


def _view_rows(cache: FeatureCache, path: Path, result: PipelineResult, count: int) -> ViewRows | None:
    """Return where the augmented views are, `count` with the image itself; None without augmented views."""
    if cache.views is None:
        return None
    wanted = [(view, row, image.digest) for row, image in enumerate(result.images) for view in image.views if view]
    shards, found = place_rows(cache.views.addresses([(digest, view) for view, _, digest in wanted]))
    places = np.full((count - 1, len(result.images), 2), -1, np.int64)
    for place, (view, row, _) in zip(found, wanted, strict=True):
        places[view - 1, row] = place
    store = os.path.relpath(cache.views.folder, path.parent)
    return ViewRows(spec=cache.views.spec, store=store, shards=shards, places=places)


@keras_defaults(load=False)
def compute_features(dataset: Dataset, trunk: Trunk, parent: Path, options: PipelineOptions) -> np.ndarray:
    """Return the features of images, cached or computed now, without writing a set.

    Args:
        dataset: the images; labels and splits do not matter.
        trunk: the trunk.
        parent: folder of the stores, e.g. `features/store`.
        options: how images are read and computed; `on_bad` is `fail` in any case.

    Returns:
        (n, *shape) float32, in the order of the dataset.

    Raises:
        ImageError: an image cannot be decoded; it is named.
    """
    from permafrost.trunk.cutting import save_trunk

    cache = FeatureCache(trunk, parent)
    result = run_images(dataset, [cache], dataclasses.replace(options, on_bad="fail"))
    save_trunk(trunk, cache.folder)
    return cache.gather([image.digest for image in result.images])[0]


@keras_defaults()
def build_trunks_of(options: TrunkOptions) -> list[Trunk]:
    """Load the base that the options name, and cut it."""
    from permafrost.trunk.bases import load_base
    from permafrost.trunk.cutting import build_trunks
    from permafrost.trunk.options import DEFAULT_BASE
    from permafrost.trunk.run_base import load_run_base, run_folder

    base = options.base or DEFAULT_BASE
    run = run_folder(base)
    load: Any = load_base if run is None else load_run_base
    loaded = load(run or base, weights=options.weights, image_size=options.size, preprocessing=options.preprocessing)
    return build_trunks(loaded, options.cuts, pool=options.pool, precision=options.precision, dtype=options.dtype)


def measure_rate(engine: Engine, size: tuple[int, int]) -> float:
    """Measure how many images per second an engine computes, after a warm-up of one batch per stream."""
    pixels = np.zeros((engine.batch_size, *size, 3), np.uint8)
    with ThreadPoolExecutor(engine.streams) as threads:
        for _ in range(2):
            started = time.perf_counter()
            list(threads.map(engine, [pixels] * engine.streams))
    return engine.streams * engine.batch_size / (time.perf_counter() - started)
