from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QAbstractSpinBox,
    QCheckBox,
    QComboBox,
    QLineEdit,
    QMessageBox,
    QPushButton,
    QRadioButton,
    QSlider,
    QWidget,
)
from superqt import QCollapsible

import napari_bloodcell as nb
from napari_bloodcell.core.params import Recipe
from napari_bloodcell.models.weights import SHIPPED_FOLDER
from napari_bloodcell.napari import menus
from napari_bloodcell.napari.docks.analyse import PRESETS, AnalyseWidget
from napari_bloodcell.napari.docks.classify import ClassifyWidget
from napari_bloodcell.napari.docks.count.dock import CountWidget
from napari_bloodcell.napari.docks.mouse import Tool
from napari_bloodcell.napari.docks.segment import ask_to_keep
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.preferences import note_trained, prefer_model
from napari_bloodcell.napari.session.opening import cells_session
from tests.fakes import BrightnessClassifier, ThresholdGenerator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from napari import Viewer
    from napari.layers import Labels
    from pytestqt.qtbot import QtBot

DOCKS = ("Workbench", "Analyse", "Segment", "Classify", "Edit cells", "Count", "Review", "Train", "Specimen")
PARAMS = nb.SegmentParams(rbc_diameter_px=24, tile_size=128)


@dataclass
class BrokenClassifier(BrightnessClassifier):
    """Fails as torch does."""

    def predict(self, cutouts: np.ndarray) -> np.ndarray:
        raise RuntimeError("CUDA out of memory")


def dock_of(viewer: Viewer, name: str) -> Any:
    return viewer.window.add_plugin_dock_widget("napari-bloodcell", name)[1]


def controls_of(widget: QWidget) -> list[QWidget]:
    """Return what a user sets or presses in a dock, also where it is hidden."""
    kinds = (QAbstractSpinBox, QComboBox, QPushButton, QCheckBox, QRadioButton, QSlider, QLineEdit, QAbstractItemView)
    within = (QAbstractSpinBox, QComboBox, QAbstractItemView)  # these hold lines and lists of their own
    own = [c for c in widget.findChildren(QWidget) if isinstance(c, kinds)]
    return [c for c in own if not any(isinstance(p, within) for p in parents(c))]


def parents(widget: QWidget) -> Iterator[QWidget]:
    above = widget.parentWidget()
    while above is not None:
        yield above
        above = above.parentWidget()


def tab_stops(widget: QWidget, controls: list[QWidget]) -> list[QWidget]:
    """Return the controls in the order in which the Tab key reaches them, from the topmost on."""
    stops = [c for c in controls if c.isVisible() and c.isEnabled()]
    first = min(stops, key=lambda c: (c.mapTo(widget, QPoint(0, 0)).y(), c.mapTo(widget, QPoint(0, 0)).x()))
    found, at = [first], first.nextInFocusChain()
    while at is not first:
        if any(at is c for c in stops):
            found.append(at)
        at = at.nextInFocusChain()
    return found


def told(control: QWidget) -> str:
    text = getattr(control, "text", str)()
    return f"{type(control).__name__} {text or control.accessibleName()!r}"


def run(widget: Any, qtbot: QtBot) -> None:
    with qtbot.waitSignal(widget.panel.work.finished, timeout=60_000):
        widget.run.click()
    qtbot.wait(1)


def with_cells(viewer: Viewer, field: np.ndarray) -> Labels:
    image = viewer.add_image(field, name="smear", rgb=True)
    return nb.napari.segment_layer(image, params=PARAMS, generator=ThresholdGenerator())


def test_a_click_types_the_cells(viewer: Viewer, qtbot: QtBot, field: np.ndarray) -> None:
    cells = with_cells(viewer, field)
    widget = dock_of(viewer, "Classify")
    assert isinstance(widget, ClassifyWidget)
    widget.classifier = BrightnessClassifier()
    run(widget, qtbot)
    assert widget.summary.text().startswith("8 RBC, 2 WBC in ")
    assert links.table_of(cells)["cell_type"].value_counts().to_dict() == {"RBC": 8, "WBC": 2}
    types = links.types_layer_for(viewer, cells)
    assert set(np.unique(np.asarray(types.data))) == {0, 1, 2}
    assert links.info_of(cells)["models"]["classify"]["name"] == "brightness"
    assert viewer.layers.selection.active is cells


@pytest.mark.parametrize(("name", "dtype"), [("smear_cp_masks", np.uint16), ("StarDist polygons", np.int32)])
def test_labels_of_another_program_are_typed_counted_and_reviewed_by_a_click(
    name: str, dtype: type, viewer: Viewer, qtbot: QtBot, field: np.ndarray
) -> None:
    """Layers as Cellpose (uint16) and StarDist (int32, names of its own) add them: without table or metadata."""
    image = viewer.add_image(field, name="smear", rgb=True)
    found = nb.segment(field, params=PARAMS, generator=ThresholdGenerator())
    layer = viewer.add_labels(found.cells.astype(dtype), name=name)
    classify = dock_of(viewer, "Classify")
    classify.classifier = BrightnessClassifier()
    assert classify.cells.layer is layer
    assert classify.image.layer is image
    with qtbot.waitSignal(classify.panel.work.finished, timeout=60_000):
        qtbot.mouseClick(classify.run, Qt.MouseButton.LeftButton)
    qtbot.wait(1)
    assert classify.summary.text().startswith("8 RBC, 2 WBC in ")
    count = dock_of(viewer, "Count")
    assert count.cells_layer is layer
    qtbot.waitUntil(lambda: count.counted is not None, timeout=10_000)
    assert count.counted.counting.counts["RBC"] == 8
    review = dock_of(viewer, "Review")
    y, x = (int(v) for v in links.table_of(layer)[["centroid_y", "centroid_x"]].iloc[0])
    review.buttons.tools[Tool.CLICK].click()
    review.classes.table.activate("platelet")
    review.mouse.events.clicked(value=(float(y), float(x)))
    assert links.table_of(layer)["cell_type"].iloc[0] == "platelet"
    qtbot.waitUntil(lambda: count.counted.counting.counts["platelet"] == 1, timeout=10_000)


def test_the_image_of_the_chosen_cells_is_chosen_too(viewer: Viewer, field: np.ndarray) -> None:
    with_cells(viewer, field)
    viewer.add_image(255 - field, name="another", rgb=True)
    widget = dock_of(viewer, "Classify")
    widget.cells.choose(viewer.layers["smear cells"])
    widget._on_cells()
    assert widget.image.layer.name == "smear"


def test_a_classifier_that_fails_changes_nothing(
    viewer: Viewer, qtbot: QtBot, field: np.ndarray, notifications: list[str]
) -> None:
    cells = with_cells(viewer, field)
    before = links.table_of(cells)
    widget = dock_of(viewer, "Classify")
    widget.classifier = BrokenClassifier()
    run(widget, qtbot)
    assert "not enough memory" in notifications[0]
    assert links.table_of(cells).equals(before)
    cells_session(viewer, cells).delete([1])  # nothing is locked any more


def test_cells_deleted_while_they_are_typed_are_told(
    viewer: Viewer, qtbot: QtBot, field: np.ndarray, notifications: list[str]
) -> None:
    cells = with_cells(viewer, field)
    widget = dock_of(viewer, "Classify")
    widget.classifier = BrightnessClassifier()
    with qtbot.waitSignal(widget.panel.work.finished, timeout=60_000):
        widget.run.click()
        viewer.layers.remove(cells)
    assert "deleted meanwhile" in notifications[0]


def test_cells_of_another_image_are_refused(viewer: Viewer, field: np.ndarray, notifications: list[str]) -> None:
    viewer.add_labels(np.repeat(np.arange(1, 4, dtype=np.uint8), 27).reshape(9, 9), name="labels")
    viewer.add_image(field, name="smear", rgb=True)
    dock_of(viewer, "Classify").run.click()
    assert "do not belong together" in notifications[0]


def test_there_must_be_cells_to_type(viewer: Viewer, field: np.ndarray, notifications: list[str]) -> None:
    viewer.add_image(field, name="smear", rgb=True)
    dock_of(viewer, "Classify").run.click()
    assert "Segment" in notifications[0]


def test_one_click_runs_the_chain_and_opens_the_count(
    viewer: Viewer, qtbot: QtBot, field: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    viewer.add_image(field, name="smear", rgb=True)
    widget = dock_of(viewer, "Analyse")
    assert isinstance(widget, AnalyseWidget)
    widget.generator, widget.classifier = ThresholdGenerator(), BrightnessClassifier()
    widget.form.set_values({"rbc_diameter_px": 24})
    widget.run.click()
    qtbot.waitUntil(lambda: "WBC" in widget.summary.text(), timeout=60_000)
    assert capfd.readouterr() == ("", "")  # all there is to say is in the window
    assert not widget.is_running
    assert [layer.name for layer in viewer.layers] == ["smear", "smear types", "smear cells"]
    docks = viewer.window.dock_widgets
    assert isinstance(docks["Count (Blood cells)"], CountWidget)  # the name that the Plugins menu looks for
    shown = nb.napari.result_of(viewer.layers["smear cells"])
    recipe = widget.recipe()
    plain = nb.analyse(field, recipe=recipe, generator=ThresholdGenerator(), classifier=BrightnessClassifier())
    assert shown.counts == plain.counts
    assert (shown.types == plain.types).all()


@pytest.mark.parametrize("opened_as", ["Review (Blood cells)", "Review (napari-bloodcell)"])
def test_a_dock_that_is_open_is_shown_and_not_opened_again(viewer: Viewer, opened_as: str) -> None:
    first = menus.open_dock(viewer, "Review")
    assert list(viewer.window.dock_widgets) == ["Review (Blood cells)"]
    if opened_as.endswith("(napari-bloodcell)"):
        viewer.window.remove_dock_widget(first)
        first = viewer.window.add_plugin_dock_widget("napari-bloodcell", "Review")[1]
    first.parent().hide()
    assert menus.open_dock(viewer, "Review") is first
    assert list(viewer.window.dock_widgets) == [opened_as]
    assert not first.parent().isHidden()


def test_stopping_the_chain_keeps_cells_and_types_nothing(viewer: Viewer, qtbot: QtBot, field: np.ndarray) -> None:
    viewer.add_image(np.tile(field, (4, 4, 1)), name="smear", rgb=True)
    widget = dock_of(viewer, "Analyse")
    widget.generator, widget.classifier = ThresholdGenerator(), BrightnessClassifier()
    widget.form.set_values({"rbc_diameter_px": 24})
    widget.panel.work.progressed.connect(lambda step: widget.panel.work.cancel() if step.done == 1 else None)
    run(widget, qtbot)
    table = links.table_of(viewer.layers["smear cells"])
    assert 0 < len(table) < 160
    assert not table["cell_type"].astype(bool).any()
    assert "Stopped" in widget.summary.text()


def test_the_papers_preset_is_the_papers_recipe(viewer: Viewer) -> None:
    widget = AnalyseWidget(viewer)
    try:
        assert widget.recipe() == Recipe()
        widget.preset.setCurrentText(PRESETS[1])
        assert widget.recipe() == Recipe.paper()
    finally:
        widget.close()


@pytest.mark.parametrize("name", DOCKS)
def test_every_dock_is_readable_at_350_pixels_in_both_themes(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, field: np.ndarray, name: str
) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QAbstractButton, QLabel, QScrollArea

    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1200, 900)
    with_cells(viewer, field)
    dock, widget = viewer.window.add_plugin_dock_widget("napari-bloodcell", name)

    def check_that_nothing_is_cut_off() -> None:
        assert widget.width() <= 350
        for shown in [*widget.findChildren(QLabel), *widget.findChildren(QAbstractButton)]:
            if shown.isVisible() and shown.text() and not getattr(shown, "wordWrap", bool)():
                needed = shown.fontMetrics().horizontalAdvance(shown.text())
                assert shown.width() >= needed, f"{shown.text()!r} is cut off: {shown.width()} of {needed} px"

    for theme in ("dark", "light"):
        viewer.theme = theme
        viewer.window._qt_window.resizeDocks([dock], [350], Qt.Orientation.Horizontal)
        qtbot.wait(100)
        qtbot.waitUntil(check_that_nothing_is_cut_off)  # layouts settle later where the machine is busy
        if name in ("Analyse", "Segment", "Classify"):  # there is room enough for what they show
            bar = widget.findChild(QScrollArea).verticalScrollBar()
            qtbot.waitUntil(lambda bar=bar: not bar.isVisible())


@pytest.mark.parametrize("name", DOCKS)
def test_every_control_has_a_tooltip_and_the_tab_key_reaches_it_from_the_top_down(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, field: np.ndarray, name: str
) -> None:
    viewer = make_napari_viewer(show=True)
    nb.napari.classify_layer(with_cells(viewer, field), classifier=BrightnessClassifier())
    widget = dock_of(viewer, name)
    qtbot.wait(200)
    controls = controls_of(widget)
    for control in controls:
        if not isinstance(control, QAbstractItemView):  # their headers and items have tooltips
            assert control.toolTip() or control.parentWidget().toolTip(), f"{told(control)} has no tooltip"
        assert control.focusPolicy() & Qt.FocusPolicy.TabFocus, told(control)
    for fold in widget.findChildren(QCollapsible):
        assert not [c for c in fold.content().findChildren(QWidget) if c.isVisible()], "Tab goes through what is folded"
        fold.expand()
    qtbot.wait(100)
    reached = tab_stops(widget, controls)
    assert {id(c) for c in reached} == {id(c) for c in controls if c.isVisible() and c.isEnabled()}
    heights = [c.mapTo(widget, QPoint(0, c.height() // 2)).y() for c in reached]
    for above, below, control in zip(heights, heights[1:], reached[1:], strict=False):
        assert below > above - 12, f"Tab jumps up to {told(control)}"


def test_the_pieces_of_a_mask_are_made_cells_if_one_wishes(
    viewer: Viewer, qtbot: QtBot, field: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = viewer.add_image(field, name="smear", rgb=True)
    mask = viewer.add_labels((field[..., 0] < 215).astype(np.uint8), name="mask")
    widget = dock_of(viewer, "Classify")
    widget.classifier = BrightnessClassifier()
    widget.cells.choose(mask)
    widget.image.choose(image)
    asked: list[str] = []

    def yes(_parent: QWidget, _title: str, text: str) -> QMessageBox.StandardButton:
        asked.append(text)
        return QMessageBox.StandardButton.Yes

    monkeypatch.setattr(QMessageBox, "question", yes)
    run(widget, qtbot)
    assert len(asked) == 1
    assert len(links.table_of(mask)) > 5


@pytest.mark.parametrize(("button", "kept"), [("Keep by hand", True), ("Find all anew", False), ("Cancel", None)])
def test_finding_cells_again_asks_what_becomes_of_those_made_by_hand(
    viewer: Viewer, field: np.ndarray, monkeypatch: pytest.MonkeyPatch, button: str, kept: bool | None
) -> None:
    cells = with_cells(viewer, field)
    image = viewer.layers["smear"]
    parent = QWidget()
    assert ask_to_keep(parent, viewer, image) is True  # nobody made one: nothing is asked
    cells_session(viewer, cells).delete([1])
    cells_session(viewer, cells).by_hand = frozenset({2})

    def press(box: QMessageBox) -> int:
        next(b for b in box.buttons() if b.text().replace("&", "") == button).click()
        return 0

    monkeypatch.setattr(QMessageBox, "exec", press)
    assert ask_to_keep(parent, viewer, image) is kept
    parent.deleteLater()


def test_analysing_again_is_one_step_of_undo(viewer: Viewer, qtbot: QtBot, field: np.ndarray) -> None:
    cells = with_cells(viewer, field)
    widget = dock_of(viewer, "Analyse")
    widget.generator, widget.classifier = ThresholdGenerator(), BrightnessClassifier()
    session = cells_session(viewer, cells)
    session.delete([1, 2])
    before = links.table_of(cells)
    done = session.history.done.copy()
    run(widget, qtbot)
    qtbot.waitUntil(lambda: not widget.is_running, timeout=60_000)
    assert len(session.history.done) == len(done) + 1
    session.undo()
    assert links.table_of(cells).equals(before)


def test_the_models_of_kinds_are_chosen_in_both_docks(viewer: Viewer, qtbot: QtBot, tmp_path: Path) -> None:
    analyse, classify = (dock_of(viewer, name) for name in ("Analyse", "Classify"))
    for dock in (analyse, classify):
        assert dock.models.kinds.value == ("differential",)
        dock.models.kinds.boxes["parasites"].click()
    assert analyse.recipe().classify.subtypes == ("differential", "parasites")
    classify.models.kinds.boxes["differential"].click()
    assert classify.models.kinds.value == ("parasites",)
    mine = tmp_path / "mine.safetensors"
    shutil.copy(SHIPPED_FOLDER / "parasites.safetensors", mine)
    note_trained(mine)
    analyse.models.refresh()
    assert analyse.models.kinds.boxes[str(mine)].text() == "mine"
    prefer_model(mine, of_kinds=True)
    analyse.models.refresh()
    assert analyse.recipe().classify.subtypes == ("differential", str(mine))
    analyse.preset.setCurrentIndex(1)
    assert not analyse.models.kinds.isEnabled()
    assert analyse.recipe().classify.subtypes == ()
