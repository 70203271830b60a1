"""Training a Keras model: what options mean, which weights remain, and that it can be repeated."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from helpers import compiling, same_weights
from permafrost.errors import OptionError
from permafrost.training import loop as training_module
from permafrost.training.loop import Batches, Examples, TrainingResult, class_weights, predict_examples, train
from permafrost.training.metrics import scores
from permafrost.training.options import OPTIMIZERS, TrainingOptions

pytest_plugins = ["upper"]
pytestmark = [
    pytest.mark.usefixtures("light"),
    # TensorFlow warns that its data pipeline is compiled even in eager mode.
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
]
CLASSES = 3


def make_model() -> keras.Model:
    """A small classifier that always starts the same."""
    x = keras.Input((4,))
    initializer = keras.initializers.GlorotUniform(seed=1)
    return keras.Model(x, keras.layers.Dense(CLASSES, "softmax", kernel_initializer=initializer)(x))


def make_examples(
    count: int = 24, *, seed: int = 0, shift: int = 0, fractions: tuple[float, ...] | None = None
) -> Examples:
    """Points around one centre per class; with `shift` the labels are those of other classes."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES if fractions is None else generator.choice(CLASSES, count, p=fractions)
    x = (np.eye(CLASSES, 4)[labels] * 2 + generator.normal(0, 0.3, (count, 4))).astype(np.float32)
    return Examples((labels + shift) % CLASSES, x.__getitem__)


TRAINING = make_examples()
AGREEING = make_examples(12, seed=1)
"""Validation images that get better as training does."""

RANDOM = Examples(np.random.default_rng(0).integers(0, CLASSES, 48), make_examples(48).load)
"""Training images with random labels, which large steps cannot fit."""

CONTRADICTING = make_examples(12, seed=1, shift=1)
"""Validation images with the labels of other classes: training makes them worse from the first epoch on."""


def trained(validation: Examples | None = AGREEING, *, training: Examples = TRAINING, **options):
    """A model trained with these options, and its history."""
    model, result = trained_result(validation, training=training, **options)
    return model, result.history


def trained_result(
    validation: Examples | None = AGREEING, *, training: Examples = TRAINING, never_worse: bool = False, **options
) -> tuple[keras.Model, TrainingResult]:
    """A model trained with these options, and what `train` returns."""
    model = make_model()
    settings = TrainingOptions(**({"epochs": 2, "batch_size": 24, "learning_rate": 0.05} | options))
    return model, train(model, training, validation, settings, progress=False, never_worse=never_worse)


def test_the_same_seed_gives_the_same_weights_and_history():
    (first, first_history), (second, second_history) = trained(seed=7, batch_size=8), trained(seed=7, batch_size=8)

    assert same_weights(first, second)
    assert first_history == second_history


def test_another_seed_gives_other_weights():
    (first, _), (second, _) = trained(seed=7, batch_size=8), trained(seed=8, batch_size=8)

    assert not same_weights(first, second)


def test_the_history_has_a_row_for_each_epoch_from_1_with_loss_and_accuracy():
    _, history = trained(epochs=2)

    assert [row["epoch"] for row in history] == [1, 2]
    assert all(set(row) == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy"} for row in history)
    assert all(0 <= row["val_accuracy"] <= 1 and row["val_loss"] > 0 for row in history)


def test_without_validation_the_history_has_none():
    _, history = trained(None, monitor="loss", epochs=1)

    assert set(history[0]) == {"epoch", "loss", "accuracy"}


def test_training_stops_after_patience_epochs_without_improvement_and_restores_the_best():
    one_epoch, _ = trained(CONTRADICTING, epochs=1)

    model, history = trained(CONTRADICTING, epochs=9, patience=2)

    assert len(history) == 3
    assert min(history, key=lambda row: row["val_loss"])["epoch"] == 1
    assert same_weights(model, one_epoch)


def test_patience_0_never_stops_early_and_still_restores_the_best():
    one_epoch, _ = trained(CONTRADICTING, epochs=1)

    model, history = trained(CONTRADICTING, epochs=5, patience=0)

    assert len(history) == 5
    assert same_weights(model, one_epoch)


def test_a_change_smaller_than_min_delta_is_not_an_improvement():
    _, patient = trained(epochs=5, patience=2)
    _, demanding = trained(epochs=5, patience=2, min_delta=10.0)

    assert [row["val_loss"] for row in patient] == sorted((row["val_loss"] for row in patient), reverse=True)
    assert (len(patient), len(demanding)) == (5, 3)


def test_a_higher_monitored_accuracy_is_better():
    model, history = trained(epochs=6, patience=0, monitor="val_accuracy")

    accuracies = [row["val_accuracy"] for row in history]
    right = predict_examples(model, AGREEING).argmax(axis=1) == AGREEING.labels
    assert accuracies[0] < max(accuracies)
    assert right.mean() == pytest.approx(max(accuracies))


def test_the_best_epoch_is_the_one_whose_weights_remain_even_if_a_later_one_is_slightly_better():
    # Without min_delta each epoch improves on the one before; with it the metric has to fall further.
    _, plain = trained_result(epochs=6, patience=0)
    delta = plain.history[0]["val_loss"] - plain.history[2]["val_loss"]

    model, result = trained_result(epochs=6, patience=0, min_delta=delta)

    lowest = min(result.history, key=lambda row: row["val_loss"])["epoch"]
    assert plain.best_epoch == lowest == 6
    assert result.best_epoch is not None and result.best_epoch < lowest
    assert result.best_value == result.history[result.best_epoch - 1]["val_loss"]
    found = scores(AGREEING.labels, predict_examples(model, AGREEING))["log_loss"]
    assert found == pytest.approx(result.best_value, abs=1e-6)


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy", "loss", "accuracy"])
def test_never_worse_restores_the_start_if_training_does_not_improve_on_it_by_min_delta(monitor):
    model, result = trained_result(never_worse=True, monitor=monitor, min_delta=10.0, epochs=3)

    assert same_weights(model, make_model())
    assert (result.improved, result.best_epoch, result.best_value) == (False, None, result.start_value)
    examples = AGREEING if monitor.startswith("val_") else TRAINING
    metric = "accuracy" if monitor.endswith("accuracy") else "log_loss"
    assert result.start_value == scores(examples.labels, predict_examples(make_model(), examples))[metric]


def test_never_worse_compares_the_training_loss_after_training_not_the_mean_over_an_epochs_steps():
    # One step at this rate ruins the model, but the epoch's loss was measured before that step.
    options = {"monitor": "loss", "learning_rate": 500.0, "optimizer": "sgd", "epochs": 1, "batch_size": 48}

    model, result = trained_result(training=RANDOM, never_worse=True, **options)

    assert result.history[0]["loss"] == pytest.approx(result.start_value, abs=1e-5)
    assert same_weights(model, make_model())
    assert not result.improved


def test_an_improvement_reports_the_metric_of_the_weights_that_remain():
    model, result = trained_result(never_worse=True, monitor="loss", epochs=3)

    assert result.improved
    assert result.best_value < result.start_value
    assert result.best_value == scores(TRAINING.labels, predict_examples(model, TRAINING))["log_loss"]


def test_training_that_diverges_stops_and_says_so():
    options = {"learning_rate": 1e38, "optimizer": "sgd", "epochs": 9}

    model, result = trained_result(training=RANDOM, never_worse=True, **options)

    assert result.diverged
    assert len(result.history) < 9
    assert np.isfinite(model.get_weights()[0]).all()


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy"])
def test_a_validation_metric_cannot_be_monitored_without_validation_images(monitor):
    with pytest.raises(OptionError, match=f"cannot monitor {monitor}: .*expected validation images, or --monitor loss"):
        trained(None, monitor=monitor)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_listed_optimizer_trains(optimizer):
    _, history = trained(optimizer=optimizer, momentum=0.5)

    assert history[-1]["loss"] < history[0]["loss"]


def test_momentum_makes_a_difference_to_sgd():
    (without, _), (with_it, _) = (trained(optimizer="sgd", momentum=momentum) for momentum in (0.0, 0.9))

    assert not same_weights(without, with_it)


def test_a_learning_rate_of_0_leaves_the_weights_as_they_are():
    model, _ = trained(learning_rate=0.0, optimizer="sgd", momentum=0.9)

    assert same_weights(model, make_model())


def test_an_epoch_has_the_requested_steps_and_starts_another_pass_if_needed():
    assert len(Batches(TRAINING, 8, seed=0, steps=2)) == 2
    batches = Batches(Examples(np.arange(24), lambda rows: rows), 8, seed=0, steps=7)

    epoch = [batches[index][0].tolist() for index in range(len(batches))]

    assert len(epoch) == 7
    for whole_pass in (epoch[:3], epoch[3:6]):
        assert sorted(row for batch in whole_pass for row in batch) == list(range(24))
    assert epoch[0] != epoch[3]


def test_with_fewer_steps_than_a_pass_the_next_epoch_has_other_images():
    loaded: list[int] = []

    def load(rows: np.ndarray) -> np.ndarray:
        loaded.extend(rows)
        return TRAINING.load(rows)

    batches = Batches(Examples(TRAINING.labels, load), 8, seed=0, steps=1)
    for epoch in range(2):
        batches.begin(epoch)
        batches[0]

    assert set(loaded[:8]) != set(loaded[8:])


def test_training_takes_the_requested_steps_per_epoch():
    model, _ = trained(epochs=2, steps_per_epoch=2, batch_size=5)

    assert int(model.optimizer.iterations) == 4


@given(count=st.integers(1, 40), size=st.integers(1, 12), seed=st.integers(0, 5))
def test_each_epoch_visits_every_example_once(count, size, seed):
    batches = Batches(Examples(np.arange(count), lambda rows: rows), size, seed=seed)

    epoch = [batches[index] for index in range(len(batches))]

    assert sorted(np.concatenate([rows for rows, _ in epoch]).tolist()) == list(range(count))
    assert all(np.array_equal(rows, labels) for rows, labels in epoch)
    assert all(len(rows) == size for rows, _ in epoch[:-1])


def test_each_epoch_has_its_own_order_that_follows_from_the_seed():
    def orders(seed: int) -> list[list[int]]:
        batches = Batches(Examples(np.arange(50), lambda rows: rows), 50, seed=seed)
        found = []
        for epoch in range(3):
            batches.begin(epoch)
            found.append(batches[0][0].tolist())
        return found

    assert orders(1) == orders(1)
    assert len({tuple(order) for order in orders(1) + orders(2)}) == 6


def test_each_epoch_trains_on_its_own_examples():
    # Keras looks at the first batches before the first epoch; they do not belong to it.
    taken: list[tuple[int, int]] = []

    def of_epoch(epoch: int):
        def load(rows: np.ndarray) -> np.ndarray:
            taken.append((epoch, len(rows)))
            return TRAINING.load(rows)

        return load

    trained(training=Examples(TRAINING.labels, TRAINING.load, of_epoch=of_epoch), epochs=3, patience=0)

    assert [epoch for epoch, _ in taken if epoch] == [1, 2]
    assert taken[0] == (0, 24)


def test_without_a_seed_the_order_is_that_of_the_examples():
    batches = Batches(Examples(np.arange(5), lambda rows: rows), 5, seed=None)
    batches.begin(3)

    assert batches[0][0].tolist() == [0, 1, 2, 3, 4]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60).map(lambda extra: [0, 1, 2, 3, *extra]))
def test_balanced_class_weights_are_those_of_scikit_learn(labels):
    found = class_weights(np.array(labels), 4)

    expected = compute_class_weight("balanced", classes=np.arange(4), y=np.array(labels))
    assert list(found) == [0, 1, 2, 3]
    assert np.allclose(list(found.values()), expected, rtol=1e-12)


def test_a_class_without_examples_has_no_weight():
    assert set(class_weights(np.array([0, 0, 2]), 4)) == {0, 2}


def test_class_weights_make_a_difference_for_unbalanced_classes():
    unbalanced = make_examples(40, fractions=(0.8, 0.1, 0.1))

    (plain, _), (balanced, _) = (
        trained(training=unbalanced, class_weight=class_weight) for class_weight in ("none", "balanced")
    )

    assert not same_weights(plain, balanced)


def test_a_compiled_model_trains_like_an_eager_one():
    eager, _ = trained()
    with compiling(True):
        compiled, _ = trained()

    pairs = zip(eager.get_weights(), compiled.get_weights(), strict=True)
    assert all(np.allclose(a, b, atol=1e-4) for a, b in pairs)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_compiled_model_takes_the_same_fractions_of_steps_as_an_eager_one(optimizer):
    def steps() -> list[np.ndarray]:
        model = make_model()
        options = TrainingOptions(epochs=2, batch_size=24, optimizer=optimizer, weight_decay=0.1, patience=0)
        train(model, TRAINING, AGREEING, options, progress=False, rates=[0.25, 1.0])
        return [a - b for a, b in zip(model.get_weights(), make_model().get_weights(), strict=True)]

    eager = steps()
    with compiling(True):
        compiled = steps()

    assert all(np.abs(step).max() > 1e-5 for step in eager)
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(eager, compiled, strict=True))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="other backends compile as Keras decides")
def test_xla_compiles_long_training_of_large_heads_with_the_same_result(monkeypatch):
    with compiling(True):
        plain, _ = trained(epochs=2)
        monkeypatch.setattr(training_module, "MIN_XLA_UPDATES", 5 * CLASSES * 2)
        fused, _ = trained(epochs=2)
        shorter, _ = trained(epochs=1)

    assert (plain.jit_compile, fused.jit_compile, shorter.jit_compile) == (False, True, False)
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(plain.get_weights(), fused.get_weights(), strict=True))


def test_xla_does_not_compile_heads_with_convolutions(monkeypatch):
    monkeypatch.setattr(training_module, "MIN_XLA_UPDATES", 0)
    x = keras.Input((4, 4, 1))
    y = keras.layers.Flatten()(keras.layers.Conv2D(2, 3)(x))
    model = keras.Model(x, keras.layers.Dense(CLASSES, "softmax")(y))
    maps = Examples(TRAINING.labels, np.ones((len(TRAINING), 4, 4, 1), np.float32).__getitem__)

    train(model, maps, None, TrainingOptions(epochs=1, monitor="loss"), progress=False)

    assert not model.jit_compile


def test_no_examples_give_no_outputs():
    empty = Examples(np.empty(0, np.int64), TRAINING.load)

    assert predict_examples(make_model(), empty).shape == (0, CLASSES)


def test_predictions_are_in_the_order_of_the_examples():
    model = make_model()

    found = predict_examples(model, TRAINING, batch_size=7)

    assert np.allclose(found, model.predict_on_batch(TRAINING.load(np.arange(24))), atol=1e-6)


def test_no_progress_bar_is_drawn_unless_standard_error_is_a_terminal(capfd):
    train(make_model(), TRAINING, AGREEING, TrainingOptions(epochs=1, batch_size=8), progress=True)

    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"optimizer": "adamm"}, "unknown optimizer; expected adam, adamw, nadam, rmsprop or sgd, found adamm"),
        ({"monitor": "val_f1"}, "unknown monitor; expected val_loss, val_accuracy, loss or accuracy, found val_f1"),
        ({"class_weight": "auto"}, "unknown class_weight; expected none or balanced, found auto"),
        ({"epochs": 0}, "epochs is out of range; expected at least 1, found 0"),
        ({"batch_size": 0}, "batch_size is out of range; expected at least 1, found 0"),
        ({"patience": -1}, "patience is out of range; expected at least 0, found -1"),
        ({"min_delta": -0.1}, "min_delta is out of range; expected at least 0, found -0.1"),
        ({"seed": -1}, "seed is out of range; expected at least 0, at most 4,294,967,295, found -1"),
        ({"steps_per_epoch": 0}, "steps_per_epoch is out of range; expected at least 1, found 0"),
        ({"learning_rate": -1e-3}, "learning_rate is out of range; expected at least 0, found -0.001"),
        ({"learning_rate": float("nan")}, "learning_rate has a wrong value; expected a number, found nan"),
        ({"learning_rate": float("inf")}, "learning_rate has a wrong value; expected a number, found inf"),
        ({"momentum": 1.0}, "momentum is out of range; expected at least 0, less than 1, found 1.0"),
        ({"momentum": -0.1}, "momentum is out of range; expected at least 0, less than 1, found -0.1"),
        ({"nesterov": True}, "nesterov needs sgd with a momentum above 0; found adam with momentum 0"),
        (
            {"nesterov": True, "optimizer": "sgd"},
            "nesterov needs sgd with a momentum above 0; found sgd with momentum 0",
        ),
    ],
)
def test_an_invalid_option_is_one_clear_error_line(options, line):
    with pytest.raises(OptionError) as caught:
        TrainingOptions(**options)

    assert str(caught.value) == line


def test_random_layers_without_a_seed_follow_the_seed_of_training():
    def weights(seed: int) -> list[np.ndarray]:
        x = keras.Input((4,))
        initializer = keras.initializers.GlorotUniform(seed=1)
        dropped = keras.layers.Dropout(0.5, name="drop")(x)
        model = keras.Model(x, keras.layers.Dense(CLASSES, "softmax", kernel_initializer=initializer)(dropped))
        train(model, TRAINING, None, TrainingOptions(epochs=2, seed=seed, monitor="loss"), progress=False)
        return model.get_weights()

    first, second = weights(1), weights(1)

    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, weights(2), strict=True))
