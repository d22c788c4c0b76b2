from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils.notifications import ErrorNotification, notification_manager

from napari_bloodcell.core.errors import BloodCellError, InputError
from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.napari.notify import WorkFailedError, explained, notify_errors
from napari_bloodcell.napari.work.worker import Run, Work, WorkPanel, amount, duration

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from napari import Viewer
    from pytestqt.qtbot import QtBot


@pytest.fixture
def work(qapp: object, nothing_left: None) -> Work:
    return Work()


@pytest.fixture
def dispatched() -> Iterator[list[Any]]:
    """The notifications of napari meanwhile, whole."""
    told: list[Any] = []
    notification_manager.notification_ready.connect(told.append)
    yield told
    notification_manager.notification_ready.disconnect(told.append)


def steps(n: int, *, closed: list[str] | None = None, error: Exception | None = None) -> Any:
    """A job of n short steps that returns those done; it asks whether it should stop."""

    def job(should_stop: Callable[[], bool]) -> Generator[Progress, None, int]:
        try:
            for i in range(1, n + 1):
                time.sleep(0.01)
                yield Progress(i, n, "tiles")
                if should_stop():
                    return i
            if error is not None:
                raise error
            return n
        finally:
            if closed is not None:
                closed.append(threading.current_thread().name)

    return job


def test_progress_and_result_arrive_on_the_gui_thread(work: Work, qtbot: QtBot) -> None:
    seen: list[tuple[int, str]] = []
    work.progressed.connect(lambda step: seen.append((step.done, threading.current_thread().name)))
    with qtbot.waitSignals([work.returned, work.finished]) as signals:
        work.start(steps(3))
    assert signals.all_signals_and_args[0].args == (3,)
    assert seen == [(i, threading.current_thread().name) for i in (1, 2, 3)]
    assert not work.is_running


def test_cancel_keeps_what_is_done_and_acts_within_one_step(work: Work, qtbot: QtBot) -> None:
    returned: list[int] = []
    work.returned.connect(returned.append)
    work.progressed.connect(lambda step: work.cancel() if step.done == 2 else None)
    with qtbot.waitSignal(work.finished):
        work.start(steps(1000), keeps_done=True)
    assert 2 <= returned[0] <= 5


def test_a_job_that_keeps_nothing_is_cut_off(work: Work, qtbot: QtBot) -> None:
    closed: list[str] = []
    work.progressed.connect(lambda step: work.cancel() if step.done == 2 else None)
    with qtbot.waitSignals([work.cut_off, work.finished]), qtbot.assertNotEmitted(work.returned):
        work.start(steps(1000, closed=closed))
    assert closed


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), ValueError("shapes"), MemoryError()])
def test_errors_of_any_kind_arrive_as_the_programs_own(work: Work, qtbot: QtBot, error: Exception) -> None:
    closed: list[str] = []
    with qtbot.waitSignals([work.failed, work.finished]) as signals:
        work.start(steps(1, error=error, closed=closed))
    (told,) = signals.all_signals_and_args[0].args
    assert isinstance(told, WorkFailedError)
    is_memory = isinstance(error, MemoryError) or "out of memory" in str(error)
    assert ("not enough memory" if is_memory else type(error).__name__) in str(told)
    assert closed


def test_an_error_that_says_what_to_do_arrives_as_it_is(work: Work, qtbot: QtBot) -> None:
    with qtbot.waitSignals([work.failed, work.finished]) as signals:
        work.start(steps(1, error=InputError("Give an image.")))
    assert str(signals.all_signals_and_args[0].args[0]) == "Give an image."


def test_nothing_arrives_after_it_was_shut_down(work: Work, qtbot: QtBot) -> None:
    closed: list[str] = []
    with qtbot.waitSignal(work.progressed):
        work.start(steps(1000, closed=closed))
    heard: list[object] = []
    for signal in (work.progressed, work.returned, work.finished, work.cut_off):
        signal.connect(lambda *args: heard.append(args))
    work.shut_down()
    qtbot.waitUntil(lambda: bool(closed))
    qtbot.wait(50)
    assert heard == []


def test_one_piece_of_work_at_a_time(work: Work, qtbot: QtBot) -> None:
    with qtbot.waitSignal(work.finished):
        work.start(steps(2))
        with pytest.raises(BloodCellError, match="at work already"):
            work.start(steps(2))


def test_the_panel_shows_how_far_it_is_and_cancels(qtbot: QtBot, nothing_left: None) -> None:
    panel = WorkPanel()
    qtbot.addWidget(panel)
    texts = set()
    panel.work.progressed.connect(lambda _step: texts.add(panel._label.text()))
    panel.work.progressed.connect(lambda step: panel._cancel.click() if step.done == 20 else None)
    with qtbot.waitSignal(panel.work.finished):
        panel.work.start(steps(1000), keeps_done=True)
    assert any(text.startswith("1 of 1,000 tiles") for text in texts)
    assert panel.isHidden()


def test_errors_become_notifications(qtbot: QtBot, nothing_left: None, notifications: list[str]) -> None:
    panel = WorkPanel()
    qtbot.addWidget(panel)
    with qtbot.waitSignal(panel.work.finished):
        panel.work.start(steps(1, error=InputError("Give an image.")))
    assert notifications == ["Give an image."]


def unexpected_job(_should_stop: Callable[[], bool]) -> Generator[Progress, None, None]:
    yield Progress(0, 1, "tiles")
    raise RuntimeError("shapes of the model do not fit")


def unexpected_slot() -> None:
    raise ZeroDivisionError("a slot")


def test_an_unexpected_error_of_a_worker_says_what_to_do_and_keeps_its_traceback_off_the_terminal(
    qtbot: QtBot, nothing_left: None, dispatched: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    panel = WorkPanel()
    qtbot.addWidget(panel)
    with qtbot.waitSignal(panel.work.finished):
        panel.work.start(unexpected_job)
    (told,) = dispatched
    assert "RuntimeError: shapes of the model do not fit" in told.message
    assert "press View Traceback" in told.message
    assert "unexpected_job" in told.as_text()
    out, err = capfd.readouterr()
    assert "Traceback (most recent" not in out + err
    assert "unexpected_job" not in out + err


def test_an_unexpected_error_of_a_slot_does_so_too(
    qapp: object, dispatched: list[Any], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert not notify_errors(unexpected_slot)
    (told,) = dispatched
    assert isinstance(told, ErrorNotification)  # those have the button View Traceback
    assert "ZeroDivisionError: a slot" in told.message
    assert "unexpected_slot" in told.as_text()
    assert "unexpected_slot" in caplog.text  # what Help ▸ Show logs is filled from
    out, err = capfd.readouterr()
    assert "unexpected_slot" not in out + err


def test_a_panel_that_is_closed_ends_its_work(qtbot: QtBot, nothing_left: None) -> None:
    closed: list[str] = []
    panel = WorkPanel()
    with qtbot.waitSignal(panel.work.progressed):
        panel.work.start(steps(1000, closed=closed))
    panel.close()
    panel.deleteLater()
    qtbot.waitUntil(lambda: bool(closed))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (45, "45 s"), (150, "2 min"), (5000, "83 min"), (9000, "2 h 30 min")]
)
def test_times_are_told_as_people_do(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_downloads_are_told_in_megabytes() -> None:
    assert amount(Progress(120_000_000, 375_000_000, "downloading x.pth")) == "downloading x.pth: 120 of 375 MB"
    assert amount(Progress(12, 60, "tiles")) == "12 of 60 tiles"
    assert amount(Progress(0, 0, "loading the model")) == "Loading the model…"


def test_work_is_in_the_activity_dock_too_and_can_be_cancelled_there(
    viewer: Viewer, qtbot: QtBot, capfd: pytest.CaptureFixture[str]
) -> None:
    from napari._qt.widgets.qt_progress_bar import QtLabeledProgressBar

    panel = WorkPanel("Find cells")
    qtbot.addWidget(panel)
    dialog = viewer.window._qt_window._activity_dialog
    bars = lambda: dialog.findChildren(QtLabeledProgressBar)  # noqa: E731
    with qtbot.waitSignal(panel.work.finished, timeout=30_000):
        panel.work.start(steps(5000), keeps_done=True)
        qtbot.waitUntil(lambda: len(bars()) == 1 and bars()[0].qt_progress_bar.maximum() == 100, timeout=10_000)
        assert bars()[0].description_label.text().startswith("Find cells: ")
        assert "of 5,000 tiles" in bars()[0].description_label.text()
        bars()[0].cancel_button.click()
    qtbot.waitUntil(lambda: not bars(), timeout=10_000)
    told = capfd.readouterr()
    assert told.out == told.err == ""


def test_a_panel_that_is_gone_leaves_nothing_in_the_activity_dock(viewer: Viewer, qtbot: QtBot) -> None:
    from napari.utils.progress import progress

    panel = WorkPanel()
    panel.work.start(steps(5000))
    qtbot.waitUntil(lambda: len(progress._all_instances) == 1, timeout=10_000)
    panel.close()
    qtbot.waitUntil(lambda: not progress._all_instances, timeout=10_000)
    panel.deleteLater()


class Kept(Run):
    """Keeps what it hears."""

    def __init__(self, work: Work, *, fails_at: int = 0) -> None:
        super().__init__(work)
        self.steps: list[int] = []
        self._fails_at = fails_at

    def on_step(self, step: Progress) -> None:
        self.steps.append(step.done)
        if step.done == self._fails_at:
            raise InputError("This cannot be shown.")


def ended(run: Run, qtbot: QtBot, job: Any) -> list[Any]:
    with qtbot.waitSignal(run.done, timeout=10_000) as signal:
        run.start(job, keeps_done=True)
    return list(signal.args)


def test_a_run_hears_of_its_own_job_alone(work: Work, qtbot: QtBot) -> None:
    first, second = Kept(work), Kept(work)
    assert ended(first, qtbot, steps(3)) == [3]
    assert ended(second, qtbot, steps(2)) == [2]
    assert (first.steps, second.steps) == ([1, 2, 3], [1, 2])


def test_the_next_run_may_begin_when_one_is_done(work: Work, qtbot: QtBot) -> None:
    first, second = Kept(work), Kept(work)
    first.done.connect(lambda _result: second.start(steps(2)))
    with qtbot.waitSignal(second.done, timeout=10_000):
        first.start(steps(1))
    assert second.steps == [1, 2]


def test_a_step_that_cannot_be_shown_ends_the_run_without_a_result(
    work: Work, qtbot: QtBot, notifications: list[str]
) -> None:
    run = Kept(work, fails_at=2)
    assert ended(run, qtbot, steps(50)) == [None]
    assert run.steps == [1, 2]
    assert notifications == ["This cannot be shown."]
    assert run.summary == "Nothing was changed."


def test_a_run_that_failed_says_why(work: Work, qtbot: QtBot) -> None:
    run = Kept(work)
    assert ended(run, qtbot, steps(1, error=InputError("Give an image."))) == [None]
    assert str(run.error) == "Give an image."


def test_a_run_ends_before_the_layer_that_it_needs_leaves_the_viewer(work: Work, qtbot: QtBot) -> None:
    viewer = ViewerModel()
    needed, other = viewer.add_image(np.zeros((4, 4))), viewer.add_image(np.zeros((4, 4)))
    run, seen = Kept(work), []
    run.stop_without(viewer, needed)
    viewer.layers.events.removed.connect(lambda event: seen.append(len(run.steps)))
    with qtbot.waitSignal(run.done, timeout=10_000) as signal:
        run.start(steps(1000), keeps_done=True)
        qtbot.waitUntil(lambda: len(run.steps) > 1)
        viewer.layers.remove(other)
        qtbot.waitUntil(lambda: len(run.steps) > seen[0])
        viewer.layers.remove(needed)
    assert signal.args == [None]
    assert len(run.steps) == seen[1]


def test_a_run_of_a_dock_that_was_shut_down_hears_nothing_of_the_next_one(work: Work, qtbot: QtBot) -> None:
    first, second = Kept(work), Kept(work)
    with qtbot.waitSignal(first.stepped, timeout=10_000):
        first.start(steps(1000))
    work.shut_down()
    heard = len(first.steps)
    assert ended(second, qtbot, steps(2)) == [2]
    assert len(first.steps) == heard


def test_no_text_of_the_library_stands_in_what_is_told_of_full_memory() -> None:
    told = explained(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 7.79 GiB total capacity)"))
    assert told == "There is not enough memory. Use a smaller tile size, another device, or a smaller model."
