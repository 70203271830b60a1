"""Work between epochs: validation, the choice of the best epoch, checkpoints and a progress bar."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np

from permafrost.progress import progress_bar
from permafrost.training.checkpoint import State, load_state, save_state
from permafrost.training.options import TrainingOptions

Row = dict[str, float]

_SAVED: Final = ("epoch", "value", "waited", "ended")
"""The fields of `BestEpoch` that a checkpoint holds."""


@dataclasses.dataclass
class BestEpoch:
    """The best epoch so far, by the monitored metric, and whether training should stop.

    Attributes:
        options: the training options; only `monitor`, `min_delta`, `patience` and `epochs` matter.
        baseline: the metric before training; an epoch has to improve on it. None if any epoch is an improvement.
        epoch: the number of the best epoch, from 1; None while no epoch is an improvement.
        value: the metric of the best epoch; the baseline while there is no best epoch.
        waited: epochs since the best one.
        ended: whether training has ended: after its last epoch, for lack of improvement, or because it diverged.
    """

    options: TrainingOptions
    baseline: float | None = None
    epoch: int | None = None
    value: float | None = None
    waited: int = 0
    ended: bool = False

    def __post_init__(self) -> None:
        if self.value is None:
            self.value = self.baseline

    def update(self, row: Row) -> bool:
        """Take an epoch's metrics into account; return whether it is the best so far."""
        best = is_better(row[self.options.monitor], self.value, self.options)
        self.waited = 0 if best else self.waited + 1
        if best:
            self.epoch, self.value = int(row["epoch"]), row[self.options.monitor]
        patience = self.options.patience or self.options.epochs
        self.ended = has_diverged(row) or self.waited >= patience or row["epoch"] >= self.options.epochs
        return best


def has_diverged(row: Row) -> bool:
    """Return whether the training or validation loss of an epoch is not finite."""
    return not all(math.isfinite(row[name]) for name in ("loss", "val_loss") if name in row)


def is_better(value: float, than: float | None, options: TrainingOptions) -> bool:
    """Return whether a value of the monitored metric improves on another by more than `min_delta`.

    Args:
        value: the new value; NaN and infinite losses improve on nothing.
        than: the value to compare with; None if there is none yet.
        options: the training options; `monitor` determines which direction is better.
    """
    if not math.isfinite(value):
        return False
    if than is None:
        return True
    return (value - than if options.monitor.endswith("accuracy") else than - value) > options.min_delta


class Weights:
    """The variables of a model that training changes, and copies of their values.

    Args:
        model: the model, compiled.
        keep_start: whether to copy the values before training.

    Attributes:
        start: the values before training, if they are copied.
        best: the values of the best epoch; None before the first one.
    """

    def __init__(self, model: keras.Model, *, keep_start: bool) -> None:
        self._variables = changing_variables(model)
        self.start = self.values() if keep_start else []
        self.best: list[np.ndarray] | None = None

    def values(self) -> list[np.ndarray]:
        """Return copies of the current values."""
        return values_of(self._variables)

    def assign(self, values: Sequence[np.ndarray]) -> None:
        """Set the variables to the given values."""
        assign(self._variables, values)


class EpochCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Validates after each epoch, copies the best weights, stops early and calls `save`.

    Args:
        begin: called with the number of each epoch, from 0, as it begins.
        best: decides which epoch is the best.
        weights: receives the best weights.
        validate: returns validation metrics of the model.
        save: called with the history after each epoch.
        history: the rows of the epochs that are already done; a row is appended per epoch.
    """

    def __init__(
        self,
        best: BestEpoch,
        weights: Weights,
        *,
        begin: Callable[[int], None],
        validate: Callable[[], Row],
        save: Callable[[list[Row]], None],
        history: list[Row],
    ) -> None:
        super().__init__()
        self._best, self._weights, self._history = best, weights, history
        self._begin, self._validate, self._save = begin, validate, save

    def on_epoch_begin(self, epoch: int, logs: Row | None = None) -> None:  # noqa: ARG002 - Keras passes it
        """Begin the epoch."""
        self._begin(epoch)

    def on_train_batch_end(self, batch: int, logs: Row | None = None) -> None:  # noqa: ARG002 - Keras passes it
        """Stop when the loss is not finite."""
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Row | None = None) -> None:
        """Validate, compare with the best epoch, and save."""
        row = {"epoch": epoch + 1} | {key: float(value) for key, value in (logs or {}).items()} | self._validate()
        self._history.append(row)
        if self._best.update(row):
            self._weights.best = self._weights.values()
        self.model.stop_training = self._best.ended
        self._save(self._history)


class Checkpoint:
    """Saves the training state after each epoch, and resumes from it.

    Args:
        path: the file; None saves nothing.
        model: the model, compiled.
        best: the best epoch, which is saved and restored.
        weights: the variables that training changes.
    """

    def __init__(self, path: Path | None, model: keras.Model, best: BestEpoch, weights: Weights) -> None:
        self._path, self._model, self._best, self._weights = path, model, best, weights

    def resume(self) -> list[Row]:
        """Restore the saved state, if there is one; return the history up to it."""
        state = load_state(self._path) if self._path else None
        if state is None:
            return []
        self._model.optimizer.build(self._model.trainable_variables)
        self._weights.assign(state.weights)
        assign(self._model.optimizer.variables, state.optimizer)
        self._weights.best = state.best
        for name in _SAVED:
            setattr(self._best, name, state.about[name])
        history: list[Row] = state.about["history"]
        return history

    def save(self, history: list[Row]) -> None:
        """Save the state at the end of an epoch."""
        if not self._path:
            return
        about = {name: getattr(self._best, name) for name in _SAVED}
        state = State(
            weights=self._weights.values(),
            optimizer=values_of(self._model.optimizer.variables),
            best=self._weights.best,
            about=about | {"history": history},
        )
        save_state(self._path, state)


class ProgressBar(keras.callbacks.Callback):  # type: ignore[misc]
    """A progress bar over epochs, on a terminal or in a notebook."""

    def __init__(self, epochs: int, done: int, shown: bool) -> None:
        super().__init__()
        self._bar = progress_bar(total=epochs, initial=done, unit=" epochs", shown=shown)

    def on_epoch_end(self, epoch: int, logs: Row | None = None) -> None:  # noqa: ARG002 - Keras passes it
        """Advance by one epoch and show its metrics."""
        self._bar.set_postfix({key: f"{value:.4f}" for key, value in (logs or {}).items()}, refresh=False)
        self._bar.update()

    def on_train_end(self, logs: Row | None = None) -> None:  # noqa: ARG002 - Keras passes it
        """Remove the bar."""
        self._bar.close()


def changing_variables(model: keras.Model) -> list[Any]:
    """Return the variables that training can change: those of trainable layers, their random generators included."""
    found: dict[int, Any] = {}
    for layer in model.layers:
        if layer.trainable:
            found |= {id(variable): variable for variable in layer.variables}
    return list(found.values())


def values_of(variables: Sequence[Any]) -> list[np.ndarray]:
    """Return copies of the variables' values."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def assign(variables: Sequence[Any], values: Sequence[np.ndarray]) -> None:
    """Set variables to values, in order."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
