"""Errors as notifications of napari that say what to do; the program itself prints nothing to the terminal."""

from __future__ import annotations

import logging
import sys
from inspect import signature
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakMethod, finalize, ref

from napari.utils.notifications import ErrorNotification, notification_manager, show_error, show_warning

from napari_bloodcell.core.errors import BloodCellError, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from napari.utils.events import EventEmitter


Result = TypeVar("Result")

logger: Final = logging.getLogger(__name__)
logger.setLevel(logging.INFO)  # napari's log shows this; Python prints to the terminal from WARNING on


class WorkFailedError(BloodCellError):
    """Something failed that is not an error of the program's own, which is its cause."""


class _Unexpected(ErrorNotification):
    """A notification whose button shows the traceback, and which is one line where napari prints it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self._message = explained(error)

    def __str__(self) -> str:
        return f"ERROR: {self.message}"


def explained(error: Exception) -> str:
    """Return what to tell of an error that nobody thought of."""
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "There is not enough memory. Use a smaller tile size, another device, or a smaller model."
    return (
        f"Something unexpected went wrong ({type(error).__name__}: {reason_of(error)}). Please report it with its "
        "traceback: press View Traceback here, or look at Help ▸ Show logs."
    )


def tell_of(error: Exception) -> None:
    """Tell the user of an error; of one that nobody thought of, also if it came from a worker, with its traceback."""
    unexpected = error.__cause__ if isinstance(error, WorkFailedError) else error
    if isinstance(unexpected, Exception) and not isinstance(unexpected, BloodCellError):
        logger.info("failed unexpectedly", exc_info=unexpected)
        notification_manager.dispatch(_Unexpected(unexpected))
    else:
        show_error(str(error))


def tell_of_doubts(sentences: Iterable[str]) -> str:
    """Tell the user why a result is not to be trusted, once each, and return it as text for a dock."""
    told = list(dict.fromkeys(sentences))
    for sentence in told:
        show_warning(sentence)
    return " ".join(f"⚠ {sentence}" for sentence in told)


def notify_errors(action: Callable[[], Any]) -> bool:
    """Call a function, turn what it raises into a notification, and return whether all went well."""
    try:
        action()
    except Exception as error:  # noqa: BLE001 - whatever it is, the user is told
        tell_of(error)
        return False
    return True


def told_in_window(read: Callable[[], Result], otherwise: Result) -> Result:
    """Return what a function gives; if it fails in an event of a window, tell of the error and return `otherwise`.

    To a script the error is raised. Of one raised in an event, as by a click in a menu, napari prints the traceback.
    """
    try:
        return read()
    except Exception as error:
        if not _is_in_event():
            raise
        tell_of(error)
        return otherwise


def _is_in_event() -> bool:
    if "qtpy.QtCore" not in sys.modules:  # there is no window, and perhaps no Qt
        return False
    from qtpy.QtCore import QCoreApplication, QThread

    thread = QThread.currentThread()
    return QCoreApplication.instance() is not None and thread is not None and thread.loopLevel() > 0


def notifying(method: Callable[..., Any]) -> Callable[..., None]:
    """Return a slot that calls a bound method while its object lives; an error of the program becomes a notification.

    Qt holds what a signal is connected to, and a lambda holds the dock that it speaks of: connected to a part of that
    dock, it would live for ever. What a signal sends more than the method takes is left out.
    """
    find, n_taken = WeakMethod(method), len(signature(method).parameters)

    def slot(*values: Any) -> None:
        found = find()
        if found is not None:
            notify_errors(lambda: found(*values[:n_taken]))

    return slot


def connect_for_life(emitter: EventEmitter, method: Callable[..., Any]) -> None:
    """Connect a widget's method to an event of napari for as long as there is the widget.

    napari does not keep the widget alive either, but what it notes of a dead one goes only when the event is next sent,
    and some events, such as a layer that is renamed, hardly ever are. Qt's `destroyed` is of no use for this: it may be
    sent in the middle of Python's garbage collection, where a slot finds its own parts gone, and Python crashes.
    """
    emitter.connect(method)
    widget: Any = method.__self__  # type: ignore[attr-defined]
    finalize(widget, emitter.disconnect, (ref(widget), method.__name__)).atexit = False
