"""Whole ways through the window, by real events: files dropped, buttons clicked, keys struck, results opened again."""

from __future__ import annotations

from shutil import rmtree
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image as Picture
from qtpy.QtCore import QMimeData, QPointF, Qt, QTimer, QUrl
from qtpy.QtGui import QDropEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QFileDialog, QMessageBox

from napari_bloodcell.core.params import SegmentParams
from napari_bloodcell.napari.docks.mouse import Tool
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.private import camera_of
from napari_bloodcell.napari.menus import open_dock
from napari_bloodcell.napari.session.kept import is_any_kept
from napari_bloodcell.napari.session.opening import cells_session
from napari_bloodcell.napari.window import WindowWatch
from tests.fakes import BrightnessClassifier, ThresholdGenerator, disc_image
from tests.napari.conftest import DARK, PALE
from tests.napari.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari import Viewer
    from napari.layers import Labels
    from numpy.typing import NDArray
    from pytestqt.qtbot import QtBot

    from napari_bloodcell.core.protocols import Calibration, CellMask

CTRL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier
MISSED = (200.0, 120.0)
"""A cell so pale that only a click finds it."""


class Pointing(ThresholdGenerator):
    """Answers a prompt with the region there, however pale it is."""

    def predict(
        self, image: NDArray[np.uint8], calibration: Calibration, *, points: Any = None, boxes: Any = None
    ) -> list[CellMask]:
        assert points is not None
        assert boxes is None
        y, x = points[0]
        found = ThresholdGenerator(threshold=210).generate(image, calibration, SegmentParams())
        return [m for m in found if m.bbox[0] <= y < m.bbox[2] and m.bbox[1] <= x < m.bbox[3]]


@pytest.fixture
def shown(nothing_left: None, make_napari_viewer: Callable[..., Viewer]) -> Viewer:
    """A window that is on screen: docks rest while they are hidden."""
    return make_napari_viewer(show=True)


@pytest.fixture
def smear(tmp_path: Path, field: NDArray[np.uint8]) -> Path:
    """A picture of ten cells, and one that is easily missed."""
    path = tmp_path / "smear.png"
    Picture.fromarray(np.minimum(field, disc_image([MISSED], (256, 256), value=190))).save(path)
    return path


def drop(viewer: Viewer, path: Path, qtbot: QtBot) -> None:
    """Drop a file into the window."""
    said = QMimeData()
    said.setUrls([QUrl.fromLocalFile(str(path))])
    n = len(viewer.layers)
    where = viewer.window._qt_viewer
    actions = (Qt.DropAction.CopyAction, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier)
    where.dropEvent(QDropEvent(QPointF(50, 50), actions[0], said, *actions[1:]))
    qtbot.waitUntil(lambda: len(viewer.layers) > n, timeout=20_000)
    qtbot.wait(50)


def press(button: Any) -> None:
    """Click a button as the mouse does."""
    assert button.isVisible()
    assert button.isEnabled()
    QTest.mouseClick(button, Qt.MouseButton.LeftButton)


def opened(viewer: Viewer, name: str) -> Any:
    dock = open_dock(viewer, name)
    QApplication.processEvents()
    return dock


def analyse(viewer: Viewer, qtbot: QtBot, name: str = "Analyse") -> Any:
    """Analyse the active image with models that need no weights."""
    dock: Any = opened(viewer, name)
    dock.generator, dock.classifier = Pointing(), BrightnessClassifier()
    dock.form.set_values({"rbc_diameter_px": 24})
    press(dock.run)
    qtbot.waitUntil(lambda: not dock.is_running and bool(dock.summary.text()), timeout=300_000)
    qtbot.wait(50)
    return dock


def answer(text: str) -> list[str]:
    """Answer the next question by the button with this text; return what will have been asked."""
    asked: list[str] = []

    def reply() -> None:
        box = QApplication.activeModalWidget()
        if not isinstance(box, QMessageBox):
            QTimer.singleShot(20, reply)
            return
        asked.append(box.text())
        QTest.mouseClick(next(b for b in box.buttons() if text in b.text()), Qt.MouseButton.LeftButton)

    QTimer.singleShot(20, reply)
    return asked


def types_in(layer: Labels) -> dict[int, str]:
    found: dict[int, str] = links.table_of(layer)["cell_type"].to_dict()
    return found


def cells_of(viewer: Viewer) -> Labels:
    layer = viewer.layers["smear cells"]
    return layer  # type: ignore[return-value]


def visible_in(viewer: Viewer) -> list[str]:
    return [layer.name for layer in viewer.layers if layer.visible]


def id_at(layer: Labels, place: tuple[float, float]) -> int:
    return int(layer.data[round(place[0]), round(place[1])])


def test_cells_made_by_hand_outlive_a_second_run_which_is_one_step_of_undo(
    shown: Viewer, qtbot: QtBot, smear: Path
) -> None:
    drop(shown, smear, qtbot)
    analyse(shown, qtbot)
    layer = cells_of(shown)
    edit = opened(shown, "Edit cells")
    edit.queue.generator, edit.queue.classifier = Pointing(), BrightnessClassifier()
    screen = Screen(shown, layer)
    press(edit.buttons.tools[Tool.CLICK])
    with qtbot.waitSignal(edit.queue._work.finished, timeout=30_000):
        screen.click(MISSED)
    screen.key(Qt.Key.Key_Return)
    screen.move(PALE[0])
    screen.key("D")
    by_hand = id_at(layer, MISSED)
    assert by_hand
    assert not id_at(layer, PALE[0])
    asked = answer("Keep")
    analyse(shown, qtbot)
    assert "by hand" in asked[0]
    assert id_at(layer, MISSED)
    assert id_at(layer, PALE[0])
    screen = Screen(shown, layer)
    screen.key("Z", CTRL)
    QApplication.processEvents()
    assert not id_at(layer, PALE[0])
    assert id_at(layer, MISSED) == by_hand


def test_corrections_of_another_day_come_back_by_analyse_and_are_in_the_counts(
    shown: Viewer, qtbot: QtBot, smear: Path, notifications: list[str]
) -> None:
    drop(shown, smear, qtbot)
    analyse(shown, qtbot)
    review = opened(shown, "Review")
    screen = Screen(shown, cells_of(shown))
    for place in PALE[:3]:
        screen.move(place)
        screen.key("P")
    screen.key("Z", CTRL)
    review.session.flush()
    assert "2 corrections" in review.journal._number_label.text()
    shown.layers.clear()
    drop(shown, smear, qtbot)
    dock = analyse(shown, qtbot)
    count = opened(shown, "Count")
    qtbot.waitUntil(lambda: count.counted is not None, timeout=10_000)
    assert "2 corrections of another day restored" in dock.summary.text()
    assert count.counted.counting.counts["platelet"] == 2
    review = opened(shown, "Review")
    qtbot.waitUntil(lambda: "2 corrections" in review.journal._number_label.text(), timeout=10_000)


@pytest.mark.parametrize("name", ["Segment"])
def test_only_what_is_in_view_of_a_file_is_looked_at(shown: Viewer, qtbot: QtBot, smear: Path, name: str) -> None:
    drop(shown, smear, qtbot)
    image = shown.layers["smear"]
    dock: Any = opened(shown, name)
    dock.region.setCurrentText("What is in view")
    camera_of(shown).zoom *= 8
    camera_of(shown).center = image.data_to_world(PALE[0])
    Screen(shown, image)
    analyse(shown, qtbot, name)
    assert id_at(cells_of(shown), PALE[0])
    assert len(types_in(cells_of(shown))) < 4


def test_a_click_on_glass_takes_nothing_from_the_cell_beside_it(
    shown: Viewer, qtbot: QtBot, smear: Path, notifications: list[str]
) -> None:
    drop(shown, smear, qtbot)
    analyse(shown, qtbot)
    layer = cells_of(shown)
    before = np.array(layer.data)
    edit = opened(shown, "Edit cells")
    edit.queue.generator, edit.queue.classifier = Pointing(), BrightnessClassifier()
    press(edit.buttons.tools[Tool.CLICK])
    screen = Screen(shown, layer)
    with qtbot.waitSignal(edit.queue._work.finished, timeout=30_000):
        screen.click((PALE[0][0], PALE[0][1] + 20))
    assert np.array_equal(layer.data, before)
    assert "No cell was found" in notifications[-1]


def test_cells_are_kept_by_themselves_and_brought_back_another_day(shown: Viewer, qtbot: QtBot, smear: Path) -> None:
    drop(shown, smear, qtbot)
    analyse(shown, qtbot)
    opened(shown, "Edit cells")
    layer = cells_of(shown)
    screen = Screen(shown, layer)
    screen.click(PALE[0], SHIFT)
    screen.click(PALE[1], SHIFT)
    screen.key("J")
    before, table = np.array(layer.data), links.table_of(layer)
    qtbot.waitUntil(is_any_kept, timeout=30_000)  # nobody saved anything
    shown.layers.clear()
    drop(shown, smear, qtbot)
    dock: Any = opened(shown, "Analyse")
    qtbot.waitUntil(dock.bring_back.isVisible, timeout=30_000)
    asked = answer("Bring them back")
    press(dock.run)  # finding them again would replace the one made by hand
    qtbot.waitUntil(lambda: "smear cells" in shown.layers, timeout=30_000)
    assert "outlined by hand" in asked[0]
    back = cells_of(shown)
    assert np.array_equal(back.data, before)
    assert links.table_of(back).equals(table)
    assert len(cells_session(shown, back).by_hand) == 1
    assert not dock.bring_back.isVisible()


def test_closing_asks_about_cells_that_are_not_saved_and_ctrl_s_saves_their_result(
    shown: Viewer, qtbot: QtBot, smear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_args, **_options: (str(tmp_path / "result"), ""))
    drop(shown, smear, qtbot)
    analyse(shown, qtbot)
    window = shown.window._qt_window
    asked = answer("Cancel")
    QTimer.singleShot(0, window.close)
    qtbot.waitUntil(lambda: bool(asked), timeout=30_000)
    qtbot.wait(100)
    assert "smear cells" in asked[0]
    assert window.isVisible()
    for layer in ("smear", "smear types", "smear cells"):  # whichever is active
        shown.layers.selection.active = shown.layers[layer]
        screen = Screen(shown, cells_of(shown))
        screen.key("S", CTRL)
        qtbot.waitUntil((tmp_path / "result" / "counts.json").is_file, timeout=60_000)
        rmtree(tmp_path / "result")
    monkeypatch.setattr(QMessageBox, "exec", lambda _box: pytest.fail("it asks again"))
    assert window.findChild(WindowWatch).may_close(shown)
    cells_session(shown, cells_of(shown)).type_cells([1], "platelet")
    monkeypatch.setattr(QMessageBox, "exec", lambda box: box.buttons()[0].click())  # Save…, into the same folder
    assert window.findChild(WindowWatch).may_close(shown)
    assert (tmp_path / "result" / "counts.json").is_file()


def test_from_a_dropped_picture_to_the_same_numbers_on_another_day(
    shown: Viewer, qtbot: QtBot, smear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_args, **_options: (str(tmp_path / "result"), ""))
    drop(shown, smear, qtbot)
    shown.add_image(np.full((64, 64, 3), 230, np.uint8), name="another", rgb=True)  # several images are open
    shown.layers.selection.active = shown.layers["smear"]
    analyse(shown, qtbot)
    layer = cells_of(shown)
    opened(shown, "Review")
    screen = Screen(shown, layer)
    for place in [*PALE, *DARK]:
        for key in ("P", "W", "R"):  # twenty corrections and more; the last one holds
            screen.move(place)
            screen.key(key)
    screen.move(DARK[0])
    screen.key("W")
    edit = opened(shown, "Edit cells")
    edit.queue.generator, edit.queue.classifier = Pointing(), BrightnessClassifier()
    press(edit.buttons.tools[Tool.CLICK])
    screen = Screen(shown, layer)
    with qtbot.waitSignal(edit.queue._work.finished, timeout=60_000):
        screen.click(MISSED)
    screen.key(Qt.Key.Key_Return)
    screen.move(PALE[0])
    screen.key("D")
    screen.click(PALE[1], SHIFT)  # a cell is selected while the result is saved
    count = opened(shown, "Count")
    qtbot.waitUntil(lambda: count.counted is not None and count.counted.n_cells == 10, timeout=30_000)
    table, counts = links.table_of(layer), dict(count.counted.counting.counts)
    assert counts["WBC"] == 1
    Screen(shown, layer).key("S", CTRL)
    qtbot.waitUntil((tmp_path / "result" / "counts.json").is_file, timeout=60_000)
    shown.layers.clear()
    drop(shown, tmp_path / "result", qtbot)
    again = cells_of(shown)
    qtbot.waitUntil(lambda: count.counted is not None and count.counted.n_cells == 10, timeout=30_000)
    assert dict(count.counted.counting.counts) == counts
    assert links.table_of(again)["cell_type"].equals(table["cell_type"])
    assert links.table_of(again)["type_source"].equals(table["type_source"])


def test_the_circle_of_the_scale_is_dragged_to_the_width_of_a_red_cell(
    shown: Viewer, qtbot: QtBot, smear: Path
) -> None:
    drop(shown, smear, qtbot)
    dock = analyse(shown, qtbot)
    press(dock.scale)
    circle = dock.scale.circle
    corners = np.asarray(circle.data[0])
    assert np.ptp(corners, axis=0) == pytest.approx(24)
    assert id_at(cells_of(shown), tuple(corners.mean(0)))  # on a cell
    screen = Screen(shown, circle)
    low = corners.max(0)
    screen.drag([low, low + 3, low + 6])
    sides = np.ptp(np.asarray(circle.data[0]), axis=0)
    assert 27 < sides[0] < 32
    assert sides[0] == pytest.approx(sides[1])
    assert float(dock.form.field("rbc_diameter_px").value) == pytest.approx(sides[0], abs=0.06)
    assert "by the circle" in dock.summary.text()
    press(dock.scale)
    assert "width of a red cell" not in shown.layers


def test_the_workbench_shows_one_image_at_a_time_and_leads_to_its_result(
    shown: Viewer, qtbot: QtBot, smear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_args, **_options: (str(tmp_path / "result"), ""))
    bench: Any = opened(shown, "Workbench")
    assert bench.welcome.isVisible()
    drop(shown, smear, qtbot)
    qtbot.waitUntil(lambda: bench.images.count() == 1, timeout=10_000)
    assert not bench.welcome.isVisible()
    analyse(shown, qtbot)  # one click from the file to the numbers
    count = bench.page("Count")
    assert bench.tabs.currentWidget().isAncestorOf(count)
    qtbot.waitUntil(lambda: count.counted is not None, timeout=30_000)
    qtbot.waitUntil(lambda: "10 cells" in bench.images.item(0).text(), timeout=30_000)
    assert "Count (Blood cells)" not in shown.window.dock_widgets
    shown.add_image(np.full((64, 64, 3), 230, np.uint8), name="another", rgb=True)
    qtbot.waitUntil(lambda: visible_in(shown) == ["another"], timeout=10_000)
    press(bench.back)
    assert visible_in(shown) == ["smear", "smear cells"]
    place = bench.images.visualItemRect(bench.images.item(1)).center()
    QTest.mouseClick(bench.images.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert visible_in(shown) == ["another"]
    press(bench.next)
    assert visible_in(shown) == ["smear", "smear cells"]
    assert shown.layers.selection.active is cells_of(shown)
    press(bench.save)  # and one from there to the result
    assert (tmp_path / "result" / "counts.json").is_file()
    page = tmp_path / "report.html"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_args, **_options: (str(page), ""))
    press(bench.report)  # and one to the page that is signed
    assert page.read_text(encoding="utf-8").count("image/jpeg") == 10
    shown.window.remove_dock_widget(bench)
    assert all(dock.is_resting for dock in bench.docks())
