"""Groups of classes from every kind of file, and what is said of files that hold none."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resmem_cli.arrays.class_groups import read_class_groups
from resmem_cli.errors import DataError, MissingInputError

NAMES = ["rose", "oak", "poppy", "pine"]
GROUPS, GROUP_NAMES = [0, 1, 0, 1], ("flower", "tree")


def npy(values):
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def read(folder, name, content, *, n_classes=4, class_names=NAMES):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_class_groups(path, n_classes, class_names)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "rose,flower\noak,tree\npoppy,flower\npine,tree\n"),
        ("a.csv", "Class,Group\r\n3,tree\r\n2,flower\r\n1,tree\r\n0,flower\r\n"),
        ("a.CSV", '\ufeffclass,group\n"rose", flower\n\n 1 ,tree\npoppy,"flower"\npine,tree'),
        ("a.tsv", "class\tgroup\nrose\tflower\noak\ttree\npoppy\tflower\npine\ttree\n"),
        ("a.txt", "rose,flower\noak,tree\npoppy,flower\npine,tree\n"),
        ("a.txt", "rose\tflower\noak\ttree\n2\tflower\n3\ttree\n"),
        ("a.json", '{"rose": "flower", "3": "tree", "poppy": "flower", "oak": "tree"}'),
        ("a.json", '["flower", "tree", "flower", "tree"]'),
        ("a.npy", npy(np.array(["flower", "tree", "flower", "tree"]))),
        ("a.npy", npy(np.array([b"flower", b"tree", b"flower", b"tree"]))),
    ],
)
def test_every_kind_of_file_gives_the_same_groups(tmp_path, name, content):
    groups, names = read(tmp_path, name, content)
    assert groups.dtype == np.int32
    assert (groups.tolist(), names) == (GROUPS, GROUP_NAMES)


@pytest.mark.parametrize("content", [npy(np.array([7, -2, 7, 0])), npy(np.array([7, -2, 7, 0], "<i2"))])
def test_integer_groups_are_numbered_in_the_order_of_their_first_class(tmp_path, content):
    groups, names = read(tmp_path, "a.npy", content, class_names=None)
    assert (groups.tolist(), names) == ([0, 1, 0, 2], ("7", "-2", "0"))
    groups, names = read(tmp_path, "a.json", "[7, -2, 7, 0]", class_names=None)
    assert (groups.tolist(), names) == ([0, 1, 0, 2], ("7", "-2", "0"))


def test_numbers_beyond_ascii_and_groups_in_other_letters(tmp_path):
    groups, names = read(tmp_path, "a.csv", "0,été\n1,été\n", n_classes=2, class_names=None)
    assert (groups.tolist(), names) == ([0, 0], ("été",))
    with pytest.raises(DataError, match="no such class"):
        read(tmp_path, "a.csv", "0,a\n¹,b\n", n_classes=2, class_names=None)


def test_a_name_goes_before_a_number(tmp_path):
    groups, names = read(tmp_path, "a.csv", "1,one\n0,nought\n", n_classes=2, class_names=["1", "0"])
    assert (groups.tolist(), names) == ([0, 1], ("one", "nought"))


@pytest.mark.parametrize(
    ("name", "content"), [("a.json", '["x", "y"]'), ("a.npy", npy(np.array(["x", "y"])))]
)
def test_a_list_is_in_the_order_of_the_classes_whatever_they_are_called(tmp_path, name, content):
    groups, names = read(tmp_path, name, content, n_classes=2, class_names=["1", "0"])
    assert (groups.tolist(), names) == ([0, 1], ("x", "y"))


def test_a_class_called_class_is_no_header(tmp_path):
    groups, names = read(
        tmp_path, "a.csv", "class,group\norder,x\n", n_classes=2, class_names=["order", "class"]
    )
    assert (groups.tolist(), names) == ([0, 1], ("x", "group"))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_the_lines_changes_nothing(tmp_path_factory, numbers, random):
    folder = tmp_path_factory.mktemp("groups")
    lines = [f"{number},g{group}" for number, group in enumerate(numbers)]
    random.shuffle(lines)
    groups, names = read(folder, "a.csv", "\n".join(lines), n_classes=len(numbers), class_names=None)
    assert [names[group] for group in groups] == [f"g{group}" for group in numbers]
    assert list(dict.fromkeys(groups.tolist())) == list(range(len(names)))
    listed = read(folder, "a.json", json.dumps([f"g{group}" for group in numbers]), n_classes=len(numbers))
    assert (listed[0].tolist(), listed[1]) == (groups.tolist(), names)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "0,x\n1,x\n2,x\n",
            r"a\.csv: class 3 \(pine\) has no group .*4 classes, found 3.*one group",
        ),
        ("a.csv", "rose,x\noak,y\n\n0,x\n", r"a\.csv: line 4: class 0 \(rose\) appears a second time"),
        ("a.csv", "rose,x\ndaisy,y\n", r"line 2: no such class .*0 to 3, or a name, found 'daisy'"),
        ("a.csv", "4,x\n", r"line 1: no such class .*found '4'"),
        ("a.csv", f"{'9' * 5000},x\n", "line 1: no such class"),
        ("a.csv", "-1,x\n", r"line 1: no such class .*found '-1'"),
        ("a.csv", "rose,x\noak\n", r"line 2: not a class and its group .*2 fields.*a comma, found 1"),
        ("a.tsv", "rose,x\n", r"line 1: not a class and its group .*a tab, found 1"),
        ("a.csv", "rose,x,y\n", r"line 1: .*found 3"),
        ("a.csv", "rose,x\noak, \n", r"line 2: class 1 \(oak\) has an empty group"),
        ("a.csv", 'rose,"x\noak,y\n', r"a\.csv: line 2: damaged"),
        ("a.csv", "", r"class 0 \(rose\) has no group"),
        ("a.csv", b"rose,\xff\n", r"a\.csv: no text: .*expected UTF-8"),
        ("a.json", '{"rose": "x", "rose": "y"}', r"a\.json: class 0 \(rose\) appears a second time"),
        ("a.json", '{"daisy": "x"}', r"a\.json: no such class .*found 'daisy'"),
        ("a.json", '{"rose": ["x"]}', "the group of class rose is no text .*found list"),
        ("a.json", '{"rose": {}}', "the group of class rose is no text .*found object"),
        ("a.json", '["x", true, "x", "x"]', "the group of class 1 is no text .*found bool"),
        ("a.json", '["x", "y"]', r"do not fit the classes .*\(4,\), found \(2,\)"),
        ("a.json", '"x"', "no class groups .*found str"),
        ("a.json", '{"rose": "x",\n', r"a\.json: damaged.*line 2"),
        ("a.json", "[" * 200_000, r"a\.json: damaged"),
        ("a.json", b"\xff", "no text"),
        ("a.npy", npy(np.zeros(4)), "class groups of the wrong type .*float64"),
        ("a.npy", npy(np.zeros((4, 1), int)), r"do not fit the classes .*found \(4, 1\)"),
        ("a.npy", npy(np.array([b"\xff", b"a", b"b", b"c"])), r"a\.npy: damaged"),
        ("a.npy", npy(np.full(4, 0x110000, np.uint32).view("<U1")), r"a\.npy: damaged"),
        ("a.npy", npy(np.array(["a", "", "b", "c"])), r"class 1 \(oak\) has an empty group"),
        ("a.npy", npy(np.arange(4))[:-1], r"a\.npy: truncated"),
        ("a.npy", b"groups", r"a\.npy: damaged"),
        ("a.yaml", "0: x", r"unknown kind of class groups .*\.csv, \.tsv.*found \.yaml"),
        ("groups", "0: x", "found no suffix"),
    ],
)
def test_what_is_wrong_is_told_with_file_line_and_class(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, name, content)


def test_pickled_groups_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array(["x", None], object), allow_pickle=True)
    with pytest.raises(DataError, match="pickled"):
        read_class_groups(tmp_path / "a.npy", 2, None)


def test_a_name_of_two_classes_has_to_be_told_by_number(tmp_path):
    with pytest.raises(DataError, match="line 1: a name of several classes .*a number from 0 to 1,? "):
        read(tmp_path, "a.csv", "crane,x\n1,y\n", n_classes=2, class_names=["crane", "crane"])
    groups, _ = read(tmp_path, "a.csv", "0,x\n1,y\n", n_classes=2, class_names=["crane", "crane"])
    assert groups.tolist() == [0, 1]


def test_classes_without_names_are_told_by_number(tmp_path):
    with pytest.raises(DataError, match=r"class 1 has no group"):
        read(tmp_path, "a.csv", "0,x", n_classes=2, class_names=None)
    with pytest.raises(DataError, match=r"expected a number from 0 to 1, found 'rose'"):
        read(tmp_path, "a.csv", "rose,x", n_classes=2, class_names=None)


def test_a_missing_file_is_an_input_that_is_missing(tmp_path):
    with pytest.raises(MissingInputError):
        read_class_groups(tmp_path / "a.csv", 2, None)
