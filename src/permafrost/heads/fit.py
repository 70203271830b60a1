"""Fit a head to kept features, and leave a run: the work behind `fit-head`."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from permafrost.engines.selection import make_engine
from permafrost.errors import HeadError, OptionError
from permafrost.extraction.extracted import trunk_of
from permafrost.heads.data import (
    Features,
    count_views,
    head_data,
    needs_disk,
    open_sets,
    require_classes,
    set_name,
    split_rows,
)
from permafrost.heads.evaluation import evaluate_head, outputs_of
from permafrost.heads.head import Fit, FittedHead, HeadData
from permafrost.heads.options import CLASSICAL_HEADS, HEADS, HeadOptions, HeadSettings, options_from
from permafrost.heads.table import find_head, needs_validation
from permafrost.machine import available_memory
from permafrost.model.assembly import assemble, lent
from permafrost.model.parity import Parity, export_checked
from permafrost.model.run import Run, RunContent, features_record, free_folder, rounded, staging, write_run
from permafrost.store.feature_set import FeatureSet
from permafrost.store.streaming import COPIES, bytes_for_rows
from permafrost.units import parse_size

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

    from permafrost.heads.selection import Selection


Tables = dict[str, list[dict[str, Any]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What `fit_head` is asked for beside the head and its options.

    Attributes:
        candidates: the heads that `auto` compares.
        shots: numbers of training images a class for which to say how well the head does.
        draws: how often each number is drawn.
        memory_limit: bytes that fitting may take; half of what is free if None.
    """

    candidates: Sequence[str] = CLASSICAL_HEADS
    shots: Sequence[int] = ()
    draws: int = 5
    memory_limit: int | None = None

    @property
    def bytes_allowed(self) -> int:
        """What fitting may take."""
        return available_memory() // 2 if self.memory_limit is None else self.memory_limit

    def __post_init__(self) -> None:
        for name in self.candidates:
            if name not in CLASSICAL_HEADS:
                raise OptionError(f"auto cannot compare {name}", expected=", ".join(CLASSICAL_HEADS))
        if not self.candidates:
            raise OptionError("no heads to compare", expected=", ".join(CLASSICAL_HEADS))
        if any(count < 1 for count in self.shots) or self.draws < 1:
            raise OptionError("shots and draws are too small", expected="1 or more")


def fit_head(
    features: Features | Sequence[Features],
    head: str | BaseEstimator = "dense",
    *,
    candidates: Sequence[str] = CLASSICAL_HEADS,
    shots: Sequence[int] = (),
    draws: int = 5,
    views: int | None = None,
    memory_limit: int | str | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **settings: Unpack[HeadSettings],
) -> Run:
    """Fit a classifier to kept features and export it, with the trunk, as one Keras model.

    Args:
        features: a feature set, or its file; or several of the same images, of other cuts, poolings or bases, which
            are compared.
        head: one of `heads.HEADS`; `auto`, which compares `candidates` by cross-validation on the training images; or
            a scikit-learn classifier, or a `Pipeline` that ends in one, which can be converted into Keras layers.
        candidates: the heads that `auto` compares.
        shots: numbers of training images a class, for each of which the head is fitted to some drawn at random, and
            evaluated on the validation images, or where there are none on the other training images.
        draws: how often, for each number.
        views: how many views of each training image to fit to, the image itself among them; all that the set has if
            None. Heads that Keras trains take one of them an epoch, by turns; others all at once. Where heads or sets
            are compared, or shots are drawn, it is the image itself alone.
        memory_limit: bytes that fitting may take, as a number or like `2GB`; half of what is free if None. Features
            that take more are read from disk as they are needed.
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
    asked = Asked(
        candidates=tuple(candidates),
        shots=tuple(shots),
        draws=draws,
        memory_limit=None if memory_limit is None else parse_size(memory_limit),
    )
    name = _name_of(head)
    sets = open_sets(features)
    folder = free_folder(out, f"{sets[0].path.stem}-{name}")
    watched = isinstance(head, str) and needs_validation(head) and options.training.monitor.startswith("val_")
    count = count_views(sets, views, alone=name != "auto" and not asked.shots)
    on_disk = needs_disk(sets, count, asked.bytes_allowed)
    if on_disk and views is None:
        count = 1
    rows = split_rows(sets[0], hold_out=watched or on_disk)
    labels = {split: sets[0].labels()[selected] for split, selected in rows.items()}
    require_classes(labels["train"], sets[0].class_names)
    limit = bytes_for_rows(sets[0], asked.bytes_allowed) if on_disk else None
    data = {set_name(features): head_data(features, rows, count, limit, options) for features in sets}
    if asked.shots:
        from permafrost.heads.few_shots import require_shots

        require_shots(next(iter(data.values())), asked.shots)
    fitting = time.perf_counter()
    chosen, name, fitted, tables = _fit(head, name, data, asked, options)
    fitted_at = time.perf_counter()
    features = next(features for features in sets if set_name(features) == chosen)
    evaluated = evaluate_head(
        fitted, features, rows, labels, calibrate=options.calibrate == "temperature", limit=limit or asked.bytes_allowed
    )
    if asked.shots:
        tables["shots"] = _few_shots(name if head == "auto" else head, data[chosen], asked, options)
    evaluated_at = time.perf_counter()
    with staging(folder) as stage:
        parity = _export(evaluated.fitted, features, rows, stage)
        now = time.perf_counter()
        content = RunContent(
            class_names=tuple(features.class_names),
            about={
                "kind": "fit-head",
                "head": name,
                "chosen_from": sorted(data) if len(sets) > 1 else None,
                "options": dataclasses.asdict(options) | {"views": count},
                "details": {"way": "in memory"} | fitted.details,
                "calibration": evaluated.calibration,
                "threshold": evaluated.threshold,
                **tables,
                **features_record(features, folder),
                "parity": dataclasses.asdict(parity),
                "seconds": rounded(
                    load=fitting - started,
                    fit=fitted_at - fitting,
                    evaluate=evaluated_at - fitted_at,
                    export=now - evaluated_at,
                    total=now - started,
                ),
            },
            metrics=evaluated.metrics,
            history=fitted.history,
            title=f"{name} head on {features.spec.base} {features.spec.cut}",
            tables=tables,
        )
        return write_run(folder, stage, content, replace=out is not None)


def _fit(
    head: str | BaseEstimator, name: str, data: dict[str, HeadData], asked: Asked, options: HeadOptions
) -> tuple[str, str, FittedHead, Tables]:
    """Fit the head to features on disk; or choose among heads or sets; or fit the one head to the one set.

    Returns:
        The set's name, the head's, the head, and the tables that choosing it came to.
    """
    (chosen, first), *others = data.items()
    compared = name == "auto" or bool(others)
    if first.stream is not None:
        _require_streamed(first, asked, alone=not compared and isinstance(head, str))
        from permafrost.heads.out_of_core import fit_out_of_core

        return chosen, name, fit_out_of_core(name, first, options), {}
    if compared:
        choice = _choose(head, data, asked, options)
        board = [dataclasses.asdict(entry) for entry in choice.leaderboard]
        return choice.features, choice.leaderboard[0].head, choice.fitted, {"leaderboard": board}
    return chosen, name, _fit_of(head)(first, options), {}


def _require_streamed(data: HeadData, asked: Asked, *, alone: bool) -> None:
    """Refuse what cannot be fitted to features that stay on disk.

    Raises:
        HeadError: several views, or not one of our own heads `alone`.
    """
    if data.views > 1:
        raise HeadError(
            "views are fitted to in memory", expected="one view", found=data.views, do="give a larger --memory-limit"
        )
    if not alone:
        raise HeadError(
            "what is compared, and what is scikit-learn's own, is fitted in memory",
            expected=f"{COPIES} times the features",
            found=f"a memory limit of {asked.bytes_allowed / 1e9:.3g} GB",
            do="give a larger --memory-limit, or one head by its name",
        )


def _name_of(head: str | BaseEstimator) -> str:
    """A head's name; an unknown one, and one that cannot be exported, is refused."""
    if not isinstance(head, str):
        from permafrost.heads.to_keras import require_convertible

        require_convertible(head)
        return type(head).__name__.lower()
    if head not in (*HEADS, "auto"):
        find_head(head)
    return head


def _fit_of(head: str | BaseEstimator) -> Fit:
    if isinstance(head, str):
        return find_head(head)
    from permafrost.heads.sklearn_heads import fit_estimator

    return functools.partial(fit_estimator, head)


def _choose(head: str | BaseEstimator, data: dict[str, HeadData], asked: Asked, options: HeadOptions) -> Selection:
    """Compare heads, feature sets, or both."""
    from permafrost.heads.selection import select_head

    if head != "auto" and head not in CLASSICAL_HEADS:
        raise OptionError(
            f"several feature sets cannot be compared with {head if isinstance(head, str) else type(head).__name__}",
            expected=f"auto, {', '.join(CLASSICAL_HEADS)}",
        )
    heads = asked.candidates if head == "auto" else [str(head)]
    count = sum(1 if candidate in ("nb", "mlp") else 2 for candidate in heads) * len(data)
    from tqdm import tqdm

    with tqdm(total=count, unit=" heads", disable=None if options.progress else True, leave=False) as bar:

        def report(what: str) -> None:
            bar.set_postfix_str(what, refresh=False)
            bar.update()

        return select_head(data, heads, options, report=report)


def _few_shots(head: str | BaseEstimator, data: HeadData, asked: Asked, options: HeadOptions) -> list[dict[str, float]]:
    from permafrost.heads.few_shots import few_shots

    fit = _fit_of(head)
    if head in CLASSICAL_HEADS:
        fit = functools.partial(fit, probabilities=False)  # type: ignore[call-arg] # Only labels are counted.
    return few_shots(fit, data, options, shots=asked.shots, draws=asked.draws)


def _export(fitted: FittedHead, features: FeatureSet, rows: dict[str, np.ndarray], stage: Path) -> Parity:
    """Join the trunk and the head, save the model, and compare it with the head on kept features."""
    trunk = trunk_of(features)

    def on_kept(chosen: np.ndarray) -> np.ndarray:
        return outputs_of(fitted, features.features(chosen))

    def on_pixels(pixels: np.ndarray) -> np.ndarray:
        return outputs_of(fitted, make_engine("keras", trunk.model, batch_size=len(pixels))(pixels)[0])

    with lent(trunk.model):
        model = assemble(trunk, fitted.model)
        return export_checked(model, stage, features, rows, on_rows=on_kept, on_pixels=on_pixels)
