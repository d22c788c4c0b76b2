"""Counts many cells in a worker: the window stays alive, and of what is asked meanwhile the last is counted next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from napari_bloodcell.protocols import Progress
from napari_bloodcell.widgets._worker import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from napari.layers import Labels

    from napari_bloodcell.widgets._count_model import CellCounter, Counted, CountTask


class LaterCount(QObject):
    """Counts one task at a time."""

    counted = Signal(object, object)
    """The layer, and its `Counted`."""
    failed = Signal(object)
    """`BloodCellError`."""

    def __init__(self, counter: CellCounter, parent: QObject) -> None:
        super().__init__(parent)
        self._counter = counter
        self._work = Work(self)
        self._layer: Labels | None = None
        self._next: tuple[Labels, CountTask] | None = None
        self._work.returned.connect(self._on_returned)
        self._work.failed.connect(self.failed)
        self._work.finished.connect(self._on_finished)

    @property
    def is_running(self) -> bool:
        """Whether something is being counted."""
        return self._work.is_running

    def ask(self, layer: Labels, task: CountTask) -> None:
        """Count this, instead of what else is waiting."""
        self._next = (layer, task)
        if not self._work.is_running:
            self._start()

    def forget(self) -> None:
        """Deliver nothing of what is under way."""
        self._next = self._layer = None
        self._work.shut_down()

    def _start(self) -> None:
        if self._next is None:
            return
        (self._layer, task), self._next = self._next, None
        counter = self._counter

        def job(_should_stop: Callable[[], bool]) -> Generator[Progress, None, Counted]:
            yield Progress(0, 0, "counting")
            return counter.run(task)

        self._work.start(job)

    def _on_returned(self, counted: Counted) -> None:
        if self._next is None and self._layer is not None:  # else it is out of date
            self.counted.emit(self._layer, counted)

    def _on_finished(self) -> None:
        self._layer = None
        self._start()
