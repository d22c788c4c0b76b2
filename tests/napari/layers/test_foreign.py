"""Labels of other programs become cells of this one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from napari.components import ViewerModel

import napari_bloodcell as nb
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.foreign import LARGEST_ID, number_cells, pieces_of_mask
from napari_bloodcell.napari.layers.images import channels_hint, image_source
from tests.fakes import BrightnessClassifier, ThresholdGenerator, disc_image
from tests.napari.smears import CENTRES, SHAPE, label_image

if TYPE_CHECKING:
    from napari.layers import Labels

PLACES = [tuple(int(v) for v in centre) for centre in CENTRES]


def frames(viewer: ViewerModel) -> Labels:
    """Two frames, the second darker, whose labels begin with 1 in each, as Cellpose gives them."""
    image = disc_image(CENTRES, SHAPE)
    viewer.add_image(np.stack([image, image // 3]), rgb=True, name="film")
    return viewer.add_labels(np.stack([label_image(), label_image()]), name="masks")


def test_frames_whose_ids_begin_anew_are_typed_counted_and_corrected_each_in_its_own_plane() -> None:
    viewer = ViewerModel()
    masks = frames(viewer)
    typed = nb.napari.classify_layer(
        masks, image_layer=viewer.layers["film"], viewer=viewer, classifier=BrightnessClassifier()
    )
    table = links.table_of(masks)
    assert table.index.is_unique
    assert table["plane"].tolist() == [0] * 6 + [1] * 6
    assert nb.napari.count_layer(masks).counts["WBC"] >= 6  # the dark frame
    codes = [np.asarray(typed.data[(plane, *PLACES[2])]) for plane in (0, 1)]
    assert codes == [1, 2]
    here = int(masks.data[(1, *PLACES[2])])
    nb.napari.correct_cells(masks, {here: "platelet"}, viewer=viewer)
    codes = [np.asarray(typed.data[(plane, *PLACES[2])]) for plane in (0, 1)]
    assert codes == [1, 3]


def test_ids_that_no_table_can_hold_are_numbered_anew() -> None:
    layer = ViewerModel().add_labels(label_image().astype(np.uint64) * 2**34)
    number_cells(layer)
    assert np.unique(layer.data).tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_ids_that_are_unique_stay_as_they_are() -> None:
    stack = np.stack([label_image(), np.where(label_image() > 0, label_image() + 6, 0)])
    layer = ViewerModel().add_labels(stack)
    number_cells(layer)
    assert layer.data is stack


def test_empty_labels_are_an_error_that_says_so() -> None:
    layer = ViewerModel().add_labels(np.zeros(SHAPE, np.int32), name="masks")
    with pytest.raises(InputError, match="'masks' holds no cell"):
        number_cells(layer)


@pytest.mark.parametrize("value", [1, 255])
def test_a_mask_has_pieces(value: int) -> None:
    layer = ViewerModel().add_labels((label_image() > 0).astype(np.int32) * value)
    pieces = pieces_of_mask(layer)
    assert pieces is not None
    assert pieces.max() == 6


@pytest.mark.parametrize("n_planes", [1, 2])
def test_a_script_that_takes_a_mask_for_cells_is_warned(n_planes: int) -> None:
    viewer = ViewerModel()
    stack = (slice(None),) if n_planes > 1 else (0,)
    image = viewer.add_image(np.stack([disc_image(CENTRES, SHAPE)] * n_planes)[stack], rgb=True)
    mask = viewer.add_labels(np.stack([label_image() > 0] * n_planes)[stack], name="masks")
    with pytest.warns(nb.InputWarning, match=f"'masks' is a mask of one id in {6 * n_planes} pieces"):
        nb.napari.classify_layer(mask, image_layer=image, viewer=viewer, classifier=BrightnessClassifier())


def test_a_script_that_takes_colours_for_planes_is_warned() -> None:
    viewer = ViewerModel()
    layer = viewer.add_image(np.moveaxis(disc_image(CENTRES, SHAPE), -1, 0), name="smear")
    with pytest.warns(nb.InputWarning, match="'smear' is a stack of 3 grey planes"):
        nb.napari.segment_layer(layer, viewer=viewer, generator=ThresholdGenerator())


def test_labels_without_a_table_say_what_makes_one() -> None:
    layer = ViewerModel().add_labels(label_image())
    with pytest.raises(InputError, match="Type its cells first"):
        nb.napari.count_layer(layer)


def test_pieces_do_not_go_from_one_plane_to_the_next() -> None:
    mask = np.stack([label_image() > 0] * 2).astype(np.int32)
    pieces = pieces_of_mask(ViewerModel().add_labels(mask))
    assert pieces is not None
    assert pieces.max() == 12


@pytest.mark.parametrize("cells", [label_image(), (label_image() == 1).astype(np.int32), np.zeros(SHAPE, np.int32)])
def test_cells_are_no_mask(cells: Any) -> None:
    assert pieces_of_mask(ViewerModel().add_labels(cells)) is None


def test_three_planes_may_be_the_colours_of_one_image() -> None:
    viewer = ViewerModel()
    colours = np.moveaxis(disc_image(CENTRES, SHAPE), -1, 0)
    assert "Merge to RGB" in channels_hint(image_source(viewer.add_image(colours)))
    assert not channels_hint(image_source(viewer.add_image(disc_image(CENTRES, SHAPE), rgb=True)))
    assert not channels_hint(image_source(viewer.add_image(np.zeros((5, *SHAPE), np.uint8))))


def test_the_largest_id_fits_into_memory() -> None:
    assert LARGEST_ID <= 2**26
