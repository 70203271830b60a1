"""The options of fine-tuning describe themselves and are checked before anything is loaded."""

from __future__ import annotations

import typing

import pytest

import permafrost as pf
from permafrost.errors import OptionError
from permafrost.finetuning.options import OWN_FIELDS, FineTuneOptions, FineTuneSettings, options_from
from permafrost.options import descriptions
from permafrost.training.options import FINE_TUNING, TrainingSettings
from permafrost.trunk.cutting import DTYPES


def test_the_keywords_of_finetune_are_the_options():
    keywords = set(typing.get_type_hints(FineTuneSettings)) - set(typing.get_type_hints(TrainingSettings))

    assert keywords | {"unfreeze"} == set(OWN_FIELDS) == set(descriptions(FineTuneOptions))


def test_the_documentation_of_finetune_lists_every_option_with_its_default():
    lines = pf.finetune.__doc__

    for name in (*OWN_FIELDS, *descriptions(FINE_TUNING)):
        assert f"        {name}: " in lines
    assert "learning_rate: Learning rate. Default: 1e-05." in lines
    assert "cache_limit: Maximum size of the cached features on disk; 0 caches nothing. Default: '20GB'." in lines


def test_features_can_be_cached_in_every_number_format_of_a_trunk():
    assert descriptions(FineTuneOptions)["dtype"].choices == DTYPES


def test_keywords_of_training_become_options_of_training():
    options = options_from({"epochs": 3, "lowest_rate": 0.5, "unfreeze": ["top", 4]})

    assert (options.training.epochs, options.training.optimizer) == (3, FINE_TUNING.optimizer)
    assert (options.lowest_rate, options.unfreeze) == (0.5, ["top", 4])


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"dtype": "float64"}, "unknown dtype; expected float32 or float16, found float64"),
        ({"lowest_rate": 0}, "lowest_rate is out of range; expected more than 0, at most 1, found 0"),
        ({"cache_limit": "much"}, "not a number of bytes; expected"),
        ({"epochs": 0}, "epochs is out of range; expected at least 1, found 0"),
    ],
)
def test_an_invalid_option_is_one_clear_error_line(settings, line):
    with pytest.raises(OptionError) as caught:
        options_from(settings)

    assert str(caught.value).startswith(line)


def test_an_unknown_keyword_is_a_type_error():
    with pytest.raises(TypeError, match="epoch"):
        options_from({"epoch": 3})
