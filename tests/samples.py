"""Small deterministic test data: images, a tiny base, rows, sets."""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from permafrost.store.feature_set import FeatureSet, open_features
from permafrost.store.row_index import RowAddress, place_rows
from permafrost.store.set_content import SetContent
from permafrost.store.set_file import write_set
from permafrost.store.shard import Rows
from permafrost.store.store import Store
from permafrost.trunk.spec import TrunkSpec

if TYPE_CHECKING:
    import h5py
    import keras

CLASSES = ("checks", "dots", "stripes")
PX = 32
"""Height and width of the tiny base's images."""

WHOLE_SPEC = TrunkSpec(
    architecture="a" * 64,
    weights="b" * 64,
    preprocessing="tf",
    image_size=(PX, PX),
    pooling="none",
    precision="float32",
    dtype="float32",
    base="tiny",
    weights_source="tiny.keras",
    cut="top",
    shapes=((2, 3),),
)


def spec_with(**changes: Any) -> TrunkSpec:
    """Return `WHOLE_SPEC` with some fields changed."""
    return dataclasses.replace(WHOLE_SPEC, **changes)


def texture(kind: str, seed: int, size: tuple[int, int] = (44, 52)) -> np.ndarray:
    """Return an image (h, w, 3) uint8: the class decides its texture and tint, the seed everything else."""
    generator = np.random.default_rng([CLASSES.index(kind), seed])
    y, x = np.mgrid[: size[0], : size[1]] + generator.integers(0, 16, 2)[:, None, None]
    pattern = {
        "checks": (x // 6 + y // 6) % 2,
        "dots": ((x % 8 - 4) ** 2 + (y % 8 - 4) ** 2 < 9),
        "stripes": (x + y) // 4 % 2,
    }[kind].astype(float)
    tint = {"checks": (200, 90, 80), "dots": (90, 190, 90), "stripes": (80, 100, 210)}[kind]
    light = 0.45 + 0.45 * pattern + generator.normal(0, 0.05, size)
    return np.clip(light[:, :, None] * np.array(tint) + generator.normal(0, 6, (*size, 3)), 0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


SMALL_IMAGE = encoded(texture("dots", 0, (8, 8)))


def expanded(text: str) -> list[str]:
    """Return the paths that `a/{b,c}/1.jpg ...` stands for."""
    parts = [re.split(r"[{}]", path) for path in text.split()]
    return ["".join(each) for path in parts for each in itertools.product(*(part.split(",") for part in path))]


def write_images(root: Path, *names: str | bytes) -> Path:
    """Write the same small image to files with these names below `root`."""
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(SMALL_IMAGE)
    return root


def write_photos(folder: Path, *, per_class: int = 6, classes: Sequence[str] = CLASSES, first: int = 0) -> Path:
    """Write a folder with one folder per class, of PNG and JPEG files of several sizes, and return it."""
    for kind in classes:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for seed in range(first, first + per_class):
            form, ending = (("PNG", "png"), ("JPEG", "jpg"))[seed % 2]
            pixels = texture(kind, seed, (40 + seed % 3 * 6, 48 + seed % 4 * 5))
            (folder / kind / f"{kind}-{seed:03}.{ending}").write_bytes(encoded(pixels, form))
    return folder


def write_split_photos(folder: Path) -> Path:
    """Write `train`, `validation` and `test` folders of such folders, all images different, and return their folder."""
    for split, per_class, first in (("train", 6, 0), ("validation", 3, 100), ("test", 3, 200)):
        write_photos(folder / split, per_class=per_class, first=first)
    return folder


def make_rows(spec: TrunkSpec, count: int, *, seed: int = 0) -> Rows:
    """Return random features of images that do not exist."""
    generator = np.random.default_rng(seed)
    return Rows(
        generator.integers(0, 256, (count, 32), dtype=np.uint8),
        np.zeros(count, np.int32),
        tuple(generator.standard_normal((count, *shape)).astype(spec.dtype) for shape in spec.shapes),
    )


def make_content(rows: Rows, shards: Sequence[str], places: np.ndarray, **changes: Any) -> SetContent:
    """Return a set of `rows`: two classes; of four images three for training and one for validation."""
    count = len(rows)
    content = SetContent(
        spec=WHOLE_SPEC,
        store=os.path.join("store", WHOLE_SPEC.folder_name),
        root="/data/photos",
        names=tuple(f"{'ab'[i % 2]}/{i}.jpg" for i in range(count)),
        digests=rows.digests,
        labels=np.arange(count) % 2,
        splits=np.array([(0, 0, 1, 0)[i % 4] for i in range(count)], np.uint8),
        class_names=("a", "b"),
        shards=tuple(shards),
        places=places,
        skipped=(("a/notes.txt", "not an image (.txt)"),),
        about={"keras": "3"},
    )
    return dataclasses.replace(content, **changes)


def make_set(folder: Path, *seeds: int, name: str = "set.h5", spec: TrunkSpec = WHOLE_SPEC) -> FeatureSet:
    """Write a feature set of ten images per seed to a folder, each seed's rows in a shard of their own, and open it."""
    rows = Rows.concatenated([make_rows(spec, 10, seed=seed) for seed in seeds])
    parts = [slice(10 * part, 10 * part + 10) for part in range(len(seeds))]
    return write_parts(folder, rows, parts, name=name, spec=spec)


def write_parts(
    folder: Path,
    rows: Rows,
    parts: Iterable[slice | np.ndarray],
    *,
    name: str = "set.h5",
    spec: TrunkSpec = WHOLE_SPEC,
    **changes: Any,
) -> FeatureSet:
    """Commit each part of `rows` as one shard, write the feature set of all rows to a folder, and open it."""
    store = Store.create(folder / "store", spec, about={"base_layers": []})
    addresses = [RowAddress("", -1)] * len(rows)
    for part in parts:
        shard = store.append(rows.take(part), engine="keras/tensorflow")
        for place, row in enumerate(np.arange(len(rows))[part].tolist()):
            addresses[row] = RowAddress(shard, place)
    shards, places = place_rows(addresses)
    content = make_content(rows, shards, places, spec=spec, store=f"store/{store.folder.name}", **changes)
    write_set(folder / name, content)
    return open_features(folder / name)


def tiny_model(*, seed: int = 0, strides: int = 2, activation: str = "relu", top: str = "top") -> keras.Model:
    """Return a base with convolutions, batch normalization and a branch. NumPy draws its weights, always the same."""
    import keras

    pixels = keras.Input((PX, PX, 3), name="pixels_in")
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(pixels)
    stem = keras.layers.Conv2D(8, 3, strides=strides, padding="same", activation=activation, name="stem")(scaled)
    stem = keras.layers.BatchNormalization(name="stem_norm")(stem)
    left = keras.layers.Conv2D(8, 1, activation="relu", name="left")(stem)
    right = keras.layers.Conv2D(8, 3, padding="same", name="right")(stem)
    joined = keras.layers.Concatenate(name="joined")([left, right])
    final = keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name=top)(joined)
    model = keras.Model(pixels, final, name="tiny")
    randomize(model, seed=seed)
    return model


def randomize(model: keras.Model, *, seed: int = 0) -> None:
    """Give a model random weights that keep features near 1, and positive variances."""
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        shape = tuple(variable.shape)
        if len(shape) > 1:
            variable.assign(generator.normal(0, float(np.prod(shape[:-1])) ** -0.5, shape).astype(np.float32))
        else:
            variable.assign(generator.uniform(0.5, 1.5, shape).astype(np.float32))


def legacy_group(parent: h5py.Group, layer: str, arrays: dict[str, np.ndarray]) -> None:
    """Add a layer to a weights file in the layout that `keras.applications` publishes."""
    names = [name.decode() for name in parent.attrs.get("layer_names", [])]
    parent.attrs["layer_names"] = np.array([*names, layer], "S")
    group = parent.create_group(layer)
    group.attrs["weight_names"] = np.array(list(arrays), "S") if arrays else np.array([], "S1")
    for name, array in arrays.items():
        group[name] = array


def write_legacy(model: keras.Model, path: Path, *, group: str = "", rename: Callable[[str], str] = str) -> Path:
    """Write weights in the layout of `keras.applications`; in a group `model_weights`, in that of whole models."""
    import h5py

    with h5py.File(path, "w") as file:
        parent = file.create_group(group) if group else file
        for layer in model.layers:
            variables = layer.trainable_weights + layer.non_trainable_weights
            arrays = {f"{variable.name}:0": variable.numpy() for variable in variables}
            legacy_group(parent, rename(layer.name), arrays)
    return path
