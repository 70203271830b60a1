"""`extract`: images in, a feature set out."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from permafrost.cli import COMMANDS
from permafrost.cli.command import command, show
from permafrost.cli.options import ImageSize, progress_option, split_fractions
from permafrost.cli.text import duplicate_lines, duration
from permafrost.extraction.stopwatch import STAGES
from permafrost.images.limits import MAX_PIXELS
from permafrost.units import size


@command("extract", COMMANDS["extract"])
@click.argument("data", type=click.Path())
@click.option(
    "--base",
    help="A name from keras.applications, with options behind a colon, FILE.keras, or RUN/.  [default: mobilenet_v2]",
)
@click.option("--weights", help="imagenet, none (random), or a file.  [default: the base's own]")
@click.option(
    "--cut", metavar="LAYER|INDEX[,...]", help="Layer whose output is kept; several in one pass.  [default: the last]"
)
@click.option("--pool", default="none", show_default=True, help="none, avg or max, over height and width.")
@click.option(
    "--image-size",
    metavar="PX|HxW",
    type=ImageSize(),
    help="Height and width at which the base sees images.  [default: the base's own]",
)
@click.option("--preprocessing", help="What a FILE.keras wants as input: none, tf, caffe or torch.")
@click.option(
    "--views", type=int, metavar="K", help="Views kept of each training image, itself among them.  [default: 1]"
)
@click.option(
    "--augment",
    metavar="NAME[=RANGE],...",
    help="How views differ: flip, shift, rotate, zoom, brightness, contrast.  [default: flip,shift,rotate,zoom]",
)
@click.option("--dtype", default="float32", show_default=True, help="What features are stored in: float32 or float16.")
@click.option(
    "--precision", default="float32", show_default=True, help="What the base computes in: float32 or bfloat16."
)
@click.option("--engine", default="auto", show_default=True, help="What runs the base: auto, keras or openvino.")
@click.option("--batch-size", type=int, help="Images in a batch.  [default: 8 with openvino, 32 with keras]")
@click.option("--workers", type=int, help="Threads that read and decode.  [default: one a processor]")
@split_fractions
@click.option("--out", type=click.Path(), metavar="SET.h5", help="The set's file.  [default: features/<DATA>.h5]")
@click.option("--on-bad", default="skip", show_default=True, help="With images that cannot be decoded: skip or fail.")
@click.option(
    "--max-pixels",
    type=int,
    default=MAX_PIXELS,
    show_default=True,
    help="Images with more are skipped before they are decoded.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be computed, and do nothing.")
@progress_option
def extract(*, cut: str | None, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Run the frozen base once over the images and keep its features.

    DATA is a folder with one folder a class, or with train/, validation/ and test/ folders of those; a CSV with the
    columns path,label[,split]; or an .npz with X_train, y_train[, X_validation, ...].

    Images whose features are cached are not computed again, whatever they are called and wherever they lie.
    """
    from permafrost.extraction.extract import Extraction

    cuts = cut.split(",") if cut else None
    extraction = Extraction(cut=cuts, **options)
    if dry_run:
        plans = [dataclasses.asdict(plan) for plan in extraction.plan()]
        lines = [line for plan in plans for line in _plan_lines(plan)]
        show(plans if len(plans) > 1 else plans[0], lines, as_json=as_json)
        return
    sets = extraction.run()
    summaries = [features.summary for features in sets]
    lines = _skipped_lines(summaries[0]) + duplicate_lines(summaries[0]["duplicates"])
    lines += [line for features in sets for line in _set_lines(features)]
    show(summaries if len(summaries) > 1 else summaries[0], lines, as_json=as_json)


def _plan_lines(plan: dict[str, Any]) -> list[str]:
    return [
        f"would compute {plan['compute']:,} of {_wanted(plan)}; {plan['cached']:,} are cached",
        f"features of shape {plan['shape']} take {size(plan['bytes'])}, and about {duration(plan['seconds'])}",
        f"store: {plan['store']}",
        f"set: {plan['set']} (not written: this was a dry run)",
    ]


def _wanted(plan: dict[str, Any]) -> str:
    if plan["views"] == 1:
        return f"{plan['images']:,} images"
    return f"{plan['compute'] + plan['cached']:,} images and views"


def _skipped_lines(summary: dict[str, Any], most: int = 10) -> list[str]:
    skipped = summary["skipped_paths"]
    if not skipped:
        return []
    lines = [f"skipped: {len(skipped):,}"] + [f"  {entry['path']}: {entry['reason']}" for entry in skipped[:most]]
    if len(skipped) > most:
        lines.append(f"  and {len(skipped) - most:,} more; `permafrost features show` lists them")
    return lines


def _set_lines(features: Any) -> list[str]:
    from permafrost.store.description import describe_set

    summary, description = features.summary, describe_set(features)
    seconds = summary["seconds"]
    waits = ", ".join(f"{stage} {duration(seconds[name])}" for name, stage in STAGES.items())
    rate = summary["images"] / max(seconds["all"] - seconds["engine"], 1e-3)
    splits = ", ".join(f"{name} {split['n']:,}" for name, split in description["splits"].items())
    views = [] if features.views == 1 else [f"views: {features.views} of each training image, {features.augmentation}"]
    return [
        f"images: {summary['images']:,} ({splits}); {len(features.class_names)} classes",
        *views,
        f"computed: {summary['computed']:,}{_by_engine(summary)}; cached: {summary['cached']:,}",
        *(f"not used: {line.split('. ')[0]}" for line in summary["damaged"]),
        f"time: {duration(seconds['total'])}; start {duration(seconds['start'])}, then {rate:,.0f} images a second, "
        f"limited by {summary['limit']} (waiting for: {waits})",
        f"features: {features.spec.base} {features.spec.cut}, shape {tuple(summary['shape'])}, {features.spec.dtype}",
        f"store: {summary['store']}",
        f"set: {summary['set']}",
    ]


def _by_engine(summary: dict[str, Any]) -> str:
    if not summary["engine"]:
        return ""
    notes = []
    if summary["engine_difference"] is not None:
        notes.append(f"within {summary['engine_difference']:.1e} of Keras")
    if summary["engine_why"]:
        notes.append(summary["engine_why"])
    return f" by {summary['engine']}" + (f" ({'; '.join(notes)})" if notes else "")
