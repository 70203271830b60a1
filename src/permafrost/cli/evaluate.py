"""`evaluate`: compute a model's metrics on a dataset."""

from __future__ import annotations

from typing import Any

import click

from permafrost.cli import COMMANDS
from permafrost.cli.command import command, show
from permafrost.cli.options import record_options
from permafrost.cli.text import absent_class_lines, metrics_line
from permafrost.extraction.options import ExtractOptions


@command("evaluate", COMMANDS["evaluate"])
@click.argument("model", metavar="RUN/|MODEL.keras", type=click.Path())
@click.argument("data", type=click.Path())
@click.option("--split", default="test", show_default=True, help="The split to evaluate on: train, validation or test.")
@record_options(ExtractOptions, only=["validation_fraction", "test_fraction"])
def evaluate(*, model: str, data: str, as_json: bool, **options: Any) -> None:
    """Evaluate a model on one split of a dataset.

    Images are read from their files at full size; the model itself resizes them.
    """
    from permafrost.model.evaluate import evaluate as run

    metrics = run(model, data, **options)
    lines = [f"skipped: {metrics['skipped']}"] if metrics["skipped"] else []
    for name, values in metrics["classes"].items():
        scores = ", ".join(
            f"{key} {'n/a' if values[key] is None else format(values[key], '.4f')}"
            for key in ("precision", "recall", "f1")
        )
        lines.append(f"  {name}: {scores}, {values['n']:,} images")
    split = metrics["split"]
    show(metrics, [*lines, metrics_line(split, metrics), *absent_class_lines(split, metrics)], as_json=as_json)
