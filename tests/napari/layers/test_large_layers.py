"""Layers that do not fit in memory are typed and saved part by part, to what comes of them in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import zarr
from napari.components import ViewerModel

import napari_bloodcell as nb
from napari_bloodcell.core.cells import measure_cells
from napari_bloodcell.core.errors import InputError, OutputError
from napari_bloodcell.core.progress import drain
from napari_bloodcell.napari import writer
from napari_bloodcell.napari.layers import images, links
from napari_bloodcell.napari.layers.keeper import keeper_of
from napari_bloodcell.napari.work import jobs
from napari_bloodcell.slides import save
from napari_bloodcell.slides.run import iter_analyse_slide
from napari_bloodcell.stages import parts
from tests.fakes import BrightnessClassifier, ThresholdGenerator
from tests.slides.conftest import random_discs, settings

if TYPE_CHECKING:
    from pathlib import Path

    from napari.layers import Labels

SHAPE = (700, 810)
PARAMS = nb.ClassifyParams(use_context=False)


class Reversed(BrightnessClassifier):
    """Calls pale cells WBC."""

    def predict(self, cutouts: np.ndarray) -> np.ndarray:
        return super().predict(cutouts)[:, ::-1]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LARGE_PX", 300 * 300)
    for module in (parts, save, jobs):
        monkeypatch.setattr(module, "PART_PX", 256)
    monkeypatch.setattr("napari_bloodcell.slides.run.BLOCK_PX", 256)
    monkeypatch.setattr("napari_bloodcell.results.pyramid.BLOCK_LEVELS", 1)
    monkeypatch.setattr("napari_bloodcell.results.pyramid.CHUNK", 64)
    monkeypatch.setattr("napari_bloodcell.results.ome_zarr.COARSEST", 400)


@pytest.fixture
def result(tmp_path: Path) -> nb.SlideResult:
    image = random_discs(SHAPE, 160)
    zarr.create_array(tmp_path / "image.zarr", data=image, chunks=(128, 128, 3))
    models = {"generator": ThresholdGenerator(), "classifier": BrightnessClassifier()}
    recipe = settings(pixel_size_um=0.25)
    return drain(iter_analyse_slide(tmp_path / "image.zarr", tmp_path / "result", recipe=recipe, **models))


def opened(folder: Path) -> tuple[ViewerModel, Labels]:
    viewer = ViewerModel()
    nb.napari.open_result(folder, viewer)
    return viewer, next(one for one in viewer.layers if links.is_cells(one))


def test_cells_on_many_parts_are_measured_as_in_memory() -> None:
    cells = np.zeros((600, 530), np.int32)
    cells[200:300, 240:300] = 7  # on four parts
    cells[500:600, 10:20] = 2
    cells[0:40, 255:257] = 900_000
    found = drain(parts.iter_measure(cells))
    expected = measure_cells(np.where(cells == 900_000, 9, cells)).rename({9: 900_000})
    pd.testing.assert_frame_equal(found, expected)
    assert drain(parts.iter_measure(np.zeros((600, 530), np.int32))).empty


def test_a_slide_is_typed_anew_without_being_read_whole_and_its_folder_says_so(
    result: nb.SlideResult, largest_read: list[int]
) -> None:
    _, cells = opened(result.folder)
    nb.napari.correct_cells(cells, {5: "platelet"})
    before = result.table["cell_type"]
    largest_read[0] = 0
    types = nb.napari.classify_layer(cells, params=PARAMS, classifier=Reversed(name="reversed", sha256="2" * 64))
    assert largest_read[0] <= 330 * 330
    swapped = before.map({"RBC": "WBC", "WBC": "RBC"})
    swapped.loc[5] = "platelet"
    assert links.table_of(cells)["cell_type"].tolist() == swapped.tolist()
    keeper_of(cells).flush()
    after = nb.open_slide_result(result.folder)
    assert after.table["cell_type"].tolist() == swapped.tolist()
    assert np.array_equal(np.asarray(types.data[0][...]), after.types[...])
    assert after.models["classify"] == {"name": "reversed", "sha256": "2" * 64}
    assert after.recipe.classify == PARAMS
    assert after.counts["WBC"] == (swapped == "WBC").sum()


def test_labels_of_another_program_on_a_large_image_get_the_types_they_have_in_memory(
    result: nb.SlideResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, labels = np.asarray(nb.open_slide(result.folder / "smear.ome.zarr").levels[0]), result.cells[...] * 3
    tables = []
    for large in (300 * 300, 10**9):
        monkeypatch.setattr(images, "LARGE_PX", large)
        viewer = ViewerModel()
        shown = viewer.add_image(image, rgb=True, name="smear")
        layer = viewer.add_labels(labels, name="theirs")
        nb.napari.classify_layer(layer, image_layer=shown, params=PARAMS, classifier=BrightnessClassifier())
        tables.append(links.table_of(layer))
    pd.testing.assert_frame_equal(*tables)
    assert tables[0]["cell_type"].tolist() == result.table["cell_type"].tolist()


def test_a_large_result_is_saved_part_by_part_with_what_was_corrected(
    result: nb.SlideResult, tmp_path: Path, largest_read: list[int]
) -> None:
    _, cells = opened(result.folder)
    nb.napari.correct_cells(cells, {3: "WBC", 4: "target cell"})
    largest_read[0] = 0
    nb.napari.save_result(cells, tmp_path / "saved")
    assert largest_read[0] <= 256 * 810  # a band of the image, for its hash
    saved, corrected = nb.open_slide_result(tmp_path / "saved"), nb.open_slide_result(result.folder)
    pd.testing.assert_frame_equal(saved.table, corrected.table)
    assert saved.table["cell_type"].loc[[3, 4]].tolist() == ["WBC", "target cell"]
    assert np.array_equal(saved.cells[...], corrected.cells[...])
    assert np.array_equal(saved.types[...], corrected.types[...])
    assert saved.counts == corrected.counts
    assert saved.image_sha256 == corrected.image_sha256
    assert (saved.recipe, saved.models, saved.names) == (corrected.recipe, corrected.models, corrected.names)
    for name in ("overlay.png", "kde.png", "cells.csv", "recipe.json", "counts.json"):
        assert (tmp_path / "saved" / name).is_file()
    again = opened(tmp_path / "saved")[1]
    assert links.table_of(again)["cell_type"].loc[4] == "target cell"


def test_the_menu_saves_a_large_result_and_its_training_set(result: nb.SlideResult, tmp_path: Path) -> None:
    viewer, cells = opened(result.folder)
    nb.napari.correct_cells(cells, {3: "WBC"})
    data = [layer.as_layer_data_tuple() for layer in viewer.layers]
    writer.write_result_layers(str(tmp_path / "saved"), data)
    assert nb.open_slide_result(tmp_path / "saved").table["cell_type"].loc[3] == "WBC"
    writer.write_training_layers(str(tmp_path / "set"), data)
    assert [path.name.rsplit("_", 1)[0] for path in (tmp_path / "set" / "WBC").iterdir()] == ["image_3"]


def test_what_has_no_sensible_way_is_refused_with_what_to_do(result: nb.SlideResult) -> None:
    _, cells = opened(result.folder)
    with pytest.raises(OutputError, match="Choose another"):
        nb.napari.save_result(cells, result.folder)
    with pytest.raises(InputError, match="save_result writes it"):
        nb.napari.result_of(cells)
