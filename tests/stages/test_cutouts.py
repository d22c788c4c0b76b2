"""Cutouts hold the cell, whole and alone, in the middle."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_bloodcell.core.cells import BOX, cell_table, measure_cells
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.stages.cutouts import RED_LEVEL, centre_cutout, cut_out, cut_windows

WINDOWS = {"size": 64, "rbc_diameter_px": 40.0, "glass_level": 235.0, "red_level": RED_LEVEL}


def disc(radius: float, centre: tuple[float, float] = (40.0, 50.0), shape: tuple[int, int] = (90, 110)) -> np.ndarray:
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    return ((yy - centre[0]) ** 2 + (xx - centre[1]) ** 2 <= radius**2).astype(np.int32)


def picture(shape: tuple[int, int] = (90, 110), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, (*shape, 3)).astype(np.uint8)


def width_px(cutout: np.ndarray) -> int:
    columns = np.nonzero(cutout.any(axis=(0, 2)))[0]
    return int(columns[-1] - columns[0] + 1)


def test_a_cutout_shows_the_pixels_of_the_cell_and_nothing_else() -> None:
    image, cells = picture(), disc(12)
    cutout = cut_out(image, cells, [1])[0]
    assert cutout.shape == (128, 128, 3)
    np.testing.assert_array_equal(np.sort(cutout[cutout.any(-1)], axis=0), np.sort(image[cells == 1], axis=0))


def test_the_cell_is_in_the_middle() -> None:
    cutout = cut_out(picture(), disc(12), [1])[0]
    np.testing.assert_allclose(np.argwhere(cutout.any(-1)).mean(axis=0), 63.5, atol=0.5)


def test_a_neighbour_within_the_box_is_left_out() -> None:
    cells = disc(12)
    cells[28:34, 38:44] = 2
    alone = np.where(cells == 1, cells, 0)
    image = picture()
    np.testing.assert_array_equal(cut_out(image, cells, [1]), cut_out(image, alone, [1]))


@settings(max_examples=25, deadline=None)
@given(top=st.integers(0, 40), left=st.integers(0, 40), height=st.integers(1, 40), width=st.integers(1, 40))
def test_cutting_keeps_every_pixel_of_any_box(top: int, left: int, height: int, width: int) -> None:
    image, cells = picture(), np.zeros((90, 110), np.int32)
    cells[top : top + height, left : left + width] = 7
    cutout = cut_out(image, cells, [7])[0]
    y, x = (128 - height) // 2, (128 - width) // 2
    np.testing.assert_array_equal(cutout[y : y + height, x : x + width], image[top : top + height, left : left + width])


def test_table_and_ids_give_the_same_cutouts() -> None:
    cells = disc(9) + 2 * disc(7, (70.0, 20.0))
    image = picture()
    np.testing.assert_array_equal(cut_out(image, cells, measure_cells(cells)), cut_out(image, cells, [1, 2]))


def test_scale_sets_the_width_of_the_cell() -> None:
    cutout = cut_out(picture(), disc(20), [1], scale=28 / 41)[0]
    assert abs(width_px(cutout) - 28) <= 1


def test_resampling_does_not_darken_the_rim() -> None:
    image = np.full((90, 110, 3), 200, np.uint8)
    cutout = cut_out(image, disc(20), [1], scale=0.37)[0]
    values = cutout[cutout.any(-1)]
    assert values.min() >= 198


def test_a_cell_larger_than_the_cutout_is_shrunk_until_it_fits() -> None:
    shape = (400, 400)
    cutout = cut_out(picture(shape), disc(150, (200.0, 200.0), shape), [1])[0]
    assert width_px(cutout) == 128


def test_a_tiny_cell_survives_shrinking() -> None:
    cells = np.zeros((90, 110), np.int32)
    cells[5, 5] = 1
    assert cut_out(picture(), cells, [1], scale=0.1)[0].any()


def test_glass_of_any_colour_is_brought_to_one_level() -> None:
    glass = (255.0, 229.0, 203.0)
    image = np.broadcast_to(np.array(glass, np.uint8), (90, 110, 3))
    cutout = cut_out(image, disc(12), [1], background_rgb=glass)[0]
    assert set(np.unique(cutout[cutout.any(-1)])) == {235}


@pytest.mark.parametrize("density", [(0.06, 0.13, 0.09), (0.4, 0.4, 0.4), (0.9, 1.2, 0.5)])
@pytest.mark.parametrize("relative", [0.5, 1.0, 2.0])
def test_cells_of_any_stain_are_brought_to_one(density: tuple[float, float, float], relative: float) -> None:
    glass = np.array([230.0, 220.0, 210.0])
    image = np.broadcast_to(np.rint(glass * np.exp(-np.array(density) * relative)).astype(np.uint8), (90, 110, 3))
    red = glass * np.exp(-np.array(density))
    levels = {"background_rgb": glass, "red_rgb": tuple(red), "red_level": RED_LEVEL}
    cutout = cut_out(image, disc(12), [1], **levels)[0]
    wanted = 235 * (np.array(RED_LEVEL) / 235) ** relative
    np.testing.assert_allclose(cutout[cutout.any(-1)].mean(0), wanted, atol=4)  # of whole numbers, stretched


def test_a_stain_that_is_known_stays_as_it_is() -> None:
    glass, red = (230.0, 220.0, 210.0), (180.0, 150.0, 160.0)
    colours = {"background_rgb": glass, "red_level": RED_LEVEL}
    seen = [cut_out(picture(), disc(12), [1], red_rgb=given, **colours) for given in (None, red)]
    assert np.array_equal(*seen)


def test_black_pixels_of_a_cell_stay_part_of_it_when_the_tint_is_taken_out() -> None:
    image = np.zeros((90, 110, 3), np.uint8)
    cutout = cut_out(image, disc(12), [1], background_rgb=(220, 220, 220))[0]
    assert cutout.any(-1).sum() == disc(12).sum()


def test_no_cells_give_no_cutouts() -> None:
    assert cut_out(picture(), np.zeros((90, 110), np.int32), []).shape == (0, 128, 128, 3)


def test_a_picture_of_a_cell_is_centred_on_a_cutout() -> None:
    small = np.zeros((96, 96, 3), np.uint8)
    small[10:30, 60:90] = 90
    cutout = centre_cutout(small)
    assert cutout.shape == (128, 128, 3)
    np.testing.assert_allclose(np.argwhere(cutout.any(-1)).mean(axis=0), 63.5, atol=0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table_or_ids": [3]}, "no cell 3"),
        ({"image": np.zeros((90, 110), np.uint8)}, r"\(Y, X, 3\)"),
        ({"cells": np.zeros((9, 11), np.int32)}, "do not fit"),
        ({"scale": 0.0}, "scale"),
        ({"size": 0}, "size"),
        ({"background_rgb": (1, 2)}, "three numbers"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_a_reason(change: dict, message: str) -> None:
    given = {"image": picture(), "cells": disc(12), "table_or_ids": [1], **change}
    with pytest.raises(InputError, match=message):
        cut_out(**given)


def test_a_table_whose_boxes_lie_outside_the_image_is_refused() -> None:
    cells = disc(12)
    table = measure_cells(cells)
    table.at[1, "bbox_y1"] = 500
    with pytest.raises(InputError, match="not within"):
        cut_out(picture(), cells, table)


def cell_at(*box: int) -> pd.DataFrame:
    return cell_table([7], **dict(zip(BOX, box, strict=True)))


def test_a_window_holds_what_is_around_a_cell_at_the_wanted_scale() -> None:
    image = np.full((200, 300, 3), 200, np.uint8)
    image[90:110, 140:160] = 50
    smear = Calibration(20.0, (200.0, 200.0, 200.0), 200.0)
    window = cut_windows(image, cell_at(95, 145, 105, 155), smear, **WINDOWS)[0]
    assert window.shape == (64, 64, 3)
    dark = np.argwhere(window[..., 0] < 150)
    assert dark.min(0).tolist() == pytest.approx([12, 12], abs=1)  # 40 of 64 px: twice as wide as in the image
    assert dark.max(0).tolist() == pytest.approx([51, 51], abs=1)
    assert window[0, 0].tolist() == [235, 235, 235]


def test_beyond_the_image_a_window_holds_glass() -> None:
    image = np.full((50, 50, 3), 90, np.uint8)
    smear = Calibration(40.0, (180.0, 200.0, 220.0), 200.0)
    window = cut_windows(image, cell_at(0, 0, 10, 10), smear, **WINDOWS)[0]
    assert (np.abs(window[:26, :26].astype(int) - 235) <= 1).all()
    assert (window[30:, 30:] < 130).all()
