"""Stages of gradual unfreezing: each trains the layers above one cut, starting from the result of the stage before."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras

from permafrost.extraction.cache import FeatureCache
from permafrost.extraction.options import PipelineOptions
from permafrost.finetuning.cached import CachedFeatures, FeatureComputation
from permafrost.finetuning.frontier import Frontier, cut_below
from permafrost.finetuning.layers import find_stages, learning_rate_factors, set_trainable
from permafrost.finetuning.request import Request
from permafrost.model.assembly import pixels_of
from permafrost.training.loop import Examples, TrainingResult, train
from permafrost.trunk.graph import as_precision


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage: one cut of the model, and the features at the cut.

    Attributes:
        lowest: index in the base of the lowest unfrozen layer.
        frontier: the model, cut below that layer.
        cache: the cache of the features at the cut.
        computation: computes the features that are not cached yet.
        cached: loads the features once all are cached.
    """

    lowest: int
    frontier: Frontier
    cache: FeatureCache
    computation: FeatureComputation
    cached: CachedFeatures


def build_stages(model: keras.Model, request: Request) -> list[Stage]:
    """Cut a model for each stage of a request.

    Raises:
        CutError: a layer does not exist, or lies above the run's cut, or nothing is left to train.
        OptionError: a stage does not unfreeze more than the one before.
    """
    layers = [layer.name for layer in model.layers]
    return [_build(model, request, lowest) for lowest in find_stages(request.options.unfreeze, request.layers, layers)]


def _build(model: keras.Model, request: Request, lowest: int) -> Stage:
    unfreeze_from(model, request, lowest)  # This refuses a cut with nothing to train above it.
    selection = request.selection
    frontier = cut_below(model, pixels_of(model), lowest, request.spec, request.layers)
    rule = "" if selection.views.count is None else selection.views.rule
    cache = FeatureCache(frontier.trunk, selection.features.store.folder.parent, rule)
    computation = FeatureComputation(selection, cache, PipelineOptions(progress=request.options.progress))
    return Stage(lowest, frontier, cache, computation, CachedFeatures(selection, cache))


def unfreeze_from(model: keras.Model, request: Request, lowest: int) -> None:
    """Make the layers of a model from index `lowest` of the base up trainable, and freeze those below."""
    unfrozen, frozen = request.layers[lowest:], request.layers[:lowest]
    set_trainable(model, unfrozen, frozen=frozen, train_batchnorm=request.options.train_batchnorm)


def train_stage(
    model: keras.Model, examples: dict[str, Examples], request: Request, checkpoint: Path
) -> TrainingResult:
    """Train the unfrozen layers of a model; it never ends worse on the monitored metric than it started.

    Args:
        model: the part above the cut, or the whole model; its layers are shared with the model that is exported.
        examples: its input and labels for each split.
        request: the request.
        checkpoint: the file that the state is saved to after each epoch.
    """
    options = request.options
    # Mixed precision trains a copy, whose output layer stays float32.
    trained = as_precision(model, "bfloat16", but=[model.layers[-1].name]) if options.mixed_precision else model
    result = train(
        trained,
        examples["train"],
        examples["validation"] if len(examples["validation"]) else None,
        options.training,
        progress=options.progress,
        never_worse=True,
        rates=learning_rate_factors(trained, request.layers, options.lowest_rate),
        checkpoint=checkpoint,
    )
    if trained is not model:
        model.set_weights(trained.get_weights())
    return result
