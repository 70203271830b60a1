"""(j) The setting with the least log loss does better on test images than the one-standard-error rule.

Draws random subsets of each dataset for training and tests on all other images. On each subset four heads, each with
both scalings, are compared by cross-validation as in `fit-head`; each rule chooses a setting, and the head is
fitted with it. `auto` is the one of all eight whose chosen setting has the least cross-validated log loss.

    python benchmarks/choosing.py digits --rows 100 500
    python benchmarks/choosing.py cifar10 --rows 200 1000 --shared ../shared
    python benchmarks/choosing.py lights --rows 200 800 --shared ../shared

Digits are scikit-learn's, with 64 grey levels each. The others are averaged features of MobileNet (alpha 0.25) at 96
px: of 2,500 test images of CIFAR-10, and of crops of traffic lights, both splits together.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from permafrost.heads.calibration import row_losses
from permafrost.heads.classical_head import ClassicalHead
from permafrost.heads.cross_validation import CrossValidated, best_of, cross_validate
from permafrost.heads.fitters import logits_of
from permafrost.heads.folds import make_folds
from permafrost.heads.head import HeadData
from permafrost.heads.options import SCALINGS, options_from
from permafrost.heads.preparation import prepare, setup_of
from permafrost.heads.table import find_head

HEADS = ("logistic", "ridge", "svm", "lda")


def one_standard_error(compared: Sequence[CrossValidated]) -> CrossValidated:
    """Return the most regularised value whose loss is within one standard error of the least.

    Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, section 7.10.
    """
    best = best_of(compared)
    return next(row for row in compared if row.log_loss <= best.log_loss + best.standard_error)


RULES = {"one standard error": one_standard_error, "least": best_of}


def load(name: str, shared: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, d) float32 and labels (n,)."""
    if name == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        return digits.data.astype(np.float32), digits.target
    import permafrost as pf

    images, labels = (cifar if name == "cifar10" else lights)(shared)
    with tempfile.TemporaryDirectory() as scratch:
        extractor = pf.FeatureExtractor(
            base="mobilenet:alpha=0.25",
            weights=str(shared / "weights" / "mobilenet_2_5_224_tf_no_top.h5"),
            image_size=96,
            store=scratch,
        )
        return np.asarray(extractor.fit_transform(images), np.float32), labels


def cifar(shared: Path, count: int = 2500) -> tuple[list[np.ndarray], np.ndarray]:
    """Return images of CIFAR-10's test split and their labels."""
    import h5py
    from PIL import Image

    with h5py.File(shared / "data" / "cifar10.h5") as file:
        offsets, labels = file["test/offsets"][...], file["test/labels"][...]
        chosen = np.sort(np.random.default_rng(0).choice(len(labels), count, replace=False))
        coded = [bytes(file["test/bytes"][offsets[row] : offsets[row + 1]]) for row in chosen]
    return [np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in coded], labels[chosen].astype(np.int64)


def lights(shared: Path) -> tuple[list[str], np.ndarray]:
    """Return paths of crops of traffic lights and their labels."""
    paths = sorted((shared / "data" / "traffic_lights").glob("*/*/*"))
    names = sorted({path.parent.name for path in paths})
    return [str(path) for path in paths], np.array([names.index(path.parent.name) for path in paths])


def subset(y: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Draw `count` rows, stratified by class, at least two per class."""
    classes = [np.flatnonzero(y == label) for label in np.unique(y)]
    return np.concatenate([random.choice(rows, max(2, count * len(rows) // len(y)), replace=False) for rows in classes])


def one_subset(x: np.ndarray, y: np.ndarray, train: np.ndarray, seed: int) -> list[dict[str, object]]:
    """Return test metrics for each head, scaling and rule, and for `auto` with each rule."""
    rest = np.setdiff1d(np.arange(len(y)), train)
    names = tuple(map(str, np.unique(y)))
    data = HeadData(x=x[train], y=y[train], validation_x=None, validation_y=None, class_names=names)
    options = options_from({"seed": seed}, progress=False)
    folds = make_folds(data, seed, purpose="compare")
    found: list[dict[str, object]] = []
    for scaling in SCALINGS:
        for head in HEADS:
            kind = find_head(head)
            assert isinstance(kind, ClassicalHead)
            prepared = prepare(
                data.x, dataclasses.replace(options, scaling=scaling), rotation_invariant=kind.rotation_invariant
            )
            setup = setup_of(data, options, prepared.features)
            rows = prepared.x.astype(np.float32)
            compared = cross_validate(kind.fitter, kind.values(len(rows)), rows, data.y, setup, folds, calibrated=True)
            tested = x[rest].astype(np.float64)
            for step in prepared.steps:
                tested = step(tested)
            for rule, pick in RULES.items():
                chosen: CrossValidated = pick(compared)
                logits = chosen.factor * logits_of(kind.fitter(rows, data.y, setup)(chosen.value), tested)
                found.append(
                    {
                        "head": head,
                        "scaling": scaling,
                        "rule": rule,
                        "held_out_loss": chosen.log_loss,
                        "loss": float(row_losses(logits, y[rest]).mean()),
                        "accuracy": float((logits.argmax(axis=1) == y[rest]).mean()),
                    }
                )
    for rule in RULES:
        best = min((row for row in found if row["rule"] == rule), key=lambda row: row["held_out_loss"])  # type: ignore[arg-type, return-value]
        found.append(best | {"head": "auto", "scaling": "chosen"})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["digits", "cifar10", "lights"])
    parser.add_argument("--rows", type=int, nargs="+", default=[200])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    given = parser.parse_args()
    x, y = load(given.data, given.shared)
    for count in given.rows:
        found: dict[tuple[object, ...], list[tuple[float, float]]] = {}
        for draw in range(given.draws):
            for row in one_subset(x, y, subset(y, count, np.random.default_rng(draw)), draw):
                key = (row["head"], row["scaling"], row["rule"])
                found.setdefault(key, []).append((row["loss"], row["accuracy"]))  # type: ignore[arg-type]
        for (head, scaling, rule), values in found.items():
            loss, accuracy = np.mean(values, axis=0).round(4)
            line = {"data": given.data, "rows": count, "head": head, "scaling": scaling, "rule": rule}
            print(json.dumps(line | {"loss": loss, "accuracy": accuracy, "draws": given.draws}), flush=True)


if __name__ == "__main__":
    main()
