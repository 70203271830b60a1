"""`demo`: the whole job on a small dataset, offline, and what the same network does without transfer."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from permafrost.cli import COMMANDS
from permafrost.cli.common import command, duration, show

if TYPE_CHECKING:
    import numpy as np

    from permafrost.store.feature_set import FeatureSet
    from permafrost.training.loop import Examples

BASE: Final = "resnet20-cifar10"
DIGITS_SIZE: Final = 32
PHOTOS_SIZE: Final = 64
BATCH_SIZE: Final = 32
SPLITS: Final = (("train", 20), ("validation", 10), ("test", None))
"""Digits of each class that go into each split: few to train on, as who labels images by hand has them."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Step:
    """A line of the table.

    Attributes:
        step: what was done.
        seconds: how long it took.
        accuracy: on the test images, where that was found out.
        result: what came of it, in words.
    """

    step: str
    seconds: float
    accuracy: float | None
    result: str


@command("demo", COMMANDS["demo"])
@click.argument("photos", required=False, type=click.Path())
@click.option("--out", default="demo", show_default=True, type=click.Path(), help="Folder for all that it makes.")
def demo(*, photos: str | None, out: str, as_json: bool) -> None:
    """Run the whole job on a small dataset, offline.

    Without PHOTOS, on the handwritten digits that come with scikit-learn, written out as images, 20 of each to train
    on; with it, on that folder, which has one folder a class. The base is the one that comes with Permafrost, a small
    network that has seen CIFAR-10's animals and vehicles. The last step trains the same network from random weights, on
    the same images and for as long as all steps before it took together.
    """
    job = _Job(Path(out), quiet=as_json)
    job.run(photos)
    tuned, scratch = job.accuracies["finetune"], job.accuracies["scratch"]
    figures = {
        "steps": [dataclasses.asdict(step) for step in job.steps],
        "accuracy": tuned,
        "from_scratch": scratch,
        "features": str(job.folder / "features" / "demo.h5"),
        "run": str(job.folder / "runs" / "finetuned"),
    }
    lines = [
        "",
        f"transfer against the same network from scratch: {100 * (tuned - scratch):+.1f} points of test accuracy",
        f"features: {figures['features']}",
        f"plots: {figures['run']}/curves.png, {figures['run']}/confusion.png",
        f"model: {figures['run']}/model.keras",
    ]
    show(figures, lines, as_json=as_json)


class _Job:
    """The steps, timed and printed as they are done."""

    def __init__(self, folder: Path, *, quiet: bool) -> None:
        self.folder = folder
        self.steps: list[Step] = []
        self.accuracies: dict[str, float] = {}
        self._quiet = quiet

    def run(self, photos: str | None) -> None:
        import permafrost as pf

        runs = self.folder / "runs"
        data = photos or self.step(
            "write digits as images", lambda: write_digits(self.folder / "digits"), lambda written: written
        )
        settings: dict[str, Any] = {
            "base": BASE,
            "image_size": PHOTOS_SIZE if photos else DIGITS_SIZE,
            "out": self.folder / "features" / "demo.h5",
        }
        features = self.step("extract", lambda: pf.extract(data, **settings), _extracted)
        run = self.step(
            "fit-head logistic",
            lambda: pf.fit_head(features, "logistic", out=runs / "logistic"),
            lambda run: f"parity of the exported model {run.about['parity']['resized_max_difference']:.0e}",
            lambda run: run.metrics["test"]["accuracy"],
        )
        self.step(
            "evaluate the model on files",
            lambda: pf.evaluate(run, data),
            lambda found: f"{found['n']:,} test images",
            lambda found: found["accuracy"],
        )
        self.step("extract again", lambda: pf.extract(data, **settings), _extracted)
        dense = self.step(
            "fit-head dense",
            lambda: pf.fit_head(features, "dense", out=runs / "dense"),
            lambda _: "a second experiment on the kept features",
            lambda run: run.metrics["test"]["accuracy"],
        )
        tuned = self.step(
            "finetune from stage3",
            lambda: pf.finetune(
                dense, "stage3", epochs=10, optimizer="adam", learning_rate=1e-3, out=runs / "finetuned"
            ),
            lambda _: "the top third of the base, with the head",
            lambda run: run.metrics["test"]["accuracy"],
        )
        self.accuracies["finetune"] = tuned.metrics["test"]["accuracy"]
        budget = sum(step.seconds for step in self.steps)
        self.accuracies["scratch"] = self.step(
            "the same net from scratch",
            lambda: train_from_scratch(features, budget),
            lambda found: f"{found[1]:,} epochs in the time of all of the above",
            lambda found: found[0],
        )[0]

    def step(
        self,
        name: str,
        work: Callable[[], T],
        words: Callable[[T], str],
        accuracy: Callable[[T], float] | None = None,
    ) -> T:
        """Do, time and print one step."""
        started = time.perf_counter()
        result = work()
        seconds = round(time.perf_counter() - started, 2)
        step = Step(name, seconds, accuracy(result) if accuracy else None, words(result))
        if not self._quiet:
            if not self.steps:
                click.echo(f"{'step':<28} {'time':>9}   {'test accuracy':>13}")
            shown = "" if step.accuracy is None else f"{step.accuracy:.3f}"
            click.echo(f"{step.step:<28} {duration(step.seconds):>9}   {shown:>13}   {step.result}")
        self.steps.append(step)
        return result


def write_digits(folder: Path) -> str:
    """Write scikit-learn's 1,797 handwritten digits as PNG files, a folder a class in a folder a split.

    They are those of the UCI repository's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998).

    Returns:
        The folder.
    """
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits, generator = load_digits(), np.random.default_rng(0)
    for label in range(10):
        # Shuffled: they come writer by writer.
        rows, start = generator.permutation(np.flatnonzero(digits.target == label)), 0
        for split, count in SPLITS:
            chosen = rows[start:] if count is None else rows[start : start + count]
            start += len(chosen)
            place = folder / split / str(label)
            place.mkdir(parents=True, exist_ok=True)
            for row in chosen:
                # From 0 to 16 in the dataset; four times as large, as a scan would be.
                image = Image.fromarray((digits.images[row] * 255 / 16).round().astype("uint8"))
                image = image.resize((DIGITS_SIZE, DIGITS_SIZE), Image.Resampling.BICUBIC)
                image.save(place / f"{row:04}.png")
    return str(folder)


def train_from_scratch(features: FeatureSet, seconds: float) -> tuple[float, int]:
    """Train the base from random weights, all of it, in the plain Keras way, until the time is up.

    Args:
        features: whose images, labels, splits and image size.
        seconds: the time.

    Returns:
        Test accuracy of the epoch that was best on the validation images, and how many epochs there were.
    """
    import keras
    import numpy as np

    from permafrost.training.loop import Batches, predict_examples
    from permafrost.trunk.bases import load_base
    from permafrost.trunk.preprocessing import preprocess

    keras.utils.set_random_seed(0)
    base = load_base(BASE, weights="none", image_size=features.spec.image_size)
    pixels = keras.Input((*base.image_size, 3))
    x = keras.layers.GlobalAveragePooling2D()(base.model(preprocess(pixels, base.preprocessing)))
    model = keras.Model(pixels, keras.layers.Dense(len(features.class_names), activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    watched = "validation" if len(features.rows("validation")) else "train"
    end = time.perf_counter() + seconds

    def stop_in_time(*_: Any) -> None:
        model.stop_training = time.perf_counter() >= end

    best = keras.callbacks.EarlyStopping("val_loss", patience=10**9, restore_best_weights=True)
    history = model.fit(
        Batches(_images(features, "train"), BATCH_SIZE, seed=0),
        validation_data=Batches(_images(features, watched), BATCH_SIZE, seed=None),
        epochs=10**6,
        verbose=0,
        callbacks=[best, keras.callbacks.LambdaCallback(on_epoch_end=stop_in_time)],
    ).history
    probabilities = predict_examples(model, _images(features, "test"))
    return float(np.mean(probabilities.argmax(axis=1) == features.labels("test"))), len(history["loss"])


def _images(features: FeatureSet, split: str) -> Examples:
    """Images as the base sees them, read from their files whenever they are asked for, as in the tutorials."""
    import numpy as np

    from permafrost.training.loop import Examples

    rows = features.rows(split)

    def load(numbers: np.ndarray) -> np.ndarray:
        pixels = [features.load_image(int(row)).pixels(features.spec.image_size) for row in rows[numbers]]
        return np.stack(pixels).astype(np.float32)

    return Examples(features.labels(split), load)


def _extracted(features: FeatureSet) -> str:
    summary = features.summary or {}
    return f"{summary['computed']:,} images computed, {summary['cached']:,} cached"
