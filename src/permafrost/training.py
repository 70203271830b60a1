"""Training a Keras model: options, batches, early stopping, history. Heads and fine-tuning share it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import keras
import numpy as np

from permafrost.engines.keras_engine import KerasEngine
from permafrost.errors import OptionError

if TYPE_CHECKING:
    from tqdm import tqdm

OPTIMIZERS: Final = ("adam", "adamw", "nadam", "rmsprop", "sgd")
MONITORS: Final = ("val_loss", "val_accuracy", "loss", "accuracy")
CLASS_WEIGHTS: Final = ("none", "balanced")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How a Keras model is trained.

    Attributes:
        epochs: at most so many passes over the training pictures.
        batch_size: pictures a step.
        steps_per_epoch: steps after which an epoch ends; None for a whole pass.
        optimizer: one of `OPTIMIZERS`.
        learning_rate: of the optimizer.
        momentum: of `sgd` and `rmsprop`; others have none.
        monitor: what early stopping watches, one of `MONITORS`.
        patience: epochs without an improvement after which training stops; 0 never stops early. Either way the weights
            of the best epoch are kept.
        min_delta: what counts as an improvement.
        class_weight: `balanced` weighs each class by the inverse of its share; `none` weighs pictures equally.
        seed: of initial weights, dropout and the order of the pictures.
    """

    epochs: int = 30
    batch_size: int = 32
    steps_per_epoch: int | None = None
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    momentum: float = 0.0
    monitor: str = "val_loss"
    patience: int = 5
    min_delta: float = 0.0
    class_weight: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("optimizer", OPTIMIZERS), ("monitor", MONITORS), ("class_weight", CLASS_WEIGHTS)):
            if getattr(self, name) not in known:
                raise OptionError(f"unknown {name}", expected=", ".join(known), found=getattr(self, name))
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 0), ("min_delta", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise OptionError(f"{name} is too small", expected=f"{least} or more", found=getattr(self, name))
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise OptionError("steps_per_epoch is too small", expected="1 or more", found=self.steps_per_epoch)
        if not (math.isfinite(self.learning_rate) and self.learning_rate >= 0):
            raise OptionError("the learning rate is no rate", expected="0 or more", found=self.learning_rate)
        if not 0 <= self.momentum < 1:
            raise OptionError("momentum is out of range", expected="0 to less than 1", found=self.momentum)


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
