"""A slide that is analysed in parts comes to what it comes to as a whole."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import zarr

import napari_bloodcell as nb
from napari_bloodcell.core.measures import MEASURES
from napari_bloodcell.core.progress import drain
from napari_bloodcell.corrections.journal import image_hash
from napari_bloodcell.results.table import read_csv
from napari_bloodcell.slides.run import iter_analyse_slide
from napari_bloodcell.stages.red_cells.measurements import COLUMNS
from tests.fakes import BrightnessClassifier, ThresholdGenerator
from tests.slides.conftest import random_discs, settings

if TYPE_CHECKING:
    from pathlib import Path

MODELS = {"generator": ThresholdGenerator(), "classifier": BrightnessClassifier()}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("overlap", [None, 0])
def test_in_parts_comes_to_the_same_as_in_memory(overlap: int | None, tmp_path: Path) -> None:
    image = random_discs((700, 611), 220)
    recipe = settings(tile_overlap=overlap)
    whole = nb.analyse(image, recipe=recipe, **MODELS)
    parts = drain(iter_analyse_slide(image, tmp_path, recipe=recipe, **MODELS))
    assert len(whole.table) > 100
    assert np.array_equal(parts.cells[...], whole.cells)
    assert np.array_equal(parts.types[...], whole.types)
    pd.testing.assert_frame_equal(parts.table, whole.table)
    assert parts.counts == whole.counts
    assert parts.counting.interval == whole.counting.interval


@pytest.mark.usefixtures("small_blocks")
def test_cells_are_measured_in_parts_as_in_memory(tmp_path: Path) -> None:
    image, recipe = random_discs((700, 611), 220), settings(pixel_size_um=0.3)
    recipe = recipe.model_copy(update={"count": nb.CountParams(measurements=MEASURES)})
    whole = nb.analyse(image, recipe=recipe, **MODELS)
    parts = drain(iter_analyse_slide(image, tmp_path, recipe=recipe, **MODELS))
    assert whole.table[list(COLUMNS)].notna().all(axis=None)
    pd.testing.assert_frame_equal(parts.table, whole.table)
    pd.testing.assert_frame_equal(read_csv(tmp_path / "cells.csv"), whole.table)
    told = json.loads((tmp_path / "counts.json").read_text())
    assert told["red_cells"]["n"] == whole.counting.population.n
    assert told["red_cells"]["mean_diameter_um"]["value"] == pytest.approx(whole.counting.population.mean_px[0] * 0.3)


def test_a_mistake_in_the_grades_is_told_before_the_work(tmp_path: Path) -> None:
    recipe = nb.Recipe(count=nb.CountParams(grades=str(tmp_path / "none.toml")))
    generator = ThresholdGenerator()
    for output in (None, tmp_path / "out"):
        with pytest.raises(nb.InputError, match="no table of grades"):
            nb.analyse(random_discs((300, 311), 40), recipe=recipe, output=output, generator=generator)
    assert generator.calls == 0


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("copies_image", [True, False])
def test_an_image_has_one_hash_in_memory_and_on_disk(copies_image: bool, tmp_path: Path) -> None:
    image = random_discs((300, 311), 40)
    nb.analyse(image, output=tmp_path / "memory", recipe=settings(), **MODELS)
    work = iter_analyse_slide(image, tmp_path / "disk", recipe=settings(), copies_image=copies_image, **MODELS)
    stored = nb.read_result(tmp_path / "memory").record.image.sha256
    assert stored == drain(work).image_sha256 == image_hash(image)


@pytest.fixture
def analysed(tmp_path: Path) -> tuple[np.ndarray, nb.SlideResult]:
    image = random_discs((1300, 1201), 300)
    models = {"generator": ThresholdGenerator(), "classifier": BrightnessClassifier()}
    work = iter_analyse_slide(image, tmp_path / "out", recipe=settings(pixel_size_um=0.31), geojson=True, **models)
    return image, drain(work)


def test_the_result_is_what_the_formats_ask_for(analysed: tuple[np.ndarray, nb.SlideResult]) -> None:
    ome_zarr_models = pytest.importorskip("ome_zarr_models")
    image, result = analysed
    path = result.folder / "smear.ome.zarr"
    whole = ome_zarr_models.open_ome_zarr(zarr.open_group(path, mode="r"))
    assert whole.ome_attributes.version == "0.5"
    for name in ("cells", "types"):
        labels = ome_zarr_models.open_ome_zarr(zarr.open_group(path / "labels" / name, mode="r"))
        assert "Label" in type(labels).__name__
    described = zarr.open_group(path / "labels" / "types", mode="r").attrs["ome"]["image-label"]
    assert [entry["name"] for entry in described["properties"]] == result.names
    assert len(described["colors"]) == len(result.names)
    opened = nb.open_slide(path)
    assert opened.pixel_size_um == pytest.approx(0.31)
    assert np.array_equal(opened.read((0, 0, 1300, 1201)), image)
    small = np.asarray(opened.levels[-1])
    assert small.shape == (650, 601, 3)
    assert abs(float(small.mean()) - float(image.mean())) < 1
    finest, coarsest = (zarr.open_array(path / "labels" / "cells" / level, mode="r")[...] for level in "01")
    assert np.array_equal(coarsest, finest[::2, ::2])


def test_tables_and_outlines_agree_with_the_cells(analysed: tuple[np.ndarray, nb.SlideResult]) -> None:
    _, result = analysed
    assert (result.table["area_px"] == np.bincount(result.cells[...].ravel())[1:]).all()
    pd.testing.assert_frame_equal(read_csv(result.folder / "cells.csv"), result.table)
    outlines = json.loads((result.folder / "cells.geojson").read_text(encoding="utf-8"))["features"]
    assert len(outlines) == len(result.table)
    for one in outlines:
        row = result.table.loc[int(one["properties"]["name"])]
        assert one["properties"]["classification"]["name"].split(": ")[0] == row["cell_type"]
        assert one["properties"]["measurements"]["Area px^2"] == row["area_px"]
        assert one["geometry"]["type"] == "Polygon"
        points = np.array(one["geometry"]["coordinates"][0])
        assert points.min(0).tolist() == [row["bbox_x0"], row["bbox_y0"]]
        assert points.max(0).tolist() == [row["bbox_x1"], row["bbox_y1"]]


def test_a_large_image_with_a_folder_goes_to_disk_and_a_small_one_is_written_there(tmp_path: Path) -> None:
    import dask.array

    image = random_discs((300, 320), 30)
    models = {"generator": ThresholdGenerator(), "classifier": BrightnessClassifier()}
    small = nb.analyse(image, recipe=settings(), output=tmp_path / "small", **models)
    lazy = nb.analyse(
        dask.array.from_array(image, chunks=(100, 100, 3)), recipe=settings(), output=tmp_path / "lazy", **models
    )
    assert isinstance(small.cells, np.ndarray)
    assert isinstance(lazy.cells, zarr.Array)
    assert np.array_equal(lazy.cells[...], small.cells)
    assert nb.read_result(tmp_path / "small").counts == lazy.counts
    assert nb.read_result(tmp_path / "lazy").counts == lazy.counts


def test_the_same_image_has_the_same_hash_whichever_way_it_was_analysed(tmp_path: Path) -> None:
    image = random_discs((300, 320), 30)
    models = {"generator": ThresholdGenerator(), "classifier": BrightnessClassifier()}
    nb.analyse(image, recipe=settings(), output=tmp_path / "memory", **models)
    drain(iter_analyse_slide(image, tmp_path / "disk", recipe=settings(), **models))
    for name in ("cells.csv", "counts.json"):
        assert (tmp_path / "memory" / name).read_bytes() == (tmp_path / "disk" / name).read_bytes()
    memory, disk = (nb.read_result(tmp_path / name) for name in ("memory", "disk"))
    assert memory.image_sha256 == disk.image_sha256 != ""
    pd.testing.assert_frame_equal(memory.table, disk.table)
    assert memory.counting.interval == disk.counting.interval
