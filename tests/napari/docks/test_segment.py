from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtWidgets import QMessageBox

import napari_bloodcell as nb
from napari_bloodcell.core.cells import centroids_of
from napari_bloodcell.napari.docks.base import ALL_PLANES
from napari_bloodcell.napari.docks.segment import IN_VIEW, SegmentWidget
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.private import camera_of
from napari_bloodcell.napari.work.runs import FindCells
from tests.fakes import ThresholdGenerator

if TYPE_CHECKING:
    from napari import Viewer
    from pytestqt.qtbot import QtBot

N_CELLS = 10


@dataclass
class SlowGenerator(ThresholdGenerator):
    """Takes its time over a tile."""

    seconds: float = 0.05

    def generate(self, *args: Any, **options: Any) -> Any:
        time.sleep(self.seconds)
        return super().generate(*args, **options)


def dock_of(viewer: Viewer, generator: ThresholdGenerator | None = None, **values: object) -> SegmentWidget:
    _, widget = viewer.window.add_plugin_dock_widget("napari-bloodcell", "Segment")
    assert isinstance(widget, SegmentWidget)
    widget.generator = generator or ThresholdGenerator()
    widget.form.set_values({"rbc_diameter_px": 24, "tile_size": 64, **values})
    return widget


def run(widget: SegmentWidget, qtbot: QtBot) -> None:
    with qtbot.waitSignal(widget.panel.work.finished, timeout=60_000):
        widget.run.click()
    qtbot.wait(1)


def cells_in(viewer: Viewer, image: str = "smear") -> Any:
    return links.cells_layer_for(viewer, viewer.layers[image])


def test_a_click_finds_the_cells_and_tells_how_many(viewer: Viewer, qtbot: QtBot, field: np.ndarray) -> None:
    viewer.add_image(field, name="smear", rgb=True)
    widget = dock_of(viewer)
    run(widget, qtbot)
    cells = cells_in(viewer)
    assert len(links.table_of(cells)) == N_CELLS
    assert widget.summary.text().startswith("10 cells in ")
    assert "Red cell = 24 px, as given; 8 whole cells are about that wide." in widget.summary.text()
    assert viewer.layers.selection.active is cells
    assert links.info_of(cells)["recipe"]["segment"]["tile_size"] == 64


def test_the_dock_gives_what_the_api_gives(viewer: Viewer, qtbot: QtBot, field: np.ndarray) -> None:
    viewer.add_image(field, name="smear", rgb=True)
    widget = dock_of(viewer)
    run(widget, qtbot)
    plain = nb.segment(field, params=widget.form.settings(), generator=ThresholdGenerator())
    assert (cells_in(viewer).data == plain.cells).all()


def test_cells_appear_while_others_are_still_looked_for(viewer: Viewer, qtbot: QtBot, field: np.ndarray) -> None:
    viewer.add_image(field, name="smear", rgb=True)
    widget = dock_of(viewer, SlowGenerator())
    widget.run.click()
    qtbot.waitUntil(lambda: bool(cells_in(viewer).data.any()), timeout=20_000)
    assert widget.is_running
    assert not widget.run.isEnabled()
    qtbot.waitUntil(lambda: not widget.is_running, timeout=20_000)
    assert len(links.table_of(cells_in(viewer))) == N_CELLS


def test_cancel_keeps_the_cells_found_until_then(viewer: Viewer, qtbot: QtBot, field: np.ndarray) -> None:
    viewer.add_image(field, name="smear", rgb=True)
    generator = SlowGenerator()
    widget = dock_of(viewer, generator)
    with qtbot.waitSignal(widget.panel.work.finished, timeout=30_000):
        widget.run.click()
        qtbot.waitUntil(lambda: generator.calls >= 5, timeout=20_000)
        calls = generator.calls
        widget.panel._cancel.click()
    qtbot.wait(1)
    assert generator.calls <= calls + 1
    cells = cells_in(viewer)
    table = links.table_of(cells)
    assert 0 < len(table) < N_CELLS
    assert set(np.unique(cells.data)) - {0} == set(table.index)
    assert "not reached" in widget.summary.text()
    run(dock_of(viewer), qtbot)
    assert len(links.table_of(cells)) == N_CELLS


def test_cancelling_a_second_run_keeps_earlier_cells_where_it_did_not_look(
    viewer: Viewer, qtbot: QtBot, field: np.ndarray
) -> None:
    viewer.add_image(field, name="smear", rgb=True)
    widget = dock_of(viewer)
    run(widget, qtbot)
    widget.generator = SlowGenerator()
    widget.panel.work.progressed.connect(lambda step: widget.panel.work.cancel() if step.done == 3 else None)
    run(widget, qtbot)
    assert len(links.table_of(cells_in(viewer))) == N_CELLS


def test_a_rectangle_alone_is_looked_at(viewer: Viewer, qtbot: QtBot, field: np.ndarray) -> None:
    viewer.add_image(field, name="smear", rgb=True)
    shapes = viewer.add_shapes([[[10, 10], [10, 140], [130, 140], [130, 10]]], name="roi")
    widget = dock_of(viewer)
    widget.region.choose(shapes)
    run(widget, qtbot)
    found = centroids_of(links.table_of(cells_in(viewer)))
    assert sorted(found.tolist()) == [
        [40, 40],
        [40, 120],
        [110, 70],
        [128, 128],
    ]


def test_what_is_in_view_alone_is_looked_at(make_napari_viewer: Any, qtbot: QtBot, field: np.ndarray) -> None:
    viewer = make_napari_viewer(show=True)
    viewer.add_image(np.tile(field, (4, 4, 1)), name="smear", rgb=True)
    camera_of(viewer).center = (128, 128)
    camera_of(viewer).zoom = 4
    qtbot.wait(200)
    widget = dock_of(viewer)
    widget.region.setCurrentText(IN_VIEW)
    run(widget, qtbot)
    assert 0 < len(links.table_of(cells_in(viewer))) < 40


def test_all_planes_of_a_stack_get_their_cells(viewer: Viewer, qtbot: QtBot, field: np.ndarray) -> None:
    viewer.add_image(np.stack([field, field[::-1], field]), name="smear", rgb=True)
    widget = dock_of(viewer)
    widget.planes.setCurrentText(ALL_PLANES)
    run(widget, qtbot)
    assert links.table_of(cells_in(viewer))["plane"].value_counts().to_dict() == {0: 10, 1: 10, 2: 10}


def test_of_several_images_the_active_one_is_looked_at_and_the_others_keep_their_cells(
    viewer: Viewer, qtbot: QtBot, field: np.ndarray
) -> None:
    viewer.add_image(field, name="smear", rgb=True)
    widget = dock_of(viewer)
    run(widget, qtbot)
    first = cells_in(viewer).data.copy()
    other = viewer.add_image(field[:128, :128], name="other", rgb=True)
    assert widget.image.layer is other
    run(widget, qtbot)
    assert len(links.table_of(cells_in(viewer, "other"))) == 4
    assert (cells_in(viewer).data == first).all()
    viewer.layers.selection.active = viewer.layers["smear"]
    assert widget.image.layer is viewer.layers["smear"]


def test_planes_are_offered_for_stacks_only(viewer: Viewer, field: np.ndarray) -> None:
    widget = dock_of(viewer)
    viewer.add_image(field, name="flat", rgb=True)
    assert not widget.rows.isRowVisible(widget.planes)
    viewer.add_image(np.stack([field, field]), name="stack", rgb=True)
    assert widget.rows.isRowVisible(widget.planes)


def test_a_window_without_an_image_says_how_to_open_one(viewer: Viewer, notifications: list[str]) -> None:
    widget = dock_of(viewer)
    widget.run.click()
    assert notifications == ["There is no image. Open a smear first: File ▸ Open, or File ▸ Open Sample ▸ Blood cells."]


def test_an_image_that_cannot_be_read_changes_nothing(viewer: Viewer, qtbot: QtBot, notifications: list[str]) -> None:
    viewer.add_image(np.full((50, 50), -1e9), name="smear")
    run(dock_of(viewer), qtbot)
    assert len(viewer.layers) == 1
    assert "0 to 255" in notifications[0]


def test_a_model_that_fails_on_a_tile_is_named(viewer: Viewer, qtbot: QtBot, field: np.ndarray) -> None:
    viewer.add_image(field, name="smear", rgb=True)
    widget = dock_of(viewer, ThresholdGenerator(fails_on=(64, 64)), tile_overlap=0)
    run(widget, qtbot)
    assert "1 tiles failed (r01_c01)" in widget.summary.text()
    assert links.info_of(cells_in(viewer))["failed_tiles"][0]["box"] == (64, 64, 128, 128)


def test_deleting_the_cells_while_it_runs_stops_it(
    viewer: Viewer, qtbot: QtBot, field: np.ndarray, notifications: list[str]
) -> None:
    viewer.add_image(field, name="smear", rgb=True)
    generator = SlowGenerator()
    widget = dock_of(viewer, generator)
    with qtbot.waitSignal(widget.panel.work.finished, timeout=30_000):
        widget.run.click()
        qtbot.waitUntil(lambda: generator.calls >= 2)
        viewer.layers.remove(cells_in(viewer))
    qtbot.wait(1)
    assert generator.calls < 12
    assert "was deleted" in notifications[0]
    assert [layer.name for layer in viewer.layers] == ["smear"]


def test_renaming_the_image_while_it_runs_loses_nothing(viewer: Viewer, qtbot: QtBot, field: np.ndarray) -> None:
    image = viewer.add_image(field, name="smear", rgb=True)
    generator = SlowGenerator()
    widget = dock_of(viewer, generator)
    with qtbot.waitSignal(widget.panel.work.finished, timeout=30_000):
        widget.run.click()
        qtbot.waitUntil(lambda: generator.calls >= 2)
        image.name = "another name"
    qtbot.wait(1)
    assert len(links.table_of(viewer.layers["smear cells"])) == N_CELLS


def test_deleting_the_image_while_it_runs_ends_it_and_leaves_earlier_cells(
    viewer: Viewer, qtbot: QtBot, field: np.ndarray
) -> None:
    image = viewer.add_image(field, name="smear", rgb=True)
    widget = dock_of(viewer)
    run(widget, qtbot)
    before = cells_in(viewer).data.copy()
    widget.generator = generator = SlowGenerator()
    with qtbot.waitSignal(widget.panel.work.finished, timeout=30_000):
        widget.run.click()
        qtbot.waitUntil(lambda: generator.calls >= 2)
        viewer.layers.remove(image)
    qtbot.wait(1)
    assert generator.calls < 12
    assert (viewer.layers["smear cells"].data == before).all()
    assert "Nothing was changed" in widget.summary.text()


def test_closing_the_window_while_it_runs_ends_the_worker(
    nothing_left: None, make_napari_viewer: Any, qtbot: QtBot, field: np.ndarray
) -> None:
    viewer = make_napari_viewer()
    viewer.add_image(field, name="smear", rgb=True)
    generator = SlowGenerator()
    widget = dock_of(viewer, generator)
    widget.run.click()
    qtbot.waitUntil(lambda: generator.calls >= 2)
    del widget
    viewer.close()
    calls = generator.calls
    qtbot.wait(300)
    assert generator.calls <= calls + 1


def test_closing_the_dock_while_it_runs_ends_the_worker(viewer: Viewer, qtbot: QtBot, field: np.ndarray) -> None:
    viewer.add_image(field, name="smear", rgb=True)
    generator = SlowGenerator()
    widget = dock_of(viewer, generator)
    widget.run.click()
    qtbot.waitUntil(lambda: generator.calls >= 2)
    viewer.window.remove_dock_widget(widget)
    calls = generator.calls
    qtbot.wait(300)
    assert generator.calls <= calls + 1


def test_our_part_of_each_step_is_short(
    viewer: Viewer, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, shipped: tuple[np.ndarray, Any]
) -> None:
    viewer.add_image(shipped[0], name="smear", rgb=True)
    widget = dock_of(viewer, tile_size=512)
    took = []
    usual = FindCells.take_step

    def timed(self: FindCells, step: Any) -> None:
        start = time.perf_counter()
        usual(self, step)
        took.append(time.perf_counter() - start)

    monkeypatch.setattr(FindCells, "take_step", timed)
    run(widget, qtbot)
    assert len(took) > 20
    assert np.median(took) < 0.2


@pytest.mark.parametrize("answer", [QMessageBox.StandardButton.No, QMessageBox.StandardButton.Yes])
def test_official_weights_are_downloaded_after_a_question(
    viewer: Viewer,
    qtbot: QtBot,
    field: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    notifications: list[str],
    answer: QMessageBox.StandardButton,
) -> None:
    asked: list[str] = []

    def question(_parent: object, _title: str, text: str) -> QMessageBox.StandardButton:
        asked.append(text)
        return answer

    def no_network(name: str) -> Any:
        yield nb.Progress(1_000_000, 375_000_000, f"downloading {name}")
        raise nb.DownloadError("vit_b could not be downloaded: there is no connection.")

    monkeypatch.setattr(QMessageBox, "question", question)
    monkeypatch.setattr("napari_bloodcell.napari.work.models.iter_download", no_network)
    viewer.add_image(field, name="smear", rgb=True)
    widget = dock_of(viewer, model="vit_b")
    widget.generator = None
    if answer == QMessageBox.StandardButton.Yes:
        run(widget, qtbot)
    else:
        widget.run.click()
    assert "375 MB" in asked[0]
    assert "dl.fbaipublicfiles.com" in asked[0]
    assert len(notifications) == (answer == QMessageBox.StandardButton.Yes)
    assert [layer.name for layer in viewer.layers] == ["smear"]


def test_preferences_are_the_forms_defaults(viewer: Viewer) -> None:
    from napari.settings import get_plugin_settings

    get_plugin_settings("napari-bloodcell").models.device = "cpu"
    get_plugin_settings("napari-bloodcell").models.segment_model = "vit_b"
    widget = SegmentWidget(viewer)
    try:
        assert widget.form.settings().device == "cpu"
        assert widget.form.settings().model == "vit_b"
    finally:
        widget.close()


def test_the_dock_is_readable_at_350_pixels(viewer: Viewer, qtbot: QtBot) -> None:
    widget = dock_of(viewer)
    assert widget.minimumSizeHint().width() <= 350
