"""Measured once per smear: the colour of the glass, the width of a red cell, and the field in which cells count.

A red cell is 7-8 µm wide in every smear, so it is the ruler that brings images of any magnification to one scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from napari_bloodcell.core.cells import boxes_of
from napari_bloodcell.core.params import SegmentParams
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.models.colour import distance_from_glass
from napari_bloodcell.stages.light import light_from, lit_evenly
from napari_bloodcell.stages.surroundings import Surroundings, surroundings_from

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
RASTER = 256
"""Places along a side at which the area of a round field is measured."""


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
        around = surroundings_from(calibration.outside)
        least = light.least(None if around is None else around.outside)
        said.append(
            f"The light falls off to {least:.0%} of its brightest. It was evened out; look at the overlay where "
            "it is dark."
        )
    if calibration.has_lines:
        said.append(
            "Straight lines run across the picture, such as the gaps of a mosaic or the graticule of an eyepiece: "
            "cells that they cut are counted in parts. Look at the overlay, or give the fields one by one."
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


class Outline(Protocol):
    """A part of an image (…, Y, X)."""

    def contains(
        self, centroids: NDArray[np.floating[Any]], planes: NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.bool_]:
        """Return which places (N, 2), (y, x) in pixels, on planes (N,), lie in it."""
        ...

    def area_px(self, plane: int | None = None, *, within: tuple[float, float, float, float] | None = None) -> float:
        """Return its area, pixels², in a rectangle of the image (low y, low x, high y, high x)."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class SeenField:
    """What was looked at of a smear, and which cells count in it.

    Attributes
    ----------
    shape : tuple of int
        (Y, X), pixels.
    rbc_diameter_px : float
        Width of a typical red cell, pixels.
    margin_px : int
        Width that a cell cut by the edge must show to be found, pixels.
    around : Surroundings or None
        What is not smear in the picture.
    pixel_size_um : float or None
        None if it is unknown or implausible.
    n_planes : int
        Planes of this shape.
    outline : Outline or None
        The part of the image that is counted. None: all of it.
    plane : int or None
        The one plane that is counted.

    Notes
    -----
    A cell counts if one point of it, the lower right corner of its box, lies in the field: that is Gundersen's frame
    (J. Microsc. 111, 219, 1977), as a cell that reaches beyond the right or bottom edge has its point outside. Cells of
    which less than `margin_px` shows are not found, so that much of the top and the left is not part of the frame. For
    outlines the point is moved by half a red cell, to the middle of a typical cell. Of a round field the rim, a red
    cell wide, is left out.
    """

    shape: tuple[int, int]
    rbc_diameter_px: float
    margin_px: int
    around: Surroundings | None = None
    pixel_size_um: float | None = None
    n_planes: int = 1
    outline: Outline | None = None
    plane: int | None = None

    @classmethod
    def of(
        cls,
        shape: tuple[int, ...],
        calibration: Calibration | None,
        params: SegmentParams,
        pixel_size_um: float | None,
        *,
        outline: Outline | None = None,
        plane: int | None = None,
    ) -> Self:
        """Return the field of an image (…, Y, X) that was segmented with `params`."""
        width = DEFAULT_DIAMETER_PX if calibration is None else calibration.rbc_diameter_px
        is_usable = calibration is None or is_possible(pixel_size_um, calibration)
        return cls(
            shape=(int(shape[-2]), int(shape[-1])),
            rbc_diameter_px=width,
            margin_px=math.ceil(params.edge_visible_min * width),
            around=None if calibration is None else surroundings_from(calibration.outside),
            pixel_size_um=pixel_size_um if is_usable else None,
            n_planes=1 if plane is not None else math.prod(shape[:-2]),
            outline=outline,
            plane=plane,
        )

    def counts(
        self, table: pd.DataFrame, edges: str, planes: NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.bool_]:
        """Return which cells of the image count by a rule of `CountParams.edges`, (N,); `planes` are theirs."""
        boxes = boxes_of(table)
        found = np.ones(len(table), bool)
        if edges == "frame":
            for end, size in zip(boxes.T[2:], self.shape, strict=True):
                found &= (end >= self.margin_px) & (end < size)
            places = np.asarray(boxes[:, 2:] - (0.5 + self.rbc_diameter_px / 2), np.float64)
            if self.around is not None and len(table):
                found &= self._is_off_rim(places)
        else:
            places = np.asarray((boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5, np.float64)
            if edges == "inside":
                found &= ~table["touches_edge"].to_numpy(bool)
        if self.outline is not None:
            found &= self.outline.contains(places, planes)
        if self.plane is not None and planes is not None:
            found &= planes == self.plane
        return found

    def area_px(self, edges: str) -> float:
        """Return the area that cells counted by a rule belong to, pixels²."""
        low, high = np.zeros(2), np.array(self.shape, float)
        if edges == "frame":
            low = np.minimum(low + self.margin_px, high)
        share = self._share_off_rim(low, high) if edges == "frame" else self._share_inside()
        if self.outline is None:
            return float(np.prod(high - low)) * share * self.n_planes
        moved = 0.5 + (self.rbc_diameter_px / 2 if edges == "frame" else 0.0)
        box = (*(low - moved), *(high - moved))
        return self.outline.area_px(self.plane, within=box if edges == "frame" else None) * share

    def area_mm2(self, edges: str) -> float | None:
        """Return that area, mm²; None if the size of a pixel is unknown."""
        return None if self.pixel_size_um is None else self.area_px(edges) * self.pixel_size_um**2 * 1e-6

    def _share_inside(self) -> float:
        return 1.0 if self.around is None or self.outline is not None else 1.0 - self.around.share

    def _rimless(self) -> NDArray[np.bool_]:
        """Return the coarse (y, x) field without its rim."""
        if self.around is None:
            return np.ones((1, 1), bool)
        outside = self.around.outside
        if outside.all():
            return ~outside
        steps = np.array(self.shape) / outside.shape
        distance = ndimage.distance_transform_edt(~outside, sampling=steps)
        return np.asarray(distance > self.rbc_diameter_px, np.bool_)

    def _is_off_rim(self, places: NDArray[np.float64]) -> NDArray[np.bool_]:
        inner = self._rimless()
        at = np.clip((places + 0.5) * inner.shape / self.shape, 0, np.array(inner.shape) - 1).astype(int)
        return np.asarray(inner[at[:, 0], at[:, 1]], np.bool_)

    def _share_off_rim(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> float:
        """Return the share of the places of a frame that lie off the rim, and in the outline."""
        if self.around is None:
            return 1.0
        half = self.rbc_diameter_px / 2
        lines = [a - half + (np.arange(RASTER) + 0.5) / RASTER * (b - a) for a, b in zip(low, high, strict=True)]
        places = np.stack(np.meshgrid(*lines, indexing="ij"), -1).reshape(-1, 2) - 0.5
        if self.outline is not None:
            places = places[self.outline.contains(places)]
        return float(self._is_off_rim(places).mean()) if len(places) else 0.0


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
