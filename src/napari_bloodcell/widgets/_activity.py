"""Long work in napari's activity dock, where all progress of the window is: a bar with Cancel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from weakref import finalize

from napari.utils.progress import cancelable_progress
from qtpy.QtCore import QObject, QTimer

if TYPE_CHECKING:
    from napari_bloodcell.widgets._worker import Work

EVERY_MS: Final = 300
"""How often the bar moves: each time napari works through the events of the window."""
PERCENT: Final = 100


@dataclass
class Shown:
    """What the bar says: percent is None while nobody knows how much there is to do."""

    text: str = ""
    percent: int | None = None
    time_left: str = ""


class ActivityBar(QObject):
    """Shows a `Work` in the activity dock from its start to its end; `shown` is taken over a few times a second.

    It appears when it is known how much there is to do: napari takes a fifth of a second to make it, which is not to
    fall together with the loading of a model. Work that is done at once has none.

    The bar follows by a timer and not by the signals of the work: napari works through waiting events each time that
    a bar moves, so that a signal would overtake the one before it.
    """

    def __init__(self, work: Work, title: str) -> None:
        super().__init__(work)
        self._work, self._title = work, title
        self.shown = Shown()
        self._bar: _Bar | None = None
        self._timer = QTimer(self)
        self._timer.setInterval(EVERY_MS)
        self._timer.timeout.connect(self._follow)
        work.started.connect(self._on_started)
        work.finished.connect(self._close)

    def _on_started(self) -> None:
        self._close()
        self.shown = Shown()
        self._timer.start()

    def _follow(self) -> None:
        if not self._work.is_running:
            self._close()
            return
        if self._bar is None and self.shown.percent is not None:
            self._bar = _Bar(self._work, self._title)
            self._closer = finalize(self, self._bar.close)  # also where the dock is gone before its work has ended
        if self._bar is not None:
            self._bar.show_state(self._title, self.shown)

    def _close(self) -> None:
        self._timer.stop()
        if self._bar is not None:
            self._bar = None
            self._closer()


class _Bar(cancelable_progress):
    """napari's bar, whose Cancel is that of a work."""

    def __init__(self, work: Work, title: str) -> None:
        self._work: Work | None = work
        super().__init__(desc=title, total=0, gui=True)  # gui: nothing goes to the terminal

    def cancel(self) -> None:
        super().cancel()
        if self._work is not None:
            self._work.cancel()

    def close(self) -> None:
        super().close()
        self._work = None  # napari's dock holds on to bars that were closed

    def show_state(self, title: str, shown: Shown) -> None:
        """Move, and say how far it is."""
        self.total: int = 0 if shown.percent is None else PERCENT
        self.n = shown.percent or 0
        self.events.eta(value=shown.time_left)
        self.events.description(value=f"{title}: {shown.text}" if shown.text else title)
        self.events.value(value=self.n)

    def display(self, *_args: Any, **_options: Any) -> None:
        """Leave the time left to `show_state`."""
