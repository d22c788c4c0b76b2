"""Textures are those of napari, whatever the layer; only sooner."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap

from napari_bloodcell.napari.layers.drawing import BAND_PX, draw_quickly, look_up

RNG = np.random.default_rng(4)
PATCHES = np.kron(RNG.integers(0, 900, (40, 60)), np.ones((17, 13), int))
PART = (slice(5, 480), slice(3, 777))


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16, np.uint8])
@pytest.mark.parametrize("contour", [0, 1])
@pytest.mark.parametrize("part", [None, PART, (slice(0, 2), slice(0, 2))])
def test_the_texture_is_that_of_napari(dtype: type, contour: int, part: Any) -> None:
    ids = PATCHES.astype(dtype)
    plain, quick = Labels(ids), Labels(ids)
    draw_quickly(quick)
    plain.contour = quick.contour = contour
    wanted = plain._raw_to_displayed(ids, data_slice=part)
    found = quick._raw_to_displayed(ids, data_slice=part)
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(quick._slice.image.view, plain._slice.image.view)


@pytest.mark.parametrize("change", ["selected", "direct", "seed"])
def test_the_texture_follows_the_colormap(change: str) -> None:
    plain, quick = Labels(PATCHES.copy()), Labels(PATCHES.copy())
    draw_quickly(quick)
    for layer in (plain, quick):
        layer.contour = 1
        if change == "selected":
            layer.selected_label, layer.show_selected_label = 7, True
        elif change == "direct":
            layer.colormap = DirectLabelColormap(color_dict={None: "transparent", 7: "red", 9: "blue"})
        else:
            layer.new_colormap(seed=11)
    np.testing.assert_array_equal(quick._slice.image.view, plain._slice.image.view)


def test_ids_beyond_what_a_table_can_be_made_for_are_drawn_too() -> None:
    ids = PATCHES.astype(np.int64)
    ids[0, 0] = 2**40
    plain, quick = Labels(ids), Labels(ids)
    draw_quickly(quick)
    np.testing.assert_array_equal(quick._raw_to_displayed(ids), plain._raw_to_displayed(ids))


def test_looking_up_in_bands_is_looking_up() -> None:
    codes = RNG.integers(0, 250, 901).astype(np.uint8)
    ids = RNG.integers(0, 2_000, (700, 1_000)).astype(np.int32)
    assert ids.size > BAND_PX
    np.testing.assert_array_equal(look_up(codes, ids), codes[np.minimum(ids, 900)])


def test_outlines_of_a_large_plane_are_drawn_several_times_as_quickly() -> None:
    ids = np.kron(np.arange(1, 2_501).reshape(50, 50), np.ones((40, 40), int)).astype(np.int32)

    def took(layer: Labels) -> float:
        layer.contour = 1
        times = []
        for _ in range(3):
            start = time.process_time()
            layer._raw_to_displayed(ids)
            times.append(time.process_time() - start)
        return min(times)

    plain, quick = Labels(ids), Labels(ids)
    draw_quickly(quick)
    assert took(quick) < took(plain) / 3


@pytest.mark.parametrize("part", [None, PART, (slice(0, 2), slice(0, 2))])
@pytest.mark.parametrize("first", [0, 2**20])
def test_wide_outlines_are_as_wide_on_both_sides_of_a_border(part: Any, first: int) -> None:
    ids = np.where(PATCHES == 0, 0, PATCHES + first).astype(np.int32)
    layer = Labels(ids)
    draw_quickly(layer)
    layer.contour = 2
    near = np.zeros(ids.shape, bool)
    for dy, dx in [(y, x) for y in range(-2, 3) for x in range(-2, 3) if abs(y) + abs(x) <= 2]:
        shifted = np.pad(ids, 2, mode="edge")[2 + dy : 2 + dy + len(ids), 2 + dx : 2 + dx + ids.shape[1]]
        near |= shifted != ids
    whole = slice(None), slice(None)
    found = layer._raw_to_displayed(ids, data_slice=part)
    np.testing.assert_array_equal(found != 0, (near & (ids != 0))[part or whole])
