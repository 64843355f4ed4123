"""Artifacts that say what no command would write, their digests made to hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.datasets import DatasetWriter
from resmem_cli.artifacts.provenance import content_digest, digest_rows, header_digest
from resmem_cli.artifacts.reader import DIGEST_GROUP, open_file

Arrays = dict[str, NDArray[Any]]


def forge(
    path: Path,
    source: Path,
    *,
    arrays: Callable[[Arrays], object] | None = None,
    parameters: Callable[[dict[str, Any]], object] | None = None,
    text: Callable[[str], str] | None = None,
) -> None:
    """Write an artifact anew with other content.

    Parameters
    ----------
    path : pathlib.Path
        What to write.
    source : pathlib.Path
        The artifact it is made from.
    arrays, parameters : callable, optional
        Change the datasets, or the parameters, in place.
    text : callable, optional
        Gives other parameters for the JSON they are written as.
    """
    with open_file(source) as artifact:
        header = artifact.header
        data = {name: artifact.read(name) for name in artifact.shapes}
        told = dict(artifact.parameters)
        with h5py.File(source, locking=False) as file:
            inputs = bytes(file.attrs["inputs"])
    (arrays or dict)(data)
    (parameters or dict)(told)
    document = json.dumps(told, ensure_ascii=False)
    attributes: dict[str, bytes | int] = {
        "format": header.format.name.encode(),
        "format_version": header.version,
        "generated_by": header.generated_by.encode(),
        "parameters": (text(document) if text else document).encode(errors="surrogateescape"),
        "inputs": inputs,
    }
    digests = {}
    # An older bound keeps attributes beyond 64 KiB out.
    with h5py.File(path, "w", libver="latest") as file:
        for name, values in data.items():
            spec = header.format.spec(name)
            if not values.size:
                file.create_dataset(name, values.shape, values.dtype)
                blocks = [values] * min(1, len(values))
                digests[name] = digest_rows(spec, values.dtype, values.shape, blocks)
                continue
            writer = DatasetWriter(file, spec, values.shape, values.dtype, whole=True)
            for block in writer.take(np.ascontiguousarray(values)):
                writer.write(block)
            digests[name] = writer.digest()
        for name, digest in digests.items():
            file.create_dataset(f"{DIGEST_GROUP}/{name}", data=digest.blocks)
        attributes["content_digest"] = content_digest(digests).encode()
        attributes["header_digest"] = header_digest(attributes).encode()
        for key, value in attributes.items():
            file.attrs[key] = np.bytes_(value) if isinstance(value, bytes) else value
