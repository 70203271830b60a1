"""(a) Extraction is limited by the processor's multiply-adds for large bases, by decoding and resizing for small ones.

Measures each step alone. Engines: floating-point operations per second of the trunk on OpenVINO and on Keras, beside a
large matrix product in NumPy, which comes close to the processor's limit; convolutions and dense layers count, a
multiply-add as two. Images: milliseconds of one core per image for reading and hashing, decoding and resizing, beside
the milliseconds for computing the features on all cores.

    python benchmarks/bound.py --base inception_v3 --images 192 --rounds 5
"""

from __future__ import annotations

import hashlib
import io
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import keras
import numpy as np
from PIL import Image

from permafrost.engines.selection import make_engine
from permafrost.images.decoding import decode_resized
from permafrost.machine import cpu_count


def operations(model: Any) -> float:
    """Return the floating-point operations per image of convolutions and dense layers."""
    total = 0.0
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            total += operations(layer)
        elif getattr(layer, "kernel", None) is not None:
            per_output = math.prod(layer.kernel.shape[:-1])
            if isinstance(layer, keras.layers.DepthwiseConv2D):
                per_output = math.prod(layer.kernel.shape[:2])
            total += 2.0 * per_output * math.prod(layer.output.shape[1:])
    return total


def multiplying(size: int = 3072) -> tuple[Callable[[], float], float]:
    """Return a function that times a matrix product, and the number of its operations."""
    left, right = np.ones((2, size, size), np.float32)
    return lambda: common.timed(lambda: left @ right)[0], 2.0 * size**3


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def main() -> None:
    given = common.arguments(__doc__, base=list(common.SETTINGS), images=192, rounds=5)
    setting, cores = common.SETTINGS[given.base], cpu_count()
    size = (setting.size, setting.size)
    common.show_machine()
    with tempfile.TemporaryDirectory() as scratch:
        folder = common.photographs(given.images, Path(scratch, "photographs"))
        paths = sorted(folder.rglob("*.jpg"))
        contents = [path.read_bytes() for path in paths]
        images = [decoded(data) for data in contents]
        pixels = np.stack([decode_resized(data, size) for data in contents])
        model = setting.trunk()
        multiply, product = multiplying()
        on_one_core = {
            "read and hashed": lambda: [hashlib.sha256(path.read_bytes()).digest() for path in paths],
            "decoded": lambda: [decoded(data) for data in contents],
            "resized": lambda: [image.resize(size, Image.Resampling.BILINEAR) for image in images],
        }
        sides: dict[str, Callable[[], float]] = {
            name: lambda work=work: common.timed(work)[0] for name, work in on_one_core.items()
        }
        sides |= {name: common.computing(make_engine(name, model), pixels) for name in ("openvino", "keras")}
        seconds = common.take_turns(sides | {"matrix product": multiply}, given.rounds)
    flop = operations(model)
    print(f"{setting.base} to {setting.cut or 'its end'}, {setting.size} px: {flop / 1e9:.2f} GFLOP per image")
    for name in on_one_core:
        print(
            f"{name}: {common.spread([value / len(pixels) * 1e3 for value in seconds[name]])} ms of one core per image"
        )
    limit = [product / value / 1e9 for value in seconds["matrix product"]]
    for name in ("openvino", "keras"):
        rate = [flop * len(pixels) / value / 1e9 for value in seconds[name]]
        core_ms = [value / len(pixels) * 1e3 * cores for value in seconds[name]]
        fraction = [left / right for left, right in zip(rate, limit, strict=True)]
        print(
            f"{name}: {common.spread(rate, '.0f')} GFLOP per second, {common.spread(fraction)} of the matrix product's"
        )
        print(f"{name}: {common.spread(core_ms)} ms of one core per image")
    before = [sum(parts) for parts in zip(*(seconds[name] for name in on_one_core), strict=True)]
    fraction = [each / (each + rest / cores) for each, rest in zip(seconds["openvino"], before, strict=True)]
    print(
        f"extract on the same cores can reach {common.spread(fraction)} of bare openvino; the rest is spent on images"
    )
    print(f"matrix product: {common.spread(limit, '.0f')} GFLOP per second")
    print(f"openvino against keras: {common.spread(common.ratios(seconds['keras'], seconds['openvino']))}")


if __name__ == "__main__":
    main()
