"""Whether all of an artifact is what was written."""

from __future__ import annotations

from resmem_cli.artifacts.provenance import block_rows
from resmem_cli.artifacts.reader import Artifact


def verify_blocks(artifact: Artifact) -> int:
    """Read every dataset and check every block's digest; return the number of bytes read.

    Raises
    ------
    DataError
        Naming the first block that is not what was written.
    """
    n_bytes = sum(verify_blocks(shard) for shard in artifact.shards)
    for name in artifact.own_names:
        rows = artifact.rows(name)
        step = block_rows(artifact.header.format.spec(name), rows.dtype, rows.shape)
        for start in range(0, rows.shape[0], step):
            n_bytes += rows.read(start, start + step).nbytes
    return n_bytes
