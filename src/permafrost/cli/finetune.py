"""`finetune`: a run in, a better one out."""

from __future__ import annotations

from typing import Any

import click

from permafrost.cli import COMMANDS
from permafrost.cli.common import command, figures_line, progress_option, show, training_options
from permafrost.cli.fit_head import run_lines
from permafrost.training_options import FINE_TUNING


@command("finetune", COMMANDS["finetune"])
@click.argument("run", metavar="RUN/", type=click.Path())
@click.option(
    "--unfreeze", metavar="LAYER|INDEX|all", help="Lowest layer or block that is trained.  [default: the upper quarter]"
)
@training_options(FINE_TUNING)
@click.option(
    "--train-batchnorm", is_flag=True, help="Train BatchNorm layers of the base too, instead of keeping them frozen."
)
@click.option("--out", type=click.Path(), metavar="RUN/", help="The new run's folder.  [default: runs/<RUN>-finetuned]")
@progress_option
def finetune(*, run: str, as_json: bool, **options: Any) -> None:
    """Unfreeze the top of a run's base and train it with the head.

    The result is never worse than the run that it started from on what is monitored: if no epoch improves it, that
    model is kept.
    """
    from permafrost.finetuning import finetune as tune

    tuned = tune(run, **options)
    unfrozen, details, before = (tuned.about[key] for key in ("unfrozen", "details", "before"))
    outcome = "improved" if details["improved"] else "no epoch improved it, the model is the one it started from"
    reached = "not a number" if details["after"] is None else f"{details['after']:.4f}"
    lines = [
        f"unfrozen: from {unfrozen['from']} (layer {unfrozen['index']}) up",
        f"{details['monitor']}: {details['before']:.4f} before, {reached} at best: {outcome}",
        *(
            f"before: {figures_line(split, before[split])}"
            for split in ("validation", "test")
            if before[split].get("n")
        ),
        *run_lines(tuned),
    ]
    show(tuned.describe(), lines, as_json=as_json)
