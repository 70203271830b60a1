"""Lower learning rates for lower layers: each variable takes that fraction of its step, weight decay included."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from permafrost.training.optimizers import make_optimizer
from permafrost.training.options import OPTIMIZERS, TrainingOptions

START = np.float32([1.0, -2.0, 0.5])
GRADIENT = np.float32([0.3, -0.1, 0.2])


def stepped(rate: float, *, gradient: np.ndarray = GRADIENT, steps: int = 1, **options) -> list[np.ndarray]:
    """How far two equal variables are from `START` after some steps, the first with this factor for its rate."""
    lower, upper = (keras.Variable(START, name=name) for name in ("lower", "upper"))
    options = TrainingOptions(**({"learning_rate": 0.1} | options))
    optimizer = make_optimizer(options, steps_per_epoch=10, rates=[(lower, rate), (upper, 1.0)])
    optimizer.build([lower, upper])
    for _ in range(steps):
        values = [keras.ops.convert_to_tensor(gradient)] * 2
        optimizer.apply(values, [lower, upper])
    return [keras.ops.convert_to_numpy(variable) - START for variable in (lower, upper)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_variable_with_a_quarter_of_the_rate_takes_a_quarter_of_the_step(optimizer):
    lower, upper = stepped(0.25, optimizer=optimizer)

    assert np.abs(upper).min() > 1e-4
    assert np.allclose(lower, 0.25 * upper, atol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_variable_with_a_lower_rate_decays_at_that_rate(optimizer):
    # Without a gradient, all that moves the variables is weight decay.
    lower, upper = stepped(0.25, optimizer=optimizer, gradient=np.zeros_like(GRADIENT), weight_decay=0.1)

    assert np.allclose(upper, -0.1 * 0.1 * START, atol=1e-6)
    assert np.allclose(lower, 0.25 * upper, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_fraction_of_the_step_is_a_step_at_that_fraction_of_the_rate(optimizer):
    options = {"optimizer": optimizer, "momentum": 0.9, "schedule": "cosine", "epochs": 1, "steps": 5}

    lower, _ = stepped(0.25, **options)
    _, expected = stepped(1.0, learning_rate=0.1 * 0.25, **options)

    assert np.allclose(lower, expected, atol=1e-6)


def test_a_step_of_rate_0_changes_no_bit():
    assert not np.any(stepped(0.3, learning_rate=0.0, optimizer="adam", weight_decay=0.1))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_weight_decay_of_0_is_none_for_every_optimizer(optimizer):
    _, still = stepped(1.0, optimizer=optimizer, gradient=np.zeros_like(GRADIENT), weight_decay=0.0)

    assert not np.any(still)
