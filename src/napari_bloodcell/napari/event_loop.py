"""What happens a little later in a window, and at once in a script: there Qt need not even be installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def running_app() -> Any:
    """Return the running Qt application; None where there is none, or no Qt at all."""
    try:
        from qtpy.QtCore import QCoreApplication
    except ImportError:
        return None
    return QCoreApplication.instance()


def soon(call: Callable[[], object], after_ms: int = 0) -> None:
    """Call a function when the window has done what it is at, or at once where there is no window."""
    if running_app() is None:
        call()
        return
    from qtpy.QtCore import QTimer

    QTimer.singleShot(after_ms, call)
