"""Which array plays which role: names, splits, choices, and what is said when it can't be told."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_arrays_formats import WRITERS

from resmem_cli.arrays.locate import OpenFiles, locate_arrays
from resmem_cli.arrays.selection import EMBEDDING_ROLES, INPUT_ROLES, KeyTable
from resmem_cli.errors import DataError, MissingInputError
from resmem_cli.types import ArraySelection

MATRIX = np.ones((3, 2), np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def find(folder):
    """Write a file with these keys; give the address of every role found in it."""
    files = OpenFiles()

    def locate(keys, *, name="a.npz", roles=EMBEDDING_ROLES, **choices):
        write(folder / name, keys)
        located = locate_arrays(files, folder / name, ArraySelection(**choices), roles)
        return {role: array.source.removeprefix(f"{name}:") for role, array in located.items()}

    yield locate
    files.close()


def write(path, keys):
    """Write the same small matrix under each key."""
    WRITERS[path.suffix](path, dict.fromkeys(keys, MATRIX))


RECOGNISED = {
    "embeddings": ["embeddings", "embedding", "features", "feats", "X", "z", "keys"],
    "logits": ["logits", "outputs", "scores"],
    "probabilities": ["probs", "probabilities", "softmax"],
    "labels": ["labels", "label", "y", "targets", "vals"],
    "ids": ["ids"],
    "class_names": ["class_names", "classes"],
}
NAMES = [(role, name) for role, names in RECOGNISED.items() for name in names]


@pytest.mark.parametrize(("role", "name"), NAMES)
@pytest.mark.parametrize("change", [str, str.upper, str.title])
def test_names_are_recognised_in_any_case(find, role, name, change):
    main = [] if role == "embeddings" else ["embeddings"]
    assert find([*main, change(name)])[role] == change(name)


@pytest.mark.parametrize(("role", "name"), NAMES)
@pytest.mark.parametrize("form", ["train/{}", "train_{}", "train.{}", "train-{}", "{}_train", "{}-TRAIN"])
def test_names_are_recognised_in_every_form_of_a_split(find, role, name, form):
    keys = [form.format(name), form.replace("train", "test").replace("TRAIN", "test").format(name)]
    main = [] if role == "embeddings" else ["embeddings"]
    found = find([*main, *keys], name="a.h5", split="train")
    assert found[role] == keys[0]


@pytest.mark.parametrize("name", ["inputs", "input", "x", "X", "images", "data", "features", "tokens"])
def test_names_of_a_networks_inputs(find, name):
    found = find([f"{name}_train", "y_train", f"{name}_test", "classes"], roles=INPUT_ROLES, split="train")
    assert found == {"inputs": f"{name}_train", "labels": "y_train", "class_names": "classes"}


@pytest.mark.parametrize("name", ["embeddings2", "my_embeddings", "logit", "x1", "train"])
def test_no_other_name_is_guessed(find, name):
    found = find(["embeddings", name], embeddings="embeddings")
    assert found == {"embeddings": "embeddings"}


@given(st.text(min_size=1, max_size=30), st.sampled_from([None, "train", "dev", "(x"]))
def test_any_key_is_taken_apart(tmp_path_factory, key, chosen):
    class One:
        arrays = {key: None}

    table = KeyTable(One(), EMBEDDING_ROLES, chosen)
    split = table.split_of(key)
    assert split is None or split in {"train", "val", "test", chosen}


class TestSplits:
    def test_the_only_split_is_taken_with_what_all_splits_share(self, find):
        found = find(["x_test", "y_test", "classes"])
        assert found == {"embeddings": "x_test", "labels": "y_test", "class_names": "classes"}

    def test_several_splits_ask_for_one(self, find):
        with pytest.raises(DataError, match=r"a\.npz: .*found train, test\); choose with --split") as caught:
            find(["x_train", "y_train", "x_test", "y_test"])
        assert caught.value.exit_code == 65

    def test_a_split_beside_unsplit_arrays_asks_too(self, find):
        with pytest.raises(DataError, match=r"and of none.*--split, or name the array with --embeddings"):
            find(["embeddings", "test_embeddings"])

    def test_unsplit_arrays_are_reached_by_naming_the_main_one(self, find):
        keys = ["embeddings", "labels", "test_embeddings", "test_labels"]
        assert find(keys, embeddings="embeddings") == {"embeddings": "embeddings", "labels": "labels"}

    def test_naming_the_main_array_of_a_split_chooses_the_split(self, find):
        keys = ["train_embeddings", "train_labels", "test_embeddings", "test_labels"]
        found = find(keys, embeddings="test_embeddings")
        assert found == {"embeddings": "test_embeddings", "labels": "test_labels"}

    def test_an_absent_split_lists_those_present(self, find):
        with pytest.raises(DataError, match=r"expected one of train, test, found val"):
            find(["x_train", "x_test"], split="val")

    def test_a_split_of_a_file_without_any_is_refused(self, find):
        with pytest.raises(DataError, match=r"no arrays of this split.*leave --split out"):
            find(["embeddings", "labels"], split="train")

    @pytest.mark.parametrize("chosen", ["val", "valid", "validation", "VAL"])
    @pytest.mark.parametrize("written", ["val", "valid", "validation", "Val"])
    def test_names_of_validation(self, find, chosen, written):
        found = find([f"{written}_z", "train_z"], split=chosen)
        assert found == {"embeddings": f"{written}_z"}

    def test_a_split_of_the_users_own_name(self, find):
        assert find(["dev_z", "train_z"], split="dev") == {"embeddings": "dev_z"}

    def test_keys_that_play_no_role_make_no_split(self, find):
        assert find(["embeddings", "val_loss", "test/accuracy"], name="a.h5") == {"embeddings": "embeddings"}

    @pytest.mark.parametrize("split", ["train", "test"])
    def test_files_of_ann_benchmarks(self, find, split):
        found = find(["train", "test", "neighbors", "distances"], name="a.hdf5", split=split)
        assert found == {"embeddings": split}

    def test_a_name_without_its_split(self, find):
        keys = ["train_penultimate", "test_penultimate", "test_y", "train_y"]
        found = find(keys, split="test", embeddings="penultimate")
        assert found == {"embeddings": "test_penultimate", "labels": "test_y"}


class TestChoices:
    def test_a_key_goes_before_recognised_names(self, find):
        found = find(["embeddings", "pooled", "labels"], embeddings="pooled")
        assert found == {"embeddings": "pooled", "labels": "labels"}

    def test_a_key_given_one_role_plays_no_other(self, find):
        found = find(["outputs", "labels"], embeddings="outputs")
        assert found == {"embeddings": "outputs", "labels": "labels"}

    def test_a_key_goes_before_a_file_of_the_same_name(self, find, folder):
        np.save(folder / "labels.npy", np.zeros(3))
        assert find(["z", "labels.npy"], name="a.h5", labels="labels.npy")["labels"] == "labels.npy"

    @pytest.mark.parametrize("suffix", WRITERS)
    def test_a_files_only_array_whatever_its_name(self, find, folder, suffix):
        write(folder / f"other{suffix}", ["anything"])
        key = "" if suffix == ".npy" else ":anything"
        assert find(["z"], labels=f"other{suffix}")["labels"] == f"other{suffix}{key}"

    def test_a_files_array_by_role_and_split(self, find, folder):
        write(folder / "meta.npz", ["train_y", "test_y", "train_ids"])
        found = find(["x_train", "x_test"], split="test", labels="meta.npz", ids="meta.npz:train_ids")
        assert found == {"embeddings": "x_test", "labels": "meta.npz:test_y", "ids": "meta.npz:train_ids"}

    def test_a_file_whose_keys_are_the_splits(self, find, folder):
        write(folder / "labels.npz", ["train", "test"])
        found = find(["x_train", "x_test"], split="test", labels="labels.npz")
        assert found["labels"] == "labels.npz:test"

    def test_a_file_without_splits_serves_any_split(self, find, folder):
        write(folder / "meta.npz", ["y", "ids"])
        assert find(["x_train", "x_test"], split="test", labels="meta.npz")["labels"] == "meta.npz:y"

    def test_a_file_in_which_the_role_is_not_told(self, find, folder):
        write(folder / "meta.npz", ["a", "b"])
        with pytest.raises(DataError, match=r"meta\.npz: .*--labels FILE:KEY"):
            find(["z"], labels="meta.npz")
        with pytest.raises(DataError, match=r"meta\.npz: .*--labels FILE:KEY"):
            find(["x_test"], name="b.npz", labels="meta.npz", split="test")

    def test_a_file_of_several_splits_asks_for_one(self, find, folder):
        write(folder / "meta.npz", ["train_y", "test_y"])
        with pytest.raises(DataError, match=r"meta\.npz: .*choose with --split"):
            find(["z"], labels="meta.npz")

    def test_a_key_with_colons_in_a_file_with_colons(self, find, folder):
        write(folder / "b:c.npz", ["d:e", "f"])
        assert find(["z"], labels="b:c.npz:d:e")["labels"] == "b:c.npz:d:e"

    def test_a_split_goes_for_the_key_of_another_file(self, find, folder):
        write(folder / "meta.npz", ["train_gold", "test_gold"])
        found = find(["x_train", "x_test"], split="test", labels="meta.npz:gold")
        assert found["labels"] == "meta.npz:test_gold"

    def test_embeddings_of_another_file(self, find, folder):
        np.save(folder / "z.npy", MATRIX)
        assert find(["logits", "labels"], embeddings="z.npy") == {
            "embeddings": "z.npy",
            "logits": "logits",
            "labels": "labels",
        }

    def test_embeddings_of_another_file_still_need_a_split_for_the_rest(self, find, folder):
        np.save(folder / "z.npy", MATRIX)
        with pytest.raises(DataError, match="choose with --split"):
            find(["train_labels", "test_labels"], embeddings="z.npy")

    def test_an_unknown_key_shows_what_is_near(self, find):
        with pytest.raises(DataError, match=r"--labels: no array 'lables'.*did you mean labels\?"):
            find(["embeddings", "labels"], labels="lables")
        with pytest.raises(DataError, match=r"embeddings \(3, 2\) float32.*name one of its keys"):
            find(["embeddings"], name="b.npz", labels="qqq")

    def test_an_unknown_key_of_another_file(self, find, folder):
        write(folder / "meta.npz", ["a", "b"])
        with pytest.raises(DataError, match=r"meta\.npz: --labels: no array 'c'"):
            find(["z"], labels="meta.npz:c")

    @pytest.mark.parametrize("choice", ["absent.npy", "absent.npz:labels", "deep/absent.h5"])
    def test_a_file_that_is_not_there(self, find, choice):
        with pytest.raises(MissingInputError, match=r"absent\..*--labels"):
            find(["z"], labels=choice)

    @pytest.mark.parametrize("choice", ["x" * 10_000, "a\0b", ":", "", "::"])
    def test_odd_choices_are_unknown_keys(self, find, choice):
        with pytest.raises(DataError, match="no array"):
            find(["z", "b"], labels=choice)


class TestTheMainArray:
    def test_a_single_unnamed_array(self, find):
        assert find(["unused"], name="a.npy") == {"embeddings": "a.npy"}
        assert find(["arr_0"], name="a.npz") == {"embeddings": "arr_0"}

    def test_none_lists_keys_shapes_and_the_flag(self, find):
        with pytest.raises(DataError, match=r"pooled \(3, 2\) float32, labels .*--embeddings KEY"):
            find(["pooled", "labels"])

    def test_a_long_list_is_cut(self, find):
        with pytest.raises(DataError, match="and 5 more"):
            find([f"layer{number}" for number in range(25)])

    def test_two_candidates_are_named_with_the_flag(self, find):
        with pytest.raises(DataError, match=r"found embeddings, features\); choose with --embeddings KEY"):
            find(["embeddings", "features"])
        with pytest.raises(DataError, match=r"several arrays could be the labels.*--labels KEY"):
            find(["embeddings", "y", "targets"], name="b.npz")
        with pytest.raises(DataError, match="--class-names KEY"):
            find(["embeddings", "classes", "class_names"], name="c.npz")

    def test_probabilities_are_not_looked_for_beside_logits(self, find):
        found = find(["z", "logits", "probs", "softmax"])
        assert found == {"embeddings": "z", "logits": "logits"}
