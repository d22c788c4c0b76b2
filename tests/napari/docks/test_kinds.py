"""Kinds of types in the Review dock: colours, keys, gallery, journal, undo, marks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QInputDialog

from napari_bloodcell.core.cells import KINDS, WBC, kind_colour, kind_names
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.corrections.journal import Journal, default_journal_folder, image_hash
from napari_bloodcell.napari.docks.references import FOLDER, SOURCES, reference_pictures
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.session.opening import cells_session
from tests.napari.smears import CENTRES, add_smear

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Labels

    from napari_bloodcell.napari.docks.count.dock import CountWidget
    from napari_bloodcell.napari.docks.review.dock import ReviewWidget

NEUTROPHIL, EOSINOPHIL = "WBC: neutrophil", "WBC: eosinophil"


def open_review(viewer: Viewer) -> ReviewWidget:
    widget: ReviewWidget = viewer.window.add_plugin_dock_widget("napari-bloodcell", "Review")[1]
    return widget


def key(viewer: Viewer, name: str) -> None:
    """Press a key on the canvas, as a person does."""
    canvas = viewer.window._qt_viewer.canvas.native
    QTest.keyClick(canvas, getattr(Qt.Key, f"Key_{name}"))
    QApplication.processEvents()


def point_at(viewer: Viewer, layer: Labels, cell: int) -> None:
    viewer.cursor.position = tuple(layer.data_to_world(CENTRES[cell - 1]))


def row(layer: Labels, cell: int) -> dict[str, Any]:
    found: dict[str, Any] = links.table_of(layer).loc[cell].to_dict()
    return found


def told(layer: Labels, cell: int) -> tuple[str, str, str]:
    found = row(layer, cell)
    return found["cell_type"], found["subtype"], found["subtype_source"]


def journal_of(viewer: Viewer) -> Any:
    return Journal(default_journal_folder()).read(image_hash(viewer.layers["smear"].data))


def test_a_key_switches_the_keys_to_kinds_and_back(viewer: Viewer) -> None:
    layer = add_smear(viewer)
    dock = open_review(viewer)
    dock.classes.table.activate("WBC")
    key(viewer, "K")
    names = [dock.classes.table.item(i, 0).text() for i in range(dock.classes.table.rowCount())]
    assert names == [*KINDS[WBC], "unidentified"]
    point_at(viewer, layer, 2)
    key(viewer, "E")
    assert told(layer, 2) == ("WBC", "eosinophil", "user")
    key(viewer, "1")
    assert told(layer, 2) == ("WBC", "neutrophil", "user")
    assert dock.classes.table.item(0, 2).text() == "1"
    point_at(viewer, layer, 3)
    key(viewer, "L")  # a red cell that is a lymphocyte: its type follows
    assert told(layer, 3) == ("WBC", "lymphocyte", "user")
    key(viewer, "K")
    assert dock.classes.table.active == "WBC"
    key(viewer, "R")
    assert told(layer, 3) == ("RBC", "", "model")


def test_kinds_are_undone_and_kept_in_the_journal(viewer: Viewer) -> None:
    layer = add_smear(viewer)
    session = cells_session(viewer, layer)
    session.type_cells([2], NEUTROPHIL)
    session.type_cells([2], EOSINOPHIL)
    session.undo()
    assert told(layer, 2) == ("WBC", "neutrophil", "user")
    session.undo()
    assert told(layer, 2) == ("WBC", "", "model")
    session.redo()
    session.flush()
    said = [(c.from_subtype, c.to_type, c.to_subtype) for c in journal_of(viewer)]
    assert said[0] == ("", "WBC", "neutrophil")
    assert said[1] == ("neutrophil", "WBC", "eosinophil")
    layers.set_table(layer, links.table_of(layer).assign(subtype="", type_source="model", subtype_source="model"))
    found, n_back = session.put_back()
    assert (found.types, n_back) == ({2: NEUTROPHIL}, 1)
    assert told(layer, 2) == ("WBC", "neutrophil", "user")


def test_confirming_a_type_leaves_its_kind(viewer: Viewer) -> None:
    layer = add_smear(viewer)
    layers.set_types(layer, [2], "WBC", source="model", subtype="monocyte", subtype_probability=0.7)
    session = cells_session(viewer, layer)
    session.type_cells([2], "WBC")
    assert told(layer, 2) == ("WBC", "monocyte", "model")
    session.flush()
    assert journal_of(viewer)[0].to_subtype == ""  # the model told it, not the person


def test_cells_are_coloured_by_kind_in_constant_time_through_one_table(viewer: Viewer) -> None:
    layer = add_smear(viewer)
    dock = open_review(viewer)
    session = cells_session(viewer, layer)
    session.type_cells([2], NEUTROPHIL)
    typed = links.types_layer_for(viewer, layer)
    assert typed is not None
    y, x = (int(v) for v in CENTRES[1])
    assert typed.data[y, x] == 2
    dock.classes.colours.setCurrentIndex(1)
    dock.classes.colours.activated.emit(1)
    colour = kind_colour(NEUTROPHIL, kind_names())
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    assert np.allclose(typed.colormap.map(typed.data[y, x])[:3], rgb, atol=0.01)
    red = typed.colormap.map(typed.data[tuple(int(v) for v in CENTRES[0])])
    assert np.ptp(red[:3]) < 0.1  # no kind was told: grey
    session.type_cells([2], "RBC")
    assert typed.data[y, x] == 1
    session.undo()
    assert np.allclose(typed.colormap.map(typed.data[y, x])[:3], rgb, atol=0.01)
    assert session.numbers()["WBC"] == 1  # counted by type as before
    dock.classes.colours.activated.emit(0)
    assert typed.data[y, x] == 2


def test_both_docks_show_which_colours_are_on(viewer: Viewer) -> None:
    add_smear(viewer)
    review = open_review(viewer)
    count: CountWidget = viewer.window.add_plugin_dock_widget("napari-bloodcell", "Count")[1]
    count._colours.setCurrentIndex(1)
    count._colours.activated.emit(1)
    assert review.classes.colours.currentIndex() == 1


def test_the_gallery_shows_the_cells_of_a_kind(viewer: Viewer) -> None:
    layer = add_smear(viewer)
    dock = open_review(viewer)
    session = cells_session(viewer, layer)
    session.type_cells([2, 5], NEUTROPHIL)
    dock.classes.table.activate("WBC")
    dock.switch_kinds()
    dock.gallery.show_class(NEUTROPHIL)
    assert sorted(dock.gallery.gallery.cells.ids.tolist()) == [2, 5]
    dock.gallery.gallery.mark([5])
    QTest.keyClick(dock.gallery.gallery, Qt.Key.Key_B)
    assert told(layer, 5) == ("WBC", "basophil", "user")
    assert dock.gallery.gallery.cells.ids.tolist() == [2]


def test_own_kinds_belong_to_one_of_the_programs_types(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = add_smear(viewer)
    dock = open_review(viewer)
    dock.classes.table.activate("platelet")
    dock.switch_kinds()
    monkeypatch.setattr(QInputDialog, "getText", lambda *_args, **_options: ("giant", True))
    dock.classes.buttons["Add…"].click()
    point_at(viewer, layer, 5)
    key(viewer, "G")
    assert told(layer, 5) == ("platelet", "giant", "user")
    with pytest.raises(InputError, match="has no kinds"):
        cells_session(viewer, layer).add_kind("unidentified", "x")
    with pytest.raises(InputError, match="already"):
        cells_session(viewer, layer).add_kind("WBC", "Neutrophil")
    dock.undo_buttons.actions_by_name["Undo"].click()
    dock.undo_buttons.actions_by_name["Undo"].click()
    assert links.kinds_of(layer) == kind_names()


def test_abnormal_is_a_mark_beside_the_type(viewer: Viewer) -> None:
    layer = add_smear(viewer)
    open_review(viewer)
    point_at(viewer, layer, 4)
    key(viewer, "A")
    assert (row(layer, 4)["abnormal"], row(layer, 4)["cell_type"], row(layer, 4)["type_source"]) == (
        True,
        "RBC",
        "model",
    )
    session = cells_session(viewer, layer)
    session.undo()
    assert not row(layer, 4)["abnormal"]
    session.redo()
    session.mark_abnormal([1, 4])  # not all of them have it: now they do
    session.type_cells([1], "platelet")
    assert row(layer, 1)["abnormal"]  # whatever its type
    session.mark_abnormal([1])
    session.flush()
    assert [c.to_abnormal for c in journal_of(viewer)][-1] is False
    table = links.table_of(layer).assign(abnormal=False, type_source="model")
    layers.set_table(layer, table)
    session.put_back()
    assert links.table_of(layer).index[links.table_of(layer)["abnormal"]].tolist() == [4]
    assert row(layer, 4)["type_source"] == "model"  # the mark says nothing about the type


def test_marked_cells_are_counted(viewer: Viewer) -> None:
    layer = add_smear(viewer)
    cells_session(viewer, layer).mark_abnormal([1, 2])
    count: CountWidget = viewer.window.add_plugin_dock_widget("napari-bloodcell", "Count")[1]
    count.recount()
    lines = {count._table.item(i, 0).text(): count._table.item(i, 1).text() for i in range(count._table.rowCount())}
    assert lines["Marked as abnormal"] == "2"


def test_reference_pictures_of_a_kind_name_their_source(viewer: Viewer) -> None:
    add_smear(viewer)
    dock = open_review(viewer)
    strip = dock.gallery.references
    assert not strip.isVisibleTo(dock.gallery)
    dock.classes.table.activate("WBC")
    dock.switch_kinds()
    dock.gallery.show_class(EOSINOPHIL)
    assert strip.isVisibleTo(dock.gallery)
    assert len(strip.pictures) == 6
    assert "CC BY 4.0" in strip.source.text()
    dock.gallery.show_class("WBC: unidentified")
    assert not strip.isVisibleTo(dock.gallery)


def test_every_kind_that_free_data_has_is_shown_and_all_is_small() -> None:
    for name in kind_names():
        assert len(reference_pictures(name)) == (0 if name == "RBC: infected" else 6)
    assert sum((FOLDER / f"kinds_{one}.jpg").stat().st_size for one in SOURCES) <= 300_000
