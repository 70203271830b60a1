"""How a Keras model is trained: the options, and their defaults for heads and for fine-tuning. Loads no Keras."""

from __future__ import annotations

import dataclasses
import math
from typing import Final, TypedDict

from permafrost.errors import OptionError

OPTIMIZERS: Final = ("adam", "adamw", "nadam", "rmsprop", "sgd")
MONITORS: Final = ("val_loss", "val_accuracy", "loss", "accuracy")
CLASS_WEIGHTS: Final = ("none", "balanced")
SCHEDULES: Final = ("constant", "cosine")

_CHOICES: Final = {
    "optimizer": OPTIMIZERS,
    "monitor": MONITORS,
    "class_weight": CLASS_WEIGHTS,
    "schedule": SCHEDULES,
}
_LEAST: Final = {
    "epochs": 1,
    "batch_size": 1,
    "patience": 0,
    "min_delta": 0,
    "seed": 0,
    "warmup_epochs": 0,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How a Keras model is trained.

    Attributes:
        epochs: at most so many passes over the training images.
        batch_size: images a step.
        steps_per_epoch: steps after which an epoch ends; None for a whole pass. More than a pass begins another.
        optimizer: one of `OPTIMIZERS`.
        learning_rate: of the optimizer.
        momentum: of `sgd` and `rmsprop`; others have none.
        nesterov: whether the momentum of `sgd` is Nesterov's.
        weight_decay: share by which each weight shrinks a step, times the learning rate (Loshchilov and Hutter 2019,
            "Decoupled Weight Decay Regularization"); None for the optimizer's own: 0.004 for `adamw`, none for others.
        schedule: `constant`; or `cosine`, which lowers the rate to 0 over all epochs along half a cosine (the same,
            2017, "SGDR").
        warmup_epochs: over which the rate rises from 0.
        clip_norm: gradients are scaled down together where their norm is larger; None leaves them.
        label_smoothing: share of each label that is spread over all classes in the training loss (Szegedy et al. 2016,
            "Rethinking the Inception Architecture"); validation figures are without it.
        monitor: what early stopping watches, one of `MONITORS`.
        patience: epochs without an improvement after which training stops; 0 never stops early. Either way the weights
            of the best epoch are kept.
        min_delta: what counts as an improvement.
        class_weight: `balanced` weighs each class by the inverse of its share; `none` weighs images equally.
        seed: of initial weights, dropout and the order of the images.
    """

    epochs: int = 30
    batch_size: int = 32
    steps_per_epoch: int | None = None
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float | None = None
    schedule: str = "constant"
    warmup_epochs: float = 0.0
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    monitor: str = "val_loss"
    patience: int = 5
    min_delta: float = 0.0
    class_weight: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise OptionError(f"unknown {name}", expected=", ".join(known), found=getattr(self, name))
        for name, least in _LEAST.items():
            if not getattr(self, name) >= least:
                raise OptionError(f"{name} is too small", expected=f"{least} or more", found=getattr(self, name))
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise OptionError("steps_per_epoch is too small", expected="1 or more", found=self.steps_per_epoch)
        if not (math.isfinite(self.learning_rate) and self.learning_rate >= 0):
            raise OptionError("the learning rate is no rate", expected="0 or more", found=self.learning_rate)
        for name in ("momentum", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(f"{name} is out of range", expected="0 to less than 1", found=getattr(self, name))
        if self.warmup_epochs > self.epochs:
            raise OptionError(
                "the warm-up is longer than the training", expected=f"up to {self.epochs}", found=self.warmup_epochs
            )
        if self.weight_decay is not None and not self.weight_decay >= 0:
            raise OptionError("weight_decay is too small", expected="0 or more", found=self.weight_decay)
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise OptionError("clip_norm is too small", expected="more than 0", found=self.clip_norm)
        if self.nesterov and not (self.optimizer == "sgd" and self.momentum):
            raise OptionError(
                "Nesterov's momentum is that of sgd", expected="sgd with a momentum", found=self.optimizer
            )


class TrainingSettings(TypedDict, total=False):
    """Any of the fields of `TrainingOptions`, as keywords of `fit_head` and `finetune`."""

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
    """`defaults` with these fields changed.

    Raises:
        OptionError: a value out of range.
        TypeError: a keyword that is no field.
    """
    return dataclasses.replace(defaults, **settings)
