"""`fit-head`: a feature set in, a run with one Keras model out."""

from __future__ import annotations

from typing import Any

import click

from permafrost.cli import COMMANDS
from permafrost.cli.common import (
    command,
    duration,
    figures_line,
    parity_lines,
    progress_option,
    show,
    training_options,
)
from permafrost.errors import OptionError
from permafrost.training_options import HEAD_TRAINING


@command("fit-head", COMMANDS["fit-head"])
@click.argument("features", metavar="SET.h5", type=click.Path())
@click.option("--head", default="dense", show_default=True, help="dense (Keras) or logistic (scikit-learn).")
@click.option(
    "--hidden", default="256", show_default=True, help="dense: units of each hidden layer: 256, 512,128, or 0 for none."
)
@click.option(
    "--dropout", type=float, default=0.0, show_default=True, help="dense: share of units dropped in training."
)
@click.option(
    "--regularization",
    type=float,
    metavar="C",
    help="logistic: inverse strength.  [default: chosen by cross-validation]",
)
@training_options(HEAD_TRAINING)
@click.option("--out", type=click.Path(), metavar="RUN/", help="The run's folder.  [default: runs/<SET>-<head>]")
@progress_option
def fit_head(*, features: str, hidden: str, as_json: bool, **options: Any) -> None:
    """Fit a head to kept features and export one Keras model.

    The model takes pictures of any size, 0 to 255, and gives probabilities; it opens with plain Keras.
    """
    units = parse_hidden(hidden)
    from permafrost.fitting import fit_head as fit

    run = fit(features, hidden=units, **options)
    show(run.describe(), run_lines(run), as_json=as_json)


def parse_hidden(text: str) -> tuple[int, ...]:
    """Units of the hidden layers: `256`, `512,128`; `0` is none.

    Raises:
        OptionError: not whole numbers.
    """
    try:
        units = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise OptionError("hidden layers are whole numbers", expected="256, or 512,128, or 0", found=text) from error
    return () if units == (0,) else units


def run_lines(run: Any) -> list[str]:
    """What a run is, as lines for people."""
    return [
        *(figures_line(split, run.metrics[split]) for split in ("train", "validation", "test")),
        *parity_lines(run.about["parity"]),
        f"time: {duration(run.about['seconds']['total'])}",
        f"run: {run.folder}",
        f"model: {run.model_path}",
    ]
