"""What is measured once per smear: the colour of the glass, and how wide a red cell is.

A red cell is 7-8 µm wide in every smear, so it is the ruler by which images of any magnification are brought to one
scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.filters import threshold_otsu

if TYPE_CHECKING:
    from numpy.typing import NDArray

RBC_DIAMETER_UM = 7.5
"""Width of a red cell, micrometres."""
DEFAULT_DIAMETER_PX = 34.0
"""Taken where an image shows nothing to measure (an empty field)."""
STAINED_DELTA_E = 6.0
"""Lab distance from the glass above which a pixel is stained; noise of a camera stays below."""
FEWEST_STAINED = 5e-4
"""Share of stained pixels below which a field is empty."""


def background_colour(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the colour (3,) of the empty glass, 0 to 255: the median of the brightest tenth of a (Y, X, 3) image."""
    step = max(1, int(np.sqrt(image.shape[0] * image.shape[1] / 60_000)))
    sample = image[::step, ::step].reshape(-1, 3).astype(np.float64)
    luminance = sample @ np.array([0.299, 0.587, 0.114])
    return np.asarray(np.median(sample[luminance >= np.quantile(luminance, 0.9)], axis=0), np.float64)


def foreground(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where cells are, (Y, X) bool: Lab distance from the glass, Otsu on it clipped at its 80th percentile."""
    lab = rgb2lab(image)
    glass = rgb2lab((background_colour(image) / 255).reshape(1, 1, 3)).reshape(3)
    distance = np.sqrt(((lab - glass) ** 2).sum(-1))
    limit = np.percentile(distance, 80)
    if limit < STAINED_DELTA_E:
        # Few cells on much glass: the 80th percentile is glass too.
        stained = distance[distance > STAINED_DELTA_E]
        if stained.size < max(20, FEWEST_STAINED * distance.size):
            return np.zeros(image.shape[:2], bool)
        limit = np.median(stained)
    threshold: float = threshold_otsu(np.minimum(distance, limit))  # type: ignore[no-untyped-call]
    return np.asarray(ndimage.binary_fill_holes(distance > threshold), np.bool_)


def estimate_rbc_diameter(image: NDArray[np.uint8]) -> float | None:
    """Return the width of a typical red cell in pixels, or None where nothing can be measured.

    The mode of the radii at the maxima of the foreground's distance transform, weighted by area, on a copy at most
    900 px wide.
    """
    shrink = max(1, round(max(image.shape[:2]) / 900))
    mask = foreground(image[::shrink, ::shrink])
    if not mask.any():
        return None
    distance = ndimage.distance_transform_edt(mask)
    smooth = ndimage.gaussian_filter(distance, 1.0)
    window = max(3, int(np.percentile(distance[mask], 90)) | 1)
    peaks = (smooth == ndimage.maximum_filter(smooth, size=window)) & mask & (distance >= 3)
    radii = distance[peaks]
    if radii.size < 2:
        return float(2 * radii[0] * shrink) if radii.size else None
    log_radius = np.log(radii)
    grid = np.linspace(log_radius.min() - 0.3, log_radius.max() + 0.3, 400)
    density = (radii[:, None] ** 2 * np.exp(-0.5 * ((grid[None] - log_radius[:, None]) / 0.12) ** 2)).sum(0)
    return float(2 * np.exp(grid[density.argmax()]) * shrink)
