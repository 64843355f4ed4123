"""Independent blocks of rows on all cores, for work in which numpy lets go of the interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor


def n_threads() -> int:
    """Count the threads to use: `OMP_NUM_THREADS` where it is set, as for faiss, or else the cores."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal():
        return max(1, int(wanted))
    # Not every system tells which of its cores this process may use.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def for_each_block(work: Callable[[slice], None], blocks: Sequence[slice]) -> None:
    """Do `work` for every block, each thread taking a run of neighbouring blocks.

    Parameters
    ----------
    work : callable
        Must write to places of its block only, so that the threads change nothing in the result.
    blocks : sequence of slice
        In any order.

    Raises
    ------
    Exception
        The first that `work` raises.
    """
    n_parts = min(n_threads(), len(blocks)) if len(blocks) > 1 else 1
    if n_parts < 2:
        for block in blocks:
            work(block)
        return

    def run(part: int) -> None:
        for block in blocks[part * len(blocks) // n_parts : (part + 1) * len(blocks) // n_parts]:
            work(block)

    with ThreadPoolExecutor(n_parts) as pool:
        for done in [pool.submit(run, part) for part in range(n_parts)]:
            done.result()
