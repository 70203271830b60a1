"""Optimizers as Keras builds them, with schedules, clipping, and lower rates for lower layers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras

from permafrost.training.options import TrainingOptions


def make_optimizer(
    options: TrainingOptions, *, steps_per_epoch: int, rates: Sequence[float] | None = None
) -> keras.optimizers.Optimizer:
    """The optimizer that `options` ask for.

    Args:
        options: how to train.
        steps_per_epoch: by which the schedule counts epochs.
        rates: for each trainable variable of the model what its learning rate is multiplied by; all 1 if None.
    """
    settings: dict[str, Any] = {"learning_rate": _rate(options, steps_per_epoch)}
    if options.optimizer in ("sgd", "rmsprop"):
        settings["momentum"] = options.momentum
    if options.nesterov:
        settings["nesterov"] = True
    if options.weight_decay is not None:
        settings["weight_decay"] = options.weight_decay or None
    if options.clip_norm is not None:
        settings["global_clipnorm"] = options.clip_norm
    kind: Any = type(keras.optimizers.get(options.optimizer))
    if rates is None or all(rate == 1 for rate in rates):
        return kind(**settings)
    optimizer = _with_rates(kind)(**settings)
    optimizer.rates = tuple(rates)
    return optimizer


def _rate(options: TrainingOptions, steps_per_epoch: int) -> Any:
    """The learning rate, or what gives it for each step."""
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


@functools.cache
def _with_rates(kind: Any) -> Any:
    """An optimizer whose step on each variable has a learning rate of its own.

    A step, not a gradient, is made smaller: Adam and its kin do not notice the size of gradients.
    """

    class WithRates(kind):  # type: ignore[misc]
        rates: tuple[float, ...] = ()

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> Any:
            rate = self.rates[self._get_variable_index(variable)]
            return super().update_step(gradient, variable, learning_rate * rate)

    return WithRates
