"""Describe a feature set, for people and as JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from permafrost.images.splits import SPLITS
from permafrost.store.duplicates import describe_duplicates
from permafrost.store.feature_set import FeatureSet


def describe_set(features: FeatureSet) -> dict[str, Any]:
    """Return what `features show --json` prints."""
    content = features.content
    splits = {}
    for split in SPLITS:
        labels = features.labels(split)
        counts = np.bincount(labels, minlength=len(features.class_names))
        splits[split] = {"n": len(labels), "classes": dict(zip(features.class_names, counts.tolist(), strict=True))}
    return {
        "set": str(features.place),
        "store": features.place.storage.below(content.store).location(),
        "data": features.root,
        "images": len(features),
        "classes": features.class_names,
        "splits": splits,
        "shape": list(features.shape),
        "views": features.views,
        "augmentation": features.augmentation,
        "trunk": features.spec.to_json(),
        "key": features.spec.key,
        "shards": len(content.shards),
        "skipped": [{"path": name, "reason": reason} for name, reason in content.skipped],
        "duplicates": describe_duplicates(content),
    }
