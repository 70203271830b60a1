"""Transfer learning on your own images: the frozen base of a pretrained Keras network runs once per image.

    import permafrost as pf

    features = pf.extract("photos", base="inception_v3", cut="mixed7", pool="avg", image_size=150)
    X, y = features.arrays("train")
    run = pf.fit_head(features, head="logistic", out="runs/first")
    tuned = pf.finetune(run, unfreeze="mixed6", epochs=5)

The packages follow the work: `images` reads pixels, `trunk` cuts a pretrained base, `engines` run it, `store` holds the
features, `extraction` fills the store, `heads` are fitted to the features, `model` exports one Keras model, and
`finetuning` trains the top of the base. `training` is the loop that heads and fine-tuning share.

Importing the package does not load NumPy, TensorFlow, Keras, scikit-learn or h5py. Each public name is imported from
its module when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from permafrost.extraction.extract import extract as extract
    from permafrost.extraction.transformer import FeatureExtractor as FeatureExtractor
    from permafrost.finetuning.finetune import finetune as finetune
    from permafrost.heads.fit import fit_head as fit_head
    from permafrost.model.evaluate import evaluate as evaluate
    from permafrost.model.predict import predict as predict
    from permafrost.model.run import Run as Run
    from permafrost.model.run import open_run as open_run
    from permafrost.store.feature_set import FeatureSet as FeatureSet
    from permafrost.store.feature_set import open_features as open_features

_HOMES: Final = {
    "FeatureExtractor": "extraction.transformer",
    "FeatureSet": "store.feature_set",
    "Run": "model.run",
    "evaluate": "model.evaluate",
    "extract": "extraction.extract",
    "finetune": "finetuning.finetune",
    "fit_head": "heads.fit",
    "open_features": "store.feature_set",
    "open_run": "model.run",
    "predict": "model.predict",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name from its module at first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'permafrost' has no attribute {name!r}")
    return getattr(importlib.import_module(f"permafrost.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
