"""(i) The Keras layers of every head agree with scikit-learn's `predict_proba`; time, accuracy and memory.

Each head is fitted to a set's training features as in `fit-head`, its setting chosen by cross-validation, in a
process of its own, and its model is saved. `memory` is the peak of resident memory while fitting, above that before.
Then the models are opened in safe mode. `difference` is the largest difference between a head's layers, on features
that Keras computes from the test images as an exported model does, and scikit-learn with the same setting on the
cached features; `difference_cached` is the same with both on the cached features.

    python benchmarks/heads.py features/cats.h5
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from memory import Peak


def twin(name: str, details: dict[str, Any], data: Any) -> Any:
    """Fit scikit-learn's estimator to the same rows with the same setting; None for heads that Keras trains."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression, RidgeClassifier
    from sklearn.model_selection import StratifiedKFold
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    folds = StratifiedKFold(5, shuffle=True, random_state=0)

    def calibrated(model: Any) -> Any:
        return CalibratedClassifierCV(model, method="temperature", ensemble=False, cv=folds)

    models = {
        "logistic": lambda: LogisticRegression(C=details["C"], max_iter=1000),
        "ridge": lambda: calibrated(RidgeClassifier(alpha=details["alpha"])),
        "svm": lambda: calibrated(LinearSVC(C=details["C"], random_state=0)),
        "lda": lambda: LinearDiscriminantAnalysis(solver="lsqr", shrinkage=details["shrinkage"]),
        "knn": lambda: KNeighborsClassifier(int(details["neighbours"])),
        "nb": lambda: GaussianNB(var_smoothing=details["smoothing"]),
        "mlp": lambda: MLPClassifier((256,), alpha=details["alpha"], random_state=0),
    }
    if name not in models:
        return None
    return make_pipeline(StandardScaler(), models[name]()).fit(data.x.astype(np.float64), data.y)


def one(path: Path, name: str, folder: Path) -> None:
    """Fit one head and print a line of JSON; save its model, and scikit-learn's test probabilities."""
    import keras

    import permafrost as pf
    from permafrost.heads.data import load_fit_data
    from permafrost.heads.options import options_from
    from permafrost.heads.table import find_head
    from permafrost.machine import available_memory
    from permafrost.training.metrics import metrics

    options, head = options_from({}, progress=False), find_head(name)
    (loaded,) = load_fit_data(
        [pf.open_features(path)],
        views=1,
        several_views=False,
        hold_out=head.monitors_validation,
        memory_limit=available_memory(),
        seed=options.training.seed,
    )
    features, data = loaded.features, loaded.training
    x, y = features.features(loaded.rows["test"]), loaded.labels["test"]
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).predict(np.zeros((2, 4)), verbose=0)
    with Peak() as peak:
        started = time.perf_counter()
        fitted = head.fit(data, options)
        seconds = time.perf_counter() - started
    fitted.model.save(folder / f"{name}.keras")
    own = twin(name, fitted.details, data)
    if own is not None:
        np.save(folder / f"{name}.npy", own.predict_proba(x.astype(np.float64)))
    scores = metrics(y, fitted.model.predict(x, verbose=0), features.class_names)
    found = {"head": name, "seconds": round(seconds, 2), "memory_MB": round(peak.above_start / 1e6)}
    found |= {"accuracy": scores["accuracy"], "balanced_accuracy": scores["balanced_accuracy"], "n": scores["n"]}
    print(json.dumps(found | {"details": fitted.details}), flush=True)


def differences(path: Path, folder: Path) -> None:
    """Print each head's largest difference from scikit-learn on the test images, as lines of JSON."""
    import keras

    import permafrost as pf
    from permafrost.engines.selection import make_engine
    from permafrost.extraction.extracted import trunk_of
    from permafrost.extraction.originals import Originals

    features = pf.open_features(path)
    rows = features.rows("test")
    engine = make_engine("keras", trunk_of(features).model, batch_size=32)
    originals = Originals(features)
    images = (np.stack([originals.pixels(int(row)) for row in part]) for part in batches(rows))
    by_trunk = np.concatenate([engine(pixels)[0] for pixels in images])
    cached = features.features(rows)
    for saved in sorted(folder.glob("*.npy")):
        model, expected = keras.models.load_model(saved.with_suffix(".keras"), safe_mode=True), np.load(saved)
        found = (np.abs(model.predict(x, verbose=0) - expected).max() for x in (by_trunk, cached))
        difference, on_cached = map(float, found)
        print(json.dumps({"head": saved.stem, "difference": difference, "difference_cached": on_cached}), flush=True)


def batches(rows: np.ndarray) -> list[np.ndarray]:
    """Split rows into batches of 32."""
    return [rows[start : start + 32] for start in range(0, len(rows), 32)]


def main() -> None:
    from permafrost.heads.options import HEADS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("--head", help="Fit only this head, in this process.")
    parser.add_argument("--folder", type=Path, help="Folder for the model of --head.")
    given = parser.parse_args()
    if given.head:
        one(given.set, given.head, given.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in HEADS:
            if name != "conv":  # It needs feature maps.
                command = [sys.executable, __file__, str(given.set), "--head", name, "--folder", folder]
                subprocess.run(command, check=True)
        differences(given.set, Path(folder))


if __name__ == "__main__":
    main()
