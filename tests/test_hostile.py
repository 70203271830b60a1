"""Hostile files run no code, reach nothing outside themselves, and cannot exhaust memory."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

import permafrost
from permafrost.errors import BaseError, DatasetError, SetError, ShardError, StoreError, WeightsError
from permafrost.images.dataset import read_dataset
from permafrost.store.feature_set import open_features
from permafrost.store.row_index import RowAddress, place_rows
from permafrost.store.set_file import write_set
from permafrost.store.store import Store
from permafrost.trunk.bases import load_base, load_model_file
from permafrost.trunk.published_weights import load_legacy_weights
from samples import WHOLE_SPEC, make_content, make_rows, spec_with, tiny_model, write_legacy

ROOT = Path(__file__).resolve().parents[1]
SECRET = b"not for anyone to read"


@pytest.fixture
def secret(tmp_path) -> Path:
    path = tmp_path / "secret.bin"
    path.write_bytes(SECRET * 1000)
    return path


def made_set(folder: Path, **changes) -> Path:
    """A set of four images, with these fields changed; its checksum is right."""
    spec = changes.get("spec", WHOLE_SPEC)
    store = Store.create(folder / "store", WHOLE_SPEC, about={"base_layers": []})
    rows = make_rows(WHOLE_SPEC, 4)
    shard = store.append(rows, engine="keras/tensorflow")
    shards, places = place_rows([RowAddress(shard, row) for row in range(4)])
    content = make_content(rows, shards, places, spec=spec, store=f"store/{WHOLE_SPEC.folder_name}")
    write_set(folder / "set.h5", dataclasses.replace(content, **changes))
    return folder / "set.h5"


# Sets


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"shards": ("../../../secret.bin",)}, r"'../../../secret.bin' is not the name of a shard"),
        ({"shards": ("/etc/passwd",)}, "'/etc/passwd' is not the name of a shard"),
        ({"store": "../elsewhere"}, r"its store '../elsewhere' is outside its folder"),
        ({"store": "store/../../elsewhere"}, "its store .* is outside its folder"),
        ({"store": "/etc"}, "its store '/etc' is outside its folder"),
        ({"labels": np.array([0, 1, 2, 0])}, "labels has numbers outside 0 to 1"),
        ({"labels": np.array([0, -1, 1, 0])}, "labels has numbers outside 0 to 1"),
        ({"splits": np.array([0, 1, 7, 0], np.uint8)}, "splits has values other than train, validation, test"),
        ({"places": np.array([[9, 0]] * 4)}, "places has numbers outside 0 to 0"),
        ({"places": np.array([[0, 0]] * 3)}, r"places has shape \(3, 2\) instead of \(4, 2\)"),
        ({"spec": spec_with(shapes=((2, 3), (4,)))}, "its trunk has 2 tensors per image instead of one"),
        ({"names": ("a", "b", "c")}, r"path_offsets has shape \(4,\) instead of \(5,\)"),
    ],
)
def test_a_set_whose_numbers_or_names_lead_elsewhere_is_refused_even_with_a_right_checksum(tmp_path, changes, line):
    path = made_set(tmp_path, **changes)

    with pytest.raises(SetError, match=rf"damaged feature set .*set\.h5: {line}"):
        open_features(path)


def test_a_set_that_claims_other_shapes_than_its_store_is_refused(tmp_path):
    path = made_set(tmp_path, spec=spec_with(shapes=((10**6, 10**6),)))

    with pytest.raises(SetError, match=r"has changed: shapes; expected .*1000000, 1000000.*, found \(\(2, 3\),\)"):
        open_features(path)


def test_a_store_that_claims_terabytes_is_refused_before_memory_is_allocated(tmp_path):
    store = Store.create(tmp_path, spec_with(shapes=((10**7, 10**7),)), about={})

    with pytest.raises(StoreError, match=r"features of 4 rows do not fit into memory; .* Read them in batches"):
        store.gather(["0" * 32 + ".h5"], np.zeros((4, 2), np.int64))


def test_rows_outside_a_shard_are_refused(tmp_path):
    path = made_set(tmp_path, places=np.array([[0, 0], [0, 1], [0, 2], [0, 10**12]]))

    with pytest.raises(ShardError, match="it has no rows"):
        open_features(path).arrays()


@pytest.mark.parametrize("form", ["chunked", "gzip", "plug-in", "never written", "objects", "references"])
@pytest.mark.parametrize("kind", ["shard", "set"])
def test_chunked_filtered_or_unwritten_data_is_refused_by_name(tmp_path, kind, form):
    features = open_features(made_set(tmp_path))
    path = features.path if kind == "set" else features.store.folder / features.content.shards[0]
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        shape, dtype, values = file["digests"].shape, file["digests"].dtype, file["digests"][...]
        del file["digests"]
        if form == "chunked":
            file.create_dataset("digests", data=values, chunks=True)
        elif form == "gzip":
            file.create_dataset("digests", (2**20, 32), dtype, compression="gzip")
        elif form == "plug-in":
            creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            creation.set_chunk(shape)
            creation.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (2, 2, 1))  # Blosc, which is not part of HDF5.
            h5py.h5d.create(file.id, b"digests", h5py.h5t.STD_U8LE, h5py.h5s.create_simple(shape), creation)
        elif form == "never written":
            file.create_dataset("digests", shape, dtype)
        elif form == "objects":
            file.create_dataset("digests", shape, h5py.string_dtype())
        else:
            file.create_dataset("digests", shape, h5py.ref_dtype)

    with pytest.raises((SetError, ShardError), match=r"damaged .*: digests (is not a plain dataset|claims more)"):
        open_features(features.path).arrays()


def test_compressed_features_are_refused(tmp_path):
    features = open_features(made_set(tmp_path))
    path = features.store.folder / features.content.shards[0]
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        del file["features"]
        file.create_dataset("features", (4, 2, 3), np.float32, compression="gzip")

    with pytest.raises(ShardError, match="features is not a plain dataset: in chunks, which may have filters"):
        features.arrays()


# Models and weights


def lambda_model() -> keras.Model:
    pixels = keras.Input((32, 32, 3))
    return keras.Model(pixels, keras.layers.Lambda(lambda x: x * 2)(pixels))


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_lambda_layer_is_refused_in_both_formats(tmp_path, name):
    lambda_model().save(tmp_path / name)

    with pytest.raises(BaseError):
        load_base(str(tmp_path / name))
    with pytest.raises(BaseError):
        load_model_file(tmp_path / name)


def test_a_model_that_is_a_folder_is_refused(tmp_path):
    folder = tmp_path / "model.keras"
    keras.saving.save_model(tiny_model(), tmp_path / "whole.keras")
    with zipfile.ZipFile(tmp_path / "whole.keras") as file:
        file.extractall(folder)

    with pytest.raises(BaseError, match=r"no model file .*model\.keras; expected a \.keras file"):
        load_base(str(folder))


def rewritten(path: Path, out: Path, change) -> Path:
    """A copy of a `.keras` file with weights changed by `change`, which gets them as an open HDF5 file."""
    weights = out.with_suffix(".weights")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for part in source.infolist():
            data = source.read(part)
            if part.filename == "model.weights.h5":
                weights.write_bytes(data)
                with h5py.File(weights, "r+") as file:
                    change(file)
                data = weights.read_bytes()
            target.writestr(part, data)
    return out


def first_array(file: h5py.File) -> str:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) and item.ndim > 1 else None)
    return names[0]


@pytest.mark.parametrize("form", ["external data", "external link", "virtual data", "terabytes"])
def test_weights_outside_their_model_file_or_of_terabytes_are_refused(tiny_base, secret, tmp_path, form):
    def change(file: h5py.File) -> None:
        name = first_array(file)
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        if form == "external data":
            file.create_dataset(name, shape, dtype, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
        elif form == "external link":
            with h5py.File(tmp_path / "other.h5", "w") as other:
                other["data"] = np.ones(shape, dtype)
            file[name] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/data")
        elif form == "virtual data":
            with h5py.File(tmp_path / "other.h5", "w") as other:
                other["data"] = np.ones(shape, dtype)
            layout = h5py.VirtualLayout(shape, dtype)
            layout[...] = h5py.VirtualSource(tmp_path / "other.h5", "data", shape)
            file.create_virtual_dataset(name, layout)
        else:
            file.create_dataset(name, (10**6, 10**6), dtype)

    path = rewritten(tiny_base, tmp_path / "hostile.keras", change)

    with pytest.raises(BaseError, match=r"cannot open .*hostile\.keras"):
        load_base(str(path))


def test_published_weights_that_claim_terabytes_are_refused_before_memory_is_allocated(tmp_path):
    model = tiny_model()
    path = write_legacy(model, tmp_path / "weights.h5")
    with h5py.File(path, "r+") as file:
        group = file["stem"]
        name = next(name for name in group.attrs["weight_names"] if group[name].ndim == 4)
        del group[name]
        group.create_dataset(name, (10**6, 10**6), np.float32)

    with pytest.raises(WeightsError, match=r"do not fit layer stem; expected shapes .*1000000, 1000000"):
        load_legacy_weights(model, path)


# Pickles


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_a_pickle_in_an_npz_file_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "data.npz", X=np.zeros((2, 8, 8, 3)), y=np.array([Bomb(), Bomb()]))

    with pytest.raises(DatasetError):
        read_dataset(tmp_path / "data.npz")

    assert not (tmp_path / "exploded").exists()


FORBIDDEN = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "eval", "exec"}


HARMLESS = "from joblib import cpu_count"


def test_the_package_neither_uses_pickles_nor_evaluates_text():
    for path in Path(permafrost.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            names = [alias.name.split(".")[0] for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and ast.unparse(node) != HARMLESS:
                names.append(node.module.split(".")[0])
            names += [node.func.id] if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else []
            assert not FORBIDDEN & set(names), f"{path}: {names}"
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, path
            if isinstance(node, ast.keyword) and node.arg == "safe_mode":
                assert isinstance(node.value, ast.Constant) and node.value.value is True, path


# Dependencies

CLOSED = {"keras": (3, 15, 1), "Pillow": (13, 0, 0)}
"""The first versions without known security holes in reading hostile files."""


@pytest.mark.parametrize("name", CLOSED)
def test_versions_with_known_security_holes_are_not_installed(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (line,) = (each for each in project["dependencies"] if re.match(rf"{name}\b", each))

    lowest = tuple(map(int, re.match(rf"{name}>=([\d.]+)", line)[1].split(".")))

    assert lowest >= CLOSED[name]
    assert tuple(int(part) for part in version(name).split(".")[:3]) >= lowest


# Little memory

SMALL = """
    import resource, sys
    import h5py, numpy
    limit = 2 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    from permafrost.errors import PermafrostError
    from permafrost.store.feature_set import open_features
    for path in sys.argv[1:]:
        try:
            open_features(path).arrays()
        except PermafrostError as error:
            print(type(error).__name__)
"""


def test_files_that_claim_much_memory_are_refused_in_a_small_process(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    paths = [made_set(tmp_path / "a", spec=spec_with(shapes=((10**5, 10**4),))), made_set(tmp_path / "b")]
    with h5py.File(paths[1], "r+", libver=("v110", "v110")) as file:
        del file["digests"]
        file.create_dataset("digests", (10**8, 32), np.uint8)

    told = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SMALL), *map(str, paths)], capture_output=True, text=True, check=True
    )

    assert told.stdout.split() == ["SetError", "SetError"]
