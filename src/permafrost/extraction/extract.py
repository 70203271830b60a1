"""`extract`: turn the images of a dataset into a feature set."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from permafrost.atomic import clear_leftovers
from permafrost.errors import DatasetError, ImageError
from permafrost.extraction.cache import FeatureCache
from permafrost.extraction.content import content_without_rows, describe_images, with_rows
from permafrost.extraction.extracted import ExtractedSet
from permafrost.extraction.naming import SetIdentity, check_set_path, default_path
from permafrost.extraction.options import (
    DEFAULT_FOLDER,
    ExtractOptions,
    ExtractSettings,
    PipelineOptions,
    TrunkOptions,
)
from permafrost.extraction.pipeline import PipelineResult, only_images, run_images
from permafrost.extraction.plan import Plan, make_plans
from permafrost.extraction.reader import Reader, ViewsOf
from permafrost.extraction.splitting import Splitting
from permafrost.images.arrays.ranges import DARK
from permafrost.images.augmentation import read_views
from permafrost.images.dataset import Dataset, read_dataset
from permafrost.images.splits import TRAIN
from permafrost.keras_state import keras_defaults
from permafrost.options import as_path, documented
from permafrost.store.feature_set import STORE_FOLDER
from permafrost.store.set_file import write_set

if TYPE_CHECKING:
    from permafrost.trunk.cutting import Trunk
    from permafrost.trunk.spec import TrunkSpec


@documented(ExtractOptions)
def extract(data: str | os.PathLike[str], **options: Unpack[ExtractSettings]) -> Any:
    """Run the frozen base once over the images of a dataset and cache its features.

    Images whose features are cached are not computed again, whatever their names, folders and labels are.

    Args:
        data: a folder with one folder per class, with or without split folders (`train`, `val`, `test_set`, ...) around
            them or in each; a CSV with the columns `path,label[,split][,group]`; or an `.npz` with
            `X_train, y_train[, X_validation, ...]`.
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
        self._splitting = Splitting.of(self.dataset, options)
        out = None if options.out is None else check_set_path(as_path(options.out, "a feature set"))
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
        views_of = self._views_of(self._splitting.ahead() if self._options.views > 1 else None)
        reader = Reader(
            dataset=self.dataset, caches=self._caches, options=self._options, views_of=views_of, decode=False
        )
        return make_plans(reader, self._splitting, self._paths)

    @keras_defaults(load=False)
    def run(self) -> list[ExtractedSet]:
        """Compute what is missing, write the feature set of each cut, and return them."""
        for folder in {path.parent for path in self._paths}:
            clear_leftovers(folder)
        result, splits = self._run_images()
        if not result.images:
            index, reason = result.skipped[0]
            raise DatasetError(
                f"none of the {len(self.dataset)} images in {self.dataset.root} can be read",
                found=f"{self.dataset.location(index)}: {reason}",
            )
        targets = zip(self._caches, self._paths, strict=True)
        return [self._write_set(cache, path, result, splits) for cache, path in targets]

    def _run_images(self) -> tuple[PipelineResult, np.ndarray]:
        """Compute what is missing; return the result and the splits of its images, (k,) uint8.

        Only training images have views, so with views the splits are decided before. Images that turn out not to be
        decodable do not count then, which may change the splits of others: these get their views in another pass.
        """
        wanted, before = self._splitting.ahead() if self._options.views > 1 else None, None
        while True:
            result = run_images(
                self.dataset,
                self._caches,
                self._options,
                augmentation=self._views.augmentation,
                views_of=self._views_of(wanted),
            )
            result = result if before is None else result.after(before)
            images = [(image.index, image.digest) for image in result.images]
            splits = self._splitting.assign(images)
            if wanted is None or np.array_equal(wanted[[index for index, _ in images]], splits):
                return result, splits
            wanted, before = self._splitting.spread(images), result

    def _write_set(self, cache: FeatureCache, path: Path, result: PipelineResult, splits: np.ndarray) -> ExtractedSet:
        from permafrost.trunk.cutting import save_trunk

        images = [(image.index, image.digest) for image in result.images]
        content = content_without_rows(self._splitting, cache, path, images, splits, result.skipped)
        content = with_rows(content, cache, path, result.images, views=self._options.views)
        save_trunk(cache.trunk, cache.folder)
        write_set(path, content)
        described = describe_images(content, self._splitting, [index for index, _ in images])
        if result.dark and self.dataset.arrays is None:
            described["warnings"].append(
                f"no level of any image is above {DARK} of 255: the images are nearly black, as where files of 16 bits "
                "hold 12; save such values with 8 bits"
            )
        summary = self._summary(cache, result) | {"set": str(path)} | described
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

    def _views_of(self, splits: np.ndarray | None) -> ViewsOf:
        """Return the function that tells the wanted views of an image: all for training, the image itself for others.

        Args:
            splits: (n,) uint8, the split of each image of the dataset; None without views.
        """
        if splits is None:
            return only_images
        trained, every = (splits == TRAIN).tolist(), range(self._options.views)
        return lambda index, _: every if trained[index] else (0,)


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
    try:
        result = run_images(dataset, [cache], dataclasses.replace(options, on_bad="fail"))
    except ImageError as error:
        raise ImageError(error.what, do="leave it out") from error  # There is no option to skip it here.
    save_trunk(trunk, cache.folder)
    return cache.gather([image.digest for image in result.images])[0]


@keras_defaults()
def build_trunks_of(options: TrunkOptions) -> list[Trunk]:
    """Load the base that the options name, and cut it."""
    from permafrost.trunk.bases import load_base
    from permafrost.trunk.cutting import build_trunks
    from permafrost.trunk.options import DEFAULT_BASE
    from permafrost.trunk.run_base import load_run_base, run_folder

    base = os.path.expanduser(options.base or DEFAULT_BASE)
    weights = options.weights and os.path.expanduser(options.weights)
    run = run_folder(base)
    load: Any = load_base if run is None else load_run_base
    loaded = load(run or base, weights=weights, image_size=options.size, preprocessing=options.preprocessing)
    return build_trunks(loaded, options.cuts, pool=options.pool, precision=options.precision, dtype=options.dtype)
