"""Folders in the Hugging Face layout: ``config.json`` and the weights, in one file or in shards."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from resmem_cli.errors import DataError, MissingInputError
from resmem_cli.files import file_digest, require_file
from resmem_cli.models.architectures.hugging_face import CONFIG, read_json_object
from resmem_cli.models.loaders.base import Checkpoint, loader, open_checkpoint
from resmem_cli.models.weights import find_weights

# In the order of preference; an index maps the names of weights to files.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@loader
class HuggingFaceFolder(Checkpoint):
    """A folder as `save_pretrained` writes it; its architecture is the one its config describes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.arch = f"transformers:{path}"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Take any folder: what it lacks is told when it is read."""
        return path.is_dir()

    def digest(self) -> str:
        """SHA-256 of the lines that ``sha256sum`` prints for the config and the weight files, by name."""
        names = sorted({CONFIG, self._weights_file, *self._shards})
        lines = (f"{file_digest(self.path / name)}  {name}\n" for name in names)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def read(self, *, trusted: bool) -> dict[str, Any]:
        """Read the weights of all shards, each of which is any kind of weights file."""
        if not self._shards:
            return self._read_file(self._weights_file, trusted=trusted)
        weights: dict[str, Any] = {}
        for file, names in self._shards.items():
            shard = self._read_file(file, trusted=trusted)
            if absent := [name for name in names if name not in shard]:
                raise DataError(
                    "has not all the weights the index places in it",
                    file=self.path / file,
                    field=absent[0],
                    remedy="copy the folder again",
                )
            weights |= {name: shard[name] for name in names}
        return weights

    def _read_file(self, name: str, *, trusted: bool) -> dict[str, Any]:
        path = self.path / name
        require_file(path)
        return find_weights(open_checkpoint(path).read(trusted=trusted), path)

    @cached_property
    def _weights_file(self) -> str:
        for needed in ((CONFIG,), _WEIGHTS):
            if not any((self.path / name).exists() for name in needed):
                raise MissingInputError(
                    f"the folder has no {needed[0]}",
                    file=self.path,
                    expected=f"a folder in the Hugging Face layout, with {CONFIG} and {_WEIGHTS[0]}",
                    remedy="give that folder, or a checkpoint file",
                )
        return next(name for name in _WEIGHTS if (self.path / name).exists())

    @cached_property
    def _shards(self) -> dict[str, list[str]]:
        """Names of weights by file; empty where one file holds all."""
        if not self._weights_file.endswith(".json"):
            return {}
        path = self.path / self._weights_file
        index = read_json_object(path)
        places = index.get("weight_map")
        if (
            not isinstance(places, dict)
            or not places
            or not all(isinstance(file, str) for file in places.values())
        ):
            raise DataError("is not an index of weights", file=path, expected="weight_map: names to files")
        shards: dict[str, list[str]] = {}
        for name, file in places.items():
            if file in ("", "..") or PurePath(file).name != file:
                raise DataError(
                    "names a file that may lie outside the folder",
                    file=path,
                    field=name,
                    expected="the name of a file beside the index",
                    found=file,
                )
            shards.setdefault(file, []).append(name)
        return shards
