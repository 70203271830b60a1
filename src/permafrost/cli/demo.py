"""`demo`: run the whole job on a small dataset, offline, and train the same network from scratch for comparison."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from permafrost.cli import COMMANDS
from permafrost.cli.command import command, show


@command("demo", COMMANDS["demo"])
@click.argument("photos", required=False, type=click.Path())
@click.option("--out", default="demo", show_default=True, type=click.Path(), help="Folder for the results.")
def demo(*, photos: str | None, out: str, as_json: bool) -> None:
    """Run the whole job on a small embedded dataset, offline.

    PHOTOS is a folder with one folder per class. Without it the demo writes the handwritten digits that come with
    scikit-learn as image files, 20 of each for training. The base is resnet20-cifar10, which comes with Permafrost.
    The last step trains the same network from random weights, on the same images and for as long as all steps before
    it took together.
    """
    from permafrost.cli.demo_job import Job

    job = Job(Path(out), quiet=as_json)
    job.run(photos)
    result = {
        "steps": [dataclasses.asdict(step) for step in job.steps],
        "accuracy": job.accuracy,
        "from_scratch": job.accuracy_from_scratch,
        "features": str(job.set_path),
        "run": str(job.tuned_folder),
    }
    gain = 100 * (job.accuracy - job.accuracy_from_scratch)
    lines = [
        "",
        f"transfer against the same network from scratch: {gain:+.1f} points of test accuracy",
        f"features: {job.set_path}",
        f"plots: {job.tuned_folder / 'curves.png'}, {job.tuned_folder / 'confusion.png'}",
        f"model: {job.tuned_folder / 'model.keras'}",
    ]
    show(result, lines, as_json=as_json)
