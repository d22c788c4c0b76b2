"""Work on several items at once, with the results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Threads:
    """How many threads may work at once, and what each runs first."""

    n: int = 1
    prepare: Callable[[], None] = nothing


def in_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: Threads | None) -> Iterator[Result]:
    """Yield ``work(item)`` for each item, in order; in the caller's thread where `threads` is None.

    Items are taken in the caller's thread, at most one more than there are threads ahead of what is yielded. Exceptions
    of `work` or `items` are raised where the result would have come. When the caller stops, running work is awaited and
    the rest is never started.
    """
    if threads is None:
        yield from map(work, items)
        return
    source = iter(items)
    coming: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads.n, thread_name_prefix="blood-cells", initializer=threads.prepare)
    try:
        for item in source:
            coming.append(pool.submit(work, item))
            if len(coming) > threads.n:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
