"""What a Makefile may rely on: exit codes, one line on stderr, no output after a failure, JSON, signals."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import Finished, Pipeline, Resmem, classifier_arrays, make_pipeline

from resmem_cli.artifacts.provenance import header_digest

COMMANDS = (
    "run",
    "import",
    "embed",
    "residualize",
    "index",
    "tune",
    "predict",
    "search",
    "merge",
    "update",
    "analyze",
    "export",
    "reproduce",
    "theory",
    "plan",
    "info",
    "verify",
)


def assert_refused(done: Finished, status: int, *parts: str) -> None:
    assert done.status == status, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, lines
    for part in ("resmem: error: ", *parts):
        assert part in lines[0]


# --- bad input: each a file or an option made wrong, the command, its status, and words of the message


def text_file(folder: Path, pipeline: Pipeline) -> Path:
    path = folder / "text.h5"
    path.write_text("these are not the bytes you are looking for\n")
    return path


def truncated(folder: Path, pipeline: Pipeline) -> Path:
    path = folder / "truncated.h5"
    path.write_bytes(pipeline.train.read_bytes()[:-500])
    return path


def newer_version(folder: Path, pipeline: Pipeline, source: str = "train") -> Path:
    path = folder / "newer.h5"
    shutil.copy(getattr(pipeline, source), path)
    with h5py.File(path, "a") as file:
        file.attrs["format_version"] = 99
        attributes = {
            name: bytes(value) if isinstance(value, bytes) else int(value)
            for name, value in file.attrs.items()
            if name != "header_digest"
        }
        file.attrs["header_digest"] = np.bytes_(header_digest(attributes).encode())
    return path


def flipped_bit(folder: Path, pipeline: Pipeline) -> Path:
    path = folder / "flipped.h5"
    content = bytearray(pipeline.train.read_bytes())
    with h5py.File(pipeline.train) as file:
        offsets = [file[name].id.get_chunk_info(0).byte_offset for name in ("embeddings", "logits")]
    for offset in offsets:
        content[offset + 100] ^= 4
    path.write_bytes(content)
    return path


def pickled_npy(folder: Path, pipeline: Pipeline) -> Path:
    path = folder / "pickled.npy"
    np.save(path, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    return path


def nan_rows(folder: Path, pipeline: Pipeline) -> Path:
    arrays = classifier_arrays()
    arrays["train_embeddings"][17, 3] = np.nan
    path = folder / "nan.npz"
    np.savez(path, **{name.removeprefix("train_"): a for name, a in arrays.items() if "test" not in name})
    return path


def missing(folder: Path, pipeline: Pipeline) -> Path:
    return folder / "nowhere.h5"


def wrong_kind(folder: Path, pipeline: Pipeline) -> Path:
    return pipeline.index


@pytest.mark.parametrize(
    ("make", "status", "words"),
    [
        (missing, 66, ["nowhere.h5", "no such file"]),
        (text_file, 65, ["text.h5", "not an HDF5 file"]),
        (truncated, 65, ["truncated.h5", "truncated"]),
        (wrong_kind, 65, ["index.h5", "expected resmem.embeddings", "found resmem.index"]),
        (newer_version, 65, ["newer.h5", "expected at most 2", "found 99", "upgrade"]),
        (flipped_bit, 65, ["flipped.h5", "does not hold"]),
        (pickled_npy, 65, ["pickled.npy"]),
        (nan_rows, 65, ["nan.npz", "embeddings", "17"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.parametrize("command", ["residualize", "index", "predict"])
def test_bad_embeddings_are_refused(
    command: str,
    make: Callable[[Path, Pipeline], Path],
    status: int,
    words: list[str],
    tmp_path: Path,
    pipeline: Pipeline,
    resmem: Resmem,
) -> None:
    path = make(tmp_path, pipeline)
    options = ["--index", pipeline.index, "--residuals", pipeline.residuals] if command == "predict" else []
    output = tmp_path / "out" / "out.h5"
    output.parent.mkdir()
    assert_refused(resmem(command, path, *options, "-o", output), status, *words)
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "status", "words"),
    [
        (missing, 66, "no such file"),
        (text_file, 65, "not an HDF5 file"),
        (truncated, 65, "truncated"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.parametrize("command", ["analyze", "info", "import", "--index", "--residuals"])
def test_every_input_of_every_command_is_refused_alike(
    command: str,
    make: Callable[[Path, Pipeline], Path],
    status: int,
    words: str,
    tmp_path: Path,
    pipeline: Pipeline,
    resmem: Resmem,
) -> None:
    path = make(tmp_path, pipeline)
    before = sorted(tmp_path.iterdir())
    if command.startswith("--"):
        files = {"--index": pipeline.index, "--residuals": pipeline.residuals} | {command: path}
        done = resmem("predict", pipeline.test, *(part for pair in files.items() for part in pair))
    else:
        done = resmem(command, path)
    assert_refused(done, status, path.name, words)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("source", ["train", "residuals", "index", "predictions", "tuning", "report"])
def test_a_newer_version_of_any_format_is_refused(
    source: str, tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    path = newer_version(tmp_path, pipeline, source)
    newest = {"train": 2, "index": 2, "residuals": 3, "predictions": 3, "tuning": 1, "report": 2}[source]
    assert_refused(resmem("info", path), 65, "newer.h5", f"expected at most {newest}", "found 99", "upgrade")


@pytest.mark.parametrize("path", [".", "", "/"])
@pytest.mark.parametrize("command", ["index", "info", "verify", "import"])
def test_a_folder_is_no_input(command: str, path: str, resmem: Resmem) -> None:
    assert_refused(resmem(command, path), 66)


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["-k", "301"], 2, ["expected at most 300", "found 301"]),
        (["-k", "0"], 2, ["k out of range"]),
        (["--sigma", "0"], 2, ["sigma", "above 0"]),
        (["--sigma", "-1"], 2, ["sigma", "above 0"]),
        (["--sigma", "nan"], 2, ["sigma", "above 0"]),
        (["--top-scores", "6"], 2, ["--top-scores", "1 to 5"]),
        (["--block-rows", "0"], 2, ["--block-rows"]),
        (["--method", "magic"], 2, ["magic", "resmem"]),
        (["--nonsense"], 2, ["--nonsense", "resmem predict --help"]),
        (["--split", "test"], 2, ["--split", "leave the option out"]),
    ],
)
def test_bad_options_of_predict_are_refused(
    options: list[str], status: int, words: list[str], tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    inputs = [pipeline.test, "--index", pipeline.index, "--residuals", pipeline.residuals]
    done = resmem("predict", *inputs, "-o", tmp_path / "out.h5", *options)
    assert_refused(done, status, *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("temperature", ["0", "-1.4", "inf"])
def test_bad_temperature_is_refused(
    temperature: str, tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    done = resmem("residualize", pipeline.train, "-T", temperature, "-o", tmp_path / "out.h5")
    assert_refused(done, 2, "temperature", "above 0")
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_does_not_exist_is_refused(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    done = resmem("index", pipeline.train, "-o", tmp_path / "no" / "out.h5")
    assert_refused(done, 74, "folder does not exist", "mkdir")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that even root can't write")
def test_an_unwritable_output_folder_is_refused(pipeline: Pipeline, resmem: Resmem) -> None:
    assert_refused(
        resmem("index", pipeline.train, "-o", "/proc/out.h5"), 74, "/proc/out.h5", "can't be written"
    )


def test_an_output_that_is_an_input_is_refused(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    train = Path(shutil.copy(pipeline.train, tmp_path / "train.h5"))
    before = train.read_bytes()
    assert_refused(resmem("index", train, "-o", train), 2, "also an input")
    assert train.read_bytes() == before


def test_an_input_named_by_an_option_is_no_output_either(tmp_path: Path, resmem: Resmem) -> None:
    arrays = classifier_arrays()
    np.save(tmp_path / "e.npy", arrays["train_embeddings"])
    np.save(tmp_path / "y.npy", arrays["train_labels"])
    before = (tmp_path / "y.npy").read_bytes()
    done = resmem("index", "e.npy", "--labels", "y.npy", "-o", "y.npy", cwd=tmp_path)
    assert_refused(done, 2, "y.npy", "also an input")
    assert (tmp_path / "y.npy").read_bytes() == before


def test_no_clobber_keeps_an_existing_output(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    output = tmp_path / "out.h5"
    output.write_text("precious")
    assert_refused(resmem("index", pipeline.train, "-o", output, "--no-clobber"), 74, "--no-clobber")
    assert output.read_text() == "precious"


# --- lineage


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return make_pipeline(tmp_path_factory.mktemp("other"), seed=1)


def test_an_index_without_labels_and_residuals_with_them_belong_together(
    tmp_path: Path, resmem: Resmem
) -> None:
    arrays = classifier_arrays()
    for name in ("embeddings", "logits", "labels"):
        np.save(tmp_path / f"{name}.npy", arrays[f"train_{name}"])
    others = ["--logits", "logits.npy", "--labels", "labels.npy"]
    assert resmem("index", "embeddings.npy", "-o", "i.h5", cwd=tmp_path).status == 0
    assert resmem("residualize", "embeddings.npy", *others, "-o", "r.h5", cwd=tmp_path).status == 0
    memory = ["--index", "i.h5", "--residuals", "r.h5", "-o", "p.h5"]
    assert resmem("predict", "embeddings.npy", *others, *memory, cwd=tmp_path).status == 0


def test_index_and_residuals_of_different_embeddings_are_refused(
    tmp_path: Path, pipeline: Pipeline, other: Pipeline, resmem: Resmem
) -> None:
    for index, residuals in ((pipeline.index, other.residuals), (other.index, pipeline.residuals)):
        done = resmem(
            "predict", pipeline.test, "--index", index, "--residuals", residuals, "-o", tmp_path / "out.h5"
        )
        assert_refused(done, 65, str(index), str(residuals), "expected", "found")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("dimensions", "classes", "words"),
    [(7, 5, ["dimension", "expected 8", "found 7"]), (8, 4, ["classes", "expected 5", "found 4"])],
)
def test_queries_of_another_shape_are_refused(
    dimensions: int, classes: int, words: list[str], tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    queries = tmp_path / "queries.npz"
    np.savez(queries, embeddings=np.ones((3, dimensions)), logits=np.eye(3, classes) * 2 - 1)
    done = resmem("predict", queries, "--index", pipeline.index, "--residuals", pipeline.residuals)
    assert_refused(done, 65, "queries.npz", *words)
    assert list(tmp_path.iterdir()) == [queries]


# --- every command


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, resmem_process: Resmem) -> None:
    done = resmem_process(command, "--help")
    assert done.status == 0
    assert done.stderr == ""
    assert "Usage: " in done.stdout


def test_no_arguments_show_the_help_as_an_error(resmem: Resmem) -> None:
    done = resmem()
    assert done.status == 2
    assert done.stdout == ""
    assert "Commands:" in done.stderr.splitlines()


# A group, which then shows its help, and a command that reads nothing.
WITHOUT_ARGUMENTS = {"reproduce", "theory"}


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - WITHOUT_ARGUMENTS))
def test_every_command_refuses_missing_arguments_in_one_line(command: str, resmem: Resmem) -> None:
    without_arguments = {
        "tune": "Missing option '--index'",
        "update": "nothing to update",
        "plan": "--rows is missing",
    }
    assert_refused(resmem(command), 2, without_arguments.get(command, "Missing argument"))


def test_json_has_the_promised_keys(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    document = resmem("index", pipeline.train, "-o", tmp_path / "index.h5", "--json").json
    assert list(document) == ["resmem", "command", "output", "result", "notices"]
    assert document["command"] == "index"
    assert document["output"] == str(tmp_path / "index.h5")
    assert list(document["result"]) == [
        "kind", "metric", "rows", "dimensions", "search", "distance_scale", "default_sigma",
    ]  # fmt: skip


def test_outputs_without_a_name_are_derived_from_the_input(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    arrays = Path(shutil.copy(pipeline.arrays, tmp_path / "a.npz"))
    for arguments, name in (
        (["import", arrays, "--split", "test"], "a.test.embeddings.h5"),
        (["residualize", arrays, "--split", "train"], "a.train.residuals.h5"),
        (["index", arrays, "--split", "train"], "a.train.index.h5"),
        (["index", "a.test.embeddings.h5"], "a.test.index.h5"),
    ):
        done = resmem(*arguments, cwd=tmp_path)
        assert done.status == 0, done.stderr
        assert (tmp_path / name).is_file()


def test_a_split_that_can_be_no_part_of_a_name_is_refused(pipeline: Pipeline, resmem: Resmem) -> None:
    done = resmem("import", pipeline.arrays, "--split", "a/b")
    assert_refused(done, 2, "--output", "found a/b", "name the file with -o")


# --- the same bytes


def test_every_command_gives_the_same_bytes_again(tmp_path: Path, pipeline: Pipeline) -> None:
    again = make_pipeline(tmp_path)
    for old, new in zip(pipeline.artifacts, again.artifacts, strict=True):
        assert old.read_bytes() == new.read_bytes(), old.name


# --- signals


def large_arrays(folder: Path) -> Path:
    path = folder / "large.npz"
    generator = np.random.default_rng(0)
    np.savez(
        path,
        embeddings=generator.normal(size=(60_000, 64)).astype(np.float32),
        logits=generator.normal(size=(60_000, 20)).astype(np.float32),
        labels=generator.integers(0, 20, size=60_000),
    )
    return path


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "resmem_cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_temporary(process: subprocess.Popen[str], folder: Path) -> None:
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        if list(folder.glob(".*.resmem-tmp")):
            return
        time.sleep(0.002)
    raise AssertionError(f"no temporary seen; status {process.poll()}")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A memory so large that predicting all of it takes seconds."""
    from resmem_cli import index, residualize

    folder = tmp_path_factory.mktemp("large")
    arrays = large_arrays(folder)
    index(arrays, output=folder / "index.h5")
    residualize(arrays, output=folder / "residuals.h5")
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_removes_the_temporary_and_is_the_status(
    number: signal.Signals, tmp_path: Path, large: Path
) -> None:
    output = tmp_path / "out.h5"
    output.write_text("old")
    memory = ["--index", large / "index.h5", "--residuals", large / "residuals.h5"]
    process = start("predict", large / "large.npz", *memory, "-o", output)
    wait_for_temporary(process, tmp_path)
    process.send_signal(number)
    sent = time.monotonic()
    stdout, stderr = process.communicate(timeout=30)
    assert time.monotonic() - sent < 5
    assert process.returncode == -number
    assert (stdout, stderr) == ("", "")
    assert list(tmp_path.iterdir()) == [output]
    assert output.read_text() == "old"


def test_no_signal_is_lost_at_any_moment(tmp_path: Path, large: Path) -> None:
    output = tmp_path / "out.h5"
    output.write_text("old")
    generator = np.random.default_rng(0)
    for seconds in generator.uniform(0.05, 1.0, size=8):
        process = start("index", large / "large.npz", "-o", output, "--quiet")
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=30)
        # Before Python has set its handlers the signal's own action ends the process all the same.
        assert process.returncode in (-signal.SIGTERM, 0)
        assert stderr == ""
        assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]
        assert (output.read_bytes() == b"old") == (process.returncode != 0)
        output.write_text("old")


def test_kill_leaves_the_old_file_and_the_next_run_sweeps(
    tmp_path: Path, large: Path, resmem: Resmem
) -> None:
    output = tmp_path / "out.h5"
    assert resmem("index", large / "large.npz", "-o", output).status == 0
    whole = output.read_bytes()
    process = start("index", large / "large.npz", "-o", output, "--seed", "0", "--quiet")
    wait_for_temporary(process, tmp_path)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert output.read_bytes() == whole
    assert len(list(tmp_path.iterdir())) == 2
    assert resmem("index", large / "large.npz", "-o", output).status == 0
    assert list(tmp_path.iterdir()) == [output]
    assert output.read_bytes() == whole


def test_a_file_size_limit_ends_in_74_and_one_line(tmp_path: Path, large: Path) -> None:
    command = f"ulimit -f 2000; exec {sys.executable} -m resmem_cli index {large / 'large.npz'} -o out.h5 -q"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 74
    assert len(done.stderr.splitlines()) == 1
    assert "can't be written" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_closed_pipe_ends_silently(pipeline: Pipeline) -> None:
    process = start("info", pipeline.predictions)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == -signal.SIGPIPE


def test_a_missing_extra_ends_in_69(tmp_path: Path, resmem_process: Resmem) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError('not here')\n")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    done = resmem_process("index", tmp_path / "a.parquet", env={"PYTHONPATH": str(tmp_path)})
    assert_refused(done, 69, "resmem-cli[arrow]")


@pytest.mark.parametrize("limit", [450_000, 700_000], ids=["to map the file", "to copy its rows"])
def test_out_of_memory_ends_in_71(limit: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    np.save(tmp_path / "wide.npy", generator.normal(size=(100_000, 512)).astype(np.float32))
    command = f"ulimit -v {limit}; exec {sys.executable} -m resmem_cli index wide.npy -o out.h5 --quiet"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 71, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["wide.npy"]


def test_json_is_one_document_on_stdout_only(pipeline: Pipeline, resmem: Resmem) -> None:
    done = resmem("analyze", pipeline.predictions, "--json")
    assert done.stderr == ""
    assert json.loads(done.stdout)["command"] == "analyze"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_reason_to_fail(closed: str, tmp_path: Path, pipeline: Pipeline) -> None:
    command = f"exec {sys.executable} -m resmem_cli index {pipeline.train} -o out.h5 {closed}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert (tmp_path / "out.h5").read_bytes() == pipeline.index.read_bytes()


def test_a_full_stderr_keeps_the_status() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "resmem_cli", "info", "missing.h5"]
        assert subprocess.run(command, stderr=full, check=False, timeout=60).returncode == 66


def test_an_encoding_without_greek_is_no_reason_to_fail(pipeline: Pipeline, resmem_process: Resmem) -> None:
    done = resmem_process("info", pipeline.train, env={"PYTHONIOENCODING": "latin-1"})
    assert done.status == 0
    assert "\\u03c6(x)" in done.stdout


def on_a_terminal(columns: int, *arguments: object) -> str:
    """Run `resmem` with stdout and stderr on a terminal of that width; give all it showed."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-m", "resmem_cli", *map(str, arguments)]
    with subprocess.Popen(command, stdin=other, stdout=other, stderr=other) as process:
        os.close(other)
        shown = b""
        with contextlib.suppress(OSError):  # the terminal's end
            while part := os.read(main, 4096):
                shown += part
    os.close(main)
    assert process.returncode == 0, shown
    return shown.decode()


def test_a_narrow_terminal_loses_no_figure(tmp_path: Path, pipeline: Pipeline) -> None:
    copies = [tmp_path / f"predictions_with_a_long_name_{i}.h5" for i in range(3)]
    for copy in copies:
        shutil.copy(pipeline.predictions, copy)
    shown = on_a_terminal(70, "analyze", *copies, "--examples", "0")
    assert "…" not in shown
    assert shown.count("McNemar p") == 3
    for copy in copies:
        assert str(copy) in shown.replace("\r\n", "")


def test_a_terminal_is_shown_a_bar(tmp_path: Path, large: Path) -> None:
    memory = ["--index", large / "index.h5", "--residuals", large / "residuals.h5"]
    arguments = ["predict", large / "large.npz", *memory, "-k", "5", "-o", tmp_path / "p.h5"]
    assert "predicting" in on_a_terminal(100, *arguments)
    assert "predicting" not in on_a_terminal(100, *arguments, "--quiet")
