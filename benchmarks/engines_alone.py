"""(a) On images in memory, OpenVINO computes features faster than Keras' `predict`: the gain that is open to `extract`.

The same base, cut at the same layer, gets the same decoded pixels in alternation: as in a tutorial, with
`preprocess_input` and `predict` in batches of 32, and with the engine of `extract`, in its own batches, from as many
threads as it has streams. Nothing is read, decoded or cached.

    python benchmarks/engines_alone.py --base inception_v3 --images 400 --rounds 5
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import common
import numpy as np

from permafrost.engines.selection import make_engine
from permafrost.images.decoding import decode_resized
from permafrost.trunk.bases import load_base
from permafrost.trunk.cutting import build_trunks


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
    base = load_base(setting.base, weights=setting.weights, image_size=size)
    engine = make_engine("openvino", build_trunks(base, [setting.cut])[0].model)
    batches = [pixels[i : i + engine.batch_size] for i in range(0, len(pixels), engine.batch_size)]
    floats = preprocess(pixels.astype(np.float32))
    model.predict(floats[:32], verbose=0)
    engine(batches[0])

    def openvino() -> float:
        with ThreadPoolExecutor(engine.streams) as threads:
            return common.timed(lambda: [None for _ in threads.map(engine, batches)])[0]

    seconds = common.take_turns(
        {"keras": lambda: common.timed(lambda: model.predict(floats, verbose=0))[0], "openvino": openvino},
        given.rounds,
    )
    for name, values in seconds.items():
        rate = common.spread([len(pixels) / value for value in values], ".1f")
        print(f"{name}: {common.spread(values)} s, {rate} images per second")
    print(f"ratio: {common.spread(common.ratios(seconds['keras'], seconds['openvino']))}")


if __name__ == "__main__":
    main()
