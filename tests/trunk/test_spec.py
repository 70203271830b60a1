"""A trunk's digest covers everything that features depend on, and nothing else."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from permafrost.errors import VersionError
from permafrost.trunk.spec import DESCRIPTION, TrunkSpec, canonical_json, first_difference
from samples import WHOLE_SPEC, spec_with

TEXT = st.text(max_size=12)
SIZES = st.tuples(st.integers(1, 999), st.integers(1, 999))
VALUES = {
    "image_size": SIZES,
    "meaning": st.integers(0, 99),
    "shapes": st.lists(st.lists(st.integers(1, 99), max_size=3).map(tuple), min_size=1, max_size=3).map(tuple),
}
"""Values of the fields that are not text."""

NAMES = [field.name for field in dataclasses.fields(TrunkSpec)]
DECIDING = [name for name in NAMES if name not in DESCRIPTION]


def values_of(name: str) -> st.SearchStrategy:
    return VALUES.get(name, TEXT)


SPECS = st.builds(TrunkSpec, **{name: values_of(name) for name in NAMES})


def test_the_digest_is_pinned():
    # A change here makes every user compute every feature again. If that is intended, raise `trunk.spec.MEANING`.
    assert WHOLE_SPEC.digest == "06d0810972adcd1e7bf88891b6b2c66a264d67fee1a0fba3b8a82f28d00dab66"
    assert WHOLE_SPEC.key == WHOLE_SPEC.digest[:12]


def test_the_fields_that_features_depend_on_change_only_on_purpose():
    assert set(WHOLE_SPEC.digested_fields) == {
        "architecture",
        "augmentation",
        "decoding",
        "dtype",
        "image_size",
        "meaning",
        "pooling",
        "precision",
        "preprocessing",
        "resizing",
        "weights",
    }


@given(spec=SPECS, data=st.data())
def test_any_deciding_field_changed_changes_the_digest(spec, data):
    name = data.draw(st.sampled_from(DECIDING))
    value = data.draw(values_of(name).filter(lambda value: value != getattr(spec, name)))

    changed = dataclasses.replace(spec, **{name: value})

    assert changed.digest != spec.digest
    assert first_difference(spec, changed) == (name, getattr(spec, name), value)


@given(spec=SPECS, data=st.data())
def test_no_describing_field_changes_the_digest(spec, data):
    name = data.draw(st.sampled_from(DESCRIPTION))

    changed = dataclasses.replace(spec, **{name: data.draw(values_of(name))})

    assert changed.digest == spec.digest
    assert first_difference(spec, changed) is None


@given(SPECS)
def test_a_record_comes_back_equal_from_json(spec):
    back = TrunkSpec.from_json(json.loads(json.dumps(spec.to_json())))

    assert back == spec
    assert back.digest == spec.digest


@given(SPECS)
def test_the_folder_name_has_only_characters_that_file_systems_allow_and_ends_with_the_key(spec):
    name = spec.folder_name

    assert name.endswith(f"-{spec.key}")
    assert all(c.isalnum() or c in "._=-" for c in name)
    assert len(name) <= 80 + 1 + 12


def test_the_folder_name_names_base_cut_and_pooling():
    spec = spec_with(base="mobilenet:alpha=0.25", cut="conv_pw_13_relu", pooling="avg")

    assert spec.folder_name == f"mobilenet-alpha=0.25-conv_pw_13_relu-avg-{spec.key}"


@pytest.mark.parametrize(
    ("change", "word"),
    [({"extra": 1}, "extra"), ({"pooling": None}, "pooling")],
    ids=["a field too many", "a field too few"],
)
def test_a_record_with_other_fields_is_another_versions_and_both_lists_are_named(change, word):
    fields = {**WHOLE_SPEC.to_json(), **change}
    fields = {name: value for name, value in fields.items() if value is not None}

    with pytest.raises(VersionError, match=r"does not have the fields of this version; expected .*, found ") as caught:
        TrunkSpec.from_json(fields)

    assert (word in str(caught.value.found)) != (word in str(caught.value.expected))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaterSpec(TrunkSpec):
    """The record of a later version, with one more field that features depend on."""

    colors: str = "rgb"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaterDescription(TrunkSpec):
    """The record of a later version, with one more field for people."""

    license: str = ""

    @property
    def digested_fields(self):
        return {name: value for name, value in super().digested_fields.items() if name != "license"}


def test_a_field_more_that_features_depend_on_makes_other_trunks_and_each_version_names_those_of_the_other():
    later = LaterSpec(**{field: getattr(WHOLE_SPEC, field) for field in NAMES})

    assert later.key != WHOLE_SPEC.key
    for kind, spec in ((LaterSpec, WHOLE_SPEC), (TrunkSpec, later)):
        with pytest.raises(VersionError, match="does not have the fields of this version"):
            kind.from_json(spec.to_json(), digest=spec.digest)


def test_a_field_more_for_people_changes_nothing_for_either_version():
    later = LaterDescription(**{field: getattr(WHOLE_SPEC, field) for field in NAMES}, license="MIT")

    assert later.digest == WHOLE_SPEC.digest
    assert TrunkSpec.from_json(later.to_json(), digest=later.digest) == WHOLE_SPEC
    older = LaterDescription.from_json(WHOLE_SPEC.to_json(), digest=WHOLE_SPEC.digest)
    assert older == dataclasses.replace(later, license="")


def test_of_several_differences_the_one_that_means_most_to_people_is_named():
    other = spec_with(base="vgg16", cut="block5", image_size=(64, 64), architecture="c" * 64, weights="d" * 64)

    assert first_difference(WHOLE_SPEC, other) == ("base", "tiny", "vgg16")


def test_if_only_the_weights_differ_the_weights_are_named_and_not_their_file():
    other = spec_with(weights="d" * 64, weights_source="other.h5")

    assert first_difference(WHOLE_SPEC, other) == ("weights", "b" * 64, "d" * 64)


def test_canonical_json_does_not_depend_on_the_order_of_keys_and_is_ascii():
    assert canonical_json({"b": 1, "a": "é"}) == canonical_json({"a": "é", "b": 1}) == b'{"a":"\\u00e9","b":1}'


@pytest.mark.parametrize(("value", "error"), [(float("nan"), ValueError), (object(), TypeError), ({1, 2}, TypeError)])
def test_a_value_without_canonical_json_is_refused(value, error):
    with pytest.raises(error):
        canonical_json({"value": value})
