"""(a) On images in memory, OpenVINO computes features faster than Keras' `predict`: the gain that is open to `extract`.

The same base, cut at the same layer, gets the same decoded pixels in alternation: as in a tutorial, with
`preprocess_input` and `predict` in batches of 32, and with the engine of `extract`, in its own batches, from as many
threads as it has streams. Nothing is read, decoded or cached.

    python benchmarks/engines_alone.py --base inception_v3 --images 400 --rounds 5
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import common
import numpy as np

from permafrost.engines.selection import make_engine
from permafrost.images.decoding import decode_resized


def main() -> None:
    given = common.arguments(__doc__, base=list(common.SETTINGS), images=400, rounds=5)
    setting = common.SETTINGS[given.base]
    size = (setting.size, setting.size)
    common.show_machine()
    print(f"{setting.base} to {setting.cut or 'its end'}, {setting.size} px, {given.images} images in memory")
    with tempfile.TemporaryDirectory() as scratch:
        files = sorted(common.photographs(given.images, Path(scratch, "photographs")).rglob("*.jpg"))
        pixels = np.stack([decode_resized(path.read_bytes(), size) for path in files])
    model, preprocess = setting.by_keras()
    floats = preprocess(pixels.astype(np.float32))
    model.predict(floats[:32], verbose=0)
    sides = {
        "keras": lambda: common.timed(lambda: model.predict(floats, verbose=0))[0],
        "openvino": common.computing(make_engine("openvino", setting.trunk()), pixels),
    }
    seconds = common.take_turns(sides, given.rounds)
    for name, values in seconds.items():
        rate = common.spread([len(pixels) / value for value in values], ".1f")
        print(f"{name}: {common.spread(values)} s, {rate} images per second")
    print(f"ratio: {common.spread(common.ratios(seconds['keras'], seconds['openvino']))}")


if __name__ == "__main__":
    main()
