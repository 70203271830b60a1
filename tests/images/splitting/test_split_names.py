"""Which names mean a split."""

from __future__ import annotations

import pytest

from permafrost.images.splitting.names import combined_names, split_folders, split_named

SPELLINGS = {
    "train": "train Train TRAINING train_set training_set train-images images_train trainset TrainSet trainingData "
    "seg_train train2017 1_train train.data trn train_01 Training\u00a0Set train-jpg",
    "validation": "validation val valid Valid validate dev devel development eval val2017 valid_images devset "
    "PublicTest validation_split",
    "test": "test Testing test_set test1 TestImages seg_test tst holdout hold-out held_out PrivateTest testset",
}


@pytest.mark.parametrize("split", SPELLINGS)
def test_a_split_is_known_by_the_usual_spellings(split):
    names = SPELLINGS[split].split(" ")

    assert {name: split_named(name) for name in names} == dict.fromkeys(names, split)


NO_SPLITS = """
images, data set, 2017, test strip, training shoes, dev board, trainer, trains, contest, latest, trainval, train_test
train_labels, validity, retrain, evaluate, caf\u00e9, \udce9
""".replace("\n", ", ").split(", ")


@pytest.mark.parametrize("name", NO_SPLITS)
def test_another_name_means_no_split(name):
    assert split_named(name) is None


def test_words_that_sibling_folders_have_in_common_do_not_matter():
    assert split_folders(["asl_alphabet_train", "asl_alphabet_test"]) == {
        "asl_alphabet_train": "train",
        "asl_alphabet_test": "test",
    }
    assert split_folders(["train_another", "test_another", "test", "extra"]) == {
        "train_another": "train",
        "test_another": "test",
        "test": "test",
    }
    assert split_folders(["train_v2", "val"]) == {"train_v2": "train", "val": "validation"}
    assert split_folders(["train_v2", "val", "extra"]) == {"val": "validation"}


def test_masks_and_labels_of_a_split_are_no_split():
    assert split_folders(["train", "train_masks", "test", "test_masks"]) == {"train": "train", "test": "test"}
    assert split_folders(["train_labels", "test_labels"]) == {}


@pytest.mark.parametrize("names", [["test strip", "boots"], ["train_a", "train_b"], ["training shoes", "test strip"]])
def test_a_split_word_among_other_words_is_not_enough(names):
    assert split_folders(names) == {}
    assert combined_names(names) == []


def test_names_that_combine_a_split_with_something_else_are_told():
    names = ["cats_train", "cats_test", "dogs_train", "dogs_test"]

    assert split_folders([*names, "other"]) == {}
    assert combined_names([*names, "other"]) == names
    assert combined_names(["fold1_train", "fold1_test", "fold2_train", "fold2_test"])
