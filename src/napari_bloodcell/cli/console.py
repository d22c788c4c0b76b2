"""Output of the commands: results on standard output, progress and problems on standard error."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, TextIO

from cyclopts import Parameter

from napari_bloodcell.core.errors import in_one_line, printable

if TYPE_CHECKING:  # it would load NumPy, and --help should be quick
    from napari_bloodcell.core.protocols import Progress

TRACEBACK_VARIABLE = "NAPARI_BLOODCELL_TRACEBACK"
"""Environment variable that shows faults with their traceback."""

Quiet = Annotated[bool, Parameter(alias="-q", negative=(), help="Show no progress.")]
Json = Annotated[bool, Parameter(name="--json", negative=(), help="Write every line as a JSON object, for programs.")]
"""Flags that commands have in common."""

_LEAST_SECONDS = 0.1  # between two updates of the line


_writes_json = False


def use_json(wanted: bool = True) -> None:
    """Write every line as a JSON object from now on, or text again."""
    global _writes_json
    _writes_json = wanted


def writes_json() -> bool:
    """Return whether lines are JSON objects."""
    return _writes_json


def say(line: str, /, event: str = "text", **fields: object) -> None:
    """Write a line of the result: the text, or in JSON the event with its fields."""
    _write(sys.stdout, line, event, fields or {"text": line})


def warn(line: str, /, event: str = "warning", **fields: object) -> None:
    """Write a line about a problem or progress: the text, or in JSON the event with its fields."""
    _write(sys.stderr, line, event, fields or {"text": line})


def _write(stream: TextIO | None, text: str, event: str, fields: Mapping[str, object]) -> None:
    """Write a line; a closed stream, as after `| head`, is no error."""
    line = json.dumps({"event": event, **fields}) if _writes_json else printable(text)
    _put(stream, f"{line}\n")


def _put(stream: TextIO | None, text: str) -> None:
    if stream is None:
        return
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        _discard(stream)
    except ValueError:  # it is closed
        pass


def close_output() -> None:
    """Discard further standard output."""
    if sys.stdout is not None:
        _discard(sys.stdout)


def _discard(stream: TextIO) -> None:
    """Redirect a stream without a reader to nowhere: Python would complain about its buffer."""
    with contextlib.suppress(OSError, ValueError):  # no real stream
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def wants_tracebacks() -> bool:
    """Return whether `TRACEBACK_VARIABLE` is set."""
    return os.environ.get(TRACEBACK_VARIABLE, "") not in ("", "0")


def log_faults() -> None:
    """Log failures on the way, such as of a tile, to standard error if tracebacks are wanted."""
    if wants_tracebacks():
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")


def describe_fault(error: Exception) -> str:
    """Return one line about an error that is not the program's own; write its traceback if wanted."""
    if wants_tracebacks():
        warn("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, MemoryError):
        return f"There is not enough memory ({in_one_line(error)}). Use a smaller --tile-size, or fewer --workers."
    return (
        f"{in_one_line(error).rstrip('.')}. This is a fault of the program or of a model: set {TRACEBACK_VARIABLE}=1, "
        "run it again, and send what it prints to the developers."
    )


@contextmanager
def stop_on_interrupt(
    message: str = "Stopping; the best so far is kept.", *, sigterm: bool = False
) -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a request to stop, which the yielded function reports; the second interrupts.

    With `sigterm`, so does the signal by which a system ends its services.
    """
    wish = threading.Event()

    def note(_number: int, _frame: object) -> None:
        if wish.is_set():
            raise KeyboardInterrupt
        wish.set()
        warn(f"{message} Press Ctrl-C again to end at once.")

    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield wish.is_set
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, *[signal.SIGTERM] * sigterm)}
    try:
        yield wish.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class ProgressLine:
    """Shows progress of `title` on standard error, unless `is_quiet`.

    That is one changing line in a terminal, a line per finished stage elsewhere, and in JSON a line per step, at most
    ten a second.
    """

    def __init__(self, title: str, *, is_quiet: bool = False) -> None:
        self.title = title
        self.is_quiet = is_quiet
        self._is_terminal = sys.stderr is not None and sys.stderr.isatty() and not _writes_json
        self._shown = 0.0
        if not is_quiet and not self._is_terminal:
            warn(title, "start", title=title)

    def __call__(self, step: Progress) -> None:
        """Show a step."""
        is_end = step.done >= step.total
        now = time.monotonic()
        if self.is_quiet or not (is_end or now - self._shown >= _LEAST_SECONDS):
            return
        self._shown = now
        if _writes_json:
            warn("", "progress", title=self.title, what=step.what, done=step.done, total=step.total)
        elif self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            line = printable(f"{self.title}  {step.what} {_amount(step)}")[:width]
            _put(sys.stderr, f"\r{line:<{width}}")
        elif is_end:
            warn(f"  {step.what}: {_amount(step)}")

    def clear(self) -> None:
        """Clear the line, so that something else can be written."""
        if self._is_terminal and not self.is_quiet:
            _put(sys.stderr, "\r\x1b[K")


def _amount(step: Progress) -> str:
    if step.total >= 10_000_000:  # bytes
        return f"{step.done / 1e6:,.0f} of {step.total / 1e6:,.0f} MB"
    return f"{step.done} of {step.total}"
