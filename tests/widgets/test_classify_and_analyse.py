from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import napari_bloodcell as nb
from napari_bloodcell.params import Recipe
from napari_bloodcell.widgets import _layers as layers
from napari_bloodcell.widgets.analyse import PRESETS, AnalyseWidget
from napari_bloodcell.widgets.classify import ClassifyWidget
from napari_bloodcell.widgets.count import CountWidget
from tests.fakes import BrightnessClassifier, ThresholdGenerator

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari import Viewer
    from napari.layers import Labels
    from pytestqt.qtbot import QtBot

DOCKS = ("Analyse", "Segment", "Classify", "Edit cells", "Count", "Review", "Train")
PARAMS = nb.SegmentParams(rbc_diameter_px=24, tile_size=128)


@dataclass
class BrokenClassifier(BrightnessClassifier):
    """Fails as torch does."""

    def predict(self, cutouts: np.ndarray) -> np.ndarray:
        raise RuntimeError("CUDA out of memory")


def dock_of(viewer: Viewer, name: str) -> Any:
    return viewer.window.add_plugin_dock_widget("napari-bloodcell", name)[1]


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
    assert layers.table_of(cells)["cell_type"].value_counts().to_dict() == {"RBC": 8, "WBC": 2}
    types = layers.types_layer_for(viewer, cells)
    assert set(np.unique(np.asarray(types.data))) == {0, 1, 2}
    assert layers.info_of(cells)["models"]["classify"]["name"] == "brightness"
    assert viewer.layers.selection.active is cells


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
    before = layers.table_of(cells)
    widget = dock_of(viewer, "Classify")
    widget.classifier = BrokenClassifier()
    run(widget, qtbot)
    assert "not enough memory" in notifications[0]
    assert layers.table_of(cells).equals(before)


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
    viewer.add_labels(np.zeros((9, 9), np.uint8), name="labels")
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
    assert any(isinstance(dock, CountWidget) for dock in docks.values())
    shown = nb.napari.result_of(viewer.layers["smear cells"])
    recipe = widget.recipe()
    plain = nb.analyse(field, recipe=recipe, generator=ThresholdGenerator(), classifier=BrightnessClassifier())
    assert shown.counts == plain.counts
    assert (shown.types == plain.types).all()


def test_stopping_the_chain_keeps_cells_and_types_nothing(viewer: Viewer, qtbot: QtBot, field: np.ndarray) -> None:
    viewer.add_image(np.tile(field, (4, 4, 1)), name="smear", rgb=True)
    widget = dock_of(viewer, "Analyse")
    widget.generator, widget.classifier = ThresholdGenerator(), BrightnessClassifier()
    widget.form.set_values({"rbc_diameter_px": 24})
    widget.panel.work.progressed.connect(lambda step: widget.panel.work.cancel() if step.done == 1 else None)
    run(widget, qtbot)
    table = layers.table_of(viewer.layers["smear cells"])
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
    for theme in ("dark", "light"):
        viewer.theme = theme
        viewer.window._qt_window.resizeDocks([dock], [350], Qt.Orientation.Horizontal)
        qtbot.wait(100)
        assert widget.width() <= 350
        for shown in [*widget.findChildren(QLabel), *widget.findChildren(QAbstractButton)]:
            if shown.isVisible() and shown.text() and not getattr(shown, "wordWrap", bool)():
                needed = shown.fontMetrics().horizontalAdvance(shown.text())
                assert shown.width() >= needed, f"{shown.text()!r} is cut off: {shown.width()} of {needed} px"
        if name in ("Analyse", "Segment", "Classify"):  # there is room enough for what they show
            bar = widget.findChild(QScrollArea).verticalScrollBar()
            qtbot.waitUntil(lambda bar=bar: not bar.isVisible())


def test_every_control_has_a_tooltip_and_can_be_reached_by_keyboard(viewer: Viewer) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QAbstractSpinBox, QCheckBox, QComboBox, QPushButton

    for name in DOCKS:
        widget = dock_of(viewer, name)
        for kind in (QAbstractSpinBox, QCheckBox, QComboBox, QPushButton):
            for control in widget.findChildren(kind):
                told = (
                    control.toolTip() or control.parentWidget().toolTip() or "More" in getattr(control, "text", str)()
                )
                assert told, f"{name}: {control} has no tooltip"
                assert control.focusPolicy() & Qt.FocusPolicy.TabFocus
