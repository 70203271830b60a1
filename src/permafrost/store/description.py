"""Describe a feature set, for people and as JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from permafrost.errors import listed
from permafrost.images.splits import SPLITS, TRAIN
from permafrost.images.splitting.units import NO_GROUP
from permafrost.store.duplicates import describe_duplicates
from permafrost.store.feature_set import FeatureSet
from permafrost.store.set_content import SetContent


def describe_set(features: FeatureSet) -> dict[str, Any]:
    """Return what `features show --json` prints."""
    content = features.content
    return {
        "set": str(features.place),
        "store": features.place.storage.below(content.store).location(),
        "data": features.root,
        "images": len(features),
        "classes": features.class_names,
        "splits": describe_splits(content),
        "splitting": content.about.get("splits"),
        "shape": list(features.shape),
        "views": features.views,
        "augmentation": features.augmentation,
        "trunk": features.spec.to_json(),
        "key": features.spec.key,
        "shards": len(content.shards),
        "skipped": [{"path": name, "reason": reason} for name, reason in content.skipped],
        "duplicates": describe_duplicates(content),
        "warnings": split_warnings(content),
    }


def describe_splits(content: SetContent) -> dict[str, dict[str, Any]]:
    """Return for each split `n`, the number of images; `groups`, that of their groups or None; and `classes`."""
    found = {}
    for number, split in enumerate(SPLITS):
        rows = content.splits == number
        counts = np.bincount(content.labels[rows], minlength=len(content.class_names))
        found[split] = {
            "n": int(rows.sum()),
            "groups": None if content.groups is None else len(np.setdiff1d(content.groups[rows], NO_GROUP)),
            "classes": dict(zip(content.class_names, counts.tolist(), strict=True)),
        }
    return found


def split_warnings(content: SetContent) -> list[str]:
    """Return a line for each way in which the splits of a set suit no fit or no honest evaluation."""
    lines = []
    trained = np.bincount(content.labels[content.splits == TRAIN], minlength=len(content.class_names))
    absent = [name for name, count in zip(content.class_names, trained.tolist(), strict=True) if not count]
    if absent:
        lines.append(f"there are no training images of {listed(absent, 10)}, so no head can be fitted")
    decided = content.about.get("splits", {"decided": 0})
    for split in ("validation", "test") if decided["decided"] else ():
        fraction = decided[f"{split}_fraction"]
        if fraction and not (content.splits == SPLITS.index(split)).any():
            lines.append(
                f"there are no {split} images: too few images or groups to hold out {fraction:g} of each class"
            )
    if content.groups is not None:
        rows = content.groups != NO_GROUP
        pairs = np.unique(np.stack([content.groups[rows], content.splits[rows]]), axis=1)
        torn = int((np.unique(pairs[0], return_counts=True)[1] > 1).sum())
        if torn:
            what = "1 group is" if torn == 1 else f"{torn:,} groups are"
            lines.append(f"{what} in more than one split, as the dataset gives them, which inflates the score")
    return lines
