"""(a) Extraction is faster than plain Keras, from files on disk to features in memory.

Plain Keras: `image_dataset_from_directory` with its resizing, `preprocess_input` in a parallel `map`, prefetching,
`model.predict`. Permafrost: `extract` into an empty store, then reading the features. Both build the base in
each round, in this one process, with TensorFlow imported; the whole time counts, with the conversion to
OpenVINO and the check against Keras. "Without start-up" leaves out what does not grow with the images: for Keras
building the base, for Permafrost everything before the first batch.

    python benchmarks/extract_against_keras.py --base inception_v3 --images 1000 --rounds 3
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import common
import keras
import numpy as np

import permafrost as pf


def keras_way(setting: common.Setting, folder: Path, start: list[float]) -> np.ndarray:
    started = time.perf_counter()
    model, preprocess = setting.by_keras()
    start.append(time.perf_counter() - started)
    images = keras.utils.image_dataset_from_directory(
        folder, image_size=(setting.size, setting.size), batch_size=32, shuffle=False, verbose=False
    )
    images = images.map(lambda x, y: (preprocess(x), y), num_parallel_calls=-1).prefetch(-1)
    return model.predict(images, verbose=0)


def permafrost_way(setting: common.Setting, folder: Path, out: Path, start: list[float], **options: Any) -> np.ndarray:
    features = pf.extract(folder, **setting.of_extract(), out=out, progress=False, **options)
    start.append(features.summary["seconds"]["start"])
    print(f"  {features.summary['engine']}, {features.summary['limit']}: {features.summary['seconds']}")
    return features.arrays()[0]


def main() -> None:
    given = common.arguments(
        __doc__,
        base=list(common.SETTINGS),
        precision=["float32", "bfloat16"],
        engine=["auto", "openvino", "keras"],
        images=1000,
        rounds=3,
    )
    setting = common.SETTINGS[given.base]
    common.show_machine()
    print(f"{setting.base} to {setting.cut or 'its end'}, {setting.size} px, {given.precision}, {given.images} images")
    starts: dict[str, list[float]] = {"keras": [], "permafrost": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = common.photographs(given.images, Path(scratch, "photographs"))
        shapes = set()

        def by_keras() -> float:
            seconds, features = common.timed(lambda: keras_way(setting, folder, starts["keras"]))
            shapes.add(features.shape)
            return seconds

        def by_permafrost() -> float:
            with tempfile.TemporaryDirectory(dir=scratch) as place:
                out = Path(place, "set.h5")
                seconds, features = common.timed(
                    lambda: permafrost_way(
                        setting, folder, out, starts["permafrost"], precision=given.precision, engine=given.engine
                    )
                )
            shapes.add(features.shape)
            return seconds

        seconds = common.take_turns({"keras": by_keras, "permafrost": by_permafrost}, given.rounds)
    assert len(shapes) == 1, shapes
    for name, values in seconds.items():
        rate = [given.images / value for value in values]
        print(f"{name}: {common.spread(values)} s, {common.spread(rate, '.1f')} images per second")
    rest = {name: [a - b for a, b in zip(values, starts[name], strict=True)] for name, values in seconds.items()}
    print(f"ratio: {common.spread(common.ratios(seconds['keras'], seconds['permafrost']))}")
    print(f"ratio without start-up: {common.spread(common.ratios(rest['keras'], rest['permafrost']))}")


if __name__ == "__main__":
    main()
