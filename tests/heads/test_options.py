"""An option is described once: its field gives the keyword, the command-line option and the documentation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import permafrost as pf
from permafrost.cli.fit_head import fit_head as fit_head_command
from permafrost.errors import OptionError
from permafrost.heads.options import (
    FitOptions,
    FitSettings,
    HeadOptions,
    HeadSettings,
    fit_options_from,
    options_from,
    parse_numbers,
)
from permafrost.options import descriptions
from permafrost.training.options import TrainingOptions, TrainingSettings

RECORDS = (FitOptions, HeadOptions, TrainingOptions)


@pytest.mark.parametrize("name", [name for record in RECORDS for name in descriptions(record)])
def test_every_option_of_a_fit_is_a_keyword_a_command_line_option_and_documented(name):
    (option,) = (each for each in fit_head_command.params if each.name == name)

    assert f"--{name.replace('_', '-')}" in option.opts
    assert name in FitSettings.__annotations__
    assert f"        {name}: " in pf.fit_head.__doc__


def test_the_settings_are_the_fields():
    own = {field.name for field in dataclasses.fields(HeadOptions)} - {"training", "progress"}
    training = set(TrainingSettings.__annotations__)

    assert set(HeadSettings.__annotations__) == own | training
    assert set(FitSettings.__annotations__) == {field.name for field in dataclasses.fields(FitOptions)} | own | training


def test_settings_are_divided_between_the_fit_its_head_and_its_training():
    fit, head = fit_options_from(
        {"shots": "1,5", "candidates": "ridge,nb", "hidden": "512,128", "filter_dropout": 0.25, "epochs": 7},
        progress=False,
    )

    assert (fit.shots, fit.candidates) == ((1, 5), ("ridge", "nb"))
    assert (head.hidden, head.filter_dropout, head.training.epochs, head.progress) == ((512, 128), (0.25,), 7, False)


def test_an_unknown_setting_is_refused():
    with pytest.raises(TypeError, match="hiden"):
        options_from({"hiden": 5})


@pytest.mark.parametrize(
    ("name", "value", "numbers"),
    [
        ("hidden", "256", (256,)),
        ("hidden", "0", ()),
        ("hidden", 256, (256,)),
        ("hidden", [512, 128], (512, 128)),
        ("hidden", np.array([512, 128]), (512, 128)),
        ("filter_dropout", "0.25,0", (0.25, 0.0)),
    ],
)
def test_numbers_per_layer_are_given_as_a_number_numbers_or_text(name, value, numbers):
    assert parse_numbers(name, value) == numbers


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("hidden", "", "cannot parse --hidden; expected 256, or 512,128, or 0, found "),
        ("hidden", "8,,8", "cannot parse --hidden; expected 256, or 512,128, or 0, found 8,,8"),
        ("hidden", "1.5", "cannot parse --hidden; expected 256, or 512,128, or 0, found 1.5"),
        ("hidden", "many", "cannot parse --hidden; expected 256, or 512,128, or 0, found many"),
        ("filter_dropout", "x", "cannot parse --filter-dropout; expected 0.25, or 0.25,0, found x"),
        ("filter_dropout", 1, "filter_dropout is out of range; expected at least 0, less than 1, found 1"),
        ("kernel_size", 0, "kernel_size is out of range; expected at least 1, found 0"),
    ],
)
def test_an_option_that_is_not_permitted_is_one_clear_line(name, value, line):
    with pytest.raises(OptionError) as caught:
        options_from({name: value})

    assert str(caught.value) == line
