"""Threads of one core each, for work that is split by hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

In = TypeVar("In")
Out = TypeVar("Out")


class Crew:
    """As many threads as torch would use, in each of which torch uses one.

    Torch shares out one operation after the other among its threads, which then wait for each other. Where operations
    are small, or what one leaves in a core's cache is what the next needs, it is quicker to share out the whole chain.

    Parameters
    ----------
    n : int, optional
        Number of threads; that of torch by default. With one, the work is done by the caller.
    """

    def __init__(self, n: int | None = None) -> None:
        before = torch.get_num_threads()
        self.n = before if n is None else n
        self._pool: ThreadPoolExecutor | None = None
        self._lead: ThreadPoolExecutor | None = None
        if self.n > 1:
            self._pool = ThreadPoolExecutor(self.n - 1, initializer=_use_one_core)
            self._lead = ThreadPoolExecutor(1, initializer=_use_one_core)
            together = Barrier(self.n)  # so that each thread is there, and has chosen, before the next line
            starting = [pool.submit(together.wait) for pool in (self._lead, *[self._pool] * (self.n - 1))]
            for started in starting:
                started.result()
            torch.set_num_threads(before)  # a thread's choice is also that of threads which start later

    def map(self, function: Callable[[In], Out], parts: Iterable[In]) -> list[Out]:
        """Return what a function gives for each part, in their order; to be called within `lead`, which does the first.

        A thread that only waited for the others would have to be woken up, which takes long beside such small parts.
        """
        if self._pool is None:
            return list(map(function, parts))
        first, *others = parts
        waiting = [self._pool.submit(function, part) for part in others]
        return [function(first), *(part.result() for part in waiting)]

    def lead(self, function: Callable[[], Out]) -> Out:
        """Return what a function gives that hands out work by `map`, and does the rest on one core.

        Threads of torch's own would stand ready for their next operation, in the way of the crew.
        """
        return function() if self._lead is None else self._lead.submit(function).result()

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in (self._lead, self._pool):
            if pool is not None:
                pool.shutdown()


def _use_one_core() -> None:
    torch.get_num_threads()  # the first call in a thread takes over the program's choice
    torch.set_num_threads(1)
