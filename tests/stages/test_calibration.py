from __future__ import annotations

import numpy as np
import pytest

from napari_bloodcell.stages.calibration import background_colour, estimate_rbc_diameter, foreground
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
