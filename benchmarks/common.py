"""Images, bases, feature sets, alternating measurements, and the description of the machine, for all benchmarks."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import os
import platform
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

from permafrost.machine import cpu_count
from permafrost.store.feature_set import FeatureSet, open_features
from permafrost.store.set_content import SetContent
from permafrost.store.set_file import write_set
from permafrost.store.shard import Rows
from permafrost.store.store import Store
from permafrost.trunk.spec import TrunkSpec

if TYPE_CHECKING:
    from permafrost.engines.engine import Engine

SHARED = Path(__file__).resolve().parents[2] / "shared"
PHOTOGRAPHS = SHARED / "data" / "cats_dogs"
CLASSES = ("cats", "dogs")


@dataclasses.dataclass(frozen=True)
class Setting:
    """A base as it is measured: image size, cut, and a weights file that is used if it exists."""

    base: str
    builder: str
    module: str
    options: dict[str, Any]
    cut: str | None
    size: int
    weights_file: str | None

    @property
    def weights(self) -> str:
        path = SHARED / "weights" / (self.weights_file or "none")
        return str(path) if path.is_file() else "none"

    def of_extract(self) -> dict[str, Any]:
        """Return keyword arguments for `permafrost.extract`."""
        return {"base": self.base, "weights": self.weights, "cut": self.cut, "image_size": self.size}

    def trunk(self) -> Any:
        """Return the trunk, which `extract` runs, as a Keras model."""
        from permafrost.trunk.bases import load_base
        from permafrost.trunk.cutting import build_trunks

        base = load_base(self.base, weights=self.weights, image_size=(self.size, self.size))
        return build_trunks(base, [self.cut])[0].model

    def by_keras(self) -> tuple[Any, Callable[[Any], Any]]:
        """Return the frozen base as a tutorial builds it, and its `preprocess_input`."""
        import keras

        builder = getattr(keras.applications, self.builder)
        model = builder(include_top=False, weights=None, input_shape=(self.size, self.size, 3), **self.options)
        if self.weights != "none":
            model.load_weights(self.weights)
        if self.cut:
            model = keras.Model(model.input, model.get_layer(self.cut).output)
        model.trainable = False
        return model, getattr(keras.applications, self.module).preprocess_input


SETTINGS = {
    "inception_v3": Setting(
        "inception_v3",
        "InceptionV3",
        "inception_v3",
        {},
        "mixed7",
        150,
        "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.through_mixed8.h5",
    ),
    "mobilenet": Setting(
        "mobilenet:alpha=0.25", "MobileNet", "mobilenet", {"alpha": 0.25}, None, 224, "mobilenet_2_5_224_tf_no_top.h5"
    ),
    "vgg16": Setting("vgg16", "VGG16", "vgg16", {}, None, 150, None),
}


def made_up_set(folder: Path, count: int, shape: tuple[int, ...], *, shard_rows: int, classes: int = 2) -> FeatureSet:
    """Write a set of random features of imaginary images, and open it.

    Args:
        folder: folder for the set and its store.
        count: number of images, one in seven for validation and the rest for training.
        shape: shape of one image's features.
        shard_rows: rows per shard.
        classes: number of classes.
    """
    spec = TrunkSpec(
        architecture="0" * 64,
        weights="0" * 64,
        preprocessing="none",
        image_size=(150, 150),
        pooling="none",
        precision="float32",
        dtype="float32",
        base="made-up",
        weights_source="none",
        cut="top",
        shapes=(shape,),
    )
    store = Store.create(folder / "store", spec, about={"base_layers": []})
    generator, numbers = np.random.default_rng(0), np.arange(count)
    digests = generator.integers(0, 256, (count, 32), dtype=np.uint8)
    shards = []
    for start in range(0, count, shard_rows):
        part = digests[start : start + shard_rows]
        values = generator.standard_normal((len(part), *shape), dtype=np.float32)
        shards.append(store.append(Rows(part, np.zeros(len(part), np.int32), (values,)), engine="none"))
    content = SetContent(
        spec=spec,
        store=f"store/{spec.folder_name}",
        root="/data/photos",
        names=[f"train/class-{number % classes:03}/image-{number:07}.jpg" for number in range(count)],
        digests=digests,
        labels=numbers % classes,
        splits=(numbers % 7 == 0).astype(np.uint8),
        class_names=tuple(f"class-{number:03}" for number in range(classes)),
        shards=tuple(shards),
        places=np.column_stack([numbers // shard_rows, numbers % shard_rows]),
        skipped=(),
        about={},
    )
    write_set(folder / "set.h5", content)
    return open_features(folder / "set.h5")


def arguments(description: str | None, **defaults: Any) -> argparse.Namespace:
    """Parse a benchmark's options, given their defaults; a list gives the choices, with the default first."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        if isinstance(default, list):
            parser.add_argument(f"--{name.replace('_', '-')}", choices=default, default=default[0])
        else:
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return parser.parse_args()


def photographs(count: int, folder: Path, *, first: int = 0, split: str = "*") -> Path:
    """Write `count` photographs in two classes to a folder: real ones as far as available, then made-up ones."""
    real = [sorted(PHOTOGRAPHS.glob(f"{split}/{name}/*")) for name in CLASSES]
    generator = np.random.default_rng(first)
    for name, files in zip(CLASSES, real, strict=True):
        (folder / name).mkdir(parents=True)
        for i in range(first, first + count // 2):
            target = folder / name / f"{i:06d}.jpg"
            if i < len(files):
                shutil.copy(files[i], target)
            else:
                made_up(generator).save(target, quality=85)
    return folder


def small_images(count: int, folder: Path, *, pixels: int = 32) -> Path:
    """Write `count` different small images in two classes to a folder, about 1 kB each."""
    generator = np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    for i in range(count):
        noise = generator.integers(0, 256, (pixels, pixels, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / CLASSES[i % 2] / f"{i:06d}.jpg", quality=50)
    return folder


def made_up(generator: np.random.Generator) -> Image.Image:
    """Return an image with as much detail as a photograph, about 25 kB as JPEG."""
    coarse = generator.integers(0, 256, (47, 63, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC), np.int16)
    noisy = image + generator.integers(-6, 7, image.shape, dtype=np.int16)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def take_turns(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run the sides alternately; return the seconds of each in each round.

    A side returns its own seconds, without its preparation. Every other round has the reverse order.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        names = list(sides) if number % 2 == 0 else list(reversed(sides))
        for name in names:
            seconds[name].append(sides[name]())
            print(f"  round {number + 1}: {name} {seconds[name][-1]:.2f} s", flush=True)
    return seconds


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that `work` takes, and its result."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def computing(engine: Engine, pixels: np.ndarray) -> Callable[[], float]:
    """Run an engine on one batch, and return a function that runs it on all and returns the seconds.

    Batches run from as many threads as the engine has streams, and their features are dropped.
    """
    batches = [pixels[i : i + engine.batch_size] for i in range(0, len(pixels), engine.batch_size)]
    engine(batches[0])

    def run() -> float:
        with ThreadPoolExecutor(engine.streams) as threads:
            return timed(lambda: [None for _ in threads.map(engine, batches)])[0]

    return run


class ThreadTimes:
    """Processor time of the Python threads that run in a block, by their names without a number, e.g. `images`.

    It is read from `/proc` (`man 5 proc`) 20 times per second, because it disappears with its thread;
    it is 0 without `/proc`.

    Attributes:
        seconds: seconds of a core by thread name.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._threads: dict[int, tuple[str, float, float]] = {}
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look_often, name="watch")

    def __enter__(self) -> ThreadTimes:
        self._look()
        self._threads = {number: (name, now, now) for number, (name, _, now) in self._threads.items()}
        self._watch.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._watch.join()
        for name, before, now in self._threads.values():
            self.seconds[name] = self.seconds.get(name, 0.0) + now - before

    def _look_often(self) -> None:
        while not self._ended.wait(0.05):
            self._look()

    def _look(self) -> None:
        for thread in threading.enumerate():
            with contextlib.suppress(OSError):  # The thread may have ended meanwhile.
                fields = Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(")")[2].split()
                now = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                _, before, _ = self._threads.get(thread.native_id or 0, ("", 0.0, 0.0))
                self._threads[thread.native_id or 0] = thread.name.rpartition("_")[0] or thread.name, before, now


def spread(values: list[float], form: str = ".2f") -> str:
    """Return a median with its range: `1.41 (1.38 to 1.45)`."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def ratios(slow: list[float], fast: list[float]) -> list[float]:
    """Return for each round how many times faster the second is."""
    return [left / right for left, right in zip(slow, fast, strict=True)]


def show_machine() -> None:
    """Print the processor, memory and versions."""
    names = ("permafrost", "keras", "tensorflow", "openvino", "numpy", "pillow", "h5py")
    print(f"machine: {_processor()}, {cpu_count()} cores, {_memory():.0f} GB; {platform.system()} {platform.release()}")
    print("features of the processor: " + ", ".join(_features()))
    print("versions: " + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names))
    print(f"load before: {os.getloadavg()[0]:.1f}", flush=True)


def _processor() -> str:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _features() -> list[str]:
    flags = next((set(line.split()) for line in _lines("/proc/cpuinfo") if line.startswith("flags")), set())
    return [
        f"{name} {'yes' if name in flags else 'no'}" for name in ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16")
    ]


def _memory() -> float:
    return next((int(line.split()[1]) / 1e6 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0.0)


def _lines(path: str) -> Iterator[str]:
    if os.path.exists(path):
        yield from Path(path).read_text().splitlines()
