"""Train a Keras model: batches, the loop with early stopping and checkpoints, and predictions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np

from permafrost.engines.device import tensorflow_on_processor
from permafrost.engines.engine import padded
from permafrost.errors import OptionError
from permafrost.training.callbacks import (
    BestEpoch,
    Checkpoint,
    EpochCallback,
    ProgressBar,
    Weights,
    has_diverged,
    is_better,
)
from permafrost.training.conv_gradient import quick_gradients
from permafrost.training.metrics import scores
from permafrost.training.optimizers import make_optimizer
from permafrost.training.options import TrainingOptions
from permafrost.training.random_layers import frozen_layers_keep_all, seed_random_layers

MIN_XLA_UPDATES: Final = 10**9
"""Weights times steps from which training is compiled with XLA: it saves 6 ns per weight and step, and takes 5 s."""

CONVOLUTIONS: Final = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
    keras.layers.Conv2DTranspose,
)


@dataclasses.dataclass(frozen=True)
class Examples:
    """Labelled images or features, addressed by number.

    Attributes:
        labels: (n,) int64.
        load: takes (k,) int64 indices and returns the model's input for them: (k, ...), or a tuple of such arrays.
        of_epoch: takes an epoch's number, from 0, and returns the function that replaces `load` in it; None to always
            use `load`.
        order: draws the order (n,) of one pass over the examples, when the pass begins; None for a random permutation.
    """

    labels: np.ndarray
    load: Callable[[np.ndarray], Any]
    of_epoch: Callable[[int], Callable[[np.ndarray], Any]] | None = None
    order: Callable[[np.random.Generator], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.labels)


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of examples for `keras.Model.fit`, in an order determined by the seed and the epoch.

    Args:
        examples: the examples.
        batch_size: examples per batch; the last batch of a pass may be smaller.
        seed: seed of the order; None keeps the order of the examples.
        steps: batches per epoch, over several passes if needed; None for one pass over the examples.
        classes: the number of classes for one-hot labels (k, classes) float32; None for class indices.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        *,
        seed: int | None,
        steps: int | None = None,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self._examples, self._batch_size, self._classes, self._seed = examples, batch_size, classes, seed
        self._per_pass = math.ceil(len(examples) / batch_size)
        self._steps = steps or self._per_pass
        self.begin(0)

    def __len__(self) -> int:
        return self._steps

    @property
    def labels(self) -> np.ndarray:
        """The labels of all examples, (n,) int64."""
        return self._examples.labels

    def __getitem__(self, index: int) -> tuple[Any, np.ndarray]:
        number, place = divmod(index, self._per_pass)
        rows = self._order(number)[place * self._batch_size : (place + 1) * self._batch_size]
        labels = self._examples.labels[rows]
        return self._load(rows), labels if self._classes is None else np.eye(self._classes, dtype=np.float32)[labels]

    def begin(self, epoch: int) -> None:
        """Switch to the batches of an epoch, counted from 0.

        A callback calls this, because Keras also calls a dataset's own `on_epoch_end` before the first epoch.
        """
        of_epoch = self._examples.of_epoch
        self._load = self._examples.load if of_epoch is None else of_epoch(epoch)
        # The epoch's number is part of the seed, so that resumed training sees the same batches.
        self._random = None if self._seed is None else np.random.default_rng((self._seed, epoch))
        self._orders: list[np.ndarray] = []

    def _order(self, number: int) -> np.ndarray:
        """Return the order (n,) of a pass. It is drawn at the first batch, because readers follow the latest order."""
        count = len(self._examples)
        draw = self._examples.order or (lambda random: random.permutation(count))
        while len(self._orders) <= number:
            self._orders.append(np.arange(count) if self._random is None else draw(self._random))
        return self._orders[number]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The result of `train`.

    Attributes:
        history: one row per epoch: `epoch` (from 1), `loss`, `accuracy` and, with validation, `val_loss` and
            `val_accuracy`.
        best_epoch: the epoch whose weights the model has; None if no epoch was an improvement.
        best_value: the monitored metric of these weights; `start_value` if no epoch was an improvement.
        start_value: the monitored metric before training; None unless it was measured.
    """

    history: list[dict[str, float]]
    best_epoch: int | None
    best_value: float | None
    start_value: float | None

    @property
    def improved(self) -> bool:
        """Whether an epoch improved the monitored metric by more than `min_delta`."""
        return self.best_epoch is not None

    @property
    def diverged(self) -> bool:
        """Whether training stopped because a loss was not finite."""
        return any(has_diverged(row) for row in self.history)


def train(
    model: keras.Model,
    training: Examples,
    validation: Examples | None,
    options: TrainingOptions,
    *,
    progress: bool = True,
    never_worse: bool = False,
    rates: Sequence[float] | None = None,
    checkpoint: Path | None = None,
) -> TrainingResult:
    """Train a classifier, and leave it with the weights of its best epoch.

    Args:
        model: the model; its outputs are probabilities (n, classes).
        training: the examples to train on.
        validation: the examples to evaluate after each epoch, without label smoothing and class weights; None for none.
        options: the training options.
        progress: whether to draw a progress bar on a terminal or in a notebook.
        never_worse: measure the monitored metric before training, too, and leave the model with the weights that it
            started from if training does not improve on it.
        rates: the learning rate factor of each trainable variable of the model; None for 1.
        checkpoint: the file that the state is saved to after each epoch, and that training resumes from.

    Raises:
        OptionError: a validation metric is monitored without validation data.
    """
    require_validation(validation is not None, options)
    seed_random_layers(model, options.seed)
    batches = _compile(model, training, options, rates)
    monitored = validation if validation is not None and options.monitors_validation else training
    start_value = _monitored(model, monitored, options) if never_worse else None
    # Training metrics of an epoch are means over its steps, so they do not compare with a metric before training.
    best = BestEpoch(options, baseline=start_value if monitored is validation else None)
    weights = Weights(model, keep_start=never_worse)
    saved = Checkpoint(checkpoint, model, best, weights)
    history = saved.resume()
    if not best.ended:
        epochs = EpochCallback(
            best,
            weights,
            begin=batches.begin,
            validate=lambda: _validate(model, validation),
            save=saved.save,
            history=history,
        )
        bar = ProgressBar(options.epochs, len(history), progress)
        _fit(model, batches, options, done=len(history), callbacks=[epochs, bar])
    return _finish(model, training, options, best, weights, start_value, history)


def _finish(
    model: keras.Model,
    training: Examples,
    options: TrainingOptions,
    best: BestEpoch,
    weights: Weights,
    start_value: float | None,
    history: list[dict[str, float]],
) -> TrainingResult:
    """Leave the model with the weights of the best epoch, or of the start, and return the result.

    Args:
        model, training, options: as for `train`.
        best: the best epoch.
        weights: the weights of the best epoch and of the start.
        start_value: the monitored metric before training; None if the result may be worse.
        history: one row per epoch.
    """
    if weights.best is not None:
        weights.assign(weights.best)
    improved, value = best.epoch is not None, best.value
    if improved and start_value is not None and not options.monitors_validation:
        value = _monitored(model, training, options)
        improved = is_better(value, start_value, options)
    if start_value is not None and not improved:
        weights.assign(weights.start)
    return TrainingResult(
        history=history,
        best_epoch=best.epoch if improved else None,
        best_value=value if improved else start_value,
        start_value=start_value,
    )


def _compile(
    model: keras.Model, training: Examples, options: TrainingOptions, rates: Sequence[float] | None
) -> Batches:
    """Compile a model, and return its training batches."""
    smoothed = options.label_smoothing > 0
    batches = Batches(
        training,
        options.batch_size,
        seed=options.seed,
        steps=options.steps_per_epoch,
        classes=int(model.outputs[0].shape[-1]) if smoothed else None,
    )
    model.compile(
        optimizer=make_optimizer(
            options,
            steps_per_epoch=len(batches),
            rates=list(zip(model.trainable_variables, rates, strict=True)) if rates else (),
        ),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=options.label_smoothing)
        if smoothed
        else "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=True if _worth_compiling(model, options.epochs * len(batches)) else "auto",
    )
    return batches


def _fit(model: keras.Model, batches: Batches, options: TrainingOptions, *, done: int, callbacks: list[Any]) -> None:
    """Run the epochs after the first `done` ones."""
    balanced = options.class_weight == "balanced"
    with quick_gradients(model), frozen_layers_keep_all(model):
        model.fit(
            batches,
            epochs=options.epochs,
            initial_epoch=done,
            class_weight=class_weights(batches.labels, int(model.outputs[0].shape[-1])) if balanced else None,
            callbacks=callbacks,
            shuffle=False,
            verbose=0,
        )


def _monitored(model: keras.Model, examples: Examples, options: TrainingOptions) -> float:
    """Return the monitored metric of a model on examples."""
    found = scores(examples.labels, predict_examples(model, examples))
    return found["accuracy" if options.monitor.endswith("accuracy") else "log_loss"]


def _validate(model: keras.Model, validation: Examples | None) -> dict[str, float]:
    if validation is None:
        return {}
    found = scores(validation.labels, predict_examples(model, validation))
    return {"val_accuracy": found["accuracy"], "val_loss": found["log_loss"]}


def _worth_compiling(model: keras.Model, steps: int) -> bool:
    """Return whether to compile training with XLA on a CPU, where Keras does not by default.

    An optimizer with moments passes over each weight a dozen times per step; XLA fuses these passes. With 38 million
    weights and batches of 20, a step of RMSprop takes 158 ms instead of 400. Compiling takes seconds, twice if the last
    batch of an epoch is smaller, and convolutions become slower.
    """
    if not tensorflow_on_processor() or any(isinstance(layer, CONVOLUTIONS) for layer in model.layers):
        return False
    weights = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    return bool(weights * steps >= MIN_XLA_UPDATES)


def require_validation(given: bool, options: TrainingOptions) -> None:
    """Require validation images if a validation metric is monitored.

    Raises:
        OptionError: a validation metric is monitored without validation images.
    """
    if options.monitors_validation and not given:
        raise OptionError(
            f"cannot monitor {options.monitor}: there are no validation images",
            expected="validation images, or --monitor loss",
        )


def class_weights(labels: np.ndarray, class_count: int) -> dict[int, float]:
    """Return weights that give all classes equal influence: n / (classes * images of the class)."""
    counts = np.bincount(labels, minlength=class_count)
    return {label: float(len(labels) / (class_count * count)) for label, count in enumerate(counts) if count}


def predict_examples(model: keras.Model, examples: Examples, *, batch_size: int = 64) -> np.ndarray:
    """Return the model's outputs for all examples, (n, classes) float32."""
    chunks = [np.empty((0, model.outputs[0].shape[-1]), np.float32)]
    for start in range(0, len(examples), batch_size):
        rows = np.arange(start, min(start + batch_size, len(examples)))
        chunks.append(_predict_batch(model, examples.load(rows), batch_size))
    return np.concatenate(chunks)


def predict_arrays(model: keras.Model, inputs: Any, *, batch_size: int = 64) -> np.ndarray:
    """Return the model's outputs, (n, classes) float32, for its input (n, ...), or a tuple of such arrays."""

    def load(rows: np.ndarray) -> Any:
        return tuple(array[rows] for array in inputs) if isinstance(inputs, tuple) else inputs[rows]

    unlabelled = np.zeros(len(inputs[0] if isinstance(inputs, tuple) else inputs), np.int64)
    return predict_examples(model, Examples(unlabelled, load), batch_size=batch_size)


def _predict_batch(model: keras.Model, loaded: Any, batch_size: int) -> np.ndarray:
    """Return a model's outputs for one batch, padded so that the backend compiles for one size only."""
    arrays = loaded if isinstance(loaded, tuple) else (loaded,)
    batches = tuple(padded(array.astype(np.float32, copy=False), batch_size) for array in arrays)
    outputs = model.predict_on_batch(batches if isinstance(loaded, tuple) else batches[0])
    return np.asarray(outputs, np.float32)[: len(arrays[0])]
