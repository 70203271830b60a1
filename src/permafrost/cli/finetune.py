"""`finetune`: train the top of a run's base together with its head."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import click

from permafrost.cli import COMMANDS
from permafrost.cli.command import command, show
from permafrost.cli.fit_head import run_lines
from permafrost.cli.options import record_options
from permafrost.cli.text import duration, metrics_line
from permafrost.errors import one_line
from permafrost.finetuning.options import FineTuneOptions, options_from
from permafrost.training.options import FINE_TUNING
from permafrost.units import size


@command("finetune", COMMANDS["finetune"])
@click.argument("run", metavar="RUN/", type=click.Path())
@record_options(FineTuneOptions, only=["unfreeze"])
@record_options(FINE_TUNING)
@record_options(FineTuneOptions, leave_out=["unfreeze"])
@click.option("--dry-run", is_flag=True, help="Print what would be cached and why, and do nothing.")
def finetune(*, run: str, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Unfreeze the top of a run's base and train it with the head.

    The trunk below the unfrozen layers runs once per image, and its features are cached. If that takes too much disk
    space, or no less time, it runs in each epoch instead, with the same result.

    If no epoch improves the monitored metric, the result is the model that training started from. If training is
    interrupted, the same command resumes from the last complete epoch.
    """
    from permafrost.finetuning.finetune import FineTuning

    tuning = FineTuning(run, options_from(options))
    plans = tuning.plan()
    plan_lines = [line for plan in plans for line in _plan_lines(plan)]
    if dry_run:
        show([dataclasses.asdict(plan) for plan in plans], [*plan_lines, "dry run: nothing was done"], as_json=as_json)
        return
    if not as_json:
        for line in plan_lines:
            click.echo(one_line(line))
    tuned = tuning.run(plans)
    lines = [
        *(line for stage in tuned.about["stages"] for line in _stage_lines(stage)),
        *(
            f"before: {metrics_line(split, tuned.about['before'][split])}"
            for split in ("validation", "test")
            if tuned.about["before"][split].get("n")
        ),
        *run_lines(tuned),
    ]
    show(tuned.describe(), [*_difference_lines(tuned.about["test_difference"]), *lines], as_json=as_json)


def _plan_lines(plan: Any) -> Iterator[str]:
    crossing = ", ".join(f"{name} {shape}" for name, shape in zip(plan.crossing, plan.shapes, strict=True))
    yield f"crossing the cut: {crossing}"
    if plan.strategy == "recompute":
        yield f"not cached; the trunk runs in each epoch: {plan.reason}"
    else:
        yield (
            f"cached: {plan.rows:,} images and views, {size(plan.bytes)} in {plan.store}; "
            f"{plan.missing:,} to compute, about {duration(plan.seconds)}"
        )
        yield f"reason: {plan.reason}"


def _stage_lines(stage: dict[str, Any]) -> Iterator[str]:
    yield f"unfrozen: from {stage['from']} (layer {stage['index']}) up, {stage['epochs']} epochs"
    if stage["improved"]:
        yield f"{stage['monitor']}: {stage['before']:.4f} before, {stage['after']:.4f} in epoch {stage['best_epoch']}"
    else:
        yield f"{stage['monitor']}: {stage['before']:.4f}; no epoch improved it; the model is unchanged"
    if stage["diverged"]:
        yield "training diverged and was stopped: lower --learning-rate, or give --clip-norm"


def _difference_lines(difference: dict[str, Any]) -> Iterator[str]:
    if difference["n"]:
        low, high = difference["interval"]
        yield (
            f"test accuracy: {difference['accuracy_difference']:+.4f} on {difference['n']:,} images, "
            f"95 % interval {low:+.4f} to {high:+.4f}"
        )
