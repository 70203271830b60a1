"""Training a Keras model: batches, early stopping, history. Heads and fine-tuning share it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from permafrost.engines.keras_engine import KerasEngine
from permafrost.errors import OptionError
from permafrost.training_options import TrainingOptions

if TYPE_CHECKING:
    from tqdm import tqdm


@dataclasses.dataclass(frozen=True)
class Examples:
    """Pictures or features, by number, with labels.

    Attributes:
        labels: (n,) int64.
        load: given (k,) int64 indices, what a model takes for them, (k, ...) each.
    """

    labels: np.ndarray
    load: Callable[[np.ndarray], Any]

    def __len__(self) -> int:
        return len(self.labels)


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of examples for `keras.Model.fit`, in a new order each epoch that follows from the seed.

    Args:
        examples: what to give out.
        batch_size: examples a batch; the last one may be smaller.
        seed: of the order; None for the order of the examples.
        steps: batches an epoch, None for all.
    """

    def __init__(self, examples: Examples, batch_size: int, *, seed: int | None, steps: int | None = None) -> None:
        super().__init__()
        self._examples, self._batch_size, self._steps = examples, batch_size, steps
        self._random = None if seed is None else np.random.default_rng(seed)
        self._order = np.arange(len(examples))
        self.on_epoch_end()

    def __len__(self) -> int:
        batches = math.ceil(len(self._examples) / self._batch_size)
        return min(batches, self._steps) if self._steps else batches

    def __getitem__(self, index: int) -> tuple[Any, np.ndarray]:
        rows = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        return self._examples.load(rows), self._examples.labels[rows]

    def on_epoch_end(self) -> None:
        """Draw the next epoch's order."""
        if self._random is not None:
            self._order = self._random.permutation(len(self._examples))


def train(
    model: keras.Model,
    training: Examples,
    validation: Examples | None,
    options: TrainingOptions,
    *,
    class_count: int,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train `model`, whose outputs are probabilities, and leave it with the weights of its best epoch.

    Returns:
        For each epoch `epoch` (from 1), `loss`, `accuracy` and, with validation, `val_loss` and `val_accuracy`.

    Raises:
        OptionError: validation is to be watched, and there is none.
    """
    if validation is None and options.monitor.startswith("val_"):
        raise OptionError(
            f"nothing to watch {options.monitor} on: there are no validation pictures",
            expected="validation pictures, or --monitor loss",
        )
    model.compile(
        optimizer=_optimizer(options), loss="sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False
    )
    patience = options.patience or options.epochs
    history = model.fit(
        Batches(training, options.batch_size, seed=options.seed, steps=options.steps_per_epoch),
        validation_data=None if validation is None else Batches(validation, options.batch_size, seed=None),
        epochs=options.epochs,
        class_weight=class_weights(training.labels, class_count) if options.class_weight == "balanced" else None,
        callbacks=[
            keras.callbacks.EarlyStopping(
                monitor=options.monitor,
                patience=patience,
                min_delta=options.min_delta,
                restore_best_weights=True,
                mode="max" if options.monitor.endswith("accuracy") else "min",
            ),
            _Progress(options.epochs, progress),
        ],
        shuffle=False,
        verbose=0,
    )
    epochs = [dict(zip(history.history, values, strict=True)) for values in zip(*history.history.values(), strict=True)]
    return [
        {"epoch": number} | {key: float(value) for key, value in row.items()} for number, row in enumerate(epochs, 1)
    ]


def class_weights(labels: np.ndarray, class_count: int) -> dict[int, float]:
    """Weights that give each class the same say: n / (classes * pictures of the class)."""
    counts = np.bincount(labels, minlength=class_count)
    return {label: float(len(labels) / (class_count * count)) for label, count in enumerate(counts) if count}


def predict_examples(model: keras.Model, examples: Examples, *, batch_size: int = 64) -> np.ndarray:
    """The model's outputs for all examples, (n, classes) float32."""
    engine = KerasEngine(model, batch_size=batch_size)
    chunks = [np.empty((0, model.outputs[0].shape[-1]), np.float32)]
    for start in range(0, len(examples), batch_size):
        rows = np.arange(start, min(start + batch_size, len(examples)))
        chunks.append(engine(examples.load(rows))[0])
    return np.concatenate(chunks)


def _optimizer(options: TrainingOptions) -> keras.optimizers.Optimizer:
    settings: dict[str, Any] = {"learning_rate": options.learning_rate}
    if options.optimizer in ("sgd", "rmsprop"):
        settings["momentum"] = options.momentum
    return keras.optimizers.get({"class_name": options.optimizer, "config": settings})


class _Progress(keras.callbacks.Callback):  # type: ignore[misc]
    """A bar of epochs on standard error, where that is a terminal."""

    def __init__(self, epochs: int, shown: bool) -> None:
        from tqdm import tqdm

        super().__init__()
        self._bar: tqdm[None] = tqdm(total=epochs, unit=" epochs", disable=None if shown else True, leave=False)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002 - Keras passes it
        self._bar.set_postfix({key: f"{value:.4f}" for key, value in (logs or {}).items()}, refresh=False)
        self._bar.update()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002 - Keras passes it
        self._bar.close()
