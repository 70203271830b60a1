"""The options of an extraction: what they accept, and that they are described once."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import typing

import pytest

from permafrost import extract
from permafrost.errors import OptionError
from permafrost.extraction.options import ExtractOptions, ExtractSettings
from permafrost.images.splits import TEST_FRACTION, VALIDATION_FRACTION
from permafrost.options import descriptions


def test_the_keywords_of_extract_are_the_fields_of_its_options():
    fields = [field.name for field in dataclasses.fields(ExtractOptions)]

    assert list(typing.get_type_hints(ExtractSettings)) == fields
    assert list(descriptions(ExtractOptions)) == fields
    for name in fields:
        assert f"        {name}: " in extract.__doc__


def test_the_default_fractions_are_those_of_the_splits():
    assert ExtractOptions().fractions == {
        "validation_fraction": VALIDATION_FRACTION,
        "test_fraction": TEST_FRACTION,
    }


@pytest.mark.parametrize(
    ("given", "size"), [(None, None), (150, (150, 150)), ("150", (150, 150)), ("120x160", (120, 160)), ((3, 4), (3, 4))]
)
def test_an_image_size_is_a_number_or_height_and_width(given, size):
    assert ExtractOptions(image_size=given).size == size


@pytest.mark.parametrize(
    ("given", "cuts"), [(None, (None,)), (-1, (-1,)), ("a", ("a",)), ("a,-2", ("a", "-2")), (["a", -2], ("a", -2))]
)
def test_cuts_are_one_layer_or_several(given, cuts):
    assert ExtractOptions(cut=given).cuts == cuts


@pytest.mark.parametrize("options", [{"views": 0}, {"max_pixels": 0}, {"image_size": "a x b"}, {"pool": "median"}])
def test_a_value_that_is_not_permitted_is_refused(options):
    with pytest.raises(OptionError):
        ExtractOptions(**options)


def test_the_options_load_nothing_heavy():
    heavy = ("numpy", "keras", "PIL", "h5py")
    program = f"import sys, permafrost.extraction.options; print([name for name in {heavy} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
