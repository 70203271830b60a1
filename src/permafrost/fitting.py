"""Fit a head to kept features, and leave a run: the work behind `fit-head`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Unpack

import keras
import numpy as np

from permafrost.assembly import PARITY_PICTURES, Parity, assemble, check_parity, export_model
from permafrost.cutting import load_trunk
from permafrost.engines import make_engine
from permafrost.errors import HeadError, PictureError
from permafrost.evaluation import metrics
from permafrost.feature_set import FeatureSet, open_features
from permafrost.heads import Fit, FittedHead, HeadData, HeadSettings, find_head, needs_validation, options_from
from permafrost.listing import SPLITS, content_position
from permafrost.pictures import content_digest
from permafrost.runs import MODEL_FILE, Run, RunContent, free_folder, staging, write_run
from permafrost.trunk_spec import TrunkSpec

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

Outputs = Callable[[np.ndarray], np.ndarray]

HELD_OUT: Final = 0.1
"""Of the training pictures, the share that is held out where a head has to watch validation pictures and has none."""


def fit_head(
    features: FeatureSet | str | os.PathLike[str],
    head: str | BaseEstimator = "dense",
    *,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **settings: Unpack[HeadSettings],
) -> Run:
    """Fit a classifier to kept features and export it, with the trunk, as one Keras model.

    Args:
        features: a feature set, or its file.
        head: one of `heads.HEADS`; or a scikit-learn classifier, or a `Pipeline` that ends in one, which can be folded
            into Keras layers.
        out: the run's folder; `runs/<set>-<head>` if None, with a number where that is taken.
        progress: whether to draw a progress bar where standard error is a terminal.
        **settings: fields of `heads.HeadOptions` and of `training_options.TrainingOptions`; each head reads what
            concerns it.

    Returns:
        The run.

    Raises:
        PermafrostError: something about the request or its input; see `permafrost.errors`.
    """
    started = time.perf_counter()
    options = options_from(settings, progress=progress)
    name, fit = _named(head)
    if not isinstance(features, FeatureSet):
        features = open_features(features)
    folder = free_folder(out, f"{features.path.stem}-{name}")
    rows = split_rows(features, hold_out=needs_validation(name) and options.training.monitor.startswith("val_"))
    arrays = {split: features.features(selected) for split, selected in rows.items()}
    labels = {split: features.labels()[selected] for split, selected in rows.items()}
    require_classes(labels["train"], features.class_names)
    require_features(arrays["train"], [features.names()[row] for row in rows["train"]])
    fitting = time.perf_counter()
    fitted = fit(_head_data(arrays, labels, features), options)
    fitted_at = time.perf_counter()
    outputs = {split: _outputs(fitted, arrays[split]) for split in SPLITS}
    require_numbers(outputs["train"])
    with staging(folder) as stage:
        parity = _export(fitted, features, rows, stage)
        now = time.perf_counter()
        content = RunContent(
            class_names=tuple(features.class_names),
            about={
                "kind": "fit-head",
                "head": name,
                "options": dataclasses.asdict(options),
                "details": fitted.details,
                **features_record(features),
                "parity": dataclasses.asdict(parity),
                "seconds": rounded(
                    load=fitting - started, fit=fitted_at - fitting, export=now - fitted_at, total=now - started
                ),
            },
            metrics={split: metrics(labels[split], outputs[split], features.class_names) for split in SPLITS},
            history=fitted.history,
            title=f"{name} head on {features.spec.base} {features.spec.cut}",
        )
        return write_run(folder, stage, content, replace=out is not None)


def _named(head: str | BaseEstimator) -> tuple[str, Fit]:
    """A head's name, and how it is fitted; what cannot be exported is refused."""
    if isinstance(head, str):
        return head, find_head(head)
    from permafrost.heads.folding import require_foldable
    from permafrost.heads.sklearn_heads import fit_estimator

    require_foldable(head)
    return type(head).__name__.lower(), functools.partial(fit_estimator, head)


def _export(fitted: FittedHead, features: FeatureSet, rows: dict[str, np.ndarray], stage: Path) -> Parity:
    """Join the trunk and the head, save the model, and compare it with the head on kept features."""
    trunk = load_trunk(features.store)

    def on_kept(chosen: np.ndarray) -> np.ndarray:
        return _outputs(fitted, features.features(chosen))

    def on_pixels(pixels: np.ndarray) -> np.ndarray:
        return _outputs(fitted, make_engine("keras", trunk.model, batch_size=len(pixels))(pixels)[0])

    return export_checked(assemble(trunk, fitted.model), stage, features, rows, on_rows=on_kept, on_pixels=on_pixels)


def export_checked(
    model: keras.Model,
    stage: Path,
    features: FeatureSet,
    rows: dict[str, np.ndarray],
    *,
    on_rows: Outputs,
    on_pixels: Outputs,
    spec: TrunkSpec | None = None,
) -> Parity:
    """Save a run's model, and compare it, read back, with what it was made of.

    Args:
        model: from pictures to probabilities.
        stage: the folder in which the run is put together.
        features: the set that it came from.
        rows: of each split.
        on_rows: given (k,) rows of the set, the probabilities (k, classes) to compare with.
        on_pixels: given pixels (k, h, w, 3) uint8, the same; for where no picture can be read.
        spec: of the kept features behind `on_rows`, where they are not the set's.

    Raises:
        ParityError: they do not agree.
    """
    path = stage / MODEL_FILE
    export_model(model, path)
    return check_parity(path, spec or features.spec, sample_pictures(features, rows, on_rows), reference=on_pixels)


def rounded(**seconds: float) -> dict[str, float]:
    """Durations as a run records them."""
    return {name: round(value, 3) for name, value in seconds.items()}


def split_rows(features: FeatureSet, *, hold_out: bool) -> dict[str, np.ndarray]:
    """Rows of each split; where there is no validation and `hold_out`, a tenth of training, chosen by content, is it.

    Raises:
        HeadError: there is nothing to train on.
    """
    rows = {split: features.rows(split) for split in SPLITS}
    if not len(rows["train"]):
        raise HeadError(f"no training pictures in {features.path}", do="extract with smaller --validation-fraction")
    if hold_out and not len(rows["validation"]):
        # A second hash: where splits were drawn from the digest itself, its leading bits are no longer uniform.
        digests = features.digests("train")
        held = np.array([content_position(content_digest(digest.tobytes())) < HELD_OUT for digest in digests], bool)
        rows["train"], rows["validation"] = rows["train"][~held], rows["train"][held]
    return rows


def require_classes(labels: np.ndarray, class_names: Sequence[str]) -> None:
    """Refuse training data in which a class does not occur.

    Raises:
        HeadError: the class is named.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    if not counts.all():
        raise HeadError(
            f"class {class_names[int(counts.argmin())]} has no training pictures",
            expected="at least one in each class",
            do="add some, or leave the class out",
        )


def require_features(x: np.ndarray, names: Sequence[str]) -> None:
    """Refuse features that nothing can be fitted to.

    Args:
        x: (n, *shape) float32.
        names: of the n pictures.

    Raises:
        HeadError: one is not finite, or they are the same for all pictures.
    """
    finite = np.isfinite(x).reshape(len(x), -1).all(axis=1)
    if not finite.all():
        raise HeadError(
            f"the features of {names[int(finite.argmin())]} are not finite",
            expected="numbers",
            found=f"NaN or infinity in {int((~finite).sum())} of {len(x)} pictures",
            do="extract again with sound weights, or in float32",
        )
    if len(x) > 1 and (x == x[0]).all():
        raise HeadError(
            "all pictures have the same features", expected="features that differ", do="extract at another cut"
        )


def require_numbers(outputs: np.ndarray) -> None:
    """Refuse a head whose training ran off to infinity.

    Raises:
        HeadError: its probabilities are not numbers.
    """
    if not np.isfinite(outputs).all():
        raise HeadError(
            "training diverged: the head's probabilities are not numbers",
            expected="probabilities",
            found="NaN",
            do="lower --learning-rate",
        )


def sample_pictures(
    features: FeatureSet, rows: dict[str, np.ndarray], outputs: Outputs
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Up to 64 pictures, spread over the test pictures, or where there are none over all, to check parity on.

    Args:
        features: the set.
        rows: of each split.
        outputs: given (k,) rows, the probabilities (k, classes) to compare with.

    Yields:
        (h, w, 3) uint8 at full size, and (classes,), for each picture that is still there and has not changed.
    """
    candidates = rows["test"] if len(rows["test"]) else np.arange(len(features))
    chosen = candidates[np.unique(np.linspace(0, len(candidates) - 1, PARITY_PICTURES).astype(int))]
    for row, expected in zip(chosen, outputs(chosen), strict=True):
        with contextlib.suppress(PictureError):
            yield features.load_picture(int(row)).full_size(), expected


def features_record(features: FeatureSet) -> dict[str, Any]:
    """What a run remembers of the features that it came from."""
    return {
        "features": os.path.abspath(features.path),
        "features_digest": features.digest,
        "data": features.root,
        "trunk": features.spec.to_json(),
        "key": features.spec.key,
        "libraries": features.about,
    }


def _head_data(arrays: dict[str, Any], labels: dict[str, np.ndarray], features: FeatureSet) -> HeadData:
    validated = len(labels["validation"]) > 0
    return HeadData(
        x=arrays["train"],
        y=labels["train"],
        validation_x=arrays["validation"] if validated else None,
        validation_y=labels["validation"] if validated else None,
        class_names=tuple(features.class_names),
    )


def _outputs(fitted: FittedHead, x: np.ndarray) -> np.ndarray:
    if not len(x):
        return np.empty((0, fitted.model.outputs[0].shape[-1]), np.float32)
    return np.asarray(fitted.model.predict(x, batch_size=256, verbose=0), np.float32)
