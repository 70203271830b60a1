"""Training a Keras model: batches, early stopping, checkpoints, history. Heads and fine-tuning share it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import keras
import numpy as np

from permafrost.engines.device import tensorflow_on_processor
from permafrost.errors import OptionError
from permafrost.training.checkpoint import State, load_state, save_state
from permafrost.training.conv_gradient import quick_gradients
from permafrost.training.metrics import scores
from permafrost.training.optimizers import make_optimizer
from permafrost.training.options import TrainingOptions

if TYPE_CHECKING:
    from tqdm import tqdm


COMPILED_FROM: Final = 10**9
"""Weights times steps, from where on a head without convolutions is compiled: it saves 6 ns each, and takes 5 s."""


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images or features, by number, with labels.

    Attributes:
        labels: (n,) int64.
        load: given (k,) int64 indices, what a model takes for them: (k, ...), or a tuple of such arrays.
        of_epoch: given the number of an epoch, from 0, what it trains on in place of `load`; None for always the same.
        order: draws the order (n,) of a pass; any order is as likely as another if None.
    """

    labels: np.ndarray
    load: Callable[[np.ndarray], Any]
    of_epoch: Callable[[int], Callable[[np.ndarray], Any]] | None = None
    order: Callable[[np.random.Generator], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.labels)


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of examples for `keras.Model.fit`, in an order that follows from the seed and the epoch's number.

    Args:
        examples: what to give out.
        batch_size: examples a batch; the last one of a pass may be smaller.
        seed: of the order; None for the order of the examples.
        steps: batches an epoch, None for a whole pass; more than a pass begins another.
        classes: labels are given as shares of so many classes, (k, classes) float32; None gives them as they are.
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
        self._examples, self._batch_size, self._classes = examples, batch_size, classes
        self._seed = seed
        self._per_pass = math.ceil(len(examples) / batch_size)
        self._steps = steps or self._per_pass
        self.begin(0)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> tuple[Any, np.ndarray]:
        number, place = divmod(index, self._per_pass)
        rows = self._orders[number][place * self._batch_size : (place + 1) * self._batch_size]
        labels = self._examples.labels[rows]
        return self._load(rows), labels if self._classes is None else np.eye(self._classes, dtype=np.float32)[labels]

    def begin(self, epoch: int) -> None:
        """Give out the batches of this epoch from here on, the first being 0.

        Told by a callback: Keras calls a dataset's own `on_epoch_end` once before the first epoch, too.
        """
        count = len(self._examples)
        passes = math.ceil(self._steps / max(self._per_pass, 1))
        # From the epoch's number, so that training that goes on after a kill sees the same batches.
        random = None if self._seed is None else np.random.default_rng((self._seed, epoch))
        draw = self._examples.order or (lambda random: random.permutation(count))
        self._orders = [np.arange(count) if random is None else draw(random) for _ in range(passes)]
        of_epoch = self._examples.of_epoch
        self._load = self._examples.load if of_epoch is None else of_epoch(epoch)


def train(
    model: keras.Model,
    training: Examples,
    validation: Examples | None,
    options: TrainingOptions,
    *,
    class_count: int,
    progress: bool = True,
    baseline: float | None = None,
    rates: Sequence[float] | None = None,
    checkpoint: Path | None = None,
) -> list[dict[str, float]]:
    """Train `model`, whose outputs are probabilities, and leave it with the weights of its best epoch.

    Training that runs off to infinity ends in the epoch in which it does.

    Args:
        model: the model.
        training: what it is trained on.
        validation: what it is watched on, without label smoothing, class weights and views; or None.
        options: how.
        class_count: how many classes there are.
        progress: whether to draw a progress bar where standard error is a terminal.
        baseline: the figure of what is monitored before training; where no epoch beats it, the model is left with the
            weights that it started from.
        rates: for each of the model's trainable variables what its learning rate is multiplied by; all 1 if None.
        checkpoint: a file in which the state is kept at the end of each epoch, and from which training goes on.

    Returns:
        For each epoch `epoch` (from 1), `loss`, `accuracy` and, with validation, `val_loss` and `val_accuracy`.

    Raises:
        OptionError: validation is to be watched, and there is none.
    """
    require_watched(validation, options)
    smoothed = options.label_smoothing > 0
    batches = Batches(
        training,
        options.batch_size,
        seed=options.seed,
        steps=options.steps_per_epoch,
        classes=class_count if smoothed else None,
    )
    model.compile(
        optimizer=make_optimizer(options, steps_per_epoch=len(batches), rates=rates),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=options.label_smoothing)
        if smoothed
        else "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=True if _worth_compiling(model, options.epochs * len(batches)) else "auto",
    )
    watch = _Watch(options, batches, validation, baseline, checkpoint)
    watch.resume(model)
    if not watch.ended:
        with quick_gradients(model):
            model.fit(
                batches,
                epochs=options.epochs,
                initial_epoch=len(watch.history),
                class_weight=class_weights(training.labels, class_count)
                if options.class_weight == "balanced"
                else None,
                callbacks=[watch, _Progress(options.epochs, len(watch.history), progress)],
                shuffle=False,
                verbose=0,
            )
    watch.restore_best()
    return watch.history


def _worth_compiling(model: keras.Model, steps: int) -> bool:
    """Whether TensorFlow's XLA is to compile the training on a processor, where Keras leaves it alone.

    An optimizer that adapts itself goes over a weight and its moments a dozen times a step; XLA makes one pass of it.
    For 38 million weights on maps, in batches of 20, a step of RMSprop takes 158 ms in place of 400. To compile takes
    seconds, once more for an epoch's last, smaller batch, and convolutions become slower.
    """
    if not tensorflow_on_processor() or any(hasattr(layer, "convolution_op") for layer in model.layers):
        return False
    weights = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    return bool(weights * steps >= COMPILED_FROM)


def require_watched(validation: Examples | None, options: TrainingOptions) -> None:
    """Refuse to watch validation images where there are none.

    Raises:
        OptionError: there are none.
    """
    if validation is None and options.monitor.startswith("val_"):
        raise OptionError(
            f"nothing to watch {options.monitor} on: there are no validation images",
            expected="validation images, or --monitor loss",
        )


def class_weights(labels: np.ndarray, class_count: int) -> dict[int, float]:
    """Weights that give each class the same say: n / (classes * images of the class)."""
    counts = np.bincount(labels, minlength=class_count)
    return {label: float(len(labels) / (class_count * count)) for label, count in enumerate(counts) if count}


def predict_examples(model: keras.Model, examples: Examples, *, batch_size: int = 64) -> np.ndarray:
    """The model's outputs for all examples, (n, classes) float32."""
    chunks = [np.empty((0, model.outputs[0].shape[-1]), np.float32)]
    for start in range(0, len(examples), batch_size):
        rows = np.arange(start, min(start + batch_size, len(examples)))
        chunks.append(_predict_batch(model, examples.load(rows), batch_size))
    return np.concatenate(chunks)


def _predict_batch(model: keras.Model, loaded: Any, batch_size: int) -> np.ndarray:
    """A model's outputs for one batch, filled up, so that the backend compiles for one size alone."""
    arrays = loaded if isinstance(loaded, tuple) else (loaded,)
    count = len(arrays[0])
    filled = []
    for array in arrays:
        batch = np.zeros((batch_size, *array.shape[1:]), np.float32)
        batch[:count] = array
        filled.append(batch)
    outputs = model.predict_on_batch(tuple(filled) if isinstance(loaded, tuple) else filled[0])
    return np.asarray(outputs, np.float32)[:count]


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]
    """Watches the figure that decides: keeps the best weights, stops early, writes checkpoints.

    Attributes:
        history: a row for each epoch.
        ended: whether training has ended: after its last epoch, for want of improvement, or at infinity.
    """

    def __init__(
        self,
        options: TrainingOptions,
        batches: Batches,
        validation: Examples | None,
        baseline: float | None,
        checkpoint: Path | None,
    ) -> None:
        super().__init__()
        self._batches = batches
        self._options, self._validation, self._checkpoint = options, validation, checkpoint
        self._sign = 1 if options.monitor.endswith("accuracy") else -1
        self._best = -math.inf if baseline is None else self._sign * baseline
        self._waited = 0
        self._start: list[np.ndarray] | None = None if baseline is None else []
        self._best_weights: list[np.ndarray] | None = None
        self.history: list[dict[str, float]] = []
        self.ended = False

    def resume(self, model: keras.Model) -> None:
        """Go on from the checkpoint, where there is one."""
        self._changing = changing_variables(model)
        if self._start is not None:
            self._start = _values(self._changing)
        state = load_state(self._checkpoint) if self._checkpoint else None
        if state is None:
            return
        model.optimizer.build(model.trainable_variables)
        _assign(self._changing, state.weights)
        _assign(model.optimizer.variables, state.optimizer)
        self._best_weights = state.best
        about = state.about
        self.history, self._best = about["history"], about["best"]
        self._waited, self.ended = about["waited"], about["ended"]

    def restore_best(self) -> None:
        """Give the model the weights of the best epoch, or those that it started from where none beat them."""
        weights = self._best_weights or self._start
        if weights is not None:
            _assign(self._changing, weights)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Have the batches be those of the epoch."""
        self._batches.begin(epoch)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Stop where the loss is no number."""
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Look at the epoch's figures, and keep them."""
        row = {"epoch": epoch + 1} | {key: float(value) for key, value in (logs or {}).items()}
        if self._validation is not None:
            row |= self._validate()
        self.history.append(row)
        value = self._sign * row[self._options.monitor]
        self._waited += 1
        if value > self._best + self._options.min_delta:
            self._best, self._waited = value, 0
            self._best_weights = _values(self._changing)
        patience = self._options.patience or self._options.epochs
        diverged = not math.isfinite(row["loss"])
        self.ended = diverged or self._waited >= patience or epoch + 1 >= self._options.epochs
        self.model.stop_training = self.ended
        if self._checkpoint:
            self._save()

    def _validate(self) -> dict[str, float]:
        assert self._validation is not None
        figures = scores(self._validation.labels, predict_examples(self.model, self._validation))
        return {"val_accuracy": figures["accuracy"], "val_loss": figures["log_loss"]}

    def _save(self) -> None:
        about = {"history": self.history, "best": self._best, "waited": self._waited, "ended": self.ended}
        state = State(
            weights=_values(self._changing),
            optimizer=_values(self.model.optimizer.variables),
            best=self._best_weights,
            about=about,
        )
        assert self._checkpoint is not None
        save_state(self._checkpoint, state)


def changing_variables(model: keras.Model) -> list[Any]:
    """The variables of a model that training can change: of layers that are not frozen, and of random generators."""
    found: dict[int, Any] = {}
    for layer in model.layers:
        if layer.trainable:
            found |= {id(variable): variable for variable in layer.variables}
    return list(found.values())


def _values(variables: Sequence[Any]) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def _assign(variables: Sequence[Any], values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


class _Progress(keras.callbacks.Callback):  # type: ignore[misc]
    """A bar of epochs on standard error, where that is a terminal."""

    def __init__(self, epochs: int, done: int, shown: bool) -> None:
        from tqdm import tqdm

        super().__init__()
        self._bar: tqdm[None] = tqdm(
            total=epochs, initial=done, unit=" epochs", disable=None if shown else True, leave=False
        )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002 - Keras passes it
        self._bar.set_postfix({key: f"{value:.4f}" for key, value in (logs or {}).items()}, refresh=False)
        self._bar.update()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002 - Keras passes it
        self._bar.close()
