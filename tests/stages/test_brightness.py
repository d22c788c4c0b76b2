"""Brightening of dark images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import rgb2hsv

from napari_bloodcell.stages.calibration import brighten, mean_brightness


def image(seed: int = 0, low: int = 0, high: int = 90) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high + 1, (40, 50, 3), dtype=np.uint8)


def test_the_mean_brightness_is_that_of_hsv_value() -> None:
    assert mean_brightness(image()) == pytest.approx(255 * rgb2hsv(image())[..., 2].mean())


@given(seed=st.integers(0, 1000), low=st.integers(4, 60), span=st.integers(1, 195))
def test_a_dark_image_is_brightened_to_the_target_even_where_pixels_saturate(seed: int, low: int, span: int) -> None:
    dark = image(seed, low, low + span) // 2
    assert mean_brightness(brighten(dark)) == pytest.approx(max(140, mean_brightness(dark)), abs=1)


@given(seed=st.integers(0, 1000), target=st.floats(1, 255), high=st.integers(1, 255))
def test_no_pixel_gets_darker(seed: int, target: float, high: int) -> None:
    before = image(seed, 0, high)
    assert (brighten(before, target) >= before).all()


def test_few_bright_pixels_among_dark_ones_keep_their_colour_and_do_not_wrap_round() -> None:
    dark = np.full((40, 50, 3), (20, 10, 5), np.uint8)
    dark[:3] = (250, 200, 100)
    bright = brighten(dark)
    assert bright[0, 0].tolist() == [255, 204, 102]
    assert mean_brightness(bright) == pytest.approx(140, abs=1.5)
    assert np.allclose(bright[20, 20] / bright[20, 20, 0], [1, 0.5, 0.25], atol=0.01)


def test_the_image_that_was_given_is_not_changed() -> None:
    dark = image()
    kept = dark.copy()
    brighten(dark)
    assert np.array_equal(dark, kept)


def test_a_bright_image_stays_as_it_is() -> None:
    bright = image(low=150, high=250)
    assert np.array_equal(brighten(bright), bright)


def test_a_black_image_stays_black() -> None:
    assert not brighten(np.zeros((8, 8, 3), np.uint8)).any()


def test_a_given_mean_brightens_all_tiles_of_a_smear_alike() -> None:
    smear = image(high=120)
    whole = brighten(smear, mean=70)
    halves = [brighten(half, mean=70) for half in (smear[:, :20], smear[:, 20:])]
    assert np.array_equal(np.concatenate(halves, axis=1), whole)
    assert not np.array_equal(whole, smear)
