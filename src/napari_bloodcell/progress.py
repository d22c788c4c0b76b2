"""Long work is a generator that yields its progress and returns its result."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from napari_bloodcell.protocols import Progress

R = TypeVar("R")


def drain(
    work: Generator[Progress, None, R],
    on_progress: Callable[[Progress], object] | None = None,
) -> R:
    """Run long work to its end and return its result.

    Parameters
    ----------
    work : generator
        What an ``iter_`` function returns.
    on_progress : callable, optional
        Called with every `Progress`, in this thread.

    Returns
    -------
    object
        What the generator returns.

    Raises
    ------
    BaseException
        Whatever the work or `on_progress` raises; the work is closed first, so that it can clean up.
    """
    try:
        while True:
            try:
                step = next(work)
            except StopIteration as end:
                result: R = end.value
                return result
            if on_progress is not None:
                on_progress(step)
    finally:
        work.close()
