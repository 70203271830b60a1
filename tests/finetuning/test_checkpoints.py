"""Training that was killed resumes from its checkpoint."""

from __future__ import annotations

import pytest

from helpers import leftovers
from permafrost.training.callbacks import EpochCallback
from tuning import history_of, same_weights

pytest_plugins = ["upper", "tuning"]
pytestmark = [
    pytest.mark.usefixtures("light"),
    # TensorFlow warns that its data pipeline is compiled even in eager mode.
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
]

ADAM = {"optimizer": "adam", "learning_rate": 0.01, "schedule": "cosine", "warmup_epochs": 1.0}


class KilledError(Exception):
    pass


@pytest.fixture
def kill(monkeypatch):
    """Make training die at the start of this epoch, counted from 0 over all stages; None stops that."""
    original = EpochCallback.on_epoch_begin
    left = [0]

    def counted(self, epoch, logs=None):
        left[0] -= 1
        if left[0] < 0:
            raise KilledError
        original(self, epoch, logs)

    def kill(epochs: int | None) -> None:
        left[0] = epochs or 0
        monkeypatch.setattr(EpochCallback, "on_epoch_begin", counted if epochs else original)

    return kill


@pytest.mark.parametrize(
    ("epochs", "options"),
    [
        pytest.param(2, ADAM, marks=pytest.mark.slow),
        (3, {"views": 2, "lowest_rate": 0.3}),
        pytest.param(5, {"unfreeze": "top,left"}, marks=pytest.mark.slow),
        pytest.param(2, {"cache_limit": 0}, marks=pytest.mark.slow),
    ],
    ids=["adam and schedule", "views", "in the second stage", "recompute"],
)
def test_killed_training_resumes_to_the_same_result(tune, kill, tmp_path, epochs, options):
    options = {"epochs": 4, **options}
    whole = tune(name="whole", **options)
    kill(epochs)
    with pytest.raises(KilledError):
        tune(name="killed", **options)
    assert len(list((tmp_path / "runs").glob(".checkpoint-*.npz"))) >= 1
    assert not (tmp_path / "runs" / "killed").exists()
    kill(None)

    resumed = tune(name="killed", **options)

    assert same_weights(whole, resumed)
    assert history_of(whole) == history_of(resumed)
    assert leftovers(tmp_path) == []
    assert list((tmp_path / "runs").glob(".checkpoint-*")) == []


@pytest.mark.slow
def test_another_request_does_not_resume_from_a_checkpoint_and_removes_it_once_the_run_is_written(tune, kill, tmp_path):
    whole = tune(name="whole", epochs=4, seed=1)
    kill(2)
    with pytest.raises(KilledError):
        tune(name="killed", epochs=4)
    kill(None)

    assert history_of(tune(name="other", epochs=4, seed=1)) == history_of(whole)
    assert len(list((tmp_path / "runs").glob(".checkpoint-*"))) == 1
    assert history_of(tune(name="killed", epochs=4, seed=1)) == history_of(whole)
    assert list((tmp_path / "runs").glob(".checkpoint-*")) == []


@pytest.mark.slow
def test_a_damaged_checkpoint_is_ignored(tune, kill, tmp_path):
    whole = tune(name="whole", epochs=3)
    kill(2)
    with pytest.raises(KilledError):
        tune(name="killed", epochs=3)
    kill(None)
    (checkpoint,) = (tmp_path / "runs").glob(".checkpoint-*.npz")
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])

    assert same_weights(whole, tune(name="killed", epochs=3))
