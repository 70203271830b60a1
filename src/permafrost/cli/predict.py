"""`predict`: a model and images in, labels out."""

from __future__ import annotations

from typing import Any

import click

from permafrost.cli import COMMANDS
from permafrost.cli.command import command, show


@command("predict", COMMANDS["predict"])
@click.argument("model", metavar="RUN/|MODEL.keras", type=click.Path())
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path())
@click.option("--top", type=int, default=3, show_default=True, help="How many classes to give for each.")
def predict(*, model: str, images: tuple[str, ...], top: int, as_json: bool) -> int:
    """Say what a model sees in images.

    IMAGE is a file, or a folder, whose images are taken. Exit status 2 if one of them cannot be decoded; the others
    are answered all the same.
    """
    from permafrost.model.inference import predict as run

    answers = run(model, images, top=top)
    show(answers, [_line(answer) for answer in answers], as_json=as_json)
    bad = [answer for answer in answers if "error" in answer]
    for answer in bad:
        click.echo(f"permafrost predict: bad image {answer['path']}: {answer['error']}", err=True)
    return 2 if bad else 0


def _line(answer: dict[str, Any]) -> str:
    if "error" in answer:
        return f"{answer['path']}: bad image"
    return f"{answer['path']}: " + ", ".join(f"{best['label']} {best['probability']:.4f}" for best in answer["top"])
