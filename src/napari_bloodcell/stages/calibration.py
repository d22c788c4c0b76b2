"""Measured once per smear: the colour of the glass, and the width of a red cell.

A red cell is 7-8 µm wide in every smear, so it is the ruler that brings images of any magnification to one scale.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from napari_bloodcell.core.cells import boxes_of
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.models.colour import distance_from_glass
from napari_bloodcell.stages.light import light_from, lit_evenly
from napari_bloodcell.stages.surroundings import surroundings_from

RBC_DIAMETER_UM = 7.5
"""Width of a red cell, micrometres."""
POSSIBLE_UM = (5.0, 11.0)
"""Plausible widths of a smear's typical red cell, micrometres."""
LEAST_CONFIDENCE = 0.5
"""A measurement with less confidence is reported as unsure."""
DEFAULT_DIAMETER_PX = 34.0
"""Width assumed if an image has nothing to measure (an empty field)."""
STAINED_DELTA_E = 6.0
"""Lab distance from the glass above which a pixel is stained; noise of a camera stays below."""
FEWEST_STAINED = 5e-4
"""Share of stained pixels below which a field is empty."""


def doubts_of(calibration: Calibration, pixel_size_um: float | None = None) -> tuple[str, ...]:
    """Return why the calibration of a smear is doubtful, in sentences for people; () if it is not.

    `pixel_size_um` is the µm per pixel given, or read from the file.
    """
    width, said = calibration.rbc_diameter_px, []
    if calibration.source == "default":
        said.append(
            "Nothing but glass was found, so how wide a red cell is was not measured. Look at the picture, or give "
            "rbc_diameter_px."
        )
    elif calibration.scale_confidence < LEAST_CONFIDENCE:
        said.append(
            f"How wide a red cell is, is unsure: {width:.0f} px (confidence {calibration.scale_confidence:.2f}). Look "
            "at the overlay, or give rbc_diameter_px."
        )
    elif calibration.smear_confidence < LEAST_CONFIDENCE:
        said.append(
            "The picture does not look like a Giemsa-like brightfield smear of mammalian blood (confidence "
            f"{calibration.smear_confidence:.2f}), for which the program is made: do not trust the counts."
        )
    if (light := light_from(calibration.light)) is not None:
        said.append(
            f"The light falls off to {light.least:.0%} of its brightest. It was evened out; look at the overlay where "
            "it is dark."
        )
    if pixel_size_um and not is_possible(pixel_size_um, calibration):
        low, high = POSSIBLE_UM
        said.append(
            f"With {pixel_size_um:g} µm per pixel a red cell would be {width * pixel_size_um:.3g} µm wide; {low:g} to "
            f"{high:g} are possible. No densities are given: correct pixel_size_um."
        )
    return tuple(said)


def is_possible(pixel_size_um: float | None, calibration: Calibration) -> bool:
    """Return whether this µm per pixel gives a red cell a plausible width; False for None."""
    low, high = POSSIBLE_UM
    return pixel_size_um is not None and low <= calibration.rbc_diameter_px * pixel_size_um <= high


def seen_area_mm2(shape: tuple[int, ...], pixel_size_um: float | None, calibration: Calibration | None) -> float | None:
    """Return the area of a smear (Y, X, …) that was looked at, mm², or None if its pixel size is unknown.

    What lies outside of a round field or a viewer's window does not count, and implausible pixel sizes give no area.
    """
    if pixel_size_um is None or (calibration is not None and not is_possible(pixel_size_um, calibration)):
        return None
    around = None if calibration is None else surroundings_from(calibration.outside)
    share = 1.0 if around is None else 1.0 - around.share
    return float(np.prod(shape, dtype=np.float64)) * share * pixel_size_um**2 * 1e-6


def smear_in(part: NDArray[np.uint8], corner: tuple[int, int], calibration: Calibration) -> NDArray[np.uint8]:
    """Return a part (y, x, 3) uint8 of a smear in even light, with glass in place of its surroundings.

    `corner` is the (y, x) of its first pixel in the smear. Nearly all smears need neither, and `part` itself is
    returned.
    """
    (y, x), (height, width) = corner, part.shape[:2]
    box = (y, x, y + height, x + width)
    if (light := light_from(calibration.light)) is not None:
        part = lit_evenly(part, light.gain(box))
    if (around := surroundings_from(calibration.outside)) is not None and (outside := around.within(box)).any():
        part = np.where(outside[..., None], np.rint(calibration.background_rgb), part).astype(np.uint8)
    return part


def note_rim(table: pd.DataFrame, calibration: Calibration) -> None:
    """Mark cells cut by the rim of the field as touching an edge; `table` is changed in place."""
    around = surroundings_from(calibration.outside)
    if around is not None and len(table):
        table["touches_edge"] = table["touches_edge"].to_numpy(bool) | around.touch(boxes_of(table))


def background_colour(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the colour (3,) of the empty glass, 0 to 255: the median of the brightest tenth of a (Y, X, 3) image."""
    step = max(1, int(np.sqrt(image.shape[0] * image.shape[1] / 60_000)))
    sample = image[::step, ::step].reshape(-1, 3).astype(np.float64)
    luminance = sample @ np.array([0.299, 0.587, 0.114])
    return np.asarray(np.median(sample[luminance >= np.quantile(luminance, 0.9)], axis=0), np.float64)


def foreground(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where cells are, (Y, X) bool: Lab distance from the glass, Otsu on it clipped at its 80th percentile."""
    distance = distance_from_glass(image, background_colour(image))
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
    """Return the width of a typical red cell in pixels, or None if nothing can be measured.

    It is the mode of the radii at the maxima of the foreground's distance transform, weighted by area, on a copy at
    most 900 px wide.
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
    """Return a (Y, X, 3) uint8 image brightened to a mean V of `target`, 0 to 255; itself if it is not darker.

    `mean` stands in for the image's own mean V: with that of the smear, all tiles are brightened alike. Scaling V with
    hue and saturation kept scales R, G and B alike. Pixels saturate at 255, so without a given `mean` the gain is
    raised until the mean is reached. A black image stays black.
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
