"""Training on images: they are read as extraction read them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import pytest

from permafrost.errors import RunError
from permafrost.extraction.originals import Originals
from permafrost.finetuning.recomputed import DecodedImages
from permafrost.finetuning.selection import ImageSelection
from permafrost.images.augmentation import Views
from permafrost.images.splits import SPLITS
from tuning import RECOMPUTE

pytest_plugins = ["upper", "tuning"]


def decoded(features, rows: np.ndarray) -> np.ndarray:
    selection = ImageSelection(features=features, rows={split: features.rows(split) for split in SPLITS}, views=Views())
    with ThreadPoolExecutor(2) as threads:
        return DecodedImages(selection, threads).rows(rows)


def test_images_are_those_of_the_set_whatever_limit_pillow_has(features, monkeypatch):
    expected = np.stack([Originals(features).pixels(row) for row in range(6)])
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)  # Pillow refuses twice as many.

    assert np.array_equal(decoded(features, np.arange(6)), expected)


def test_an_image_over_the_limit_that_the_set_records_is_named(own_features, monkeypatch):
    monkeypatch.setitem(own_features.about, "max_pixels", 1000)

    line = r"an image of .*\.h5 cannot be trained on: .*pixels; expected at most 1,000"
    with pytest.raises(RunError, match=line):
        decoded(own_features, np.arange(1))


@pytest.mark.usefixtures("light")
@pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning")
def test_validation_images_are_evaluated_once_before_training_after_each_epoch_and_at_the_end(
    tune, own_features, monkeypatch
):
    evaluated: list[int] = []
    load = DecodedImages.rows

    def counted(self, rows, view=0):
        evaluated.extend(rows.tolist())
        return load(self, rows, view)

    monkeypatch.setattr(DecodedImages, "rows", counted)

    tune(epochs=2, **RECOMPUTE)

    assert [evaluated.count(row) for row in own_features.rows("validation")] == [1 + 2 + 1] * 9
