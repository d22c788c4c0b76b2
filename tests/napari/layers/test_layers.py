from __future__ import annotations

import copy
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from napari.components import ViewerModel
from napari.layers import Image, Labels

import napari_bloodcell as nb
from napari_bloodcell.core.cells import measure_cells
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.features import full_table, to_features, to_table
from napari_bloodcell.napari.layers.images import current_plane, image_source, pixel_size_um
from napari_bloodcell.napari.layers.look import cell_at, describe_cell
from napari_bloodcell.stages.red_cells.measurements import COLUMNS as MEASURED
from tests.fakes import BrightnessClassifier, ThresholdGenerator

PARAMS = nb.SegmentParams(rbc_diameter_px=24, tile_size=128)


def shown(image: np.ndarray, **place: object) -> tuple[ViewerModel, Image, Labels]:
    """A viewer with an image and the cells found in it."""
    viewer = ViewerModel()
    layer = viewer.add_image(image, name="smear", rgb=True, **place)
    found = nb.segment(image, params=PARAMS, generator=ThresholdGenerator())
    return viewer, layer, layers.add_segmentation(viewer, layer, found, nb.Recipe(segment=PARAMS))


def typed(image: np.ndarray) -> tuple[ViewerModel, Labels, Labels]:
    viewer, _layer, cells = shown(image)
    found = nb.segment(image, params=PARAMS, generator=ThresholdGenerator())
    result = nb.classify(image, found, classifier=BrightnessClassifier())
    return viewer, cells, layers.add_types(viewer, cells, result, classifier=BrightnessClassifier())


@given(st.lists(st.integers(1, 500), unique=True, max_size=20))
@settings(max_examples=25)
def test_a_table_comes_back_from_features_as_it_was(ids: list[int]) -> None:
    cells = np.zeros((4, 40), np.int32)
    cells[1, : len(ids)] = ids
    table = measure_cells(cells)
    pd.testing.assert_frame_equal(to_table(to_features(table)), table)


def test_features_start_with_the_background_and_rise() -> None:
    features = to_features(measure_cells(np.array([[0, 7, 7, 3]], np.int32)))
    assert features["index"].tolist() == [0, 3, 7]
    assert features.columns[:3].tolist() == ["index", "cell_type", "probability"]


def test_a_cells_layer_says_what_made_it(field: np.ndarray) -> None:
    _, image, cells = shown(field)
    info = links.info_of(cells)
    assert info["models"]["segment"] == {"name": "threshold", "sha256": "0" * 64}
    assert info["recipe"]["segment"]["tile_size"] == 128
    assert info["versions"]["numpy"] == np.__version__
    assert info["image_id"] == str(image.unique_id)
    assert links.calibration_of(cells).rbc_diameter_px == 24


def test_cells_lie_where_the_image_lies(field: np.ndarray) -> None:
    place = {"scale": (0.2, 0.2), "translate": (5, -3), "rotate": 20.0, "units": ("um", "um")}
    _, image, cells = shown(field, **place)
    point = (40.0, 120.0)
    assert np.allclose(cells.data_to_world(point), image.data_to_world(point))
    assert cells.units == image.units
    assert pixel_size_um(cells) == pytest.approx(0.2)


def test_typed_pixels_follow_the_table(field: np.ndarray) -> None:
    _, cells, types = typed(field)
    table = links.table_of(cells)
    assert table["cell_type"].value_counts().to_dict() == {"RBC": 8, "WBC": 2}
    view = np.asarray(types.data)
    names = links.names_of(cells)
    for cell, name in table["cell_type"].items():
        assert set(view[cells.data == cell]) == {names.index(name) + 1}


def test_changing_one_type_changes_its_pixels_and_no_others(field: np.ndarray) -> None:
    _, cells, types = typed(field)
    before = np.asarray(types.data)
    layers.set_types(cells, [3], "platelet")
    changed = np.asarray(types.data) != before
    assert (changed == (cells.data == 3)).all()
    assert links.table_of(cells).loc[3, ["cell_type", "type_source"]].tolist() == ["platelet", "user"]


def test_a_type_that_is_not_known_is_refused_with_those_that_are(field: np.ndarray) -> None:
    _, cells, _ = typed(field)
    with pytest.raises(InputError, match="RBC, WBC, platelet"):
        layers.set_types(cells, [1], "blast")


def test_a_class_of_the_user_gets_the_next_code_and_a_colour(field: np.ndarray) -> None:
    viewer, cells, types = typed(field)
    table = links.table_of(cells)
    table.loc[1, "cell_type"] = "blast"
    layers.set_table(cells, table)
    assert links.names_of(cells) == ["RBC", "WBC", "platelet", "blast", "unidentified"]
    assert layers.add_types(viewer, cells) is types
    assert set(np.asarray(types.data)[cells.data == 1]) == {4}


def test_a_million_ids_change_as_quickly_as_a_few() -> None:
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((1000, 1000, 3), np.uint8), rgb=True)
    cells = layers.add_cells(viewer, image, cells=np.arange(1, 1_000_001, dtype=np.int32).reshape(1000, 1000))
    table = pd.DataFrame(
        {"cell_type": "RBC", "probability": 0.9, "type_source": "model", "area_px": 1},
        index=pd.RangeIndex(1, 1_000_001, name="id"),
    )
    layers.set_table(cells, table)
    types = layers.add_types(viewer, cells)
    layers.set_types(cells, [777_777], "WBC")
    assert np.asarray(types.data).ravel()[777_776] == 2
    assert (np.asarray(types.data) == 2).sum() == 1


def test_a_pixel_painted_by_hand_has_no_type_until_it_is_in_the_table(field: np.ndarray) -> None:
    _, cells, types = typed(field)
    cells.data[0, 0] = 4000
    assert np.asarray(types.data)[0, 0] == 0


def test_layers_find_each_other_after_they_were_renamed(field: np.ndarray) -> None:
    viewer, image, cells = shown(field)
    other = viewer.add_image(field, name="smear of another day", rgb=True)
    types = layers.add_types(viewer, cells)
    image.name, cells.name, types.name, other.name = "a", "b", "c", "smear"
    assert links.cells_layer_for(viewer, image) is cells
    assert links.cells_layer_for(viewer, other) is None
    assert links.image_layer_for(viewer, cells) is image
    assert links.types_layer_for(viewer, cells) is types


def test_a_large_plane_becomes_a_pyramid_whose_levels_follow(
    monkeypatch: pytest.MonkeyPatch, field: np.ndarray
) -> None:
    from napari_bloodcell.napari.layers import look

    monkeypatch.setattr(look, "MOST_PIXELS_IN_ONE", 100 * 100)
    monkeypatch.setattr(look, "COARSEST_PX", 64)
    viewer, cells, types = typed(field)
    assert cells.multiscale
    assert types.multiscale
    assert [level.shape for level in types.data] == [(256, 256), (128, 128), (64, 64)]
    layers.set_types(cells, [1], "platelet")
    ys, xs = np.nonzero(np.asarray(cells.data[1]) == 1)
    assert set(np.asarray(types.data[1])[ys, xs]) == {3}
    assert len(viewer.layers) == 3


def test_a_duplicated_cells_layer_does_not_change_the_original(field: np.ndarray) -> None:
    _, cells, types = typed(field)
    data, state, _ = cells.as_layer_data_tuple()
    twin = Labels(copy.deepcopy(data), **copy.deepcopy(state))
    before = np.asarray(types.data)
    layers.set_types(twin, [1], "platelet")
    assert (np.asarray(types.data) == before).all()


def test_the_status_tells_id_type_and_probability(field: np.ndarray) -> None:
    _, cells, types = typed(field)
    cell = int(cells.data[128, 128])
    told = cells.get_status((128, 128), world=True)["value"]
    assert re.fullmatch(rf": cell {cell}: WBC, 90\.0 %; [a-z ]+, \d+\.\d %", told)
    assert types.get_status((128, 128), world=True)["value"] == told
    assert cells.get_status((0, 0), world=True)["value"] == ""
    layers.set_types(cells, [cell], "RBC")
    assert describe_cell(cells, cell) == f"cell {cell}: RBC, set by hand"


def test_the_cell_under_a_point_is_found_where_layers_are_scaled(field: np.ndarray) -> None:
    _, _, cells = shown(field, scale=(0.25, 0.25), translate=(10, 20))
    assert cell_at(cells, cells.data_to_world((110, 70))) == cells.data[110, 70] > 0
    assert cell_at(cells, (-50, -50)) == 0


@pytest.mark.parametrize("rgb", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_images_of_any_kind_are_read_as_rgb_of_eight_bits(field: np.ndarray, dtype: type, rgb: bool) -> None:
    data = field.astype(dtype)
    data = data / 255 if dtype is np.float32 else data * 257 if dtype is np.uint16 else data
    data = data.astype(dtype)
    viewer = ViewerModel()
    layer = viewer.add_image(data if rgb else data[..., 0], rgb=rgb)
    plane = image_source(layer).plane().data
    assert plane.dtype == np.uint8
    assert plane.shape == (256, 256, 3)
    assert np.abs(plane.astype(int) - field).max() <= 1


def test_the_alpha_channel_is_put_on_white(field: np.ndarray) -> None:
    rgba = np.dstack([field, np.full(field.shape[:2], 255, np.uint8)])
    rgba[:10, :10, 3] = 0
    viewer = ViewerModel()
    plane = image_source(viewer.add_image(rgba, rgb=True)).plane().data
    assert (plane[:10, :10] == 255).all()
    assert (plane[10:] == field[10:]).all()


def test_of_a_pyramid_the_full_resolution_is_read(field: np.ndarray) -> None:
    viewer = ViewerModel()
    layer = viewer.add_image([field, field[::2, ::2], field[::4, ::4]], rgb=True, multiscale=True)
    assert image_source(layer).shape == (256, 256)
    assert (image_source(layer).plane().data == field).all()


def test_a_narrow_grey_image_is_not_taken_for_colours() -> None:
    viewer = ViewerModel()
    layer = viewer.add_image(np.full((40, 3), 200, np.uint8))
    assert image_source(layer).plane().data.shape == (40, 3, 3)


def test_the_sliders_tell_which_plane_is_meant(field: np.ndarray) -> None:
    viewer = ViewerModel()
    layer = viewer.add_image(np.stack([field] * 3)[:, None], rgb=True, scale=(2, 1, 0.5, 0.5), translate=(10, 0, 0, 0))
    viewer.dims.set_point(0, 14)
    assert current_plane(viewer, layer) == (2, 0)
    viewer.add_image(np.zeros((5, 9, 9, 9, 9)))
    assert len(current_plane(viewer, layer)) == 2


def test_only_square_pixels_with_a_unit_of_length_give_a_size(field: np.ndarray) -> None:
    viewer = ViewerModel()
    units = ("um", "um")
    assert pixel_size_um(viewer.add_image(field, rgb=True, scale=(0.1, 0.1))) is None
    assert pixel_size_um(viewer.add_image(field, rgb=True, scale=(0.1, 0.3), units=units)) is None
    assert pixel_size_um(viewer.add_image(field, rgb=True, scale=(100, 100), units=("nm", "nm"))) == pytest.approx(0.1)


def test_adding_forty_thousand_cells_takes_less_than_two_seconds() -> None:
    import time

    side = 10
    ids = np.arange(1, 40_001, dtype=np.int32).reshape(200, 200)
    labels = np.kron(ids, np.ones((side, side), np.int32))
    labels[::side] = 0
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((*labels.shape, 3), np.uint8), rgb=True, name="smear")
    table = measure_cells(labels)
    table["cell_type"] = "RBC"
    start = time.perf_counter()
    cells = layers.add_cells(viewer, image, cells=labels)
    layers.set_table(cells, table)
    layers.add_types(viewer, cells)
    assert time.perf_counter() - start < 2


def test_measurements_are_saved_with_the_cells_of_a_layer() -> None:
    cells = np.zeros((30, 30), np.int32)
    cells[5:20, 5:25] = 3
    table = measure_cells(cells).assign(**dict.fromkeys(MEASURED, 1.5))
    pd.testing.assert_frame_equal(full_table(to_features(table))[list(MEASURED)], table[list(MEASURED)])
    assert not full_table(to_features(measure_cells(cells))).columns.isin(MEASURED).any()
