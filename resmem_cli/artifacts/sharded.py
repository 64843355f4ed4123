"""Shards of an artifact that are used in its place: a manifest names them, from its own folder down."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.declaring import Format
from resmem_cli.artifacts.formats import FORMATS, INDEX
from resmem_cli.artifacts.reader import Artifact, Header, check_header, open_file
from resmem_cli.artifacts.shard_formats import MANIFEST
from resmem_cli.artifacts.structure import DAMAGED
from resmem_cli.errors import DataError, MissingInputError
from resmem_cli.rows import ConcatenatedRandomRows, RandomRows
from resmem_cli.shards import RECORD, is_shard

_OF_THE_WHOLE = ("vectors", "ids")
"""The datasets of an index that are those of its shards, one behind the other."""

_REMEDY = "make the manifest again with `resmem merge --manifest`"


class ShardedArtifact(Artifact):
    """An artifact whose rows lie in several files.

    What is about rows is read from all shards, one behind the other; what was measured of them together is
    in the manifest; the rest is the same in every shard, and read from the first.

    Parameters
    ----------
    manifest : Artifact
        Of the format `MANIFEST`; closed with this one.
    fmt : Format or None
        The format that the whole must have.

    Raises
    ------
    MissingInputError
        If a shard is not there.
    DataError
        If the manifest names what lies outside of its folder, or a shard is not what it says.
    """

    def __init__(self, manifest: Artifact, fmt: Format | None) -> None:
        self.path, self._manifest = manifest.path, manifest
        of = manifest.parameters["of"]
        declared = _declared(manifest, of, fmt)
        self.header = Header(
            format=declared,
            version=of["version"],
            generated_by=manifest.header.generated_by,
            parameters=of["parameters"],
            inputs=manifest.header.inputs,
            content_digest=of.get("content_digest") or manifest.header.content_digest,
        )
        self.parameters = self.header.parameters
        self.digests = {}
        self._stack = ExitStack()
        try:
            self._shards = tuple(self._opened())
            self.dimensions = self._joined()
            check_header(self.path, self.header, self.dimensions)
        except BaseException:
            self._stack.close()
            raise
        self._stack.callback(manifest.close)

    @property
    def shards(self) -> Sequence[Artifact]:
        """The artifacts that this one stands for."""
        return self._shards

    @property
    def files(self) -> tuple[Path, ...]:
        """The manifest and its shards."""
        return (self.path, *(shard.path for shard in self._shards))

    @property
    def embeddings_digest(self) -> str | None:
        """Digest of the embeddings as one file would have it, where they are embeddings."""
        digest = self._manifest.parameters["of"].get("embeddings_digest")
        return digest if isinstance(digest, str) else None

    @property
    def own_names(self) -> tuple[str, ...]:
        """The datasets of the manifest."""
        return tuple(spec.path for spec in self.header.format.datasets if spec.path in self._manifest)

    def __contains__(self, name: str) -> bool:
        return name in self._manifest or name in shared_shapes(self._shards[0])

    @property
    def shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and type of each dataset of the whole, in the format's order."""
        shapes = {}
        for name in self.names:
            shape, dtype = (self._manifest if name in self._manifest else self._shards[0]).shapes[name]
            if self._is_cut(name):
                shape = (self.dimensions[self._axis], *shape[1:])
                dtype = np.result_type(*(shard.shapes[name][1] for shard in self._shards))
            shapes[name] = shape, dtype
        return shapes

    def rows(self, name: str) -> RandomRows:
        """Open a dataset of the whole."""
        if self._is_cut(name):
            return ConcatenatedRandomRows([shard.rows(name) for shard in self._shards])
        return (self._manifest if name in self._manifest else self._shards[0]).rows(name)

    def mapped(self, name: str) -> RandomRows:
        """Open a dataset of the whole for reading at random rows."""
        return ConcatenatedRandomRows([shard.mapped(name) for shard in self._shards])

    def close(self) -> None:
        """Close all files."""
        self._stack.close()

    @property
    def _axis(self) -> str:
        return self.header.format.row_axis

    def _is_cut(self, name: str) -> bool:
        return name not in self._manifest and self.header.format.spec(name).dims[0] == self._axis

    def _opened(self) -> Sequence[Artifact]:
        names = self._manifest.read("shards/files")
        digests = self._manifest.read("shards/digests")
        n_rows = self._manifest.read("shards/rows")
        shards = []
        for number, (name, digest, rows) in enumerate(zip(names, digests, n_rows, strict=True), start=1):
            path = self._manifest.path.parent / _below(self._manifest.path, name)
            try:
                shard = self._stack.enter_context(open_file(path, self.header.format))
            except MissingInputError as error:
                remedy = "put the shard there, or make the manifest again"
                raise MissingInputError(
                    error.problem, file=path, field=str(self.path), remedy=remedy
                ) from error
            found = shard.header.content_digest
            if shard.header.format == MANIFEST:
                raise self._unlike(
                    path, "a manifest among the shards", self.header.format.name, MANIFEST.name
                )
            if (named := digest.decode(errors="replace")) != found:
                raise self._unlike(path, "not the shard that was named", named[:12], found[:12])
            if shard.dimensions[self._axis] != rows:
                raise self._unlike(path, f"rows of shard {number}", rows, shard.dimensions[self._axis])
            shards.append(shard)
        return shards

    def _joined(self) -> dict[str, int]:
        """Hold the shards against each other, and give the lengths of the whole's axes."""
        first = self._shards[0]
        own = shared_shapes(first)
        for shard in self._shards[1:]:
            others = shared_shapes(shard)
            if others != own:
                name = next(n for n in sorted({*own, *others}) if own.get(n) != others.get(n))
                raise self._unlike(
                    shard.path, f"{name} unlike the first shard's", own.get(name), others.get(name)
                )
        total = sum(shard.dimensions[self._axis] for shard in self._shards)
        own_axes = {
            axis: length
            for name in self.own_names
            for axis, length in zip(
                self.header.format.spec(name).dims, self._manifest.shapes[name][0], strict=True
            )
        }
        return {**first.dimensions, **own_axes, self._axis: total}

    def _unlike(self, path: Path, problem: str, expected: object, found: object) -> DataError:
        return DataError(
            problem, file=path, field=str(self.path), expected=expected, found=found, remedy=_REMEDY
        )


def _declared(manifest: Artifact, of: object, fmt: Format | None) -> Format:
    """Give the format of the whole, if the manifest says of it what has to be said."""
    kinds = {"format": str, "version": int, "parameters": dict, "content_digest": str | None}
    if not isinstance(of, dict) or not all(isinstance(of.get(key), kind) for key, kind in kinds.items()):
        raise DataError("does not say what of", file=manifest.path, field="parameters.of", remedy=DAMAGED)
    declared = FORMATS.get(of["format"])
    wanted = [one.name for one in (FORMATS.values() if fmt is None else [fmt]) if one != MANIFEST]
    if declared is None or declared.name not in wanted:
        raise DataError(
            "not the right kind of artifact",
            file=manifest.path,
            field="parameters.of.format",
            expected=" or ".join(wanted),
            found=of["format"],
        )
    missing = set(declared.parameters) - set(of["parameters"])
    if missing or not 1 <= of["version"] <= declared.version:
        raise DataError(
            f"parameters without {sorted(missing)}" if missing else "a version this tool does not read",
            file=manifest.path,
            field="parameters.of",
            remedy=DAMAGED if missing else "upgrade resmem-cli",
        )
    return declared


def _below(manifest: Path, name: bytes) -> PurePosixPath:
    """Give a shard's path, if it leads nowhere but down."""
    path = PurePosixPath(name.decode(errors="surrogateescape"))
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in str(path):
        raise DataError(
            "names a shard outside of its folder",
            file=manifest,
            field="shards/files",
            expected="a path from there down",
            found=str(path),
            remedy="keep the shards in the manifest's folder, or below",
        )
    return path


def shared_shapes(shard: Artifact) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Give what all shards must have alike of the datasets of the whole.

    Returns
    -------
    dict of str to (shape, dtype)
        Without the axis of the rows; text is as wide as the longest there. An index has the rows and their
        names in common: how each is searched is its own.
    """
    fmt = shard.header.format
    shapes = {}
    for name, (shape, dtype) in shard.shapes.items():
        if fmt != INDEX or name in _OF_THE_WHOLE:
            own = shape[1:] if fmt.spec(name).dims[0] == fmt.row_axis else shape
            shapes[name] = own, np.dtype("S") if dtype.kind == "S" else dtype
    return shapes


def refuse_shard(artifact: Artifact) -> None:
    """Refuse an artifact that holds some of the rows only, where all are needed.

    Raises
    ------
    DataError
        Naming the shard.
    """
    if is_shard(artifact.parameters):
        record: Any = artifact.parameters[RECORD]
        which = f"{record.get('shard')} of {record.get('of')}" if isinstance(record, dict) else "one"
        raise DataError(
            f"is shard {which}, not the whole",
            file=artifact.path,
            remedy="put all shards together with `resmem merge`",
        )


def text_column(values: Sequence[str]) -> NDArray[np.bytes_]:
    """Give (s,) texts as they are stored, UTF-8."""
    return np.array([value.encode(errors="surrogateescape") for value in values])
