"""Ridge regression and linear discriminant analysis from moments: counts, sums and products of the features.

Moments are gathered in one pass, in any order. One eigendecomposition serves all strengths of regularisation: Hastie,
Tibshirani and Friedman, The Elements of Statistical Learning, sections 3.4.1 and 4.3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

import numpy as np
from scipy import linalg, sparse

from permafrost.heads.to_keras import Affine

CONSTANT_FRACTION: Final = 1e-12
"""A feature is constant if its variance is at most this fraction of the largest one."""


@dataclasses.dataclass(frozen=True)
class Moments:
    """Moments of weighted rows x (n, d) with classes.

    Attributes:
        counts: (classes,) float64, the sum of the weights in each class.
        sums: (classes, d) float64, the weighted sums.
        products: (d, d) float64, the weighted sum of products.
    """

    counts: np.ndarray
    sums: np.ndarray
    products: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, class_weights: np.ndarray) -> Moments:
        """Compute the moments of rows.

        Args:
            x: (n, d) float32 or float64; the products are formed in its precision.
            y: (n,) int64.
            class_weights: (classes,) float64, the weight of a row of each class.
        """
        equal = np.ptp(class_weights) == 0
        weighted = x if equal else x * np.sqrt(class_weights[y]).astype(x.dtype)[:, None]
        # NumPy recognises a matrix times its transpose, and computes half of it.
        products = weighted.T @ weighted
        if equal and class_weights[0] != 1:
            products *= x.dtype.type(class_weights[0])
        counts = np.bincount(y, minlength=len(class_weights)) * class_weights
        return cls(counts, class_weights[:, None] * class_sums(x, y, len(class_weights)), products)

    def add(self, other: Moments) -> Moments:
        """Add other moments in place, because products are large, and return the result."""
        for mine, theirs in ((self.counts, other.counts), (self.sums, other.sums), (self.products, other.products)):
            mine += theirs
        return self

    @property
    def mean(self) -> np.ndarray:
        """Weighted mean (d,) of all rows."""
        mean: np.ndarray = self.sums.sum(axis=0) / self.counts.sum()
        return mean

    def scaled(self, mean: np.ndarray, scale: np.ndarray) -> Moments:
        """Return the moments of (x - mean) / scale, with mean and scale (d,); the products are changed in place."""
        sums = self.sums - self.counts[:, None] * mean
        total, count = self.sums.sum(axis=0), self.counts.sum()
        for number, row in enumerate(self.products):
            row -= mean[number] * total + (total[number] - count * mean[number]) * mean
            row /= scale[number] * scale
        return Moments(self.counts, sums / scale, self.products)


def class_sums(x: np.ndarray, y: np.ndarray, class_count: int) -> np.ndarray:
    """Return the sums (class_count, d) float64 of the rows x (n, d) of each class y (n,)."""
    indicator = sparse.csr_array((np.ones(len(y), x.dtype), (y, np.arange(len(y)))), shape=(class_count, len(y)))
    sums: np.ndarray = (indicator @ x).astype(np.float64)
    return sums


def scaling_of(mean: np.ndarray, variances: np.ndarray, how: str) -> Affine:
    """Return the map from features x to (x - mean) / scale.

    Args:
        mean: (d,) float64.
        variances: (d,) float64.
        how: `standard` gives each feature variance 1; `centred` divides all by one number, which gives the same sum of
            variances. Features that are constant, up to rounding, are only centred.
    """
    differing = variances > CONSTANT_FRACTION * variances.max(initial=0.0)
    if how == "standard":
        scale = np.sqrt(np.where(differing, variances, 1.0))
    else:
        common = np.sqrt(variances[differing].mean()) if differing.any() else 1.0
        scale = np.where(differing, common, 1.0)
    return Affine(1 / scale, -mean / scale)


def ridge_path(moments: Moments) -> Callable[[float], Affine]:
    """Return a function that maps the strength alpha to a ridge regression of targets -1 and 1 per class.

    Its result maps features to logits. It equals scikit-learn's `RidgeClassifier`, whose single score of two classes is
    the second of the two logits here.
    """
    count, mean = moments.counts.sum(), moments.mean
    values, vectors = linalg.eigh(moments.products - np.outer(count * mean, mean), check_finite=False, overwrite_a=True)
    values = np.maximum(values, 0)
    # Products of the targets with the centred rows; over all classes they add up to 0.
    projected = vectors.T @ (2 * (moments.sums - moments.counts[:, None] * mean)).T
    targets = 2 * moments.counts / count - 1

    def fit(alpha: float) -> Affine:
        kernel = vectors @ (projected / (values + alpha)[:, None])
        return Affine(kernel, targets - mean @ kernel)

    return fit


def lda_path(moments: Moments, features: int) -> Callable[[float], Affine]:
    """Return a function that maps the shrinkage to a linear discriminant analysis.

    Its result maps features to logits. Classes are Gaussians with one covariance, shrunk towards a multiple of the
    identity. It equals scikit-learn's `LinearDiscriminantAnalysis(solver="lsqr", shrinkage=...)`.

    Args:
        moments: moments of the rows, or of their coordinates in the space that they span.
        features: the number of features of the rows, at least d.
    """
    priors = moments.counts / moments.counts.sum()
    means = moments.sums / moments.counts[:, None]
    within = moments.products / moments.counts.sum()
    within -= (priors * means.T) @ means
    values, vectors = linalg.eigh(within, check_finite=False, overwrite_a=True)
    values = np.maximum(values, 0)
    projected = vectors.T @ means.T
    spread = values.sum() / features

    def fit(shrinkage: float) -> Affine:
        shrunk = (1 - shrinkage) * values + shrinkage * spread
        kernel = vectors @ (projected / np.maximum(shrunk, 1e-12 * values[-1])[:, None])
        return Affine(kernel, np.log(priors) - 0.5 * (means.T * kernel).sum(axis=0))

    return fit
