"""A resumable artifact has the same bytes however often, and wherever, its writer was killed."""

import os
import shutil
import signal
import time

import numpy as np
import pytest
from test_artifacts_formats import INPUT, python, write_sample
from test_artifacts_writer import contents

from resmem_cli.artifacts.formats import EMBEDDINGS, INDEX
from resmem_cli.artifacts.temporary import discard_unfinished
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import BusyError, DataError, OutputError, ResourceError

RNG = np.random.default_rng(6)
N = 13
WORK = {"checkpoint": "c" * 64, "rows": [0, N], "name": "é\udce9\n"}
# In blocks of 5, 7, 7, 4 and 13 rows.
EMBEDDED = {"embeddings": RNG.standard_normal((N, 40_000)).astype("<f4")}
DENSE = EMBEDDED | {"logits": RNG.standard_normal((N, 60_000)).astype("<f2")}
SPARSE = EMBEDDED | {
    "logits_top/classes": RNG.integers(0, 9, (N, 60_000)).astype("<u2"),
    "logits_top/values": RNG.standard_normal((N, 60_000)).astype("<f4"),
    "logsumexp": RNG.standard_normal(N),
}
FIRST = {"documents/starts": np.arange(3), "documents/lengths": np.full(3, 7)}
LAST = {"labels": np.arange(N, dtype="<i4"), "ids": np.array([b"row %d" % i for i in range(N)])}

each_set = pytest.mark.parametrize("growing", [EMBEDDED, DENSE, SPARSE], ids=["one", "two", "four"])


def writer_of(path, *, resume=True, work=WORK, **options):
    options = {
        "inputs": [INPUT],
        "parameters": {"sources": {}},
        "resumable": work,
        "resume": resume,
    } | options
    return ArtifactWriter(path, EMBEDDINGS, **options)


def appends(writer, growing, *, start=0, step=N):
    """Write all, from a row on; yield before each append."""
    for name, values in FIRST.items():
        writer.write(name, values)
    for name, values in growing.items():
        writer.create(name, values.shape, values.dtype)
    for first in range(start, N, step):
        for name, values in growing.items():
            yield first
            writer.append(name, values[first : first + step])
    for name, values in LAST.items():
        yield N
        writer.write(name, values)
    yield N


def written(path, growing, *, step=N, **options):
    """Write all, in one go, from where an interrupted writer ended; give the row of that and the bytes."""
    with writer_of(path, **options) as writer:
        start = writer.restore(grid=step) if options.get("resume", True) else 0
        for _ in appends(writer, growing, start=start, step=step):
            pass
    assert contents(path.parent) == [path.name]
    return start, path.read_bytes()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The bytes that a writer without a journal writes, by the number of datasets."""
    folder = tmp_path_factory.mktemp("plain")
    return {
        len(growing): written(folder / "a.h5", growing, work=None, resume=False)[1]
        for growing in (EMBEDDED, DENSE, SPARSE)
    }


def kills(folder, growing, *, step):
    """Yield copies of a folder as a kill would leave it: at the start, and after each block."""
    (folder / "live").mkdir()
    writer = writer_of(folder / "live" / "a.h5")
    last = None
    for number, _ in enumerate(appends(writer, growing, step=step)):
        (journal,) = (folder / "live").glob(".*/work/journal.jsonl")
        if journal.read_bytes() != last:
            last = journal.read_bytes()
            yield shutil.copytree(folder / "live", folder / f"killed {number}")
    writer.__exit__(RuntimeError, RuntimeError("stop"), None)
    assert contents(folder / "live") == []


def part(folder):
    (found,) = folder.glob(".*.resmem-part")
    return found


# The same bytes


@each_set
@pytest.mark.parametrize("step", [1, 4, N])
@pytest.mark.parametrize("resume", [False, True])
def test_the_bytes_are_those_of_a_plain_writer(tmp_path, plain, growing, step, resume):
    assert written(tmp_path / "a.h5", growing, step=step, resume=resume)[1] == plain[len(growing)]


@each_set
@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize("resumed_step", [1, 3, N])
def test_the_bytes_are_the_same_after_a_kill_at_any_block(tmp_path, plain, growing, step, resumed_step):
    starts = []
    for killed in kills(tmp_path, growing, step=step):
        start, found = written(killed / "a.h5", growing, step=resumed_step)
        assert found == plain[len(growing)]
        assert start % resumed_step == 0 or start == N
        starts.append(start)
        shutil.rmtree(killed)
    assert starts == sorted(starts)
    assert starts[0] == 0
    assert starts[-1] == N
    if (step, resumed_step) == (1, 1):
        # What is lost is less than a block; of logsumexp, whose only block has all rows, nothing is.
        assert set(starts) == {1: {0, 5, 10, N}, 2: {0, 5, 7, N}, 4: {0, 4, 5, 7, N}}[len(growing)]


def test_the_bytes_are_the_same_after_several_kills(tmp_path, plain):
    last = []
    for killed in kills(tmp_path, SPARSE, step=2):
        # Each goes on from what is left by the one before, does one more append, and is killed again.
        writer = writer_of(killed / "a.h5")
        start = writer.restore()
        for count, _ in enumerate(appends(writer, SPARSE, start=start, step=1)):
            if count == 5:
                break
        again = shutil.copytree(killed, tmp_path / "again")
        discard(writer)
        start, found = written(again / "a.h5", SPARSE, step=3)
        assert found == plain[4]
        last.append(start)
        shutil.rmtree(again)
    assert last[-1] == N


def test_the_bytes_are_the_same_after_a_kill_at_any_block_of_the_restoring(tmp_path, plain):
    generations = [part(killed) / "work" for killed in kills(tmp_path, DENSE, step=1)]
    full = generations[-2]
    for number, partial in enumerate([None, *generations[:-2]]):
        folder = tmp_path / f"restoring {number}"
        stopped = folder / full.parent.name
        shutil.copytree(full, stopped / "old")
        if partial:
            shutil.copytree(partial, stopped / "work")
        start, found = written(folder / "a.h5", DENSE, step=1)
        assert (start, found) == (N, plain[2])


def test_a_kill_while_what_was_restored_is_removed_loses_nothing(tmp_path, plain):
    *_, killed = kills(tmp_path, DENSE, step=1)
    gone = part(killed) / "gone"
    gone.mkdir()
    (gone / "journal.jsonl").write_bytes(b"half")
    assert written(killed / "a.h5", DENSE) == (N, plain[2])


@pytest.fixture(scope="module")
def killed_at_the_end(tmp_path_factory):
    """A folder that a killed writer leaves after the last block, and the lines of its journal."""
    *_, killed = kills(tmp_path_factory.mktemp("killed"), EMBEDDED, step=5)
    return killed, journal_of(killed).read_bytes().splitlines(keepends=True)


def journal_of(folder):
    return part(folder) / "work" / "journal.jsonl"


def test_a_torn_last_line_is_ignored_wherever_it_is_torn(tmp_path):
    small = {"embeddings": EMBEDDED["embeddings"][:, :32]}
    whole = written(tmp_path / "a.h5", small, work=None, resume=False)[1]
    *_, killed = kills(tmp_path, small, step=5)
    lines = journal_of(killed).read_bytes().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if b'"written":{"dataset":"emb' in line)
    for cut in range(len(lines[last]) + 1):
        torn = shutil.copytree(killed, tmp_path / f"torn {cut}")
        journal_of(torn).write_bytes(b"".join(lines[:last]) + lines[last][:cut])
        assert written(torn / "a.h5", small) == (N if cut == len(lines[last]) else 0, whole)


def test_a_damaged_line_ends_what_is_restored(tmp_path, plain, killed_at_the_end):
    killed, lines = killed_at_the_end
    for number in range(1, len(lines)):
        for place in (0, len(lines[number]) // 2, len(lines[number]) - 1):
            copy = shutil.copytree(killed, tmp_path / f"{number} {place}")
            line = bytearray(lines[number])
            line[place] ^= 1
            journal_of(copy).write_bytes(b"".join(lines[:number]) + line + b"".join(lines[number + 1 :]))
            assert written(copy / "a.h5", EMBEDDED)[1] == plain[1]
            shutil.rmtree(copy)


@pytest.mark.parametrize(("block", "expected"), [(0, 0), (1, 5), (2, 10)])
def test_a_flipped_byte_of_a_block_ends_what_is_restored_before_it(
    tmp_path, plain, killed_at_the_end, block, expected
):
    copy = shutil.copytree(killed_at_the_end[0], tmp_path / "flipped")
    artifact = part(copy) / "work" / "artifact.h5"
    content = bytearray(artifact.read_bytes())
    content[content.index(EMBEDDED["embeddings"][5 * block].tobytes()) + 17] ^= 1
    artifact.write_bytes(content)
    assert written(copy / "a.h5", EMBEDDED, step=1) == (expected, plain[1])


@pytest.mark.parametrize("what", ["artifact.h5", "journal.jsonl"])
def test_a_file_that_is_gone_is_written_anew(tmp_path, plain, killed_at_the_end, what):
    copy = shutil.copytree(killed_at_the_end[0], tmp_path / "gone")
    (part(copy) / "work" / what).unlink()
    assert written(copy / "a.h5", EMBEDDED) == (0, plain[1])


def test_a_file_that_is_cut_off_is_restored_as_far_as_it_goes(tmp_path, plain, killed_at_the_end):
    copy = shutil.copytree(killed_at_the_end[0], tmp_path / "cut")
    os.truncate(part(copy) / "work" / "artifact.h5", 1_000_000)
    assert written(copy / "a.h5", EMBEDDED, step=1) == (5, plain[1])


def test_rows_start_on_the_caller_s_grid(tmp_path):
    for killed in kills(tmp_path, SPARSE, step=1):
        folders = [shutil.copytree(killed, tmp_path / f"{killed.name} {grid}") for grid in (1, 2, 5, 100)]
        starts = []
        for folder, grid in zip(folders, (1, 2, 5, 100), strict=True):
            with writer_of(folder / "a.h5") as writer:
                starts.append(writer.restore(grid=grid))
                for _ in appends(writer, SPARSE, start=starts[-1], step=grid):
                    pass
        r = starts[0]
        assert starts == [r if r == N else r - r % grid for grid in (1, 2, 5, 100)]
        shutil.rmtree(killed)


def test_what_is_read_at_random_is_resumed_too(tmp_path):
    # In blocks of 64 KiB that HDF5 may hold back; those it did are written anew.
    vectors = RNG.standard_normal((10, 4_000)).astype("<f4")
    parameters = dict.fromkeys(INDEX.parameters, "x")

    def write(path, **options):
        with ArtifactWriter(path, INDEX, parameters=parameters, **options) as writer:
            start = writer.restore() if options else 0
            writer.create("vectors", vectors.shape, vectors.dtype)
            for row in range(start, 10):
                if row == 9 and path.parent.name == "live":
                    shutil.copytree(path.parent, tmp_path / "killed")
                writer.append("vectors", vectors[row : row + 1])
            writer.write("mean", vectors.mean(axis=0, dtype="<f8"))
        return start, path.read_bytes()

    (tmp_path / "live").mkdir()
    whole = write(tmp_path / "whole.h5")[1]
    assert write(tmp_path / "live" / "a.h5", resumable={}, resume=True) == (0, whole)
    start, found = write(tmp_path / "killed" / "a.h5", resumable={}, resume=True)
    assert found == whole
    assert start in (0, 4, 8)


# A real kill

KILLED = """
import sys
from pathlib import Path
from test_artifacts_resume import SPARSE, appends, writer_of
step = int(sys.argv[2])
with writer_of(Path(sys.argv[1]), resume=len(sys.argv) < 4) as writer:
    start = writer.restore(grid=step)
    print(start, flush=True)
    for _ in appends(writer, SPARSE, start=start, step=step):
        print("row", flush=True)
        sys.stdin.readline()
print("whole", flush=True)
"""


@pytest.mark.parametrize("n_appends", [0, 1, 9, 30, 52, 53])
def test_the_bytes_are_the_same_after_kill_9(tmp_path, plain, n_appends):
    path = tmp_path / "a.h5"
    for resumed in (False, True):
        process = python(KILLED, path, 1)
        start = int(process.stdout.readline())
        assert bool(start) is (resumed and n_appends > 28)
        for _ in range(n_appends - 4 * start + 1):
            assert process.stdout.readline() == "row\n"
            process.stdin.write("\n")
            process.stdin.flush()
        process.kill()
        process.communicate()
    process = python(KILLED, path, 2)
    assert process.communicate("\n" * 99, timeout=60)[0].endswith("whole\n")
    assert path.read_bytes() == plain[4]
    assert contents(tmp_path) == ["a.h5"]


def test_the_bytes_are_the_same_after_kills_at_any_moment(tmp_path, plain):
    path = tmp_path / "a.h5"
    for delay in (0.0, 0.005, 0.01, 0.02, 0.04):
        process = python(KILLED, path, 1)
        process.stdin.write("\n" * 99)
        process.stdin.flush()
        process.stdout.readline()
        time.sleep(delay)
        process.kill()
        process.communicate()
    assert written(path, SPARSE, step=1)[1] == plain[4]


# Who may take up whose work


@pytest.mark.parametrize("change", [
    {"work": WORK | {"checkpoint": "d"}}, {"work": {}}, {"fmt": "other"},
], ids=["other work", "no work", "other format"])  # fmt: skip
def test_interrupted_work_of_another_kind_is_removed(tmp_path, killed_at_the_end, change):
    copy = shutil.copytree(killed_at_the_end[0], tmp_path / "other")
    if "fmt" in change:
        writer = ArtifactWriter(copy / "a.h5", INDEX, resumable=WORK, resume=True)
    else:
        writer = writer_of(copy / "a.h5", **change)
    assert writer.discarded
    assert writer.restore() == 0
    assert contents(part(copy)) == ["lock", "work"]
    discard(writer)
    assert contents(copy) == []


def discard(writer):
    writer.__exit__(DataError, DataError("stop"), None)


@pytest.mark.parametrize("work", [WORK, None], ids=["resumable", "plain"])
def test_without_resume_interrupted_work_on_the_same_file_is_removed(
    tmp_path, plain, killed_at_the_end, work
):
    copy = shutil.copytree(killed_at_the_end[0], tmp_path / "same")
    with writer_of(copy / "a.h5", resume=False, work=work) as writer:
        assert writer.discarded
        assert not list(copy.glob(".*/old"))
        for _ in appends(writer, EMBEDDED):
            pass
    assert (copy / "a.h5").read_bytes() == plain[1]
    assert contents(copy) == ["a.h5"]


def test_where_there_is_none_none_is_said_to_be_removed(tmp_path):
    for options in ({"resume": True}, {"resume": False}, {"resume": False, "work": None}):
        writer = writer_of(tmp_path / "a.h5", **options)
        assert not writer.discarded
        discard(writer)


def test_interrupted_work_on_another_file_is_left_alone(tmp_path, plain, killed_at_the_end):
    copy = shutil.copytree(killed_at_the_end[0], tmp_path / "others")
    left = contents(part(copy) / "work")
    (folder,) = contents(copy)
    for options in ({"resume": True}, {"resume": False}, {"resume": False, "work": None}):
        with writer_of(copy / "b.h5", **options) as writer:
            for _ in appends(writer, EMBEDDED):
                pass
    assert contents(copy) == [folder, "b.h5"]
    assert contents(part(copy) / "work") == left
    (copy / "b.h5").unlink()
    assert written(copy / "a.h5", EMBEDDED) == (N, plain[1])


def test_a_writer_with_resume_sweeps_ordinary_temporaries(tmp_path):
    (tmp_path / ".0.resmem-tmp").write_bytes(b"left")
    discard(writer_of(tmp_path / "a.h5"))
    assert contents(tmp_path) == []


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_resumable_writer_of_the_same_file_is_refused(tmp_path, resume):
    first = writer_of(tmp_path / "a.h5")
    for _ in appends(first, EMBEDDED):
        pass
    with pytest.raises(BusyError, match=r"a\.h5: another process is writing it; wait for it") as caught:
        writer_of(tmp_path / "a.h5", resume=resume)
    assert caught.value.exit_code == 75
    write_sample(tmp_path / "b.h5", EMBEDDINGS)
    plain_writer = writer_of(tmp_path / "a.h5", work=None)
    assert not plain_writer.discarded
    discard(plain_writer)
    first.__exit__(None, None, None)
    assert contents(tmp_path) == ["a.h5", "b.h5"]


def test_two_names_of_one_file_are_one_file(tmp_path):
    (tmp_path / "link.h5").symlink_to(tmp_path / "a.h5")
    first = writer_of(tmp_path / "a.h5")
    with pytest.raises(BusyError):
        writer_of(tmp_path / "link.h5")
    discard(first)


def test_a_name_as_long_as_a_name_can_be(tmp_path, plain):
    assert written(tmp_path / ("a" * 255), EMBEDDED) == (0, plain[1])


# How it ends


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(("error", "may_pass"), [
    (OutputError("disk full"), True), (ResourceError("no memory"), True), (MemoryError(), True),
    (KeyboardInterrupt(), True), (DataError("bad data"), False), (ValueError("a bug"), False),
], ids=lambda value: type(value).__name__)  # fmt: skip
def test_an_error_that_may_pass_leaves_the_work_where_it_is_to_be_resumed(
    tmp_path, plain, resume, error, may_pass
):
    path = tmp_path / "a.h5"
    path.write_bytes(b"old")

    def stop_half_way():
        with writer_of(path, resume=resume) as writer:
            for start in appends(writer, EMBEDDED, step=4):
                if start == 12:
                    raise error

    with pytest.raises(type(error)):
        stop_half_way()
    assert path.read_bytes() == b"old"
    kept = resume and may_pass
    assert len(contents(tmp_path)) == 1 + kept
    assert written(path, EMBEDDED, step=5) == (10 if kept else 0, plain[1])


@pytest.mark.parametrize("resume", [False, True])
def test_a_signal_leaves_the_work_only_where_it_is_to_be_resumed(tmp_path, plain, resume):
    code = """
import signal, sys
from pathlib import Path
from test_artifacts_resume import EMBEDDED, appends, writer_of
from resmem_cli.cli.failures import run_and_exit
def command():
    with writer_of(Path(sys.argv[1]), resume=sys.argv[2] == "True") as writer:
        for start in appends(writer, EMBEDDED, step=4):
            if start == 12:
                print("half", flush=True)
                sys.stdin.read()
run_and_exit(command)
"""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        process = python(code, tmp_path / "a.h5", resume)
        assert process.stdout.readline() == "half\n"
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode == -number
        assert len(contents(tmp_path)) == resume
    assert written(tmp_path / "a.h5", EMBEDDED, step=5) == (10 if resume else 0, plain[1])


def test_what_is_to_be_resumed_is_not_among_the_unfinished(tmp_path):
    kept, removed = writer_of(tmp_path / "kept.h5"), writer_of(tmp_path / "removed.h5", resume=False)
    assert len(contents(tmp_path)) == 2
    discard_unfinished()
    assert len(contents(tmp_path)) == 1
    discard(kept)
    discard(removed)
    assert contents(tmp_path) == []


def test_no_clobber_refuses_an_existing_file_and_keeps_the_work(tmp_path, plain, killed_at_the_end):
    copy = shutil.copytree(killed_at_the_end[0], tmp_path / "clobber")
    (copy / "a.h5").write_bytes(b"old")
    left = contents(copy)
    with pytest.raises(OutputError, match="the output exists and --no-clobber was given"):
        writer_of(copy / "a.h5", clobber=False)
    assert contents(copy) == left
    (copy / "a.h5").unlink()
    assert written(copy / "a.h5", EMBEDDED, clobber=False) == (N, plain[1])


def test_no_clobber_refuses_a_file_that_appears_while_writing(tmp_path, plain):
    path = tmp_path / "a.h5"
    writer = writer_of(path, clobber=False)
    for _ in appends(writer, EMBEDDED):
        pass
    path.write_bytes(b"new")
    with pytest.raises(OutputError, match="the output exists and --no-clobber was given"):
        writer.__exit__(None, None, None)
    assert path.read_bytes() == b"new"
    assert written(path, EMBEDDED) == (N, plain[1])


FULL_DISK = """
import os, resource, sys
from pathlib import Path
from test_artifacts_resume import EMBEDDED, appends, writer_of
from resmem_cli.errors import OutputError
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    with writer_of(Path(sys.argv[1])) as writer:
        for _ in appends(writer, EMBEDDED, start=writer.restore()):
            pass
except OutputError as error:
    sys.stdout.write(str(error))
    sys.stdout.flush()
    os._exit(error.exit_code)
"""


@pytest.mark.parametrize(("limit", "expected"), [(1_000, 0), (1_000_000, 5), (2_100_000, 10)])
def test_a_full_disk_is_told_and_its_work_resumed(tmp_path, plain, limit, expected):
    path = tmp_path / "a.h5"
    for _ in range(2):
        process = python(FULL_DISK, path, limit)
        told, _ = process.communicate(timeout=60)
        assert told == f"{path}: can't be written: File too large; raise the file size limit (ulimit -f)"
        assert process.returncode == 74
    assert written(path, EMBEDDED, step=1) == (expected, plain[1])


# What is refused


def test_a_restored_dataset_declared_otherwise_is_refused(tmp_path, killed_at_the_end):
    copy = shutil.copytree(killed_at_the_end[0], tmp_path / "otherwise")
    writer = writer_of(copy / "a.h5")
    assert writer.restore() == N
    assert writer.shape("embeddings") == (N, 40_000)
    writer.create("embeddings", (N, 40_000), np.float32)
    for shape, dtype in (((N, 40_001), "<f4"), ((N, 40_000), "<f2")):
        with pytest.raises(ValueError, match=r"embeddings: .* before"):
            writer.create("embeddings", shape, dtype)
    with pytest.raises(ValueError, match="embeddings: 14 rows for 13"):
        writer.append("embeddings", np.ones((1, 40_000), "<f4"))
    discard(writer)


def test_datasets_that_grow_have_one_length(tmp_path):
    writer = writer_of(tmp_path / "a.h5")
    writer.create("embeddings", (3, 2), "<f4")
    with pytest.raises(ValueError, match="documents/starts: 4 rows, unlike the other datasets that grow"):
        writer.create("documents/starts", (4,), "<i8")
    discard(writer)


def test_only_a_resumable_writer_restores(tmp_path):
    writer = writer_of(tmp_path / "a.h5", work=None)
    with pytest.raises(ValueError, match="not a resumable writer"):
        writer.restore()
    discard(writer)


def test_an_unknown_dataset_has_no_shape(tmp_path):
    writer = writer_of(tmp_path / "a.h5")
    with pytest.raises(KeyError):
        writer.shape("embeddings")
    discard(writer)
