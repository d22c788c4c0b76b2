"""Long work off the GUI thread: a generator of `Progress` in a worker, with progress bar, time left and Cancel."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias, cast
from weakref import finalize

from napari.components import ViewerModel
from napari.layers import Layer
from napari.qt.threading import GeneratorWorkerSignals, WorkerBase
from napari.utils.events import Event, EventEmitter
from napari.utils.notifications import show_info, show_warning
from napari.utils.progress import cancelable_progress
from qtpy.QtCore import QObject, QTimer, Signal
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_bloodcell.core.errors import BloodCellError, InputWarning
from napari_bloodcell.core.progress import Steps
from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.napari.notify import WorkFailedError, explained, notify_error, notify_errors
from napari_bloodcell.napari.work.models import preload_for_layers

logger = logging.getLogger(__name__)

ShouldStop: TypeAlias = "Callable[[], bool]"
"""Checked between steps: True once the user has pressed Cancel."""
Job: TypeAlias = "Callable[[ShouldStop], Generator[Progress, None, Any]]"
"""Starts the work."""

SHOW_EVERY_S: Final = 0.1
"""The bar moves at most this often, because each time Qt repaints the whole window."""

SWITCH_EVERY_S: Final = 0.0005
"""How long a worker may keep the GIL while the window wants it; Python's default of 5 ms causes stutter."""


class _Thread(WorkerBase):
    """Runs a job in napari's thread pool, and always closes its generator there.

    Not a `GeneratorWorker`, which mistakes every RuntimeError (such as torch's out-of-memory) for a deleted worker.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(SignalsClass=GeneratorWorkerSignals)
        self._job = job
        self.cancelled = threading.Event()
        """Set by Cancel: asks the job to finish with what is done."""

    def work(self) -> Any:
        """Run the job to its end, or until it must stop."""
        generator = self._job(self.cancelled.is_set)
        steps = Steps(generator)
        usual = sys.getswitchinterval()
        sys.setswitchinterval(min(usual, SWITCH_EVERY_S))
        try:
            for step in steps:
                self.signals.yielded.emit(step)
                if self.abort_requested:
                    self.signals.aborted.emit()
                    return None
        except BloodCellError:
            raise
        except Exception as error:
            raise WorkFailedError(explained(error)) from error
        finally:
            sys.setswitchinterval(max(usual, 0.005))
            generator.close()
        return steps.result


class Work(QObject):
    """One long job at a time; its signals arrive on the GUI thread.

    The first Cancel lets a job that can keep partial results finish with those; a second one, or the first for any
    other job, stops it at its next step. After `shut_down` nothing is delivered.
    """

    started = Signal()
    progressed = Signal(object)
    """`Progress`."""
    returned = Signal(object)
    """What the generator returned; not after it was cut off."""
    failed = Signal(object)
    """`BloodCellError`."""
    cut_off = Signal()
    finished = Signal()
    """Always the last, whatever happened."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._thread: _Thread | None = None
        self._run: Run | None = None
        self._keeps_done = False

    @property
    def is_running(self) -> bool:
        """Whether a job is running."""
        return self._thread is not None

    @property
    def is_cancelled(self) -> bool:
        """Whether Cancel was pressed and the job has not ended yet."""
        return self._thread is not None and self._thread.cancelled.is_set()

    def start(self, job: Job, *, keeps_done: bool = False, run: Run | None = None) -> None:
        """Run a job in a thread; docks use `Run.start`.

        A job that `keeps_done` checks `should_stop`, and then returns what is done; it alone reports to `run`. Raises
        `BloodCellError` if a job is running already.
        """
        if self._thread is not None:
            raise BloodCellError("This is at work already. Wait for it, or press Cancel.")
        thread = self._thread = _Thread(job)
        self._keeps_done, self._run = keeps_done, run
        signals = cast("GeneratorWorkerSignals", thread.signals)
        signals.yielded.connect(self._on_yielded)
        signals.returned.connect(self._on_returned)
        signals.errored.connect(self._on_errored)
        signals.warned.connect(self._on_warned)
        signals.aborted.connect(self._on_aborted)
        signals.finished.connect(self._on_finished)
        self.started.emit()
        QTimer.singleShot(0, partial(self._launch, thread))

    def _launch(self, thread: _Thread) -> None:
        """Start the thread once the window has drawn its changes; otherwise each would delay the other."""
        if thread is self._thread:
            thread.start()

    def cancel(self) -> None:
        """Ask the job to finish with what is done."""
        if self._thread is None:
            return
        if self._thread.cancelled.is_set() or not self._keeps_done:
            self._thread.quit()
        self._thread.cancelled.set()

    def cut(self) -> None:
        """Stop the job at its next step, without a result."""
        if self._thread is not None:
            self._thread.cancelled.set()
            self._thread.quit()

    def shut_down(self) -> None:
        """Stop the job at its next step and deliver nothing: the dock is gone."""
        self.cut()
        run, self._thread, self._run = self._run, None, None
        if run is not None:
            run.leave()

    def abandon(self) -> None:
        """Stop the job as `cut` does, but report it now, while the listeners still exist."""
        if self._thread is not None:
            self.cut()
            self._lose(None)
            self._finish()

    def _is_current(self) -> bool:
        """Return whether the calling signal comes from the running job, not from one that was shut down."""
        return self._thread is not None and self.sender() is self._thread.signals

    def _on_yielded(self, step: Progress) -> None:
        if self._is_current():
            self.progressed.emit(step)
            if self._run is not None:
                self._run.take_step(step)

    def _on_returned(self, result: object) -> None:
        if self._is_current():
            self.returned.emit(result)
            if self._run is not None:
                self._run.take_result(result)

    def _on_aborted(self) -> None:
        if self._is_current():
            self._lose(None)

    def _on_errored(self, error: BloodCellError) -> None:
        if self._is_current():
            self._lose(error)

    def _lose(self, error: BloodCellError | None) -> None:
        if error is None:
            self.cut_off.emit()
        else:
            self.failed.emit(error)
        if self._run is not None:
            self._run.lose(error)

    def _finish(self) -> None:
        run, self._thread, self._run = self._run, None, None
        self.finished.emit()
        if run is not None:
            run.finish()

    def _on_warned(self, details: tuple[Any, ...]) -> None:
        message, category = details[0], details[1]
        if self._is_current() and issubclass(category, InputWarning):
            show_warning(str(message))
        else:
            logger.warning("%s", message)

    def _on_finished(self) -> None:
        if self._is_current():
            self._finish()


class Run(QObject):
    """One job of a `Work`, and what its steps and result do in the window: the only way to run long work.

    Subclasses override `on_step`, `on_result` and `on_lost`, or others connect `stepped` and `done`. All of them run on
    the GUI thread; an exception in them becomes a notification and ends the job.

    `result` is what the job returned or `on_result` made of it, None if it was lost; `error` is the reason, None if it
    was cut off; `summary` is for the user.
    """

    stepped = Signal(object)
    """`Progress`."""
    done = Signal(object)
    """`result`; sent once, when the work has ended and may be started again."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._work = work
        self.result: Any = None
        self.error: BloodCellError | None = None
        self.summary = ""
        self._is_cut = False
        self._removing: EventEmitter | None = None
        self._needed: list[Layer] = []
        self.started_s = time.monotonic()

    def start(self, job: Job, *, keeps_done: bool = False) -> None:
        """Start the job; see `Work.start`."""
        self._work.start(job, keeps_done=keeps_done, run=self)

    def stop_without(self, viewer: ViewerModel, *needed: Layer) -> None:
        """Stop the job when one of these layers is removed from the viewer, before it draws more."""
        self._needed = list(needed)
        self._removing = viewer.layers.events.removing
        self._removing.connect(self._on_removing)

    def cut(self) -> None:
        """Stop the job without a result, and ignore further steps."""
        self._is_cut = True
        self._work.cut()

    def on_step(self, step: Progress) -> None:
        """Show a step."""

    def on_result(self, result: Any) -> None:
        """Show the result."""
        self.result = result

    def on_lost(self) -> None:
        """Restore the earlier state: there is no result."""
        self.summary = "Nothing was changed."

    @property
    def took(self) -> str:
        """Time taken so far, for people."""
        return duration(time.monotonic() - self.started_s)

    def take_step(self, step: Progress) -> None:
        """Show a step; called by `Work`, as are the next three."""
        if not self._is_cut:
            self.stepped.emit(step)
            if not notify_errors(partial(self.on_step, step)):
                self.cut()

    def take_result(self, result: Any) -> None:
        """Show the result."""
        if self._is_cut or not notify_errors(partial(self.on_result, result)):
            self.lose(None)

    def lose(self, error: BloodCellError | None) -> None:
        """Handle that there is no result, because of an error or because the job was cut off."""
        self.result, self.error = None, error
        self.leave()  # restoring may remove layers
        notify_errors(self.on_lost)

    def finish(self) -> None:
        """Report that the work has ended."""
        self.leave()
        self.done.emit(self.result)
        self.deleteLater()

    def leave(self) -> None:
        """Stop following the viewer."""
        if self._removing is not None:
            self._removing.disconnect(self._on_removing)
            self._removing = None

    def _on_removing(self, event: Event) -> None:
        layer = event.source[event.index]
        if layer in self._needed and not self._is_cut:
            show_info(f"The layer {layer.name!r} was deleted meanwhile, so the work was stopped.")
            self.cut()


class WorkPanel(QWidget):
    """Progress bar, time left and Cancel of a `Work`; hidden while idle. Errors become notifications.

    `title` names the work in napari's activity dock.
    """

    def __init__(self, title: str = "Blood cells", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        preload_for_layers()  # work usually ends in layers
        self.work = Work(self)
        self._activity = ActivityBar(self.work, title)
        self._bar = QProgressBar()
        self._bar.setTextVisible(True)
        self._label = QLabel()
        self._label.setWordWrap(True)
        self._cancel = QPushButton("Cancel")
        self._cancel.setToolTip("Stop after the current step, and keep what is done")
        self._cancel.clicked.connect(self._on_cancel)
        row = QHBoxLayout()
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._bar, 1)
        row.addWidget(self._cancel)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(row)
        layout.addWidget(self._label)
        self._clock = _Clock()
        self._shown_at = 0.0
        self.work.started.connect(self._on_started)
        self.work.progressed.connect(self._on_progressed)
        self.work.failed.connect(notify_error)
        self.work.finished.connect(self.hide)
        self.destroyed.connect(self.work.shut_down)
        self.hide()

    def closeEvent(self, event: QCloseEvent | None) -> None:
        """Stop the work with the window."""
        self.work.shut_down()
        super().closeEvent(event)

    def _on_started(self) -> None:
        self._clock = _Clock()
        self._bar.setRange(0, 0)
        self._label.setText("Getting ready…")
        self._cancel.setEnabled(True)
        self.show()

    def _on_progressed(self, step: Progress) -> None:
        now = time.monotonic()
        if self.work.is_cancelled or (now - self._shown_at < SHOW_EVERY_S and step.done < step.total):
            return
        self._shown_at = now
        text, time_left = amount(step), self._clock.time_left(step)
        self._bar.setRange(0, 1000 if step.total else 0)
        self._bar.setValue(round(1000 * step.done / step.total) if step.total else 0)
        self._label.setText(" · ".join(part for part in (text, time_left) if part))
        self._activity.shown = Shown(text, 100 * step.done // step.total if step.total else None, time_left)

    def _on_cancel(self) -> None:
        self.work.cancel()
        self._label.setText("Stopping after this step…")


class _Clock:
    """Estimates the time left from steps of one kind."""

    def __init__(self) -> None:
        self._what, self._first, self._start = "", 0, 0.0

    def time_left(self, step: Progress) -> str:
        """Return "about 2 min left", or "" while too little is known."""
        now = time.monotonic()
        if step.what != self._what or step.done < self._first:
            self._what, self._first, self._start = step.what, step.done, now
            return ""
        done, elapsed = step.done - self._first, now - self._start
        if done <= 0 or elapsed < 0.5 or step.done >= step.total:
            return ""
        return f"about {duration((step.total - step.done) * elapsed / done)} left"


def duration(seconds: float) -> str:
    """Return a duration for people: "8 s", "2 min", "1 h 20 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def amount(step: Progress) -> str:
    """Return progress for people: "12 of 60 tiles", "120 of 375 MB (downloading …)"."""
    what = step.what
    if what.startswith(("downloading", "checking", "waiting")):
        return f"{what}: {step.done / 1e6:.0f} of {step.total / 1e6:.0f} MB"
    return f"{step.done:,} of {step.total:,} {what}" if step.total else f"{what[:1].upper()}{what[1:]}…"


EVERY_MS: Final = 300
"""The bar moves this often; each time napari processes waiting window events."""


@dataclass
class Shown:
    """State of the bar; percent is None while the total is unknown."""

    text: str = ""
    percent: int | None = None
    time_left: str = ""


class ActivityBar(QObject):
    """Shows a `Work` in napari's activity dock, following `shown`.

    The bar appears once the total is known: creating it stops the window for a fifth of a second, which should not
    coincide with loading a model. Short work shows no bar.

    It follows by timer, not by signals: napari processes waiting events whenever a bar moves, so that one signal would
    overtake another.
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
            self._closer = finalize(self, self._bar.close)  # also if the dock goes before its work ends
        if self._bar is not None:
            self._bar.show_state(self._title, self.shown)

    def _close(self) -> None:
        self._timer.stop()
        if self._bar is not None:
            self._bar = None
            self._closer()


class _Bar(cancelable_progress):
    """napari's progress bar, with the Cancel of a `Work`."""

    def __init__(self, work: Work, title: str) -> None:
        self._work: Work | None = work
        super().__init__(desc=title, total=0, gui=True)  # gui: print nothing to the terminal

    def cancel(self) -> None:
        super().cancel()
        if self._work is not None:
            self._work.cancel()

    def close(self) -> None:
        super().close()
        self._work = None  # napari's dock keeps closed bars alive

    def show_state(self, title: str, shown: Shown) -> None:
        """Move the bar and describe the state."""
        self.total: int = 0 if shown.percent is None else 100
        self.n = shown.percent or 0
        self.events.eta(value=shown.time_left)
        self.events.description(value=f"{title}: {shown.text}" if shown.text else title)
        self.events.value(value=self.n)

    def display(self, *_args: Any, **_options: Any) -> None:
        """Do nothing; `show_state` shows the time left."""
