"""`demo`: the whole job on a small data set, offline."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from permafrost.cli import COMMANDS
from permafrost.cli.common import command, duration, show

BASE: Final = "mobilenet:alpha=0.25"
CUT: Final = "conv_pw_5_relu"
IMAGE_SIZE: Final = 64
T = TypeVar("T")


@command("demo", COMMANDS["demo"])
@click.argument("photos", required=False, type=click.Path())
@click.option("--out", default="demo", show_default=True, type=click.Path(), help="Folder for all that it makes.")
def demo(*, photos: str | None, out: str, as_json: bool) -> None:
    """Run the whole job on a small data set, offline.

    Without PHOTOS, on the handwritten digits that come with scikit-learn, written out as pictures; with it, on that
    folder, which has one folder a class. The base has random weights, since nothing is downloaded: what you see is the
    path and its speed; with pretrained weights the same commands give far better features.
    """
    import permafrost as pf

    folder = Path(out)
    steps: list[dict[str, Any]] = []

    def step(name: str, work: Callable[[], T], found: Callable[[T], str]) -> T:
        started = time.perf_counter()
        result = work()
        steps.append({"step": name, "seconds": round(time.perf_counter() - started, 2), "result": found(result)})
        if not as_json:
            click.echo(f"{name:<28} {duration(steps[-1]['seconds']):>9}   {steps[-1]['result']}")
        return result

    data = photos or step("write digits as pictures", lambda: write_digits(folder / "digits"), str)
    settings: dict[str, Any] = {
        "base": BASE,
        "weights": "none",
        "cut": CUT,
        "pool": "avg",
        "image_size": IMAGE_SIZE,
        "out": folder / "features" / "demo.h5",
    }
    features = step("extract", lambda: pf.extract(data, **settings), _extracted)
    step("extract once more", lambda: pf.extract(data, **settings), _extracted)
    step("fit-head logistic", lambda: pf.fit_head(features, "logistic", out=folder / "runs" / "logistic"), _accuracy)
    run = step("fit-head dense", lambda: pf.fit_head(features, out=folder / "runs" / "dense"), _accuracy)
    tuned = step(
        "finetune from conv_dw_5",
        lambda: pf.finetune(
            run, "conv_dw_5", epochs=4, optimizer="adam", learning_rate=3e-4, out=folder / "runs" / "finetuned"
        ),
        _accuracy,
    )
    figures = step("evaluate", lambda: pf.evaluate(tuned, data), lambda found: f"test accuracy {found['accuracy']:.3f}")
    result = {"steps": steps, "accuracy": figures["accuracy"], "features": str(features.path), "run": str(tuned.folder)}
    lines = [
        f"features: {features.path}",
        f"curves and confusion: {tuned.folder}/curves.png, {tuned.folder}/confusion.png",
        f"model: {tuned.model_path}",
    ]
    show(result, lines, as_json=as_json)


def write_digits(folder: Path) -> str:
    """Write scikit-learn's 1,797 handwritten digits as PNG files, a folder a class.

    They are those of the UCI repository's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998).

    Returns:
        The folder.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(label) / f"{number:04}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # From 0 to 16 in the data set; eight times as large, as a scan would be.
            image = Image.fromarray((pixels * 255 / 16).round().astype("uint8"))
            image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC).save(path)
    return str(folder)


def _extracted(features: Any) -> str:
    summary = features.summary
    return f"{summary['computed']:,} pictures computed, {summary['kept']:,} kept already"


def _accuracy(run: Any) -> str:
    accuracy, difference = run.metrics["test"]["accuracy"], run.about["parity"]["resized_max_difference"]
    return f"test accuracy {accuracy:.3f}, parity {difference:.0e}"
