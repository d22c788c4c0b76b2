"""Errors as napari notifications that say what to do; nothing is printed to the terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from inspect import signature
from traceback import walk_tb
from typing import Any, Final, TypeVar
from weakref import WeakMethod, finalize, ref

from napari.utils.events import EventEmitter
from napari.utils.notifications import ErrorNotification, notification_manager, show_error, show_warning

from napari_bloodcell.core.errors import BloodCellError, reason_of

Result = TypeVar("Result")

logger: Final = logging.getLogger(__name__)
logger.setLevel(logging.INFO)  # shown in napari's log; Python prints WARNING and above to the terminal


class WorkFailedError(BloodCellError):
    """An unexpected error in a worker; the error itself is its cause."""


class _Unexpected(ErrorNotification):
    """A notification with a button for the traceback, printed by napari as one line."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self._message = explained(error)

    def __str__(self) -> str:
        return f"ERROR: {self.message}"


def explained(error: Exception) -> str:
    """Return what to tell the user about an unexpected error; what torch says is for the traceback."""
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "There is not enough memory. Use a smaller tile size, another device, or a smaller model."
    modules = {str(frame.f_globals.get("__name__")).partition(".")[0] for frame, _ in walk_tb(error.__traceback__)}
    reason = type(error).__name__ if "torch" in modules else f"{type(error).__name__}: {reason_of(error)}"
    return (
        f"Something unexpected went wrong ({reason}). Please report it with its traceback: press View Traceback here, "
        "or look at Help ▸ Show logs."
    )


def notify_error(error: Exception) -> None:
    """Show an error to the user; an unexpected one, also from a worker, with its traceback."""
    unexpected = error.__cause__ if isinstance(error, WorkFailedError) else error
    if isinstance(unexpected, Exception) and not isinstance(unexpected, BloodCellError):
        logger.info("failed unexpectedly", exc_info=unexpected)
        notification_manager.dispatch(_Unexpected(unexpected))
    else:
        show_error(str(error))


def show_doubts(sentences: Iterable[str]) -> str:
    """Warn the user about a result, each sentence once, and return the text for a dock."""
    told = list(dict.fromkeys(sentences))
    for sentence in told:
        show_warning(sentence)
    return " ".join(f"⚠ {sentence}" for sentence in told)


def notify_errors(action: Callable[[], Any]) -> bool:
    """Call a function, show what it raises as a notification, and return whether it succeeded."""
    try:
        action()
    except Exception as error:  # noqa: BLE001 - whatever it is, the user is told
        notify_error(error)
        return False
    return True


def notify_in_window(read: Callable[[], Result], otherwise: Result) -> Result:
    """Return `read()`; if it fails inside a window event, show the error and return `otherwise`.

    Scripts get the exception. Raised in an event, such as a click in a menu, napari would print its traceback.
    """
    try:
        return read()
    except Exception as error:
        if not is_in_event():
            raise
        notify_error(error)
        return otherwise


def is_in_event() -> bool:
    """Return whether this runs inside an event of a window, not in a script."""
    if "qtpy.QtCore" not in sys.modules:  # there is no window, and perhaps no Qt
        return False
    from qtpy.QtCore import QCoreApplication, QThread

    thread = QThread.currentThread()
    return QCoreApplication.instance() is not None and thread is not None and thread.loopLevel() > 0


def notifying(method: Callable[..., Any]) -> Callable[..., None]:
    """Return a slot that calls a bound method while its object lives, and shows what it raises.

    Qt keeps what a signal is connected to: a lambda that refers to its dock, connected to a part of that dock, would
    keep it alive for ever. Surplus arguments of the signal are dropped.
    """
    find, n_taken = WeakMethod(method), len(signature(method).parameters)

    def slot(*values: Any) -> None:
        found = find()
        if found is not None:
            notify_errors(lambda: found(*values[:n_taken]))

    return slot


def connect_for_life(emitter: EventEmitter, method: Callable[..., Any]) -> None:
    """Connect a widget's method to a napari event for the lifetime of the widget.

    napari keeps only a weak reference, but drops a dead one only when the event is next emitted, and some events (a
    layer being renamed) hardly ever are. Qt's `destroyed` does not help: it can be emitted during Python's garbage
    collection, where a slot finds its own parts gone, and Python crashes.
    """
    emitter.connect(method)
    widget: Any = method.__self__  # type: ignore[attr-defined]
    finalize(widget, emitter.disconnect, (ref(widget), method.__name__)).atexit = False
