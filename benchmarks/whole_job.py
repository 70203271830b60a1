"""(c) The whole job is faster than the tutorials' way, which runs the frozen base in every epoch.

Two jobs of well-known tutorials: InceptionV3 to `mixed7` at 150 px with a dense head (1,024 units, dropout 0.2),
10 epochs; VGG16 at 150 px with a dense head (256 units), 20 epochs, with random weights, for the time alone. The
tutorials' way: one model, the frozen base with the head on top, `fit` on `image_dataset_from_directory` with
validation after each epoch. Permafrost: `extract`, then `fit_head` with the same head, optimizer and number of epochs;
and average-pooled features with a logistic head. Everything counts: building, converting, exporting, test accuracy.

All epochs of the tutorials' way after the first, which compiles, take about the same time. So only `--epochs-run` of
them are run, and the rest is extrapolated: the first, and (epochs - 1) times the mean of the others.

    python benchmarks/whole_job.py --job inception_v3 --train 1000 --validation 400 --epochs-run 3 --rounds 1
    python benchmarks/whole_job.py --job vgg16 --train 300 --validation 100 --epochs-run 2 --rounds 1
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import keras

import permafrost as pf

JOBS: dict[str, dict[str, Any]] = {
    "inception_v3": {"hidden": 1024, "dropout": 0.2, "epochs": 10, "optimizer": "rmsprop", "learning_rate": 1e-4},
    "vgg16": {"hidden": 256, "dropout": 0.0, "epochs": 20, "optimizer": "rmsprop", "learning_rate": 2e-5},
}


class EpochTimes(keras.callbacks.Callback):
    """Record when each epoch ends."""

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        self.ends = [time.perf_counter()]

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        self.ends.append(time.perf_counter())


def data_folder(sizes: dict[str, int], folder: Path) -> Path:
    """Write photographs to the folders `train`, `validation` and `test`; real ones come from the same split."""
    for split, count in sizes.items():
        common.photographs(count, folder / split, split=split)
    return folder


def tutorial_way(setting: common.Setting, job: dict[str, Any], data: Path, epochs_run: int) -> tuple[float, float]:
    """Return seconds for the job with all its epochs, and test accuracy after those that were run."""
    started = time.perf_counter()
    base, preprocess = setting.by_keras()
    inputs = keras.Input((setting.size, setting.size, 3))
    x = keras.layers.Flatten()(base(preprocess(inputs), training=False))
    x = keras.layers.Dense(job["hidden"], activation="relu")(x)
    x = keras.layers.Dropout(job["dropout"])(x)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
    optimizer = keras.optimizers.get(
        {"class_name": job["optimizer"], "config": {"learning_rate": job["learning_rate"]}}
    )
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"])
    train, validation, test = (
        keras.utils.image_dataset_from_directory(
            data / split, image_size=(setting.size, setting.size), batch_size=32, label_mode="binary", verbose=False
        ).prefetch(-1)
        for split in ("train", "validation", "test")
    )
    times = EpochTimes()
    model.fit(train, validation_data=validation, epochs=epochs_run, verbose=0, callbacks=[times])
    trained = time.perf_counter()
    accuracy = float(model.evaluate(test, verbose=0)[1])
    tested = time.perf_counter() - trained
    first, rest = times.ends[1] - times.ends[0], (times.ends[-1] - times.ends[1]) / max(1, epochs_run - 1)
    print(f"  the tutorials' way: first epoch {first:.1f} s, then {rest:.1f} s each; accuracy {accuracy:.4f}")
    return (times.ends[0] - started) + first + (job["epochs"] - 1) * rest + tested, accuracy


def permafrost_way(
    setting: common.Setting, data: Path, place: Path, pool: str, head: dict[str, Any]
) -> tuple[float, float]:
    """Return seconds for the job, and test accuracy."""
    started = time.perf_counter()
    features = pf.extract(data, **setting.of_extract(), pool=pool, out=place / "set.h5", progress=False)
    extracted = time.perf_counter()
    run = pf.fit_head(features, out=place / "run", progress=False, **head)
    seconds = time.perf_counter() - started
    accuracy = run.metrics["test"]["accuracy"]
    print(
        f"  permafrost, {head['head']}: extract {extracted - started:.1f} s of {seconds:.1f}; accuracy {accuracy:.4f}"
    )
    return seconds, accuracy


def main() -> None:
    given = common.arguments(__doc__, job=list(JOBS), train=1000, validation=400, test=600, epochs_run=3, rounds=1)
    setting, job = common.SETTINGS[given.job], JOBS[given.job]
    same = {"head": "dense", "hidden": (job["hidden"],), "patience": 0, "batch_size": 32}
    same |= {name: job[name] for name in ("dropout", "epochs", "optimizer", "learning_rate")}
    common.show_machine()
    sizes = {"train": given.train, "validation": given.validation, "test": given.test}
    print(f"{setting.base}, {setting.size} px, {sizes}, {job['epochs']} epochs, of which {given.epochs_run} are run")
    accuracies: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        data = data_folder(sizes, Path(scratch, "data"))

        def side(name: str, work: Any) -> Any:
            def run() -> float:
                seconds, accuracy = work(Path(tempfile.mkdtemp(dir=scratch)))
                accuracies.setdefault(name, []).append(accuracy)
                return seconds

            return run

        sides = {
            "tutorials' way": lambda _: tutorial_way(setting, job, data, given.epochs_run),
            "same head": lambda place: permafrost_way(setting, data, place, "none", same),
            "pooled logistic": lambda place: permafrost_way(setting, data, place, "avg", {"head": "logistic"}),
        }
        seconds = common.take_turns({name: side(name, work) for name, work in sides.items()}, given.rounds)
        shutil.rmtree(data)
    for name, values in seconds.items():
        print(f"{name}: {common.spread(values, '.1f')} s, test accuracy {common.spread(accuracies[name], '.4f')}")
    for name in ("same head", "pooled logistic"):
        found = common.ratios(seconds["tutorials' way"], seconds[name])
        print(f"ratio, {name}: {common.spread(found)}")


if __name__ == "__main__":
    main()
