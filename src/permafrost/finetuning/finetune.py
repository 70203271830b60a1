"""Unfreeze the top of a run's base and train it together with its head."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Unpack

import keras
import numpy as np

from permafrost.finetuning.checkpoints import checkpoint_path, remove_checkpoints
from permafrost.finetuning.frontier import Frontier
from permafrost.finetuning.options import FineTuneOptions, FineTuneSettings, options_from
from permafrost.finetuning.plan import CACHED, CachePlan, plan_stage
from permafrost.finetuning.recomputed import DecodedImages
from permafrost.finetuning.report import run_record, stage_record
from permafrost.finetuning.request import check_request
from permafrost.finetuning.selection import Load
from permafrost.finetuning.stages import Stage, build_stages, train_stage, unfreeze_from
from permafrost.images.splits import SPLITS
from permafrost.keras_state import keras_defaults
from permafrost.machine import cpu_count
from permafrost.model.assembly import body_of
from permafrost.model.clock import Clock
from permafrost.model.parity import Parity, Parts, export_checked
from permafrost.model.publishing import staging
from permafrost.model.run import Run, RunContent, open_run, write_run
from permafrost.options import documented
from permafrost.training.loop import Examples, predict_examples
from permafrost.training.metrics import metrics
from permafrost.training.options import FINE_TUNING


@documented(FineTuneOptions, FINE_TUNING, leave_out=["unfreeze"])
def finetune(
    run: Run | str | os.PathLike[str],
    unfreeze: str | int | Sequence[str | int] | None = None,
    **options: Unpack[FineTuneSettings],
) -> Run:
    """Train the top of a run's base together with its head, starting from the run's model.

    The trunk below the unfrozen layers runs once per image, and its features are cached. If that takes too much disk
    space, or no less time, it runs in each epoch instead, with the same result.

    If no epoch improves the monitored metric, the result is the model that training started from. The same request
    resumes training that was interrupted from the last complete epoch.

    Args:
        run: a run of `fit_head` or `finetune`, or its folder.
        unfreeze: the lowest layer of the base that is trained, with all above it in the base's order: a layer's name,
            the beginning of a block's names (`block5`), an index in the base, or `all`; its upper quarter if None. The
            layers of a list, each lower than the one before, are unfrozen one after the other, for up to `epochs` each.
        **options: documented from the fields.

    Returns:
        The new run.

    Raises:
        PermafrostError: the request or its input is wrong; see `permafrost.errors`.
    """
    return FineTuning(run, options_from({**options, "unfreeze": unfreeze})).run()


@dataclasses.dataclass(frozen=True)
class _Material:
    """What a stage trains, and on what.

    Attributes:
        model: the model that is trained.
        examples: its input and labels per split.
        rows: returns its input for rows of the set.
        frontier: the cut whose features are its input; None if it is the pixels.
    """

    model: keras.Model
    examples: dict[str, Examples]
    rows: Load
    frontier: Frontier | None


class FineTuning:
    """A checked request for fine-tuning, with the run opened and the model cut.

    Args:
        run: a run, or its folder.
        options: the options.

    Raises:
        PermafrostError: the request or its input is wrong.
    """

    @keras_defaults()
    def __init__(self, run: Run | str | os.PathLike[str], options: FineTuneOptions) -> None:
        self._clock = Clock()
        self.request = check_request(run, options)
        # The run is opened again, because training changes the model and must not change the run's.
        self._model = open_run(self.request.run.folder).model
        self._stages = build_stages(self._model, self.request)

    @keras_defaults()
    def plan(self) -> list[CachePlan]:
        """Decide for each stage whether to cache features, without writing anything."""
        return [plan_stage(stage, self.request.selection, self.request.options) for stage in self._stages]

    @keras_defaults()
    def run(self, plans: Sequence[CachePlan] | None = None) -> Run:
        """Train all stages and write the new run.

        Args:
            plans: the result of `plan`, which is called if None.
        """
        plans = self.plan() if plans is None else plans
        request = self.request
        with ThreadPoolExecutor(cpu_count(), "images") as threads, staging(request.folder) as stage_folder:
            images = DecodedImages(request.selection, threads)
            material, history, records, before = self._train(plans, images)
            self._clock.lap("train")
            outputs = {split: predict_examples(material.model, material.examples[split]) for split in SPLITS}
            parity = self._export(stage_folder, material)
            self._clock.lap("export")
            about = run_record(request, records, before, outputs["test"]) | {
                "parity": dataclasses.asdict(parity),
                "warnings": [*request.warnings(), *parity.warnings],
                "seconds": self._clock.seconds(),
            }
            content = RunContent(
                class_names=request.run.class_names,
                about=about,
                images=request.images(),
                metrics={
                    split: metrics(request.selection.labels(split), outputs[split], request.run.class_names)
                    for split in SPLITS
                },
                history=[row | {"epoch": number} for number, row in enumerate(history, 1)],
                title=f"{request.spec.base} fine-tuned from {request.layers[self._stages[-1].lowest]}",
            )
            made = write_run(request.folder, stage_folder, content, replace=request.replace)
        remove_checkpoints(request.folder)
        return made

    def _train(
        self, plans: Sequence[CachePlan], images: DecodedImages
    ) -> tuple[_Material, list[dict[str, float]], list[dict[str, Any]], np.ndarray]:
        """Train the stages in turn.

        Returns:
            The model and data of the last stage; the history of all stages; the record of each for `run.json`; and
            the outputs on test images before training, (n, classes) float32.
        """
        request, monitor = self.request, self.request.options.training.monitor
        lowest, strategies = [stage.lowest for stage in self._stages], [plan.strategy for plan in plans]
        checkpoints = [
            checkpoint_path(request, lowest[:count], strategies[:count]) for count in range(1, len(self._stages) + 1)
        ]
        history: list[dict[str, float]] = []
        records: list[dict[str, Any]] = []
        for stage, plan, checkpoint in zip(self._stages, plans, checkpoints, strict=True):
            for other in self._stages:
                other.cached.release()  # The features of the stage before are no longer needed.
            material = self._material(stage, plan, images)
            unfreeze_from(self._model, request, stage.lowest)
            if not records:
                before = predict_examples(material.model, material.examples["test"])
            result = train_stage(material.model, material.examples, request, checkpoint)
            history += result.history
            records.append(stage_record(stage, plan, result, request.layers, monitor))
        return material, history, records, before

    def _material(self, stage: Stage, plan: CachePlan, images: DecodedImages) -> _Material:
        if plan.strategy == CACHED:
            stage.computation.run()
            examples = {split: stage.cached.examples(split) for split in SPLITS}
            return _Material(stage.frontier.tail, examples, stage.cached.rows, stage.frontier)
        return _Material(body_of(self._model), {split: images.examples(split) for split in SPLITS}, images.rows, None)

    def _export(self, folder: Path, material: _Material) -> Parity:
        """Save the model, and check that it agrees with the model that was trained."""
        selection, spec, frontier = self.request.selection, self.request.spec, material.frontier
        parts = Parts(
            spec=spec if frontier else dataclasses.replace(spec, dtype="float32"),
            cut=frontier.crossing if frontier else (),
            cached=material.rows,
            trunk=frontier.trunk.model if frontier else None,
            head=material.model,
        )
        return export_checked(self._model, folder, selection.features, selection.rows, parts)
