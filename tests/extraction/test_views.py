"""Cached views: only training images have them, and each is computed once."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers import close, edit_json, one_error_line
from permafrost import extract, fit_head, open_features
from permafrost.errors import OptionError, SetError
from permafrost.extraction.extract import Extraction
from permafrost.extraction.options import ExtractOptions
from permafrost.extraction.originals import Originals
from permafrost.heads import classical_head, keras_head
from permafrost.images.augmentation import read_augmentation
from permafrost.store.description import describe_set
from permafrost.store.feature_set import FeatureSet
from permafrost.store.store import Store
from permafrost.trunk.bases import load_base
from permafrost.trunk.cutting import build_trunks
from samples import write_photos

pytest_plugins = ["upper"]

AUGMENT = "flip,rotate=20"


@pytest.fixture(scope="module")
def viewed(split_photos, tiny_base, tmp_path_factory) -> FeatureSet:
    """Three views of each of 18 training images; 9 images to validate, 9 to test. Not to be changed."""
    out = tmp_path_factory.mktemp("viewed") / "features" / "set.h5"
    return extract(split_photos, base=str(tiny_base), pool="avg", views=3, augment=AUGMENT, out=out, progress=False)


def test_a_views_features_are_the_trunks_on_the_augmented_pixels(viewed, tiny_base):
    trunk = build_trunks(load_base(str(tiny_base)), pool="avg")[0]
    rows, augmentation = viewed.rows("train"), read_augmentation(AUGMENT)
    pixels = [Originals(viewed).pixels(int(row)) for row in rows]

    for number in range(3):
        views = [
            augmentation.view(image, digest.tobytes(), number)
            for image, digest in zip(pixels, viewed.digests("train"), strict=True)
        ]
        expected = trunk.model.predict(np.stack(views).astype(np.float32), verbose=0)
        x, y = viewed.arrays("train", view=number)
        assert close(x, expected, 1e-4)
        assert np.array_equal(y, viewed.labels("train"))


def test_a_set_records_the_number_of_views_and_their_augmentation(viewed):
    assert (viewed.views, viewed.summary["views"], describe_set(viewed)["views"]) == (3, 3, 3)
    assert viewed.augmentation.startswith(f"{AUGMENT};")
    assert describe_set(viewed)["augmentation"] == viewed.augmentation
    assert (viewed.summary["computed"], viewed.summary["cached"]) == (3 * 18 + 9 + 9, 0)


def test_a_set_with_views_opens_to_the_same_and_can_be_moved_with_its_stores(viewed, tmp_path):
    shutil.copytree(viewed.path.parent, tmp_path / "moved")

    moved = open_features(tmp_path / "moved" / "set.h5")

    for view in range(3):
        assert np.array_equal(moved.arrays("train", view=view)[0], viewed.arrays("train", view=view)[0])
    batches = [x for x, _ in moved.batches("train", view=2, batch_size=5)]
    assert np.array_equal(np.concatenate(batches), viewed.arrays("train", view=2)[0])


@pytest.mark.parametrize("split", ["validation", "test", None])
def test_views_never_reach_validation_or_test(viewed, split):
    with pytest.raises(OptionError) as caught:
        viewed.arrays(split, view=1)

    assert one_error_line(caught.value) == (
        "only training images have views; expected training images, or view 0, found 1"
    )
    assert len(viewed.arrays(split, view=0)[0]) == len(viewed.rows(split))


@pytest.mark.parametrize("view", [3, -1])
def test_a_view_that_is_not_there_is_refused(viewed, view):
    with pytest.raises(OptionError, match=rf"has no view {view}; expected 0 to 2, found {view}\. Extract with more"):
        viewed.arrays("train", view=view)


def test_a_set_without_views_has_only_the_images(take, photos):
    features = take(photos)

    assert (features.views, features.augmentation) == (1, "")
    with pytest.raises(OptionError, match="has no view 1; expected 0 only, found 1"):
        features.arrays("train", view=1)


def test_cached_images_are_used_with_any_augmentation(take, split_photos, computed):
    plain = take(split_photos)
    computed.clear()

    first = take(split_photos, views=2, augment="flip")
    assert sum(computed) == 18
    second = take(split_photos, views=2, augment="rotate")
    assert sum(computed) == 18 + 18
    assert plain.store.folder == first.store.folder == second.store.folder
    assert np.array_equal(plain.arrays()[0], second.arrays()[0])


def test_more_views_compute_only_the_new_ones_and_change_no_others(take, split_photos, computed):
    two = take(split_photos, views=2, augment=AUGMENT).arrays("train", view=1)[0]
    computed.clear()

    four = take(split_photos, views=4, augment=AUGMENT)

    assert sum(computed) == 2 * 18
    assert np.array_equal(four.arrays("train", view=1)[0], two)


def test_new_images_change_no_other_views(take, own_photos, computed):
    options = {"views": 2, "augment": AUGMENT, "validation_fraction": 0.0, "test_fraction": 0.0}
    before = take(own_photos, **options)
    known = dict(zip(before.names(), before.arrays("train", view=1)[0], strict=True))
    write_photos(own_photos, per_class=1, first=60)
    computed.clear()

    after = take(own_photos, **options)

    assert sum(computed) == 2 * 3
    now = dict(zip(after.names(), after.arrays("train", view=1)[0], strict=True))
    assert all(np.array_equal(now[name], known[name]) for name in known)


def test_a_set_describes_its_images_equally_with_and_without_views(take, split_photos, viewed):
    # What a head was fitted to is the same dataset, so its run stays good when views are added.
    assert take(split_photos).digest == viewed.digest


def test_views_of_several_cuts_are_computed_in_one_pass(take, split_photos, computed, tmp_path):
    low, high = take(split_photos, cut=["stem", "top"], pool="none", views=2, augment="flip")

    assert sum(computed) == 36 + 18
    assert low.arrays("train", view=1)[0].shape == (18, 16, 16, 8)
    assert high.arrays("train", view=1)[0].shape == (18, 8, 8, 16)


# Heads


def test_a_head_trained_by_keras_takes_one_view_per_epoch_in_turn(viewed, tmp_path, monkeypatch):
    seen = []
    original = keras_head.train

    def watched(model, training, *rest, **options):
        rows = np.arange(3)
        seen.append([np.array(training.of_epoch(epoch)(rows)) for epoch in range(4)])
        return original(model, training, *rest, **options)

    monkeypatch.setattr(keras_head, "train", watched)

    run = fit_head(viewed, "linear", epochs=2, out=tmp_path / "run", progress=False)

    rows = viewed.rows("train")[:3]
    assert all(np.array_equal(seen[0][epoch], viewed.features(rows, view=epoch % 3)) for epoch in range(4))
    assert run.about["options"]["views"] == 3
    assert run.metrics["train"]["n"] == 18


def test_a_scikit_learn_head_is_fitted_to_all_views_at_once(viewed, tmp_path, monkeypatch):
    seen = []
    original = classical_head.cross_validate

    def watched(fitter, values, x, y, setup, folds, **options):
        seen.append((x, y, folds))
        return original(fitter, values, x, y, setup, folds, **options)

    monkeypatch.setattr(classical_head, "cross_validate", watched)

    run = fit_head(viewed, "logistic", out=tmp_path / "run", progress=False)

    ((x, y, folds),) = seen
    assert len(x) == 3 * 18
    assert np.array_equal(y, np.tile(viewed.labels("train"), 3))
    # No fold holds out an image of which it has seen a view.
    assert all(not set(fit % 18) & set(held_out % 18) for fit, held_out in folds)
    assert run.metrics["train"]["n"] == 18


def test_a_head_may_be_fitted_to_fewer_views_than_are_cached(viewed, tmp_path):
    run = fit_head(viewed, "ridge", views=1, out=tmp_path / "run", progress=False)

    assert run.about["options"]["views"] == 1
    for wrong in (0, 4):
        with pytest.raises(
            OptionError, match=rf"cannot fit to this number of views of .*; expected 1 to 3, found {wrong}\. Extract"
        ):
            fit_head(viewed, "ridge", views=wrong, out=tmp_path / "other", progress=False)


# Plans and damage


def test_a_plan_counts_views_too_and_writes_nothing(split_photos, tiny_base, tmp_path, take):
    out = tmp_path / "features" / "set.h5"

    def plan(**options):
        fixed = {"base": str(tiny_base), "pool": "avg", "batch_size": 32, "progress": False, "out": out}
        return Extraction(split_photos, ExtractOptions(**fixed, **options)).plan()[0]

    planned = plan(views=3, augment=AUGMENT)

    assert (planned.images, planned.views, planned.compute, planned.cached) == (36, 3, 72, 0)
    assert planned.bytes == 72 * (16 * 4 + 44)
    assert not out.parent.exists()
    take(split_photos)
    assert (plan(views=3, augment=AUGMENT).compute, plan().compute) == (36, 0)


def test_views_are_refused_if_their_store_now_belongs_to_another_trunk(take, split_photos):
    features = take(split_photos, views=2, augment="flip")
    views = next(path for path in features.store.folder.parent.iterdir() if "-views-" in path.name)
    assert Store(views).spec.augmentation == features.augmentation
    edit_json(views / "trunk.json", lambda description: description["trunk"].update(augmentation="rotate=1"))

    with pytest.raises(SetError, match=r"the store of .* cannot be opened: damaged description"):
        features.arrays("train", view=1)
    assert len(features.arrays("train")[0]) == 18


def test_a_flipped_bit_in_the_places_of_views_is_noticed(take, split_photos):
    features = take(split_photos, views=2, augment="flip")
    places = features.content.views.places.tobytes()
    data = bytearray(Path(features.path).read_bytes())
    data[data.index(places) + 3] ^= 1
    Path(features.path).write_bytes(data)

    with pytest.raises(SetError, match="its checksum does not match"):
        open_features(features.path)
