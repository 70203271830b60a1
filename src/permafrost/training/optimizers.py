"""Keras optimizers with schedules, clipping, and lower learning rates for lower layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from permafrost.training.options import TrainingOptions


def make_optimizer(
    options: TrainingOptions, *, steps_per_epoch: int, rates: Sequence[tuple[Any, float]] = ()
) -> keras.optimizers.Optimizer:
    """Build the optimizer that `options` describe.

    Args:
        options: the training options.
        steps_per_epoch: converts the epochs of a schedule to steps.
        rates: trainable variables, each with the factor for its learning rate; other variables have the factor 1.
    """
    settings: dict[str, Any] = {"learning_rate": _rate(options, steps_per_epoch)}
    if options.optimizer in ("sgd", "rmsprop"):
        settings["momentum"] = options.momentum
    if options.nesterov:
        settings["nesterov"] = True
    if options.weight_decay is not None:
        settings["weight_decay"] = options.weight_decay
    if options.clip_norm is not None:
        settings["global_clipnorm"] = options.clip_norm
    kind: Any = type(keras.optimizers.get(options.optimizer))
    lowered = [(variable, rate) for variable, rate in rates if rate != 1]
    return (_with_rates(kind, lowered) if lowered else kind)(**settings)


def _rate(options: TrainingOptions, steps_per_epoch: int) -> Any:
    """Return the learning rate, or the schedule of learning rates."""
    warmup = round(options.warmup_epochs * steps_per_epoch)
    if options.schedule == "constant" and not warmup:
        return options.learning_rate
    rest = max(options.epochs * steps_per_epoch - warmup, 1)
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else options.learning_rate,
        rest,
        alpha=0.0 if options.schedule == "cosine" else 1.0,
        warmup_target=options.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def _with_rates(kind: Any, lowered: Sequence[tuple[Any, float]]) -> Any:
    """Return an optimizer class that scales down its steps, weight decay included, on some variables.

    Every step of these optimizers is proportional to the learning rate, so a fraction of a step is a step at that
    fraction of the rate. Scaling gradients would have no effect: Adam and its variants normalise them.

    Args:
        kind: the optimizer class.
        lowered: variables, each with its fraction.
    """

    class WithRates(kind):  # type: ignore[misc]
        def apply(self, grads: Any, trainable_variables: Any = None) -> None:
            before = [keras.ops.copy(variable) for variable, _ in lowered]
            super().apply(grads, trainable_variables)
            for (variable, rate), start in zip(lowered, before, strict=True):
                variable.assign(start + rate * (variable - start))

    return WithRates
