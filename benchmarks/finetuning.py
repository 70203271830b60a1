"""Fine-tuning from cached features is faster than training the same layers in one ordinary Keras model.

Ordinary: the base and a softmax layer in one model, the lower layers frozen by `trainable = False`; its images are
decoded, resized and preprocessed in memory beforehand, which is not counted. Permafrost: what crosses the cut is
computed once and cached, which is measured separately; the tail is trained from the cache. Both train the same layers
with the same optimizer in batches of 32, alternating in this process, compiled with Keras' defaults (on a CPU without
XLA). A step is Keras' own `train_on_batch` on a batch in memory; an epoch is one pass over the training images and an
evaluation of the validation images, after compilation.

    python benchmarks/finetuning.py --base vgg16 --images 200 --steps 3 --rounds 3
    python benchmarks/finetuning.py --base inception_v3 --images 400 --steps 8 --rounds 3
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import common
import keras
import numpy as np

import permafrost as pf
from permafrost.extraction.originals import Originals
from permafrost.finetuning.options import options_from
from permafrost.finetuning.request import check_request
from permafrost.finetuning.stages import build_stages
from permafrost.training.conv_gradient import quick_gradients
from permafrost.training.loop import Batches, predict_examples

UNFROZEN = {"vgg16": "block5", "inception_v3": 172}
BATCH = 32


def ordinary(setting: common.Setting, lowest: int) -> tuple[keras.Model, Any]:
    """Return the model as a tutorial builds it, with layers below `lowest` frozen; and `preprocess_input`."""
    base, preprocess = setting.by_keras()
    for number, layer in enumerate(base.layers):
        layer.trainable = number >= lowest and not isinstance(layer, keras.layers.BatchNormalization)
    pooled = keras.layers.GlobalAveragePooling2D()(base.output)
    model = keras.Model(base.input, keras.layers.Dense(2, "softmax")(pooled))
    model.compile(keras.optimizers.SGD(1e-5, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model, preprocess


def steps_of(model: keras.Model, x: Any, y: np.ndarray, count: int) -> float:
    """Return the median seconds of `count` steps on one batch in memory."""
    return statistics.median(common.timed(lambda: model.train_on_batch(x, y))[0] for _ in range(count))


def main() -> None:
    given = common.arguments(__doc__, base=list(UNFROZEN), images=400, steps=8, rounds=3)
    setting = common.SETTINGS[given.base]
    common.show_machine()
    with tempfile.TemporaryDirectory() as scratch:
        folder = common.photographs(given.images, Path(scratch, "photographs"))
        out = Path(scratch, "features", "set.h5")
        options = {"pool": "avg", "validation_fraction": 0.2, "test_fraction": 0.0}
        features = pf.extract(folder, **setting.of_extract(), **options, out=out, progress=False)
        run = pf.fit_head(features, "ridge", regularization=1.0, out=Path(scratch, "run"), progress=False)
        wanted = {"unfreeze": UNFROZEN[setting.base], "features": features, "untrained_head": True, "progress": False}
        request = check_request(run, options_from(wanted))
        (stage,) = build_stages(run.model, request)
        tail, cache = stage.frontier.tail, stage.cache
        extraction, _ = common.timed(stage.computation.run)
        model, preprocess = ordinary(setting, stage.lowest)
        print(f"{setting.base} from {UNFROZEN[setting.base]}, {setting.size} px, {given.images} images")
        print(f"crossing: {cache.spec.cut} {cache.spec.shapes}, {cache.row_bytes / 1e3:.0f} kB per image")
        print(f"trained: {sum(np.prod(v.shape) for v in tail.trainable_variables):,} numbers in the tail,")
        print(f"  {sum(np.prod(v.shape) for v in model.trainable_variables):,} in the ordinary model")

        labels = {split: features.labels(split) for split in ("train", "validation")}
        originals = Originals(features)
        pixels = {
            split: preprocess(np.stack([originals.pixels(int(row)) for row in features.rows(split)]).astype(np.float32))
            for split in labels
        }
        examples = {split: stage.cached.examples(split) for split in labels}
        batch = np.arange(BATCH)
        y = labels["train"][batch]
        tail.compile(keras.optimizers.SGD(1e-5, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])

        def cached_epoch() -> None:
            tail.fit(Batches(examples["train"], BATCH, seed=0), verbose=0)
            predict_examples(tail, examples["validation"])

        def ordinary_epoch() -> Any:
            return model.fit(
                pixels["train"],
                labels["train"],
                batch_size=BATCH,
                validation_data=(pixels["validation"], labels["validation"]),
                validation_batch_size=64,
                verbose=0,
            )

        predict_examples(tail, examples["train"])  # From the store into memory, as the first epoch does.
        x = {"cached": examples["train"].load(batch), "ordinary": pixels["train"][batch]}
        with quick_gradients(tail):  # As `train` does; what is compiled here stays compiled.
            cached_epoch()
            steps_of(tail, x["cached"], y, 1)
        ordinary_epoch()
        steps_of(model, x["ordinary"], y, 1)
        steps = common.take_turns(
            {
                "ordinary": lambda: steps_of(model, x["ordinary"], y, given.steps),
                "cached": lambda: steps_of(tail, x["cached"], y, given.steps),
            },
            given.rounds,
        )
        epochs = common.take_turns(
            {
                "ordinary": lambda: common.timed(ordinary_epoch)[0],
                "cached": lambda: common.timed(cached_epoch)[0],
            },
            given.rounds,
        )
    for what, seconds in (("step", steps), ("epoch", epochs)):
        for name, values in seconds.items():
            print(f"{what}, {name}: {common.spread(values, '.3f')} s")
        print(f"{what}, ratio: {common.spread(common.ratios(seconds['ordinary'], seconds['cached']))}")
    saved = statistics.median(epochs["ordinary"]) - statistics.median(epochs["cached"])
    print(f"extraction: {extraction:.1f} s, recovered after {extraction / saved:.1f} epochs")


if __name__ == "__main__":
    main()
