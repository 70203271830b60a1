"""Unfreeze the top of a run's base and train it together with its head: the work behind `finetune`."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Unpack

import keras
import numpy as np

from permafrost.engines.selection import make_engine
from permafrost.errors import HeadError, OptionError
from permafrost.extraction.pipeline import PipelineOptions
from permafrost.finetuning.data import ImageData, Keeping, KeptData, Wanted
from permafrost.finetuning.frontier import Frontier, cut_below
from permafrost.finetuning.layers import find_stages, set_trainable, step_rates
from permafrost.finetuning.run_features import find_features
from permafrost.heads.data import split_rows
from permafrost.heads.options import WITHOUT_GRADIENT
from permafrost.images.augmentation import read_views
from permafrost.images.splits import SPLITS
from permafrost.machine import cpu_count
from permafrost.model.assembly import body_of, pixels_of
from permafrost.model.parity import export_checked
from permafrost.model.run import Run, RunContent, features_record, free_folder, open_run, rounded, staging, write_run
from permafrost.store.feature_set import FeatureSet
from permafrost.training.loop import Examples, predict_examples, require_validation, train
from permafrost.training.metrics import metrics, paired_difference
from permafrost.training.options import FINE_TUNING, TrainingSettings, with_settings
from permafrost.trunk.cutting import DTYPES
from permafrost.trunk.graph import as_precision
from permafrost.trunk.spec import canonical_json
from permafrost.units import parse_size

CACHE_LIMIT: Final = "20GB"
"""What the features of one stage may take on disk."""

CHECKPOINT_PREFIX: Final = ".checkpoint-"


def finetune(
    run: Run | str | os.PathLike[str],
    unfreeze: str | int | Sequence[str | int] | None = None,
    *,
    features: FeatureSet | str | os.PathLike[str] | None = None,
    views: int | str | None = None,
    augment: str | None = None,
    train_batchnorm: bool = False,
    lowest_rate: float = 1.0,
    dtype: str = "float32",
    cache_limit: int | str = CACHE_LIMIT,
    mixed_precision: bool = False,
    untrained_head: bool = False,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **training: Unpack[TrainingSettings],
) -> Run:
    """Train the top of a run's base together with its head, starting from the run's model.

    The frozen part runs once an image: what crosses the cut is kept, and training goes on from there. Where that would
    take too much room, or no less time, it runs in each epoch, and gives the same.

    If no epoch does better on what is monitored than the model that it started from, that model is the result. Where
    training is killed, the same request goes on from the last whole epoch.

    Args:
        run: a run of `fit_head` or `finetune`, or its folder.
        unfreeze: the lowest layer of the base that is trained, with all above it in the base's order: a layer's name,
            the beginning of a block's names (`block5`), an index in the base, or `all`; its upper quarter if None. A
            list of them, each lower than the one before, is trained one after the other, each for up to `epochs`.
        features: the feature set that the run was fitted to, or its file; the one that the run records if None.
        views: how many views of each training image are trained on by turns, one an epoch, the image itself among
            them; `live` for new ones in each epoch; 1 if None.
        augment: how views differ from their image, as for `extract`.
        train_batchnorm: whether BatchNorm layers of the base are trained too. Their statistics come from millions of
            images; a few small batches spoil them.
        lowest_rate: the learning rate of the lowest unfrozen layer, as a share of the head's; layers in between have
            rates in between.
        dtype: what features are kept in: `float32` or `float16`.
        cache_limit: the bytes that kept features may take on disk, as a number or like `20GB`; 0 keeps none.
        mixed_precision: whether to train in bfloat16, with weights in float32; needs a GPU.
        untrained_head: whether to go on where the run's head is no better than guessing. Its large gradients would
            destroy what the base has learnt.
        out: the new run's folder; `runs/<run>-finetuned` if None, with a number where that is taken.
        progress: whether to draw a progress bar where standard error is a terminal.
        **training: fields of `training_options.TrainingOptions`.

    Returns:
        The new run.

    Raises:
        PermafrostError: something about the request or its input; see `permafrost.errors`.
    """
    tuning = FineTuning(
        run,
        unfreeze,
        features=features,
        views=views,
        augment=augment,
        train_batchnorm=train_batchnorm,
        lowest_rate=lowest_rate,
        dtype=dtype,
        cache_limit=cache_limit,
        mixed_precision=mixed_precision,
        untrained_head=untrained_head,
        out=out,
        progress=progress,
        **training,
    )
    return tuning.run()


@dataclasses.dataclass(frozen=True)
class _Stage:
    """One unfreezing: the index of its lowest layer, the cut below it, and what is kept there."""

    lowest: int
    frontier: Frontier
    kept: KeptData


@dataclasses.dataclass(frozen=True)
class _Outcome:
    history: list[dict[str, float]]
    about: dict[str, Any]


class FineTuning:
    """One fine-tuning, prepared: the run is open, the cuts are made. Takes the arguments of `finetune`."""

    def __init__(
        self,
        run: Run | str | os.PathLike[str],
        unfreeze: str | int | Sequence[str | int] | None,
        *,
        features: FeatureSet | str | os.PathLike[str] | None,
        views: int | str | None,
        augment: str | None,
        train_batchnorm: bool,
        lowest_rate: float,
        dtype: str,
        cache_limit: int | str,
        mixed_precision: bool,
        untrained_head: bool,
        out: str | os.PathLike[str] | None,
        progress: bool,
        **training: Unpack[TrainingSettings],
    ) -> None:
        # All that can be wrong is looked at before anything is computed or written.
        self._started = time.perf_counter()
        self._training = with_settings(FINE_TUNING, training)
        self._cache_limit = parse_size(cache_limit)
        if dtype not in DTYPES:
            raise OptionError("unknown dtype", expected=" or ".join(DTYPES), found=dtype)
        if mixed_precision:
            _require_gpu()
        chosen = read_views(views, augment, live=True)
        self._run = run if isinstance(run, Run) else open_run(run)
        self.folder, self._replace = free_folder(out, f"{self._run.folder.name}-finetuned"), out is not None
        if self.folder.resolve() == self._run.folder.resolve():
            raise OptionError("a run cannot replace the one it starts from", do="give another --out")
        _require_trained(self._run, untrained_head)
        self._features = find_features(self._run, features)
        rows = split_rows(self._features, hold_out=self._training.monitor.startswith("val_"))
        self._wanted = Wanted(features=self._features, rows=rows, views=chosen)
        require_validation(len(rows["validation"]) > 0, self._training)
        # Opened anew: training changes the model, and the run's own is to stay what it is.
        self._model = open_run(self._run.folder).model
        self._base_layers: list[str] = self._features.store.about["base_layers"]
        self._train_batchnorm, self._lowest_rate, self._mixed = train_batchnorm, lowest_rate, mixed_precision
        self._progress = progress
        self._spec = dataclasses.replace(self._features.spec, dtype=dtype)
        self._stages = [
            self._stage(lowest)
            for lowest in find_stages(unfreeze, self._base_layers, [layer.name for layer in self._model.layers])
        ]

    def plan(self) -> list[Keeping]:
        """For each stage how it gets what it trains on, and why; nothing is written."""
        return [stage.kept.plan(self._training, self._cache_limit) for stage in self._stages]

    def run(self, plans: Sequence[Keeping] | None = None) -> Run:
        """Train, and leave a run.

        Args:
            plans: what `plan` gave; it is asked anew if None.
        """
        plans = self.plan() if plans is None else plans
        checkpoints = [self._checkpoint(number, plans) for number in range(len(self._stages))]
        with ThreadPoolExecutor(cpu_count(), "images") as threads, staging(self.folder) as stage_folder:
            images = ImageData(self._wanted, threads)
            outcomes: list[_Outcome] = []
            before: dict[str, np.ndarray] = {}
            for stage, plan, checkpoint in zip(self._stages, plans, checkpoints, strict=True):
                for other in self._stages:
                    other.kept.release()  # Those of the stage before are not looked at again.
                model, examples = self._material(stage, plan, images)
                self._set_trainable(stage.lowest)
                if not before:
                    before = {split: predict_examples(model, examples[split]) for split in SPLITS[1:]}
                outcomes.append(self._tune(stage, plan, model, examples, checkpoint))
            trained = time.perf_counter()
            outputs = {split: predict_examples(model, examples[split]) for split in SPLITS}
            kept = stage.kept if plan.how == "kept" else None
            body = body_of(self._model)
            parity = export_checked(
                self._model,
                stage_folder,
                self._features,
                self._wanted.rows,
                on_rows=lambda rows: _predict(model, kept.rows(rows) if kept else images.rows(rows)),
                on_pixels=lambda pixels: make_engine("keras", body, batch_size=len(pixels))(pixels)[0],
                spec=self._spec if kept else dataclasses.replace(self._spec, dtype="float32"),
            )
            now = time.perf_counter()
            about = self._about(outcomes, before, outputs) | {
                "parity": dataclasses.asdict(parity),
                "seconds": rounded(train=trained - self._started, export=now - trained, total=now - self._started),
            }
            labels = {split: examples[split].labels for split in SPLITS}
            content = RunContent(
                class_names=self._run.class_names,
                about=about,
                metrics={split: metrics(labels[split], outputs[split], self._run.class_names) for split in SPLITS},
                history=_joined([outcome.history for outcome in outcomes]),
                title=f"{self._spec.base} fine-tuned from {self._base_layers[self._stages[-1].lowest]}",
            )
            made = write_run(self.folder, stage_folder, content, replace=self._replace)
        for checkpoint in self._checkpoints():
            checkpoint.unlink(missing_ok=True)
        return made

    def _stage(self, lowest: int) -> _Stage:
        self._set_trainable(lowest)  # Refuses what leaves nothing to train.
        frontier = cut_below(self._model, pixels_of(self._model), lowest, self._spec, self._base_layers)
        parent = self._features.store.folder.parent
        return _Stage(
            lowest, frontier, KeptData(self._wanted, frontier, parent, PipelineOptions(progress=self._progress))
        )

    def _set_trainable(self, lowest: int) -> None:
        unfrozen, frozen = self._base_layers[lowest:], self._base_layers[:lowest]
        set_trainable(self._model, unfrozen, frozen=frozen, train_batchnorm=self._train_batchnorm)

    def _material(self, stage: _Stage, plan: Keeping, images: ImageData) -> tuple[keras.Model, dict[str, Examples]]:
        """What is trained, and on what."""
        if plan.how == "kept":
            stage.kept.compute()
            return stage.frontier.tail, {split: stage.kept.examples(split) for split in SPLITS}
        return body_of(self._model), {split: images.examples(split) for split in SPLITS}

    def _tune(
        self, stage: _Stage, plan: Keeping, model: keras.Model, examples: dict[str, Examples], checkpoint: Path
    ) -> _Outcome:
        """Train one stage."""
        trained = as_precision(model, "bfloat16", but=[model.layers[-1].name]) if self._mixed else model
        result = train(
            trained,
            examples["train"],
            examples["validation"] if len(examples["validation"]) else None,
            self._training,
            progress=self._progress,
            never_worse=True,
            rates=step_rates(trained, self._base_layers, self._lowest_rate),
            checkpoint=checkpoint,
        )
        if trained is not model:
            model.set_weights(trained.get_weights())
        about = {
            "from": self._base_layers[stage.lowest],
            "index": stage.lowest,
            "layers": len(self._base_layers) - stage.lowest,
            "keeping": dataclasses.asdict(plan),
            "monitor": self._training.monitor,
            "before": result.start_value,
            "after": result.best_value,
            "improved": result.improved,
            "best_epoch": result.best_epoch,
            "epochs": len(result.history),
            "diverged": result.diverged,
        }
        return _Outcome(result.history, about)

    def _about(
        self,
        outcomes: Sequence[_Outcome],
        before: dict[str, np.ndarray],
        outputs: dict[str, np.ndarray],
    ) -> dict[str, Any]:
        """What `run.json` says of the training."""
        first, last = outcomes[0].about, outcomes[-1].about
        test = self._features.labels()[self._wanted.rows["test"]]
        return {
            "kind": "finetune",
            "head": self._run.about["head"],
            "started_from": os.path.abspath(self._run.folder),
            "options": dataclasses.asdict(self._training) | self._settings(),
            "unfrozen": {key: last[key] for key in ("from", "index", "layers")},
            "stages": [outcome.about for outcome in outcomes],
            "details": {
                "monitor": first["monitor"],
                "before": first["before"],
                "after": last["after"],
                "improved": any(outcome.about["improved"] for outcome in outcomes),
                "epochs": sum(outcome.about["epochs"] for outcome in outcomes),
                "diverged": any(outcome.about["diverged"] for outcome in outcomes),
            },
            "before": {split: _brief(self._run.metrics.get(split, {})) for split in SPLITS},
            "test_difference": paired_difference(test, before["test"], outputs["test"]),
            **features_record(self._features, self.folder),
        }

    def _settings(self) -> dict[str, Any]:
        views = self._wanted.views
        return {
            "views": views.count if views.count is not None else "live",
            "augmentation": views.rule,
            "train_batchnorm": self._train_batchnorm,
            "lowest_rate": self._lowest_rate,
            "dtype": self._spec.dtype,
            "mixed_precision": self._mixed,
        }

    def _checkpoint(self, number: int, plans: Sequence[Keeping]) -> Path:
        """The file in which a stage keeps where it stands, named by all that decides what becomes of it."""
        request = {
            "model": self._run.about["model_sha256"],
            "features": self._features.digest,
            "stages": [stage.lowest for stage in self._stages[: number + 1]],
            "how": [plan.how for plan in plans[: number + 1]],
            "options": dataclasses.asdict(self._training) | self._settings(),
            "backend": keras.backend.backend(),
        }
        key = hashlib.sha256(canonical_json(request)).hexdigest()[:16]
        return self.folder.parent / f"{self._checkpoint_prefix}{key}.npz"

    def _checkpoints(self) -> list[Path]:
        """All checkpoints of the run that is made: of this request, and of others that were never finished."""
        return [path for path in self.folder.parent.iterdir() if path.name.startswith(self._checkpoint_prefix)]

    @property
    def _checkpoint_prefix(self) -> str:
        # Not the folder's name itself: with it, and what else is added to it, a file's name might be too long.
        return f"{CHECKPOINT_PREFIX}{hashlib.sha256(os.fsencode(self.folder.name)).hexdigest()[:8]}-"


def _require_trained(run: Run, allowed: bool) -> None:
    """Refuse a head from which no useful gradient comes: one of a kind that has none, or one that only guesses."""
    head, figures = run.about["head"], run.metrics["train"]
    if head in WITHOUT_GRADIENT:
        raise HeadError(
            f"nothing can be trained through the head of {run.folder}: {head} has no useful gradient",
            do="fit another head, such as logistic, and fine-tune that run",
        )
    counts = np.array([figure["n"] for figure in figures["classes"].values() if figure["n"]])
    shares = counts / counts.sum()
    guessing = float(-(shares * np.log(shares)).sum())
    half_way = (1 + 1 / len(counts)) / 2
    # Both, since the probabilities of some good heads are badly calibrated.
    if not allowed and not figures["log_loss"] < guessing and figures["balanced_accuracy"] < half_way:
        raise HeadError(
            f"the head of {run.folder} is not trained: its large gradients would destroy the base",
            expected=f"a log loss below {guessing:.3f}, that of guessing, on training images",
            found=f"{figures['log_loss']:.3f}",
            do="fit the head better, or go on all the same with --untrained-head",
        )


def _require_gpu() -> None:
    if not keras.distribution.list_devices("gpu"):
        raise OptionError("mixed precision is slower without a GPU", expected="a GPU", found="none")


def _predict(model: keras.Model, x: Any) -> np.ndarray:
    """A model's outputs for what it takes, all at once."""
    count = len(x[0] if isinstance(x, tuple) else x)

    def load(rows: np.ndarray) -> Any:
        return tuple(tensor[rows] for tensor in x) if isinstance(x, tuple) else x[rows]

    return predict_examples(model, Examples(np.zeros(count, np.int64), load))


def _joined(histories: Sequence[list[dict[str, float]]]) -> list[dict[str, float]]:
    """The histories of all stages, their epochs counted on."""
    rows = (row for history in histories for row in history)
    return [row | {"epoch": number} for number, row in enumerate(rows, 1)]


def _brief(figures: dict[str, Any]) -> dict[str, Any]:
    return {key: figures[key] for key in ("accuracy", "balanced_accuracy", "log_loss", "n") if key in figures}
