"""Three steps of a stage at once: the next batch is read and the last one written while one is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Result = TypeVar("Result")


def overlapped(
    items: Iterable[Item],
    *,
    read: Callable[[Item], Read],
    compute: Callable[[Item, Read], Result],
    write: Callable[[Item, Result], None],
) -> None:
    """Read, compute and write every item, each step in the order of the items.

    One item at most waits to be computed and one to be written, so memory holds three. `compute` runs
    in the calling thread, `read` and `write` in one thread each; whatever one of them raises is raised
    here, when both threads have ended: that of the earliest item, with the others as its context.
    """
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
        coming: tuple[Item, Future[Read]] | None = None
        written: Future[None] | None = None

        def finish(item: Item, ready: Future[Read]) -> Future[None]:
            try:
                result = compute(item, ready.result())
            finally:
                # What went wrong with an earlier item is raised first.
                if written is not None:
                    written.result()
            return writer.submit(write, item, result)

        for item in items:
            ahead = (item, reader.submit(read, item))
            if coming is not None:
                written = finish(*coming)
            coming = ahead
        if coming is not None:
            written = finish(*coming)
        if written is not None:
            written.result()
