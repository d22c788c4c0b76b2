"""What a command says: results on standard output, progress and problems on standard error."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

from napari_bloodcell.core.errors import escaped, in_one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_bloodcell.core.protocols import Progress

TRACEBACK_VARIABLE = "NAPARI_BLOODCELL_TRACEBACK"
"""Environment variable with which faults are shown with their traceback."""

_LEAST_SECONDS = 0.1  # between two updates of the line


def say(text: str) -> None:
    """Write a line of the result."""
    sys.stdout.write(f"{escaped(text)}\n")
    sys.stdout.flush()


def warn(text: str) -> None:
    """Write a line about a problem."""
    sys.stderr.write(f"{escaped(text)}\n")
    sys.stderr.flush()


def wants_tracebacks() -> bool:
    """Return whether `TRACEBACK_VARIABLE` is set."""
    return os.environ.get(TRACEBACK_VARIABLE, "") not in ("", "0")


def log_faults() -> None:
    """Write what fails on the way, such as a tile, to standard error where tracebacks are wanted."""
    if wants_tracebacks():
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")


def describe_fault(error: Exception) -> str:
    """Return what to say, in one line, of an error that is none of the program's own; write its traceback if wanted."""
    if wants_tracebacks():
        warn("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, MemoryError):
        return f"There is not enough memory ({in_one_line(error)}). Use a smaller --tile-size, or fewer --workers."
    return (
        f"{in_one_line(error).rstrip('.')}. This is a fault of the program or of a model: set {TRACEBACK_VARIABLE}=1, "
        "run it again, and send what it prints to the developers."
    )


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a wish to stop, which the given function tells; the second one interrupts."""
    wish = threading.Event()

    def note(_number: int, _frame: object) -> None:
        if wish.is_set():
            raise KeyboardInterrupt
        wish.set()
        warn("Stopping; the best so far is kept. Press Ctrl-C again to end at once.")

    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield wish.is_set
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield wish.is_set
    finally:
        signal.signal(signal.SIGINT, before)


class ProgressLine:
    """Shows progress on standard error: one line that changes in a terminal, a line per finished stage elsewhere.

    Parameters
    ----------
    title : str
        What is being worked on.
    is_quiet : bool
        Show nothing.
    """

    def __init__(self, title: str, *, is_quiet: bool = False) -> None:
        self.title = title
        self.is_quiet = is_quiet
        self._is_terminal = sys.stderr.isatty()
        self._shown = 0.0
        if not is_quiet and not self._is_terminal:
            warn(title)

    def __call__(self, step: Progress) -> None:
        """Show a step."""
        if self.is_quiet:
            return
        is_end = step.done >= step.total
        if not self._is_terminal:
            if is_end:
                warn(f"  {step.what}: {_amount(step)}")
            return
        now = time.monotonic()
        if is_end or now - self._shown >= _LEAST_SECONDS:
            self._shown = now
            width = shutil.get_terminal_size().columns - 1
            line = f"{self.title}  {step.what} {_amount(step)}"[:width]
            sys.stderr.write(f"\r{line:<{width}}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Remove the line, so that something else can be written."""
        if self._is_terminal and not self.is_quiet:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _amount(step: Progress) -> str:
    if step.total >= 10_000_000:  # bytes
        return f"{step.done / 1e6:,.0f} of {step.total / 1e6:,.0f} MB"
    return f"{step.done} of {step.total}"
