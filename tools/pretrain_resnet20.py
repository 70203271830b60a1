"""Train the bundled base: ResNet-20 on CIFAR-10, from nothing to the weights that come with the package.

    .venv/bin/python tools/pretrain_resnet20.py --data cifar10.h5 --work build/resnet20

An hour or two on two cores; minutes on a GPU (`KERAS_BACKEND=jax`). Stopped or killed, the same command goes on from
the last whole epoch. The recipe: stochastic gradient descent with Nesterov momentum and decoupled weight decay; a
warm-up and a cosine down to 0; pictures flipped and shifted by up to 4 pixels (He et al. 2015, section 4.2). Most
epochs see crops of 24 pixels, which cost two fifths, and the last ones whole pictures. The test pictures are looked at
once, when training has ended.

The data file has JPEG bytes end to end: `train/bytes`, `train/offsets`, `train/labels`, and the same for `test`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from permafrost.pictures import decode
from permafrost.resnet20 import resnet20

SEED = 20


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the base is trained.

    Attributes:
        epochs: in all.
        small_epochs: how many of them, the first, see crops of `small_size` pixels, from anywhere in the picture.
        small_size: height and width of those.
        batch_size: pictures a step.
        peak_rate: the learning rate at the end of the warm-up.
        warmup_epochs: how long it takes to rise.
        momentum: of stochastic gradient descent.
        weight_decay: of the kernels.
        shift: pixels by which whole pictures are shifted at most.
    """

    epochs: int = 24
    small_epochs: int = 20
    small_size: int = 24
    batch_size: int = 128
    peak_rate: float = 0.2
    warmup_epochs: int = 3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    shift: int = 4


def main() -> None:
    """Train, and leave the weights and a report beside each other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as described above")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for the checkpoint, the weights and the report"
    )
    parser.add_argument("--epochs", type=int, default=Recipe.epochs, help="epochs in all (default: %(default)s)")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(epochs=options.epochs)
    train_pixels, train_labels = read_pictures(options.data, "train")
    model = train(train_pixels, train_labels, recipe, options.work)
    test_pixels, test_labels = read_pictures(options.data, "test")
    accuracy = evaluate(model, test_pixels, test_labels)
    print(f"test accuracy {accuracy:.4f}")
    weights = options.work / "resnet20_cifar10.weights.h5"
    keras.Model(model.inputs, model.outputs).save_weights(weights)  # Without the optimizer's state.
    report = {"recipe": dataclasses.asdict(recipe), "seed": SEED, "test_accuracy": accuracy, "keras": keras.__version__}
    (options.work / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(weights)


def read_pictures(path: Path, split: str, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The pictures of a split, or the first `count` of them.

    Returns:
        (n, 32, 32, 3) uint8, and (n,) int64.
    """
    with h5py.File(path) as file:
        data = file[f"{split}/bytes"][...].tobytes()
        edges = file[f"{split}/offsets"][...]
        labels = file[f"{split}/labels"][:count].astype(np.int64)
    return np.stack([decode(data[edges[i] : edges[i + 1]]) for i in range(len(labels))]), labels


def scaled(pixels: np.ndarray) -> np.ndarray:
    """Pixels, 0 to 255, by the preprocessing rule `tf`: float32, -1 to 1."""
    return pixels.astype(np.float32) / 127.5 - 1.0


class Epoch(keras.utils.PyDataset):
    """One epoch's pictures, shuffled, flipped and shifted by a generator of its own: the same after a restart.

    Args:
        pixels: (n, 32, 32, 3) uint8.
        labels: (n,) int64.
        recipe: how.
        epoch: its number from 0.
    """

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, recipe: Recipe, epoch: int) -> None:
        super().__init__()
        self._pixels, self._labels, self._recipe = pixels, labels, recipe
        small = epoch < recipe.small_epochs
        self._size = recipe.small_size if small else pixels.shape[1]
        self._around = 0 if small else recipe.shift
        generator = np.random.default_rng([SEED, epoch])
        count = len(labels)
        self._order = generator.permutation(count)
        self._flips = generator.random(count) < 0.5
        room = pixels.shape[1] - self._size + 2 * self._around
        self._corners = generator.integers(0, room + 1, (count, 2))

    def __len__(self) -> int:
        return len(self._labels) // self._recipe.batch_size

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        at = slice(index * self._recipe.batch_size, (index + 1) * self._recipe.batch_size)
        rows = self._order[at]
        edge = (self._around, self._around)
        padded = np.pad(self._pixels[rows], ((0, 0), edge, edge, (0, 0)), constant_values=128)
        # Every crop of every picture as a view; then one for each.
        crops = np.lib.stride_tricks.sliding_window_view(padded, (self._size, self._size), axis=(1, 2))
        top, left = self._corners[at].T
        chosen = crops[np.arange(len(rows)), top, left].transpose(0, 2, 3, 1)
        flipped = np.where(self._flips[at][:, None, None, None], chosen[:, :, ::-1], chosen)
        return scaled(flipped), self._labels[rows]


def new_model(recipe: Recipe, steps: int) -> keras.Model:
    """The network with its classifier, compiled; `steps` an epoch."""
    keras.utils.set_random_seed(SEED)
    model = resnet20(include_top=True)
    warm = recipe.warmup_epochs * steps
    schedule = keras.optimizers.schedules.CosineDecay(
        recipe.peak_rate / 20, recipe.epochs * steps - warm, warmup_target=recipe.peak_rate, warmup_steps=warm
    )
    optimizer = keras.optimizers.SGD(schedule, recipe.momentum, nesterov=True, weight_decay=recipe.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    # Compiled by XLA, the many cheap operations of batch normalization are fused: twice as fast on two cores.
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=True)
    return model


def train(
    pixels: np.ndarray, labels: np.ndarray, recipe: Recipe, work: Path, *, last: int | None = None
) -> keras.Model:
    """Train for all epochs that the checkpoint in `work` does not have yet, or for those before `last`."""
    steps = len(labels) // recipe.batch_size
    checkpoint = work / "checkpoint.keras"
    if checkpoint.exists():
        model: Any = keras.saving.load_model(checkpoint)
    else:
        model = new_model(recipe, steps)
    done = int(keras.ops.convert_to_numpy(model.optimizer.iterations)) // steps
    for epoch in range(done, recipe.epochs if last is None else last):
        started = time.perf_counter()
        history = model.fit(Epoch(pixels, labels, recipe, epoch), verbose=0, shuffle=False).history
        seconds = time.perf_counter() - started
        model.save(work / "checkpoint.new.keras")
        os.replace(work / "checkpoint.new.keras", checkpoint)
        figures = ", ".join(f"{name} {values[-1]:.4f}" for name, values in history.items())
        print(f"epoch {epoch + 1} of {recipe.epochs}: {figures}, {seconds:.0f} s", flush=True)
    return model


def evaluate(model: keras.Model, pixels: np.ndarray, labels: np.ndarray) -> float:
    """The share of pictures whose label is right."""
    guesses = model.predict(scaled(pixels), batch_size=500, verbose=0).argmax(axis=1)
    return float(np.mean(guesses == labels))


if __name__ == "__main__":
    main()
