"""What `extract` returns beside the features: the trunk and the summary."""

from __future__ import annotations

import gc
import pickle
import weakref

import numpy as np
import pytest

from permafrost import extract, open_features
from permafrost.extraction import extracted
from permafrost.extraction.extracted import ExtractedSet, trunk_of


@pytest.fixture(scope="module")
def features(photos, tiny_base, tmp_path_factory) -> ExtractedSet:
    """A set that has just been extracted. Not to be changed."""
    out = tmp_path_factory.mktemp("extracted") / "set.h5"
    return extract(photos, base=str(tiny_base), pool="avg", out=out, engine="keras", progress=False)


def test_the_trunk_of_an_extracted_set_is_the_one_that_computed_it(features):
    assert trunk_of(features) is features.trunk


def test_another_process_gets_the_set_without_its_trunk(features):
    copy = pickle.loads(pickle.dumps(features))

    assert copy.trunk is None
    assert copy.summary == features.summary
    np.testing.assert_array_equal(copy.arrays()[0], features.arrays()[0])
    assert trunk_of(copy).spec == features.spec


def test_the_trunk_of_an_opened_set_is_loaded_once_and_freed_with_the_set(features):
    opened = open_features(features.path)

    trunk = weakref.ref(trunk_of(opened))

    assert trunk_of(opened) is trunk()
    assert trunk().base_layers == features.trunk.base_layers
    del opened
    gc.collect()
    assert trunk() is None
    assert all(known.path != features.path for known in extracted._LOADED)
