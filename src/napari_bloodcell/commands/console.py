"""What a command says: results on standard output, progress and problems on standard error."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_bloodcell.protocols import Progress

_LEAST_SECONDS = 0.1  # between two updates of the line


def say(text: str) -> None:
    """Write a line of the result."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def warn(text: str) -> None:
    """Write a line about a problem."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


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
