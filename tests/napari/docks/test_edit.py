from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import Qt
from scipy import ndimage

from napari_bloodcell.core.cells import BOX, CENTROID, measure_cells
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.params import SegmentParams
from napari_bloodcell.core.progress import drain
from napari_bloodcell.core.protocols import Calibration, CellMask
from napari_bloodcell.napari.docks.edit.prompts import Prompt, PromptedCell, PromptQueue, iter_prompt
from napari_bloodcell.napari.docks.mouse import CellsMouse, Tool, cell_on_line
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.images import image_source
from napari_bloodcell.napari.layers.private import camera_of
from napari_bloodcell.napari.layers.selection import select_cells, selected_cells
from napari_bloodcell.napari.session.opening import cells_session
from napari_bloodcell.napari.work.worker import Work
from tests.fakes import BrightnessClassifier, ThresholdGenerator, disc_image
from tests.napari.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari import Viewer
    from napari.layers import Labels
    from numpy.typing import NDArray
    from pytestqt.qtbot import QtBot

    from napari_bloodcell.napari.session.session import CellsSession

CENTRES = [(30.0, 30.0), (30.0, 80.0), (80.0, 30.0)]
MISSED = (80.0, 80.0)
SHAPE = (120, 160)
MEASURED = ["area_px", *BOX, *CENTROID, "touches_edge"]


class SlowGenerator(ThresholdGenerator):
    """Takes its time with a prompt."""

    def predict(self, image: NDArray[np.uint8], calibration: Calibration, **prompts: Any) -> list[CellMask]:
        time.sleep(0.7)
        return PromptGenerator().predict(image, calibration, **prompts)


class PromptGenerator(ThresholdGenerator):
    """Answers a prompt with the dark region there."""

    def predict(
        self,
        image: NDArray[np.uint8],
        calibration: Calibration,
        *,
        points: NDArray[np.floating] | None = None,
        boxes: NDArray[np.floating] | None = None,
    ) -> list[CellMask]:
        found = self.generate(image, calibration, SegmentParams())
        if boxes is not None:
            y0, x0, y1, x1 = boxes[0]
            return [m for m in found if y0 <= m.point[0] < y1 and x0 <= m.point[1] < x1]
        assert points is not None
        y, x = points[0]
        return [m for m in found if m.bbox[0] <= y < m.bbox[2] and m.bbox[1] <= x < m.bbox[3]]


def add_smear(viewer: Any, *, missing: bool = True) -> Labels:
    """An image of four cells, and a layer of the first three of them, typed."""
    image = disc_image([*CENTRES, MISSED], SHAPE)
    image_layer = viewer.add_image(image, name="smear", rgb=True, scale=(0.5, 0.5), translate=(3, 7))
    cells = np.zeros(SHAPE, np.int32)
    yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for i, (y, x) in enumerate(CENTRES, start=1):
        cells[(yy - y) ** 2 + (xx - x) ** 2 <= 144] = i
    layer = layers.add_cells(viewer, image_layer, cells=cells)
    table = measure_cells(cells)
    table["cell_type"] = ["RBC", "WBC", "RBC"]
    table["probability"] = 0.9
    links.info_of(layer)["calibration"] = {
        "rbc_diameter_px": 24.0,
        "background_rgb": (230.0, 230.0, 230.0),
        "mean_brightness": 220.0,
        "source": "given",
    }
    layers.set_table(layer, table)
    layers.add_types(viewer, layer)
    return layer


@pytest.fixture
def session() -> CellsSession:
    viewer = ViewerModel()
    session = cells_session(viewer, add_smear(viewer))
    session.keep = viewer  # type: ignore[attr-defined]  # the session itself holds it weakly
    return session


def assert_follows(layer: Labels) -> None:
    """Table, types and image agree."""
    cells = np.asarray(links.full_resolution(layer))
    expected = measure_cells(cells)
    expected = expected[expected["area_px"] > 0]
    table = links.table_of(layer)
    assert list(table.index) == list(expected.index)
    for column in MEASURED:
        assert table[column].tolist() == expected[column].tolist()


def mask_of(y: float, x: float) -> CellMask:
    yy, xx = np.mgrid[-12:13, -12:13]
    box = (int(y) - 12, int(x) - 12, int(y) + 13, int(x) + 13)
    return CellMask(box, yy**2 + xx**2 <= 144, 0.9, 0.9, 0.9, (y, x), "RBC")


def types_of(session: CellsSession) -> NDArray[np.uint8]:
    typed = links.types_layer_for(session.viewer, session.layer)
    assert typed is not None
    return np.asarray(typed.data[...])


def test_an_added_cell_is_in_image_table_and_types(session: CellsSession) -> None:
    assert session.add(mask_of(*MISSED), cell_type="WBC", probability=0.7) == 4
    assert_follows(session.layer)
    assert links.table_of(session.layer).loc[4, "cell_type"] == "WBC"
    assert types_of(session)[80, 80] == 2


def test_a_deleted_cell_is_gone_everywhere(session: CellsSession) -> None:
    session.delete([2])
    assert_follows(session.layer)
    assert types_of(session)[30, 80] == 0


def test_split_and_merge_keep_types(session: CellsSession) -> None:
    session.split(2, line=((10, 80), (50, 80)))
    assert_follows(session.layer)
    assert set(types_of(session)[20:40, 70:90].ravel()) == {0, 2}
    session.merge([2, 4])
    assert_follows(session.layer)
    assert sorted(links.table_of(session.layer)["cell_type"]) == ["RBC", "RBC", "WBC"]


def test_undo_and_redo_bring_image_table_and_types_back(session: CellsSession) -> None:
    image, table = session.layer.data.copy(), links.table_of(session.layer)
    types = types_of(session)
    session.delete([1])
    session.split(2, line=((10, 80), (50, 80)))
    session.add(mask_of(*MISSED))
    after = session.layer.data.copy(), links.table_of(session.layer)
    for _ in range(3):
        session.undo()
    np.testing.assert_array_equal(session.layer.data, image)
    pd.testing.assert_frame_equal(links.table_of(session.layer), table)
    np.testing.assert_array_equal(types_of(session), types)
    for _ in range(3):
        session.redo()
    np.testing.assert_array_equal(session.layer.data, after[0])
    pd.testing.assert_frame_equal(links.table_of(session.layer), after[1])


def test_painting_by_hand_is_measured_and_can_be_undone(session: CellsSession) -> None:
    layer = session.layer
    image, table = layer.data.copy(), links.table_of(layer)
    layer.selected_label, layer.brush_size = 1, 9
    layer.paint((30, 46), 1)
    assert layer.data[30, 46] == 1
    assert_follows(layer)
    layer.fill((30, 80), 3)
    assert_follows(layer)
    session.undo()
    session.undo()
    np.testing.assert_array_equal(layer.data, image)
    pd.testing.assert_frame_equal(links.table_of(layer), table)


def test_control_z_on_the_layer_undoes_and_with_shift_redoes(session: CellsSession) -> None:
    keys = {str(key): action for key, action in session.layer.keymap.items()}
    session.delete([1])
    keys["Ctrl+Z"](session.layer)
    assert session.layer.data[30, 30] == 1
    keys["Ctrl+Shift+Z"](session.layer)
    assert session.layer.data[30, 30] == 0


def test_coarser_levels_of_a_pyramid_follow() -> None:
    viewer = ViewerModel()
    image = disc_image([*CENTRES, MISSED], SHAPE)
    viewer.add_image([image, image[::2, ::2]], name="smear", rgb=True, multiscale=True)
    cells = np.zeros(SHAPE, np.int32)
    layer = viewer.add_labels([cells, cells[::2, ::2].copy()], name="smear cells", multiscale=True)
    layer.metadata[links.KEY] = {"kind": "cells", "image": "smear"}
    layers.set_table(layer, measure_cells(cells))
    session = cells_session(viewer, layer)
    session.add(mask_of(30, 30))
    session.add(mask_of(80, 80))
    session.split(2, line=((10, 80), (110, 80)))
    session.delete([1])
    np.testing.assert_array_equal(np.asarray(layer.data[1]), np.asarray(layer.data[0])[::2, ::2])
    assert_follows(layer)


def test_a_stack_is_edited_in_the_plane_in_view() -> None:
    viewer = ViewerModel()
    image_layer = viewer.add_image(np.stack([disc_image(CENTRES, SHAPE)] * 3), name="smear", rgb=True)
    layer = layers.add_cells(viewer, image_layer)
    layers.set_table(layer, measure_cells(np.zeros((1, 1), np.int32)).assign(plane=np.zeros(0, np.int64)))
    viewer.dims.set_point(0, 2)
    session = cells_session(viewer, layer)
    session.add(mask_of(30, 30))
    assert links.table_of(layer)["plane"].tolist() == [2]
    assert not layer.data[:2].any()
    viewer.dims.set_point(0, 0)
    session.delete([1])
    assert not layer.data.any()


def test_a_layer_that_holds_no_cells_is_refused() -> None:
    viewer = ViewerModel()
    with pytest.raises(InputError, match="holds no cells"):
        cells_session(viewer, viewer.add_labels(np.zeros(SHAPE, np.int32)))


def test_selected_cells_are_outlined_and_the_active_layer_stays(session: CellsSession) -> None:
    viewer, layer = session.viewer, session.layer
    viewer.layers.selection.active = layer
    select_cells(viewer, layer, [1, 3])
    session.toggle(2)
    session.toggle(3)
    assert selected_cells(viewer, layer).tolist() == [1, 2]
    outline = viewer.layers["smear selected cells"]
    chosen = np.isin(layer.data, [1, 2])
    ring = ndimage.binary_dilation(chosen, np.ones((5, 5))) & ~chosen
    np.testing.assert_array_equal(np.asarray(outline.data[...]) == 1, ring)
    assert viewer.layers.selection.active is layer
    session.delete([1])
    assert selected_cells(viewer, layer).tolist() == [2]
    select_cells(viewer, layer, [])
    assert "smear selected cells" not in viewer.layers


def test_a_line_means_the_cell_that_it_crosses_longest() -> None:
    cells = np.zeros((20, 20), np.int32)
    cells[2:5, 2:18], cells[10:18, 2:18] = 1, 2
    assert cell_on_line(cells, ((0, 8), (30, 8))) == 2
    assert cell_on_line(cells, ((0, 0), (0, 19))) == 0
    assert cell_on_line(cells, ((-9, -9), (-3, -3))) == 0


@pytest.mark.parametrize(
    ("tool", "moves", "name", "value"),
    [
        (Tool.CLICK, [(30, 40)], "clicked", (30, 40)),
        (Tool.BOX, [(60, 20), (10, 50)], "boxed", (10, 20, 60, 50)),
        (Tool.CUT, [(10, 30), (50, 30)], "cut", ((10, 30), (50, 30))),
    ],
)
def test_the_mouse_becomes_what_was_meant(
    session: CellsSession, tool: Tool, moves: list[tuple[float, float]], name: str, value: object
) -> None:
    told = heard(
        CellsMouse(session.viewer), name, lambda tools: tools.use(tool, session.layer, session), session, moves
    )
    assert told == [pytest.approx(value) if name != "cut" else value]
    assert "drawing…" not in session.viewer.layers


def test_two_clicks_cut_as_a_drag_does(session: CellsSession) -> None:
    tools = CellsMouse(session.viewer)
    told = heard(tools, "cut", lambda tools: tools.use(Tool.CUT, session.layer, session), session, [(10, 30)])
    assert not told
    drag(tools, session, [(50, 30)])
    assert told == [((10, 30), (50, 30))]


@pytest.mark.parametrize("tool", [Tool.MOVE, Tool.CLICK, Tool.BOX, Tool.CUT])
def test_shift_click_selects_with_every_tool(session: CellsSession, tool: Tool) -> None:
    mouse = CellsMouse(session.viewer)
    session.viewer.layers.selection.active = session.layer
    mouse.use(tool, session.layer, session)
    drag(mouse, session, [(80, 30)], ("Shift",))
    assert session.selected.tolist() == [3]
    drag(mouse, session, [(80, 30)], ("Shift",))
    assert not len(session.selected)


def test_a_tool_that_one_dock_takes_is_no_longer_that_of_another(session: CellsSession) -> None:
    mouse, first, second = CellsMouse(session.viewer), object(), object()
    mouse.use(Tool.CLICK, session.layer, first)
    mouse.use(Tool.BOX, session.layer, second)
    mouse.use(Tool.MOVE, session.layer, first)  # what is not its own it cannot put down
    assert mouse.tool is Tool.BOX
    assert mouse.is_of(second)


def heard(
    tools: CellsMouse,
    name: str,
    prepare: Callable[[CellsMouse], None],
    session: CellsSession,
    moves: list[tuple[float, float]],
    modifiers: tuple[str, ...] = (),
) -> list[object]:
    told: list[object] = []
    getattr(tools.events, name).connect(lambda event: told.append(event.value))
    prepare(tools)
    drag(tools, session, moves, modifiers)
    return told


def drag(
    tools: CellsMouse, session: CellsSession, moves: list[tuple[float, float]], modifiers: tuple[str, ...] = ()
) -> None:
    """Press at the first place, go through the others, release at the last: pixels of the layer."""
    event = SimpleNamespace(type="mouse_press", button=1, modifiers=modifiers, pos=(0, 0), position=(0, 0))
    steps = None
    for kind, place in [
        ("mouse_press", moves[0]),
        *(("mouse_move", m) for m in moves[1:]),
        ("mouse_release", moves[-1]),
    ]:
        event.type, event.pos = kind, (10 * place[1], 10 * place[0])
        event.position = session.layer.data_to_world(place)
        if steps is None:
            steps = tools._on_drag(session.viewer, event)
        next(steps, None)


@pytest.mark.parametrize("prompt", [Prompt((), point=MISSED), Prompt((), box=(65, 65, 95, 95))])
def test_a_prompt_finds_and_types_the_cell(prompt: Prompt) -> None:
    viewer = ViewerModel()
    layer = add_smear(viewer)
    source = image_source(viewer.layers["smear"])
    found = drain(
        iter_prompt(
            source,
            prompt,
            params=SegmentParams(),
            calibration=links.calibration_of(layer),
            typing=layers_recipe(layer),
            generator=PromptGenerator(),
            classifier=BrightnessClassifier(),
        )
    )
    assert found.mask.point == pytest.approx(MISSED, abs=1)
    assert found.cell_type == "RBC"
    assert found.probability == pytest.approx(0.9)


def layers_recipe(layer: Labels) -> Any:
    from napari_bloodcell.napari.layers.results import recipe_of

    return recipe_of(layer).classify


def test_a_prompt_far_into_a_large_image_is_in_its_pixels() -> None:
    viewer = ViewerModel()
    image = disc_image([(900, 1500)], (1000, 1600))
    source = image_source(viewer.add_image(image, rgb=True))
    found = drain(
        iter_prompt(source, Prompt((), point=(902, 1497)), params=SegmentParams(), generator=PromptGenerator())
    )
    assert found.mask.point == pytest.approx((900, 1500), abs=1)


def test_a_prompt_on_glass_says_that_there_is_no_cell() -> None:
    source = image_source(ViewerModel().add_image(disc_image(CENTRES, SHAPE), rgb=True))
    with pytest.raises(InputError, match="No cell was found"):
        drain(iter_prompt(source, Prompt((), point=(5, 5)), params=SegmentParams(), generator=PromptGenerator()))
    with pytest.raises(InputError, match="outside of the image"):
        drain(iter_prompt(source, Prompt((), point=(-5, 5)), params=SegmentParams(), generator=PromptGenerator()))


class UnsureGenerator(PromptGenerator):
    """Finds a ragged shape wherever one asks, as networks do on bare glass."""

    def predict(self, image: NDArray[np.uint8], calibration: Calibration, **prompts: Any) -> list[CellMask]:
        y, x = prompts["points"][0] if "points" in prompts else np.mean(prompts["boxes"][0].reshape(2, 2), axis=0)
        return [replace(mask_of(round(y), round(x)), predicted_iou=0.6, stability_score=0.5)]


@pytest.mark.parametrize("prompt", [Prompt((), point=(60, 60)), Prompt((), box=(50, 50, 70, 70))])
def test_what_looks_like_no_cell_is_refused_with_its_score(prompt: Prompt) -> None:
    source = image_source(ViewerModel().add_image(disc_image(CENTRES, SHAPE), rgb=True))
    with pytest.raises(InputError, match=r"scores 0\.50"):
        drain(iter_prompt(source, prompt, params=SegmentParams(), generator=UnsureGenerator()))


def test_a_mask_beside_the_click_is_not_what_was_clicked() -> None:
    class Beside(PromptGenerator):
        def predict(self, image: NDArray[np.uint8], calibration: Calibration, **prompts: Any) -> list[CellMask]:
            return [mask_of(30, 30)]

    source = image_source(ViewerModel().add_image(disc_image(CENTRES, SHAPE), rgb=True))
    with pytest.raises(InputError, match="No cell was found"):
        drain(iter_prompt(source, Prompt((), point=(30, 48)), params=SegmentParams(), generator=Beside()))


@pytest.mark.parametrize(
    ("point", "expected"), [((60.0, 60.0), [1, 2, 3, 4]), (CENTRES[0], [2, 3, 4])], ids=["beside it", "on it"]
)
def test_a_click_takes_the_place_of_the_cell_that_was_clicked_and_of_no_other(
    session: CellsSession, point: tuple[float, float], expected: list[int]
) -> None:
    queue = PromptQueue(session.viewer, Work())
    mask = replace(mask_of(30, 30), mask=np.ones((61, 61), bool), bbox=(0, 0, 61, 61))  # all of cell 1 lies in it
    found = PromptedCell(Prompt((), point=point), mask, "RBC", 0.9, links.calibration_of(session.layer))
    queue.add(session.layer, found)
    assert list(links.table_of(session.layer).index) == expected


# --- in a window -----------------------------------------------------------------------------------------------------


@pytest.fixture
def shown(nothing_left: None, make_napari_viewer: Callable[..., Viewer]) -> Viewer:
    """A window that is on screen: docks rest while they are hidden."""
    return make_napari_viewer(show=True)


def open_dock(viewer: Viewer) -> Any:
    _, dock = viewer.window.add_plugin_dock_widget("napari-bloodcell", "Edit cells")
    dock.queue.generator, dock.queue.classifier = PromptGenerator(), BrightnessClassifier()
    dock.shows_first.setChecked(False)
    return dock


def test_a_click_in_the_window_adds_the_cell_and_undo_takes_it_away(shown: Viewer, qtbot: QtBot) -> None:
    viewer = shown
    layer = add_smear(viewer)
    dock = open_dock(viewer)
    dock.use_tool(Tool.CLICK)
    with qtbot.waitSignal(dock.queue._work.finished, timeout=30_000):
        dock.mouse.events.clicked(value=MISSED)
    assert layer.data[80, 80] == 4
    assert_follows(layer)
    assert links.table_of(layer).loc[4, "cell_type"] == "RBC"
    dock.buttons.actions_by_name["Undo"].click()
    assert layer.data[80, 80] == 0
    dock.buttons.actions_by_name["Redo"].click()
    assert layer.data[80, 80] == 4


def test_prompts_wait_for_each_other(shown: Viewer, qtbot: QtBot) -> None:
    viewer = shown
    layer = add_smear(viewer)
    dock = open_dock(viewer)
    dock.session.delete([1, 2])
    for point in (CENTRES[0], CENTRES[1], MISSED):
        dock.add_at(point)
    qtbot.waitUntil(lambda: len(links.table_of(layer)) == 4, timeout=30_000)
    qtbot.waitUntil(lambda: not dock.queue._work.is_running, timeout=30_000)
    assert_follows(layer)


def test_the_first_cell_of_an_image_makes_its_layer(shown: Viewer, qtbot: QtBot) -> None:
    viewer = shown
    viewer.add_image(disc_image(CENTRES, SHAPE), name="smear", rgb=True)
    dock = open_dock(viewer)
    with qtbot.waitSignal(dock.queue._work.finished, timeout=30_000):
        dock.add_in((15, 15, 45, 45))
    layer = viewer.layers["smear cells"]
    assert layer.data[30, 30] == 1
    assert dock.session.layer is layer
    assert links.info_of(layer)["calibration"]["rbc_diameter_px"] > 0


def test_a_layer_deleted_while_its_cell_is_looked_for_gets_none(
    shown: Viewer, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("napari_bloodcell.napari.notify.show_error", told.append)
    viewer = shown
    layer = add_smear(viewer)
    dock = open_dock(viewer)
    with qtbot.waitSignal(dock.queue._work.finished, timeout=30_000):
        dock.add_at(MISSED)
        viewer.layers.remove(layer)
    assert len(told) == 1
    assert "deleted" in told[0]


def test_cancel_adds_nothing_and_forgets_what_waits(shown: Viewer, qtbot: QtBot) -> None:
    viewer = shown
    layer = add_smear(viewer)
    dock = open_dock(viewer)
    dock.queue.generator = SlowGenerator()
    dock.add_at(MISSED)
    dock.add_at(MISSED)
    with qtbot.waitSignal(dock.queue._work.finished, timeout=30_000):
        dock.panel._cancel.click()
    assert not dock.queue._work.is_running
    assert len(links.table_of(layer)) == 3


def test_the_window_may_close_while_a_cell_is_looked_for(shown: Viewer) -> None:
    viewer = shown
    add_smear(viewer)
    dock = open_dock(viewer)
    dock.queue.generator = SlowGenerator()
    dock.add_at(MISSED)
    viewer.close()


def test_a_real_click_on_the_canvas_adds_a_cell(shown: Viewer, qtbot: QtBot) -> None:
    viewer = shown
    layer = add_smear(viewer)
    dock = open_dock(viewer)
    dock.use_tool(Tool.CLICK)
    camera_of(viewer).center = layer.data_to_world(MISSED)
    canvas = viewer.window._qt_viewer.canvas.native
    qtbot.waitExposed(canvas)
    with qtbot.waitSignal(dock.queue._work.finished, timeout=30_000):
        qtbot.mouseMove(canvas, canvas.rect().center())
        qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=canvas.rect().center())
    assert layer.data[80, 80] == 4


def test_cells_of_the_active_layer_are_edited(shown: Viewer) -> None:
    viewer = shown
    first = add_smear(viewer)
    second = add_smear(viewer)
    dock = open_dock(viewer)
    viewer.layers.selection.active = first
    dock.session.delete([1])
    assert first.data[30, 30] == 0
    assert second.data[30, 30] == 1


def test_buttons_tell_what_is_missing(shown: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("napari_bloodcell.napari.notify.show_error", told.append)
    viewer = shown
    add_smear(viewer)
    dock = open_dock(viewer)
    dock.buttons.actions_by_name["Merge"].click()
    dock.buttons.actions_by_name["Delete"].click()
    assert "two or more" in told[0]
    assert "No cell is selected" in told[1]


def test_a_closed_dock_leaves_mouse_and_keys_alone(shown: Viewer) -> None:
    viewer = shown
    layer = add_smear(viewer)
    before = len(viewer.mouse_drag_callbacks)
    dock = open_dock(viewer)
    assert len(viewer.mouse_drag_callbacks) == before + 1
    viewer.window.remove_dock_widget(dock)
    assert len(viewer.mouse_drag_callbacks) == before
    assert "D" not in {str(key) for key in layer.keymap}


def test_a_cell_is_outlined_before_enter_adds_it_and_escape_drops_it(shown: Viewer, qtbot: QtBot) -> None:
    layer = add_smear(shown)
    dock = open_dock(shown)
    dock.shows_first.setChecked(True)
    dock.use_tool(Tool.CLICK)
    screen = Screen(shown, layer)

    def click(place: tuple[float, float]) -> None:
        with qtbot.waitSignal(dock.queue._work.finished, timeout=30_000):
            screen.click(place)

    click(MISSED)
    assert "new cell?" in shown.layers
    assert shown.layers.selection.active is layer
    assert layer.data[80, 80] == 0
    screen.key(Qt.Key.Key_Escape)
    assert "new cell?" not in shown.layers
    assert layer.data[80, 80] == 0
    click(MISSED)
    screen.key(Qt.Key.Key_Return)
    assert layer.data[80, 80] == 4
    assert "new cell?" not in shown.layers
    dock.session.delete([1, 4])
    click(MISSED)
    click(CENTRES[0])  # a click on another cell adds the one before
    assert layer.data[80, 80]
    assert not layer.data[30, 30]
    qtbot.mouseClick(dock.keep_found, Qt.MouseButton.LeftButton)
    assert layer.data[30, 30]
    assert not dock.keep_found.isVisible()
