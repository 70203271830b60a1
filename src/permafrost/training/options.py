"""Training options, and their defaults for heads and for fine-tuning. Loads no Keras."""

from __future__ import annotations

import dataclasses
from typing import Final, TypedDict

from permafrost.errors import OptionError
from permafrost.options import check, option

OPTIMIZERS: Final = ("adam", "adamw", "nadam", "rmsprop", "sgd")
MONITORS: Final = ("val_loss", "val_accuracy", "loss", "accuracy")
CLASS_WEIGHTS: Final = ("none", "balanced")
SCHEDULES: Final = ("constant", "cosine")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options for training a Keras model. The fields describe themselves; `fit_head` and `finetune` list them.

    Raises:
        OptionError: a value is not permitted.
    """

    epochs: int = option(30, "Maximum number of epochs.", minimum=1)
    batch_size: int = option(32, "Images per step.", minimum=1)
    steps_per_epoch: int | None = option(
        None,
        "Steps per epoch; if there are more than in one pass over the images, another pass starts.",
        shown="one pass",
        minimum=1,
    )
    optimizer: str = option("adam", "Optimizer.", choices=OPTIMIZERS)
    learning_rate: float = option(1e-3, "Learning rate.", minimum=0)
    momentum: float = option(0.0, "Momentum of sgd and rmsprop.", minimum=0, below=1)
    nesterov: bool = option(False, "Use Nesterov momentum with sgd.")
    # Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization".
    weight_decay: float | None = option(
        None,
        "Fraction by which each weight shrinks per step, times the learning rate.",
        shown="the optimizer's own: 0.004 for adamw, 0 for others",
        minimum=0,
    )
    # "cosine" is Loshchilov and Hutter 2017, "SGDR", without restarts.
    schedule: str = option(
        "constant", "Learning rate schedule; cosine lowers the rate to 0 over all epochs.", choices=SCHEDULES
    )
    warmup_epochs: float = option(0.0, "Epochs over which the learning rate rises from 0.", minimum=0)
    clip_norm: float | None = option(
        None, "Maximum norm of all gradients together; larger ones are scaled down.", shown="no limit", above=0
    )
    # Szegedy et al. 2016, "Rethinking the Inception Architecture".
    label_smoothing: float = option(
        0.0,
        "Fraction of each label that is spread over all classes in the training loss; metrics are not affected.",
        minimum=0,
        below=1,
    )
    monitor: str = option(
        "val_loss", "Metric that determines the best epoch, whose weights are restored.", choices=MONITORS
    )
    patience: int = option(5, "Epochs without improvement after which training stops; 0 never stops early.", minimum=0)
    min_delta: float = option(0.0, "Smallest change that counts as an improvement.", minimum=0)
    class_weight: str = option(
        "none", "balanced weights classes equally; none weights images equally.", choices=CLASS_WEIGHTS
    )
    seed: int = option(
        0, "Random seed of initial weights, dropout and the order of the images.", minimum=0, maximum=2**32 - 1
    )

    def __post_init__(self) -> None:
        check(self)
        if self.warmup_epochs > self.epochs:
            raise OptionError(
                "the warm-up is longer than the training", expected=f"up to {self.epochs}", found=self.warmup_epochs
            )
        if self.nesterov and not (self.optimizer == "sgd" and self.momentum):
            raise OptionError(
                "nesterov needs sgd with a momentum above 0", found=f"{self.optimizer} with momentum {self.momentum:g}"
            )

    @property
    def monitors_validation(self) -> bool:
        """Whether the monitored metric is measured on validation images."""
        return self.monitor.startswith("val_")


class TrainingSettings(TypedDict, total=False):
    """The fields of `TrainingOptions` as optional keywords, for type checkers; a test checks that they match."""

    epochs: int
    batch_size: int
    steps_per_epoch: int | None
    optimizer: str
    learning_rate: float
    momentum: float
    nesterov: bool
    weight_decay: float | None
    schedule: str
    warmup_epochs: float
    clip_norm: float | None
    label_smoothing: float
    monitor: str
    patience: int
    min_delta: float
    class_weight: str
    seed: int


HEAD_TRAINING: Final = TrainingOptions()
"""The defaults for heads."""

FINE_TUNING: Final = TrainingOptions(epochs=10, optimizer="sgd", learning_rate=1e-5, momentum=0.9, patience=3)
"""The defaults for fine-tuning: small steps, so as not to spoil what the base has learnt."""


def with_settings(defaults: TrainingOptions, settings: TrainingSettings) -> TrainingOptions:
    """Return `defaults` with these fields changed.

    Raises:
        OptionError: a value is not permitted.
        TypeError: a keyword is not a field.
    """
    return dataclasses.replace(defaults, **settings)
