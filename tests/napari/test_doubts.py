"""A window says what speaks against a result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import napari_bloodcell as nb
from napari_bloodcell.napari.layers import links
from tests.fakes import BrightnessClassifier, ThresholdGenerator

if TYPE_CHECKING:
    from pathlib import Path

    from napari import Viewer
    from pytestqt.qtbot import QtBot

    from napari_bloodcell.napari.docks.count.dock import CountWidget

EMPTY = "Nothing but glass"
GLASS = np.full((120, 160, 3), 230, np.uint8)


def dock_of(viewer: Viewer, name: str) -> Any:
    return viewer.window.add_plugin_dock_widget("napari-bloodcell", name)[1]


def test_the_dock_the_layer_and_a_notification_say_what_speaks_against_a_result(
    viewer: Viewer, qtbot: QtBot, notifications: list[str]
) -> None:
    image = viewer.add_image(GLASS, name="smear", rgb=True)
    widget = dock_of(viewer, "Analyse")
    widget.generator, widget.classifier = ThresholdGenerator(), BrightnessClassifier()
    with qtbot.waitSignal(widget.panel.work.finished, timeout=60_000):
        widget.run.click()
    qtbot.waitUntil(lambda: not widget.is_running, timeout=60_000)
    cells = links.cells_layer_for(viewer, image)
    assert EMPTY in widget.summary.text()
    assert links.warnings_of(cells)[0].startswith(EMPTY)
    assert sum(EMPTY in told for told in notifications) == 1


def test_the_count_dock_says_what_speaks_against_the_cells_it_counts(
    viewer: Viewer, qtbot: QtBot, field: np.ndarray
) -> None:
    image = viewer.add_image(field, name="smear", rgb=True)
    params = nb.SegmentParams(rbc_diameter_px=24, tile_size=128)
    cells = nb.napari.segment_layer(image, params=params, generator=ThresholdGenerator())
    nb.napari.classify_layer(cells, classifier=BrightnessClassifier())
    links.info_of(cells)["warnings"] = ["The light comes from one side."]
    dock: CountWidget = dock_of(viewer, "Count")
    dock.recount()
    assert dock._note.text().startswith("⚠ The light comes from one side.")


def test_a_saved_result_keeps_its_warnings_when_it_is_opened_again(
    viewer: Viewer, field: np.ndarray, tmp_path: Path
) -> None:
    image = viewer.add_image(field, name="smear", rgb=True)
    params = nb.SegmentParams(rbc_diameter_px=24, tile_size=128)
    cells = nb.napari.segment_layer(image, params=params, generator=ThresholdGenerator())
    nb.napari.classify_layer(cells, classifier=BrightnessClassifier())
    links.info_of(cells)["warnings"] = ["The light comes from one side."]
    assert nb.napari.result_of(cells).warnings == ("The light comes from one side.",)
    nb.napari.save_result(cells, tmp_path / "saved")
    _, *opened = nb.napari.open_result(tmp_path / "saved", viewer)
    assert [links.warnings_of(layer) for layer in opened if links.is_cells(layer)] == [links.warnings_of(cells)]
