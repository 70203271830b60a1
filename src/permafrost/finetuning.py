"""Unfreeze the top of a run's base and train it together with its head: the work behind `finetune`."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Unpack

import keras
import numpy as np

from permafrost.assembly import body_of
from permafrost.cutting import as_index
from permafrost.engines import make_engine
from permafrost.errors import CutError, OptionError, PictureError, RunError, nearest
from permafrost.evaluation import metrics
from permafrost.feature_set import FeatureSet, open_features
from permafrost.fitting import export_checked, features_record, rounded, split_rows
from permafrost.listing import SPLITS
from permafrost.runs import Run, RunContent, free_folder, open_run, staging, write_run
from permafrost.training import Examples, predict_examples, train
from permafrost.training_options import FINE_TUNING, TrainingOptions, TrainingSettings, with_settings

if TYPE_CHECKING:
    from concurrent.futures import Executor

UNFROZEN_SHARE: Final = 0.25
"""Of the base's layers, the share at the top that is unfrozen where nothing is said."""

CACHED_BYTES: Final = 2 * 2**30
"""Pictures, decoded and resized, are kept in memory as long as they take no more than this."""


def finetune(
    run: Run | str | os.PathLike[str],
    unfreeze: str | int | None = None,
    *,
    train_batchnorm: bool = False,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **training: Unpack[TrainingSettings],
) -> Run:
    """Train the top of a run's base together with its head, starting from the run's model.

    If no epoch does better on what is monitored than the model that it started from, that model is the result.

    Args:
        run: a run of `fit_head` or `finetune`, or its folder.
        unfreeze: the lowest layer of the base that is trained, with all above it in the base's order: a layer's name,
            the beginning of a block's names (`block5`), an index in the base, or `all`; its upper quarter if None.
        train_batchnorm: whether BatchNorm layers of the base are trained too. Their statistics come from millions of
            pictures; a few small batches spoil them.
        out: the new run's folder; `runs/<run>-finetuned` if None, with a number where that is taken.
        progress: whether to draw a progress bar where standard error is a terminal.
        **training: fields of `training_options.TrainingOptions`.

    Returns:
        The new run.

    Raises:
        PermafrostError: something about the request or its input; see `permafrost.errors`.
    """
    started = time.perf_counter()
    options = with_settings(FINE_TUNING, training)
    run = run if isinstance(run, Run) else open_run(run)
    folder = free_folder(out, f"{run.folder.name}-finetuned")
    if folder.resolve() == run.folder.resolve():
        raise OptionError("a run cannot replace the one it starts from", do="give another --out")
    features = features_of(run)
    # Opened anew: training changes the model, and the run's own is to stay what it is.
    model = open_run(run.folder).model
    base_layers = features.store.about["base_layers"]
    lowest = find_unfrozen(unfreeze, base_layers, [layer.name for layer in model.layers])
    set_trainable(model, base_layers[lowest:], frozen=base_layers[:lowest], train_batchnorm=train_batchnorm)
    rows = split_rows(features, hold_out=options.monitor.startswith("val_"))
    body = body_of(model)
    with ThreadPoolExecutor(os.cpu_count(), "pictures") as threads, staging(folder) as stage:
        examples = {split: _examples(features, rows[split], threads) for split in SPLITS}
        outcome = _train(body, examples, options, features, progress)
        trained = time.perf_counter()
        outputs = {split: predict_examples(body, examples[split]) for split in SPLITS}
        parity = export_checked(
            model,
            stage,
            features,
            rows,
            on_rows=lambda chosen: predict_examples(body, _examples(features, chosen, threads)),
            on_pixels=lambda pixels: make_engine("keras", body, batch_size=len(pixels))(pixels)[0],
        )
        now = time.perf_counter()
        content = RunContent(
            class_names=run.class_names,
            about={
                "kind": "finetune",
                "head": run.about["head"],
                "started_from": os.path.abspath(run.folder),
                "options": dataclasses.asdict(options) | {"train_batchnorm": train_batchnorm},
                "unfrozen": {"from": base_layers[lowest], "index": lowest, "layers": len(base_layers) - lowest},
                "details": outcome.details,
                "before": {split: _brief(run.metrics.get(split, {})) for split in SPLITS},
                **features_record(features),
                "parity": dataclasses.asdict(parity),
                "seconds": rounded(train=trained - started, export=now - trained, total=now - started),
            },
            metrics={split: metrics(examples[split].labels, outputs[split], run.class_names) for split in SPLITS},
            history=outcome.history,
            title=f"{features.spec.base} fine-tuned from {base_layers[lowest]}",
        )
        return write_run(folder, stage, content, replace=out is not None)


def features_of(run: Run) -> FeatureSet:
    """The feature set that a run came from, made sure to be the same still.

    Raises:
        RunError: it has other pictures, labels, splits or another trunk now; the first difference is named.
        SetError: it is gone.
    """
    features = open_features(run.about["features"])
    if features.spec.key != run.about["key"]:
        raise RunError(
            f"{features.path} is no longer what {run.folder} was fitted to: trunk",
            expected=f"key {run.about['key']}",
            found=features.spec.key,
            do="fit the head again",
        )
    if tuple(features.class_names) != run.class_names:
        raise RunError(
            f"{features.path} is no longer what {run.folder} was fitted to: classes",
            expected=", ".join(run.class_names),
            found=", ".join(features.class_names),
            do="fit the head again",
        )
    if features.digest != run.about["features_digest"]:
        raise RunError(
            f"{features.path} is no longer what {run.folder} was fitted to: pictures, labels or splits",
            do="fit the head again",
        )
    return features


def find_unfrozen(unfreeze: str | int | None, base_layers: list[str], present: list[str]) -> int:
    """The index in the base of the lowest layer to unfreeze.

    Args:
        unfreeze: as in `finetune`.
        base_layers: names of the base's layers, in their order.
        present: names of the layers in the model: the base's up to its cut, among others.

    Raises:
        CutError: there is no such layer, or it lies above the cut.
    """
    inside = [index for index, name in enumerate(base_layers) if name in set(present)]
    if unfreeze is None:
        return inside[int(len(inside) * (1 - UNFROZEN_SHARE))]
    if unfreeze == "all":
        return 0
    text, number = str(unfreeze), as_index(unfreeze)
    if number is not None:
        index = number
        if not -len(base_layers) <= index < len(base_layers):
            raise CutError(f"the base has no layer {index}", expected=f"0 to {len(base_layers) - 1}", found=index)
        index %= len(base_layers)
    elif text in base_layers:
        index = base_layers.index(text)
    else:
        block = [index for index, name in enumerate(base_layers) if name.startswith((f"{text}_", f"{text}-"))]
        if not block:
            raise CutError(f"the base has no layer or block {text}", do=f"try {nearest(text, base_layers)}")
        index = block[0]
    if index > inside[-1]:
        raise CutError(
            f"layer {base_layers[index]} lies above the cut of the run's features, {base_layers[inside[-1]]}",
            expected=f"a layer up to {base_layers[inside[-1]]}",
            found=base_layers[index],
            do="unfreeze a lower one, or extract at a higher cut",
        )
    return index


def set_trainable(model: keras.Model, unfrozen: list[str], *, frozen: list[str], train_batchnorm: bool) -> None:
    """Say which layers of an exported model are trained: the head's and the unfrozen ones of the base.

    BatchNorm layers of the base are frozen by `trainable = False`, the only way that holds within `fit` in a functional
    Keras 3 model; being called with `training=False` does not.

    Raises:
        CutError: no unfrozen layer has weights to train.
    """
    base = {*unfrozen, *frozen}
    for layer in model.layers:
        layer.trainable = layer.name not in frozen
        if layer.name in base and not train_batchnorm:
            for member in _members(layer):
                if isinstance(member, keras.layers.BatchNormalization):
                    member.trainable = False
    if not any(layer.trainable_weights for layer in model.layers if layer.name in set(unfrozen)):
        raise CutError(
            f"from {unfrozen[0]} up the base has nothing to train",
            expected="layers with trainable weights",
            do="unfreeze from a lower layer",
        )


def _members(layer: Any) -> Iterator[Any]:
    """A layer, and those inside it if it is a model."""
    yield layer
    for member in getattr(layer, "layers", []):
        yield from _members(member)


@dataclasses.dataclass(frozen=True)
class _Outcome:
    history: list[dict[str, float]]
    details: dict[str, Any]


def _train(
    body: keras.Model, examples: dict[str, Examples], options: TrainingOptions, features: FeatureSet, progress: bool
) -> _Outcome:
    """Train, and go back to the start where no epoch beat it."""
    validation = examples["validation"] if len(examples["validation"]) else None
    watched = validation if options.monitor.startswith("val_") else examples["train"]
    before = _monitored(body, watched, options, features.class_names)
    start = body.get_weights()
    history = train(
        body, examples["train"], validation, options, class_count=len(features.class_names), progress=progress
    )
    after = _monitored(body, watched, options, features.class_names)
    better = after > before if options.monitor.endswith("accuracy") else after < before
    if not better:
        body.set_weights(start)
    # Where training ran off to infinity there is no figure, and JSON has no word for it.
    reached = after if math.isfinite(after) else None
    details = {"monitor": options.monitor, "before": before, "after": reached, "improved": bool(better)}
    return _Outcome(history, details | {"epochs": len(history)})


def _monitored(body: keras.Model, examples: Examples | None, options: TrainingOptions, class_names: list[str]) -> float:
    if examples is None:
        raise OptionError(
            f"nothing to watch {options.monitor} on: there are no validation pictures",
            expected="validation pictures, or --monitor loss",
        )
    figures = metrics(examples.labels, predict_examples(body, examples), class_names)
    return float(figures["accuracy" if options.monitor.endswith("accuracy") else "log_loss"])


def _examples(features: FeatureSet, rows: np.ndarray, threads: Executor) -> Examples:
    """Pictures as the trunk sees them, read when they are first asked for."""
    size = features.spec.image_size
    whole = len(features) * size[0] * size[1] * 3
    cache: dict[int, np.ndarray] | None = {} if whole <= CACHED_BYTES else None

    def picture(number: int) -> np.ndarray:
        if cache is not None and number in cache:
            return cache[number]
        try:
            pixels = features.load_picture(int(rows[number])).pixels(size)
        except PictureError as error:
            raise RunError(
                f"a picture of {features.path} cannot be trained on: {error}", do="extract and fit the head again"
            ) from error
        if cache is not None:
            cache[number] = pixels
        return pixels

    def load(numbers: np.ndarray) -> np.ndarray:
        return np.stack(list(threads.map(picture, numbers.tolist()))).astype(np.float32)

    return Examples(features.labels()[rows], load)


def _brief(figures: dict[str, Any]) -> dict[str, Any]:
    return {key: figures[key] for key in ("accuracy", "balanced_accuracy", "log_loss", "n") if key in figures}
