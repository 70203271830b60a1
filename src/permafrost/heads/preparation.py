"""Prepare features for a head that Keras does not train: scaling, principal components, rotation into their span."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from permafrost.errors import OptionError
from permafrost.heads.closed_forms import scaling_of
from permafrost.heads.fitters import Setup
from permafrost.heads.head import HeadData
from permafrost.heads.options import HeadOptions
from permafrost.heads.to_keras import Affine


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Rows that a head is fitted to.

    Attributes:
        x: (n, r) float64.
        steps: the maps from flattened features (n, d) to x.
        features: the number of features d, or of their principal components.
        details: what was chosen, for `run.json`.
    """

    x: np.ndarray
    steps: list[Affine]
    features: int
    details: dict[str, Any]


def prepare(x: np.ndarray, options: HeadOptions, *, rotation_invariant: bool) -> Prepared:
    """Scale features, reduce them to principal components if requested, and rotate them if that makes them smaller.

    With more features than images, a rotation-invariant head is fitted in the space that the images span, which holds
    its solution: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, section 18.3.5.

    Args:
        x: (n, *shape) float32.
        options: `scaling` and `pca` are read, and the random seed.
        rotation_invariant: whether rotating the features does not change the head.

    Raises:
        OptionError: this number of principal components is not possible.
    """
    flat = x.reshape(len(x), -1).astype(np.float64)
    scaler = StandardScaler(copy=False).fit(flat)
    scaling = scaling_of(scaler.mean_, scaler.var_, options.scaling)
    flat -= scaler.mean_
    flat *= scaling.kernel
    steps, details = [scaling], {}
    if options.pca is not None:
        maximum = min(flat.shape)
        if not 0 < options.pca <= maximum or (options.pca > 1 and options.pca != int(options.pca)):
            raise OptionError(
                "no such number of principal components",
                expected=f"a fraction below 1, or 1 to {maximum}",
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
    """Return everything that fitting depends on besides the rows and the setting."""
    return Setup(
        class_count=len(data.class_names),
        features=features,
        balanced=options.training.class_weight == "balanced",
        hidden=options.hidden,
        seed=options.training.seed,
    )


def _span(x: np.ndarray) -> np.ndarray | None:
    """Return an orthonormal basis (r, d) of the rows of x (n, d) if d exceeds n, else None."""
    if x.shape[1] <= x.shape[0]:
        return None
    # The eigenvectors of the small (n, n) matrix of inner products give the basis at a fraction of the cost of an SVD.
    values, vectors = np.linalg.eigh(x @ x.T)
    positive = values > values[-1] * 1e-10
    basis: np.ndarray = (vectors[:, positive] / np.sqrt(values[positive])).T @ x
    return basis
