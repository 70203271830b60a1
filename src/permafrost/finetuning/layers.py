"""Choose which layers of a base are trained, and at which learning rates."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

import keras

from permafrost.errors import CutError, OptionError, nearest
from permafrost.trunk.cutting import as_index
from permafrost.trunk.graph import leaves

UNFROZEN_FRACTION: Final = 0.25
"""The fraction of the base's layers, from the top, that is unfrozen by default."""


def find_stages(
    unfreeze: str | int | Sequence[str | int] | None, base_layers: list[str], present: list[str]
) -> list[int]:
    """Return the index in the base of the lowest layer to unfreeze, for each stage of gradual unfreezing.

    Args:
        unfreeze: a layer as `find_unfrozen` takes it, or several, each lower than the one before; as a list, or as text
            with commas.
        base_layers, present: as for `find_unfrozen`.

    Raises:
        CutError: a layer does not exist, or lies above the cut.
        OptionError: a stage does not unfreeze more than the one before.
    """
    if isinstance(unfreeze, str):
        cuts: list[Any] = unfreeze.split(",")
    else:
        cuts = list(unfreeze) if isinstance(unfreeze, Sequence) else [unfreeze]
    if not cuts:
        raise OptionError("nothing to unfreeze", expected="a layer, or several", found="an empty list")
    stages = [find_unfrozen(cut, base_layers, present) for cut in cuts]
    for (first, second), cut in zip(itertools.pairwise(stages), cuts[1:], strict=True):
        if second >= first:
            raise OptionError(
                "each stage must unfreeze more than the one before",
                expected=f"a layer below {base_layers[first]}",
                found=cut,
            )
    return stages


def find_unfrozen(unfreeze: str | int | None, base_layers: list[str], present: list[str]) -> int:
    """Return the index in the base of the lowest layer to unfreeze.

    Args:
        unfreeze: a layer's name, the beginning of a block's names, an index in the base, or `all`; None for the upper
            quarter.
        base_layers: names of the base's layers, in its order.
        present: names of the layers in the model: the base's up to its cut, among others.

    Raises:
        CutError: the layer does not exist, or lies above the cut.
    """
    inside = [index for index, name in enumerate(base_layers) if name in set(present)]
    if unfreeze is None:
        return inside[int(len(inside) * (1 - UNFROZEN_FRACTION))]
    if unfreeze == "all":
        return 0
    text, number = str(unfreeze), as_index(unfreeze)
    if number is not None:
        index = number
        if not -len(base_layers) <= index < len(base_layers):
            raise CutError(f"the base has no layer {index}", expected=f"0 to {len(base_layers) - 1}", found=index)
        index %= len(base_layers)
    elif text in base_layers:
        index = base_layers.index(text)
    else:
        block = [index for index, name in enumerate(base_layers) if name.startswith((f"{text}_", f"{text}-"))]
        if not block:
            raise CutError(f"the base has no layer or block {text}", do=f"try {nearest(text, base_layers)}")
        index = block[0]
    if index > inside[-1]:
        raise CutError(
            f"layer {base_layers[index]} is above the cut of the run's features, {base_layers[inside[-1]]}",
            expected=f"a layer up to {base_layers[inside[-1]]}",
            found=base_layers[index],
            do="unfreeze a lower one, or extract at a higher cut",
        )
    return index


def set_trainable(model: keras.Model, unfrozen: list[str], *, frozen: list[str], train_batchnorm: bool) -> None:
    """Make the head and the unfrozen layers of the base trainable in an exported model, and freeze the rest.

    BatchNorm layers of the base are frozen with `trainable = False`: calling them with `training=False` has no effect
    on `fit` in a functional Keras 3 model.

    Raises:
        CutError: no unfrozen layer has weights to train.
    """
    base = {*unfrozen, *frozen}
    for layer in model.layers:
        layer.trainable = layer.name not in frozen
        if layer.name in base and not train_batchnorm:
            for member in leaves(layer):
                if isinstance(member, keras.layers.BatchNormalization):
                    member.trainable = False
    if not any(layer.trainable_weights for layer in model.layers if layer.name in set(unfrozen)):
        raise CutError(
            f"from {unfrozen[0]} up the base has nothing to train",
            expected="layers with trainable weights",
            do="unfreeze from a lower layer",
        )


def learning_rate_factors(model: keras.Model, base_layers: Sequence[str], lowest_rate: float) -> list[float]:
    """Return the factor for the learning rate of each trainable variable of a model.

    Lower layers are more general, so they change less ("discriminative fine-tuning": Howard and Ruder 2018, "Universal
    Language Model Fine-tuning"). The head has the factor 1, the lowest unfrozen layer of the base `lowest_rate`, and
    the layers in between a geometric series.

    Args:
        model: the model.
        base_layers: names of the base's layers, in its order.
        lowest_rate: more than 0, at most 1.
    """
    place = {name: index for index, name in enumerate(base_layers)}
    trained = [layer for layer in model.layers if layer.trainable_variables]
    lower = sorted((layer.name for layer in trained if layer.name in place), key=place.__getitem__)
    rates = {name: lowest_rate ** ((len(lower) - i) / len(lower)) for i, name in enumerate(lower)}
    of_variable = {id(v): rates.get(layer.name, 1.0) for layer in trained for v in layer.trainable_variables}
    return [of_variable[id(variable)] for variable in model.trainable_variables]
