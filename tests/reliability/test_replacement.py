"""Two writers of one file at the same time, and a reader: whoever opens it sees one whole version."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from reliability.disturbing import RESUMED, assert_nothing_else, is_accepted, put
from reliability.processes import ForkServer, finish, start
from reliability.tally import Tally, seeds
from reliability.workload import COMMANDS, Workload
from resmem_cli import open_artifact
from resmem_cli.errors import ResmemError

# What takes its time to write, and twice the same name with other content.
WRITERS = {
    "import": ("import", "in/arrays.npz", "-o", "out.h5", "--split"),
    "residualize": ("residualize", "in/train.h5", "-o", "out.h5", "-T"),
    "residualize --top": ("residualize", "in/train.h5", "--top", "3", "-o", "out.h5", "-T"),
    "index": ("index", "in/train.h5", "-o", "out.h5", "--quiet", "--metric"),
    "predict": (
        "predict", "in/test.h5", "--index", "in/index-exact.h5", "--residuals", "in/residuals.h5",
        "-o", "out.h5", "-k",
    ),
}  # fmt: skip
TWO = {
    "import": ("train", "test"),
    "residualize": ("1", "1.5"),
    "residualize --top": ("1", "1.5"),
    "index": ("euclidean", "cosine"),
    "predict": ("10", "20"),
}


def content_of(path: Path) -> str:
    """Read all of an artifact, as its checksums let pass; give the digest it tells."""
    with open_artifact(path) as file:
        for name in file.shapes:
            file.read(name)
        return file.header.content_digest


@seeds(quick=20, long=500, together=20)
def test_whoever_reads_while_two_write_sees_one_whole_version(
    seeds: range, tally: Tally, tmp_path: Path, large: Workload, server: ForkServer
) -> None:
    """Seen to fail: with files put in place by copying ("the content digest does not hold").

    And with HDF5 opening files by a name that is gone ("can't retrieve real path for file").
    """
    versions: dict[str, list[tuple[bytes, str]]] = {}

    def versions_of(name: str) -> list[tuple[bytes, str]]:
        if name not in versions:
            place = large.place(tmp_path / f"alone {name}")
            versions[name] = []
            for option in TWO[name]:
                server.run(*WRITERS[name], option, cwd=place).assert_done()
                path = place / "out.h5"
                versions[name].append((path.read_bytes(), content_of(path)))
            assert versions[name][0] != versions[name][1], name
        return versions[name]

    def check(seed: int) -> str:
        name = list(WRITERS)[seed % len(WRITERS)]
        known = dict(versions_of(name))
        generator = np.random.default_rng(seed)
        place = large.place(tmp_path / str(seed))
        path = place / "out.h5"
        put(place, {"out.h5": [*known][seed % 2]})
        first, second = (TWO[name][i] for i in generator.permutation(2))
        writers = [start(*WRITERS[name], first, cwd=place)]
        time.sleep(generator.exponential(0.02))
        writers.append(start(*WRITERS[name], second, cwd=place))
        n_seen = 0
        while any(writer.poll() is None for writer in writers):
            try:
                seen = content_of(path)
            except ResmemError as error:
                raise AssertionError(f"{name}: {error}") from error
            assert seen in known.values(), name
            n_seen += 1
            if n_seen == 20 and seed % 5 == 0:
                is_accepted("out.h5", cwd=place)
        for writer in writers:
            finish(writer).assert_done()
        assert n_seen > 0
        assert path.read_bytes() in known, name
        assert_nothing_else(place, {"out.h5": b""})
        return "whole versions seen"

    tally.each("replacement", seeds, check)


@seeds(quick=2, long=30, together=15)
def test_of_two_resumable_writers_the_second_is_refused(
    seeds: range, tally: Tally, tmp_path: Path, large: Workload, server: ForkServer
) -> None:
    """Seen to fail: with no lock on the work's folder ("status 66 … artifact.h5: no such file")."""
    with np.load(large.inputs / "digits_test.npz") as arrays:
        np.savez(tmp_path / "many.npz", x=np.repeat(arrays["x"], 10, axis=0))

    def place_for(name: str) -> Path:
        many = {"digits_test.npz": tmp_path / "many.npz"}
        return large.place(tmp_path / name, many.get)

    alone = place_for("alone")
    server.run(*RESUMED.arguments, cwd=alone).assert_done()
    whole = (alone / "digits.h5").read_bytes()

    def check(seed: int) -> str:
        place = place_for(str(seed))
        put(place, {"digits.h5": large.undisturbed(COMMANDS["import"])["train.h5"]})
        writers = [start(*RESUMED.arguments, "--quiet", cwd=place) for _ in range(2)]
        ended = sorted((finish(writer) for writer in writers), key=lambda one: one.status)
        ended[0].assert_done()
        assert (place / "digits.h5").read_bytes() == whole
        assert_nothing_else(place, {"digits.h5": whole})
        if ended[1].status == 0:
            return "one resumable writer after the other"
        ended[1].assert_refused(75, naming="digits.h5")
        return "second resumable writer refused"

    tally.each("replacement", seeds, check)
