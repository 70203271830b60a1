"""Paths that people give: in the home folder, empty ones, and values that are not paths."""

from __future__ import annotations

import shutil

import keras
import pytest
from PIL import Image

from permafrost import cli
from permafrost.errors import OptionError
from permafrost.images.dataset import read_dataset
from permafrost.images.folders.found import find_images
from permafrost.model.inference import open_model
from permafrost.model.run import open_run
from permafrost.store.feature_set import open_features
from permafrost.store.pruning import prune
from permafrost.store.verification import verify


@pytest.fixture
def home(photos, tmp_path, monkeypatch):
    shutil.copytree(photos, tmp_path / "pictures")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_the_home_folder_is_known_where_no_shell_has_put_it_in(home):
    assert read_dataset("~/pictures").root == str(home / "pictures")
    assert str(find_images("~/pictures").images[0][0]).startswith(str(home))


def test_a_model_in_the_home_folder_is_opened(home):
    images = keras.Input((8, 8, 3))
    keras.Model(images, keras.layers.Softmax()(keras.layers.GlobalAveragePooling2D()(images))).save(home / "m.keras")

    assert open_model("~/m.keras").name == str(home / "m.keras")


def test_the_home_folder_is_known_after_an_equals_sign_too(home, tiny_base, monkeypatch):
    monkeypatch.chdir(shutil.copytree(tiny_base.parent, home / "bases"))

    assert cli.run(["extract", "~/pictures", "--base=~/bases/tiny.keras", "--out=~/features/set.h5"]) == 0

    assert (home / "features" / "set.h5").is_file()
    assert not (home / "bases" / "~").exists()


def test_a_folder_that_is_called_like_the_home_folder_is_given_with_its_own_folder(home, monkeypatch):
    (home / "pictures").rename(home / "~")
    monkeypatch.chdir(home)

    assert read_dataset("./~").root == str(home / "~")


@pytest.mark.parametrize(
    "read",
    [
        *(read_dataset, find_images, lambda path: find_images(["a.png", path]), open_run, open_model, open_features),
        *(verify, lambda path: prune(path, confirm=lambda _: True)),
    ],
)
def test_an_empty_path_is_not_the_current_folder(read, photos, monkeypatch):
    monkeypatch.chdir(photos)

    with pytest.raises(OptionError, match=r"not the path of .*; found ''"):
        read("")


@pytest.mark.parametrize("data", [None, 5, ["a.png", "b.png"], {"path": "a"}])
def test_a_dataset_that_is_not_a_path_is_refused(data):
    with pytest.raises(OptionError, match=f"not the path of a dataset; found {type(data).__name__}$"):
        read_dataset(data)


@pytest.mark.parametrize("image", [None, 5, Image.new("RGB", (4, 4))])
def test_what_is_not_an_image_is_refused(image):
    with pytest.raises(OptionError, match="not an image; expected paths, or arrays"):
        find_images(image)
