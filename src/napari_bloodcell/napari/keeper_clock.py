"""Schedules saving of a slide's corrections while a window is open: after a pause, in a thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, QRunnable, QThreadPool, QTimer, Signal

from napari_bloodcell.core.errors import BloodCellError, OutputError
from napari_bloodcell.napari.notify import logger

LATER_MS: Final = 2000
"""Delay after the last change."""


class KeeperClock(QObject):
    """Saves a keeper's changes some time after the last one.

    `next_save` returns what saves the pending changes, or None; `rest` is called once everything is in `folder`.
    """

    saved = Signal()
    """All changes are in the folder."""

    def __init__(
        self, folder: Path, next_save: Callable[[], Callable[[], None] | None], rest: Callable[[], None]
    ) -> None:
        super().__init__()
        self._folder, self._next_save, self._rest = folder, next_save, rest
        self._running: _Save | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(LATER_MS)
        self._timer.timeout.connect(self._on_time)

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
        save = self._next_save()
        if save is None:
            self._rest()
            return
        self._running = _Save(save)
        self._running.signals.done.connect(self._on_saved)
        pool = QThreadPool.globalInstance()
        if pool is not None:
            pool.start(self._running)

    def _on_saved(self, error: object) -> None:
        self._running = None
        if error is not None:
            show_error(f"What was changed in {self._folder} is not saved: {error}")
        if not self._timer.isActive():
            self._rest()


class _Signals(QObject):
    done = Signal(object)
    """An error, or None."""


class _Save(QRunnable):
    """Saves changes in a thread."""

    def __init__(self, save: Callable[[], None]) -> None:
        super().__init__()
        self.signals = _Signals()
        self.setAutoDelete(False)
        self._save = save

    def run(self) -> None:
        """Save them."""
        error: BloodCellError | None = None
        try:
            self._save()
        except BloodCellError as problem:
            error = problem
        except Exception as problem:
            logger.info("a slide could not be kept on disk", exc_info=True)
            error = OutputError(f"{type(problem).__name__}: {problem}")
        self.signals.done.emit(error)
