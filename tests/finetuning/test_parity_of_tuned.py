"""The model of a fine-tuned run agrees with the cached features and with the model that was trained, or is refused."""

from __future__ import annotations

import keras
import pytest

from permafrost.errors import ParityError
from permafrost.finetuning.finetune import finetune
from permafrost.model import parity
from tuning import QUICK, RECOMPUTE

pytest_plugins = ["upper"]
pytestmark = [
    pytest.mark.usefixtures("light"),
    # TensorFlow warns that its data pipeline is compiled even in eager mode.
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
]


def tune(run, tmp_path, **options):
    return finetune(run, "joined", out=tmp_path / "tuned", progress=False, **{**QUICK, **options})


@pytest.mark.parametrize("options", [{}, RECOMPUTE, {"dtype": "float16"}], ids=["cached", "recomputed", "float16"])
def test_above_and_below_the_cut_a_tuned_model_is_exact(sloppy_run, tmp_path, options):
    tuned = tune(sloppy_run, tmp_path, **options)

    plan, found = tuned.about["stages"][-1]["plan"], tuned.about["parity"]
    assert plan["crossing"] == ["left", "right"]
    assert found["head_max_difference"] <= 1e-6
    assert found["features_max_difference"] <= (2**-11 if options.get("dtype") == "float16" else 1e-5)
    assert found["images"] == 9
    assert tuned.about["warnings"] == []


@pytest.mark.parametrize(
    ("options", "layer", "line"),
    [
        ({}, "top", "the exported model does not agree with the head on cached features"),
        ({}, "left", "the exported model's trunk does not give the cached features"),
        (RECOMPUTE, "left", "the exported model does not agree with the head on cached features"),
    ],
)
def test_a_changed_weight_anywhere_is_found(sloppy_run, tmp_path, monkeypatch, options, layer, line):
    def export_another(model: keras.Model, path) -> None:
        other = keras.models.clone_model(model)
        other.set_weights(model.get_weights())
        found = other.get_layer(layer)
        found.set_weights([weights * 1.1 for weights in found.get_weights()])
        other.save(path)

    monkeypatch.setattr(parity, "export_model", export_another)

    with pytest.raises(ParityError) as caught:
        tune(sloppy_run, tmp_path, **options)

    assert line in str(caught.value)
    assert not (tmp_path / "tuned").exists()
