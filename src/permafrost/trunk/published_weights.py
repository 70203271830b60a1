"""Read the legacy `.h5` weights that `keras.applications` publishes. The file is not trusted, and Keras is not needed.

There is one group per layer. The attribute `layer_names` of the file (of its group `model_weights` if a whole model was
saved) gives the order of the groups, and `weight_names` of each group the order of its arrays. Layers are matched by
order, as in Keras. The classifier's layers, if any, come last and are ignored.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from permafrost.errors import WeightsError

if TYPE_CHECKING:
    import h5py
    import keras


def is_legacy_weights(path: str | os.PathLike[str]) -> bool:
    """Return whether an HDF5 file has the legacy layout.

    Raises:
        WeightsError: the file is not HDF5, or is damaged.
    """
    with _open(path) as file:
        return _root(file) is not None


def load_legacy_weights(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Load the weights in a file into `model`.

    Raises:
        WeightsError: the file is damaged, or does not fit the model. The first layer that differs is named, with both
            shapes.
    """
    with _open(path) as file:
        root = _root(file)
        assert root is not None, "call is_legacy_weights first"
        saved = [name for name in _names(root, "layer_names") if _names(_group(root, name, path), "weight_names")]
        layers = [layer for layer in model.layers if layer.weights]
        if len(saved) < len(layers):
            raise WeightsError(
                f"the weights in {path} do not fit {model.name}",
                expected=f"{len(layers)} layers",
                found=f"{len(saved)}",
            )
        for name, layer in zip(saved, layers, strict=False):
            _assign(layer, name, _arrays(_group(root, name, path), path), path)


@contextlib.contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Open a weights file, and turn HDF5 errors into a `WeightsError`."""
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise WeightsError(f"cannot read weights from {path}: {error}", expected="a whole HDF5 file") from error


def _assign(layer: keras.Layer, name: str, arrays: list[h5py.Dataset], path: str | os.PathLike[str]) -> None:
    # Shapes are checked before anything is read: a file can claim terabytes.
    variables = layer.trainable_weights + layer.non_trainable_weights
    expected = [tuple(variable.shape) for variable in variables]
    found = [array.shape for array in arrays]
    if expected != found:
        raise WeightsError(
            f"the weights of {name} in {path} do not fit layer {layer.name}",
            expected=f"shapes {expected}",
            found=f"{found}",
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array[...])
    if hasattr(layer, "finalize_state"):
        layer.finalize_state()  # Normalization computes with a copy of its weights.


def _root(file: h5py.File) -> h5py.Group | None:
    import h5py

    group = file.get("model_weights") if isinstance(file.get("model_weights", getlink=True), h5py.HardLink) else file
    return group if group is not None and _names(group, "layer_names") else None


def _group(parent: h5py.Group, name: str, path: str | os.PathLike[str]) -> h5py.Group:
    import h5py

    group = parent[name] if isinstance(parent.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(group, h5py.Group):
        raise WeightsError(f"damaged weights file {path}: {name} is missing or a link")
    return group


def _arrays(group: h5py.Group, path: str | os.PathLike[str]) -> list[h5py.Dataset]:
    arrays = []
    for name in _names(group, "weight_names"):
        holder = group
        *folders, leaf = name.split("/")
        for folder in folders:
            holder = _group(holder, folder, path)
        arrays.append(_array(holder, leaf, path))
    return arrays


def _array(group: h5py.Group, name: str, path: str | os.PathLike[str]) -> h5py.Dataset:
    import h5py

    data: Any = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external or data.dtype.kind not in "fiu":
        raise WeightsError(f"damaged weights file {path}: {name} is not a plain array of numbers")
    return data


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """Return the strings of an attribute. Beyond HDF5's limit of 64 KB, Keras splits it into `NAME0`, `NAME1`, ..."""
    keys = [attribute] if attribute in group.attrs else []
    while f"{attribute}{len(keys)}" in group.attrs:
        keys.append(f"{attribute}{len(keys)}")
    values = [value for key in keys for value in group.attrs[key]]
    return [value.decode("utf-8") if isinstance(value, bytes) else str(value) for value in values]
