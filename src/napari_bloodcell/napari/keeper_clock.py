"""Schedules saving of a slide's corrections while a window is open: after a pause, in a thread."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, QRunnable, QThreadPool, QTimer, Signal

from napari_bloodcell.core.errors import BloodCellError, OutputError
from napari_bloodcell.napari.event_loop import running_app
from napari_bloodcell.napari.notify import logger

LATER_MS: Final = 2000
"""Delay after the last change."""


class Changes(Protocol):
    """Unsaved changes."""

    def write(self) -> None:
        """Save them."""
        ...


class Keeper(Protocol):
    """Tracks what of a layer is not saved in its folder yet."""

    folder: Path

    def changes(self) -> Changes | None:
        """Return unsaved changes, or None."""
        ...

    def rest(self) -> None:
        """Forget the layer: everything is saved."""
        ...

    def flush(self) -> None:
        """Save now."""
        ...


class KeeperClock(QObject):
    """Saves a keeper's changes some time after the last one."""

    saved = Signal()
    """All changes are in the folder."""

    def __init__(self, keeper: Keeper) -> None:
        super().__init__()
        self._keeper = keeper
        self._running: _Save | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(LATER_MS)
        self._timer.timeout.connect(self._on_time)
        running_app().aboutToQuit.connect(keeper.flush)

    def start(self) -> None:
        """Save later, unless something else changes before."""
        self._timer.start()

    def stop(self) -> None:
        """Cancel saving later, and wait for what is being saved."""
        self._timer.stop()
        pool = QThreadPool.globalInstance()
        if self._running is not None and pool is not None:
            pool.waitForDone()
        self._running = None

    def _on_time(self) -> None:
        if self._running is not None:
            self._timer.start()
            return
        changes = self._keeper.changes()
        if changes is None:
            self._keeper.rest()
            return
        self._running = _Save(changes)
        self._running.signals.done.connect(self._on_saved)
        pool = QThreadPool.globalInstance()
        if pool is not None:
            pool.start(self._running)

    def _on_saved(self, error: object) -> None:
        self._running = None
        if error is not None:
            show_error(f"What was changed in {self._keeper.folder} is not saved: {error}")
        if not self._timer.isActive():
            self._keeper.rest()


class _Signals(QObject):
    done = Signal(object)
    """An error, or None."""


class _Save(QRunnable):
    """Saves changes in a thread."""

    def __init__(self, changes: Changes) -> None:
        super().__init__()
        self.signals = _Signals()
        self.setAutoDelete(False)
        self._changes = changes

    def run(self) -> None:
        """Save them."""
        error: BloodCellError | None = None
        try:
            self._changes.write()
        except BloodCellError as problem:
            error = problem
        except Exception as problem:
            logger.info("a slide could not be kept on disk", exc_info=True)
            error = OutputError(f"{type(problem).__name__}: {problem}")
        self.signals.done.emit(error)
