"""Uneven light, as a smooth field measured once per smear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_bloodcell.core.geometry import Box

N_PARTS = 10
"""A picture is divided into this many parts along each side."""
GLASS_QUANTILE = 0.85
"""Quantile of a part's brightness above which pixels are taken to be glass."""
NEAR = 0.06
"""Difference in log brightness within which a part agrees with the field."""
UNEVEN = 1.45
"""Least ratio of brightest to darkest light that counts as uneven; ordinary smears reach 1.3."""
MOST_GAIN = 8.0
"""Largest gain: darker parts hold nothing but noise."""


@dataclass(frozen=True, slots=True)
class Light:
    """The log of the light over a smear of `shape` (Y, X), a polynomial that is 0 where it is brightest."""

    shape: tuple[int, int]
    coefficients: tuple[float, ...]

    @property
    def numbers(self) -> tuple[float, ...]:
        """Plain numbers that `light_from` takes."""
        return (float(self.shape[0]), float(self.shape[1]), *self.coefficients)

    @property
    def least(self) -> float:
        """Light in the darkest part, relative to the brightest."""
        height, width = self.shape
        rows, columns = (np.linspace(0, n - 1, 33) for n in (height, width))
        return float(np.exp(np.percentile(self._at(rows, columns), 2)))

    def gain(self, box: Box) -> NDArray[np.float64]:
        """Return the gain (y, x), from 1, that evens out a box (y0, x0, y1, x1); the same for any tile."""
        y0, x0, y1, x1 = box
        gain = np.exp(-self._at(np.arange(y0, y1), np.arange(x0, x1)))
        return np.asarray(np.clip(gain, 1.0, MOST_GAIN))

    def __getitem__(self, key: tuple[slice, slice]) -> NDArray[np.float64]:
        """Slice the gain like an array (Y, X)."""
        (y0, y1, _), (x0, x1, _) = (one.indices(n) for one, n in zip(key, self.shape, strict=True))
        return self.gain((y0, x0, y1, x1))

    def __array__(self, dtype: object = None, copy: bool | None = None) -> NDArray[np.float64]:
        """Return the whole gain, (Y, X)."""
        return self.gain((0, 0, *self.shape))

    def _at(self, rows: NDArray[np.generic], columns: NDArray[np.generic]) -> NDArray[np.float64]:
        """Return the log of the light at rows and columns, pixels."""
        y = (np.asarray(rows, np.float64)[:, None] + 0.5) / self.shape[0] * 2 - 1
        x = (np.asarray(columns, np.float64)[None] + 0.5) / self.shape[1] * 2 - 1
        return np.asarray(sum(k * term for k, term in zip(self.coefficients, _terms(y, x), strict=True)), np.float64)


def light_from(numbers: Sequence[float]) -> Light | None:
    """Return the light with these `Light.numbers`, or None if there are none: the light is even."""
    return Light((int(numbers[0]), int(numbers[1])), tuple(numbers[2:])) if numbers else None


def measure_light(
    overview: NDArray[np.uint8], shape: tuple[int, int], outside: NDArray[np.bool_] | None = None
) -> Light | None:
    """Return the light over a smear of `shape` (Y, X), pixels, or None if it is even or cannot be measured.

    `overview` (y, x, 3) uint8 is a small picture of the smear, `outside` (y, x) bool is True where it shows no smear.
    The glass of each part is its brightest pixels; parts darker than the field, because cells cover them, lose weight
    from fit to fit. A field is accepted only if two thirds of the parts agree with it.
    """
    edges = [np.linspace(0, n, N_PARTS + 1).astype(int) for n in overview.shape[:2]]
    brightness = overview @ np.array([0.299, 0.587, 0.114])
    places, glass = [], []
    for i in range(N_PARTS):
        for j in range(N_PARTS):
            here = slice(edges[0][i], edges[0][i + 1]), slice(edges[1][j], edges[1][j + 1])
            values = brightness[here].ravel() if outside is None else brightness[here][~outside[here]]
            if values.size >= 20:
                top = values[values >= np.quantile(values, GLASS_QUANTILE)]
                places.append(((i + 0.5) / N_PARTS * 2 - 1, (j + 0.5) / N_PARTS * 2 - 1))
                glass.append(np.log(max(float(np.median(top)), 1.0)))
    if len(glass) < N_PARTS**2 // 3:
        return None
    y, x = np.array(places).T
    terms = np.stack(_terms(y, x), 1)
    measured, weight = np.array(glass), np.ones(len(glass))
    for _ in range(15):
        root = np.sqrt(weight)
        fit = np.asarray(np.linalg.lstsq(terms * root[:, None], measured * root, rcond=None)[0], np.float64)
        left = measured - terms @ fit
        weight = np.where(left > 0, 1.0, np.exp(-0.5 * (left / 0.04) ** 2) + 0.02)
    field = terms @ fit
    if np.exp(np.ptp(np.percentile(field, (2, 98)))) < UNEVEN or np.mean(np.abs(left) < NEAR) < 0.66:
        return None
    fit[0] -= field.max()
    return Light(shape, tuple(float(k) for k in np.round(fit, 6)))


def lit_evenly(pixels: NDArray[np.uint8], gain: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return (y, x, 3) uint8 as in even light, given the gain (y, x) of each pixel."""
    return np.asarray(np.rint(np.minimum(pixels * gain[..., None], 255.0)), np.uint8)


def _terms(y: NDArray[np.float64], x: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Return the terms of the field; the last is the way lenses darken the corners."""
    return (np.ones_like(y * x), y + 0 * x, x + 0 * y, y * y + 0 * x, y * x, x * x + 0 * y, (y * y + x * x) ** 2)
