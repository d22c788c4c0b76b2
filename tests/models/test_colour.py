"""Distances of colours, and the colour of cells."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.color import rgb2lab

from napari_bloodcell.models.colour import colour_in_boxes, distance_from_glass


@pytest.mark.parametrize("glass", [(232.0, 228.5, 240.0), (96.0, 130.0, 88.0), (3.0, 2.0, 1.0)])
def test_distance_from_glass_is_that_of_rgb2lab(glass: tuple[float, float, float]) -> None:
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    image = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(18, -1, 3)
    lab = rgb2lab(np.asarray(glass).reshape(1, 1, 3) / 255)
    wanted = np.linalg.norm(rgb2lab(image) - lab, axis=-1)
    assert np.abs(distance_from_glass(image, glass) - wanted).max() < 2e-3


def test_the_colour_in_boxes_is_that_of_most_cells() -> None:
    image = np.full((60, 90, 3), 240, np.uint8)
    for x, colour in ((0, (200, 120, 130)), (30, (202, 122, 132)), (60, (90, 40, 150))):
        image[20:50, x + 5 : x + 28] = colour
    boxes = np.array([[20, 5, 50, 28], [20, 35, 50, 58], [20, 65, 50, 88]])
    assert colour_in_boxes(image, boxes) == (200.0, 120.0, 132.0)
    assert colour_in_boxes(image, boxes[:0]) is None
