"""What a person does with mouse and keys on the canvas, by real events, in each dock alone and in both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest

from napari_bloodcell.napari.docks.mouse import Tool
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.private import camera_of
from napari_bloodcell.napari.layers.selection import pointed_out, selected_cells
from tests.napari.screen import Screen
from tests.napari.smears import CENTRES, TYPES, add_smear

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari import Viewer
    from napari.layers import Labels

CTRL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier
DOCKS = [("Review",), ("Edit cells",), ("Review", "Edit cells")]


@pytest.fixture
def shown(nothing_left: None, make_napari_viewer: Callable[..., Viewer]) -> Viewer:
    """A window that is on screen: docks rest while they are hidden."""
    return make_napari_viewer(show=True)


def begin(viewer: Viewer, *docks: str) -> tuple[Screen, Labels, list[Any]]:
    layer = add_smear(viewer)
    opened = [viewer.window.add_plugin_dock_widget("napari-bloodcell", name)[1] for name in docks]
    viewer.reset_view()
    return Screen(viewer, layer), layer, opened


def types_in(layer: Labels) -> list[str]:
    return links.table_of(layer)["cell_type"].tolist()


def ids_in(layer: Labels) -> list[int]:
    return sorted(links.table_of(layer).index)


@pytest.mark.parametrize("docks", DOCKS)
def test_every_key_of_every_dock_means_the_cell_under_the_mouse(shown: Viewer, docks: tuple[str, ...]) -> None:
    screen, layer, opened = begin(shown, *docks)
    screen.move(CENTRES[2])
    if "Review" in docks:
        for key, name in opened[0].session.classes.keys().items():
            screen.key(key)
            assert types_in(layer)[2] == name, key
            screen.key("Z", CTRL)
            assert types_in(layer) == TYPES
        screen.key(".")
        screen.key(",")
        shown.reset_view()
        screen.settle()
    if "Edit cells" in docks:
        screen.move(CENTRES[0])
        for key in ("D", Qt.Key.Key_Delete, Qt.Key.Key_Backspace):
            screen.key(key)
            assert ids_in(layer) == [2, 3, 4, 5, 6], key
            screen.key("Z", CTRL)
            assert ids_in(layer) == [1, 2, 3, 4, 5, 6]
        screen.key("Z", CTRL | SHIFT)
        assert ids_in(layer) == [2, 3, 4, 5, 6]
        screen.click(CENTRES[1], SHIFT)
        screen.click(CENTRES[2], SHIFT)
        screen.key("J")
        assert len(ids_in(layer)) == 4
        screen.move(CENTRES[1])
        screen.key("S")  # the two discs fall apart again
        assert len(ids_in(layer)) == 5


def test_after_a_box_the_key_means_the_box_and_its_use_ends_it(shown: Viewer) -> None:
    screen, layer, (dock,) = begin(shown, "Review")
    dock.use_tool(Tool.BOX)
    screen.drag([(84, 38), (95, 60), (105, 150)])  # it begins on cell 4, and holds the middles of 5 and 6
    assert "2 cells selected" in dock.hint.text()
    screen.key("W")
    assert types_in(layer) == ["RBC", "WBC", "RBC", "RBC", "WBC", "WBC"]
    screen.move(CENTRES[0])
    screen.key("P")
    assert types_in(layer) == ["platelet", "WBC", "RBC", "RBC", "WBC", "WBC"]
    screen.key("Z", CTRL)
    screen.key("Z", CTRL)
    assert types_in(layer) == TYPES
    assert selected_cells(shown, layer).tolist() == [5, 6]


def test_what_is_out_of_view_is_said_before_it_is_deleted(shown: Viewer, notifications: list[str]) -> None:
    screen, layer, (_review, edit) = begin(shown, "Review", "Edit cells")
    screen.click(CENTRES[0], SHIFT)
    screen.key(".")  # cell 3 is pointed out, which selects nothing
    assert selected_cells(shown, layer).tolist() == [1]
    camera_of(shown).zoom *= 8
    camera_of(shown).center = layer.data_to_world(CENTRES[5])
    screen.settle()
    screen.key("D")
    assert ids_in(layer) == [1, 2, 3, 4, 5, 6]
    assert "out of view" in notifications[-1]
    edit.buttons.actions_by_name["Delete"].click()
    assert ids_in(layer) == [2, 3, 4, 5, 6]


def test_one_history_for_types_and_outlines(shown: Viewer) -> None:
    screen, layer, _ = begin(shown, "Review")
    layer.selected_label, layer.brush_size = 1, 5
    layer.paint((30, 46), 1)  # napari's own brush, with no Edit dock
    assert links.table_of(layer).loc[1, "area_px"] == np.count_nonzero(layer.data == 1)
    screen.move(CENTRES[0])
    screen.key("W")
    screen.key("Z", CTRL)
    assert types_in(layer)[0] == "RBC"
    assert layer.data[30, 46] == 1  # the stroke came first, and stays
    screen.key("Z", CTRL)
    assert layer.data[30, 46] == 0


def test_a_shift_click_selects_once_with_two_docks_open(shown: Viewer) -> None:
    screen, layer, (review, edit) = begin(shown, "Review", "Edit cells")
    review.use_tool(Tool.BOX)
    edit.use_tool(Tool.CUT)
    assert not review.buttons.tools[Tool.BOX].isChecked()
    screen.click(CENTRES[3], SHIFT)
    assert selected_cells(shown, layer).tolist() == [4]


def test_one_class_is_brought_out_and_the_outlines_can_be_made_fainter(shown: Viewer) -> None:
    screen, layer, (dock,) = begin(shown, "Review")
    before = layer.colormap.map(np.arange(7))
    dock.look.brought_out.setFocus()
    QTest.keyClicks(dock.look.brought_out, "WBC")
    after = layer.colormap.map(np.arange(7))
    assert np.array_equal(after[2], before[2])  # the one white cell
    assert (after[[1, 3, 4, 5, 6], 3] < 0.2 * before[[1, 3, 4, 5, 6], 3]).all()
    screen.move(CENTRES[0])
    screen.key("W")  # a cell that becomes one of the class is brought out too
    assert np.array_equal(layer.colormap.map(np.arange(7))[1], before[2])
    dock.look.brought_out.setCurrentIndex(0)
    assert np.array_equal(layer.colormap.map(np.arange(7))[3], before[3])
    QTest.keyClick(dock.look.opacity, Qt.Key.Key_Home)
    assert layer.opacity == pytest.approx(0.1)


def test_a_selected_cell_is_ringed_outside_and_seen_whole(shown: Viewer) -> None:
    screen, layer, _ = begin(shown, "Review")
    screen.click(CENTRES[0], SHIFT)
    ring = np.asarray(shown.layers["smear selected cells"].data[...])
    assert ring.any()
    assert not ring[layer.data == 1].any()
    near = np.argwhere(ring)
    assert np.hypot(*(near - CENTRES[0]).T).max() < 12 + 5


def test_a_key_goes_on_to_the_next_cell_if_one_wishes(shown: Viewer) -> None:
    screen, layer, (dock,) = begin(shown, "Review")
    screen.key(".")
    assert pointed_out(shown, layer).tolist() == [3]  # the least certain
    screen.key("W")
    assert pointed_out(shown, layer).tolist() == [3]
    assert str(shown.status) == "Typed cell 3 as WBC"
    QTest.mouseClick(dock.walk.goes_on, Qt.MouseButton.LeftButton, pos=QPoint(8, dock.walk.goes_on.height() // 2))
    screen.key("W")
    assert pointed_out(shown, layer).tolist() == [5]
    screen.key("R")
    assert pointed_out(shown, layer).tolist() == [2]
    assert types_in(layer) == ["RBC", "WBC", "WBC", "RBC", "RBC", "RBC"]
    screen.move(CENTRES[5])
    screen.key("P")  # another cell than the one gone to: the view stays
    assert pointed_out(shown, layer).tolist() == [2]
