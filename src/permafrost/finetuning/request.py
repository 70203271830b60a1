"""Check a request for fine-tuning before anything is computed or written."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from permafrost.errors import HeadError, OptionError
from permafrost.finetuning.options import FineTuneOptions
from permafrost.finetuning.run_features import find_features
from permafrost.finetuning.selection import ImageSelection
from permafrost.heads.data import split_rows
from permafrost.images.augmentation import read_views
from permafrost.images.splits import TRAIN
from permafrost.model.run import Run, free_folder, open_run
from permafrost.store.run_images import RunImages
from permafrost.training.loop import require_validation
from permafrost.trunk.spec import TrunkSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A checked request for fine-tuning.

    Attributes:
        run: the run to start from.
        options: the options.
        selection: the images and views.
        spec: everything that the cached features depend on, except the cut.
        layers: names of the base's layers, in its order.
        folder: the new run's folder.
        replace: whether a run in that folder is replaced.
    """

    run: Run
    options: FineTuneOptions
    selection: ImageSelection
    spec: TrunkSpec
    layers: list[str]
    folder: Path
    replace: bool

    def images(self) -> RunImages:
        """Return what each image is used for: an image that the run was trained on stays one that was trained on."""
        selection = self.selection
        return self.run.images.joined(RunImages.of_rows(selection.features.digests(), selection.rows))

    def warnings(self) -> list[str]:
        """Return what is wrong with the images, one line each: some tell epochs apart, but nothing beyond that."""
        digests = self.selection.features.digests()[self.selection.rows["validation"]]
        count = int((self.run.images.splits_of(digests) == TRAIN).sum())
        return [f"{self.run.folder} was trained on {count:,} of the validation images"] if count else []

    def settings(self) -> dict[str, Any]:
        """Return everything that the trained model depends on, except the run and the cut, as JSON values."""
        options, views = self.options, self.selection.views
        return dataclasses.asdict(options.training) | {
            "views": views.count if views.count is not None else "live",
            "augmentation": views.rule,
            "train_batchnorm": options.train_batchnorm,
            "lowest_rate": options.lowest_rate,
            "dtype": options.dtype,
            "mixed_precision": options.mixed_precision,
        }


def check_request(run: Run | str | os.PathLike[str], options: FineTuneOptions) -> Request:
    """Open a run and its feature set, and check the request.

    Raises:
        PermafrostError: the request or its input is wrong.
    """
    if options.mixed_precision:
        require_gpu()
    views = read_views(options.views, options.augment, live=True)
    run = run if isinstance(run, Run) else open_run(run)
    folder = free_folder(options.out, f"{run.folder.name}-finetuned")
    if folder.resolve() == run.folder.resolve():
        raise OptionError("a run cannot replace the one it starts from", do="give another --out")
    require_trained_head(run, options.untrained_head)
    features = find_features(run, options.features)
    rows = split_rows(features, hold_out=options.training.monitors_validation)
    require_validation(len(rows["validation"]) > 0, options.training)
    rows = run.images.own_rows(features.digests(), rows, ["test"])
    return Request(
        run=run,
        options=options,
        selection=ImageSelection(features=features, rows=rows, views=views),
        spec=dataclasses.replace(features.spec, dtype=options.dtype),
        layers=features.store.about["base_layers"],
        folder=folder,
        replace=options.out is not None,
    )


def require_trained_head(run: Run, untrained_allowed: bool) -> None:
    """Refuse a head that passes no useful gradient, because of its kind or because it is no better than guessing.

    Raises:
        HeadError: the head has no useful gradient.
    """
    head, metrics = run.about["head"], run.metrics["train"]
    if not run.about["passes_gradient"]:
        raise HeadError(
            f"nothing can be trained through the head of {run.folder}: {head} has no useful gradient",
            do="fit another head, such as logistic, and fine-tune that run",
        )
    counts = np.array([each["n"] for each in metrics["classes"].values() if each["n"]])
    fractions = counts / counts.sum()
    guessing = float(-(fractions * np.log(fractions)).sum())
    half_way = (1 + 1 / len(counts)) / 2
    # Both are required, because the probabilities of some good heads are badly calibrated.
    untrained = not metrics["log_loss"] < guessing and metrics["balanced_accuracy"] < half_way
    if untrained and not untrained_allowed:
        raise HeadError(
            f"the head of {run.folder} is not trained: its large gradients would destroy the base",
            expected=f"a log loss on training images below {guessing:.3f}, that of guessing",
            found=f"{metrics['log_loss']:.3f}",
            do="fit the head better, or give --untrained-head",
        )


def require_gpu() -> None:
    """Require a GPU.

    Raises:
        OptionError: TensorFlow or the backend in use finds no GPU.
    """
    if not keras.distribution.list_devices("gpu"):
        raise OptionError("mixed precision is slower without a GPU", expected="a GPU", found="none")
