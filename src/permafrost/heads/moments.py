"""Counts, sums and products of features: all that closed forms need, gathered in one pass and in any order.

Ridge regression and linear discriminant analysis are solved from them, with one eigendecomposition for all strengths of
regularisation: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, sections 3.4.1 and 4.3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import linalg

from permafrost.heads.folding import Affine


@dataclasses.dataclass(frozen=True)
class Moments:
    """Of rows x (n, d), each of a class and with a weight.

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
        """Moments of rows.

        Args:
            x: (n, d) float32 or float64; the products are formed in its precision.
            y: (n,) int64.
            class_weights: (classes,) float64, the weight of a row of each class.
        """
        indicator = np.zeros((len(y), len(class_weights)), x.dtype)
        indicator[np.arange(len(y)), y] = class_weights[y]
        weighted = x * np.sqrt(class_weights[y]).astype(x.dtype)[:, None] if np.ptp(class_weights) else x
        factor = 1.0 if np.ptp(class_weights) else class_weights[0]
        return cls(
            indicator.sum(axis=0, dtype=np.float64),
            (indicator.T @ x).astype(np.float64),
            factor * (weighted.T @ weighted).astype(np.float64),
        )

    def add(self, other: Moments) -> Moments:
        """These with others, in place: products are large."""
        for mine, theirs in ((self.counts, other.counts), (self.sums, other.sums), (self.products, other.products)):
            mine += theirs
        return self

    @property
    def mean(self) -> np.ndarray:
        """The weighted mean (d,) of all rows."""
        mean: np.ndarray = self.sums.sum(axis=0) / self.counts.sum()
        return mean

    def scaled(self, mean: np.ndarray, scale: np.ndarray) -> Moments:
        """Moments of (x - mean) / scale, with mean and scale (d,)."""
        sums = self.sums - self.counts[:, None] * mean
        total, count = self.sums.sum(axis=0), self.counts.sum()
        products = self.products - np.outer(mean, total) - np.outer(total, mean) + count * np.outer(mean, mean)
        return Moments(self.counts, sums / scale, products / np.outer(scale, scale))


def ridge_path(moments: Moments) -> Callable[[float], Affine]:
    """Least squares of targets -1 and 1 for each class, penalised: from a strength alpha to logits.

    scikit-learn's `RidgeClassifier`, whose one score of two classes is the second of the two logits here.
    """
    count, mean = moments.counts.sum(), moments.mean
    values, vectors = linalg.eigh(moments.products - count * np.outer(mean, mean), check_finite=False)
    values = np.maximum(values, 0)
    # The targets' products with the centred rows; those of all classes add up to nothing.
    turned = vectors.T @ (2 * (moments.sums - moments.counts[:, None] * mean)).T
    targets = 2 * moments.counts / count - 1

    def fit(alpha: float) -> Affine:
        kernel = vectors @ (turned / (values + alpha)[:, None])
        return Affine(kernel, targets - mean @ kernel)

    return fit


def lda_path(moments: Moments, features: int) -> Callable[[float], Affine]:
    """Classes as Gaussians of one covariance, shrunk towards a multiple of the identity: from a shrinkage to logits.

    scikit-learn's `LinearDiscriminantAnalysis(solver="lsqr", shrinkage=...)`.

    Args:
        moments: of rows; where they are turned into the space that they span, all the same.
        features: the number of features of which the rows are coordinates, d or more.
    """
    priors = moments.counts / moments.counts.sum()
    means = moments.sums / moments.counts[:, None]
    within = moments.products / moments.counts.sum() - (priors * means.T) @ means
    values, vectors = linalg.eigh(within, check_finite=False)
    values = np.maximum(values, 0)
    turned = vectors.T @ means.T
    spread = values.sum() / features

    def fit(shrinkage: float) -> Affine:
        shrunk = (1 - shrinkage) * values + shrinkage * spread
        kernel = vectors @ (turned / np.maximum(shrunk, 1e-12 * values[-1])[:, None])
        return Affine(kernel, np.log(priors) - 0.5 * (means.T * kernel).sum(axis=0))

    return fit
