"""Images through a trunk into a store: only what is missing is computed, and nothing is dropped without a word."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

import samples
from helpers import close
from permafrost import extract, open_features
from permafrost.errors import ImageError
from permafrost.extraction import reader as reading
from permafrost.extraction.extract import compute_features
from permafrost.extraction.options import PipelineOptions
from permafrost.images.dataset import read_dataset
from permafrost.images.decoding import decode_resized
from permafrost.images.splits import SPLITS
from permafrost.images.splitting.assignment import assign_splits
from permafrost.images.splitting.units import connect_images
from permafrost.store.description import describe_set
from permafrost.store.duplicates import find_duplicates
from permafrost.store.feature_set import FeatureSet
from permafrost.trunk.bases import load_base
from permafrost.trunk.cutting import build_trunks
from samples import CLASSES, PX, tiny_model, write_photos

pytest_plugins = ["upper"]


@pytest.fixture(scope="module")
def reference(photos, tiny_base, tmp_path_factory) -> FeatureSet:
    """Features of `photos`, extracted once. Not to be changed."""
    out = tmp_path_factory.mktemp("reference") / "photos.h5"
    return extract(photos, base=str(tiny_base), pool="avg", out=out, engine="keras", progress=False)


# What is extracted


def test_features_are_what_keras_predicts_on_the_same_pixels(reference):
    pixels = np.stack([decode_resized(Path(path).read_bytes(), (PX, PX)) for path in reference.paths()])

    expected = tiny_model().predict(pixels.astype(np.float32), verbose=0).mean(axis=(1, 2))

    x, _ = reference.arrays()
    assert x.shape == (18, 16)
    assert close(x, expected, 1e-4)


def test_the_set_lists_the_images_of_the_dataset(reference, photos):
    dataset = read_dataset(photos)

    assert reference.names() == list(dataset.names)
    assert reference.labels().tolist() == list(dataset.labels)
    assert tuple(reference.class_names) == CLASSES
    assert reference.root == str(photos)
    assert [reference.spec.image_size, reference.spec.cut, reference.spec.pooling] == [(PX, PX), "top", "avg"]
    splits = assign_splits(connect_images(reference.digests()), [None] * 18, reference.labels())
    for number, split in enumerate(SPLITS):
        assert reference.rows(split).tolist() == np.flatnonzero(splits == number).tolist()


def test_the_summary_counts_and_the_file_opens_to_the_same(reference):
    again = open_features(reference.path)

    assert {key: reference.summary[key] for key in ("images", "computed", "cached", "skipped", "shape", "engine")} == {
        "images": 18,
        "computed": 18,
        "cached": 0,
        "skipped": 0,
        "shape": [16],
        "engine": f"keras/{keras.backend.backend()}",
    }
    assert reference.summary["seconds"]["total"] > 0
    assert json.dumps(reference.summary)
    assert np.array_equal(again.arrays()[0], reference.arrays()[0])
    assert again.spec == reference.spec and again.digest == reference.digest


def test_given_splits_are_used(take, split_photos):
    features = take(split_photos)

    assert [len(features.rows(split)) for split in ("train", "validation", "test")] == [18, 9, 9]
    for split in ("train", "validation", "test"):
        assert all(name.startswith(f"{split}/") for name in features.names(split))


def test_fractions_decide_the_splits_if_none_are_given(take, photos, reference):
    features = take(photos, validation_fraction=0, test_fraction=0.5)

    assert len(features.rows("validation")) == 0
    units = connect_images(reference.digests())
    splits = assign_splits(units, [None] * 18, reference.labels(), validation_fraction=0, test_fraction=0.5)
    assert len(features.rows("test")) == np.count_nonzero(splits == SPLITS.index("test")) > 0


def test_a_csv_and_an_npz_are_datasets_too(take, photos, reference, tmp_path):
    dataset = read_dataset(photos)
    lines = [f"{photos}/{name},{label}" for name, label in zip(dataset.names, dataset.labels, strict=True)]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *lines]))
    arrays = np.stack([decode_resized(Path(path).read_bytes(), (PX, PX)) for path in reference.paths()])
    np.savez(tmp_path / "arrays.npz", X=arrays, y=reference.labels())

    from_table, from_arrays = take(tmp_path / "table.csv"), take(tmp_path / "arrays.npz")

    assert np.array_equal(from_table.arrays()[0], reference.arrays()[0])
    assert close(from_arrays.arrays()[0], reference.arrays()[0], 1e-5)
    assert from_arrays.summary["computed"] == 18  # An array is known by its pixels, a file by its bytes.
    assert from_arrays.names()[3] == "X[3]"


@pytest.mark.parametrize(
    "options", [{"workers": 1, "batch_size": 1}, {"workers": 3, "batch_size": 5}, {"batch_size": 64}]
)
def test_workers_and_batch_size_change_no_feature_and_no_order(take, photos, reference, options):
    features = take(photos, **options)

    assert features.names() == reference.names()
    assert close(features.arrays()[0], reference.arrays()[0], 1e-5)
    assert features.spec == reference.spec


def test_memory_for_one_image_at_a_time_changes_no_feature_and_no_order(take, photos, reference, monkeypatch):
    monkeypatch.setattr(reading, "DECODING_BYTES", 1)

    features = take(photos, workers=4)

    assert features.names() == reference.names()
    assert np.array_equal(features.arrays()[0], reference.arrays()[0])


def test_several_cuts_in_one_pass_give_the_same_as_one_by_one(take, photos, computed, tmp_path):
    several = take(photos, cut=["stem", "joined"], out=tmp_path / "a" / "set.h5")
    assert sum(computed) == 18

    alone = [take(photos, cut=cut, out=tmp_path / "b" / f"{cut}.h5") for cut in ("stem", "joined")]

    assert [features.path.name for features in several] == ["set-stem.h5", "set-joined.h5"]
    for features, other in zip(several, alone, strict=True):
        assert close(features.arrays()[0], other.arrays()[0], 1e-6)
        assert features.spec == other.spec


def test_a_second_cut_is_computed_beside_a_cached_one(take, photos, tmp_path):
    take(photos, cut="stem", out=tmp_path / "features" / "set.h5")

    several = take(photos, cut=["stem", "joined"], out=tmp_path / "features" / "several.h5")

    assert [features.summary["computed"] for features in several] == [0, 18]


def test_a_list_of_one_cut_gives_a_list_of_one_set(take, photos):
    (features,) = take(photos, cut=["stem"])

    assert features.path.name == "set.h5"
    assert features.spec.cut == "stem"


def test_unpooled_features_keep_their_height_and_width(take, photos):
    features = take(photos, cut="right", pool="none")

    assert features.arrays()[0].shape == (18, 16, 16, 8)


def test_float16_is_stored_as_such_and_read_as_float32(take, photos, reference):
    features = take(photos, dtype="float16")

    x, _ = features.arrays()
    assert x.dtype == np.float32
    assert np.array_equal(x, x.astype(np.float16))
    assert close(x, reference.arrays()[0], 1e-3)
    assert features.spec.digest != reference.spec.digest


def test_the_default_place_is_the_folder_features(photos, tiny_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    features = extract(photos, base=str(tiny_base), pool="avg", progress=False)

    assert features.path == tmp_path / "features" / "photos-tiny-top.h5"
    assert features.store.folder == tmp_path / "features" / "store" / features.spec.folder_name
    assert sorted(os.listdir(features.store.folder)) == sorted(
        [*features.store.shard_names(), "trunk.json", "trunk.keras", "trunk.openvino"]
    )


def test_nothing_is_printed_if_standard_error_is_not_a_terminal(tiny_base, photos, tmp_path, capfd):
    extract(photos, base=str(tiny_base), pool="avg", out=tmp_path / "set.h5", progress=True)

    printed = capfd.readouterr()
    assert printed.out == ""
    assert "images" not in printed.err


# What is computed again


def test_the_second_run_computes_nothing(take, photos, computed):
    first = take(photos)
    shards = {path: path.stat().st_mtime_ns for path in first.store.folder.iterdir()}
    computed.clear()

    second = take(photos)

    assert computed == []
    assert (second.summary["computed"], second.summary["cached"]) == (0, 18)
    assert np.array_equal(second.arrays()[0], first.arrays()[0])
    assert {path: path.stat().st_mtime_ns for path in second.store.folder.iterdir()} == shards


def test_in_a_folder_that_grew_only_the_new_images_are_computed(take, own_photos, computed):
    first = take(own_photos)
    write_photos(own_photos, per_class=2, first=50)
    computed.clear()

    features = take(own_photos)

    assert computed == [6]
    assert (features.summary["images"], features.summary["computed"]) == (24, 6)
    known = dict(zip(first.names(), first.arrays()[0], strict=True))
    now = dict(zip(features.names(), features.arrays()[0], strict=True))
    assert all(np.array_equal(now[name], row) for name, row in known.items())


def test_removing_images_computes_nothing_and_changes_no_other_row(take, own_photos, computed):
    first = take(own_photos)
    removed = first.names()[::6]  # One of each class: with fewer, the fractions would be far off.
    for name in removed:
        (own_photos / name).unlink()
    computed.clear()

    features = take(own_photos)

    assert computed == []
    stay = [name for name in first.names() if name not in removed]
    assert features.names() == stay
    for split in ("train", "validation", "test"):
        assert features.names(split) == [name for name in first.names(split) if name in stay]


def test_renaming_every_file_relabelling_it_and_moving_the_folder_computes_nothing(
    take, own_photos, tmp_path, computed
):
    first = take(own_photos)
    for number, path in enumerate(sorted(own_photos.rglob("*.*"))):
        path.rename(path.parent / os.fsdecode(b"new-\xff-%d%s" % (number, path.suffix.encode())))
    (own_photos / "dots").rename(own_photos / "another class")
    moved = own_photos.rename(tmp_path / "moved")
    computed.clear()

    features = take(moved)

    assert computed == []
    assert features.class_names == ["another class", "checks", "stripes"]
    assert {row.tobytes() for row in features.digests()} == {row.tobytes() for row in first.digests()}


def test_an_edited_image_of_the_same_size_and_time_is_computed_again_alone(take, own_photos, computed):
    first = take(own_photos)
    path = Path(first.paths()[0])
    before, data = path.stat(), bytearray(path.read_bytes())
    # In a PNG's last chunk, the checksum; Pillow does not look at it.
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size and path.stat().st_mtime_ns == before.st_mtime_ns
    computed.clear()

    features = take(own_photos)

    assert computed == [1]
    assert not np.array_equal(features.digests()[0], first.digests()[0])
    assert np.array_equal(features.digests()[1:], first.digests()[1:])


def test_duplicates_are_computed_once_and_all_are_in_the_set(take, own_photos, computed):
    for number in range(5):
        shutil.copy(own_photos / "dots" / "dots-000.png", own_photos / "checks" / f"copy-{number}.png")

    features = take(own_photos, batch_size=3)

    assert sum(computed) == 18
    assert (features.summary["images"], features.summary["computed"], features.summary["cached"]) == (23, 18, 5)
    x, _ = features.arrays()
    rows = [row for row, name in enumerate(features.names()) if "copy-" in name or name == "dots/dots-000.png"]
    assert len(rows) == 6
    assert all(np.array_equal(x[row], x[rows[0]]) for row in rows)


def test_duplicates_in_several_splits_or_under_several_labels_are_reported_with_their_paths(take, tmp_path):
    data = samples.write_split_photos(tmp_path / "data")
    one, two, three = (f"train/dots/dots-00{number}.{end}" for number, end in ((0, "png"), (1, "jpg"), (2, "png")))
    shutil.copy(data / one, data / "test" / "dots" / "again.png")
    shutil.copy(data / two, data / "train" / "checks" / "other.jpg")
    shutil.copy(data / three, data / "train" / "dots" / "harmless.png")

    features = take(data)

    duplicates = features.summary["duplicates"]
    assert (duplicates["images"], duplicates["across_splits"], duplicates["across_labels"]) == (3, 1, 1)
    assert [[tuple(each.values()) for each in group] for group in duplicates["groups"]] == [
        [("test/dots/again.png", "test", "dots"), (one, "train", "dots")],
        [("train/checks/other.jpg", "train", "checks"), (two, "train", "dots")],
    ]
    assert describe_set(open_features(features.path))["duplicates"] == duplicates
    assert [len(group) for group in find_duplicates(features.digests())] == [2, 2, 2]


def test_a_dataset_without_duplicates_reports_no_duplicates(reference):
    assert find_duplicates(reference.digests()) == []
    assert reference.summary["duplicates"] == {"images": 0, "across_splits": 0, "across_labels": 0, "groups": []}


@pytest.mark.parametrize("change", [{"cut": "joined"}, {"image_size": 40}, {"dtype": "float16"}])
def test_an_option_that_changes_features_computes_all_into_another_store(take, photos, computed, change):
    first = take(photos)
    computed.clear()

    other = take(photos, **change)

    assert sum(computed) == 18
    assert other.store.folder != first.store.folder
    assert other.store.folder.parent == first.store.folder.parent


def test_another_dataset_uses_the_cached_features_of_the_same_images(take, photos, tmp_path, computed):
    take(photos)
    computed.clear()
    some = write_photos(tmp_path / "some", per_class=2, classes=CLASSES[:2])
    write_photos(some, per_class=1, classes=CLASSES[1:], first=70)

    features = take(some, out=tmp_path / "features" / "some.h5")

    assert sum(computed) == 2
    assert features.summary["cached"] == 4


def test_results_are_the_same_when_the_features_folder_is_moved_as_a_whole(take, photos, tmp_path, computed):
    first = take(photos)
    shutil.move(tmp_path / "features", tmp_path / "elsewhere")
    computed.clear()

    opened = open_features(tmp_path / "elsewhere" / "set.h5")
    again = take(photos, out=tmp_path / "elsewhere" / "set.h5")

    assert computed == []
    assert np.array_equal(opened.arrays()[0], again.arrays()[0])
    assert opened.digest == again.digest == first.digest


def test_features_without_a_set_are_in_the_datasets_order_and_cached(photos, tiny_base, reference, tmp_path, computed):
    trunk = build_trunks(load_base(str(tiny_base)), pool="avg")[0]
    dataset, options = read_dataset(photos), PipelineOptions(engine="keras", progress=False)

    first, second = (compute_features(dataset, trunk, tmp_path, options) for _ in range(2))

    assert close(first, reference.arrays()[0], 1e-6)
    assert np.array_equal(second, first)
    assert sum(computed) == 18


def test_without_a_set_an_image_that_cannot_be_decoded_is_an_error(own_photos, tiny_base, tmp_path):
    (own_photos / "dots" / "empty.png").write_bytes(b"")
    trunk = build_trunks(load_base(str(tiny_base)), pool="avg")[0]

    with pytest.raises(ImageError, match=r"bad image .*dots/empty\.png: the file is empty\. Leave it out"):
        compute_features(read_dataset(own_photos), trunk, tmp_path, PipelineOptions(progress=False))


# Real weights and images


def test_real_features_separate_real_classes(take, shared, tmp_path):
    for kind in ("red", "green"):
        names = sorted(path.name for path in (shared / "data" / "traffic_lights" / "test" / kind).iterdir())[:8]
        (tmp_path / "lights" / kind).mkdir(parents=True)
        for name in names:
            shutil.copy(shared / "data" / "traffic_lights" / "test" / kind / name, tmp_path / "lights" / kind / name)
    sets = [
        take(
            tmp_path / "lights",
            base="mobilenet:alpha=0.25",
            weights=str(shared / "weights" / name),
            image_size=64,
            out=tmp_path / "features" / f"{name}.h5",
        )
        for name in ("mobilenet_2_5_224_tf.h5", "mobilenet_2_5_224_tf_no_top.h5")
    ]

    x, y = sets[0].arrays()

    # The file with the classifier gives the same trunk, so that the second run found all rows.
    assert sets[0].spec.digest == sets[1].spec.digest
    assert sets[1].summary["computed"] == 0
    means = np.stack([x[y == label].mean(axis=0) for label in (0, 1)])
    nearest = np.linalg.norm(x[:, None] - means, axis=2).argmin(axis=1)
    assert (nearest == y).mean() > 0.85
