"""(d) A further experiment on the same images costs the fit of a head, without running the base again.

The tutorials' way trains the whole model for every experiment, `--epochs` epochs with the frozen base in it; one epoch
is timed, after one that compiles. Permafrost fits another head to cached features: a logistic head with another
regularisation each time, on the same splits, with the exported model and its parity check.

    python benchmarks/next_experiment.py --job inception_v3 --train 1000 --validation 400 --epochs 10
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import common
from whole_job import JOBS, data_folder, permafrost_way, tutorial_way

import permafrost as pf

EXPERIMENTS = 10


def main() -> None:
    given = common.arguments(__doc__, job=list(JOBS), train=1000, validation=400, test=600, epochs=10)
    setting, job = common.SETTINGS[given.job], JOBS[given.job] | {"epochs": given.epochs}
    common.show_machine()
    sizes = {"train": given.train, "validation": given.validation, "test": given.test}
    print(f"{setting.base}, {setting.size} px, {sizes}, {EXPERIMENTS} experiments of {given.epochs} epochs each")
    with tempfile.TemporaryDirectory() as scratch:
        data = data_folder(sizes, Path(scratch, "data"))
        again, _ = tutorial_way(setting, job, data, 2)
        first, _ = permafrost_way(setting, data, Path(scratch), "avg", {"head": "logistic"})
        features = pf.open_features(Path(scratch, "set.h5"))
        seconds = [
            common.timed(
                lambda number=number: pf.fit_head(
                    features,
                    "logistic",
                    regularization=10.0 ** (number - 5),
                    out=Path(scratch, str(number)),
                    progress=False,
                )
            )[0]
            for number in range(2, EXPERIMENTS + 1)
        ]
    print(f"the tutorials' way: {again:.1f} s each; permafrost: the first {first:.1f} s, with extraction")
    print(f"permafrost: the second {seconds[0]:.2f} s, the tenth {seconds[-1]:.2f} s; {common.spread(seconds)} s each")
    print(f"ratio of a further experiment: {common.spread([again / value for value in seconds], '.0f')}")
    print(f"ratio of all ten together: {EXPERIMENTS * again / (first + sum(seconds)):.1f}")


if __name__ == "__main__":
    main()
