"""Heads that scikit-learn or a closed form fits: scaling, cross-validation of one setting, conversion to Keras."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from permafrost.errors import OptionError
from permafrost.heads.cross_validation import (
    CrossValidated,
    best_of,
    cross_validate,
    ignore_convergence_warnings,
    one_blas_thread,
)
from permafrost.heads.estimators import convert
from permafrost.heads.fitters import Fitter, Setup
from permafrost.heads.folds import Folds, make_folds
from permafrost.heads.head import FittedHead, Head, HeadData
from permafrost.heads.options import SCALINGS, HeadOptions
from permafrost.heads.preparation import Prepared, prepare, setup_of
from permafrost.heads.to_keras import Affine, apply_temperature, softmax, to_keras

MIN_THREADED_SIZE: Final = 10_000_000
"""A matrix with fewer elements is multiplied faster by one thread than by several."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassicalHead(Head):
    """A head with one setting, which is given or chosen by cross-validation.

    Attributes:
        name: its name in commands and runs.
        setting: the name of its setting.
        option: the field of `HeadOptions` that sets it.
        values: takes the number of rows and returns the values to compare, the most regularised first.
        fitter: fits the head.
        from_disk: fits the head to features that stay on disk; None if it needs them in memory.
        rotation_invariant: whether rotating the features changes nothing, so that many features are fitted in the few
            dimensions that the rows span.
        scores_only: whether it gives scores, which a temperature turns into probabilities.
        valid: a test for a value of the setting, and the permitted range in words.
        scalings: the scalings that `auto` tries.
        passes_gradient: see `Head`.
    """

    name: str
    setting: str
    option: str = "regularization"
    values: Callable[[int], tuple[float, ...]]
    fitter: Fitter
    from_disk: Callable[[ClassicalHead, HeadData, HeadOptions], FittedHead] | None = None
    rotation_invariant: bool = False
    scores_only: bool = False
    valid: tuple[Callable[[float], bool], str] = (lambda value: value > 0, "more than 0")
    scalings: tuple[str, ...] = SCALINGS
    passes_gradient: bool = True

    @property
    def streams(self) -> bool:
        """Whether the head can be fitted to features that stay on disk."""
        return self.from_disk is not None

    def fit_from_disk(self, data: HeadData, options: HeadOptions) -> FittedHead:
        """Fit the head to `data.stream`; see `Head.fit_from_disk`."""
        assert self.from_disk is not None
        return self.from_disk(self, data, options)

    def given(self, options: HeadOptions) -> float | None:
        """Return the value of the setting that the options give, or None.

        Raises:
            OptionError: the value is out of range.
        """
        value = getattr(options, self.option)
        if value is None:
            return None
        valid, expected = self.valid
        if not valid(value):
            raise OptionError(f"{self.setting} is out of range", expected=expected, found=value)
        return float(value)

    def fit(self, data: HeadData, options: HeadOptions, *, labels_only: bool = False) -> FittedHead:
        """Fit the head to prepared features; see `Head.fit`.

        If the setting is not given, stratified five-fold cross-validation on the training images chooses the value with
        the least log loss. Scores become probabilities by a temperature, fitted to the images that each fold holds out,
        as in scikit-learn's `CalibratedClassifierCV`.
        """
        given = self.given(options)
        prepared = prepare(data.x, options, rotation_invariant=self.rotation_invariant)
        setup = setup_of(data, options, prepared.features)
        values = (given,) if given is not None else self.values(len(data.x))
        calibrated = self.scores_only and not labels_only
        compared: list[CrossValidated] = []
        chosen: CrossValidated | float = values[0]
        if len(values) > 1 or calibrated:
            folds = self._folds(data, options)
            if len(values) > 1:
                # float32 is twice as fast, and precise enough to compare.
                rows = prepared.x.astype(np.float32)
                compared = cross_validate(self.fitter, values, rows, data.y, setup, folds, calibrated=self.scores_only)
                chosen = best_of(compared)
            if calibrated:
                value = chosen.value if isinstance(chosen, CrossValidated) else chosen
                (chosen,) = cross_validate(self.fitter, [value], prepared.x, data.y, setup, folds, calibrated=True)
        chosen_by = "option" if given is not None else "cross-validation" if len(values) > 1 else "default"
        return self.fit_value(chosen, prepared, data, setup, compared, chosen_by=chosen_by)

    def fit_value(
        self,
        chosen: CrossValidated | float,
        prepared: Prepared,
        data: HeadData,
        setup: Setup,
        compared: Sequence[CrossValidated],
        *,
        chosen_by: str,
    ) -> FittedHead:
        """Fit one value of the setting to all training rows, and convert the result to Keras layers.

        Args:
            chosen: the value, with its cross-validation if there was one.
            prepared: the prepared rows.
            data: the features that the rows were prepared from.
            setup: everything else that fitting depends on.
            compared: all values that were compared.
            chosen_by: how the value was chosen, for `run.json`.
        """
        value, factor = (chosen.value, chosen.factor) if isinstance(chosen, CrossValidated) else (chosen, 1.0)
        with ignore_convergence_warnings(), one_blas_thread(prepared.x.size < MIN_THREADED_SIZE):
            fitted = self.fitter(prepared.x, data.y, setup)(value)
        last = [fitted, softmax] if isinstance(fitted, Affine) else convert(fitted)
        details = {self.setting: value, "chosen_by": chosen_by} | prepared.details
        if factor != 1:
            details["inverse_temperature"] = factor
        history = [
            {self.setting: row.value, "cross_validation_log_loss": row.log_loss, "standard_error": row.standard_error}
            for row in (compared if len(compared) > 1 else ())
        ]
        return FittedHead(
            model=apply_temperature(to_keras([*prepared.steps, *last], data.x.shape[1:]), factor),
            history=history,
            details=details,
            held_out_logits=chosen.logits if isinstance(chosen, CrossValidated) else None,
        )

    def _folds(self, data: HeadData, options: HeadOptions) -> Folds:
        given = self.given(options) is not None
        instead = "" if given or self.scores_only else f", or give --{self.option}"
        return make_folds(
            data,
            options.training.seed,
            purpose="calibrate" if given else f"choose {self.setting}",
            do=f"add images of it{instead}",
        )
