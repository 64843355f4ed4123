"""Artifacts whose bytes have changed: refused in one line, or answered as if they had not.

Seen to fail: with digests of blocks not compared, 3 of the first 50 gave "another answer: status 0". While
HDF5 still read every file in the command's own process, the fifteenth with checksums that hold ended with
"status -11"; with that tried again later, 22 of 50 failed, such as by "damaged group: Link iteration failed".
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from reliability.mutations import Hdf5Metadata, mutate
from reliability.processes import Ended, ForkServer
from reliability.tally import Tally, seeds
from reliability.workload import COMMANDS, KINDS, Command, Workload, written

ARTIFACTS = tuple(
    dict.fromkeys(
        name
        for command in COMMANDS.values()
        for name in (*command.outputs, *command.reads)
        if name.endswith(".h5") and command.name not in ("embed", "new-index.h5")
    )
)


def readers(name: str) -> list[Command]:
    """List what reads an artifact: the commands of a pipeline, and those that read any."""
    pipeline = [command for command in COMMANDS.values() if name in command.reads]
    if name.startswith("index-"):
        arguments = ("update", "--index", f"in/{name}", "--add", "in/test.h5", "--index-output", "grown.h5")
        pipeline.append(Command(f"update {name}", arguments, ("grown.h5",)))
    return [
        *pipeline,
        Command("verify", ("verify", f"in/{name}"), ()),
        Command("info", ("info", f"in/{name}"), ()),
        Command("export", ("export", f"in/{name}", "-o", "exported.npz"), ("exported.npz",)),
    ]


class Damaged:
    """Runs the readers of damaged artifacts, and compares with what they give for the sound ones."""

    def __init__(self, server: ForkServer, workload: Workload, folder: Path) -> None:
        self._server, self._workload, self._folder = server, workload, folder
        self._sound: dict[tuple[str, str], tuple[Ended, dict[str, bytes]]] = {}
        self._metadata: dict[str, Hdf5Metadata] = {}

    def content(self, name: str) -> bytes:
        return (self._workload.inputs / name).read_bytes()

    def metadata(self, name: str) -> Hdf5Metadata:
        if name not in self._metadata:
            self._metadata[name] = Hdf5Metadata(self.content(name))
        return self._metadata[name]

    def check(self, name: str, reader: Command, content: bytes) -> str:
        """Give how a reader ended with other bytes in the place of an artifact's."""
        if (name, reader.name) not in self._sound:
            self._sound[name, reader.name] = self._run(name, reader, self.content(name))
            self._sound[name, reader.name][0].assert_done()
        ended, files = self._run(name, reader, content)
        if ended.status == 0:
            sound, expected = self._sound[name, reader.name]
            # What a command that writes prints beside its files has times in it.
            same = files == expected and (files or ended.stdout == sound.stdout)
            assert same, f"another answer: {ended}"
            return "same answer"
        # `verify` is asked whether the file is sound; that is the check that fails.
        ended.assert_refused(3 if reader.name == "verify" else 65, naming=f"in/{name}")
        assert files == {}, f"refused, but wrote {list(files)}"
        return "refused"

    def _run(self, name: str, reader: Command, content: bytes) -> tuple[Ended, dict[str, bytes]]:
        place = self._folder / "place"
        shutil.rmtree(place, ignore_errors=True)
        self._workload.place(place)
        (place / "in" / name).unlink()
        (place / "in" / name).write_bytes(content)
        ended = self._server.run(*reader.arguments, cwd=place)
        assert sorted(path.name for path in place.iterdir() if path.name.startswith(".")) == []
        assert (place / "in" / name).read_bytes() == content
        return ended, written(place, reader)


@pytest.fixture(scope="module")
def damaged(server: ForkServer, small: Workload, tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    return Damaged(server, small, tmp_path_factory.mktemp("damaged"))


def test_every_format_and_kind_of_index_is_among_the_artifacts(small: Workload) -> None:
    from resmem_cli import open_artifact
    from resmem_cli.artifacts.formats import FORMATS
    from resmem_cli.artifacts.reader import open_file

    formats = set()
    for name in ARTIFACTS:
        with open_artifact(small.inputs / name) as artifact:
            formats.add(artifact.header.format.name)
        with open_file(small.inputs / name) as artifact:
            formats.add(artifact.header.format.name)
    assert formats == set(FORMATS)
    assert {f"index-{kind}.h5" for kind in KINDS} <= set(ARTIFACTS)


@seeds(quick=400, long=8500, together=50)
def test_a_mutated_artifact_is_refused_or_read_as_it_was(
    seeds: range, damaged: Damaged, tally: Tally
) -> None:
    def check(seed: int) -> str:
        generator = np.random.default_rng(seed)
        name = ARTIFACTS[seed % len(ARTIFACTS)]
        all_readers = readers(name)
        reader = all_readers[int(generator.integers(len(all_readers)))]
        return damaged.check(name, reader, mutate(damaged.content(name), generator))

    tally.each("mutations", seeds, check)


@seeds(quick=60, long=1500, together=30)
def test_an_artifact_with_checksums_that_hold_is_refused_or_read_as_it_was(
    seeds: range, damaged: Damaged, tally: Tally
) -> None:
    def check(seed: int) -> str:
        generator = np.random.default_rng([1, seed])
        name = ARTIFACTS[seed % len(ARTIFACTS)]
        all_readers = readers(name)
        reader = all_readers[int(generator.integers(len(all_readers)))]
        return damaged.check(name, reader, damaged.metadata(name).mutate(generator))

    tally.each("crafted", seeds, check)
