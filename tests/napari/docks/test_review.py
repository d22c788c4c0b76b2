from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QColorDialog, QInputDialog

from napari_bloodcell.corrections.journal import Journal, default_journal_folder, image_hash
from napari_bloodcell.napari.docks.gallery import PER_LAYER
from napari_bloodcell.napari.docks.mouse import Tool
from napari_bloodcell.napari.docks.review.walk import Order
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.private import camera_of
from napari_bloodcell.napari.layers.selection import pointed_out, select_cells, selected_cells
from napari_bloodcell.napari.session.opening import cells_session
from tests.napari.smears import CENTRES, TYPES, add_smear, label_image, typed_table

if TYPE_CHECKING:
    from pathlib import Path

    from napari import Viewer
    from napari.layers import Labels
    from pytestqt.qtbot import QtBot

    from napari_bloodcell.napari.docks.review.dock import ReviewWidget


def open_review(viewer: Viewer) -> ReviewWidget:
    widget: ReviewWidget = viewer.window.add_plugin_dock_widget("napari-bloodcell", "Review")[1]
    return widget


def types_in(layer: Labels) -> list[str]:
    return links.table_of(layer)["cell_type"].tolist()


def press(layer: Labels, key: str) -> None:
    {str(k): action for k, action in layer.keymap.items()}[key](layer)


def hover(dock: ReviewWidget, layer: Labels, cell: int) -> None:
    dock._viewer.cursor.position = tuple(layer.data_to_world(CENTRES[cell - 1]))


def journal_of(viewer: Viewer, name: str = "smear") -> Any:
    return Journal(default_journal_folder()).read(image_hash(viewer.layers[name].data))


def test_a_key_types_the_cell_under_the_mouse_and_everything_follows(viewer: Viewer) -> None:
    layer = add_smear(viewer)
    dock = open_review(viewer)
    hover(dock, layer, 3)
    press(layer, "W")
    assert types_in(layer)[2] == "WBC"
    assert dock.classes.table.item(1, 2).text() == "2"
    typed = links.types_layer_for(viewer, layer)
    assert typed is not None
    assert typed.data[30, 130] == 2
    press(typed, "3")  # digits, too, and on the typed layer
    assert types_in(layer)[2] == "platelet"
    press(layer, "Ctrl+Z")
    press(layer, "Ctrl+Z")
    assert types_in(layer) == TYPES
    press(layer, "Ctrl+Shift+Z")
    assert types_in(layer)[2] == "WBC"
    dock.undo_buttons.actions_by_name["Undo"].click()
    dock.undo_buttons.actions_by_name["Redo"].click()
    assert types_in(layer)[2] == "WBC"


def test_a_click_types_with_the_active_class_and_a_box_selects_for_a_key(viewer: Viewer) -> None:
    layer = add_smear(viewer)
    dock = open_review(viewer)
    dock.buttons.tools[Tool.CLICK].click()
    dock.classes.table.activate("platelet")
    dock.mouse.events.clicked(value=CENTRES[0])
    assert types_in(layer)[0] == "platelet"
    dock.mouse.events.clicked(value=(60.0, 60.0))  # beside the cells
    dock.buttons.tools[Tool.BOX].click()
    dock.mouse.events.boxed(value=(80.0, 0.0, 119.0, 159.0))
    assert selected_cells(viewer, layer).tolist() == [4, 5, 6]
    press(layer, "W")
    assert types_in(layer) == ["platelet", "WBC", "RBC", "WBC", "WBC", "WBC"]
    dock.undo_buttons.actions_by_name["Undo"].click()
    assert types_in(layer)[3:] == TYPES[3:]


def test_next_and_back_lead_through_the_cells_in_order(viewer: Viewer) -> None:
    layer = add_smear(viewer)
    dock = open_review(viewer)
    walk = dock.walk
    walk.next.click()
    assert pointed_out(viewer, layer).tolist() == [3]
    assert not len(selected_cells(viewer, layer))  # what is pointed out is not selected
    assert "1 of 6 · cell 3: RBC, 60.0 %" in walk.note.text()
    assert np.allclose(camera_of(viewer).center[-2:], CENTRES[2], atol=1)
    press(layer, ".")
    assert pointed_out(viewer, layer).tolist() == [5]
    press(layer, "W")  # the mouse was not moved since: the cell that is shown
    assert types_in(layer)[4] == "WBC"
    press(layer, ",")
    assert pointed_out(viewer, layer).tolist() == [3]
    walk.choose(Order.READING, "RBC")
    seen = []
    for _ in range(4):
        walk.next.click()
        seen += pointed_out(viewer, layer).tolist()
    assert seen == [1, 4, 3, 6]
    walk.choose(Order.NOT_LOOKED_AT)
    walk.next.click()
    assert pointed_out(viewer, layer).tolist() == [2]


def test_classes_are_added_renamed_recoloured_and_deleted(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = add_smear(viewer)
    dock = open_review(viewer)
    editor = dock.classes
    monkeypatch.setattr(QInputDialog, "getText", lambda *_args, **_options: ("blast", True))
    editor.buttons["Add…"].click()
    assert links.names_of(layer) == ["RBC", "WBC", "platelet", "blast", "unidentified"]
    hover(dock, layer, 2)
    press(layer, "B")
    assert types_in(layer)[1] == "blast"
    editor.table.activate("blast")
    monkeypatch.setattr(QInputDialog, "getText", lambda *_args, **_options: ("lymphoblast", True))
    editor.buttons["Rename…"].click()
    assert types_in(layer)[1] == "lymphoblast"
    assert "B" not in {str(key) for key in layer.keymap}
    editor.table.activate("lymphoblast")
    monkeypatch.setattr(QColorDialog, "getColor", lambda *_args, **_options: _Colour())
    editor.buttons["Colour…"].click()
    typed = links.types_layer_for(viewer, layer)
    assert typed is not None
    assert np.allclose(typed.colormap.map(4), (1, 0, 1, 1))
    editor.buttons["Delete"].click()
    assert types_in(layer)[1] == "unidentified"
    editor.table.activate("RBC")
    assert not editor.buttons["Delete"].isEnabled()
    for _ in range(5):
        dock.undo_buttons.actions_by_name["Undo"].click()
    assert types_in(layer) == TYPES


class _Colour:
    def isValid(self) -> bool:
        return True

    def name(self) -> str:
        return "#ff00ff"


def test_marked_cells_of_the_gallery_are_moved_together(viewer: Viewer, qtbot: QtBot) -> None:
    layer = add_smear(viewer)
    dock = open_review(viewer)
    dock.tabs.setCurrentIndex(1)
    viewer.window._qt_window.show()
    panel = dock.gallery
    panel.show_class("RBC")
    grid = panel.gallery
    assert grid.cells.ids.tolist() == [3, 1, 4, 6]  # the least certain first
    assert grid.cells.data(grid.cells.index(0)) == "60.0 %"
    qtbot.waitUntil(lambda: all(grid.cells.has_picture(cell) for cell in (3, 1)), timeout=30_000)
    grid.mark([3, 4])
    assert panel.move_marked.isEnabled()
    panel._target.setCurrentText("WBC")
    panel.move_marked.click()
    assert types_in(layer) == ["RBC", "WBC", "WBC", "WBC", "platelet", "RBC"]
    assert grid.cells.ids.tolist() == [1, 6]
    dock.undo_buttons.actions_by_name["Undo"].click()
    assert grid.cells.ids.tolist() == [3, 1, 4, 6]
    grid.mark([6])
    qtbot.keyClick(grid, Qt.Key.Key_P)
    assert types_in(layer)[5] == "platelet"


def test_the_counts_follow(viewer: Viewer, qtbot: QtBot) -> None:
    layer = add_smear(viewer)
    count = viewer.window.add_plugin_dock_widget("napari-bloodcell", "Count")[1]
    dock = open_review(viewer)
    qtbot.waitUntil(lambda: count.counted is not None, timeout=20_000)
    dock.type_cells([1, 3], "WBC")
    qtbot.waitUntil(lambda: count.counted.counting.counts["WBC"] == 3, timeout=20_000)
    assert types_in(layer).count("WBC") == 3


def test_each_correction_is_in_the_journal_and_comes_back_with_the_image(viewer: Viewer, qtbot: QtBot) -> None:
    add_smear(viewer)
    dock = open_review(viewer)
    dock.type_cells([2], "platelet")
    dock.type_cells([3], "WBC")
    dock.type_cells([4], "WBC")
    dock.session.undo()
    dock.session.flush()
    written = journal_of(viewer)
    assert [(c.cell, c.from_type, c.to_type) for c in written[:3]] == [
        (2, "WBC", "platelet"),
        (3, "RBC", "WBC"),
        (4, "RBC", "WBC"),
    ]
    first = written[0]
    assert (first.model, first.model_type, first.model_probability) == ("embedded", "WBC", pytest.approx(0.8))
    assert first.annotator
    viewer.layers.clear()
    again = add_smear(viewer)  # opened another day, and typed by the model anew
    qtbot.waitUntil(lambda: types_in(again)[1:4] == ["platelet", "WBC", "RBC"], timeout=20_000)
    assert links.table_of(again).loc[[2, 3], "type_source"].tolist() == ["user", "user"]
    assert links.table_of(again).loc[4, "type_source"] == "model"


def test_segmenting_anew_keeps_corrections_where_the_cell_still_is_and_lists_the_others(
    viewer: Viewer, qtbot: QtBot
) -> None:
    layer = add_smear(viewer)
    dock = open_review(viewer)
    dock.type_cells([1, 5], "WBC")
    dock.session.flush()
    cells = label_image(CENTRES[:4][::-1], radius=11)  # other ids, other outlines, and two cells are not found
    links.full_resolution(layer)[...] = cells
    layers.set_table(layer, typed_table(cells))
    layers.refresh_cells(layer)
    qtbot.waitUntil(lambda: links.table_of(layer).loc[4, "type_source"] == "user", timeout=20_000)
    assert types_in(layer)[3] == "WBC"
    lost = dock.journal.lost
    qtbot.waitUntil(lambda: lost.count() == 1, timeout=20_000)
    assert "platelet → WBC at 90, 80" in lost.item(0).text()
    camera_of(viewer).center = (0, 0)
    lost.setCurrentRow(0)
    qtbot.keyClick(lost, Qt.Key.Key_Return)
    assert camera_of(viewer).center[-2:] == (90, 80)


def test_a_second_persons_journal_is_merged_and_the_user_decides(viewer: Viewer, qtbot: QtBot, tmp_path: Path) -> None:
    layer = add_smear(viewer)
    dock = open_review(viewer)
    dock.journal.name.setText("Ada")
    dock.journal.name.editingFinished.emit()
    for cell, name in ((1, "RBC"), (2, "WBC"), (3, "WBC")):
        dock.type_cells([cell], name)
    dock.session.flush()
    theirs = Journal(tmp_path / "theirs.jsonl")
    for mine, name in zip(journal_of(viewer), ("RBC", "WBC", "platelet"), strict=True):
        theirs.append(replace(mine, annotator="Grace", to_type=name, key=f"g{mine.cell}"))
    other = next(c for c in journal_of(viewer) if c.cell == 1)
    cell_6 = type(other).of_cell(
        np.asarray(layer.data),
        6,
        (78, 118, 103, 143),
        from_type="RBC",
        to_type="platelet",
        annotator="Grace",
        image_sha256=other.image_sha256,
    )
    theirs.append(cell_6)
    dock.merge(theirs.path)
    panel = dock.journal
    qtbot.waitUntil(lambda: panel.disputes.rowCount() == 1, timeout=20_000)
    assert "κ = 0.50 over 3 shared cells" in panel._kappa.text()
    qtbot.waitUntil(lambda: types_in(layer)[5] == "platelet", timeout=20_000)  # Grace alone said something of it
    assert types_in(layer)[2] == "WBC"  # in dispute: mine stays until I decide
    item = panel.disputes.item(0, 2)
    assert item.text() == "platelet"
    item.setSelected(True)
    panel.decide.click()
    assert types_in(layer)[2] == "platelet"
    assert panel.disputes.rowCount() == 0


def test_an_error_is_a_notification(viewer: Viewer, notifications: list[str]) -> None:
    layer = add_smear(viewer)
    dock = open_review(viewer)
    select_cells(viewer, layer, [])
    press(layer, "W")
    assert "No cell is selected" in notifications[-1]
    dock.session.add_class("blast")
    dock.classes.edited.emit("add_class", ("BLAST",))
    assert "already" in notifications[-1]


def test_a_closed_dock_gives_mouse_and_keys_back(viewer: Viewer) -> None:
    layer = add_smear(viewer)
    cells_session(viewer, layer)  # its keys for undo stay
    drags, moves, keys = (len(viewer.mouse_drag_callbacks), len(viewer.mouse_move_callbacks), dict(layer.keymap))
    dock = open_review(viewer)
    assert len(viewer.mouse_drag_callbacks) == drags + 1
    viewer.window.remove_dock_widget(dock)
    assert (len(viewer.mouse_drag_callbacks), len(viewer.mouse_move_callbacks)) == (drags, moves)
    assert dict(layer.keymap) == keys


def strike(qtbot: QtBot, viewer: Viewer, key: str) -> None:
    """Strike a key as a person does, with the picture in focus."""
    qtbot.keyClick(viewer.window._qt_viewer.canvas.native, key.lower())


@pytest.mark.parametrize("mode", ["pan_zoom", "transform", "pick", "paint", "fill", "erase", "polygon"])
def test_keys_of_classes_win_over_those_of_napari_in_each_mode(
    make_napari_viewer: Any, qtbot: QtBot, nothing_left: None, mode: str
) -> None:
    viewer = make_napari_viewer(show=True)
    layer = add_smear(viewer)
    dock = open_review(viewer)
    layer.mode = mode
    selected, keeps = layer.selected_label, layer.preserve_labels
    for key, name in dock.session.classes.keys().items():  # R W P U and 1 2 3 4: napari's paint, erase, fill …
        other = "RBC" if name != "RBC" else "WBC"
        dock.session.type_cells([3], other)
        hover(dock, layer, 3)
        strike(qtbot, viewer, key)
        assert types_in(layer)[2] == name, key
        assert str(layer.mode) == mode, key
    assert (layer.selected_label, layer.preserve_labels) == (selected, keeps)


def test_keys_that_name_no_class_stay_with_napari(make_napari_viewer: Any, qtbot: QtBot, nothing_left: None) -> None:
    viewer = make_napari_viewer(show=True)
    layer = add_smear(viewer)
    open_review(viewer)
    for key, mode in (
        ("f", "fill"),
        ("l", "pick"),
        ("e", "erase"),
        ("z", "pan_zoom"),
        ("5", "pick"),
        ("6", "pan_zoom"),
    ):
        strike(qtbot, viewer, key)
        assert str(layer.mode) == mode, key


def test_keys_are_napari_s_again_when_the_dock_closes(
    make_napari_viewer: Any, qtbot: QtBot, nothing_left: None
) -> None:
    viewer = make_napari_viewer(show=True)
    layer = add_smear(viewer)
    dock = open_review(viewer)
    hover(dock, layer, 3)
    viewer.window.remove_dock_widget(dock)
    before = types_in(layer)
    for key, mode in (
        ("p", "paint"),
        ("1", "erase"),
        ("2", "paint"),
        ("3", "polygon"),
        ("4", "fill"),
        ("z", "pan_zoom"),
    ):
        strike(qtbot, viewer, key)
        assert str(layer.mode) == mode, key
    assert types_in(layer) == before


def test_without_cells_the_dock_waits_for_them(viewer: Viewer) -> None:
    dock = open_review(viewer)
    assert not dock.classes.isEnabled()
    layer = add_smear(viewer)
    dock.cells.refresh()
    dock.cells.choose(layer)
    assert dock.classes.isEnabled()
    assert dock.session.layer is layer


def test_a_file_that_is_no_journal_leaves_what_is_undecided(
    viewer: Viewer, qtbot: QtBot, tmp_path: Path, notifications: list[str]
) -> None:
    add_smear(viewer)
    dock = open_review(viewer)
    dock.type_cells([3], "WBC")
    dock.session.flush()
    theirs = Journal(tmp_path / "theirs.jsonl")
    theirs.append(replace(journal_of(viewer)[0], annotator="Grace", to_type="platelet", key="g3"))
    dock.merge(theirs.path)
    qtbot.waitUntil(lambda: dock.journal.disputes.rowCount() == 1, timeout=20_000)
    (tmp_path / "notes.jsonl").write_text("no,journal\n1,2\n")
    dock.merge(tmp_path / "notes.jsonl")
    qtbot.waitUntil(lambda: "no journal" in "".join(notifications), timeout=20_000)
    assert dock.journal.disputes.rowCount() == 1
    assert "κ" in dock.journal._kappa.text()


def test_the_number_of_corrections_that_is_shown_leaves_out_those_undone(viewer: Viewer) -> None:
    add_smear(viewer)
    dock = open_review(viewer)
    dock.type_cells([2], "platelet")
    dock.type_cells([3], "WBC")
    assert "2 corrections" in dock.journal._number_label.text()
    dock.act("Undo")
    assert "1 correction of" in dock.journal._number_label.text()


def test_the_rest_of_a_page_is_confirmed_and_the_next_doubtful_ones_come_up(
    make_napari_viewer: Any, qtbot: QtBot, nothing_left: None
) -> None:
    viewer = make_napari_viewer(show=True)
    layer = add_smear(viewer)
    dock = open_review(viewer)
    dock.tabs.setCurrentIndex(1)
    dock.gallery.show_class("RBC")
    grid = dock.gallery.gallery
    qtbot.waitUntil(lambda: grid.cells_in_sight() == [3, 1, 4, 6], timeout=20_000)
    assert dock.walk.progress.text().startswith("0 of 3 doubtful cells seen")
    grid.mark([1])
    qtbot.mouseClick(dock.gallery.confirm, Qt.MouseButton.LeftButton)
    sources = layer.features.set_index("index")["type_source"]
    assert sources[[3, 1, 4, 6]].tolist() == ["user", "model", "user", "user"]
    assert grid.cells.ids.tolist()[0] == 1  # what was confirmed is certain
    assert dock.walk.progress.text().startswith("1 of 3 doubtful cells seen")
    dock.session.undo()
    assert layer.features["type_source"].tolist().count("user") == 0


def test_pictures_of_the_gallery_are_zoomed(make_napari_viewer: Any, qtbot: QtBot, nothing_left: None) -> None:
    viewer = make_napari_viewer(show=True)
    add_smear(viewer)
    dock = open_review(viewer)
    dock.tabs.setCurrentIndex(1)
    dock.gallery.show_class("RBC")
    grid = dock.gallery.gallery
    qtbot.waitUntil(lambda: grid.cells.has_picture(3), timeout=30_000)
    qtbot.mouseClick(dock.gallery.larger, Qt.MouseButton.LeftButton)
    grid.setFocus()
    qtbot.keyClick(grid, "+")
    assert grid.iconSize().width() == 144
    qtbot.waitUntil(lambda: grid.cells.has_picture(3), timeout=30_000)
    picture = grid.cells.data(grid.cells.index(0), Qt.ItemDataRole.DecorationRole)
    assert picture.availableSizes()[0].width() == 144
    qtbot.keyClick(grid, "-")
    assert grid.iconSize().width() == 96


def test_the_gallery_shows_and_types_cells_of_all_open_images(
    make_napari_viewer: Any, qtbot: QtBot, nothing_left: None
) -> None:
    viewer = make_napari_viewer(show=True)
    first, second = add_smear(viewer), add_smear(viewer, name="another", brightness=5)
    viewer.layers.selection.active = first
    dock = open_review(viewer)
    dock.tabs.setCurrentIndex(1)
    panel = dock.gallery
    panel.show_class("RBC")
    n = len(panel.gallery.cells.ids)
    qtbot.mouseClick(panel.everywhere, Qt.MouseButton.LeftButton, pos=QPoint(8, panel.everywhere.height() // 2))
    assert len(panel.gallery.cells.ids) == 2 * n
    of_second = [int(key) for key in panel.gallery.cells.ids if key >= PER_LAYER]
    qtbot.waitUntil(lambda: panel.gallery.cells.has_picture(of_second[0]), timeout=30_000)
    panel.gallery.mark(of_second[:1])
    qtbot.keyClick(panel.gallery, Qt.Key.Key_W)
    changed = of_second[0] % PER_LAYER
    assert types_in(second)[changed - 1] == "WBC"
    assert types_in(first) == TYPES
    assert len(panel.gallery.cells.ids) == 2 * n - 1
    panel.gallery.cell_chosen.emit(of_second[1])
    assert dock.session.layer is second
