"""A fine-tuned run is a base for extraction."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import permafrost as pf
from helpers import one_error_line
from permafrost.errors import OptionError
from permafrost.extraction.originals import Originals
from tuning import QUICK

pytest_plugins = ["upper", "tuning"]
pytestmark = [
    pytest.mark.usefixtures("light"),
    # TensorFlow warns that its data pipeline is compiled even in eager mode.
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
]


def test_a_fine_tuned_run_is_a_base_with_the_features_of_its_tuned_layers(tune, split_photos, tmp_path):
    tuned = tune("top", learning_rate=0.02)
    (tmp_path / "f").mkdir()

    features = pf.extract(
        split_photos, base=str(tuned.folder), pool="avg", out=tmp_path / "f" / "set.h5", progress=False
    )

    model = keras.models.load_model(tuned.model_path)
    pooled = keras.Model(model.inputs, model.get_layer("top_pooling").output)
    pixels = np.stack([Originals(features).pixels(row) for row in range(6)]).astype(np.float32)
    expected = pooled.predict_on_batch(pixels)
    assert np.abs(features.features(np.arange(6)) - expected).max() <= 1e-4 * np.abs(expected).max()
    again = pf.fit_head(features, "logistic", regularization=1e-2, out=tmp_path / "again", progress=False)
    assert pf.finetune(again, "joined", out=tmp_path / "more", progress=False, **QUICK).about["unfrozen"]["index"] == 6


def test_below_the_trained_layers_a_runs_features_are_those_already_cached(tune, split_photos, tiny_base, tmp_path):
    tuned = tune("top", learning_rate=0.02)
    options = {"cut": "joined", "out": tmp_path / "f" / "set.h5", "progress": False}
    pf.extract(split_photos, base=str(tiny_base), **options)

    features = pf.extract(split_photos, base=str(tuned.model_path), **options)

    assert features.summary["computed"] == 0


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"weights": "none"}, "is a run and has its own weights; found none. Leave --weights out"),
        ({"preprocessing": "caffe"}, "is a run with another preprocessing; expected none, found caffe"),
    ],
)
def test_a_run_as_a_base_has_its_own_weights_and_preprocessing(run, split_photos, tmp_path, options, line):
    with pytest.raises(OptionError) as caught:
        pf.extract(split_photos, base=str(run.folder), out=tmp_path / "set.h5", progress=False, **options)

    assert one_error_line(caught.value).endswith(line)
