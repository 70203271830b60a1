"""`evaluate`: a model and a dataset in, figures out."""

from __future__ import annotations

from typing import Any

import click

from permafrost.cli import COMMANDS
from permafrost.cli.command import command, show
from permafrost.cli.options import split_fractions
from permafrost.cli.text import absent_class_lines, metrics_line


@command("evaluate", COMMANDS["evaluate"])
@click.argument("model", metavar="RUN/|MODEL.keras", type=click.Path())
@click.argument("data", type=click.Path())
@click.option("--split", default="test", show_default=True, help="train, validation or test.")
@split_fractions
def evaluate(*, model: str, data: str, as_json: bool, **options: Any) -> None:
    """Say how well a model does on a dataset.

    Images are read from their files at full size; the model itself resizes them.
    """
    from permafrost.model.inference import evaluate as run

    figures = run(model, data, **options)
    lines = [f"skipped: {figures['skipped']}"] if figures["skipped"] else []
    for name, values in figures["classes"].items():
        shares = ", ".join(
            f"{key} {'n/a' if values[key] is None else format(values[key], '.4f')}"
            for key in ("precision", "recall", "f1")
        )
        lines.append(f"  {name}: {shares}, {values['n']:,} images")
    split = figures["split"]
    show(figures, [*lines, metrics_line(split, figures), *absent_class_lines(split, figures)], as_json=as_json)
