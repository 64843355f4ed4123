"""Texts as documents: which files, in which order, and the same tokens however they were read."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from resmem_cli.arrays.texts import open_texts
from resmem_cli.arrays.token_arrays import TokenArrays
from resmem_cli.arrays.tokenizing import TextTokenizer
from resmem_cli.errors import DataError, MissingExtraError, MissingInputError, OutputError

tokenizers = pytest.importorskip("tokenizers", reason="needs the language extra")

WORDS = (
    "def return import self the memory of a network naïve café 日本 für x = ( ) : , . 0 1 23 -> ''' \n \t   "
)


def some_text(seed: int, n_words: int) -> str:
    generator = random.Random(seed)
    words = [word for word in WORDS.split(" ") if word] + ["\n", "    ", "\n\n"]
    return "".join(
        generator.choice(words) + generator.choice([" ", " ", "", "\n    "]) for _ in range(n_words)
    )


def byte_tokenizer() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "<pad>"],
        show_progress=False,
    )
    made.train_from_iterator([some_text(0, 3000)], trainer)
    return made


def unigram_tokenizer() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(tokenizers.models.Unigram())
    made.normalizer = tokenizers.normalizers.NFKC()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=120, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
    )
    made.train_from_iterator([some_text(0, 3000)], trainer)
    return made


def word_tokenizer() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer()
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[UNK]"], show_progress=False
    )
    made.train_from_iterator([some_text(0, 3000)], trainer)
    return made


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of bytes whose file asks for special tokens, padding and a cut."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made = byte_tokenizer()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    made.enable_truncation(3)
    made.enable_padding(length=16, pad_id=1, pad_token="<pad>")
    made.save(str(path))
    return path


def texts(folder: Path, contents: dict[str, str | bytes]) -> Path:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def documents(tokens: TokenArrays, tokenizer: Path) -> dict[str, str]:
    """Decode every document."""
    decoder = tokenizers.Tokenizer.from_file(str(tokenizer))
    decoder.decoder = tokenizers.decoders.ByteLevel()
    assert tokens.names is not None
    return {
        name.decode(): decoder.decode(tokens.read(start, start + length).tolist(), skip_special_tokens=False)
        for name, start, length in zip(tokens.names, tokens.starts, tokens.lengths, strict=True)
    }


def test_a_folder_by_hand(tmp_path: Path, tokenizer: Path) -> None:
    folder = texts(
        tmp_path / "books", {"b.txt": "the memory\r\n", "a/c.txt": "", "a/a.txt": "café", "x.md": "x"}
    )
    with open_texts(folder, tokenizer=tokenizer, spool=tmp_path) as tokens:
        assert documents(tokens, tokenizer) == {"a/a.txt": "café", "a/c.txt": "", "b.txt": "the memory\r\n"}
        assert tokens.lengths[1] == 0
        assert tokens.n_tokens == tokens.lengths.sum() == tokens.starts[2] + tokens.lengths[2]
        assert tokens.sources == {"inputs": "books", "tokenizer": "tokenizer.json"}
        assert tokens.files == (folder, tokenizer)
        assert tokens.notices == ()
    assert sorted(os.listdir(tmp_path)) == ["books"]


def test_one_file_is_one_document(tmp_path: Path, tokenizer: Path) -> None:
    texts(tmp_path, {"a.text": b"\xef\xbb\xbfdef x"})
    with open_texts(tmp_path / "a.text", tokenizer=tokenizer, glob="*.no", spool=tmp_path) as tokens:
        assert documents(tokens, tokenizer) == {"a.text": "def x"}
        assert tokens.digests == (
            ("inputs", "a.text", hashlib.sha256(b"\xef\xbb\xbfdef x").hexdigest()),
            ("tokenizer", "tokenizer.json", hashlib.sha256(tokenizer.read_bytes()).hexdigest()),
        )


def test_the_digest_of_a_folder_is_that_of_what_sha256sum_prints(tmp_path: Path, tokenizer: Path) -> None:
    folder = texts(tmp_path / "f", {"b.txt": "the", "a/ü.txt": "x" * 5000, "a.txt": "return"})
    names = ["a.txt", "a/ü.txt", "b.txt"]
    lines = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True).stdout
    with open_texts(folder, tokenizer=tokenizer, spool=tmp_path) as tokens:
        assert tokens.digests[0] == ("inputs", "f", hashlib.sha256(lines).hexdigest())
    (folder / "b.txt").rename(folder / "c.txt")
    with open_texts(folder, tokenizer=tokenizer, spool=tmp_path) as tokens:
        assert tokens.digests[0][2] != hashlib.sha256(lines).hexdigest()


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("**/*.txt", ["a.txt", "d/b.txt", "d/e/c.txt"]),
        ("*.txt", ["a.txt"]),
        ("d/*.txt", ["d/b.txt"]),
        ("d/**", ["d/b.py", "d/b.txt", "d/e/c.txt"]),
        ("**/[bc].txt", ["d/b.txt", "d/e/c.txt"]),
        ("**/e/?.txt", ["d/e/c.txt"]),
        ("**/*.py", ["d/b.py"]),
    ],
)
def test_a_pattern_chooses_the_files(tmp_path: Path, tokenizer: Path, glob: str, found: list[str]) -> None:
    names = ["a.txt", "d/b.txt", "d/b.py", "d/e/c.txt", ".h.txt", ".git/a.txt", "d/.e/a.txt"]
    folder = texts(tmp_path / "f", dict.fromkeys(names, "x"))
    with open_texts(folder, tokenizer=tokenizer, glob=glob, spool=tmp_path) as tokens:
        assert tokens.names is not None
        assert [name.decode() for name in tokens.names] == found


def test_links_out_of_the_folder_are_left_out_and_said(tmp_path: Path, tokenizer: Path) -> None:
    texts(tmp_path, {"secret.txt": "x", "away/a.txt": "x"})
    folder = texts(tmp_path / "f", {"a.txt": "the", "d/b.txt": "x"})
    (folder / "secret.txt").symlink_to("../secret.txt")
    (folder / "gone.txt").symlink_to("nowhere.txt")
    (folder / "away").symlink_to(tmp_path / "away")
    (folder / "loop").symlink_to(folder)
    (folder / "same.txt").symlink_to("a.txt")
    with open_texts(folder, tokenizer=tokenizer, spool=tmp_path) as tokens:
        assert list(documents(tokens, tokenizer)) == ["a.txt", "d/b.txt", "same.txt"]
        assert tokens.notices == (
            "f: 4 links were left out: links to folders or to files elsewhere are not followed",
        )


def test_many_files_and_a_long_one_are_each_a_document(tmp_path: Path, tokenizer: Path) -> None:
    contents = {f"{number:04}.txt": some_text(number, 5) for number in range(1500)}
    contents["0700.txt"] = some_text(1, 330_000)
    assert len(contents["0700.txt"].encode()) > 1 << 20
    folder = texts(tmp_path / "f", contents)
    with open_texts(folder, tokenizer=tokenizer, spool=tmp_path) as tokens:
        assert documents(tokens, tokenizer) == contents
        plain = tokenizers.Tokenizer.from_file(str(tokenizer))
        plain.no_truncation()
        plain.no_padding()
        expected = plain.encode(contents["0700.txt"], add_special_tokens=False).ids
        start = tokens.starts[700]
        assert tokens.read(start, start + tokens.lengths[700]).tolist() == expected


@pytest.mark.parametrize("made", [byte_tokenizer, unigram_tokenizer, word_tokenizer])
@pytest.mark.parametrize(("block", "overlap"), [(700, 200), (701, 64), (5000, 16), (50, 40)])
def test_a_long_text_gets_the_tokens_it_would_get_whole(
    tmp_path: Path, made, block: int, overlap: int
) -> None:
    tokenizer = made()
    tokenizer.save(str(tmp_path / "t.json"))
    text = some_text(3, 4000) + " " * 3000 + some_text(4, 500)
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    blocks = [text[start : start + block] for start in range(0, len(text), block)]

    parts = list(TextTokenizer(tmp_path / "t.json").encode_long(blocks, overlap=overlap))
    assert np.concatenate(parts).tolist() == whole
    assert len(parts) > 1


def test_a_text_that_is_one_token_is_encoded_as_one(tmp_path: Path) -> None:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a" * 90: 1, "?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "t.json"))
    assert [part.tolist() for part in TextTokenizer(tmp_path / "t.json").encode_long(["a" * 45] * 2)] == [[1]]


@pytest.mark.parametrize("size", [10, (1 << 20) - 1, (1 << 20) + 7])
def test_a_file_that_is_not_utf8_names_the_byte(tmp_path: Path, tokenizer: Path, size: int) -> None:
    folder = texts(tmp_path / "f", {"a.txt": "x", "b.txt": b"\xef\xbb\xbf" + b"a" * (size - 3) + b"\xff\xfe"})
    with pytest.raises(DataError, match=rf"b\.txt: a text that is not UTF-8 .*0xff at position {size:,}\)"):
        open_texts(folder, tokenizer=tokenizer, spool=tmp_path)
    (folder / "b.txt").write_bytes(b"a" * size + "é".encode()[:1])
    with pytest.raises(DataError, match=rf"0xc3 at position {size:,}\)"):
        open_texts(folder, tokenizer=tokenizer, spool=tmp_path)


def test_a_character_across_blocks_is_whole(tmp_path: Path, tokenizer: Path) -> None:
    content = "a" * ((1 << 20) - 1) + "é日" + "b" * 10
    texts(tmp_path, {"a.txt": content})
    with open_texts(tmp_path / "a.txt", tokenizer=tokenizer, spool=tmp_path) as tokens:
        assert documents(tokens, tokenizer)["a.txt"] == content


class TestRefusals:
    def test_no_file_matches(self, tmp_path: Path, tokenizer: Path) -> None:
        folder = texts(tmp_path / "f", {"a.py": "x"})
        with pytest.raises(DataError, match=r"f: no texts in the folder .*match \*\*/\*\.txt\).*--glob"):
            open_texts(folder, tokenizer=tokenizer, spool=tmp_path)

    def test_texts_without_tokens(self, tmp_path: Path, tokenizer: Path) -> None:
        folder = texts(tmp_path / "f", {"a.txt": "", "b.txt": b"\xef\xbb\xbf"})
        with pytest.raises(DataError, match="f: no tokens in the texts"):
            open_texts(folder, tokenizer=tokenizer, spool=tmp_path)

    @pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"model": 3}', b"\xff\x00", b"[" * 2000])
    def test_a_damaged_tokenizer(self, tmp_path: Path, content: bytes) -> None:
        texts(tmp_path, {"a.txt": "x", "t.json": content})
        with pytest.raises(DataError, match=r"t\.json: no tokenizer that can be read"):
            open_texts(tmp_path / "a.txt", tokenizer=tmp_path / "t.json", spool=tmp_path)

    def test_a_tokenizer_cut_short(self, tmp_path: Path, tokenizer: Path) -> None:
        texts(tmp_path, {"a.txt": "x", "t.json": tokenizer.read_bytes()[:-200]})
        with pytest.raises(DataError, match=r"t\.json: no tokenizer that can be read"):
            open_texts(tmp_path / "a.txt", tokenizer=tmp_path / "t.json", spool=tmp_path)

    def test_a_tokenizer_without_a_token_for_the_text(self, tmp_path: Path) -> None:
        tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="?")).save(
            str(tmp_path / "t.json")
        )
        texts(tmp_path, {"a.txt": "b"})
        with pytest.raises(DataError, match=r"t\.json: the tokenizer fails on a text .found WordLevel"):
            open_texts(tmp_path / "a.txt", tokenizer=tmp_path / "t.json", spool=tmp_path)

    @pytest.mark.parametrize("missing", ["texts", "tokenizer"])
    def test_files_that_are_not_there(self, tmp_path: Path, tokenizer: Path, missing: str) -> None:
        texts(tmp_path, {"a.txt": "x"})
        path = tmp_path / ("none" if missing == "texts" else "a.txt")
        with pytest.raises(MissingInputError, match="none: no such file"):
            open_texts(
                path, tokenizer=tmp_path / "none" if missing == "tokenizer" else tokenizer, spool=tmp_path
            )

    def test_a_spool_that_is_not_there(self, tmp_path: Path, tokenizer: Path) -> None:
        texts(tmp_path, {"a.txt": "x"})
        with pytest.raises(OutputError, match="none: can't be written: No such file"):
            open_texts(tmp_path / "a.txt", tokenizer=tokenizer, spool=tmp_path / "none")

    def test_a_name_that_is_not_utf8(self, tmp_path: Path, tokenizer: Path) -> None:
        folder = texts(tmp_path / "f", {"a.txt": "x"})
        (folder / os.fsdecode(b"\xff.txt")).write_text("x")
        with pytest.raises(DataError, match=r"f: a file name that is not UTF-8 .*\\xff\.txt.*rename"):
            open_texts(folder, tokenizer=tokenizer, spool=tmp_path)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_folder_that_can_not_be_listed(self, tmp_path: Path, tokenizer: Path) -> None:
        folder = texts(tmp_path / "f", {"a.txt": "x", "d/b.txt": "x"})
        (folder / "d").chmod(0)
        try:
            with pytest.raises(MissingInputError, match="d: can't be listed: Permission denied"):
                open_texts(folder, tokenizer=tokenizer, spool=tmp_path)
        finally:
            (folder / "d").chmod(0o700)


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=False
    )


OPEN = """
import sys
from pathlib import Path
from resmem_cli.arrays.texts import open_texts
folder, tokenizer, spool = map(Path, sys.argv[1:])
"""


def test_without_the_package_the_extra_is_named(tmp_path: Path, tokenizer: Path) -> None:
    texts(tmp_path, {"a.txt": "x"})
    script = (
        "import sys; sys.modules['tokenizers'] = None\n"
        + OPEN
        + (
            "from resmem_cli.errors import MissingExtraError\n"
            "try: open_texts(folder, tokenizer=tokenizer, spool=spool)\n"
            "except MissingExtraError as error: print(error)\n"
        )
    )
    done = run(script, tmp_path / "a.txt", tokenizer, tmp_path)
    assert "pip install 'resmem-cli[language]'" in done.stdout, done.stderr
    assert MissingExtraError.exit_code == 69


def test_a_fork_after_tokenising_says_nothing(tmp_path: Path, tokenizer: Path) -> None:
    folder = texts(tmp_path / "f", {f"{number}.txt": some_text(number, 50) for number in range(50)})
    script = OPEN + (
        "import os\n"
        "open_texts(folder, tokenizer=tokenizer, spool=spool).close()\n"
        "child = os.fork()\n"
        "if child == 0: os._exit(0)\n"
        "os.waitpid(child, 0)\n"
    )
    done = run(script, folder, tokenizer, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_spool_that_fills_the_disk_is_one_error(tmp_path: Path, tokenizer: Path) -> None:
    folder = texts(tmp_path / "f", {"a.txt": some_text(0, 5000)})
    script = OPEN + (
        "import resource\n"
        "from resmem_cli.errors import OutputError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: open_texts(folder, tokenizer=tokenizer, spool=spool)\n"
        "except OutputError as error: print(error)\n"
    )
    done = run(script, folder, tokenizer, tmp_path)
    assert "can't be written: File too large" in done.stdout, done.stderr
    assert json.loads(tokenizer.read_text())["truncation"]["max_length"] == 3
