from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from napari.components import ViewerModel
from napari.layers import Layer
from napari_builtins.io import napari_write_labels
from qtpy.QtCore import QTimer

import napari_bloodcell as nb
from napari_bloodcell.cli.main import main
from napari_bloodcell.core.cells import measure_cells
from napari_bloodcell.core.errors import InputError, OutputError
from napari_bloodcell.core.progress import drain
from napari_bloodcell.learning.dataset import read_cutouts
from napari_bloodcell.learning.train import parts_of
from napari_bloodcell.learning.training_set import TrainingSet
from napari_bloodcell.napari import reader, writer
from napari_bloodcell.napari.docks.train.jobs import Source, TrainTask, iter_training
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.regions import boxes_of_shapes, region_of
from napari_bloodcell.napari.layers.types import TypedView
from napari_bloodcell.napari.pyramids import read_slide
from tests.fakes import BrightnessClassifier, ThresholdGenerator

if TYPE_CHECKING:
    from pathlib import Path

    from napari import Viewer
    from napari.layers import Image, Labels
    from pytestqt.qtbot import QtBot

RECIPE = nb.Recipe(segment=nb.SegmentParams(rbc_diameter_px=24, tile_size=128))


@pytest.fixture
def analysed(field: np.ndarray) -> tuple[ViewerModel, Image, Labels]:
    viewer = ViewerModel()
    image = viewer.add_image(field, name="smear", rgb=True)
    nb.napari.analyse_layer(image, recipe=RECIPE, generator=ThresholdGenerator(), classifier=BrightnessClassifier())
    return viewer, image, viewer.layers["smear cells"]


@pytest.fixture
def unlike_each_other(analysed: Any) -> tuple[ViewerModel, Image, Labels]:
    """Cells with noise of their own: those with the same pixels are one cell to a training set."""
    _, image, _ = analysed
    image.data = image.data - np.random.default_rng(0).integers(0, 20, image.data.shape, dtype=np.uint8)
    return analysed


@pytest.fixture
def saved(analysed: Any, tmp_path: Path) -> Path:
    return nb.napari.save_result(analysed[2], tmp_path / "smear")


@pytest.mark.parametrize("part", ["", "smear.ome.zarr", "recipe.json"])
def test_a_result_opens_by_its_folder_its_zarr_or_its_recipe(saved: Path, part: str) -> None:
    path = str(saved / part) if part else str(saved)
    read = reader.get_reader(path)
    assert read is not None
    image, types, cells = read(path)
    assert [layer[2] for layer in (image, types, cells)] == ["image", "labels", "labels"]
    assert cells[1]["features"]["cell_type"].value_counts().to_dict() == {"RBC": 8, "WBC": 2}


@pytest.mark.parametrize("name", ["notes.txt", "folder", "empty.ome.zarr", "missing"])
def test_what_is_no_result_is_left_to_other_readers(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".txt":
        path.write_text("no image")
    elif name != "missing":
        path.mkdir()
    assert reader.get_reader(str(path)) is None
    assert reader.get_reader([str(path)]) is None


def test_a_zarr_without_its_folder_opens_with_what_it_holds(saved: Path, tmp_path: Path, field: np.ndarray) -> None:
    alone = tmp_path / "moved.ome.zarr"
    (saved / "smear.ome.zarr").rename(alone)
    image, _, cells = reader.read_layers(alone)
    assert (image[0] == field).all()
    assert cells[1]["features"]["cell_type"].value_counts().to_dict() == {"RBC": 8, "WBC": 2}


def test_a_large_image_is_read_where_it_is_looked_at(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MOST_BYTES_READ", 1000)
    image, *_ = reader.read_layers(saved)
    assert isinstance(image[0], list)
    assert not isinstance(image[0][0], np.ndarray)
    viewer = ViewerModel()
    nb.napari.open_result(saved, viewer)
    assert viewer.layers[0].data[0].shape == (256, 256, 3) if viewer.layers[0].multiscale else True


def test_a_damaged_result_is_an_error_that_names_it(saved: Path) -> None:
    (saved / "counts.json").write_text("{")
    with pytest.raises(InputError, match=r"is damaged"):
        reader.read_layers(saved)


def test_a_damaged_result_that_is_dropped_into_the_window_is_told_without_a_traceback(
    viewer: Viewer, qtbot: QtBot, saved: Path, notifications: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    (saved / "counts.json").write_text("{")
    damaged = saved.parent / "damaged.svs"
    damaged.write_bytes(b"II*\0" + bytes(100))
    for path, told in ((saved, "is damaged"), (damaged, "damaged.svs")):
        notifications.clear()
        QTimer.singleShot(0, lambda path=path: viewer.open(str(path), plugin="napari-bloodcell"))
        qtbot.waitUntil(lambda: bool(notifications))
        assert told in notifications[0]
    assert not viewer.layers
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_result_dropped_into_the_window_is_tied_together(viewer: Viewer, qtbot: QtBot, saved: Path) -> None:
    viewer.open(str(saved / "smear.ome.zarr"), plugin="napari-bloodcell")
    qtbot.wait(50)
    cells = viewer.layers["smear cells"]
    types = links.types_layer_for(viewer, cells)
    assert isinstance(types.data, TypedView)
    layers.set_types(cells, [1], "platelet")
    assert set(np.asarray(types.data)[cells.data == 1]) == {3}


def test_the_writer_saves_what_the_command_line_saves(analysed: Any, tmp_path: Path) -> None:
    viewer, _, _ = analysed
    target = str(tmp_path / "out.bloodcell")
    assert writer.write_result_layers(target, [one.as_layer_data_tuple() for one in viewer.layers]) == [target]
    found = {path.name for path in (tmp_path / "out.bloodcell").iterdir()}
    tables = {"cells.csv", "cells.parquet"}
    assert found == {*tables, "counts.json", "kde.png", "overlay.png", "recipe.json", "smear.ome.zarr"}
    counts = json.loads((tmp_path / "out.bloodcell" / "counts.json").read_text())
    assert counts["counts"] == {"RBC": 8, "WBC": 2, "platelet": 0}


def test_napari_offers_the_writers_for_an_image_with_its_cells(viewer: Viewer, analysed: Any, tmp_path: Path) -> None:
    viewer.layers.extend(list(analysed[0].layers))
    viewer.layers.save(str(tmp_path / "mine.bloodcell"), plugin="napari-bloodcell")
    assert nb.read_result(tmp_path / "mine.bloodcell").counts == {"RBC": 8, "WBC": 2, "platelet": 0}


def test_saving_without_an_image_says_what_to_select(analysed: Any, tmp_path: Path) -> None:
    viewer, _, _ = analysed
    with pytest.raises(OutputError, match="Select one smear and its cells"):
        writer.write_result_layers(str(tmp_path / "x"), [viewer.layers["smear cells"].as_layer_data_tuple()])


def test_a_training_set_can_be_read_back(unlike_each_other: Any, tmp_path: Path) -> None:
    _, image, cells = unlike_each_other
    folder = writer.write_training_set(tmp_path / "set", cells, image)
    assert read_cutouts(folder).counts() == {"RBC": 8, "WBC": 2}
    table = TrainingSet(folder).table
    assert table["class"].value_counts().to_dict() == {"RBC": 8, "WBC": 2}
    assert set(table["annotator"]) == {"model"}
    assert table[["image_sha256", "y0", "rbc_diameter_px", "glass_r"]].notna().all(axis=None)


def test_a_set_saved_from_layers_trains_on_the_command_line(unlike_each_other: Any, tmp_path: Path) -> None:
    viewer, _, _ = unlike_each_other
    written = writer.write_training_layers(str(tmp_path / "set"), [one.as_layer_data_tuple() for one in viewer.layers])
    out = tmp_path / "mine.safetensors"
    flags = ["--from", "embedded", "--epochs", "1", "--device", "cpu", "-q"]
    assert main(["train", written[0], "-o", str(out), *flags]) == 0
    assert sum(part["n"] for part in json.loads(out.with_suffix(".report.json").read_text())["parts"].values()) == 10


def test_a_set_saved_from_layers_trains_in_the_dock(unlike_each_other: Any, tmp_path: Path) -> None:
    _, image, cells = unlike_each_other
    folder = writer.write_training_set(tmp_path / "set", cells, image)
    params = nb.TrainParams(epochs=1, device="cpu")
    task = TrainTask(Source.TRAINING_SET, folder, [], "ada", params, "embedded")
    assert drain(iter_training(task, lambda: False)).training.report.parts["train"].n == 8


def labelled(types: list[str], by_hand: set[int]) -> tuple[Image, Labels]:
    """Return an image of noise with square cells of these types, some of which a person typed."""
    labels = np.zeros((40, 40 * len(types)), np.int32)
    for i in range(len(types)):
        labels[10:30, 40 * i + 10 : 40 * i + 30] = i + 1
    viewer = ViewerModel()
    pixels = np.random.default_rng(0).integers(1, 255, (*labels.shape, 3), dtype=np.uint8)
    image, cells = viewer.add_image(pixels, name="noise", rgb=True), viewer.add_labels(labels, name="cells")
    table = measure_cells(labels)
    table["cell_type"] = types
    table["type_source"] = ["user" if cell in by_hand else "model" for cell in table.index]
    layers.set_table(cells, table)
    return image, cells


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_folder_that_the_program_writes_can_be_trained_on(tmp_path_factory: Any, data: Any) -> None:
    types = ["RBC", "WBC", *data.draw(st.lists(st.sampled_from(["RBC", "WBC", "blast", "a/b"]), max_size=8))]
    by_hand = data.draw(st.sampled_from([set(), {1, 2}, set(range(1, len(types) + 1))]))
    expected = Counter(types if not by_hand else [types[i - 1] for i in by_hand])
    base = tmp_path_factory.mktemp("sets")
    image, cells = labelled(types, by_hand)
    saved = writer.write_training_set(base / "saved", cells, image)
    gathered = TrainingSet(base / "gathered")
    gathered.add_folder(saved)
    for folder in (saved, gathered.folder, gathered.export(base / "exported")):
        parts = parts_of(folder, nb.TrainParams())
        assert sum((Counter(part.counts()) for _, part in parts.items()), Counter()) == expected


def test_of_corrected_cells_only_those_are_trained_on(unlike_each_other: Any, tmp_path: Path) -> None:
    _, image, cells = unlike_each_other
    layers.set_types(cells, [1, 2], "WBC")
    folder = writer.write_training_set(tmp_path / "set", cells, image)
    assert read_cutouts(folder).counts() == {"WBC": 2}


def test_a_training_set_is_not_written_over_another(analysed: Any, tmp_path: Path) -> None:
    _, image, cells = analysed
    writer.write_training_set(tmp_path / "set", cells, image)
    with pytest.raises(OutputError, match="is not empty"):
        writer.write_training_set(tmp_path / "set", cells, image)


def test_a_stack_is_saved_by_plane(field: np.ndarray, tmp_path: Path) -> None:
    viewer = ViewerModel()
    image = viewer.add_image(np.stack([field, field[::-1]]), name="stack", rgb=True)
    cells = nb.napari.segment_layer(image, params=RECIPE.segment, planes="all", generator=ThresholdGenerator())
    nb.napari.classify_layer(cells, classifier=BrightnessClassifier())
    folder = nb.napari.save_result(cells, tmp_path / "stack")
    assert sorted(path.name for path in folder.iterdir()) == ["plane_0000", "plane_0001"]
    assert nb.read_result(folder / "plane_0001").counts["WBC"] == 2


def test_regions_drawn_in_qupath_become_where(field: np.ndarray, tmp_path: Path) -> None:
    """What QuPath exports: annotations without a class and of the class Region*, a cell, and one drawn by hand."""

    def feature(corners: list[list[float]], **properties: Any) -> dict[str, Any]:
        geometry = {"type": "Polygon", "coordinates": [[*corners, corners[0]]]}
        return {"type": "Feature", "id": "…", "geometry": geometry, "properties": properties}

    square = [[100, 20], [200, 20], [200, 90], [100, 90]]
    triangle = [[0, 0], [50, 0], [0, 50]]
    features = [
        feature(square, objectType="annotation"),
        feature(triangle, objectType="annotation", classification={"name": "Region*"}),
        feature(triangle, objectType="detection", classification={"name": "RBC"}),
        feature([[0, 0], [9, 0], [9, 9]], objectType="annotation", classification={"name": "WBC"}),
    ]
    path = tmp_path / "regions.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    viewer = ViewerModel()
    image = viewer.add_image(field, name="smear", rgb=True, scale=(0.25, 0.25), units=("um", "um"))
    ((corners, about, kind),) = reader.read_regions(path, image)
    shapes = viewer.add_shapes(corners, **about)
    assert (kind, shapes.name, shapes.nshapes) == ("shapes", "smear regions", 2)
    assert boxes_of_shapes(shapes, image) == [(20, 100, 90, 200), (0, 0, 50, 50)]
    nb.napari.analyse_layer(image, recipe=RECIPE, generator=ThresholdGenerator(), classifier=BrightnessClassifier())
    region = region_of(shapes, viewer.layers["smear cells"])
    assert region.area_px() == pytest.approx(100 * 70 + 50 * 50 / 2, rel=0.01)
    assert reader.get_reader(str(path)) is not None


def test_a_file_without_regions_says_where_cells_come_back(tmp_path: Path) -> None:
    (tmp_path / "a.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(InputError, match=r"holds no region.*napari-bloodcell import"):
        reader.read_regions(tmp_path / "a.geojson")


def test_layers_of_a_result_carry_scale_units_and_axes(field: np.ndarray, tmp_path: Path) -> None:
    models = {"generator": ThresholdGenerator(), "classifier": BrightnessClassifier()}
    segment = RECIPE.segment.model_copy(update={"pixel_size_um": 0.25})
    nb.analyse(field, recipe=RECIPE.model_copy(update={"segment": segment}), output=tmp_path / "out", **models)
    for data in reader.read_layers(tmp_path / "out"):
        layer = Layer.create(*data)
        assert layer.scale.tolist() == [0.25, 0.25]
        assert {str(unit) for unit in layer.units} == {"micrometer"}
        assert layer.axis_labels == ("y", "x")


def test_labels_that_napari_saved_are_cells_again(analysed: Any, tmp_path: Path) -> None:
    viewer, image, cells = analysed
    image.scale = (0.25, 0.25)
    expected = np.asarray(cells.data).copy()
    path = napari_write_labels(str(tmp_path / "cells.tif"), *cells.as_layer_data_tuple()[:2])
    assert path is not None
    viewer.layers.remove("smear types")
    viewer.layers.remove("smear cells")
    ((labels, about, kind),) = read_slide(path)
    assert (kind, labels.dtype) == ("labels", expected.dtype)
    layer = viewer.add_labels(labels, **about)
    assert np.array_equal(layer.data, expected)
    nb.napari.classify_layer(layer, image_layer=image, viewer=viewer, classifier=BrightnessClassifier())
    assert links.is_cells(layer)
    assert links.table_of(layer)["cell_type"].value_counts().to_dict() == {"RBC": 8, "WBC": 2}
    assert layer.scale.tolist() == [0.25, 0.25]
