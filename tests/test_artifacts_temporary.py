"""A file is put in place whole or not at all, whatever happens to its writer."""

import os
import stat
import time
from pathlib import Path

import numpy as np
import pytest
from test_artifacts_formats import python, read_everything, write_sample
from test_artifacts_writer import AT_RANDOM, IN_ORDER, contents, write_index

from resmem_cli.artifacts.formats import EMBEDDINGS, INDEX
from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.artifacts.temporary import TemporaryFile, new_files
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import OutputError

# An exception, another writer, an output that can't be


@pytest.mark.parametrize("kind", [RuntimeError, OSError, KeyboardInterrupt, SystemExit])
def test_an_exception_while_writing_keeps_the_old_file_and_no_temporary(tmp_path, kind):
    path = tmp_path / "a.h5"
    path.write_bytes(b"old")
    writer = ArtifactWriter(path, EMBEDDINGS, parameters={"sources": {}})

    def stop_half_way():
        with writer:
            writer.create("embeddings", IN_ORDER.shape, "<f4")
            writer.append("embeddings", IN_ORDER[:8])
            raise kind("stop")

    assert len(contents(tmp_path)) == 2
    with pytest.raises(kind, match="^stop$"):
        stop_half_way()
    assert path.read_bytes() == b"old"
    assert contents(tmp_path) == ["a.h5"]


def test_an_existing_file_is_replaced_and_its_readers_keep_the_old_one(tmp_path):
    path = write_index(tmp_path / "a.h5")
    with open_artifact(path) as artifact:
        rows = artifact.rows("vectors")
        write_index(path, AT_RANDOM + 1)
        assert np.array_equal(rows.read(0, 10), AT_RANDOM)
    with open_artifact(path) as artifact:
        assert np.array_equal(artifact.read("vectors"), AT_RANDOM + 1)


def test_no_clobber_refuses_an_existing_file(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"a\.h5: the output exists and --no-clobber was given") as caught:
        write_sample(path, EMBEDDINGS, clobber=False)
    assert caught.value.exit_code == 74
    assert path.read_bytes() == b"old"
    assert contents(tmp_path) == ["a.h5"]


def test_no_clobber_refuses_a_file_that_appears_while_writing(tmp_path):
    path = tmp_path / "a.h5"
    writer = ArtifactWriter(path, EMBEDDINGS, parameters={"sources": {}}, clobber=False)
    writer.write("embeddings", IN_ORDER)
    path.write_bytes(b"new")
    with pytest.raises(OutputError, match="the output exists and --no-clobber was given"):
        writer.__exit__(None, None, None)
    assert path.read_bytes() == b"new"
    assert contents(tmp_path) == ["a.h5"]


def test_no_clobber_writes_where_there_is_nothing(tmp_path):
    path = write_sample(tmp_path / "a.h5", EMBEDDINGS, clobber=False)
    assert contents(tmp_path) == ["a.h5"]
    assert path.stat().st_nlink == 1
    assert path.read_bytes() == write_sample(tmp_path / "b.h5", EMBEDDINGS).read_bytes()


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.h5"
    with ArtifactWriter(path, EMBEDDINGS, parameters={"sources": 1}) as first:
        first.write("embeddings", IN_ORDER)
        with ArtifactWriter(path, EMBEDDINGS, parameters={"sources": 2}) as second:
            second.write("embeddings", IN_ORDER)
        assert read_everything(path)[0].parameters == {"sources": 2}
    assert read_everything(path)[0].parameters == {"sources": 1}
    assert contents(tmp_path) == ["a.h5"]


def test_an_output_in_no_folder_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"folder does not exist; create it: mkdir -p .*/absent"):
        write_sample(tmp_path / "absent" / "a.h5", EMBEDDINGS)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="folder does not exist") as caught:
        write_sample(tmp_path / "file" / "a.h5", EMBEDDINGS)
    assert caught.value.exit_code == 74
    assert contents(tmp_path) == ["file"]


def test_an_output_that_is_a_folder_is_refused(tmp_path):
    (tmp_path / "a.h5").mkdir()
    with pytest.raises(OutputError, match="the output is a folder; name a file$"):
        write_sample(tmp_path / "a.h5", EMBEDDINGS)
    assert contents(tmp_path) == ["a.h5"]


def test_a_pipe_or_a_device_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(OutputError, match="the output is not a regular file"):
            write_sample(path, EMBEDDINGS)
    assert contents(tmp_path) == ["pipe"]
    assert Path(os.devnull).is_char_device()


def test_a_name_too_long_for_the_file_system_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"can't be written: File name too long"):
        write_sample(tmp_path / f"{'a' * 260}.h5", EMBEDDINGS)
    assert contents(tmp_path) == []


def test_a_link_that_leads_in_a_circle_is_no_output(tmp_path):
    path = tmp_path / "a.h5"
    path.symlink_to("a.h5")
    with pytest.raises(OutputError, match=r"a\.h5: the output is a link that leads in a circle"):
        write_sample(path, EMBEDDINGS)
    assert contents(tmp_path) == ["a.h5"]


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "real.h5"
    link = tmp_path / "link.h5"
    link.symlink_to(target)
    write_sample(link, EMBEDDINGS)
    assert link.is_symlink()
    assert target.is_file()
    assert contents(tmp_path / "elsewhere") == ["real.h5"]


def test_the_file_s_mode_follows_the_umask(tmp_path):
    code = """
import os, sys
from pathlib import Path
os.umask(0o027)
from test_artifacts_formats import EMBEDDINGS, write_sample
write_sample(Path(sys.argv[1]), EMBEDDINGS)
write_sample(Path(sys.argv[2]), EMBEDDINGS, clobber=False)
"""
    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    assert python(code, *paths).communicate(timeout=60)[1] == ""
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o640, 0o640]


# A process that dies, a disk that is full

HALF_WRITTEN = """
import sys
from pathlib import Path
from test_artifacts_writer import ArtifactWriter, EMBEDDINGS, IN_ORDER
with ArtifactWriter(Path(sys.argv[1]), EMBEDDINGS, parameters={"sources": {}}) as writer:
    writer.create("embeddings", IN_ORDER.shape, "<f4")
    writer.append("embeddings", IN_ORDER[:12])
    print("half", flush=True)
    sys.stdin.read()
"""


def test_a_killed_writer_leaves_the_old_file_and_a_temporary_that_the_next_one_sweeps(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"old")
    process = python(HALF_WRITTEN, path)
    assert process.stdout.readline() == "half\n"
    (temporary,) = set(contents(tmp_path)) - {"a.h5"}

    write_sample(tmp_path / "b.h5", EMBEDDINGS)
    assert contents(tmp_path) == [temporary, "a.h5", "b.h5"]  # its writer lives

    process.kill()
    process.communicate()
    assert path.read_bytes() == b"old"
    assert contents(tmp_path) == [temporary, "a.h5", "b.h5"]
    write_sample(tmp_path / "b.h5", EMBEDDINGS)
    assert contents(tmp_path) == ["a.h5", "b.h5"]


def test_a_writer_that_is_let_finish_is_not_disturbed_by_others_in_the_folder(tmp_path):
    process = python(HALF_WRITTEN.replace("sys.stdin.read()", "sys.stdin.read()\n    writer.append"
                     "('embeddings', IN_ORDER[12:])"), tmp_path / "a.h5")  # fmt: skip
    assert process.stdout.readline() == "half\n"
    write_sample(tmp_path / "b.h5", EMBEDDINGS)
    assert process.communicate(timeout=60)[1] == ""
    with open_artifact(tmp_path / "a.h5") as artifact:
        assert np.array_equal(artifact.read("embeddings"), IN_ORDER)
    assert contents(tmp_path) == ["a.h5", "b.h5"]


def test_a_writer_killed_at_any_moment_leaves_one_of_the_whole_files(tmp_path):
    path = tmp_path / "a.h5"
    code = """
import itertools, sys
from pathlib import Path
from test_artifacts_writer import AT_RANDOM, write_index
for i in itertools.count():
    write_index(Path(sys.argv[1]), AT_RANDOM + i % 2)
    print(i, flush=True)
"""
    for delay in (0.0, 0.011, 0.037):
        process = python(code, path)
        assert process.stdout.readline() == "0\n"
        time.sleep(delay)
        process.kill()
        process.communicate()
        with open_artifact(path, INDEX) as artifact:
            vectors = artifact.read("vectors")
        assert np.array_equal(vectors, AT_RANDOM) or np.array_equal(vectors, AT_RANDOM + 1)
    write_index(path)
    assert contents(tmp_path) == ["a.h5"]


def test_names_that_only_look_like_temporaries_are_not_swept(tmp_path):
    (tmp_path / "resmem-tmp").write_bytes(b"")
    (tmp_path / ".other.tmp").write_bytes(b"")
    (tmp_path / ".link.resmem-tmp").symlink_to(tmp_path / "resmem-tmp")
    TemporaryFile(tmp_path / "a.h5").discard()
    assert contents(tmp_path) == [".link.resmem-tmp", ".other.tmp", "resmem-tmp"]


# HDF5 may crash when an interpreter exits after a failed write, hence `os._exit`.
FULL_DISK = """
import os, resource, sys
from pathlib import Path
from test_artifacts_writer import EMBEDDINGS, IN_ORDER, write_artifact, write_index
from resmem_cli.errors import OutputError
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
path = Path(sys.argv[1])
try:
    if sys.argv[2] == "in order":
        write_artifact(path, EMBEDDINGS, {"embeddings": IN_ORDER})
    else:
        write_index(path)
except OutputError as error:
    sys.stdout.write(str(error))
    sys.stdout.flush()
    os._exit(error.exit_code)
"""


# Nothing, a part of the header, a part of the rows, all but the end: IN_ORDER has 2.4 MB, AT_RANDOM 160 kB.
@pytest.mark.parametrize(("layout", "limit"), [
    ("in order", 0), ("in order", 1_000), ("in order", 1_500_000), ("in order", 2_400_000),
    ("at random", 0), ("at random", 2_100), ("at random", 100_000), ("at random", 190_000),
])  # fmt: skip
def test_a_full_disk_is_told_and_leaves_the_old_file_and_no_temporary(tmp_path, layout, limit):
    path = tmp_path / "a.h5"
    path.write_bytes(b"old")
    process = python(FULL_DISK, path, layout, limit)
    told, _ = process.communicate(timeout=60)
    assert told == f"{path}: can't be written: File too large; raise the file size limit (ulimit -f)"
    assert process.returncode == 74
    assert path.read_bytes() == b"old"
    assert contents(tmp_path) == ["a.h5"]


# Several files


def test_several_files_get_their_names_together_or_never(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with new_files({tmp_path / "a": b"new", tmp_path / "b": b"new"}):
        assert (tmp_path / "a").read_bytes() == b"old"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"new", "b": b"new"}
    with pytest.raises(KeyError), new_files({tmp_path / "a": b"newer"}):
        raise KeyError
    with (
        pytest.raises(OutputError, match="folder does not exist"),
        new_files({tmp_path / "a": b"newer", tmp_path / "no" / "c": b""}),
    ):
        raise AssertionError
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"new", "b": b"new"}
