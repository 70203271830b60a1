"""A user's scikit-learn estimator as a head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV

from permafrost.errors import HeadError
from permafrost.heads.cross_validation import ignore_convergence_warnings
from permafrost.heads.estimators import convert, has_probabilities, passes_gradient, require_convertible
from permafrost.heads.folds import make_folds
from permafrost.heads.head import FittedHead, Head, HeadData
from permafrost.heads.options import HeadOptions
from permafrost.heads.to_keras import to_keras


class EstimatorHead(Head):
    """A scikit-learn classifier, or a `Pipeline` that ends in one, fitted with the user's settings.

    Args:
        estimator: the estimator; it is cloned, not changed.

    Raises:
        HeadError: the estimator cannot be converted to Keras layers.
    """

    def __init__(self, estimator: BaseEstimator) -> None:
        require_convertible(estimator)
        self.name = type(estimator).__name__.lower()
        self.passes_gradient = passes_gradient(estimator)
        self._estimator = estimator

    def fit(self, data: HeadData, options: HeadOptions, *, labels_only: bool = False) -> FittedHead:  # noqa: ARG002
        """Fit a clone; calibrate it by a cross-validated temperature if it gives no probabilities. See `Head.fit`."""
        model = clone(self._estimator)
        if not has_probabilities(model):
            folds = make_folds(data, options.training.seed, purpose="calibrate")
            model = CalibratedClassifierCV(model, method="temperature", ensemble=False, cv=folds)
        with ignore_convergence_warnings():
            try:
                model.fit(data.x.reshape(len(data.x), -1).astype(np.float64), data.y)
            except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
                raise self._cannot_fit(error, data.class_names) from error
        return FittedHead(
            model=to_keras(convert(model), data.x.shape[1:]),
            history=[],
            details={"estimator": repr(self._estimator)},
        )

    def _cannot_fit(self, error: Exception, class_names: Sequence[str]) -> HeadError:
        reason = " ".join(str(error).split())
        numbers = ", ".join(f"{number} is {name}" for number, name in enumerate(class_names[:10]))
        return HeadError(
            f"{type(self._estimator).__name__} cannot be fitted to these features: {reason}",
            do=f"give classes by their numbers: {numbers}" if "class_weight" in reason else None,
        )
