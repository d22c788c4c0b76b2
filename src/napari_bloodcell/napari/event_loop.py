"""Runs things a little later in a window, and at once in a script, where Qt need not even be installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def running_app() -> Any:
    """Return the running Qt application; None if there is none, or no Qt."""
    try:
        from qtpy.QtCore import QCoreApplication
    except ImportError:
        return None
    return QCoreApplication.instance()


def soon(call: Callable[[], object], after_ms: int = 0) -> None:
    """Call a function once the window is idle, or at once if there is no window."""
    if running_app() is None:
        call()
        return
    from qtpy.QtCore import QTimer

    QTimer.singleShot(after_ms, call)
