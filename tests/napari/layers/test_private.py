"""What breaks when a new napari has changed a name that it does not promise: a test for each in `layers/private.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels

from napari_bloodcell.napari.layers import private

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari import Viewer

IDS = np.kron(np.arange(12, dtype=np.int32).reshape(3, 4), np.ones((10, 10), np.int32))


def test_unwrapped_else_layers_in_docks_are_not_those_that_events_speak_of(
    make_napari_viewer: Callable[..., Viewer],
) -> None:
    from napari.utils._proxies import PublicOnlyProxy

    viewer = make_napari_viewer()
    assert private.unwrapped(PublicOnlyProxy(viewer)) is viewer
    assert private.unwrapped(viewer) is viewer


def test_drawn_of_else_a_few_corrected_cells_draw_the_whole_window_anew() -> None:
    layer = Labels(IDS)
    drawn = private.drawn_of(layer)
    assert drawn is not None
    assert np.may_share_memory(drawn.labels, layer.data)
    assert drawn.texture.shape == IDS.shape
    assert (drawn.step, drawn.corner.tolist()) == (1.0, [0, 0])


def test_drawn_of_says_where_a_level_of_a_pyramid_lies_else_corrections_are_drawn_elsewhere() -> None:
    large = np.tile(IDS, (40, 40))
    layer = Labels([large, large[::2, ::2], large[::4, ::4]], multiscale=True)
    layer._update_draw(0.5, np.array([[200, 400], [600, 900]]), (400, 500))
    drawn = private.drawn_of(layer)
    assert drawn is not None
    level = layer.data[int(np.log2(drawn.step))]
    window = tuple(slice(int(c), int(c) + n) for c, n in zip(drawn.corner, drawn.labels.shape, strict=True))
    np.testing.assert_array_equal(drawn.labels, level[window])


def test_drawn_of_is_nothing_where_a_stack_is_looked_at_from_its_side() -> None:
    viewer = ViewerModel()
    layer = viewer.add_labels(np.stack([IDS, IDS]))
    drawn = private.drawn_of(layer)
    assert drawn is not None
    assert drawn.corner.tolist() == [0, 0]
    viewer.dims.order = (1, 0, 2)
    assert private.drawn_of(layer) is None


def test_send_else_painted_cells_stay_unseen_until_the_window_moves() -> None:
    layer, told = Labels(IDS), []
    layer.events.labels_update.connect(lambda event: told.append((event.data.shape, event.offset)))
    private.send(layer, (slice(3, 7), slice(2, 12)))
    assert told == [((4, 10), [3, 2])]


def test_make_textures_by_else_a_large_plane_takes_ten_times_as_long() -> None:
    layer, asked = Labels(IDS), []

    def texture(labels: Any, data_slice: Any = None) -> Any:
        asked.append(labels.shape)
        return private.texture_by_napari(layer, labels, data_slice)

    private.make_textures_by(layer, texture)
    layer.refresh()
    assert asked == [IDS.shape]
    np.testing.assert_array_equal(private.texture_of(layer, IDS), private.texture_by_napari(layer, IDS))


def test_texture_codes_else_quick_textures_have_the_wrong_colours() -> None:
    layer = Labels(IDS)
    np.testing.assert_array_equal(private.texture_codes(layer, IDS), private.texture_by_napari(layer, IDS))


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_lookup_colormap_else_cells_are_not_in_the_colours_of_their_types(dtype: type) -> None:
    codes = np.array([0, 1, 2, 1], np.uint8)
    colours = {None: "transparent", 0: "transparent", 1: "red", 2: "blue"}
    ids = IDS.astype(dtype)
    layer = Labels(ids, colormap=private.LookupColormap.by(lambda ids: np.take(codes, ids, mode="clip"), colours))
    assert layer.get_color(3).tolist() == [1, 0, 0, 1]
    assert layer.get_color(2).tolist() == [0, 0, 1, 1]
    texture = private.texture_by_napari(layer, ids)
    same = [np.unique(texture[np.isin(ids, cells)]).tolist() for cells in ([0], [2], range(3, 12))]
    assert [len(values) for values in same] == [1, 1, 1]
    assert same[0] != same[1] != same[2] != same[0]
    assert layer.thumbnail[..., 0].any()


def test_tell_status_by_else_the_status_bar_says_every_column_of_the_table() -> None:
    layer = Labels(IDS, features={"index": np.arange(12), "area_px": np.full(12, 100)})
    assert "area_px" in str(layer.get_status((15.0, 15.0)))
    private.tell_status_by(layer, lambda position=None, **options: private.status_by_napari(layer, position, **options))
    assert "area_px" not in str(layer.get_status((15.0, 15.0)))


def test_read_again_else_the_coarsest_level_of_a_pyramid_stays_as_it_was() -> None:
    level = np.zeros((64, 64), np.int32)
    layer = Labels([np.zeros((128, 128), np.int32), level], multiscale=True)
    level[:] = 5
    private.read_again(layer)
    assert (layer._slice.thumbnail.raw == 5).all()


def test_camera_of_else_outlines_stay_as_wide_as_they_are_at_any_zoom() -> None:
    viewer = ViewerModel()
    viewer.add_labels(IDS)
    private.camera_of(viewer).center = (0, 900, 900)
    viewer.reset_view()
    assert np.allclose(private.camera_of(viewer).center[-2:], [14.5, 19.5])


def test_marks_of_else_a_layer_takes_twice_as_long_to_be_added() -> None:
    assert len(private.marks_of(Labels(IDS))) >= 2


def test_main_window_of_else_closing_asks_nothing(make_napari_viewer: Callable[..., Viewer]) -> None:
    from qtpy.QtWidgets import QMainWindow

    assert isinstance(private.main_window_of(make_napari_viewer()), QMainWindow)
    assert private.main_window_of(ViewerModel()) is None
