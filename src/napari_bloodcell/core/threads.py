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
    """How many threads may work at once, and what each does first."""

    n: int = 1
    prepare: Callable[[], None] = nothing


def in_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: Threads | None) -> Iterator[Result]:
    """Yield ``work(item)`` for each item in their order.

    Notes
    -----
    What `work` or `items` raise is raised where the result would have come. When the caller stops, what has not begun
    never does, and what has is waited for.
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
