"""Choose a head: every head, setting, scaling and feature set on the same folds of the training images."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from permafrost.heads.cross_validation import CrossValidated, best_of, cross_validate, make_folds
from permafrost.heads.families import FAMILIES
from permafrost.heads.head import FittedHead, HeadData
from permafrost.heads.options import SCALINGS, HeadOptions
from permafrost.heads.sklearn_heads import Prepared, finish, prepare, setup_of

UNSCALED: Final = frozenset({"nb", "mlp"})
"""Heads that are tried with one scaling only: for `nb` it changes nothing, and `mlp` takes long."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeaderboardRow:
    """A row of the leaderboard: a head with the setting that suits it best, on one feature set.

    Attributes:
        features: the name of the set.
        head: one of `heads.CLASSICAL_HEADS`.
        scaling: one of `heads.SCALINGS`.
        setting: the name of its setting.
        value: of it, the one with the least log loss.
        log_loss: mean over the folds, on held-out images, once a temperature has made probabilities comparable.
        standard_error: of that mean.
        accuracy, balanced_accuracy: on held-out images.
        seconds: that comparing its values took.
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
    """What came of a comparison.

    Attributes:
        leaderboard: the least log loss first.
        features: the name of the set that the best head was fitted to.
        fitted: the best head, fitted to all training rows.
    """

    leaderboard: list[LeaderboardRow]
    features: str
    fitted: FittedHead


def select_head(
    sets: Mapping[str, HeadData],
    heads: Sequence[str],
    options: HeadOptions,
    *,
    report: Callable[[str], None] = lambda _: None,
) -> Selection:
    """Compare heads by stratified k-fold, and fit the one with the least log loss to all training rows.

    Settings are chosen within each head, and heads between each other, on the same held-out rows, and only there: the
    best figure of the leaderboard is a little too good. Nothing here sees the rows of other splits.

    Args:
        sets: for each feature set of the same images its training rows.
        heads: of `heads.CLASSICAL_HEADS`.
        options: `regularization`, `neighbours` and `scaling` are chosen and not read.
        report: is told what is being compared.

    Raises:
        HeadError: a class with a single training image.
    """
    first = next(iter(sets.values()))
    folds = make_folds(
        first.y, first.class_names, options.training.seed, purpose="compare heads", do="add images of it"
    )
    found: list[tuple[LeaderboardRow, list[CrossValidated], CrossValidated]] = []
    for (name, scaling, rotation_invariant), tried in _groups(sets, heads):
        data = sets[name]
        prepared = _prepared(data, options, scaling, rotation_invariant)
        setup = setup_of(data, options, prepared.features)
        rows = prepared.x.astype(np.float32)
        for head in tried:
            report(f"{head} on {name}")
            started, family = time.perf_counter(), FAMILIES[head]
            compared = cross_validate(family, family.values(len(rows)), rows, data.y, setup, folds, calibrated=True)
            best = best_of(compared)
            entry = LeaderboardRow(
                features=name,
                head=head,
                scaling=scaling,
                setting=family.setting,
                value=best.value,
                log_loss=best.log_loss,
                standard_error=best.standard_error,
                **_accuracies(best.logits.argmax(axis=1), data.y),
                seconds=round(time.perf_counter() - started, 3),
            )
            found.append((entry, compared, best))
    found.sort(key=lambda row: row[0].log_loss)
    entry, compared, best = found[0]
    data, family = sets[entry.features], FAMILIES[entry.head]
    prepared = _prepared(data, options, entry.scaling, family.rotation_invariant)
    setup = setup_of(data, options, prepared.features)
    # The temperature of what is exported follows from fits in full precision.
    (best,) = cross_validate(family, [best.value], prepared.x, data.y, setup, folds, calibrated=True)
    fitted = finish(family, best, prepared, data, setup, compared, chosen_by="cross-validation")
    return Selection([row for row, _, _ in found], entry.features, fitted)


def _groups(sets: Mapping[str, HeadData], heads: Sequence[str]) -> Iterator[tuple[tuple[str, str, bool], list[str]]]:
    """Yield heads that are fitted to the same prepared rows, with the set, the scaling and whether rows are rotated."""
    for name in sets:
        for scaling in SCALINGS:
            for rotation_invariant in (True, False):
                tried = [
                    head
                    for head in heads
                    if FAMILIES[head].rotation_invariant == rotation_invariant
                    and (scaling == SCALINGS[0] or head not in UNSCALED)
                ]
                if tried:
                    yield (name, scaling, rotation_invariant), tried


def _prepared(data: HeadData, options: HeadOptions, scaling: str, rotation_invariant: bool) -> Prepared:
    return prepare(data.x, dataclasses.replace(options, scaling=scaling), rotation_invariant=rotation_invariant)


def _accuracies(guesses: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    right = guesses == labels
    return {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(np.mean([right[labels == label].mean() for label in np.unique(labels)])),
    }
