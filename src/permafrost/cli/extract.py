"""`extract`: run the trunk on images and write a feature set."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from permafrost.cli import COMMANDS
from permafrost.cli.command import command, show
from permafrost.cli.options import record_options
from permafrost.cli.text import class_lines, duplicate_lines, duration, remark_lines, skipped_lines, split_lines
from permafrost.extraction.options import ExtractOptions
from permafrost.extraction.stopwatch import STAGES
from permafrost.units import size


@command("extract", COMMANDS["extract"])
@click.argument("data", type=click.Path())
@record_options(ExtractOptions)
@click.option("--dry-run", is_flag=True, help="Print what would be computed, and write nothing.")
def extract(*, data: str, cut: str | None, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Run the frozen base once over the images and cache its features.

    DATA is a folder with one folder per class, with or without split folders (train/, val/, test_set/, ...) around them
    or in each; a CSV with the columns path,label[,split][,group]; or an .npz with X_train, y_train[, X_validation,
    ...].

    Cached features are reused even if images have been renamed, moved, relabelled or re-split.
    """
    from permafrost.extraction.extract import Extraction

    extraction = Extraction(data, ExtractOptions(cut=cut, **options))
    if dry_run:
        plans = [dataclasses.asdict(plan) for plan in extraction.plan()]
        lines = _image_lines(plans[0]) + [line for plan in plans for line in _plan_lines(plan)]
        show(plans if len(plans) > 1 else plans[0], lines, as_json=as_json)
        return
    sets = extraction.run()
    summaries = [features.summary for features in sets]
    lines = _image_lines(summaries[0], "; `permafrost features show` lists all")
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


def _image_lines(result: dict[str, Any], more: str = "") -> list[str]:
    """Return what was found, the same for all cuts."""
    return [
        *remark_lines(result),
        *skipped_lines(result, more),
        *duplicate_lines(result["duplicates"]),
        *class_lines(result["splits"]),
        *split_lines(result),
    ]


def _set_lines(features: Any) -> list[str]:
    summary, seconds = features.summary, features.summary["seconds"]
    waits = ", ".join(f"{stage} {duration(seconds[name])}" for name, stage in STAGES.items())
    rate = summary["images"] / max(seconds["all"] - seconds["engine"], 1e-3)
    views = [] if features.views == 1 else [f"views: {features.views} of each training image, {features.augmentation}"]
    return [
        *views,
        f"computed: {summary['computed']:,}{_by_engine(summary)}; cached: {summary['cached']:,}",
        *(f"not used: {line.split('. ')[0]}" for line in summary["damaged"]),
        f"time: {duration(seconds['total'])}; start {duration(seconds['start'])}, then {rate:,.0f} images per second, "
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
