"""(b) Extraction is nearly as fast as the bare engine on decoded images in memory.

Both run the same trunk on the same engine. The bare engine gets batches of uint8 pixels from as many threads as it has
streams, and its output is dropped; `extract` reads, hashes, decodes, resizes, computes and commits. The time of
`extract` is without start-up: without building the base and preparing the engine. Printed with it is the processor time
of its threads beside the engine: those that read, decode and resize (`images`), those that call the engine, one of
which also computes the first four images with Keras (`engine`), and the one that commits.

    python benchmarks/extract_against_engine.py --base inception_v3 --images 1000 --rounds 3
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import common
import numpy as np

import permafrost as pf
from permafrost.engines.selection import make_engine
from permafrost.images.decoding import decode_resized
from permafrost.machine import cpu_count


def main() -> None:
    given = common.arguments(
        __doc__, base=list(common.SETTINGS), engine=["auto", "openvino", "keras"], images=1000, rounds=3
    )
    setting = common.SETTINGS[given.base]
    size = (setting.size, setting.size)
    common.show_machine()
    print(f"{setting.base} to {setting.cut or 'its end'}, {setting.size} px, {given.images} images")
    with tempfile.TemporaryDirectory() as scratch:
        folder = common.photographs(given.images, Path(scratch, "photographs"))
        pixels = np.stack([decode_resized(path.read_bytes(), size) for path in sorted(folder.rglob("*.jpg"))])
        engine = make_engine(given.engine, setting.trunk())
        print(f"engine: {engine.record}, batches of {engine.batch_size}, {engine.streams} at once")

        def extract() -> float:
            with tempfile.TemporaryDirectory(dir=scratch) as place:
                out = Path(place, "set.h5")
                with common.ThreadTimes() as times:
                    features = pf.extract(folder, **setting.of_extract(), out=out, engine=given.engine, progress=False)
            seconds = features.summary["seconds"]
            print(f"  {features.summary['limit']}: {seconds}")
            for name, seconds_of_a_core in beside.items():
                seconds_of_a_core.append(times.seconds.get(name, 0.0))
            return seconds["all"] - seconds["engine"]

        beside: dict[str, list[float]] = {"images": [], "engine": [], "commits": []}
        seconds = common.take_turns({"bare engine": common.computing(engine, pixels), "extract": extract}, given.rounds)
    for name, values in seconds.items():
        rate = [len(pixels) / value for value in values]
        print(f"{name}: {common.spread(values)} s, {common.spread(rate, '.1f')} images per second")
    print("beside the engine, seconds of a core: " + ", ".join(f"{k} {common.spread(v)}" for k, v in beside.items()))
    cores = cpu_count()
    bound = [
        bare / (bare + sum(rest) / cores) for bare, *rest in zip(seconds["bare engine"], *beside.values(), strict=True)
    ]
    print(f"fraction of the bare engine without any waiting: {common.spread(bound)}")
    print(f"fraction of the bare engine: {common.spread(common.ratios(seconds['bare engine'], seconds['extract']))}")


if __name__ == "__main__":
    main()
