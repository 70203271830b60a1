"""Options for fine-tuning. Loads no Keras."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, Final

from permafrost.images.options import augment_option
from permafrost.options import check, option
from permafrost.training.options import FINE_TUNING, TrainingOptions, TrainingSettings, with_settings
from permafrost.units import parse_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuneOptions:
    """Options for fine-tuning a run. The fields describe themselves; `finetune` lists them.

    Attributes:
        training: how the unfrozen layers and the head are trained.

    Raises:
        OptionError: a value is not permitted.
    """

    training: TrainingOptions = FINE_TUNING
    unfreeze: str | int | Sequence[str | int] | None = option(
        None,
        "Lowest layer of the base that is trained, with all layers above it: a layer's name, the beginning of a "
        "block's names (block5), an index in the base, or all. Several, from the top down, are unfrozen in turn.",
        shown="the upper quarter",
        metavar="LAYER|INDEX|all[,...]",
    )
    # A set, or its file. Its type cannot be named here without loading NumPy and h5py.
    features: Any = option(
        None, "The feature set that the run was fitted to.", shown="the one that the run records", metavar="SET.h5"
    )
    views: int | str | None = option(
        None,
        "Number of views of each training image, including the image itself, which epochs use in turn; live makes new "
        "ones in each epoch.",
        shown="1",
        metavar="K|live",
    )
    augment: str | None = augment_option()
    # Howard and Ruder 2018, "Universal Language Model Fine-tuning".
    lowest_rate: float = option(
        1.0,
        "Learning rate of the lowest unfrozen layer, as a fraction of the head's; layers in between have rates in "
        "between.",
        above=0,
        maximum=1,
    )
    # The statistics of the base come from millions of images; a few small batches spoil them.
    train_batchnorm: bool = option(False, "Train BatchNorm layers of the base too; otherwise they stay frozen.")
    mixed_precision: bool = option(False, "Train in bfloat16 with float32 weights; needs a GPU.")
    # The large gradients of such a head would destroy what the base has learnt.
    untrained_head: bool = option(False, "Fine-tune even if the run's head is no better than guessing.")
    dtype: str = option("float32", "Data type of cached features.", choices=("float32", "float16"))
    cache_limit: int | str = option(
        "20GB", "Maximum size of the cached features on disk; 0 caches nothing.", metavar="SIZE"
    )
    out: str | os.PathLike[str] | None = option(
        None, "The new run's folder.", shown="runs/<RUN>-finetuned", metavar="RUN/"
    )
    progress: bool = option(True, "Draw progress bars on a terminal or in a notebook.")

    def __post_init__(self) -> None:
        check(self)
        parse_size(self.cache_limit)

    @property
    def cache_bytes(self) -> int:
        """The maximum size of the cached features in bytes."""
        return parse_size(self.cache_limit)


class FineTuneSettings(TrainingSettings, total=False):
    """The fields of `FineTuneOptions` and `TrainingOptions` as optional keywords, for type checkers."""

    features: Any
    views: int | str | None
    augment: str | None
    lowest_rate: float
    train_batchnorm: bool
    mixed_precision: bool
    untrained_head: bool
    dtype: str
    cache_limit: int | str
    out: str | os.PathLike[str] | None
    progress: bool


OWN_FIELDS: Final = tuple(field.name for field in dataclasses.fields(FineTuneOptions) if field.name != "training")
"""The options of fine-tuning that are not options of training."""


def options_from(settings: dict[str, Any]) -> FineTuneOptions:
    """Build the options from keywords: fields of `FineTuneOptions` and of `TrainingOptions`.

    Raises:
        OptionError: a value is not permitted.
        TypeError: a keyword is not an option.
    """
    own = {name: value for name, value in settings.items() if name in OWN_FIELDS}
    training: Any = {name: value for name, value in settings.items() if name not in OWN_FIELDS}
    return FineTuneOptions(training=with_settings(FINE_TUNING, training), **own)
