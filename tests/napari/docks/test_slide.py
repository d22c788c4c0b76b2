"""The docks on a slide: analysed into a folder, shown while it is, stopped and gone on with."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from napari.layers import Labels
from qtpy.QtWidgets import QFileDialog, QMessageBox
from scipy import ndimage

import napari_bloodcell as nb
from napari_bloodcell.core.progress import drain
from napari_bloodcell.napari import pyramids
from napari_bloodcell.napari.docks.base import StageDock
from napari_bloodcell.napari.docks.slide import view
from napari_bloodcell.napari.layers import images, links
from napari_bloodcell.slides.run import iter_analyse_slide
from tests.fakes import BrightnessClassifier, ThresholdGenerator
from tests.slides.conftest import SlowGenerator, random_discs

if TYPE_CHECKING:
    from pathlib import Path

    from napari import Viewer
    from pytestqt.qtbot import QtBot

SHAPE = (640, 800)
AS_SHIPPED_S = view.REFRESH_EVERY_S


@pytest.fixture(autouse=True)
def small_slides(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is large, how large blocks are, and how many levels they write, all in proportion to a small image."""
    monkeypatch.setattr(images, "LARGE_PX", 600 * 600)
    monkeypatch.setattr("napari_bloodcell.slides.run.BLOCK_PX", 256)
    monkeypatch.setattr("napari_bloodcell.results.pyramid.BLOCK_LEVELS", 1)
    monkeypatch.setattr("napari_bloodcell.results.ome_zarr.COARSEST", 300)
    monkeypatch.setattr(view, "REFRESH_EVERY_S", 0.0)


@pytest.fixture
def slide(viewer: Viewer) -> Any:
    image = random_discs(SHAPE, 130)
    levels = [image, np.ascontiguousarray(image[::2, ::2])]
    return viewer.add_image(levels, name="slide", rgb=True, multiscale=True, scale=(0.5, 0.5), units=["um", "um"])


def dock_of(viewer: Viewer, name: str, generator: ThresholdGenerator | None = None) -> Any:
    _, widget = viewer.window.add_plugin_dock_widget("napari-bloodcell", name)
    assert isinstance(widget, StageDock)
    widget.generator, widget.classifier = generator or ThresholdGenerator(), BrightnessClassifier()
    widget.form.set_values({"rbc_diameter_px": 24, **({"tile_size": 160} if name == "Segment" else {})})
    return widget


def run(widget: Any, qtbot: QtBot) -> None:
    with qtbot.waitSignal(widget.panel.work.finished, timeout=60_000):
        widget.run.click()
    qtbot.wait(1)


def in_progress(viewer: Viewer) -> list[Any]:
    return [one for one in viewer.layers if "in progress" in one.name]


def test_a_slide_is_analysed_into_the_folder_and_its_cells_are_layers_on_it(
    viewer: Viewer, qtbot: QtBot, slide: Any, tmp_path: Path
) -> None:
    widget = dock_of(viewer, "Analyse")
    widget.folder.set_path(tmp_path / "result")
    run(widget, qtbot)
    result = nb.open_slide_result(tmp_path / "result")
    cells = links.cells_layer_for(viewer, slide)
    types = links.types_layer_for(viewer, cells)
    assert len(result.table) > 60
    assert f"{len(result.table):,} cells" in widget.summary.text()
    assert not in_progress(viewer)
    assert not isinstance(cells.data[0], np.ndarray)
    assert np.array_equal(np.asarray(types.data[0][...]), result.types[...])
    assert any("Count" in name for name in viewer.window.dock_widgets)


def test_cells_and_types_fill_in_at_every_zoom_while_it_runs(
    viewer: Viewer, qtbot: QtBot, slide: Any, tmp_path: Path
) -> None:
    widget = dock_of(viewer, "Segment", SlowGenerator(seconds=0.03))
    widget.folder.set_path(tmp_path / "result")
    seen: dict[str, list[int]] = {}

    def look(_step: object) -> None:
        for layer in in_progress(viewer):
            key = layer.name.split()[1]
            seen.setdefault(key, []).append(int(np.count_nonzero(np.asarray(layer.data[-1][...]))))

    widget.panel.work.progressed.connect(look)
    run(widget, qtbot)
    for counts in (seen["cells"], seen["types"]):
        assert len(set(counts)) > 3
        assert counts == sorted(counts)


def test_cells_and_types_are_drawn_a_few_times_a_second(
    viewer: Viewer, qtbot: QtBot, slide: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "REFRESH_EVERY_S", AS_SHIPPED_S)
    drawn: dict[str, list[float]] = {}
    refresh = Labels.refresh

    def watched(layer: Labels, *args: Any, **options: Any) -> None:
        if "in progress" in layer.name and layer in viewer.layers:
            drawn.setdefault(layer.name, []).append(time.monotonic())
        refresh(layer, *args, **options)

    monkeypatch.setattr(Labels, "refresh", watched)
    widget = dock_of(viewer, "Segment", SlowGenerator(seconds=0.12))
    widget.folder.set_path(tmp_path / "result")
    run(widget, qtbot)
    assert len(drawn) == 2
    for times in drawn.values():
        later = [t for t in times if t > times[0] + 0.25]  # a layer is drawn when it is added, too
        assert len(later) >= 3
        assert np.diff(later).min() >= 0.25


def test_cancel_keeps_what_is_done_and_the_same_folder_goes_on(
    viewer: Viewer, qtbot: QtBot, slide: Any, tmp_path: Path
) -> None:
    widget = dock_of(viewer, "Segment", SlowGenerator(seconds=0.03))
    widget.folder.set_path(tmp_path / "result")
    widget.run.click()
    qtbot.waitUntil(lambda: bool(in_progress(viewer)), timeout=30_000)
    with qtbot.waitSignal(widget.panel.work.finished, timeout=30_000):
        widget.panel._cancel.click()
    qtbot.wait(1)
    assert widget.summary.text().startswith("Stopped: ")
    assert len(in_progress(viewer)) == 2
    n_done = len(list((tmp_path / "result" / "work" / "tiles").glob("*/*.npz")))
    assert n_done > 0
    generator = widget.generator = ThresholdGenerator()
    run(widget, qtbot)
    assert generator.calls <= 4 * 5 - n_done
    assert not in_progress(viewer)
    recipe = nb.open_slide_result(tmp_path / "result").recipe
    models = {"generator": ThresholdGenerator(), "classifier": BrightnessClassifier()}
    whole = drain(iter_analyse_slide(list(slide.data), tmp_path / "whole", recipe=recipe, **models))
    found = links.cells_layer_for(viewer, slide)
    assert np.array_equal(np.asarray(found.data[0][...]), whole.cells[...])


def test_a_large_image_asks_for_its_folder(
    viewer: Viewer, qtbot: QtBot, slide: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widget = dock_of(viewer, "Segment")
    assert widget.folder.isVisibleTo(widget)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_a, **_k: "")
    widget.run.click()
    assert not widget.is_running
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_a, **_k: str(tmp_path / "chosen"))
    run(widget, qtbot)
    assert (tmp_path / "chosen" / "cells.parquet").is_file()
    small = viewer.add_image(np.asarray(slide.data[0])[:300, :300], name="small", rgb=True)
    widget.image.choose(small)
    assert not widget.folder.isVisibleTo(widget)
    assert widget.folder.path is None


def test_settings_are_tried_on_a_part_of_a_large_image(viewer: Viewer, qtbot: QtBot, slide: Any) -> None:
    widget = dock_of(viewer, "Segment")
    corners = [[[99.75, 59.75], [99.75, 199.75], [239.75, 199.75], [239.75, 59.75]]]
    shapes = viewer.add_shapes(corners, name="here", units=["um", "um"])
    widget.image.choose(slide)
    widget.region.choose(shapes)
    run(widget, qtbot)
    part = viewer.layers["slide part"]
    assert np.array_equal(part.data, np.asarray(slide.data[0])[200:480, 120:400])
    assert np.allclose(part.data_to_world((0, 0)), (100, 60))
    assert len(links.table_of(links.cells_layer_for(viewer, part))) > 0
    assert links.cells_layer_for(viewer, slide) is None


def test_cells_of_a_slide_are_typed_part_by_part(viewer: Viewer, qtbot: QtBot, slide: Any) -> None:
    labels, n = ndimage.label(np.asarray(slide.data[0]).mean(-1) < 160)
    layer = viewer.add_labels(
        [labels, labels[::2, ::2]], name="of another program", scale=slide.scale, units=slide.units
    )
    _, widget = viewer.window.add_plugin_dock_widget("napari-bloodcell", "Classify")
    widget.classifier = BrightnessClassifier()
    widget.cells.choose(layer)
    run(widget, qtbot)
    assert n > 60
    table = links.table_of(layer)
    assert table["cell_type"].value_counts().sum() == n
    assert set(table["cell_type"]) == {"RBC", "WBC"}
    assert "RBC" in widget.summary.text()


def test_a_result_with_other_settings_is_replaced_only_when_the_user_says_so(
    viewer: Viewer, qtbot: QtBot, slide: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widget = dock_of(viewer, "Segment")
    widget.folder.set_path(tmp_path / "result")
    run(widget, qtbot)
    widget.form.set_values({"tile_size": 200})
    monkeypatch.setattr(QMessageBox, "question", lambda *_a: QMessageBox.StandardButton.No)
    widget.run.click()
    assert not widget.is_running
    monkeypatch.setattr(QMessageBox, "question", lambda *_a: QMessageBox.StandardButton.Yes)
    run(widget, qtbot)
    assert nb.open_slide_result(tmp_path / "result").recipe.segment.tile_size == 200
    cells = [one for one in viewer.layers if isinstance(one, Labels) and links.is_cells(one)]
    assert len(cells) == 1
    assert pyramids.read_slide_result(tmp_path / "result")
