"""Brightening of dark images (paper §4.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

TARGET = 140.0
"""Mean of V to which the paper brightens, 0 to 255."""
_ROUNDS = 12


def mean_brightness(image: NDArray[np.uint8]) -> float:
    """Return the mean of HSV's V, the largest of R, G and B, over (Y, X, 3) uint8, 0 to 255; 0 for no pixels."""
    if not image.size:
        return 0.0
    red, green, blue = np.moveaxis(image, -1, 0)
    return float(np.maximum(np.maximum(red, green), blue).mean())  # ten times as fast as max over a short axis


def brighten(image: NDArray[np.uint8], target: float = TARGET, *, mean: float | None = None) -> NDArray[np.uint8]:
    """Return a (Y, X, 3) uint8 image whose mean V is `target`, if it is darker; the image itself if it is not.

    Parameters
    ----------
    image : ndarray of uint8, shape (Y, X, 3)
        RGB; never changed.
    target : float
        Mean of V wanted, 0 to 255.
    mean : float, optional
        Mean V to reckon with instead of the image's own: that of the smear of which it is a tile, so that all tiles are
        brightened alike.

    Notes
    -----
    V is scaled, with hue and saturation as they are, which scales R, G and B alike. Pixels saturate at 255, so without
    a given `mean` the gain is raised until the mean is reached. A black image stays black.
    """
    own = mean_brightness(image) if mean is None else mean
    if own >= target or own <= 0 or not image.size:
        return image
    value = image.max(axis=-1).astype(np.float32)
    gain = target / own
    if mean is None:
        histogram = np.bincount(value.astype(np.int64).ravel(), minlength=256)
        levels = np.arange(256)
        for _ in range(_ROUNDS):
            reached = float((np.minimum(levels * gain, 255) * histogram).sum() / histogram.sum())
            if abs(reached - target) < 0.05:
                break
            gain *= target / reached
    limit = np.minimum(gain, 255.0 / np.maximum(value, 1.0))[..., None]
    return np.asarray(np.clip(np.rint(image * limit), 0, 255), np.uint8)
