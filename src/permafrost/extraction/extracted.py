"""What `extract` returns: a feature set with its trunk and a summary of the extraction."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from permafrost.store.feature_set import FeatureSet
from permafrost.store.set_content import SetContent

if TYPE_CHECKING:
    from permafrost.trunk.cutting import Trunk

_LOADED: Final[weakref.WeakKeyDictionary[FeatureSet, Trunk]] = weakref.WeakKeyDictionary()


class ExtractedSet(FeatureSet):
    """The feature set that an extraction has just written.

    Attributes:
        summary: what `extract --json` prints: images computed and cached, seconds, ...
        trunk: the trunk that computed the features; None in a copy that was sent to another process.
    """

    def __init__(self, path: Path, content: SetContent, *, summary: dict[str, Any], trunk: Trunk | None) -> None:
        super().__init__(path, content)
        self.summary = summary
        self.trunk = trunk

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the trunk: hundreds of megabytes that `trunk_of` can load again."""
        return vars(self) | {"trunk": None}


def trunk_of(features: FeatureSet) -> Trunk:
    """Return the trunk of a feature set, loaded from its store at most once per set object.

    Building the layers of a base takes longer than fitting a head.

    Raises:
        SetError: the store is gone, or holds another trunk's features.
        StoreError: the trunk is missing, or is not the one that the store describes.
        BaseError: the trunk's file is damaged.
    """
    if isinstance(features, ExtractedSet) and features.trunk is not None:
        return features.trunk
    if features not in _LOADED:
        from permafrost.trunk.cutting import TRUNK_FILE, load_trunk

        store = features.store
        _LOADED[features] = load_trunk(store.folder / TRUNK_FILE, store.spec, store.about["base_layers"])
    return _LOADED[features]
