from __future__ import annotations

import csv
import io
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.backend_bases import MouseButton, MouseEvent
from napari.components import ViewerModel
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QScrollArea

from napari_bloodcell.core.cells import BOX, CENTROID
from napari_bloodcell.core.errors import InputError, OutputError
from napari_bloodcell.core.params import CountParams
from napari_bloodcell.napari.docks.count.dock import MOST_AT_ONCE
from napari_bloodcell.napari.docks.count.model import FEWEST_WBC, HEADER, CountTask, note_cells_in_region
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.regions import region_of
from napari_bloodcell.napari.layers.results import result_of
from napari_bloodcell.napari.layers.selection import selected_cells
from napari_bloodcell.stages.counting import count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from napari import Viewer
    from napari.layers import Labels, Shapes
    from numpy.typing import NDArray
    from pytestqt.qtbot import QtBot

SIDE = 20
"""Every cell of the test smear lies in a field of its own, this many pixels wide."""


def smear_table(n: int, *, seed: int = 0, types: tuple[str, ...] = ("RBC", "WBC", "platelet")) -> pd.DataFrame:
    """A table of n cells on a grid, nine of ten of the first type, one of twenty of those double in area."""
    rng = np.random.default_rng(seed)
    columns = int(np.ceil(np.sqrt(n)))
    y, x = np.divmod(np.arange(n), columns)
    share = np.full(len(types), 0.1 / (len(types) - 1))
    share[0] = 0.9
    areas = rng.normal(200, 20, n).clip(60, 300) * rng.choice([1, 2], n, p=[0.95, 0.05])
    boxes = np.c_[y * SIDE + 3, x * SIDE + 3, y * SIDE + 17, x * SIDE + 17]
    table = pd.DataFrame(
        {
            "cell_type": rng.choice(np.array(types, object), n, p=share),
            "probability": 0.9,
            "type_source": pd.Series(["model"] * n, dtype=object),
            "area_px": areas.astype(np.int64),
            **dict(zip(BOX, boxes.T, strict=True)),
            **dict(zip(CENTROID, boxes[:, :2].T + 7.0, strict=True)),
            "predicted_iou": 0.9,
            "stability_score": 0.9,
            "cells_in_region": 1,
            "touches_edge": False,
        }
    )
    table.index = pd.RangeIndex(1, n + 1, name="id")
    return table


def add_smear(viewer: Any, n: int = 400, **options: Any) -> Labels:
    """An image and the cells of `smear_table`, each with its middle pixels in the label image."""
    types = options.pop("types", ("RBC", "WBC", "platelet"))
    columns = int(np.ceil(np.sqrt(n)))
    shape = (SIDE * int(np.ceil(n / columns)), SIDE * columns)
    image = viewer.add_image(np.full((*shape, 3), 230, np.uint8), name="smear", rgb=True, **options)
    cells = np.zeros(shape, np.int32)
    y, x = np.divmod(np.arange(n), columns)
    for dy in range(6, 15):
        for dx in range(6, 15):
            cells[y * SIDE + dy, x * SIDE + dx] = np.arange(1, n + 1)
    layer = layers.add_cells(viewer, image, cells=cells)
    layers.set_table(layer, smear_table(n, types=types))
    layers.add_types(viewer, layer)
    return layer


def draw(viewer: Any, corners: NDArray[np.floating] | list[Any], kind: str = "rectangle", **options: Any) -> Shapes:
    shapes: Shapes = viewer.add_shapes([np.asarray(corners, float)], shape_type=kind, name="region", **options)
    return shapes


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_engine() -> None:
    layer = add_smear(ViewerModel())
    counted = CountTask.of(layer).run()
    expected = count(smear_table(400))
    assert counted.counting.counts == expected.counts
    assert counted.counting.interval == expected.interval
    np.testing.assert_array_equal(counted.counting.thresholds, expected.thresholds)
    assert [row.cells for row in counted.rows] == list(expected.counts.values())


def test_counts_per_mm2_need_physical_units() -> None:
    plain = CountTask.of(add_smear(ViewerModel())).run()
    assert plain.counting.per_mm2 is None
    layer = add_smear(ViewerModel(), scale=(0.5, 0.5), units=("um", "um"))
    counted = CountTask.of(layer).run()
    assert counted.area_mm2 == pytest.approx(400**2 * 0.25e-6)
    rows = {row.cell_type: row for row in counted.rows}
    width = links.calibration_of(layer).rbc_diameter_px
    side = 400 - np.ceil(0.22 * width)  # of the frame in which cells count
    assert rows["WBC"].per_mm2 == pytest.approx(rows["WBC"].cells / (side**2 * 0.25e-6))


def test_a_rectangle_restricts_the_count_to_cells_whose_centre_is_in_it() -> None:
    viewer = ViewerModel()
    layer = add_smear(viewer, scale=(0.5, 0.5), translate=(10, 20), units=("um", "um"))
    shapes = draw(viewer, [[10, 20], [10, 30], [60, 30], [60, 20]], units=("um", "um"))
    region = region_of(shapes, layer)
    counted = CountTask.of(layer, region=region).run()
    assert counted.n_counted == 5  # 100 by 20 pixels, one cell in each field
    assert counted.area_mm2 == pytest.approx(100.5 * 20 * 0.25e-6, rel=0.03)
    assert set(counted.counting.cells_in_region.index) == {1, 21, 41, 61, 81}


def test_an_ellipse_and_overlapping_shapes_are_measured_as_what_they_cover() -> None:
    viewer = ViewerModel()
    layer = add_smear(viewer)
    ellipse = region_of(draw(viewer, [[100, 100], [100, 300], [200, 300], [200, 100]], "ellipse"), layer)
    assert ellipse.area_px() == pytest.approx(np.pi * 100 * 50, rel=0.01)
    assert ellipse.contains(np.array([[150.0, 105.0], [105.0, 105.0]])).tolist() == [True, False]
    square = np.array([[0, 0], [0, 100], [100, 100], [100, 0]], float)
    both = viewer.add_shapes([square, square + np.array([0, 50])], shape_type="rectangle")
    assert region_of(both, layer).area_px() == pytest.approx(15_000, rel=0.02)
    beyond = viewer.add_shapes([square - np.array([50, 0])], shape_type="rectangle")
    assert region_of(beyond, layer).area_px() == pytest.approx(5_000, rel=0.03)


def test_lines_enclose_nothing() -> None:
    viewer = ViewerModel()
    layer = add_smear(viewer)
    with pytest.raises(InputError, match="draw one around"):
        region_of(draw(viewer, [[0, 0], [50, 50]], "line"), layer)


def test_a_differential_of_few_white_cells_comes_with_a_warning() -> None:
    types = ("RBC", "neutrophil", "lymphocyte", "monocyte")
    few = CountTask.of(add_smear(ViewerModel(), types=types)).run()
    assert 0 < sum(row.cells for row in few.rows if row.percent is not None) < FEWEST_WBC
    assert sum(row.percent or 0 for row in few.rows) == pytest.approx(100)
    assert "count at least 100" in few.warning
    many = CountTask.of(add_smear(ViewerModel(), n=2500, types=types)).run()
    assert not many.warning


def test_kinds_that_a_model_told_are_listed_and_corrected_by_classes_of_the_user() -> None:
    layer = add_smear(ViewerModel(), types=("RBC", "WBC", "neutrophil"))
    table = links.table_of(layer)
    table["subtype"] = np.where(np.arange(len(table)) % 2, "neutrophil", "lymphocyte").astype(object)
    table.loc[table["cell_type"] != "WBC", "subtype"] = ""
    layers.set_table(layer, table)
    counted = CountTask.of(layer).run()
    numbers = {row.cell_type: row for row in counted.rows}
    is_white = table["cell_type"] == "WBC"
    n = int((is_white & (table["subtype"] == "neutrophil")).sum()) + int((table["cell_type"] == "neutrophil").sum())
    assert numbers["WBC: neutrophil"].cells == n
    assert numbers["WBC: neutrophil"].percent == pytest.approx(100 * n / counted.n_white)
    assert numbers["neutrophil"].percent is None
    layers.set_types(layer, table.index[is_white], "RBC")
    assert (links.table_of(layer)["subtype"] == "").all()


def test_kinds_of_red_cells_and_their_sizes_are_listed() -> None:
    layer = add_smear(ViewerModel(), types=("RBC", "WBC"))
    table = links.table_of(layer)
    red = table.index[table["cell_type"] == "RBC"]
    table.loc[red, "subtype"] = "normal"
    table.loc[red[:3], "subtype"] = "teardrop"
    table.loc[red[3:5], "subtype"] = "infected"
    layers.set_table(layer, table)
    counted = CountTask.of(layer).run()
    numbers = {row.cell_type: row for row in counted.rows}
    assert numbers["RBC: teardrop"].cells == 3
    assert numbers["RBC: teardrop"].percent == pytest.approx(300 / (len(red) - 2))
    assert numbers["RBC: infected"].percent == pytest.approx(200 / counted.counting.counts["RBC"])
    assert counted.population.startswith("Single red cells: ")
    assert "grades of rare shapes need 1,000" in counted.warning


def test_cells_without_types_are_told_from_a_smear_without_cells() -> None:
    layer = add_smear(ViewerModel())
    layers.set_table(layer, links.table_of(layer).assign(cell_type=""))
    assert "no types yet" in CountTask.of(layer).run().warning


def test_the_table_of_features_learns_how_many_cells_a_region_is() -> None:
    layer = add_smear(ViewerModel())
    counted = CountTask.of(layer, params=CountParams(thresholds=(300.0,))).run()
    note_cells_in_region(layer, counted)
    table = links.table_of(layer)
    is_double = (table["cell_type"] == "RBC") & (table["area_px"] >= 300)
    assert (table.loc[is_double, "cells_in_region"] == 2).all()
    assert (table.loc[~is_double, "cells_in_region"] == 1).all()


def test_a_layer_without_a_table_is_refused() -> None:
    with pytest.raises(InputError, match="no table of cells"):
        CountTask.of(ViewerModel().add_labels(np.zeros((9, 9), np.int32)))


def test_one_plane_of_a_stack_is_counted_alone() -> None:
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((2, 400, 400, 3), np.uint8), rgb=True)
    layer = layers.add_cells(viewer, image)
    layers.set_table(layer, smear_table(400).assign(plane=np.repeat([0, 1], [100, 300])))
    assert CountTask.of(layer).run().n_counted == 400
    assert CountTask.of(layer, plane=1).run().n_counted == 300


def test_white_cells_without_a_class_are_told_of_and_all_are_summed() -> None:
    types = ("RBC", "neutrophil", "lymphocyte", "WBC")
    counted = CountTask.of(add_smear(ViewerModel(), n=4000, types=types)).run()
    numbers = {row.cell_type: row.cells for row in counted.rows}
    assert counted.n_white == numbers["neutrophil"] + numbers["lymphocyte"] + numbers["WBC"]
    assert counted.warning == f"The differential leaves out {numbers['WBC']} white cells without a class."


def test_erythroblasts_beside_the_differential_are_not_without_a_class() -> None:
    layer = add_smear(ViewerModel(), n=4000, types=("RBC", "WBC"))
    table = links.table_of(layer)
    table.loc[table["cell_type"] == "WBC", "subtype"] = np.resize(
        ["neutrophil", "lymphocyte", "erythroblast"], int((table["cell_type"] == "WBC").sum())
    )
    layers.set_table(layer, table)
    counted = CountTask.of(layer).run()
    assert counted.counting.kinds["erythroblast"] > 0
    assert "leaves out" not in counted.warning


def test_thresholds_that_coincide_are_explained() -> None:
    layer = add_smear(ViewerModel(), scale=(0.5, 0.5), units=("um", "um"))
    counted = CountTask.of(layer, params=CountParams(thresholds=(300.0, 300.0, 500.0))).run()
    assert "From 75 µm² on a region is 3 cells; 2 is at no area the likeliest." in counted.warning


def test_a_saved_table_says_where_its_numbers_come_from() -> None:
    viewer = ViewerModel()
    layer = add_smear(viewer)
    links.info_of(layer)["models"] = {"segment": {"name": "embedded", "sha256": "0123456789"}}
    task = CountTask.of(layer, params=CountParams(thresholds=(300.0, 550.5)), where="thin part")
    row = next(csv.DictReader(io.StringIO(task.run().to_text())))
    assert (row["image"], row["region"], row["rule"]) == ("smear", "thin part", "manual")
    assert row["thresholds_px2"] == "300 550.5"
    assert (row["segment_model"], row["classify_model"]) == ("embedded (01234567)", "unknown")
    assert abs(datetime.now(UTC) - datetime.fromisoformat(row["counted_at"])) < timedelta(minutes=5)
    assert (row["low_95"], row["high_95"]) == ("", "")  # there is none where thresholds are set by hand


def test_text_has_a_line_for_each_type() -> None:
    text = CountTask.of(add_smear(ViewerModel(), scale=(1, 1), units=("um", "um"))).run().to_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == list(HEADER)
    assert [row["type"] for row in rows] == ["RBC", "WBC", "platelet"]
    assert int(rows[0]["low_95"]) <= int(rows[0]["cells"]) <= int(rows[0]["high_95"])
    assert float(rows[1]["cells_per_mm2"]) > 0


# --- in a window -----------------------------------------------------------------------------------------------------


@pytest.fixture
def shown(nothing_left: None, make_napari_viewer: Callable[..., Viewer]) -> Viewer:
    """A window that is on screen: docks rest while they are hidden."""
    return make_napari_viewer(show=True)


@pytest.fixture
def window(shown: Viewer, qtbot: QtBot) -> Iterator[Any]:
    """A window with 400 cells and the dock."""
    viewer = shown
    layer = add_smear(viewer, scale=(0.5, 0.5), units=("um", "um"))
    _, dock = viewer.window.add_plugin_dock_widget("napari-bloodcell", "Count")
    qtbot.waitUntil(lambda: dock.counted is not None, timeout=30_000)
    dock._plot.draw()
    namespace = SimpleNamespace(viewer=viewer, layer=layer, dock=dock, qtbot=qtbot)
    yield namespace
    vars(namespace).clear()  # pytest holds on to it: a dock that was closed would live on


def cell_count(dock: Any, name: str) -> int:
    return next(row.cells for row in dock.counted.rows if row.cell_type == name)


def texts(dock: Any) -> dict[str, list[str]]:
    table = dock._table
    return {table.item(i, 0).text(): [table.item(i, j).text() for j in range(1, 4)] for i in range(table.rowCount())}


def mouse(dock: Any, name: str, area: float, *, pressed: bool = True) -> None:
    """Send a mouse event at an area of the axis to the canvas."""
    canvas = dock._plot
    x, y = canvas._axes.transData.transform((area * canvas._factor, canvas._axes.get_ylim()[1] / 2))
    button = MouseButton.LEFT if pressed else None
    canvas.callbacks.process(name, MouseEvent(name, canvas, x, y, button))


def test_the_dock_shows_counts_interval_and_density(window: Any) -> None:
    shown = texts(window.dock)
    rbc = window.dock.counted.rows[0]
    assert shown["RBC"][:2] == [f"{rbc.cells:,}", f"{rbc.interval[0]}–{rbc.interval[1]}"]
    assert shown["RBC, uncorrected"][0] == f"{rbc.regions:,}"
    assert not window.dock._table.isColumnHidden(3)
    assert len(window.dock._plot._curve.get_xdata()) > 100


def test_counts_follow_when_a_type_changes(window: Any) -> None:
    before = cell_count(window.dock, "platelet")
    layers.set_types(window.layer, links.table_of(window.layer).index[:5].tolist(), "platelet")
    window.qtbot.waitUntil(lambda: cell_count(window.dock, "platelet") > before, timeout=5000)
    assert int(texts(window.dock)["platelet"][0]) == cell_count(window.dock, "platelet")


def test_a_dragged_threshold_changes_the_count_and_automatic_brings_it_back(window: Any) -> None:
    dock, automatic = window.dock, cell_count(window.dock, "RBC")
    threshold = dock._plot.thresholds[0]
    mouse(dock, "button_press_event", threshold)
    mouse(dock, "motion_notify_event", 210)
    mouse(dock, "button_release_event", 210)
    window.qtbot.waitUntil(lambda: cell_count(dock, "RBC") != automatic, timeout=5000)
    areas = dock.counted.counting.areas
    assert dock._plot.thresholds[0] == pytest.approx(210, abs=2)
    assert cell_count(dock, "RBC") >= areas.size + (areas >= 212).sum()
    assert dock.counted.counting.rule == "manual"
    dock._fields._automatic.click()
    window.qtbot.waitUntil(lambda: cell_count(dock, "RBC") == automatic, timeout=5000)
    assert dock._plot.thresholds[0] == pytest.approx(threshold)


def test_a_threshold_cannot_be_dragged_past_its_neighbour(window: Any) -> None:
    dock = window.dock
    dock.set_thresholds([250.0, 350.0])
    dock.recount()
    mouse(dock, "button_press_event", 250)
    mouse(dock, "motion_notify_event", 420)
    mouse(dock, "button_release_event", 420)
    assert dock._plot.thresholds[0] < dock._plot.thresholds[1] == 350


def test_thresholds_set_by_hand_stay_with_the_layer_and_what_is_saved_of_it(window: Any) -> None:
    dock = window.dock
    dock.set_thresholds([250.0, 350.0])
    window.qtbot.waitUntil(lambda: dock.counted.counting.rule == "manual", timeout=5000)
    assert texts(dock)["RBC"][1] == ""
    assert result_of(window.layer).counting.thresholds.tolist() == [250, 350]
    window.viewer.window.remove_dock_widget(dock)
    _, again = window.viewer.window.add_plugin_dock_widget("napari-bloodcell", "Count")
    window.qtbot.waitUntil(lambda: again.counted is not None, timeout=10_000)
    assert again._plot.thresholds == [250, 350]
    again._fields._automatic.click()
    window.qtbot.waitUntil(lambda: again.counted.counting.rule == "robust", timeout=5000)
    assert result_of(window.layer).counting.rule == "robust"


def test_a_range_of_the_curve_selects_its_cells(window: Any) -> None:
    dock, layer = window.dock, window.layer
    for name, area in (("button_press_event", 100), ("motion_notify_event", 150), ("motion_notify_event", 190)):
        mouse(dock, name, area)
    mouse(dock, "button_release_event", 190)
    selected = selected_cells(window.viewer, layer)
    table = links.table_of(layer).loc[selected]
    assert len(selected) > 20
    assert (table["cell_type"] == "RBC").all()
    assert table["area_px"].between(99, 191).all()
    dock._fields._clear.click()
    assert not len(selected_cells(window.viewer, layer))


def test_thresholds_and_range_can_be_typed(window: Any) -> None:
    dock = window.dock
    dock._fields._thresholds.setText("75, 125")
    dock._fields._thresholds.setModified(True)
    dock._fields._thresholds.editingFinished.emit()
    window.qtbot.waitUntil(lambda: dock._plot.thresholds == [300.0, 500.0], timeout=5000)
    dock._fields._range.setText("87.5–112.5")
    dock._fields._range.setModified(True)
    dock._fields._range.editingFinished.emit()
    areas = links.table_of(window.layer).loc[selected_cells(window.viewer, window.layer), "area_px"]
    assert len(areas) > 0
    assert areas.between(350, 450).all()


@pytest.mark.parametrize(("field", "text"), [("_thresholds", "a lot"), ("_thresholds", "-3"), ("_range", "300")])
def test_what_is_no_number_is_told(window: Any, monkeypatch: pytest.MonkeyPatch, field: str, text: str) -> None:
    told: list[str] = []
    monkeypatch.setattr("napari_bloodcell.napari.notify.show_error", told.append)
    edit = getattr(window.dock._fields, field)
    edit.setText(text)
    edit.setModified(True)
    edit.editingFinished.emit()
    assert len(told) == 1
    assert text in told[0]


def test_the_cell_under_the_mouse_is_marked_on_the_curve(window: Any) -> None:
    dock, layer = window.dock, window.layer
    position = layer.data_to_world((10, 10))
    for callback in window.viewer.mouse_move_callbacks:
        callback(window.viewer, SimpleNamespace(position=position))
    area = links.table_of(layer).loc[1, "area_px"]
    assert dock._plot._mark.get_visible()
    assert dock._plot._mark.get_xdata()[0] == pytest.approx(area * 0.25)
    dock._on_hover(window.viewer, SimpleNamespace(position=layer.data_to_world((1, 1))))
    assert not dock._plot._mark.get_visible()


def test_a_chosen_region_restricts_the_count_and_is_followed(window: Any) -> None:
    dock = window.dock
    shapes = draw(window.viewer, [[0, 0], [0, 100], [100, 100], [100, 0]], units=("um", "um"))
    dock._region.choose(shapes)
    window.qtbot.waitUntil(lambda: dock.counted.n_counted == 100, timeout=5000)
    assert "100 of 400" in dock._note.text()
    shapes.data = [np.array([[0, 0], [0, 50], [50, 50], [50, 0]], float)]
    window.qtbot.waitUntil(lambda: dock.counted.n_counted == 25, timeout=5000)
    window.viewer.layers.remove(shapes)
    window.qtbot.waitUntil(lambda: dock.counted.n_counted == 400, timeout=5000)


def test_a_layer_that_is_removed_leaves_an_explanation(window: Any) -> None:
    window.viewer.layers.clear()
    window.qtbot.waitUntil(lambda: window.dock.counted is None, timeout=5000)
    assert "Segment" in window.dock._note.text()
    assert window.dock._table.rowCount() == 0


def test_a_changed_rule_is_kept_for_what_is_saved(window: Any) -> None:
    window.dock._form.set_values({"rule": "none"})
    window.qtbot.waitUntil(lambda: window.dock.counted.counting.rule == "none", timeout=5000)
    assert links.info_of(window.layer)["recipe"]["count"]["rule"] == "none"


def test_the_layer_that_becomes_active_is_counted(window: Any) -> None:
    other = add_smear(window.viewer, n=100)
    window.qtbot.waitUntil(lambda: window.dock.counted.n_cells == 100, timeout=5000)
    window.viewer.layers.selection.active = window.layer
    window.qtbot.waitUntil(lambda: window.dock.counted.n_cells == 400, timeout=5000)
    assert other in window.viewer.layers


def test_copy_and_save(window: Any, tmp_path: Path) -> None:
    from qtpy.QtGui import QGuiApplication

    window.dock._export.copy()
    assert QGuiApplication.clipboard().text() == window.dock.counted.to_text(delimiter="\t")
    for name in ("counts.csv", "areas.png", "areas.svg"):
        window.dock._export.save(tmp_path / name)
    assert (tmp_path / "counts.csv").read_text(encoding="utf-8").startswith(",".join(HEADER))
    assert (tmp_path / "areas.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "areas.svg").read_bytes()
    with pytest.raises(InputError, match="saved as"):
        window.dock._export.save(tmp_path / "counts.xls")
    with pytest.raises(OutputError, match="Choose another folder"):
        window.dock._export.save(tmp_path / "nowhere" / "counts.csv")


def test_a_closed_dock_rests(window: Any) -> None:
    dock = window.dock
    window.viewer.window.remove_dock_widget(dock)
    assert dock._on_hover not in window.viewer.mouse_move_callbacks
    layers.set_types(window.layer, [1], "platelet")
    assert not dock._soon.isActive()


def test_four_thresholds_can_be_read_in_a_narrow_dock(window: Any, qtbot: QtBot) -> None:
    dock = window.dock
    field = dock._fields._thresholds
    field.window().resizeDocks([dock.parentWidget()], [350], Qt.Orientation.Horizontal)
    dock._fields.show_thresholds([10_000.0, 12_500.0, 15_000.0, 17_500.0], by_hand=False)
    qtbot.waitUntil(lambda: 330 <= dock.width() <= 360)
    assert field.fontMetrics().horizontalAdvance(field.text()) < field.width() - 8


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_the_plot_takes_the_theme(window: Any, theme: str) -> None:
    from matplotlib.colors import to_hex
    from napari.utils.theme import get_theme

    window.viewer.theme = theme
    assert to_hex(window.dock._plot.figure.get_facecolor()) == get_theme(theme).background.as_hex("long")


def test_a_changed_type_among_100_000_cells_is_counted_and_drawn_within_200_ms(shown: Viewer, qtbot: QtBot) -> None:
    viewer = shown
    image = viewer.add_image(np.zeros((64, 64, 3), np.uint8), rgb=True)
    layer = layers.add_cells(viewer, image)
    layers.set_table(layer, smear_table(100_000))
    _, dock = viewer.window.add_plugin_dock_widget("napari-bloodcell", "Count")
    qtbot.waitUntil(lambda: dock.counted is not None, timeout=60_000)
    took = []
    for cell in range(1, 6):
        before = cell_count(dock, "WBC")
        other = "WBC" if links.table_of(layer, ("cell_type",)).loc[cell, "cell_type"] != "WBC" else "RBC"
        start = time.process_time()
        layers.set_types(layer, [cell], other)
        dock.recount()
        dock._plot.draw()
        took.append(time.process_time() - start)  # of the processor: the machine may be busy with other things
        assert cell_count(dock, "WBC") != before
    assert min(took) < 0.2


def with_many_cells(viewer: Viewer, n: int) -> Labels:
    image = viewer.add_image(np.zeros((64, 64, 3), np.uint8), rgb=True)
    layer = layers.add_cells(viewer, image)
    layers.set_table(layer, smear_table(n))
    return layer


def test_very_many_cells_are_counted_in_a_worker_and_the_last_change_is_what_is_shown(
    shown: Viewer, qtbot: QtBot
) -> None:
    layer = with_many_cells(shown, MOST_AT_ONCE + 30_000)
    _, dock = shown.window.add_plugin_dock_widget("napari-bloodcell", "Count")
    qtbot.waitUntil(lambda: dock.counted is not None, timeout=60_000)
    ids = links.table_of(layer, ("cell_type",)).query("cell_type == 'RBC'").index.to_numpy()
    before = cell_count(dock, "platelet")
    took = []
    for i in range(3):
        layers.set_types(layer, ids[i : i + 1], "platelet")
        start = time.process_time()
        dock.recount()
        took.append(time.process_time() - start)
        assert dock._later.is_running
    qtbot.waitUntil(lambda: not dock._later.is_running, timeout=60_000)
    assert cell_count(dock, "platelet") == before + 3
    assert min(took) < 0.1  # asked, not counted


def test_a_dock_that_is_closed_while_it_counts_shows_nothing_any_more(shown: Viewer, qtbot: QtBot) -> None:
    with_many_cells(shown, MOST_AT_ONCE + 30_000)
    _, dock = shown.window.add_plugin_dock_widget("napari-bloodcell", "Count")
    qtbot.waitUntil(lambda: dock._later.is_running, timeout=60_000)
    shown.window.remove_dock_widget(dock)
    assert not dock._later.is_running
    qtbot.wait(300)
    assert dock.counted is None


@pytest.mark.parametrize("name", ["Analyse", "Segment", "Classify", "Count", "Review", "Train"])
def test_no_dock_gets_narrower_than_what_is_in_it(make_napari_viewer: Any, qtbot: QtBot, name: str) -> None:
    viewer = make_napari_viewer(show=True)
    _, widget = viewer.window.add_plugin_dock_widget("napari-bloodcell", name)
    qtbot.wait(100)
    area = widget.findChild(QScrollArea)
    needed = area.widget().minimumSizeHint().width()
    assert needed + area.verticalScrollBar().sizeHint().width() <= area.minimumSizeHint().width() <= 350
    assert area.viewport().width() >= needed
