"""Images to a feature set: the work behind `extract`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from permafrost.atomic import clear_leftovers
from permafrost.errors import DatasetError, OptionError
from permafrost.extraction import interrupts
from permafrost.extraction.cache import FeatureCache, library_versions
from permafrost.extraction.extracted import ExtractedSet
from permafrost.extraction.pipeline import (
    PipelineOptions,
    PipelineResult,
    cached_conversion,
    engine_for,
    find_images,
    run_images,
)
from permafrost.extraction.reader import RowKey
from permafrost.images.augmentation import read_views
from permafrost.images.dataset import Dataset, read_dataset
from permafrost.images.limits import MAX_PIXELS
from permafrost.images.splits import SPLITS, assign_splits
from permafrost.store.duplicates import describe_duplicates
from permafrost.store.feature_set import STORE_FOLDER
from permafrost.store.row_index import place_rows
from permafrost.store.set_content import SetContent, ViewRows
from permafrost.store.set_file import write_set
from permafrost.store.shard import digest_rows

if TYPE_CHECKING:
    from permafrost.engines.selection import Engine
    from permafrost.trunk.cutting import Trunk

DEFAULT_FOLDER: Final = "features"
ON_BAD: Final = ("skip", "fail")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What an extraction would do.

    Attributes:
        images: how many the dataset lists.
        views: how many views each training image has, the image itself among them.
        compute: how many images and views would be run through the trunk.
        cached: how many are cached already, or are duplicates of others.
        bytes: that the new features would take on disk, uncompressed.
        seconds: that computing them would take, at the speed of one batch tried.
        shape: of one image's features.
        store: where they would be kept.
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


def extract(
    data: str | os.PathLike[str],
    *,
    base: str | None = None,
    weights: str | None = None,
    cut: str | int | Sequence[str | int] | None = None,
    pool: str = "none",
    image_size: int | tuple[int, int] | None = None,
    preprocessing: str | None = None,
    views: int | None = None,
    augment: str | None = None,
    dtype: str = "float32",
    precision: str = "float32",
    engine: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    validation_fraction: float | None = None,
    test_fraction: float | None = None,
    out: str | os.PathLike[str] | None = None,
    on_bad: str = "skip",
    max_pixels: int = MAX_PIXELS,
    progress: bool = True,
) -> Any:
    """Run the frozen trunk once over the images of a dataset and keep its features.

    Images whose features are kept already are not run again, whatever they are called and wherever they lie.

    Args:
        data: a folder with one folder a class, or with `train`, `validation` and `test` folders of those; a CSV with
            the columns `path,label[,split]`; or an `.npz` with `X_train, y_train[, X_validation, y_validation, ...]`.
        base: a name from `keras.applications` in snake case, with its options behind a colon, `resnet20-cifar10`, a
            `.keras` file, or a run, whose base is taken as it was fine-tuned.
        weights: `imagenet`, `none` (random, the same every time), or a file; the base's own if None.
        cut: the layer whose output is kept, by name or index; a list of them to keep several in one pass; None for
            the last.
        pool: `avg` or `max` over height and width, or `none`.
        image_size: height and width in pixels, or one number for both; the base's default if None.
        preprocessing: what a `.keras` base wants as input: `none`, `tf`, `caffe` or `torch`.
        views: how many views of each training image to keep, the image itself among them; 1 if None.
        augment: how views differ from their image: names of augmentations, separated by commas, each with its range
            behind an equals sign where that is not to be the usual one: `flip,shift=0.05,rotate`; see
            `augmentation.Augmentation`. `augmentation.USUAL` if None.
        dtype: what features are stored in: `float32` or `float16`.
        precision: what the base computes in: `float32` or `bfloat16`.
        engine: what runs the trunk: `keras`, `openvino`, or `auto`: Keras where it sees a GPU, OpenVINO elsewhere.
        batch_size: images a batch; what suits the engine if None.
        workers: threads that read and decode; as many as there are processors if None.
        validation_fraction, test_fraction: shares of the images for which the dataset names no split, which is then
            decided by their content. 0.15 each if None.
        out: the set's file; `features/<data>.h5` if None. Its store lies beside it, in `store/`.
        on_bad: `skip` skips images that cannot be decoded, with the reason; `fail` stops at the first.
        max_pixels: images with more are not decoded; the header says how many an image has.
        progress: whether to draw a progress bar where standard error is a terminal.

    Returns:
        A `FeatureSet`; a list of them where `cut` is a list.

    Raises:
        PermafrostError: something about the request or its input; see `permafrost.errors`.
    """
    extraction = Extraction(
        data,
        base=base,
        weights=weights,
        cut=cut,
        pool=pool,
        image_size=image_size,
        preprocessing=preprocessing,
        views=views,
        augment=augment,
        dtype=dtype,
        precision=precision,
        engine=engine,
        batch_size=batch_size,
        workers=workers,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        out=out,
        on_bad=on_bad,
        max_pixels=max_pixels,
        progress=progress,
    )
    sets = extraction.run()
    return sets if isinstance(cut, list | tuple) else sets[0]


class Extraction:
    """One extraction, prepared: the dataset is listed, the trunks are built. Takes the arguments of `extract`."""

    def __init__(
        self,
        data: str | os.PathLike[str],
        *,
        base: str | None,
        weights: str | None,
        cut: str | int | Sequence[str | int] | None,
        pool: str,
        image_size: int | tuple[int, int] | None,
        preprocessing: str | None,
        views: int | None,
        augment: str | None,
        dtype: str,
        precision: str,
        engine: str,
        batch_size: int | None,
        workers: int | None,
        validation_fraction: float | None,
        test_fraction: float | None,
        out: str | os.PathLike[str] | None,
        on_bad: str,
        max_pixels: int,
        progress: bool,
    ) -> None:
        # All that can be wrong is looked at before the base is built, which takes seconds.
        self._started = time.perf_counter()
        if on_bad not in ON_BAD:
            raise OptionError("unknown way with bad images", expected=" or ".join(ON_BAD), found=on_bad)
        self._options = PipelineOptions(
            engine=engine,
            batch_size=batch_size,
            workers=workers,
            fail_on_bad=on_bad == "fail",
            max_pixels=max_pixels,
            progress=progress,
        )
        self._fractions = {"validation_fraction": validation_fraction, "test_fraction": test_fraction}
        assign_splits([], [], **self._fractions)
        self._views = read_views(views, augment)
        cuts: list[Any] = list(cut) if isinstance(cut, list | tuple) else [cut]
        if not cuts:
            raise OptionError("no layer to cut at", expected="one or more", found="an empty list")
        self.dataset = read_dataset(data)
        path = _set_path(out, self.dataset)
        trunks = build_trunks_of(
            base,
            weights,
            cuts,
            pool=pool,
            size=image_size,
            preprocessing=preprocessing,
            dtype=dtype,
            precision=precision,
        )
        self._caches = [FeatureCache(trunk, path.parent / STORE_FOLDER, self._views.rule) for trunk in trunks]
        self._paths = [path.with_stem(f"{path.stem}-{trunk.spec.cut}") if len(cuts) > 1 else path for trunk in trunks]
        self._start_seconds = time.perf_counter() - self._started

    def plan(self) -> list[Plan]:
        """What `run` would do, without doing it; nothing is written."""
        missing: list[set[RowKey]] = [set() for _ in self._caches]
        skipped, rows = len(self.dataset.skipped), 0
        images = find_images(self.dataset, self._caches, self._options, decode=False, views_of=self._views_of)
        with interrupts.deferred() as interrupted, contextlib.closing(images):
            for index, found in enumerate(images):
                interrupted.check()
                if found.digest is None:
                    skipped, rows = skipped + 1, rows + 1
                    continue
                rows += len(self._views_of(index, found.digest))
                for cache, keys in zip(self._caches, missing, strict=True):
                    wanted = [(found.digest, view) for view in found.missing]
                    keys |= {key for key, kept in zip(wanted, cache.has(wanted), strict=True) if not kept}
        compute = len(set().union(*missing))
        seconds = 0.0
        if compute:
            engine = engine_for(self._caches, self._options, cached_conversion(self._caches))
            seconds = compute / try_rate(engine, self._caches[0].spec.image_size)
        return [
            Plan(
                set=str(path),
                store=str(cache.folder),
                images=len(self.dataset),
                views=self._views.count or 1,
                compute=len(keys),
                cached=rows - len(keys),
                skipped=skipped,
                bytes=len(keys) * cache.row_bytes,
                seconds=seconds,
                shape=cache.spec.shapes[0],
            )
            for cache, path, keys in zip(self._caches, self._paths, missing, strict=True)
        ]

    def run(self) -> list[ExtractedSet]:
        """Compute what is missing, and write the sets."""
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
            index, reason = result.skipped[-1]
            raise DatasetError(
                f"none of the {len(self.dataset)} images in {self.dataset.root} can be decoded",
                found=f"{self.dataset.names[index]}: {reason}",
            )
        return [self._write_set(cache, path, result) for cache, path in zip(self._caches, self._paths, strict=True)]

    def _write_set(self, cache: FeatureCache, path: Path, result: PipelineResult) -> ExtractedSet:
        from permafrost.trunk.cutting import save_trunk

        skipped = (*self.dataset.skipped, *((self.dataset.names[index], reason) for index, reason in result.skipped))
        content = self._content(cache, path, result, skipped)
        save_trunk(cache.trunk, cache.folder)
        write_set(path, content)
        engine = result.engine
        seconds = result.seconds | {
            "start": self._start_seconds + result.seconds["engine"],
            "total": time.perf_counter() - self._started,
        }
        summary = {
            "set": str(path),
            "store": str(cache.folder),
            "images": len(result.images),
            "computed": cache.computed,
            "views": self._views.count,
            "cached": sum(len(self._views_of(*image)) for image in result.images) - cache.computed,
            "skipped": len(skipped),
            "skipped_paths": [{"path": name, "reason": reason} for name, reason in skipped],
            "duplicates": describe_duplicates(content),
            "damaged": cache.damaged,
            "shape": list(cache.spec.shapes[0]),
            "classes": list(content.class_names),
            "engine": engine.name if engine else None,
            "engine_difference": engine.difference if engine else None,
            "engine_why": engine.why if engine else "",
            "limit": result.limit,
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
        }
        return ExtractedSet(path, content, summary=summary, trunk=cache.trunk)

    def _content(
        self, cache: FeatureCache, path: Path, result: PipelineResult, skipped: tuple[tuple[str, str], ...]
    ) -> SetContent:
        dataset = self.dataset
        indices, digests = [index for index, _ in result.images], [digest for _, digest in result.images]
        splits = assign_splits(digests, (dataset.splits[index] for index in indices), **self._fractions)
        shards, places = place_rows(cache.addresses([(digest, 0) for digest in digests]))
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
            skipped=skipped,
            about=library_versions() | {"max_pixels": self._options.max_pixels},
            views=self._view_rows(cache, path, result),
        )

    def _views_of(self, index: int, digest: bytes) -> Sequence[int]:
        """The views of an image that are kept: of training images all, of others the image itself."""
        if self._views.count == 1 or self._split_of(index, digest) != "train":
            return (0,)
        return range(self._views.count or 1)

    def _split_of(self, index: int, digest: bytes) -> str:
        return assign_splits([digest], [self.dataset.splits[index]], **self._fractions)[0]

    def _view_rows(self, cache: FeatureCache, path: Path, result: PipelineResult) -> ViewRows | None:
        if cache.views is None:
            return None
        wanted = [
            (view, image, digest)
            for image, (index, digest) in enumerate(result.images)
            for view in self._views_of(index, digest)
            if view
        ]
        shards, found = place_rows(cache.addresses([(digest, view) for view, _, digest in wanted]))
        places = np.full(((self._views.count or 1) - 1, len(result.images), 2), -1, np.int64)
        for place, (view, image, _) in zip(found, wanted, strict=True):
            places[view - 1, image] = place
        store = os.path.relpath(cache.views.folder, path.parent)
        return ViewRows(spec=cache.views.spec, store=store, shards=shards, places=places)


def compute_features(dataset: Dataset, trunk: Trunk, parent: Path, options: PipelineOptions) -> np.ndarray:
    """The features of images, kept ones and new ones, without a set.

    Args:
        dataset: the images; labels and splits do not matter.
        trunk: the trunk.
        parent: the folder that holds stores, e.g. `features/store`.
        options: how; an image that cannot be decoded is an error in any case.

    Returns:
        (n, *shape) float32, in the order of the dataset.

    Raises:
        ImageError: an image cannot be decoded; it is named.
    """
    from permafrost.trunk.cutting import save_trunk

    cache = FeatureCache(trunk, parent)
    result = run_images(dataset, [cache], dataclasses.replace(options, fail_on_bad=True))
    save_trunk(trunk, cache.folder)
    return cache.gather([digest for _, digest in result.images])[0]


def build_trunks_of(
    base: str | None,
    weights: str | None,
    cuts: Sequence[str | int | None],
    *,
    pool: str,
    size: int | tuple[int, int] | None,
    preprocessing: str | None,
    dtype: str,
    precision: str,
) -> list[Trunk]:
    """Load a base and cut it; the arguments are those of `extract`."""
    from permafrost.trunk.bases import DEFAULT_BASE, load_base
    from permafrost.trunk.cutting import build_trunks
    from permafrost.trunk.run_base import load_run_base, run_folder

    pair = (size, size) if isinstance(size, int) else size
    run = run_folder(base) if base else None
    if run:
        loaded = load_run_base(run, weights=weights, image_size=pair, preprocessing=preprocessing)
    else:
        loaded = load_base(base or DEFAULT_BASE, weights=weights, image_size=pair, preprocessing=preprocessing)
    return build_trunks(loaded, cuts, pool=pool, precision=precision, dtype=dtype)


def try_rate(engine: Engine, size: tuple[int, int]) -> float:
    """Images a second that `engine` computes: a batch in each stream to warm up, and one to time."""
    pixels = np.zeros((engine.batch_size, *size, 3), np.uint8)
    with ThreadPoolExecutor(engine.streams) as threads:
        for _ in range(2):
            started = time.perf_counter()
            list(threads.map(engine, [pixels] * engine.streams))
    return engine.streams * engine.batch_size / (time.perf_counter() - started)


def _set_path(out: str | os.PathLike[str] | None, dataset: Dataset) -> Path:
    path = Path(DEFAULT_FOLDER) / f"{dataset.name}.h5" if out is None else Path(out)
    if path.suffix != ".h5":
        raise OptionError("a feature set is an HDF5 file", expected="--out NAME.h5", found=str(path))
    return path
