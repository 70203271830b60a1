"""A plan caches features unless that does not pay or does not fit."""

from __future__ import annotations

import pytest

from helpers import files_below
from permafrost.finetuning import plan as plan_module
from tuning import prepared

pytest_plugins = ["upper", "tuning"]
pytestmark = [
    pytest.mark.usefixtures("light"),
    # TensorFlow warns that its data pipeline is compiled even in eager mode.
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
]


def test_a_plan_has_what_crosses_the_cut_its_size_and_the_reason_and_writes_nothing(tune, own_features):
    before = files_below(own_features.path.parent)

    (plan,) = prepared(tune.run, views=4, out=None, epochs=10).plan()

    assert plan.strategy == "cached"
    assert (plan.crossing, plan.shapes) == (("left", "right"), ((16, 16, 8), (16, 16, 8)))
    assert (plan.rows, plan.missing) == (18 * 4 + 18, 18 * 4 + 18)
    assert plan.bytes == 90 * (2 * 16 * 16 * 8 * 4 + 44)
    assert plan.seconds > 0
    assert plan.reason == "caching runs the trunk on 90 images, recomputing on 324 in 10 epochs"
    assert files_below(own_features.path.parent) == before


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"cache_limit": "500kB"}, "the features take 591.4 kB, more than the cache limit of 500.0 kB"),
        ({"unfreeze": "stem"}, "no layer below the cut has weights"),
        ({"views": "live"}, "each epoch has new views"),
        ({"epochs": 1, "views": 30}, "caching runs the trunk on 558 images, recomputing on 81 in 1"),
    ],
)
def test_features_are_recomputed_if_caching_does_not_pay(tune, options, reason):
    (plan,) = prepared(tune.run, out=None, **options).plan()

    assert plan.strategy == "recompute"
    assert plan.reason.startswith(reason)


def test_nothing_is_cached_on_a_nearly_full_disk(tune, monkeypatch):
    monkeypatch.setattr(plan_module, "free_bytes", lambda folder: 5 * 10**5)

    (plan,) = prepared(tune.run, out=None).plan()

    assert plan.strategy == "recompute"
    assert plan.reason == "the features take 591.4 kB, and the disk has 500.0 kB free"
