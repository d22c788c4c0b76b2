"""Long work is a generator that yields its progress and returns its result."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import wraps
from typing import Generic, ParamSpec, TypeVar

from napari_bloodcell.core.protocols import Progress

S = TypeVar("S")
R = TypeVar("R")
P = ParamSpec("P")


class Steps(Generic[S, R]):
    """Iterates over the steps of long work; `result` holds its return value afterwards.

    Leaving the loop early closes the work, so that it can clean up.
    """

    result: R
    """Return value of the generator; set when the loop has ended."""

    def __init__(self, work: Generator[S, None, R]) -> None:
        self._work = work

    def __iter__(self) -> Iterator[S]:
        """Yield the remaining steps."""
        self.result = yield from self._work


def drain(work: Generator[Progress, None, R], on_progress: Callable[[Progress], object] | None = None) -> R:
    """Run long work to its end and return its result.

    Parameters
    ----------
    work : generator
        Generator from an ``iter_`` function.
    on_progress : callable, optional
        Called with every `Progress`, in this thread.

    Returns
    -------
    object
        The generator's return value.

    Raises
    ------
    BaseException
        Whatever the work or `on_progress` raises; the work is closed first, so that it can clean up.
    """
    steps = Steps(work)
    try:
        for step in steps:
            if on_progress is not None:
                on_progress(step)
    finally:
        work.close()
    return steps.result


def drained(iter_work: Callable[P, Generator[Progress, None, R]]) -> Callable[P, R]:
    """Return the function that runs an ``iter_`` function to its end: ``segment = drained(iter_segment)``."""

    @wraps(iter_work)
    def work(*args: P.args, **kwargs: P.kwargs) -> R:
        return drain(iter_work(*args, **kwargs))

    work.__name__ = work.__qualname__ = iter_work.__name__.removeprefix("iter_")
    return work
