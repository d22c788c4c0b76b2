"""Light that falls off is measured once per smear and evened out, the same for any tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import napari_bloodcell as nb
from napari_bloodcell.stages.light import Light, light_from, lit_evenly, measure_light
from napari_bloodcell.stages.surroundings import find_surroundings, overview_of
from napari_bloodcell.synthetic import load_shipped
from tests.examples import pictures
from tests.fakes import ThresholdGenerator, disc_image

if TYPE_CHECKING:
    from collections.abc import Callable

CENTRES = [(y, x) for y in range(40, 400, 60) for x in range(40, 560, 60)]


@pytest.fixture(scope="module")
def smear() -> np.ndarray:
    return load_shipped()[0][:600, :800]


def light_of(image: np.ndarray) -> Light | None:
    small = overview_of(image)
    around = find_surroundings(small, image.shape[:2])
    return measure_light(small, image.shape[:2], None if around is None else around.outside)


@pytest.mark.parametrize(("darken", "least"), [(pictures.light_from_one_side, 0.37), (pictures.vignetted, 0.48)])
def test_light_that_falls_off_is_evened_out(
    smear: np.ndarray, darken: Callable[[np.ndarray], np.ndarray], least: float
) -> None:
    picture = darken(smear)
    light = light_of(picture)
    assert light is not None
    assert light.least() == pytest.approx(least, abs=0.04)
    glass = smear.min(-1) > 200
    even = lit_evenly(picture, np.asarray(light))[glass].astype(float)
    assert np.abs(even / even.mean(0) - smear[glass] / smear[glass].mean(0)).mean() < 0.04


@pytest.mark.parametrize("times", [1, 2])
def test_light_that_falls_off_in_a_round_field_is_told_of_that_field(smear: np.ndarray, times: int) -> None:
    larger = np.kron(smear[: 600 // times, : 800 // times], np.ones((times, times, 1), np.uint8))
    picture = pictures.round_field(pictures.vignetted(larger, 0.75))
    small = overview_of(picture)
    around = find_surroundings(small, picture.shape[:2])
    assert around is not None
    light = measure_light(small, picture.shape[:2], around.outside)
    assert light is not None
    assert 0.3 < light.least(around.outside) < 0.7


def test_an_ordinary_smear_is_lit_evenly(smear: np.ndarray) -> None:
    assert light_of(smear) is None


def test_a_crowd_of_cells_on_one_side_is_no_shadow(smear: np.ndarray) -> None:
    picture = smear.copy()
    picture[:, :160] = (150, 100, 140)
    assert light_of(picture) is None


def test_every_tile_gets_the_light_of_the_whole(smear: np.ndarray) -> None:
    light = light_of(pictures.light_from_one_side(smear))
    assert light is not None
    assert np.array_equal(light.gain((100, 200, 300, 420)), np.asarray(light)[100:300, 200:420])
    assert light_from(light.numbers) == light


def test_cells_are_found_in_the_shadow_and_the_result_says_so() -> None:
    picture = pictures.light_from_one_side(disc_image(CENTRES, (420, 580)), 0.4)
    result = nb.segment(picture, generator=ThresholdGenerator())
    assert len(result.table) == len(CENTRES)
    assert result.warnings[0].startswith("The light falls off to")


@pytest.mark.parametrize("tile_size", [128, 512])
def test_tiles_of_any_size_find_the_same_cells_in_uneven_light(tile_size: int) -> None:
    picture = pictures.light_from_one_side(disc_image(CENTRES, (420, 580)), 0.4)
    params = nb.SegmentParams(tile_size=tile_size)
    found = nb.segment(picture, params=params, generator=ThresholdGenerator())
    assert np.array_equal(found.cells > 0, nb.segment(picture, generator=ThresholdGenerator()).cells > 0)
