from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtCore import Qt

from napari_bloodcell.corrections.journal import Journal, default_journal_folder
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.selection import pointed_out
from tests.napari.docks.test_review import open_review, types_in
from tests.napari.smears import TYPES, add_smear

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Labels
    from pytestqt.qtbot import QtBot

    from napari_bloodcell.napari.docks.review.dock import ReviewWidget

KEYS = {"RBC": "R", "WBC": "W", "platelet": "P"}


def begin(viewer: Viewer, qtbot: QtBot, *, reader: str = "Ada", sample: str = "") -> tuple[Labels, ReviewWidget]:
    """Open the dock, give the reader's name, and start the audit by its button."""
    layer = viewer.layers["smear cells"] if "smear cells" in viewer.layers else add_smear(viewer)
    dock = open_review(viewer)
    dock.tabs.setCurrentWidget(dock.audit)
    dock.journal.name.setText(reader)
    dock.journal.name.editingFinished.emit()
    if sample:
        qtbot.waitUntil(lambda: dock.audit.sample.findData(sample) > 0, timeout=60_000)
        dock.audit.sample.setCurrentIndex(dock.audit.sample.findData(sample))
    qtbot.mouseClick(dock.audit.start, Qt.MouseButton.LeftButton)
    return layer, dock


def judge(viewer: Viewer, dock: ReviewWidget, layer: Labels, qtbot: QtBot, types: list[str]) -> None:
    """Press the key of each cell's class, as long as a cell is shown."""
    while dock.audit.is_running:
        (cell,) = pointed_out(viewer, layer).tolist()
        qtbot.keyClick(dock.audit.picture, KEYS[types[cell - 1]].lower())


def told(dock: ReviewWidget, qtbot: QtBot, words: str = "") -> str:
    """Return the result once it is told, with these words in it."""
    qtbot.waitUntil(lambda: bool(dock.audit.result.text()) and words in dock.audit.result.text(), timeout=60_000)
    return dock.audit.result.text()


def corrections() -> list[Any]:
    return Journal(default_journal_folder()).read()


def test_a_reader_types_every_cell_and_is_told_how_many_were_right(viewer: Viewer, qtbot: QtBot) -> None:
    layer, dock = begin(viewer, qtbot)
    assert dock.audit.picture.pixmap().width() > 100
    assert "1 of 6" in dock.audit.hint.text()
    judge(viewer, dock, layer, qtbot, ["RBC", "WBC", "RBC", "RBC", "platelet", "WBC"])
    told(dock, qtbot)
    assert "Ada: right 5 of 6, 83.3 % (35.9–99.6 %); weighted by class 83.3 %" in dock.audit.result.text()
    assert "Wrong for Ada: 1 of 4 RBC" in dock.audit.result.text()
    assert types_in(layer)[5] == "WBC"  # what is judged is a correction
    assert {c.audit_type for c in corrections()} == set(TYPES)


def test_no_type_is_seen_until_the_reader_has_typed(viewer: Viewer, qtbot: QtBot) -> None:
    typed = links.types_layer_for(viewer, add_smear(viewer))
    assert typed is not None
    typed.visible = True
    layer, dock = begin(viewer, qtbot)
    assert not layer.visible
    assert not typed.visible
    assert viewer.layers.selection.active is viewer.layers["smear"]  # its status tells colours, not types
    words = " ".join([dock.audit.hint.text(), dock.audit.result.text(), dock.audit.picture.toolTip()])
    assert not any(name in words for name in TYPES)
    qtbot.mouseClick(dock.audit.start, Qt.MouseButton.LeftButton)  # "Stop the audit"
    assert layer.visible
    assert typed.visible
    assert viewer.layers.selection.active is layer
    told(dock, qtbot, "Nothing was judged.")


def test_a_second_reader_judges_the_same_sample_blind_and_both_are_compared(viewer: Viewer, qtbot: QtBot) -> None:
    layer, dock = begin(viewer, qtbot)
    judge(viewer, dock, layer, qtbot, ["RBC", "WBC", "RBC", "RBC", "platelet", "WBC"])
    told(dock, qtbot)
    name = corrections()[0].audit
    layer, dock = begin(viewer, qtbot, reader="Ben", sample=name)
    assert dock.audit.result.text() == ""
    judge(viewer, dock, layer, qtbot, TYPES)
    told(dock, qtbot, "Ben")
    assert "Ben: right 6 of 6, 100.0 %" in dock.audit.result.text()  # against the types that were drawn, not Ada's
    assert "Ada: right 5 of 6" in dock.audit.result.text()
    assert "Ada and Ben: κ = 0.7" in dock.audit.result.text()
    assert "over 6 cells" in dock.audit.result.text()


def test_a_reader_cannot_judge_a_sample_twice(viewer: Viewer, qtbot: QtBot, notifications: list[str]) -> None:
    layer, dock = begin(viewer, qtbot)
    judge(viewer, dock, layer, qtbot, TYPES)
    told(dock, qtbot)
    begin(viewer, qtbot, sample=corrections()[0].audit)
    assert "has judged this sample" in notifications[-1]
    assert not dock.audit.is_running


def test_what_was_judged_before_a_stop_counts(viewer: Viewer, qtbot: QtBot) -> None:
    layer, dock = begin(viewer, qtbot)
    for _ in range(2):
        (cell,) = pointed_out(viewer, layer).tolist()
        qtbot.keyClick(dock.audit.picture, KEYS[TYPES[cell - 1]].lower())
    qtbot.mouseClick(dock.audit.start, Qt.MouseButton.LeftButton)
    told(dock, qtbot, "right 2 of 2")


def test_undo_leads_back_to_the_cell(viewer: Viewer, qtbot: QtBot) -> None:
    layer, dock = begin(viewer, qtbot)
    (first,) = pointed_out(viewer, layer).tolist()
    qtbot.keyClick(dock.audit.picture, "w")
    assert "2 of 6" in dock.audit.hint.text()
    dock.undo_buttons.actions_by_name["Undo"].click()
    assert "1 of 6" in dock.audit.hint.text()
    assert pointed_out(viewer, layer).tolist() == [first]
    assert types_in(layer) == TYPES


def test_a_double_click_on_a_class_judges_too_and_a_key_of_no_class_does_nothing(viewer: Viewer, qtbot: QtBot) -> None:
    layer, dock = begin(viewer, qtbot)
    (first,) = pointed_out(viewer, layer).tolist()
    qtbot.keyClick(dock.audit.picture, "z")
    assert "1 of 6" in dock.audit.hint.text()
    dock.classes.table.activate("platelet")
    dock.classes.table.cellDoubleClicked.emit(dock.classes.table.currentRow(), 0)
    assert "2 of 6" in dock.audit.hint.text()
    assert types_in(layer)[first - 1] == "platelet"


def test_another_layer_ends_the_audit_and_shows_the_types_again(viewer: Viewer, qtbot: QtBot) -> None:
    layer, dock = begin(viewer, qtbot)
    other = add_smear(viewer, name="other", brightness=20)
    dock.cells.choose(other)
    assert not dock.audit.is_running
    assert layer.visible


def test_the_number_of_cells_a_class_is_kept_to(viewer: Viewer, qtbot: QtBot) -> None:
    add_smear(viewer)
    dock = open_review(viewer)
    dock.audit.n_per_class.setValue(1)
    _, dock = begin(viewer, qtbot)
    assert "1 of 3" in dock.audit.hint.text()


@pytest.mark.usefixtures("nothing_left")
def test_a_dock_that_closes_in_an_audit_shows_the_types_again(viewer: Viewer, qtbot: QtBot) -> None:
    layer, dock = begin(viewer, qtbot)
    dock.rest()
    assert layer.visible
