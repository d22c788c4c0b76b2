"""Slots that do not keep a dock alive after it was closed."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

from napari_bloodcell.widgets._count_controls import notify_errors

if TYPE_CHECKING:
    from collections.abc import Callable


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
