"""Cells of a slide are looked at, typed, counted and corrected on disk, at every zoom, and the folder stays true."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import zarr
from napari.components import ViewerModel
from qtpy.QtCore import QThreadPool

import napari_bloodcell as nb
from napari_bloodcell.core.cells import CENTROID, box_of
from napari_bloodcell.core.errors import InputError, OutputError
from napari_bloodcell.core.progress import drain
from napari_bloodcell.core.protocols import CellMask
from napari_bloodcell.napari.docks.edit.dock import PaintPatch
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.keeper import keeper_of
from napari_bloodcell.napari.layers.look import cell_at
from napari_bloodcell.napari.layers.private import camera_of
from napari_bloodcell.napari.session.opening import cells_session
from napari_bloodcell.results.ome_zarr import open_levels
from napari_bloodcell.slides.run import iter_analyse_slide
from tests.fakes import BrightnessClassifier, ThresholdGenerator
from tests.slides.conftest import random_discs, settings

if TYPE_CHECKING:
    from pathlib import Path

    from napari import Viewer
    from napari.layers import Labels
    from pytestqt.qtbot import QtBot

SHAPE = (1400, 1210)
LARGEST_READ = 720 * 720
"""A block with its surroundings, or what a window shows."""
MODELS: dict[str, Any] = {"generator": ThresholdGenerator(), "classifier": BrightnessClassifier()}


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slide")
    image = random_discs(SHAPE, 260)
    zarr.create_array(folder / "image.zarr", data=image, chunks=(256, 256, 3))
    recipe = settings(pixel_size_um=0.25)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("napari_bloodcell.results.ome_zarr.COARSEST", 400)
        patch.setattr("napari_bloodcell.slides.run.BLOCK_PX", 512)
        drain(iter_analyse_slide(folder / "image.zarr", folder / "result", recipe=recipe, geojson=True, **MODELS))
    return folder / "result"


@pytest.fixture
def result(analysed: Path, tmp_path: Path) -> Path:
    shutil.copytree(analysed, tmp_path / "result")
    return tmp_path / "result"


def opened(folder: Path, viewer: Any) -> Labels:
    nb.napari.open_result(folder, viewer)
    cells: Labels = next(one for one in viewer.layers if links.is_cells(one))
    return cells


def assert_true_to_its_pixels(folder: Path) -> None:
    """The table, the types and all levels say what the finest level of the cells says."""
    result = nb.open_slide_result(folder)
    cells, types = (open_levels(folder / "smear.ome.zarr", f"labels/{name}", "r") for name in ("cells", "types"))
    finest = np.asarray(cells[0][...])
    table = result.table
    areas = np.bincount(finest.ravel(), minlength=int(table.index.max()) + 1)
    assert sorted(table.index) == np.unique(finest[finest > 0]).tolist()
    assert (table["area_px"].to_numpy() == areas[table.index]).all()
    lut = np.zeros(int(table.index.max()) + 1, np.uint8)
    codes = {name: i for i, name in enumerate(result.names, start=1)}
    lut[table.index] = table["cell_type"].map(codes).fillna(0)
    for k, (level, typed) in enumerate(zip(cells, types, strict=True)):
        assert np.array_equal(np.asarray(level[...]), finest[:: 2**k, :: 2**k])
        assert np.array_equal(np.asarray(typed[...]), lut[finest[:: 2**k, :: 2**k]])
    text = pd.read_csv(folder / "cells.csv")
    assert text["id"].tolist() == table.index.tolist()
    outlines = json.loads((folder / "cells.geojson").read_text(encoding="utf-8"))["features"]
    assert sorted(int(one["properties"]["name"]) for one in outlines) == sorted(table.index)
    assert result.counts == nb.count(table, params=result.recipe.count, rbc_diameter_px=24.0).counts


def test_cells_are_picked_exactly_at_every_zoom(
    viewer: Viewer, qtbot: QtBot, result: Path, largest_read: list[int]
) -> None:
    cells = opened(result, viewer)
    table = links.table_of(cells)
    largest_read[0] = 0
    levels = set()
    for zoom in (0.5, 2.0, 8.0):
        camera_of(viewer).zoom = zoom
        qtbot.wait(20)
        levels.add(cells.data_level)
        for cell in table.index[::40]:
            y0, x0, y1, x1 = box_of(table, cell)
            place = np.asarray(cells.data_to_world(((y0 + y1) // 2, (x0 + x1) // 2)))
            assert cell_at(cells, place) == cell
            assert f"cell {cell}" in cells.get_status(place)["coordinates"]
    assert largest_read[0] <= LARGEST_READ  # what napari draws meanwhile


def test_types_given_by_hand_are_in_every_file_of_the_folder(result: Path, largest_read: list[int]) -> None:
    viewer = ViewerModel()
    cells = opened(result, viewer)
    largest_read[0] = 0
    assert nb.napari.correct_cells(cells, {3: "WBC", 40: "platelet", 41: "target cell"}) == 3
    assert largest_read[0] <= LARGEST_READ
    assert_true_to_its_pixels(result)
    after = nb.open_slide_result(result)
    assert after.is_corrected
    assert after.names[-2:] == ["target cell", "unidentified"] or "target cell" in after.names
    assert after.table["cell_type"].loc[[3, 40, 41]].tolist() == ["WBC", "platelet", "target cell"]
    assert after.table["type_source"].loc[3] == "user"
    described = zarr.open_group(result / "smear.ome.zarr/labels/types", mode="r").attrs["ome"]["image-label"]
    assert [one["name"] for one in described["properties"]] == after.names
    again = opened(result, ViewerModel())
    assert links.table_of(again)["cell_type"].loc[41] == "target cell"
    assert nb.napari.count_layer(again).counts == after.counts
    with pytest.raises(OutputError, match="by hand"):
        drain(iter_analyse_slide(random_discs(SHAPE, 9), result, recipe=settings(), **MODELS))


def test_edits_reach_every_level_and_the_table_and_can_be_undone(result: Path, largest_read: list[int]) -> None:
    viewer = ViewerModel()
    cells = opened(result, viewer)
    types = links.types_layer_for(viewer, cells)
    before = np.asarray(cells.data[0][...])
    table = links.table_of(cells)
    session = cells_session(viewer, cells)
    largest_read[0] = 0
    session.delete([5])
    disc = np.hypot(*np.mgrid[-11:12, -11:12]) <= 11
    y, x = np.argwhere(_far_from_cells(before))[0]
    added = session.add(CellMask((y - 11, x - 11, y + 12, x + 12), disc, 0.9, 0.9, 0.9, (y, x)), cell_type="RBC")
    y0, x0, y1, x1 = box_of(table, 30)
    session.split(30, line=((y0 - 2, (x0 + x1) / 2), (y1 + 2, (x0 + x1) / 2)))
    assert largest_read[0] <= LARGEST_READ
    keeper_of(cells).flush()
    assert_true_to_its_pixels(result)
    assert len(links.table_of(cells)) == len(table) + 1
    assert added == table.index.max() + 1
    assert np.asarray(types.data[0][y, x]) == 1
    for _ in range(3):
        session.undo()
    keeper_of(cells).flush()
    assert np.array_equal(np.asarray(cells.data[0][...]), before)
    assert_true_to_its_pixels(result)
    assert not list(result.glob(".writing*"))


def _far_from_cells(cells: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    free = ndimage.distance_transform_edt(np.pad(cells == 0, 1)[1:-1, 1:-1]) > 14
    free[:20], free[-20:], free[:, :20], free[:, -20:] = False, False, False, False
    return np.asarray(free)


def test_a_small_layer_is_painted_on_and_the_pyramid_and_the_types_follow(
    viewer: Viewer, qtbot: QtBot, result: Path
) -> None:
    cells = opened(result, viewer)
    types = links.types_layer_for(viewer, cells)
    _, dock = viewer.window.add_plugin_dock_widget("napari-bloodcell", "Edit cells")
    viewer.layers.selection.active = cells
    before = np.asarray(cells.data[0][...])
    table = links.table_of(cells)
    assert dock.paint_button.isVisibleTo(dock)
    dock.paint_button.click()
    patch = dock.paint_button.patch
    assert patch is not None
    assert np.array_equal(patch.layer.data, before[patch.box[0] : patch.box[2], patch.box[1] : patch.box[3]])
    assert np.allclose(patch.layer.data_to_world((0, 0)), cells.data_to_world(patch.box[:2]))
    cell = 50
    y, x = (round(v) for v in table.loc[cell, list(CENTROID)])
    inside = (y - patch.box[0], x - patch.box[1])
    patch.layer.brush_size = 5
    patch.layer.paint(inside, 0)  # a hole in a cell
    assert before[y, x] == cell
    assert cells.data[0][y, x] == 0
    assert types.data[0][y, x] == 0
    y, x = np.argwhere(_far_from_cells(before))[0]
    new = patch.layer.selected_label
    patch.layer.brush_size = 11
    patch.layer.paint((y - patch.box[0], x - patch.box[1]), new)
    assert new == table.index.max() + 1
    assert links.table_of(cells)["area_px"].loc[new] == int((patch.layer.data == new).sum())
    layers.set_types(cells, [new], "WBC")
    assert types.data[0][y, x] == 2
    keeper = keeper_of(cells)
    with qtbot.waitSignal(keeper.clock.saved, timeout=20_000):
        pass
    assert_true_to_its_pixels(result)
    dock.act("Undo")
    dock.act("Undo")
    assert np.array_equal(np.asarray(cells.data[0][...]), before)
    assert np.array_equal(patch.layer.data, before[patch.box[0] : patch.box[2], patch.box[1] : patch.box[3]])
    dock.paint_button.click()
    assert patch.is_gone
    keeper.flush()
    QThreadPool.globalInstance().waitForDone()
    assert_true_to_its_pixels(result)


def test_an_id_of_a_cell_elsewhere_becomes_a_new_one(result: Path) -> None:
    viewer = ViewerModel()
    cells = opened(result, viewer)
    session = cells_session(viewer, cells)
    table = links.table_of(cells)
    far = int(table.index[-1])
    y0 = box_of(table, far)[0]
    patch = PaintPatch(viewer, session, (0, 0, 200, 200))
    assert y0 > 200
    patch.layer.selected_label = far
    assert patch.layer.selected_label == far + 1
    near = int(patch.layer.data[patch.layer.data > 0][0])
    patch.layer.selected_label = near
    assert patch.layer.selected_label == near
    patch.close()


def test_too_much_to_paint_in_is_an_error(result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_bloodcell.napari.docks.edit.dock.LARGEST_PX", 100)
    viewer = ViewerModel()
    session = cells_session(viewer, opened(result, viewer))
    with pytest.raises(InputError, match="Zoom in first"):
        PaintPatch(viewer, session, (0, 0, 200, 200))


def test_the_review_dock_types_and_counts_cells_of_a_slide(
    viewer: Viewer, qtbot: QtBot, result: Path, largest_read: list[int]
) -> None:
    cells = opened(result, viewer)
    _, count = viewer.window.add_plugin_dock_widget("napari-bloodcell", "Count")
    viewer.window.add_plugin_dock_widget("napari-bloodcell", "Review")
    viewer.layers.selection.active = cells
    qtbot.waitUntil(lambda: count.counted is not None, timeout=20_000)
    before = dict(count.counted.counting.counts)
    largest_read[0] = 0
    rbc = links.table_of(cells).query("cell_type == 'RBC'").index[:3]
    for cell in rbc:
        y, x = links.table_of(cells).loc[cell, list(CENTROID)]
        viewer.cursor.position = tuple(cells.data_to_world((round(y), round(x))))
        {str(k): action for k, action in cells.keymap.items()}["W"](cells)
    assert links.table_of(cells)["cell_type"].loc[rbc].tolist() == ["WBC"] * 3
    qtbot.waitUntil(lambda: count.counted.counting.counts["WBC"] == before["WBC"] + 3, timeout=20_000)
    keeper_of(cells).flush()
    assert largest_read[0] <= LARGEST_READ
    assert_true_to_its_pixels(result)
