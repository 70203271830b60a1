"""Select a head: compare heads, settings, scalings and feature sets on the same folds of the training images."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from permafrost.heads.classical_head import ClassicalHead
from permafrost.heads.cross_validation import CrossValidated, best_of, cross_validate
from permafrost.heads.folds import Folds, make_folds
from permafrost.heads.head import FittedHead, HeadData
from permafrost.heads.options import SCALINGS, HeadOptions
from permafrost.heads.preparation import Prepared, prepare, setup_of
from permafrost.training.metrics import accuracies

if TYPE_CHECKING:
    from permafrost.heads.data import FitData


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeaderboardRow:
    """A head with its best setting on one feature set.

    Attributes:
        features: the name of the set.
        head: one of `CLASSICAL_HEADS`.
        scaling: one of `SCALINGS`.
        setting: the name of the head's setting.
        value: the value of the setting with the least log loss.
        log_loss: mean over the folds, on held-out images, after a temperature makes probabilities comparable.
        standard_error: standard error of that mean.
        accuracy, balanced_accuracy: on held-out images.
        seconds: time that comparing the values took.
    """

    features: str
    head: str
    scaling: str
    setting: str
    value: float
    log_loss: float
    standard_error: float
    accuracy: float
    balanced_accuracy: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Selection:
    """The result of a comparison.

    Attributes:
        leaderboard: all heads, the least log loss first.
        head: the best head.
        data: its feature set.
        fitted: that head, fitted to all training rows.
    """

    leaderboard: list[LeaderboardRow]
    head: ClassicalHead
    data: FitData
    fitted: FittedHead


@dataclasses.dataclass(frozen=True)
class _Group:
    """Heads that are fitted to the same prepared rows."""

    data: FitData
    scaling: str
    rotation_invariant: bool
    heads: list[ClassicalHead]

    def prepare(self, options: HeadOptions) -> Prepared:
        return prepare(
            self.data.training.x,
            dataclasses.replace(options, scaling=self.scaling),
            rotation_invariant=self.rotation_invariant,
        )


def select_head(
    sets: Sequence[FitData],
    heads: Sequence[ClassicalHead],
    options: HeadOptions,
    *,
    report: Callable[[str], None],
) -> Selection:
    """Compare heads by stratified k-fold, and fit the one with the least log loss to all training rows.

    Settings and heads are chosen on the same held-out rows, so the best loss of the leaderboard is slightly
    optimistic. Rows of other splits are not used.

    Args:
        sets: feature sets of the same images.
        heads: the heads.
        options: the options; `regularization`, `neighbours` and `scaling` are chosen and not read.
        report: called with a description of each comparison before it starts.

    Raises:
        HeadError: a class has a single training image.
    """
    folds = make_folds(sets[0].training, options.training.seed, purpose="compare heads")
    found = [
        result for group in _groups(sets, heads) for result in _compare_group(group, options, folds, report=report)
    ]
    found.sort(key=lambda result: result.row.log_loss)
    best = found[0]
    return Selection(
        leaderboard=[result.row for result in found],
        head=best.head,
        data=best.group.data,
        fitted=_fit_best(best, options, folds),
    )


@dataclasses.dataclass(frozen=True)
class _Result:
    """A row of the leaderboard with what is needed to fit its head."""

    row: LeaderboardRow
    head: ClassicalHead
    group: _Group
    compared: list[CrossValidated]


def _compare_group(
    group: _Group, options: HeadOptions, folds: Folds, *, report: Callable[[str], None]
) -> Iterator[_Result]:
    """Cross-validate each head of a group."""
    prepared, labels = group.prepare(options), group.data.training.y
    setup = setup_of(group.data.training, options, prepared.features)
    rows = prepared.x.astype(np.float32)
    for head in group.heads:
        report(f"{head.name} on {group.data.name}")
        started = time.perf_counter()
        compared = cross_validate(head.fitter, head.values(len(rows)), rows, labels, setup, folds, calibrated=True)
        best = best_of(compared)
        row = LeaderboardRow(
            features=group.data.name,
            head=head.name,
            scaling=group.scaling,
            setting=head.setting,
            value=best.value,
            log_loss=best.log_loss,
            standard_error=best.standard_error,
            **accuracies(labels, best.logits.argmax(axis=1)),
            seconds=round(time.perf_counter() - started, 3),
        )
        yield _Result(row, head, group, compared)


def _fit_best(best: _Result, options: HeadOptions, folds: Folds) -> FittedHead:
    """Fit the best head to all training rows."""
    data: HeadData = best.group.data.training
    # Prepared again: to keep the rows of every group would multiply the memory.
    prepared = best.group.prepare(options)
    setup = setup_of(data, options, prepared.features)
    # The temperature of the exported head comes from fits in full precision.
    (chosen,) = cross_validate(best.head.fitter, [best.row.value], prepared.x, data.y, setup, folds, calibrated=True)
    return best.head.fit_value(chosen, prepared, data, setup, best.compared, chosen_by="cross-validation")


def count_comparisons(sets: Sequence[FitData], heads: Sequence[ClassicalHead]) -> int:
    """Return the number of comparisons that `select_head` reports."""
    return sum(len(group.heads) for group in _groups(sets, heads))


def _groups(sets: Sequence[FitData], heads: Sequence[ClassicalHead]) -> Iterator[_Group]:
    """Yield the heads by set, scaling and rotation invariance, so that rows are prepared once per group."""
    for data in sets:
        for scaling in SCALINGS:
            for rotation_invariant in (True, False):
                tried = [
                    head for head in heads if head.rotation_invariant == rotation_invariant and scaling in head.scalings
                ]
                if tried:
                    yield _Group(data, scaling, rotation_invariant, tried)
