"""The steps of `demo`: transfer with Permafrost, and the same network trained from scratch."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import numpy as np

import permafrost as pf
from permafrost.cli.text import duration
from permafrost.extraction.extracted import ExtractedSet
from permafrost.extraction.originals import Originals
from permafrost.store.feature_set import FeatureSet
from permafrost.training.loop import Batches, Examples, predict_examples
from permafrost.trunk.bases import load_base
from permafrost.trunk.preprocessing import preprocess

BASE: Final = "resnet20-cifar10"
DIGITS_SIZE: Final = 32
PHOTOS_SIZE: Final = 64
BATCH_SIZE: Final = 32
SPLITS: Final = (("train", 20), ("validation", 10), ("test", None))
"""Digits per class and split: few for training, as for someone who labels images by hand."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Step:
    """A row of the table that `demo` prints.

    Attributes:
        step: name of the step.
        seconds: duration.
        accuracy: test accuracy, 0 to 1; None if the step has none.
        result: the result in words.
    """

    step: str
    seconds: float
    accuracy: float | None
    result: str


class Job:
    """Runs the steps, times each and prints it when it is done.

    Attributes:
        set_path: the feature set.
        tuned_folder: the fine-tuned run.
        steps: the steps done so far.
        accuracy: test accuracy of the fine-tuned model, 0 to 1.
        accuracy_from_scratch: test accuracy of the same network without transfer, 0 to 1.
    """

    def __init__(self, folder: Path, *, quiet: bool) -> None:
        self.set_path = folder / "features" / "demo.h5"
        self.tuned_folder = folder / "runs" / "finetuned"
        self.steps: list[Step] = []
        self.accuracy = 0.0
        self.accuracy_from_scratch = 0.0
        self._folder = folder
        self._quiet = quiet

    def run(self, photos: str | None) -> None:
        """Run all steps on a folder of photos, or on handwritten digits if None."""
        data = photos or self._step(
            "write digits as images", lambda: write_digits(self._folder / "digits"), lambda written: written
        )
        features = self._transfer(data, PHOTOS_SIZE if photos else DIGITS_SIZE)
        budget = sum(step.seconds for step in self.steps)
        self.accuracy_from_scratch, _ = self._step(
            "the same net from scratch",
            lambda: train_from_scratch(features, budget),
            lambda result: f"{result[1]:,} epochs in the time of all steps above",
            lambda result: result[0],
        )

    def _transfer(self, data: str, image_size: int) -> FeatureSet:
        def extract() -> ExtractedSet:
            features: ExtractedSet = pf.extract(data, base=BASE, image_size=image_size, out=self.set_path)
            return features

        runs = self.tuned_folder.parent
        features = self._step("extract", extract, _extracted)
        logistic = self._step(
            "fit-head logistic",
            lambda: pf.fit_head(features, "logistic", out=runs / "logistic"),
            lambda run: f"parity of the exported model {run.about['parity']['resized_max_difference']:.0e}",
            _test_accuracy,
        )
        self._step(
            "evaluate the model on files",
            lambda: pf.evaluate(logistic, data),
            lambda metrics: f"{metrics['n']:,} test images",
            lambda metrics: metrics["accuracy"],
        )
        self._step("extract again", extract, _extracted)
        dense = self._step(
            "fit-head dense",
            lambda: pf.fit_head(features, "dense", out=runs / "dense"),
            lambda _: "a second experiment on the cached features",
            _test_accuracy,
        )
        settings: dict[str, Any] = {"epochs": 10, "optimizer": "adam", "learning_rate": 1e-3}
        tuned = self._step(
            "finetune from stage3",
            lambda: pf.finetune(dense, "stage3", out=self.tuned_folder, **settings),
            lambda _: "the top third of the base, with the head",
            _test_accuracy,
        )
        self.accuracy = _test_accuracy(tuned)
        return features

    def _step(
        self,
        name: str,
        work: Callable[[], T],
        words: Callable[[T], str],
        accuracy: Callable[[T], float] | None = None,
    ) -> T:
        started = time.perf_counter()
        result = work()
        seconds = round(time.perf_counter() - started, 2)
        step = Step(name, seconds, accuracy(result) if accuracy else None, words(result))
        if not self._quiet:
            if not self.steps:
                click.echo(f"{'step':<28} {'time':>10}   {'test accuracy':>13}")
            shown = "" if step.accuracy is None else f"{step.accuracy:.3f}"
            click.echo(f"{step.step:<28} {duration(step.seconds):>10}   {shown:>13}   {step.result}")
        self.steps.append(step)
        return result


def write_digits(folder: Path) -> str:
    """Write scikit-learn's 1,797 handwritten digits as PNG files, as `folder/<split>/<digit>/<number>.png`.

    They are from the UCI repository's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998).

    Returns:
        The folder.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    digits, generator = load_digits(), np.random.default_rng(0)
    for label in range(10):
        # The dataset is ordered by writer.
        rows, start = generator.permutation(np.flatnonzero(digits.target == label)), 0
        for split, count in SPLITS:
            chosen = rows[start:] if count is None else rows[start : start + count]
            start += len(chosen)
            class_folder = folder / split / str(label)
            class_folder.mkdir(parents=True, exist_ok=True)
            for row in chosen:
                # The dataset has 8x8 values from 0 to 16; a scan would be larger.
                image = Image.fromarray((digits.images[row] * 255 / 16).round().astype("uint8"))
                image = image.resize((DIGITS_SIZE, DIGITS_SIZE), Image.Resampling.BICUBIC)
                image.save(class_folder / f"{row:04}.png")
    return str(folder)


def train_from_scratch(features: FeatureSet, seconds: float) -> tuple[float, int]:
    """Train the whole base from random weights with plain Keras until the time is up.

    Args:
        features: provides images, labels, splits and the image size.
        seconds: the time.

    Returns:
        The test accuracy, 0 to 1, of the epoch with the lowest validation loss; and the number of epochs.
    """
    import keras

    keras.utils.set_random_seed(0)
    base = load_base(BASE, weights="none", image_size=features.spec.image_size)
    pixels = keras.Input((*base.image_size, 3))
    x = keras.layers.GlobalAveragePooling2D()(base.model(preprocess(pixels, base.preprocessing)))
    model = keras.Model(pixels, keras.layers.Dense(len(features.class_names), activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    monitored = "validation" if len(features.rows("validation")) else "train"
    end = time.perf_counter() + seconds

    def stop_in_time(*_: Any) -> None:
        model.stop_training = time.perf_counter() >= end

    best = keras.callbacks.EarlyStopping("val_loss", patience=10**9, restore_best_weights=True)
    history = model.fit(
        Batches(_images(features, "train"), BATCH_SIZE, seed=0),
        validation_data=Batches(_images(features, monitored), BATCH_SIZE, seed=None),
        epochs=10**6,
        verbose=0,
        callbacks=[best, keras.callbacks.LambdaCallback(on_epoch_end=stop_in_time)],
    ).history
    probabilities = predict_examples(model, _images(features, "test"))
    return float(np.mean(probabilities.argmax(axis=1) == features.labels("test"))), len(history["loss"])


def _images(features: FeatureSet, split: str) -> Examples:
    """Return a split's images as the base sees them, read from their files in each epoch, as tutorials do."""
    rows, originals = features.rows(split), Originals(features)

    def load(numbers: np.ndarray) -> np.ndarray:
        pixels = [originals.pixels(int(row)) for row in rows[numbers]]
        return np.stack(pixels).astype(np.float32)

    return Examples(features.labels(split), load)


def _test_accuracy(run: pf.Run) -> float:
    return float(run.metrics["test"]["accuracy"])


def _extracted(features: ExtractedSet) -> str:
    summary = features.summary
    return f"{summary['computed']:,} images computed, {summary['cached']:,} cached"
