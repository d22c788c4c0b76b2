"""Cells are outlined in the colours of their types, as wide on screen at any zoom."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.look import UNTYPED_COLOUR, hide_while_held, outline_width, type_colours
from napari_bloodcell.napari.layers.private import camera_of
from tests.napari.smears import add_smear


def rgb(colour: str) -> list[float]:
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]


@pytest.mark.parametrize(("screen_px", "width"), [(8.0, 1), (1.5, 1), (1.0, 2), (0.75, 2), (0.5, 3), (0.3, 0)])
def test_outlines_are_about_a_pixel_and_a_half_wide_and_tiny_cells_are_filled(screen_px: float, width: int) -> None:
    assert outline_width(screen_px, diameter_px=36) == width


def test_cells_have_the_colours_of_their_types() -> None:
    layer = add_smear(ViewerModel())
    usual = type_colours(links.names_of(layer))
    for cell, code in ((1, 1), (2, 2), (5, 3)):
        assert layer.get_color(cell)[:3].tolist() == pytest.approx(rgb(usual[code]), abs=0.01)


def test_cells_without_a_type_are_seen_too() -> None:
    layer = add_smear(ViewerModel())
    layers.set_types(layer, [4], "")
    assert layer.get_color(4)[:3].tolist() == pytest.approx(rgb(UNTYPED_COLOUR), abs=0.01)
    assert layer.get_color(77)[:3].tolist() == pytest.approx(rgb(UNTYPED_COLOUR), abs=0.01)


def test_a_type_that_changes_changes_the_texture_of_that_cell_alone() -> None:
    layer = add_smear(ViewerModel())
    before = layer._slice.image.view.copy()
    layers.set_types(layer, [1], "WBC")
    changed = before != layer._slice.image.view
    assert changed.any()
    assert set(np.unique(layer.data[changed])) == {1}


def test_outlines_follow_the_zoom_until_the_user_chooses_a_width() -> None:
    viewer = ViewerModel()
    layer = add_smear(viewer)
    for zoom, width in ((0.5, 3), (4.0, 1), (0.1, 0)):
        camera_of(viewer).zoom = zoom
        assert layer.contour == width
    layer.contour = 5
    camera_of(viewer).zoom = 2.0
    assert layer.contour == 5


def test_the_image_alone_is_seen_while_the_key_is_held() -> None:
    viewer = ViewerModel()
    layer = add_smear(viewer)
    opacity, held = layer.opacity, hide_while_held(viewer)
    next(held)
    assert layer.opacity == 0
    assert viewer.layers["smear"].opacity == 1
    assert next(held, "released") == "released"
    assert layer.opacity == opacity
