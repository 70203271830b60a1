"""Heads that scikit-learn or a closed form fits, in memory, converted into Keras layers with equal probabilities."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from permafrost.errors import HeadError, OptionError
from permafrost.heads.closed_forms import scaling_of
from permafrost.heads.cross_validation import (
    CrossValidated,
    best_of,
    blas_threads,
    cross_validate,
    make_folds,
    quiet_convergence,
)
from permafrost.heads.families import FAMILIES, Family, Setup
from permafrost.heads.head import FittedHead, HeadData
from permafrost.heads.options import HeadOptions
from permafrost.heads.to_keras import (
    Affine,
    apply_temperature,
    convert,
    has_probabilities,
    require_convertible,
    softmax,
    to_keras,
)

MIN_THREADED_SIZE: Final = 10_000_000
"""Numbers in a matrix below which one thread multiplies it faster than several."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Features as a family fits them.

    Attributes:
        x: (n, r) float64.
        steps: from flattened features (n, d) to x.
        features: the number of features d, or of their principal components.
        details: what was chosen, for `run.json`.
    """

    x: np.ndarray
    steps: list[Affine]
    features: int
    details: dict[str, Any]


def prepare(x: np.ndarray, options: HeadOptions, *, rotation_invariant: bool) -> Prepared:
    """Scale features, reduce them to principal components if asked, and rotate them where that helps.

    With more features than images, a rotation-invariant head is fitted in the space that the images span, which holds
    its solution: Hastie, Tibshirani and Friedman, section 18.3.5.

    Args:
        x: (n, *shape) float32.
        options: `pca` is read.
        rotation_invariant: whether turning changes nothing.

    Raises:
        OptionError: more principal components than there can be.
    """
    flat = x.reshape(len(x), -1).astype(np.float64)
    scaler = StandardScaler(copy=False).fit(flat)
    scaling = scaling_of(scaler.mean_, scaler.var_, options.scaling)
    flat -= scaler.mean_
    flat *= scaling.kernel
    steps, details = [scaling], {}
    if options.pca is not None:
        most = min(flat.shape)
        if not 0 < options.pca <= most or (options.pca > 1 and options.pca != int(options.pca)):
            raise OptionError(
                "no such number of principal components",
                expected=f"a fraction below 1, or 1 to {most}",
                found=options.pca,
            )
        pca = PCA(options.pca if options.pca < 1 else int(options.pca), random_state=options.training.seed)
        flat = pca.fit_transform(flat)
        steps.append(Affine(pca.components_.T, -pca.mean_ @ pca.components_.T))
        details = {"pca": int(pca.n_components_), "pca_variance": float(pca.explained_variance_ratio_.sum())}
    features = flat.shape[1]
    basis = _span(flat) if rotation_invariant else None
    if basis is not None:
        flat = flat @ basis.T
        steps.append(Affine(basis.T, np.zeros(len(basis))))
    return Prepared(flat, steps, features, details)


def setup_of(data: HeadData, options: HeadOptions, features: int) -> Setup:
    """What fitting a family depends on."""
    return Setup(
        class_count=len(data.class_names),
        features=features,
        balanced=options.training.class_weight == "balanced",
        hidden=options.hidden,
        seed=options.training.seed,
    )


def fit_family(name: str, data: HeadData, options: HeadOptions, *, probabilities: bool = True) -> FittedHead:
    """Standardised features and a head of `FAMILIES`.

    Where its setting is not given, it is the one with the least log loss in stratified five-fold cross-validation on
    the training images. Scores that are no probabilities are made so by a temperature, fitted to the images that
    each fold holds out, as scikit-learn's `CalibratedClassifierCV` does; unless only the labels matter, and not the
    probabilities.

    Raises:
        OptionError: a setting out of range.
        HeadError: a class with a single training image, where folds are needed.
    """
    family = FAMILIES[name]
    given = options.neighbours if name == "knn" else options.regularization
    if given is not None:
        _require_valid(family, given, len(data.x))
    prepared = prepare(data.x, options, rotation_invariant=family.rotation_invariant)
    setup = setup_of(data, options, prepared.features)
    values = (float(given),) if given is not None else family.values(len(data.x))
    compared: list[CrossValidated] = []
    chosen: CrossValidated | float = values[0]
    if len(values) > 1 or (family.scores_only and probabilities):
        purpose = f"choose {family.setting}" if given is None else "calibrate"
        instead = "" if given is not None or family.scores_only else f", or give {_option(name)}"
        folds = make_folds(
            data.y,
            data.class_names,
            options.training.seed,
            purpose=purpose,
            do=f"add images of it{instead}",
            views=data.views,
        )
        if len(values) > 1:
            # In float32: twice as fast, and precise enough to compare.
            rows = prepared.x.astype(np.float32)
            compared = cross_validate(family, values, rows, data.y, setup, folds, calibrated=family.scores_only)
            chosen = best_of(compared)
        if family.scores_only and probabilities:
            value = chosen.value if isinstance(chosen, CrossValidated) else chosen
            (chosen,) = cross_validate(family, [value], prepared.x, data.y, setup, folds, calibrated=True)
    chosen_by = "option" if given is not None else "cross-validation" if len(values) > 1 else "default"
    return finish(family, chosen, prepared, data, setup, compared, chosen_by=chosen_by)


def finish(
    family: Family,
    chosen: CrossValidated | float,
    prepared: Prepared,
    data: HeadData,
    setup: Setup,
    compared: Sequence[CrossValidated],
    *,
    chosen_by: str,
) -> FittedHead:
    """Fit a family to all training rows, and fold it.

    Args:
        family: the kind of head.
        chosen: what is known of the value of its setting that it is fitted with, or the value alone.
        prepared: the rows.
        data: what they were prepared from.
        setup: what else fitting depends on.
        compared: all values that were compared.
        chosen_by: how it was chosen.
    """
    value, factor = (chosen.value, chosen.factor) if isinstance(chosen, CrossValidated) else (chosen, 1.0)
    with quiet_convergence(), blas_threads(1 if prepared.x.size < MIN_THREADED_SIZE else None):
        fitted = family.fitter(prepared.x, data.y, setup)(value)
    last = [fitted, softmax] if isinstance(fitted, Affine) else convert(fitted)
    details = {family.setting: value, "chosen_by": chosen_by} | prepared.details
    if factor != 1:
        details["inverse_temperature"] = factor
    return FittedHead(
        model=apply_temperature(to_keras([*prepared.steps, *last], data.x.shape[1:]), factor),
        history=[
            {family.setting: row.value, "cross_validation_log_loss": row.log_loss, "standard_error": row.standard_error}
            for row in (compared if len(compared) > 1 else ())
        ],
        details=details,
        held_out_logits=chosen.logits if isinstance(chosen, CrossValidated) else None,
    )


def fit_estimator(estimator: BaseEstimator, data: HeadData, options: HeadOptions) -> FittedHead:
    """A scikit-learn classifier, or a `Pipeline` that ends in one, as it was given; it is left as it is.

    Where it gives no probabilities, it is calibrated by a temperature, cross-validated.

    Raises:
        HeadError: it cannot be converted into Keras layers, which is found before it is fitted.
    """
    require_convertible(estimator)
    model = clone(estimator)
    if not has_probabilities(model):
        folds = make_folds(
            data.y,
            data.class_names,
            options.training.seed,
            purpose="calibrate",
            do="add images of it",
            views=data.views,
        )
        model = CalibratedClassifierCV(model, method="temperature", ensemble=False, cv=folds)
    with quiet_convergence():
        try:
            model.fit(data.x.reshape(len(data.x), -1).astype(np.float64), data.y)
        except ValueError as error:
            raise HeadError(f"{type(estimator).__name__} cannot be fitted to these features: {error}") from error
    return FittedHead(
        model=to_keras(convert(model), data.x.shape[1:]), history=[], details={"estimator": repr(estimator)}
    )


def _require_valid(family: Family, value: float, count: int) -> None:
    valid, expected = family.valid
    if not valid(value):
        raise OptionError(f"{family.setting} is out of range", expected=expected, found=value)
    if family.setting == "neighbours" and value > count:
        raise OptionError("more neighbours than training images", expected=f"{count} at most", found=int(value))


def _option(name: str) -> str:
    return "--neighbours" if name == "knn" else "--regularization"


def _span(x: np.ndarray) -> np.ndarray | None:
    """An orthonormal basis (r, d) of the rows of x (n, d) where d exceeds n, else None."""
    if x.shape[1] <= x.shape[0]:
        return None
    # The eigenvectors of the small (n, n) matrix of inner products give the basis at a fraction of the cost of an SVD.
    values, vectors = np.linalg.eigh(x @ x.T)
    kept = values > values[-1] * 1e-10
    basis: np.ndarray = (vectors[:, kept] / np.sqrt(values[kept])).T @ x
    return basis
