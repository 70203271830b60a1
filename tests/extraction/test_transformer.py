"""`FeatureExtractor` is a scikit-learn transformer over paths or images, on the same store as `extract`."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import sklearn.utils.estimator_checks as checks
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import permafrost as pf
import samples
from permafrost.errors import CutError, DatasetError, ImageError, OptionError
from permafrost.extraction.transformer import FeatureExtractor

# Those of scikit-learn's checks that feed no table of numbers, which is neither paths nor images.
APPLICABLE = (
    checks.check_do_not_raise_errors_in_init_or_set_params,
    checks.check_estimator_cloneable,
    checks.check_estimator_repr,
    checks.check_estimator_tags_renamed,
    checks.check_get_params_invariance,
    checks.check_mixin_order,
    checks.check_no_attributes_set_in_init,
    checks.check_parameters_default_constructible,
    checks.check_set_params,
    checks.check_valid_tag_types,
)


@pytest.fixture
def extractor(tiny_base: Path, tmp_path: Path) -> FeatureExtractor:
    return FeatureExtractor(base=str(tiny_base), store=tmp_path / "features")


@pytest.fixture(scope="module")
def paths(photos: Path) -> list[str]:
    return [str(path) for path in sorted(photos.rglob("*.*"))]


@pytest.fixture(scope="module")
def labels(paths: list[str]) -> np.ndarray:
    return np.array([Path(path).parent.name for path in paths])


def test_check_estimator_accepts_it(extractor: FeatureExtractor) -> None:
    with pytest.warns(checks.SkipTestWarning, match="string=True"):
        checks.check_estimator(extractor)


@pytest.mark.parametrize("check", APPLICABLE, ids=lambda check: check.__name__)
def test_each_check_that_needs_no_table_of_numbers_holds(check, extractor: FeatureExtractor) -> None:
    check("FeatureExtractor", extractor)


def test_features_are_those_of_extract(
    extractor: FeatureExtractor, tiny_base: Path, photos: Path, paths: list[str], tmp_path: Path
) -> None:
    extracted = pf.extract(photos, base=str(tiny_base), pool="avg", out=tmp_path / "features" / "photos.h5")

    features = extractor.fit(paths).transform(paths)

    rows = [extracted.paths().index(path) for path in paths]
    np.testing.assert_array_equal(features, extracted.features(np.array(rows)))
    assert features.dtype == np.float32


def test_cached_features_are_not_computed_again(extractor: FeatureExtractor, paths: list[str], tmp_path: Path) -> None:
    first = extractor.fit_transform(paths)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").rglob("*.h5")}

    again = clone(extractor).fit_transform(paths[::-1])

    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").rglob("*.h5")}
    assert before == after
    np.testing.assert_array_equal(again, first[::-1])


def test_images_may_be_arrays_of_any_sizes(extractor: FeatureExtractor) -> None:
    images = [samples.texture("dots", 1, (40, 50)), samples.texture("checks", 2, (33, 61))]

    features = extractor.fit(images).transform(images)

    assert features.shape == (2, extractor.n_features_out_)
    assert not np.array_equal(features[0], features[1])


def test_one_array_of_images_and_a_list_of_them_give_the_same(extractor: FeatureExtractor) -> None:
    images = np.stack([samples.texture("dots", seed) for seed in range(3)])

    together, apart = extractor.fit_transform(images), extractor.fit_transform(list(images))

    np.testing.assert_array_equal(together, apart)


@pytest.mark.parametrize(
    "scaled",
    [
        lambda images: images / 255,
        lambda images: images.astype(np.uint16) * 257,
        lambda images: np.moveaxis(images, 3, 1),
        lambda images: images.astype(np.int64),
    ],
    ids=["fractions", "16 bits", "channels first", "wide integers"],
)
def test_arrays_of_another_range_or_form_have_the_features_of_the_same_images(extractor, scaled) -> None:
    images = np.stack([samples.texture("dots", seed, (40, 40)) for seed in range(3)])
    expected = extractor.fit_transform(images)

    found = clone(extractor).fit_transform(scaled(images))

    np.testing.assert_array_equal(found, expected)


def test_the_range_found_when_it_is_fitted_holds_when_it_transforms(extractor: FeatureExtractor) -> None:
    deep = np.stack([samples.texture("dots", seed, (40, 40)) for seed in range(3)]).astype(np.uint16) * 16
    dark = deep[:1] // 20
    extractor.fit(deep)

    alone, among = extractor.transform(dark), extractor.transform(np.concatenate([deep, dark]))

    np.testing.assert_array_equal(alone[0], among[-1])
    with pytest.raises(DatasetError, match="another range than the images before; expected 0 to 4095"):
        extractor.transform(deep * 16)


def test_fractions_are_the_images_that_they_are_where_it_was_fitted_on_floats_up_to_255(extractor) -> None:
    images = np.stack([samples.texture("dots", seed, (40, 40)) for seed in range(3)]).astype(np.float32)
    extractor.fit(images)

    for other in (images / 255, images.astype(np.uint8)):
        np.testing.assert_array_equal(extractor.transform(other), extractor.transform(images))


def test_it_may_be_fitted_on_paths_and_transform_arrays(extractor: FeatureExtractor, paths: list[str]) -> None:
    images = np.stack([samples.texture("dots", seed, (40, 40)) for seed in range(2)])
    extractor.fit(paths)

    np.testing.assert_array_equal(extractor.transform(images / 255), extractor.transform(images))


@pytest.mark.parametrize(
    ("images", "error", "line"),
    [
        (np.zeros((40, 40, 3), np.uint8), OptionError, r"one image, not a list of images; .* X\[None\]"),
        (np.full((2, 40, 40, 3), 1.5), DatasetError, "values of X have two readings"),
        (np.full((2, 40, 40, 3), np.nan), ImageError, r"bad image X\[0\]: NaN or infinity among its values"),
        (np.zeros((2, 40, 40, 2)), ImageError, r"bad image X\[0\]: not an image; expected shape \(h, w, 3\)"),
    ],
)
def test_arrays_that_are_no_images_are_refused_when_it_is_fitted(extractor, images, error, line) -> None:
    with pytest.raises(error, match=line):
        extractor.fit(images)


def test_maps_that_are_not_pooled_are_flattened(extractor: FeatureExtractor, paths: list[str]) -> None:
    extractor.set_params(pool="none")

    features = extractor.fit_transform(paths[:2])

    assert features.shape == (2, int(np.prod(extractor.spec_.shapes[0])))
    assert len(extractor.spec_.shapes[0]) == 3


def test_output_names_count_the_features(extractor: FeatureExtractor, paths: list[str]) -> None:
    names = extractor.fit(paths).get_feature_names_out()

    assert len(names) == extractor.n_features_out_
    assert names[0] == "featureextractor0"


def test_transform_before_fit_is_refused(extractor: FeatureExtractor, paths: list[str]) -> None:
    with pytest.raises(NotFittedError):
        extractor.transform(paths)


def test_a_pickled_extractor_gives_the_same_features(extractor: FeatureExtractor, paths: list[str]) -> None:
    features = extractor.fit_transform(paths[:4])

    thawed = pickle.loads(pickle.dumps(extractor))

    np.testing.assert_array_equal(thawed.transform(paths[:4]), features)


def test_changing_a_parameter_changes_the_trunk(extractor: FeatureExtractor, paths: list[str]) -> None:
    first = extractor.fit(paths).spec_.key

    second = extractor.set_params(pool="max").fit(paths).spec_.key

    assert first != second


def test_a_grid_search_covers_it_like_any_step_of_a_pipeline(
    extractor: FeatureExtractor, paths: list[str], labels: np.ndarray
) -> None:
    pipeline = make_pipeline(extractor, LogisticRegression(max_iter=200))

    search = GridSearchCV(pipeline, {"logisticregression__C": [0.1, 10.0]}, cv=2).fit(paths, labels)

    assert set(search.predict(paths)) <= set(labels)
    assert search.best_score_ > 0.5


def test_an_image_that_cannot_be_decoded_is_named(
    extractor: FeatureExtractor, paths: list[str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")

    with pytest.raises(ImageError, match=r"bad\.jpg"):
        extractor.fit(paths).transform([*paths[:2], str(bad)])


@pytest.mark.parametrize("images", ["one.jpg", [], 3, [1, 2], ["a.jpg", np.zeros((4, 4, 3))]])
def test_anything_but_a_list_of_images_is_refused(extractor: FeatureExtractor, images: object) -> None:
    with pytest.raises(OptionError, match="images"):
        extractor.fit(images)


def test_a_cut_that_is_not_there_is_refused_when_fitted(extractor: FeatureExtractor, paths: list[str]) -> None:
    with pytest.raises(CutError, match="no layer nowhere"):
        extractor.set_params(cut="nowhere").fit(paths)
