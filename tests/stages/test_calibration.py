from __future__ import annotations

import numpy as np
import pytest

from napari_bloodcell.core.params import SegmentParams
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.stages.calibration import (
    SeenField,
    background_colour,
    doubts_of,
    estimate_rbc_diameter,
    foreground,
)
from tests.fakes import disc_image

CENTRES = [(40, 40), (40, 110), (100, 60), (110, 140), (170, 40), (180, 110), (60, 180), (170, 180)]


@pytest.mark.parametrize("radius", [8, 12, 17])
def test_the_width_of_discs_is_found(radius: int) -> None:
    width = estimate_rbc_diameter(disc_image(CENTRES, (220, 220), radius))
    assert width == pytest.approx(2 * radius, rel=0.15)


def test_an_empty_field_has_no_width() -> None:
    assert estimate_rbc_diameter(np.full((100, 100, 3), 200, np.uint8)) is None
    assert not foreground(np.full((100, 100, 3), 200, np.uint8)).any()


def test_the_colour_of_tinted_glass_is_found() -> None:
    image = disc_image(CENTRES, (220, 220))
    image[image[..., 0] == 230] = (180, 200, 150)
    assert background_colour(image) == pytest.approx([180, 200, 150])


@pytest.mark.parametrize(("pixel_size_um", "is_told"), [(0.2, False), (0.1, True), (0.4, True)])
def test_units_that_make_an_impossible_red_cell_are_told_and_give_no_area(pixel_size_um: float, is_told: bool) -> None:
    calibration = Calibration(34.0, (230.0, 230.0, 230.0), 200.0)
    assert bool(doubts_of(calibration, pixel_size_um)) is is_told
    area = SeenField.of((1000, 1000), calibration, SegmentParams(), pixel_size_um).area_mm2("all")
    assert area == (None if is_told else pytest.approx(pixel_size_um**2))


def test_an_unsure_scale_and_another_thing_than_blood_are_told() -> None:
    unsure = Calibration(34.0, (230.0, 230.0, 230.0), 200.0, scale_confidence=0.2)
    bird = Calibration(34.0, (230.0, 230.0, 230.0), 200.0, smear_confidence=0.2)
    assert "unsure: 34 px (confidence 0.20)" in doubts_of(unsure)[0]
    assert "does not look like" in doubts_of(bird)[0]


def test_lines_across_the_picture_are_told() -> None:
    crossed = Calibration(34.0, (230.0, 230.0, 230.0), 200.0, has_lines=True)
    assert doubts_of(crossed)[0].startswith("Straight lines run across the picture")
