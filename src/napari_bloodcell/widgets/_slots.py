"""Slots that do not keep a dock alive after it was closed, and of which nothing is left then."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod, finalize, ref

from napari_bloodcell.widgets._errors import notify_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.utils.events import EventEmitter


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
