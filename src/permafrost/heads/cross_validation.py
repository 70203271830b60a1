"""Compare values of a head's setting by cross-validation on the training rows."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Final

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import ThreadpoolController

from permafrost.heads.calibration import inverse_temperature, row_losses
from permafrost.heads.fitters import Fitter, Setup, logits_of
from permafrost.heads.folds import Folds
from permafrost.machine import cpu_count
from permafrost.process_state import Overlapping, ignored_warnings
from permafrost.training.metrics import MIN_PROBABILITY

PATIENCE: Final = 4
"""Consecutive values without improvement after which a comparison stops."""

MIN_IMPROVEMENT: Final = 1e-3
"""Minimum improvement of the log loss, in nats."""

MIN_THREADED_SIZE: Final = 50_000
"""Folds of a matrix with fewer elements are fitted one after the other: threads would cost more than they save."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossValidated:
    """One value of a setting, evaluated on held-out rows.

    Attributes:
        value: the value.
        log_loss: mean over the folds; classes are weighted equally if fitting does so.
        standard_error: standard error of that mean.
        factor: the inverse temperature that multiplies the logits; 1 if none is applied.
        logits: (n, classes) float64, of each row by the model that was not fitted to it, times the factor.
    """

    value: float
    log_loss: float
    standard_error: float
    factor: float
    logits: np.ndarray


def cross_validate(
    fitter: Fitter,
    values: Sequence[float],
    x: np.ndarray,
    y: np.ndarray,
    setup: Setup,
    folds: Folds,
    *,
    calibrated: bool,
) -> list[CrossValidated]:
    """Cross-validate values of a setting, the most regularised first, until no better one is expected.

    Args:
        fitter: fits the head.
        values: the values of its setting.
        x: (n, d), float32 or float64.
        y: (n,) int64.
        setup: everything else that fitting depends on.
        folds: the folds, from `folds.make_folds`.
        calibrated: whether to apply the best temperature for each value.
    """
    compared: list[CrossValidated] = []
    uninformed = _prior_loss(y, setup)
    # One thread per fold: several threads within a matrix product cost more than they save.
    with ignore_convergence_warnings(), one_blas_thread(), ThreadPoolExecutor(cpu_count(), "folds") as threads:
        each: Any = threads.map if x.size >= MIN_THREADED_SIZE else map
        fits = list(each(lambda fold: fitter(x[fold[0]], y[fold[0]], setup), folds))
        for value in values:
            outputs = each(lambda fit, fold, value=value: logits_of(fit(value), x[fold[1]]), fits, folds)
            logits = np.empty((len(y), setup.class_count))
            for (_, held_out), found in zip(folds, outputs, strict=True):
                logits[held_out] = found
            compared.append(_scored(value, logits, y, setup, folds, calibrated=calibrated))
            if _settled(compared, uninformed):
                break
    return compared


def one_blas_thread(wanted: bool = True) -> AbstractContextManager[None]:
    """Return a context in which matrix products use one thread, in the whole process; without effect if not wanted."""
    return _ONE_THREAD if wanted else contextlib.nullcontext()


@functools.cache
def _libraries() -> ThreadpoolController:
    """Return the loaded libraries, looked up once: a look-up takes longer than a small fit."""
    return ThreadpoolController()


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Limit matrix products to one thread, from a thread of its own: only the one that limits them can end that."""
    limit = contextlib.ExitStack()
    with ThreadPoolExecutor(1, "limits") as owner:
        owner.submit(lambda: limit.enter_context(_libraries().limit(limits=1, user_api="blas"))).result()
        try:
            yield
        finally:
            owner.submit(limit.close).result()


_ONE_THREAD: Final = Overlapping(_limited)


def _prior_loss(y: np.ndarray, setup: Setup) -> float:
    """Return the log loss of predicting the class frequencies."""
    fractions = np.bincount(y, minlength=setup.class_count) * setup.class_weights(y)
    fractions = fractions / fractions.sum()
    return float(-(fractions * np.log(np.maximum(fractions, MIN_PROBABILITY))).sum())


def _settled(compared: Sequence[CrossValidated], uninformed: float) -> bool:
    """Return whether weaker regularisation, which is slow, is not expected to improve the loss.

    The loss has a single minimum over the values. The minimum has been passed if the loss clearly rises, or has been
    flat for a while. A flat start, where regularisation is too strong to separate the classes, does not count.
    """
    best = best_of(compared)
    if best.log_loss > 0.9 * uninformed:
        return False
    if compared[-1].log_loss > best.log_loss + 2 * best.standard_error:
        return True
    before = min(compared[:-PATIENCE], key=_loss, default=None)
    return before is not None and before.log_loss - best.log_loss < max(MIN_IMPROVEMENT, best.standard_error / 10)


def best_of(compared: Sequence[CrossValidated]) -> CrossValidated:
    """Return the result with the least loss.

    `benchmarks/choosing.py` compares this with the one-standard-error rule, which regularises more.
    """
    return min(compared, key=_loss)


def ignore_convergence_warnings() -> Any:
    """Return a context without scikit-learn's convergence warnings: fits that did not converge are compared too."""
    return ignored_warnings(category=ConvergenceWarning)


def _scored(
    value: float, logits: np.ndarray, y: np.ndarray, setup: Setup, folds: Folds, *, calibrated: bool
) -> CrossValidated:
    weights = setup.class_weights(y)[y]
    factor = inverse_temperature(logits, y, weights) if calibrated else 1.0
    losses = row_losses(factor * logits, y)
    each = [float(np.average(losses[held], weights=weights[held])) for _, held in folds]
    return CrossValidated(
        value=value,
        log_loss=float(np.mean(each)),
        standard_error=float(np.std(each, ddof=1) / np.sqrt(len(each))),
        factor=factor,
        logits=factor * logits,
    )


def _loss(row: CrossValidated) -> float:
    return row.log_loss
