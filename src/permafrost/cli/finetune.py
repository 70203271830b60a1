"""`finetune`: a run in, a better one out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import click

from permafrost.cli import COMMANDS
from permafrost.cli.command import command, show
from permafrost.cli.fit_head import run_lines
from permafrost.cli.options import progress_option, record_options
from permafrost.cli.text import duration, metrics_line
from permafrost.training.options import FINE_TUNING
from permafrost.units import size


@command("finetune", COMMANDS["finetune"])
@click.argument("run", metavar="RUN/", type=click.Path())
@click.option(
    "--unfreeze",
    metavar="LAYER|INDEX|all[,...]",
    help="Lowest layer or block that is trained; several, from the top down, to unfreeze them one after the other.  "
    "[default: the upper quarter]",
)
@record_options(FINE_TUNING)
@click.option(
    "--views", metavar="K|live", help="Views of each training image, one an epoch by turns; live: always new ones."
)
@click.option(
    "--augment",
    metavar="NAME[=RANGE],...",
    help="How views differ: flip, shift, rotate, zoom, brightness, contrast.  [default: flip,shift,rotate,zoom]",
)
@click.option(
    "--lowest-rate",
    type=float,
    default=1.0,
    show_default=True,
    help="The lowest layer's learning rate, as a share of the head's; those in between lie in between.",
)
@click.option(
    "--train-batchnorm", is_flag=True, help="Train BatchNorm layers of the base too, instead of keeping them frozen."
)
@click.option("--mixed-precision", is_flag=True, help="Train in bfloat16, on a GPU.")
@click.option("--untrained-head", is_flag=True, help="Go on where the run's head is no better than guessing.")
@click.option("--dtype", default="float32", show_default=True, help="What features are kept in: float32 or float16.")
@click.option(
    "--cache-limit",
    metavar="SIZE",
    default="20GB",
    show_default=True,
    help="What kept features may take on disk; 0 keeps none.",
)
@click.option(
    "--features",
    type=click.Path(),
    metavar="SET.h5",
    help="The feature set that the run was fitted to.  [default: the one that the run records]",
)
@click.option("--dry-run", is_flag=True, help="Say what would be kept and why, and do nothing.")
@click.option("--out", type=click.Path(), metavar="RUN/", help="The new run's folder.  [default: runs/<RUN>-finetuned]")
@progress_option
def finetune(*, run: str, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Unfreeze the top of a run's base and train it with the head.

    The frozen part runs once an image: what crosses the cut is kept, and each epoch goes on from there. Where that
    would take too much room, or no less time, it runs in each epoch, and the result is the same.

    The result is never worse than the run that it started from on what is monitored: if no epoch improves it, that
    model is kept. Where training is interrupted, the same command goes on from the last whole epoch.
    """
    from permafrost.finetuning.finetune import FineTuning

    tuning = FineTuning(run, **options)
    plans = tuning.plan()
    told = [line for plan in plans for line in _plan_lines(plan)]
    if dry_run:
        show([dataclasses.asdict(plan) for plan in plans], [*told, "nothing was done: a dry run"], as_json=as_json)
        return
    if not as_json:
        for line in told:
            click.echo(line)
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
    if plan.how == "fused":
        yield f"not kept, the frozen part runs in each epoch: {plan.why}"
    else:
        yield (
            f"kept: {plan.rows:,} images and views, {size(plan.bytes)} in {plan.store}; "
            f"{plan.missing:,} to compute, about {duration(plan.seconds)}"
        )
        yield f"why: {plan.why}"


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
            f"95 % between {low:+.4f} and {high:+.4f}"
        )
