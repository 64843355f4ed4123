"""Folders of texts, their parts for training and testing, and the tokenizer that is learnt from them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from resmem_cli.arrays.byte_pairs import train_byte_pairs
from resmem_cli.arrays.corpus import find_corpus
from resmem_cli.arrays.tokenizing import TextTokenizer
from resmem_cli.errors import DataError, MissingExtraError, MissingInputError, UsageError

pytest.importorskip("tokenizers", reason="needs the language extra")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    for name in ("b.txt", "a.txt", "deep/c.txt", "left/d.txt", "deep/left/e.txt", "f.md", ".hidden.txt"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"this is {name}\n")
    (folder / "empty.txt").write_text("\n \n")
    return folder


def test_texts_are_those_that_match_sorted_without_empty_and_excluded_ones(folder: Path) -> None:
    corpus = find_corpus(folder, glob="**/*.txt", exclude=["left"])

    assert corpus.names == ("a.txt", "b.txt", "deep/c.txt")
    assert list(corpus.texts(["deep/c.txt", "a.txt"])) == ["this is deep/c.txt\n", "this is a.txt\n"]
    assert corpus.notices == ()


def test_a_file_may_be_excluded_by_its_name(folder: Path) -> None:
    assert "a.txt" not in find_corpus(folder, glob="**/*.txt", exclude=["a.txt"]).names


def test_files_that_are_not_utf8_are_left_out_with_a_notice(folder: Path) -> None:
    for name in ("v.txt", "w.txt", "x.txt", "y.txt"):
        (folder / name).write_bytes("Zürich".encode("latin-1"))

    corpus = find_corpus(folder, glob="**/*.txt", exclude=["left"])

    assert "v.txt" not in corpus.names
    assert "y.txt" not in corpus.names
    [notice] = corpus.notices
    assert "not UTF-8: v.txt, w.txt, x.txt and 1 more" in notice


def test_the_mark_of_utf8_is_no_part_of_a_text(folder: Path) -> None:
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbfmarked")

    assert list(find_corpus(folder, glob="**/*.txt").texts(["a.txt"])) == ["marked"]


def test_the_digest_is_of_names_and_contents(folder: Path) -> None:
    before = find_corpus(folder, glob="**/*.txt").digest
    assert find_corpus(folder, glob="**/*.txt").digest == before
    (folder / "a.txt").write_text("changed")
    assert find_corpus(folder, glob="**/*.txt").digest != before


def test_a_split_deals_out_every_text_once_the_same_for_a_seed(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"{i:02}.txt").write_text(f"{i}")
    corpus = find_corpus(tmp_path, glob="*.txt")

    split = corpus.split(0.1, seed=3)

    assert {name: len(part) for name, part in split.items()} == {"train": 32, "validation": 4, "test": 4}
    assert sorted(name for part in split.values() for name in part) == list(corpus.names)
    assert corpus.split(0.1, seed=3) == split
    assert corpus.split(0.1, seed=4) != split
    assert list(split["train"]) != sorted(split["train"])


@pytest.mark.parametrize("held_out", [0.01, 0.49])
def test_every_part_has_a_text_and_training_at_least_as_many(held_out: float, folder: Path) -> None:
    split = find_corpus(folder, glob="**/*.txt").split(held_out, seed=0)

    assert min(len(part) for part in split.values()) >= 1


def test_a_missing_folder_and_one_without_texts_are_refused(folder: Path) -> None:
    with pytest.raises(MissingInputError, match="no such folder"):
        find_corpus(folder / "nowhere", glob="*")
    with pytest.raises(MissingInputError, match="not a folder"):
        find_corpus(folder / "a.txt", glob="*")
    with pytest.raises(DataError, match=r"too few texts.*at least 3.*found 0.*--glob"):
        find_corpus(folder, glob="*.py")


def test_a_text_that_was_spoilt_meanwhile_is_named(folder: Path) -> None:
    corpus = find_corpus(folder, glob="**/*.txt")
    (folder / "b.txt").write_bytes(b"\xff")

    with pytest.raises(DataError, match=r"b\.txt: a text that is not UTF-8"):
        list(corpus.texts(corpus.names))


def test_a_tokenizer_writes_every_text_and_is_the_same_for_the_same_texts(tmp_path: Path) -> None:
    texts = ["the cat sat on the mat\n" * 5, "the dog sat on the log\n" * 5]
    learnt = train_byte_pairs(texts, vocabulary=270)
    (tmp_path / "tokenizer.json").write_bytes(learnt)
    tokenizer = TextTokenizer(tmp_path / "tokenizer.json")

    assert train_byte_pairs(iter(texts), vocabulary=270) == learnt
    assert tokenizer.vocabulary == len(json.loads(learnt)["model"]["vocab"]) == 270
    text = "the cät\t☃ \N{GRINNING FACE} sat"
    [ids] = tokenizer.encode([text])
    assert tokenizer.decode(ids) == text
    assert len(tokenizer.encode(["the cat sat"])[0]) < len("the cat sat")
    assert tokenizer.decode(np.array(ids[:0])) == ""


def test_a_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--vocab.*at least 256.*found 255"):
        train_byte_pairs(["a"], vocabulary=255)


def test_a_missing_package_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)

    with pytest.raises(MissingExtraError, match=r"tokenizers.*resmem-cli\[language\]"):
        train_byte_pairs(["a"], vocabulary=256)
