from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel

import napari_bloodcell as nb
from napari_bloodcell.core.cells import centroids_of
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import links
from tests.fakes import BrightnessClassifier, ThresholdGenerator

if TYPE_CHECKING:
    from pathlib import Path

    from napari.layers import Image

PARAMS = nb.SegmentParams(rbc_diameter_px=24, tile_size=100)
RECIPE = nb.Recipe(segment=PARAMS)
CENTRES = 10


@pytest.fixture
def model() -> ViewerModel:
    return ViewerModel()


def find(layer: Image, **options: object) -> object:
    return nb.napari.segment_layer(layer, params=PARAMS, generator=ThresholdGenerator(), **options)  # type: ignore[arg-type]


def test_the_chain_on_a_layer_gives_what_the_api_gives(model: ViewerModel, field: np.ndarray) -> None:
    layer = model.add_image(field, name="smear", rgb=True)
    models = {"generator": ThresholdGenerator(), "classifier": BrightnessClassifier()}
    shown = nb.napari.analyse_layer(layer, recipe=RECIPE, **models)
    plain = nb.analyse(field, recipe=RECIPE, **models)
    assert (shown.cells == plain.cells).all()
    assert (shown.types == plain.types).all()
    assert shown.counts == plain.counts
    assert shown.table["cells_in_region"].equals(plain.table["cells_in_region"])
    assert [one.name for one in model.layers] == ["smear", "smear types", "smear cells"]


def test_segmenting_twice_replaces_the_cells_in_the_same_layer(model: ViewerModel, field: np.ndarray) -> None:
    layer = model.add_image(field, name="smear", rgb=True)
    first = find(layer)
    assert find(layer) is first
    assert len(nb.napari.table_of(first)) == CENTRES
    assert len(model.layers) == 2


def test_a_region_alone_is_merged_into_the_cells(model: ViewerModel, field: np.ndarray) -> None:
    layer = model.add_image(field, name="smear", rgb=True, scale=(0.5, 0.5))
    cells = find(layer, region=(0, 0, 90, 90))
    assert len(nb.napari.table_of(cells)) == 1
    shapes = model.add_shapes([[[45, 20], [45, 120], [120, 120], [120, 20]]], name="roi")  # in the world: half pixels
    find(layer, region=shapes)
    centres = centroids_of(nb.napari.table_of(cells))
    assert len(centres) > 4
    assert (centres[1:, 0] >= 90).all()


def test_shapes_beside_the_image_are_an_error_that_says_so(model: ViewerModel, field: np.ndarray) -> None:
    layer = model.add_image(field, name="smear", rgb=True)
    shapes = model.add_shapes([[[900, 900], [900, 950], [950, 950], [950, 900]]], name="roi")
    with pytest.raises(InputError, match="'roi' has no shape over 'smear'"):
        find(layer, region=shapes)


@pytest.mark.parametrize("planes", ["current", "all"])
def test_a_stack_is_segmented_by_plane(model: ViewerModel, field: np.ndarray, planes: str) -> None:
    layer = model.add_image(np.stack([field, field[::-1], field[:, ::-1]]), name="stack", rgb=True)
    model.dims.set_point(0, 1)
    cells = find(layer, planes=planes)
    table = nb.napari.table_of(cells)
    expected = {1: CENTRES} if planes == "current" else {0: CENTRES, 1: CENTRES, 2: CENTRES}
    assert table["plane"].value_counts().to_dict() == expected
    assert table.index.is_unique
    for plane, rows in table.groupby("plane"):
        assert set(np.unique(cells.data[plane])) - {0} == set(rows.index)


def kinds_of_images(field: np.ndarray) -> dict[str, dict[str, Any]]:
    """The same ten cells as images of every kind that napari shows."""
    grey = field[..., 0]
    alpha = np.dstack([field, np.full(field.shape[:2], 255, np.uint8)])
    units = {"scale": (0.25, 0.25), "units": ("um", "um"), "translate": (100, -40)}
    return {
        "RGB": {"data": field, "rgb": True},
        "RGBA": {"data": alpha, "rgb": True},
        "RGB of 16 bits": {"data": field.astype(np.uint16) * 257, "rgb": True},
        "RGB of floats to 1": {"data": (field / 255).astype(np.float32), "rgb": True},
        "grey": {"data": grey},
        "grey of 16 bits": {"data": grey.astype(np.uint16) * 257},
        "grey of doubles to 1": {"data": grey / 255},
        "grey of floats to 255": {"data": grey.astype(np.float32)},
        "big-endian": {"data": (grey.astype(np.uint16) * 257).astype(">u2")},
        "pyramid": {"data": [field, field[::2, ::2], field[::4, ::4]], "rgb": True, "multiscale": True},
        "with units": {"data": field, "rgb": True, **units},
        "turned": {"data": field, "rgb": True, "rotate": 30},
        "dask": {"data": da.from_array(field, chunks=(100, 90, 3)), "rgb": True},
        "z stack": {"data": np.stack([field] * 2), "rgb": True},
        "z stack in time": {"data": np.stack([np.stack([grey] * 2)] * 2)},
    }


@pytest.mark.parametrize("kind", kinds_of_images(np.zeros((8, 8, 3), np.uint8)))
def test_images_of_every_kind_can_be_analysed(model: ViewerModel, field: np.ndarray, kind: str) -> None:
    options = kinds_of_images(field)[kind]
    layer = model.add_image(options.pop("data"), name="smear", **options)
    result = nb.napari.analyse_layer(
        layer, recipe=RECIPE, generator=ThresholdGenerator(), classifier=BrightnessClassifier()
    )
    assert result.counts == {"RBC": 8, "WBC": 2, "platelet": 0}
    cells = model.layers["smear cells"]
    assert np.allclose(cells.scale, layer.scale)
    assert np.allclose(cells.data_to_world((0,) * cells.ndim), layer.data_to_world((0,) * cells.ndim))
    assert (result.counting.per_mm2 is not None) == (kind == "with units")


def test_a_second_plane_leaves_the_first_as_it_is(model: ViewerModel, field: np.ndarray) -> None:
    layer = model.add_image(np.stack([field, field[::-1]]), name="stack", rgb=True)
    model.dims.set_point(0, 0)
    cells = find(layer)
    first = cells.data[0].copy()
    model.dims.set_point(0, 1)
    find(layer)
    assert (cells.data[0] == first).all()
    assert len(nb.napari.table_of(cells)) == 2 * CENTRES
    types = nb.napari.classify_layer(cells, classifier=BrightnessClassifier())
    assert np.asarray(types.data).shape == (2, 256, 256)
    assert nb.napari.count_layer(cells).counts == {"RBC": 16, "WBC": 4, "platelet": 0}


def test_labels_of_another_program_can_be_typed_and_counted(model: ViewerModel, field: np.ndarray) -> None:
    layer = model.add_image(field, name="smear", rgb=True)
    labels = nb.segment(field, params=PARAMS, generator=ThresholdGenerator()).cells.astype(np.uint16)
    foreign = model.add_labels(labels * 3, name="from elsewhere")
    nb.napari.classify_layer(foreign, image_layer=layer, classifier=BrightnessClassifier())
    assert sorted(nb.napari.table_of(foreign).index) == [3 * i for i in range(1, CENTRES + 1)]
    assert nb.napari.count_layer(foreign).counts["WBC"] == 2


def test_what_was_painted_since_is_measured_and_typed_too(model: ViewerModel, field: np.ndarray) -> None:
    layer = model.add_image(field, name="smear", rgb=True)
    cells = find(layer)
    cells.data[cells.data == 1] = 0
    cells.data[0:9, 0:9] = 99
    nb.napari.classify_layer(cells, classifier=BrightnessClassifier())
    table = nb.napari.table_of(cells)
    assert 1 not in table.index
    assert table.loc[99, "area_px"] == 81
    assert table.loc[99, "cell_type"] == "RBC"


def test_types_set_by_hand_stay_when_cells_are_typed_again(model: ViewerModel, field: np.ndarray) -> None:
    layer = model.add_image(field, name="smear", rgb=True)
    cells = find(layer)
    nb.napari.classify_layer(cells, classifier=BrightnessClassifier())
    layers.set_types(cells, [2], "platelet")
    nb.napari.classify_layer(cells, classifier=BrightnessClassifier())
    assert nb.napari.table_of(cells).loc[2, "cell_type"] == "platelet"


def test_densities_are_given_where_the_layer_has_units(model: ViewerModel, field: np.ndarray) -> None:
    layer = model.add_image(field, name="smear", rgb=True, scale=(0.25, 0.25), units=("um", "um"))
    result = nb.napari.analyse_layer(
        layer, recipe=RECIPE, generator=ThresholdGenerator(), classifier=BrightnessClassifier()
    )
    assert result.counting.per_mm2 is not None
    side = 256 - np.ceil(0.22 * result.calibration.rbc_diameter_px)  # of the frame in which cells count
    assert result.counting.counted["WBC"] == 2
    assert result.counting.per_mm2["WBC"] == pytest.approx(2 / (side**2 * 0.25**2 * 1e-6))


def test_counting_cells_without_types_says_what_to_do(model: ViewerModel, field: np.ndarray) -> None:
    cells = find(model.add_image(field, name="smear", rgb=True))
    with pytest.raises(InputError, match="Classify them first"):
        nb.napari.count_layer(cells)


def test_a_layer_of_no_viewer_needs_one(field: np.ndarray) -> None:
    from napari.layers import Image

    with pytest.raises(InputError, match="is in no viewer"):
        find(Image(field, name="alone", rgb=True))


def test_labels_are_no_image(model: ViewerModel) -> None:
    with pytest.raises(InputError, match="is no image layer"):
        find(model.add_labels(np.zeros((20, 20), np.uint8), name="labels"))


def test_a_saved_result_opens_as_it_was(model: ViewerModel, field: np.ndarray, tmp_path: Path) -> None:
    layer = model.add_image(field, name="smear", rgb=True, scale=(0.25, 0.25), units=("um", "um"))
    nb.napari.analyse_layer(layer, recipe=RECIPE, generator=ThresholdGenerator(), classifier=BrightnessClassifier())
    cells = links.cells_layer_for(model, layer)
    assert cells is not None
    nb.napari.save_result(cells, tmp_path / "out")
    again = ViewerModel()
    nb.napari.open_result(tmp_path / "out", again)
    assert [one.name for one in again.layers] == ["smear", "smear types", "smear cells"]
    image, types, read = again.layers
    assert (image.data == field).all()
    assert np.allclose(image.scale, 0.25)
    assert (read.data == cells.data).all()
    assert nb.napari.table_of(read).equals(nb.napari.table_of(cells))
    assert links.info_of(read)["models"] == links.info_of(cells)["models"]
    layers.set_types(read, [1], "platelet")
    assert set(np.asarray(types.data)[read.data == 1]) == {3}


def test_importing_the_module_loads_no_napari() -> None:
    from tests.test_package import loaded_after

    assert not loaded_after("import napari_bloodcell as nb; nb.napari.segment_layer").intersection(
        {"napari", "qtpy", "torch"}
    )


def test_the_table_of_a_stack_is_written_seldom_while_it_grows(
    model: ViewerModel, field: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    usual = layers.set_table
    monkeypatch.setattr(layers, "set_table", lambda layer, table: (written.append(len(table)), usual(layer, table)))
    monkeypatch.setattr("napari_bloodcell.napari.work.live.TABLE_SHARE", 1e-9)
    stack = model.add_image(np.stack([field] * 6), name="stack", rgb=True)
    cells = nb.napari.segment_layer(stack, params=PARAMS, planes="all", viewer=model, generator=ThresholdGenerator())
    assert written == [10, 60]
    table = links.table_of(cells)
    assert table["plane"].value_counts().to_dict() == dict.fromkeys(range(6), 10)
    assert sorted(table.index) == list(range(1, 61))
