"""Fit a head to cached features and write a run: the work of `fit-head`."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from permafrost.errors import HeadError, OptionError
from permafrost.extraction.extracted import trunk_of
from permafrost.extraction.tuned_base import missing_warnings, with_images_behind
from permafrost.heads.data import COPIES, Features, FitData, left_out_notes, load_fit_data, open_sets, set_name
from permafrost.heads.evaluation import EvaluatedHead, evaluate_head
from permafrost.heads.head import FittedHead, Head
from permafrost.heads.options import (
    CLASSICAL_HEADS,
    HEADS,
    FitOptions,
    FitSettings,
    HeadOptions,
    fit_options_from,
)
from permafrost.heads.table import find_head
from permafrost.heads.variation import variation_warnings
from permafrost.keras_state import keras_defaults
from permafrost.machine import available_memory
from permafrost.model.assembly import assemble, shared_layers
from permafrost.model.clock import Clock
from permafrost.model.parity import Parity, Parts, export_checked, output_names
from permafrost.model.publishing import staging
from permafrost.model.run import Run, RunContent, features_record, free_folder, write_run
from permafrost.options import documented
from permafrost.progress import progress_bar
from permafrost.store.run_images import RunImages
from permafrost.training.options import TrainingOptions
from permafrost.units import parse_size, size

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

    from permafrost.heads.selection import Selection
    from permafrost.store.feature_set import FeatureSet

Tables = dict[str, list[dict[str, Any]]]


@documented(FitOptions, HeadOptions, TrainingOptions)
@keras_defaults()
def fit_head(
    features: Features | Sequence[Features],
    head: str | BaseEstimator = "dense",
    *,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **settings: Unpack[FitSettings],
) -> Run:
    """Fit a classifier to cached features and export it, with the trunk, as one Keras model.

    Args:
        features: a feature set or its file; or several sets of the same images with different cuts, poolings or bases,
            which are compared.
        head: one of `HEADS`; `auto`, which compares `candidates` by cross-validation on the training images; or a
            scikit-learn classifier, or a `Pipeline` that ends in one, that can be converted to Keras layers.
        out: the run's folder; `runs/<set>-<head>` if None, with a number if that exists.
        progress: whether to draw a progress bar on a terminal or in a notebook.
        **options: documented from the fields.

    Returns:
        The run.

    Raises:
        PermafrostError: the request or its input is wrong; see `permafrost.errors`.
    """
    clock = Clock()
    fit_options, options = fit_options_from(settings, progress=progress)
    request = _Request(_head_of(head), fit_options, options)
    sets = open_sets(features)
    folder = free_folder(out, f"{set_name(sets[0])}-{request.name}")
    loaded = request.load(sets)
    clock.lap("load")
    result = request.fit(loaded)
    clock.lap("fit")
    evaluated = evaluate_head(result.fitted, result.data, calibrate=options.calibrate == "temperature")
    tables = result.tables | request.shots_table(result)
    clock.lap("evaluate")
    with staging(folder) as stage:
        parity = _export(evaluated.fitted, result.data, stage)
        clock.lap("export")
        content = _run_content(request, loaded, result, evaluated, parity, tables, clock.seconds(), folder)
        return write_run(folder, stage, content, replace=out is not None)


@dataclasses.dataclass(frozen=True)
class _Result:
    """A fitted head, its kind, the data that it was fitted to, and the leaderboard that it was chosen from."""

    head: Head
    data: FitData
    fitted: FittedHead
    tables: Tables


@dataclasses.dataclass(frozen=True)
class _Request:
    """The request to `fit_head`.

    Attributes:
        head: the head; None for `auto`.
        fit_options: options of the fit.
        options: options of the head.
    """

    head: Head | None
    fit_options: FitOptions
    options: HeadOptions

    @property
    def name(self) -> str:
        """The head's name in the name of the run's folder."""
        return "auto" if self.head is None else self.head.name

    @functools.cached_property
    def memory_limit(self) -> int:
        """The maximum memory for fitting, in bytes."""
        limit = self.fit_options.memory_limit
        return available_memory() // 2 if limit is None else parse_size(limit)

    def load(self, sets: Sequence[FeatureSet]) -> list[FitData]:
        """Load the data of the fit, one item per set."""
        shots = self.fit_options.shots
        monitors = self.head is not None and self.head.monitors_validation
        loaded = load_fit_data(
            sets,
            views=self.fit_options.views,
            several_views=self.head is not None and not shots,
            hold_out=monitors and self.options.training.monitors_validation,
            memory_limit=self.memory_limit,
            seed=self.options.training.seed,
        )
        if shots:
            from permafrost.heads.few_shots import require_shots

            require_shots(loaded[0].training, shots)
        return loaded

    def fit(self, sets: list[FitData]) -> _Result:
        """Fit one head to one set, in memory or from disk, or select among heads or sets."""
        data, *others = sets
        head = None if others else self.head
        if data.training.stream is not None:
            return self._fit_from_disk(data, head)
        if head is not None:
            return _Result(head, data, head.fit(data.training, self.options), {})
        selection = self._select(sets)
        board = [dataclasses.asdict(row) for row in selection.leaderboard]
        return _Result(selection.head, selection.data, selection.fitted, {"leaderboard": board})

    def shots_table(self, result: _Result) -> Tables:
        """Evaluate the head with few images per class, if requested."""
        if not self.fit_options.shots:
            return {}
        from permafrost.heads.few_shots import few_shots

        shots, draws = self.fit_options.shots, self.fit_options.draws
        return {"shots": few_shots(result.head, result.data.training, self.options, shots=shots, draws=draws)}

    def _fit_from_disk(self, data: FitData, head: Head | None) -> _Result:
        """Fit a head to features that stay on disk.

        Raises:
            HeadError: several views, heads or sets are requested, or a scikit-learn estimator.
        """
        if data.training.views > 1:
            raise HeadError(
                "fitting to several views needs all features in memory",
                expected="one view",
                found=data.training.views,
                do="give a larger --memory-limit",
            )
        if head is None or head.name not in HEADS:
            raise HeadError(
                "comparing heads or sets, and fitting a scikit-learn estimator, needs all features in memory",
                expected=f"{COPIES} times the features",
                found=f"a memory limit of {size(self.memory_limit)}",
                do="give a larger --memory-limit, or one head by its name",
            )
        from permafrost.heads.out_of_core import fit_out_of_core

        return _Result(head, data, fit_out_of_core(head, data.training, self.options), {})

    def _select(self, sets: list[FitData]) -> Selection:
        """Compare the candidates of `auto`, or one head on several sets."""
        from permafrost.heads.classical_head import ClassicalHead
        from permafrost.heads.selection import count_comparisons, select_head

        if self.head is None:
            heads = [find_head(name) for name in self.fit_options.candidates or CLASSICAL_HEADS]
        else:
            heads = [self.head]
        comparable = [head for head in heads if isinstance(head, ClassicalHead)]
        if len(comparable) < len(heads):
            raise OptionError(
                f"several feature sets cannot be compared with {self.name}",
                expected=f"auto, {', '.join(CLASSICAL_HEADS)}",
            )
        total = count_comparisons(sets, comparable)
        with progress_bar(total=total, unit=" heads", shown=self.options.progress) as bar:

            def report(what: str) -> None:
                bar.set_postfix_str(what, refresh=False)
                bar.update()

            return select_head(sets, comparable, self.options, report=report)


def _head_of(head: str | BaseEstimator) -> Head | None:
    """Return the head called `head`, or an estimator as a head; None for `auto`.

    Raises:
        HeadError: the estimator cannot be converted to Keras layers.
        OptionError: there is no such head.
    """
    if isinstance(head, str):
        return None if head == "auto" else find_head(head)
    from permafrost.heads.estimator_head import EstimatorHead

    return EstimatorHead(head)


def _export(fitted: FittedHead, data: FitData, stage: Path) -> Parity:
    """Join the trunk and the head, save the model, and compare it with the head on cached features."""
    trunk = trunk_of(data.features)
    parts = Parts(
        spec=data.features.spec,
        cut=output_names(trunk.model),
        cached=data.features.features,
        trunk=trunk.model,
        head=fitted.model,
    )
    with shared_layers(trunk.model):
        return export_checked(assemble(trunk, fitted.model), stage, data.features, data.rows, parts)


def _run_content(
    request: _Request,
    sets: list[FitData],
    result: _Result,
    evaluated: EvaluatedHead,
    parity: Parity,
    tables: Tables,
    seconds: dict[str, float],
    folder: Path,
) -> RunContent:
    """Return the content of the run's folder."""
    features = result.data.features
    images, missing = with_images_behind(RunImages.of_rows(features.digests(), result.data.rows), features.about)
    return RunContent(
        class_names=result.data.class_names,
        about={
            "kind": "fit-head",
            "head": result.head.name,
            "passes_gradient": result.head.passes_gradient,
            "chosen_from": sorted(data.name for data in sets) if len(sets) > 1 else None,
            "options": dataclasses.asdict(request.options) | {"views": result.data.training.views},
            "details": {"fitted": "in memory"} | result.fitted.details,
            "calibration": evaluated.calibration,
            "threshold": evaluated.threshold,
            **tables,
            **features_record(features, folder),
            "parity": dataclasses.asdict(parity),
            "notes": left_out_notes(features, result.data.rows),
            "warnings": [
                *missing_warnings(missing),
                *variation_warnings(result.data.training.x),
                *parity.warnings,
            ],
            "seconds": seconds,
            "images_missing": missing,
        },
        images=images,
        metrics=evaluated.metrics,
        history=result.fitted.history,
        title=f"{result.head.name} head on {features.spec.base} {features.spec.cut}",
        tables=tables,
    )
