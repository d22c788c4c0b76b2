"""Colours of cells and of the glass around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LEVELS = np.arange(256) / 255
_LINEAR = np.where(_LEVELS > 0.04045, ((_LEVELS + 0.055) / 1.055) ** 2.4, _LEVELS / 12.92).astype(np.float32)
_XYZ_OF_RGB = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
_WHITE = np.array([0.95047, 1.0, 1.08883])
_XYZ_TO_WHITE = (_XYZ_OF_RGB / _WHITE[:, None]).astype(np.float32)
"""sRGB under the illuminant D65 (2°), as in `skimage.color.rgb2lab`."""


def distance_from_glass(image: NDArray[np.uint8], glass: Sequence[float] | NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the Lab distance (CIE 1976) of each pixel of (Y, X, 3) uint8 from the glass's colour (3,), 0 to 255.

    As `rgb2lab` to float32's rounding, in a third of its time: 256 levels need no power for each pixel.
    """
    red, green, blue = (_LINEAR[image[..., k]] for k in range(3))
    x, y, z = (_root(r * red + g * green + b * blue) for r, g, b in _XYZ_TO_WHITE)
    level = np.asarray(glass, np.float32) / 255
    linear = np.where(level > 0.04045, ((level + 0.055) / 1.055) ** 2.4, level / 12.92)
    glass_x, glass_y, glass_z = _root(_XYZ_TO_WHITE @ linear.astype(np.float32))
    x, y, z = x - glass_x, y - glass_y, z - glass_z
    return np.asarray(np.sqrt((116 * y) ** 2 + (500 * (x - y)) ** 2 + (200 * (y - z)) ** 2), np.float32)


def _root(value: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return CIE's root of relative tristimulus values: the cube root, and a straight line near black."""
    root = np.cbrt(value)
    if (is_dark := value <= 0.008856).any():
        root[is_dark] = 7.787 * value[is_dark] + 16 / 116
    return root


def colour_in_boxes(image: Any, boxes: NDArray[np.number[Any]]) -> tuple[float, float, float] | None:
    """Return the typical colour of cells: the median over cells of the median over the ellipse in each box.

    `image` (Y, X, 3) is sliced box by box; `boxes` (N, 4) are (y0, x0, y1, x1), pixels.
    """
    colours = []
    for y0, x0, y1, x1 in boxes.astype(int).clip(min=0).tolist():
        part = np.asarray(image[y0:y1, x0:x1])
        y, x = np.ogrid[: part.shape[0], : part.shape[1]]
        inside = np.hypot((2 * y + 1) / max(y1 - y0, 1) - 1, (2 * x + 1) / max(x1 - x0, 1) - 1) < 0.9
        if inside.any():
            colours.append(np.median(part[inside], axis=0))
    if not colours:
        return None
    red, green, blue = np.median(colours, axis=0).tolist()
    return red, green, blue
