"""Default names of feature sets, and when an existing file may be replaced."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

from permafrost.errors import DatasetError, ImageError, OptionError, SetError, VersionError
from permafrost.extraction.options import DEFAULT_FOLDER
from permafrost.images.dataset import Dataset
from permafrost.store.set_content import SetContent
from permafrost.store.set_reading import may_be_feature_set, read_set
from permafrost.store.storage import is_plain_name
from permafrost.trunk.spec import TrunkSpec, portable_name

COMPARED: Final = 16
"""Maximum number of images compared to find out whether two folders hold the same dataset."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetIdentity:
    """What distinguishes the feature sets of one dataset.

    Attributes:
        spec: the spec of the trunk, without an augmentation.
        views: number of views of each training image, the image itself included.
        augmentation: how views are made; empty without augmented views.
    """

    spec: TrunkSpec
    views: int = 1
    augmentation: str = ""

    def matches(self, content: SetContent) -> bool:
        """Return whether the content of a set has this identity."""
        found = content.spec.digest, content.view_count, content.augmentation
        return found == (self.spec.digest, self.views, self.augmentation)

    def names(self, dataset: str) -> list[str]:
        """Return possible names of the set's file, the shortest first; the last belongs to this identity alone."""
        visible = dataset.lstrip(".").replace("\\", "-")  # `features list` and `prune` ignore hidden files.
        name = f"{visible}-{portable_name(f'{self.spec.base}-{self.spec.cut}')}"
        views = f"-views{self.views}" if self.views > 1 else ""
        key = dataclasses.replace(self.spec, augmentation=self.augmentation).key
        return list(dict.fromkeys([f"{name}.h5", f"{name}{views}.h5", f"{name}-{key}{views}.h5"]))


def check_set_path(path: Path) -> Path:
    """Return the path of a set's file after checking its name.

    Raises:
        OptionError: it does not end with `.h5`, is hidden, or has a backslash.
    """
    if path.suffix != ".h5":
        raise OptionError("a feature set is an HDF5 file", expected="--out NAME.h5", found=str(path))
    if not is_plain_name(path.name):
        raise OptionError("not a name for a feature set", expected="a visible file, no backslash", found=path.name)
    return path


def default_path(dataset: Dataset, identity: SetIdentity, folder: Path = Path(DEFAULT_FOLDER)) -> Path:
    """Return the default file of a set: `<data>-<base>-<cut>.h5`.

    If that name belongs to another trunk, other views, another format version or a file that is not a feature set, the
    number of views or the key of the trunk is added. The file of the same set is replaced.

    Raises:
        DatasetError: the name belongs to another dataset; see `is_same_dataset`.
    """
    paths = [folder / name for name in identity.names(dataset.name)]
    free: list[Path] = []
    for path in paths:
        try:
            content = read_set(path) if path.exists() else None
        except VersionError:
            continue
        except SetError:
            if not may_be_feature_set(path):
                continue
            content = None  # A damaged set is replaced.
        if content is None:
            free.append(path)
        elif identity.matches(content):
            if not is_same_dataset(content, dataset):
                raise DatasetError(
                    f"{path} holds the features of another dataset of this name",
                    expected=content.root,
                    found=dataset.root,
                    do="name the file with --out",
                )
            return path
    if not free:
        raise DatasetError(f"no free name for the features of {dataset.root}: {paths[-1]}", do="name it with --out")
    return free[0]


def is_same_dataset(content: SetContent, dataset: Dataset) -> bool:
    """Return whether a set belongs to this dataset, which may have been moved or changed since.

    It does if it was extracted from the same folder or file, or if one of its images is in the dataset: with the same
    path relative to the dataset, and the same content. At most `COMPARED` images are compared.
    """
    if content.root == dataset.root:
        return True
    rows = {name: row for row, name in enumerate(content.names)}
    common = [(index, rows[name]) for index, name in enumerate(dataset.names) if name in rows]
    for index, row in common[:: max(1, len(common) // COMPARED)][:COMPARED]:
        try:
            if dataset.image(index).load().digest == content.digests[row].tobytes():
                return True
        except ImageError:
            continue
    return False
