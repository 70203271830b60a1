"""The command line: what it prints, its exit status, and the files it leaves."""

from __future__ import annotations

import functools
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import keras
import numpy as np
import pytest
from PIL import Image

import permafrost as pf
from helpers import files_below, leftovers, point_to
from permafrost.cli import COMMANDS, INTERRUPTED, program, run
from permafrost.cli.text import duration
from permafrost.units import size
from samples import encoded, texture, tiny_model, write_legacy, write_photos

pytest_plugins = ["upper"]
pytestmark = [
    pytest.mark.usefixtures("light"),
    # TensorFlow warns that its own data pipeline is compiled all the same.
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
]

HEAVY = {"tensorflow", "keras", "sklearn", "h5py", "matplotlib", "jax", "torch", "scipy", "numpy", "PIL"}

TRAINING = ("--nesterov", "--weight-decay", "--schedule", "--warmup-epochs", "--clip-norm", "--label-smoothing")
OPTIONS = {
    "extract": {
        *(
            "--base",
            "--weights",
            "--cut",
            "--pool",
            "--image-size",
            "--dtype",
            "--precision",
            "--engine",
            "--batch-size",
        ),
        *("--workers", "--validation-fraction", "--test-fraction", "--out", "--on-bad", "--dry-run"),
        *("--preprocessing", "--views", "--augment", "--max-pixels", "--layout", "--split-by"),
    },
    "fit-head": {
        *(
            "--head",
            "--hidden",
            "--dropout",
            "--epochs",
            "--batch-size",
            "--optimizer",
            "--learning-rate",
            "--patience",
        ),
        *("--min-delta", "--class-weight", "--seed", "--out"),
        *("--regularization", "--momentum", "--monitor", "--steps-per-epoch"),
        *("--batch-norm", "--l2", "--filters", "--kernel-size", "--pool-size", "--filter-dropout"),
        *("--neighbours", "--pca", "--scaling", "--calibrate", "--candidates", "--shots", "--draws", "--views"),
        "--memory-limit",
        *TRAINING,
    },
    "finetune": {
        *("--unfreeze", "--epochs", "--optimizer", "--learning-rate", "--momentum", "--patience", "--train-batchnorm"),
        "--out",
        *("--batch-size", "--min-delta", "--class-weight", "--seed", "--monitor", "--steps-per-epoch"),
        *("--views", "--augment", "--cache-limit", "--dtype", "--lowest-rate", "--mixed-precision", "--dry-run"),
        *("--untrained-head", "--features", *TRAINING),
    },
    "evaluate": {"--split", "--layout"},
    "predict": {"--top"},
}
"""The options of the commands."""

PROGRESS = {"extract", "fit-head", "finetune"}
LATER = {
    "extract": {"--on", "--part"},
    "fit-head": set(),
    "finetune": set(),
    "evaluate": set(),
    "predict": {"--csv", "--sort-into"},
}
"""Options that are designed but not there yet."""


def commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command by the words that call it, with those of `features`."""
    context = click.Context(program)
    for name in COMMANDS:
        command = program.get_command(context, name)
        assert command is not None
        yield (name,), command
        if isinstance(command, click.Group):
            yield from (((name, inner), found) for inner, found in command.commands.items())


ALL = list(commands())


def spelled(options: click.Command) -> set[str]:
    return {name for parameter in options.params if isinstance(parameter, click.Option) for name in parameter.opts}


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """An empty working folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def call(capsys):
    """Run a command line in this process; return its exit status, standard output and standard error."""

    def run_it(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = run([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run_it


@pytest.fixture
def answer(call):
    """Run a command line with `--json` that must succeed; return the decoded output."""

    def run_it(*arguments: object):
        status, out, err = call(*arguments, "--json")
        assert (status, err) == (0, "")
        assert out.count("\n") == 1
        return json.loads(out)

    return run_it


@pytest.fixture
def refused(call, work):
    """Run a command line that must be refused; return its one line, after checking that it left nothing else."""

    def run_it(*arguments: object) -> str:
        before = files_below(work)
        status, out, err = call(*arguments)
        assert (status, out) == (2, "")
        assert err.count("\n") == 1
        assert err.startswith(f"permafrost {arguments[0]}: ")
        assert files_below(work) == before
        return err.rstrip("\n")

    return run_it


# Help


@pytest.mark.parametrize("words", [(), *(words for words, _ in ALL)], ids=" ".join)
def test_help_answers_within_half_a_second_and_imports_nothing_heavy(words):
    code = (
        "import sys\nfrom permafrost.cli import run\nstatus = run(sys.argv[1:])\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)\nsys.exit(status)"
    )
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code, *words, "--help"], capture_output=True, text=True, timeout=60
        )
        seconds.append(time.perf_counter() - started)
        if seconds[-1] < 0.5:
            break

    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert done.stdout.startswith(f"Usage: permafrost {' '.join(words)}".rstrip())
    assert min(seconds) < 0.5


@pytest.mark.parametrize(("words", "command"), ALL, ids=[" ".join(words) for words, _ in ALL])
def test_every_option_has_help(words, command):
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help and parameter.help[-1] in ".]", parameter.name
    assert command.help
    assert command.get_short_help_str()


@pytest.mark.parametrize("name", OPTIONS)
def test_a_command_has_exactly_these_options(name):
    command = program.get_command(click.Context(program), name)

    common = {"--json", "--debug"} | ({"--progress"} if name in PROGRESS else set())
    assert spelled(command) == OPTIONS[name] | common


@pytest.mark.parametrize("name", OPTIONS)
def test_a_command_has_the_options_of_the_design_except_later_ones(name, shared):
    text = (shared / "design.md").read_text("utf-8")
    usage = re.search(rf"^bin/{name} (?:.*\n)(?:  +\[.*\n)*", text, re.MULTILINE)
    assert usage, "the design lists the command"
    designed = set(re.findall(r"--[a-z-]+", usage.group()))

    assert designed - spelled(program.get_command(click.Context(program), name)) == LATER[name]


def test_help_names_every_command(call):
    status, out, _ = call("--help")

    assert status == 0
    assert all(re.search(rf"^  {name} ", out, re.MULTILINE) for name in COMMANDS)
    assert "Exit status: 0 done; 2 the request or its input is wrong; 1 a bug; 130" in " ".join(out.split())


@pytest.mark.parametrize("words", [(), ("features",)])
def test_without_a_command_the_help_is_printed(call, words):
    status, out, err = call(*words)

    assert (status, out) == (2, "")
    assert err.startswith("Usage: permafrost ")
    assert "\nCommands:\n" in err


def test_the_version_is_printed(call):
    status, out, _ = call("--version")

    assert status == 0
    assert re.fullmatch(r"permafrost \d+\.\d+\.\d+\n", out)


# Output


def test_each_command_prints_one_json_object_with_the_documented_keys(answer, work, split_photos, tiny_base):
    made = answer("extract", split_photos, "--base", tiny_base, "--pool", "avg")
    assert made.keys() >= {"set", "store", "images", "computed", "cached", "skipped", "shape", "engine", "seconds"}
    assert (made["images"], made["computed"], made["cached"], made["skipped"]) == (36, 36, 0, 0)
    assert (made["set"], made["shape"]) == ("features/split-photos-tiny-top.h5", [16])
    assert "total" in made["seconds"]

    fitted = answer("fit-head", made["set"], "--head", "logistic", "--regularization", "0.01")
    assert fitted.keys() == {"run", "model", "metrics", "parity", "notes", "warnings", "seconds"}
    assert fitted["run"] == "runs/split-photos-tiny-top-logistic"
    assert fitted["model"] == "runs/split-photos-tiny-top-logistic/model.keras"
    assert fitted["metrics"].keys() == {"train", "validation", "test"}
    assert fitted["metrics"]["test"].keys() >= {"accuracy", "balanced_accuracy", "n"}

    tuned = answer("finetune", fitted["run"], "--unfreeze", "joined", "--epochs", "1", "--learning-rate", "0.01")
    assert tuned.keys() == fitted.keys()
    assert tuned["run"] == "runs/split-photos-tiny-top-logistic-finetuned"

    metrics = answer("evaluate", tuned["run"], split_photos, "--split", "validation")
    assert metrics.keys() >= {
        "accuracy",
        "balanced_accuracy",
        "n",
        "images",
        "known",
        "trained_on",
        "notes",
        "warnings",
    }
    assert (metrics["n"], metrics["split"], metrics["images"], metrics["known"]) == (9, "validation", 36, 36)

    answers = answer("predict", tuned["model"], split_photos / "test" / "dots", "--top", "2")
    assert [set(found) for found in answers] == [{"path", "label", "probability", "top"}] * 3
    assert [len(found["top"]) for found in answers] == [2] * 3

    (entry,) = answer("features", "list")
    assert (entry["set"], entry["images"], entry["base"], entry["cut"]) == (made["set"], 36, "tiny", "top")
    shown = answer("features", "show", made["set"])
    assert shown["classes"] == ["checks", "dots", "stripes"]
    assert leftovers(work) == []


def test_the_last_lines_say_what_was_made_and_where(call, work, split_photos, tiny_base):
    def last(*arguments: object) -> tuple[list[str], str]:
        status, out, err = call(*arguments)
        assert (status, err) == (0, "")
        return out.splitlines()[-2:], out

    lines, text = last("extract", split_photos, "--base", tiny_base, "--pool", "avg")
    assert lines[0].startswith("store: features/store/tiny-top-")
    assert lines[1] == "set: features/split-photos-tiny-top.h5"
    assert (
        "images: 36 (train 18, validation 9, test 9)\nsplit: given by the dataset\ncomputed: 36 by openvino (within "
    ) in text

    lines, text = last(
        "fit-head", "features/split-photos-tiny-top.h5", "--hidden", "8,4", "--epochs", "1", "--dropout", "0.1"
    )
    assert lines == ["run: runs/split-photos-tiny-top-dense", "model: runs/split-photos-tiny-top-dense/model.keras"]
    assert re.search(
        r"^test: accuracy [01]\.\d{4} \([01]\.\d{3} to [01]\.\d{3}\), balanced [01]\.\d{4}, 9 images$",
        text,
        re.MULTILINE,
    )
    assert re.search(r"^parity: largest difference \d\.\de-\d+ on 9 images; at full size ", text, re.MULTILINE)

    lines, text = last(
        *("finetune", "runs/split-photos-tiny-top-dense", "--unfreeze", "-1", "--epochs", "1", "--learning-rate", "0"),
        "--untrained-head",
    )
    assert lines[0] == "run: runs/split-photos-tiny-top-dense-finetuned"
    assert "unfrozen: from top (layer 7) up, 1 epochs\n" in text
    assert re.search(r"^val_loss: .* no epoch improved it; the model is unchanged$", text, re.MULTILINE)

    lines, text = last("evaluate", "runs/split-photos-tiny-top-dense", split_photos)
    assert re.fullmatch(
        r"test: accuracy [01]\.\d{4} \([01]\.\d{3} to [01]\.\d{3}\), balanced [01]\.\d{4}, 9 images", lines[-1]
    )
    assert "  dots: precision " in text
    assert "\nscored 9 of 36 images: the run's test images\n" in text

    lines, text = last("features", "show", "features/split-photos-tiny-top.h5")
    assert lines[-1] == "set: features/split-photos-tiny-top.h5"
    assert "base: tiny, weights tiny.keras, cut top, pooling avg\n" in text


def test_evaluate_says_what_it_scored_skipped_and_did_not_know(call, run, photos, split_photos, tmp_path):
    data = Path(shutil.copytree(split_photos, tmp_path / "data"))
    shutil.copy(next((data / "train" / "dots").iterdir()), data / "test" / "dots" / "again.png")
    (data / "test" / "dots" / "cut.png").write_bytes(b"\x89PNG")

    status, out, err = call("evaluate", run.folder, data)

    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "warning: the run was trained on 1 image that the dataset names test: it counts as train"
    assert lines[1] == "skipped: 1"
    assert lines[2].startswith("  1: ")
    assert lines[2].endswith(", such as test/dots/cut.png")
    assert lines[-2] == "scored 9 of 38 images: the run's test images"

    status, out, _ = call("evaluate", run.folder, photos, "--split", "all")

    assert status == 0
    assert out.startswith("warning: the model was trained on 18 of the 18 images that are scored\n")
    assert "\nscored 18 of 18 images: all, of which the run knows 18\nall: accuracy " in out


def test_diverging_training_keeps_the_starting_model_and_says_so(call, own_run, features, work):
    point_to(own_run, features)

    status, out, _ = call("finetune", own_run, "--unfreeze", "top", "--epochs", "1", "--learning-rate", "1e30")

    assert status == 0
    assert "no epoch improved it; the model is unchanged\n" in out
    assert "training diverged and was stopped: lower --learning-rate, or give --clip-norm\n" in out


def test_predict_prints_one_line_per_image(call, run, split_photos):
    images = sorted((split_photos / "test" / "dots").iterdir())

    status, out, err = call("predict", run.folder, *images, "--top", "1")

    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(path) for path in images]
    assert all(re.fullmatch(r".*: (dots|checks|stripes) [01]\.\d{4}", line) for line in lines)


def test_predict_with_a_bad_image_exits_with_2_and_classifies_the_others(call, run, split_photos, tmp_path):
    image = next((split_photos / "test" / "dots").iterdir())
    (tmp_path / "bad.png").write_bytes(b"no image")

    status, out, err = call("predict", run.folder, tmp_path / "bad.png", image)
    json_status, json_out, json_err = call("predict", run.folder, tmp_path / "bad.png", image, "--json")

    assert status == json_status == 2
    assert out.splitlines()[0] == f"{tmp_path / 'bad.png'}: bad image"
    assert out.splitlines()[1].startswith(f"{image}: dots ")
    line = f"permafrost predict: bad image {tmp_path / 'bad.png'}: not an image in any format that is read\n"
    assert err == json_err == line
    assert [set(found) for found in json.loads(json_out)] == [
        {"path", "error"},
        {"path", "label", "probability", "top"},
    ]


def test_extract_twice_computes_nothing_the_second_time(answer, work, split_photos, tiny_base):
    arguments = ("extract", split_photos, "--base", tiny_base, "--pool", "avg")

    first, second = answer(*arguments), answer(*arguments)

    assert (first["computed"], first["cached"]) == (36, 0)
    assert (second["computed"], second["cached"]) == (0, 36)


def test_several_cuts_are_cached_in_one_pass_and_printed_as_a_list(answer, call, work, split_photos, tiny_base):
    made = answer("extract", split_photos, "--base", tiny_base, "--cut", "stem,-2,top", "--pool", "max")

    names = [f"features/split-photos-tiny-{cut}.h5" for cut in ("stem", "joined", "top")]
    assert [entry["set"] for entry in made] == names
    assert [entry["shape"] for entry in made] == [[8], [16], [16]]
    assert [entry["computed"] for entry in made] == [36] * 3
    assert (
        answer("fit-head", made[0]["set"], "--head", "logistic", "--regularization", "1")["metrics"]["train"]["n"] == 18
    )


def test_a_dry_run_writes_nothing_and_prints_the_plan(answer, call, work, split_photos, tiny_base):
    arguments = ("extract", split_photos, "--base", tiny_base, "--dry-run")

    plan = answer(*arguments)
    status, out, err = call(*arguments)

    assert (plan["images"], plan["compute"], plan["cached"]) == (36, 36, 0)
    assert plan["bytes"] == 36 * (8 * 8 * 16 * 4 + 44)
    assert (status, err) == (0, "")
    assert "\nwould compute 36 of 36 images; 0 are cached\n" in out
    assert out.endswith("set: features/split-photos-tiny-top.h5 (not written: this was a dry run)\n")
    assert files_below(work) == []


def test_skipped_images_are_listed_with_the_reason(call, own_photos, tiny_base, work):
    (own_photos / "dots" / "empty.png").write_bytes(b"")
    (own_photos / "dots" / "notes.txt").write_bytes(b"")

    status, out, err = call("extract", own_photos, "--base", tiny_base)

    assert (status, err) == (0, "")
    assert "\nskipped: 2; `permafrost features show` lists all\n" in f"\n{out}"
    assert "  1: the file is empty, such as dots/empty.png\n" in out
    assert "  1: not an image (.txt), such as dots/notes.txt\n" in out
    _, shown, _ = call("features", "show", "features/own-photos-tiny-top.h5")
    assert "skipped: dots/empty.png: the file is empty\n" in shown


def test_features_list_shows_damaged_sets_with_their_error(call, own_features, features):
    folder = own_features.path.parent
    (folder / "broken.h5").write_bytes(b"\x89HDF")

    status, out, err = call("features", "list", folder)

    assert (status, err) == (0, "")
    broken, whole = out.splitlines()
    assert broken.startswith(f"{folder / 'broken.h5'}: not a feature set")
    assert whole == (f"{own_features.path}: 36 images, tiny top, shape (16,), key {features.spec.key}")


def test_features_list_leaves_out_exported_files(call, answer, own_features):
    folder = own_features.path.parent
    answer("features", "export", own_features.path, folder / "plain.h5")

    _, out, _ = call("features", "list", folder)

    assert [line.split(": ")[0] for line in out.splitlines()] == [str(own_features.path)]


def test_the_features_commands_name_what_older_versions_wrote_and_leave_it_alone(call, tmp_path, monkeypatch):
    shutil.copytree(Path(__file__).parents[1] / "formats" / "version-1", tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr("permafrost.store.store.STORE_VERSION", 2)
    (store,) = (tmp_path / "store").iterdir()
    old_set = f"{tmp_path / 'photos.h5'} is a feature set of an older version; expected 3, found 1"
    old_store = f"{store} is a store of another version: format version; expected 2, found 1"
    before = {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")}

    for command in ("list", "verify", "prune"):
        status, out, err = call("features", command, tmp_path, *(["--yes"] if command == "prune" else []))
        assert (status, err) == (0, "")
        assert str(tmp_path / "photos.h5") in out and old_store in out
        assert command == "prune" or old_set in out
    status, out, err = call("features", "show", tmp_path / "photos.h5")
    assert (status, out) == (2, "") and old_set in err and len(err.splitlines()) == 1
    assert {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_features_list_of_an_empty_folder_says_so(call, work):
    assert call("features", "list", ".") == (0, "no feature sets in .\n", "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (12.3, "12 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_a_duration_in_words(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_500_000, "1.5 MB"), (2e12, "2.0 TB")]
)
def test_a_number_of_bytes_in_words(count, text):
    assert size(count) == text


# Refusals


def test_a_missing_folder_is_refused(refused, work, tiny_base):
    line = refused("extract", "nothing", "--base", tiny_base)

    assert f"no such folder or file: {work / 'nothing'}. Give a folder with one folder per class" in line


def test_a_folder_without_images_is_refused(refused, work, tiny_base):
    (work / "photos" / "cats").mkdir(parents=True)
    (work / "photos" / "cats" / "notes.txt").write_text("")

    line = refused("extract", "photos", "--base", tiny_base)

    assert "no images in " in line
    assert "expected folders of images, one folder per class, found 1 other entry: " in line
    assert line.endswith("not an image (.txt), cats/notes.txt")


def test_a_single_class_is_refused(refused, work, tiny_base):
    write_photos(work / "photos", classes=["dots"], per_class=2)

    line = refused("extract", "photos", "--base", tiny_base)

    assert "only one class in " in line
    assert "expected at least two, found dots. Put the images of each class into a folder of its own" in line


def test_an_unknown_base_is_refused_with_a_suggestion(refused, photos):
    line = refused("extract", photos, "--base", "inceptionv4", "--weights", "none")

    assert "unknown base inceptionv4; expected a name such as inception_v3" in line


def test_an_unknown_cut_is_refused_with_a_suggestion(refused, photos, tiny_base):
    line = refused("extract", photos, "--base", tiny_base, "--cut", "joint")

    assert re.search(r"tiny has no layer joint\. Try joined", line)


def test_a_cut_index_out_of_range_is_refused(refused, photos, tiny_base):
    line = refused("extract", photos, "--base", tiny_base, "--cut", "8")

    assert "tiny has no layer 8; expected -8 to 7, found 8" in line


def test_weights_that_do_not_fit_are_refused(refused, photos, tiny_base, tmp_path):
    pixels = keras.Input((8, 8, 3))
    other = keras.Model(pixels, keras.layers.Conv2D(4, 5)(pixels))
    weights = write_legacy(other, tmp_path / "other.h5")

    line = refused("extract", photos, "--base", tiny_base, "--weights", weights)

    assert f"the weights in {weights} do not fit tiny; expected 5 layers, found 1" in line


def test_a_missing_weights_file_is_refused(refused, photos, tiny_base):
    line = refused("extract", photos, "--base", tiny_base, "--weights", "nothing.h5")

    assert "no weights file nothing.h5; expected imagenet, none, or a file" in line


@pytest.fixture
def spoiled_base(tmp_path) -> Path:
    """The tiny base with a NaN in the weights of `right`."""
    model = tiny_model()
    kernel, bias = model.get_layer("right").get_weights()
    kernel[0, 0, 0, 0] = np.nan
    model.get_layer("right").set_weights([kernel, bias])
    model.save(tmp_path / "spoiled.keras")
    return tmp_path / "spoiled.keras"


def test_nan_weights_below_the_cut_are_refused_with_the_layer(refused, photos, spoiled_base):
    line = refused("extract", photos, "--base", spoiled_base)

    assert "weights of layer right from spoiled.keras are not finite; expected numbers, found 1 NaN or infinite" in line


def test_nan_weights_above_the_cut_do_not_matter(answer, work, photos, spoiled_base):
    assert answer("extract", photos, "--base", spoiled_base, "--cut", "left")["computed"] == 18


def test_an_image_size_below_the_minimum_of_the_base_is_refused(refused, photos):
    line = refused("extract", photos, "--base", "inception_v3", "--weights", "none", "--image-size", "74")

    assert "image size too small for inception_v3; expected at least 75 px, found 74x74" in line


def test_a_malformed_image_size_is_refused(refused, photos, tiny_base):
    line = refused("extract", photos, "--base", tiny_base, "--image-size", "12y12")

    assert "expected a number of pixels, or HEIGHTxWIDTH, found 12y12" in line


def test_on_bad_fail_refuses_an_undecodable_image(refused, own_photos, tiny_base):
    (own_photos / "dots" / "dots-000.png").write_bytes(b"\x89PNG\r\n\x1a\n")

    line = refused("extract", own_photos, "--base", tiny_base, "--on-bad", "fail")

    assert "dots/dots-000.png: " in line
    assert line.endswith("Remove it, or use --on-bad skip")


def test_a_missing_set_is_refused(refused):
    line = refused("fit-head", "features/nothing.h5")

    assert "no feature set at features/nothing.h5. Make one with extract, or list them with `features list`" in line


@pytest.mark.parametrize("command", ["fit-head", "features show"])
def test_a_set_without_its_store_is_refused(refused, own_features, command):
    shutil.rmtree(own_features.path.parent / "store")

    line = refused(*command.split(), own_features.path)

    assert f"the store of {own_features.path} cannot be opened: " in line
    assert line.endswith("Move the set and the folder `store` together, or run extract again")


def test_a_set_with_a_changed_store_is_refused(refused, own_features, split_photos, tiny_base, tmp_path):
    other = pf.extract(split_photos, base=str(tiny_base), pool="max", out=tmp_path / "o" / "o.h5", progress=False)
    shutil.copy(other.store.folder / "trunk.json", own_features.store.folder / "trunk.json")

    line = refused("fit-head", own_features.path)

    assert f"the store of {own_features.path} has changed: pooling; expected avg, found max" in line


def test_a_folder_that_is_not_a_run_is_refused(refused, photos):
    for arguments in (("finetune", photos), ("evaluate", photos, photos), ("predict", photos, "a.png")):
        line = refused(*arguments)

        assert f"{photos} is not a run; expected a folder that fit-head or finetune made, found no run.json" in line


def test_a_missing_run_is_refused(refused, photos):
    assert "no run at nothing; expected a folder" in refused("finetune", "nothing")
    assert "no run or model at nothing; expected a run's folder or a .keras file" in refused(
        "evaluate", "nothing", photos
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["extract"], "Missing argument 'DATA'."),
        (["extract", "photos", "--poool", "avg"], "No such option '--poool'. Did you mean '--pool'?"),
        (
            ["extract", "photos", "--batch-size", "many"],
            "'--batch-size': 'many' is not a valid integer.",
        ),
        (["extract", "photos", "--batch-size", "0"], "batch_size is out of range; expected at least 1, found 0"),
        (["extract", "photos", "--workers", "0"], "workers is out of range; expected at least 1, found 0"),
        (
            ["extract", "photos", "--test-fraction", "1.5"],
            "fractions for validation and test leave nothing to train on",
        ),
        (["extract", "photos", "--on-bad", "cry"], "unknown on_bad; expected skip or fail, found cry"),
        (["extract", "photos", "--pool", "sum"], "unknown pool; expected none, avg or max, found sum"),
        (["extract", "photos", "--dtype", "int8"], "unknown dtype; expected float32 or float16, found int8"),
        (
            ["extract", "photos", "--precision", "float64"],
            "unknown precision; expected float32 or bfloat16",
        ),
        (
            ["extract", "photos", "--engine", "abacus"],
            "unknown engine; expected auto, keras or openvino, found abacus",
        ),
        (
            ["extract", "photos", "--out", "set.txt"],
            "a feature set is an HDF5 file; expected --out NAME.h5",
        ),
        (["fit-head", "set", "--head", "logistik"], "unknown head logistik; expected logistic"),
        (["fit-head", "set", "--hidden", "many"], "cannot parse --hidden; expected 256, or 512,128, or 0"),
        (["fit-head", "set", "--optimizer", "adamm"], "unknown optimizer; expected adam, adamw, nadam, rmsprop or sgd"),
        (["finetune", "run", "--patience", "-1"], "patience is out of range; expected at least 0, found -1"),
        (
            ["evaluate", "run", "photos", "--split", "every"],
            "no such split; expected train, validation, test, all, found every",
        ),
        (["predict", "run"], "Missing argument 'IMAGE|FOLDER...'."),
        (["predict", "run", "a.png", "--top", "0"], "top is too small; expected 1 or more, found 0"),
        (["features", "list"], "no such folder: features. Make a feature set with extract"),
        (["features", "shew"], "No such command 'shew'. Did you mean 'show'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_is_refused_in_one_line(refused, photos, tiny_base, arguments, line):
    given = [photos if argument == "photos" else argument for argument in arguments]
    base = ["--base", tiny_base] if arguments[:2] == ["extract", "photos"] else []

    assert line in refused(*given, *base)


def test_an_unknown_command_is_one_line(call):
    status, out, err = call("extrakt", "photos")

    assert (status, out) == (2, "")
    assert re.fullmatch(r"permafrost: no command extrakt; expected extract, .*\n", err)


def test_debug_shows_a_traceback_and_the_line(call, work):
    status, out, err = call("extract", "nothing", "--debug")

    assert (status, out) == (2, "")
    assert err.startswith("Traceback (most recent call last):\n")
    assert "permafrost.errors.DatasetError: " in err
    assert err.splitlines()[-1].startswith("permafrost extract: no such folder or file: ")


def test_a_line_break_in_a_name_is_escaped(refused, tiny_base):
    line = refused("extract", "no\nthing", "--base", tiny_base)

    assert r"no\nthing" in line


def test_a_bug_is_not_reported_as_wrong_input(call, monkeypatch):
    def fail(*args, **options):
        raise ZeroDivisionError

    monkeypatch.setattr("permafrost.model.predict.predict_found", fail)

    with pytest.raises(ZeroDivisionError):
        call("predict", "run", "a.png")


@pytest.mark.parametrize(("code", "status", "line"), [(None, 0, ""), (3, 3, ""), ("no more", 1, "no more\n")])
def test_a_library_that_exits_passes_its_status_on(call, monkeypatch, code, status, line):
    def leave(*args, **options):
        sys.exit(code)

    monkeypatch.setattr("permafrost.model.predict.predict_found", leave)

    assert call("predict", "run", "a.png") == (status, "", line)


# Real processes


def start(*arguments: object, cwd: Path, **options) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "permafrost", *(str(argument) for argument in arguments)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_nothing_but_the_result_is_printed_by_a_real_process(split_photos, tiny_base, work):
    # All commands in one process, because loading the libraries takes seconds.
    lines = [
        ["extract", str(split_photos), "--base", str(tiny_base), "--pool", "avg", "--json"],
        ["fit-head", "features/split-photos-tiny-top.h5", "--head", "logistic", "--out", "run", "--json"],
        ["finetune", "run", "--unfreeze", "top", "--epochs", "1", "--json"],
        ["evaluate", "run", str(split_photos), "--json"],
        ["predict", "run", str(split_photos / "test" / "dots"), "--json"],
    ]
    code = f"import sys\nfrom permafrost.cli import run\nsys.exit(max(run(line) for line in {lines!r}))"

    done = subprocess.run([sys.executable, "-c", code], cwd=work, capture_output=True, text=True, timeout=200)

    assert (done.returncode, done.stderr) == (0, "")
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == len(lines)


def write_many(folder: Path, count: int) -> Path:
    """Write tiny images, each different."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        place = folder / ("even", "odd")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number}.bmp")
    return folder


def test_ctrl_c_exits_with_130_and_committed_features_stay(answer, tiny_base, tmp_path, work):
    count = 3000
    photos = write_many(tmp_path / "many", count)
    arguments = ("extract", photos, "--base", tiny_base, "--pool", "avg")
    # One image per batch is slow enough to interrupt. A background shell ignores SIGINT, and children inherit that.
    restore = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = start(*arguments, "--batch-size", "1", cwd=work, preexec_fn=restore)
    limit = time.monotonic() + 100
    while not list(work.glob("features/store/*/*.h5")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < limit
        time.sleep(0.01)

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert (process.returncode, out) == (INTERRUPTED, "")
    assert err.strip() == "permafrost extract: interrupted; run the same command to continue"
    assert not list(work.glob("features/*.h5"))
    assert leftovers(work) == []
    again = answer(*arguments)
    assert 0 < again["computed"] < count
    assert again["computed"] + again["cached"] == count


def test_features_verify_reports_a_damaged_shard(call, answer, own_features):
    folder = own_features.path.parent

    found = answer("features", "verify", folder)

    assert (found["sets"], found["rows"], found["faults"], found["findings"]) == (1, 36, 0, [])
    shard = next(own_features.store.folder.glob("[0-9a-f]*.h5"))
    shard.write_bytes(shard.read_bytes()[:-9])
    status, out, err = call("features", "verify", folder)
    assert status == 2
    assert out.startswith(f"damaged: damaged shard {shard}")
    assert err.strip() == (
        f"permafrost features: 1 fault in {folder}. Run the same extract again: it computes what is missing; "
        "`features prune` removes what is damaged"
    )


def test_features_prune_removes_unused_stores_only_with_yes(call, answer, own_features):
    folder, store = own_features.path.parent, own_features.store.folder
    own_features.path.unlink()

    status, out, _ = call("features", "prune", folder)

    assert status == 0
    assert f"{store}: a store that no set uses, " in out
    assert out.splitlines()[-1].startswith("would remove 1 entries, ") and out.strip().endswith("; --yes removes them")
    assert store.exists()
    assert answer("features", "prune", folder, "--yes")["removed"] is True
    assert not store.exists()
    _, out, _ = call("features", "prune", folder)
    assert out.strip() == "nothing to remove: sets use all cached features"


@pytest.mark.parametrize("name", ["plain.h5", "plain.npz"])
def test_features_export_writes_one_plain_file(call, answer, own_features, work, name):
    summary = answer("features", "export", own_features.path, name)

    assert (summary["file"], summary["images"], summary["shape"]) == (name, 36, [16])
    assert summary["bytes"] == (work / name).stat().st_size
    status, out, _ = call("features", "export", own_features.path, name)
    assert (status, out.splitlines()[0]) == (0, "X: 36 images, shape (16,), float32")


def test_a_closed_output_pipe_is_not_an_error(own_features):
    process = start("features", "show", own_features.path, cwd=own_features.path.parent)
    process.stdout.close()

    process.wait(timeout=60)

    with process.stderr as err:
        assert (process.returncode, err.read()) == (0, "")


def test_image_names_may_start_with_a_dash(call, run, tmp_path, monkeypatch):
    odd = tmp_path / "päth with spaces"
    odd.mkdir()
    (odd / "-dash.png").write_bytes(encoded(texture("dots", 1)))
    monkeypatch.chdir(odd)

    status, out, _ = call("predict", run.folder, "--", "-dash.png")

    assert status == 0
    assert out.startswith("-dash.png: dots ")
