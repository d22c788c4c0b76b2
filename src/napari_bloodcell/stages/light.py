"""Uneven light, as a smooth field measured once per smear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_bloodcell.core.geometry import Box

N_PARTS = (10, 8, 5)
"""A picture is divided into this many parts along each side; into fewer where cells are as large as parts."""
FEWEST_IN_PART, FEWEST_PARTS = 20, 24
"""Fewest pixels of a part, and fewest parts, that tell the light."""
GLASS_QUANTILE = 0.96
"""Quantile of a part's brightness that is taken to be its glass."""
NEAR = 0.06
"""Difference in log brightness within which a part agrees with the field."""
MOST_AGREE = 0.58
"""Share of the parts that agree with a field that is believed."""
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

    def least(self, outside: NDArray[np.bool_] | None = None) -> float:
        """Return the light in the darkest part, relative to the brightest; `outside` (y, x) there is no smear."""
        (height, width), (n_rows, n_columns) = self.shape, (33, 33) if outside is None else outside.shape
        light = self._at(*(np.linspace(0, n - 1, k) for n, k in ((height, n_rows), (width, n_columns))))
        seen = light if outside is None or outside.all() else light[~outside]
        return float(np.exp(np.percentile(seen, 2) - np.percentile(seen, 98)))

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
    brightness = overview[..., 0] * np.float32(0.299) + overview[..., 1] * np.float32(0.587)
    brightness += overview[..., 2] * np.float32(0.114)
    for n_parts in N_PARTS:
        fit, is_believed = _fit(*_glass_of_parts(brightness, outside, n_parts))
        if is_believed:
            light = Light(shape, tuple(float(k) for k in np.round(fit, 6)))
            return light if light.least(outside) < 1 / UNEVEN else None
    return None


def _glass_of_parts(
    brightness: NDArray[np.float32], outside: NDArray[np.bool_] | None, n_parts: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the log brightness (N,) of the glass of parts of a picture, and their places (N, 2), from -1 to 1."""
    side_y, side_x = (n // n_parts for n in brightness.shape)
    middles = (np.arange(n_parts) + 0.5) / n_parts * 2 - 1
    places = np.stack(np.meshgrid(middles, middles, indexing="ij"), -1).reshape(-1, 2)

    def parts_of(picture: NDArray[Any]) -> NDArray[Any]:
        cut = picture[: side_y * n_parts, : side_x * n_parts].reshape(n_parts, side_y, n_parts, side_x)
        return cut.swapaxes(1, 2).reshape(n_parts**2, -1)

    if side_y * side_x < FEWEST_IN_PART:
        return np.empty(0), places[:0]
    values, n_seen = parts_of(brightness), np.full(n_parts**2, side_y * side_x)
    if outside is not None:
        is_outside = parts_of(outside)
        values, n_seen = np.where(is_outside, np.float32(-1), values), (~is_outside).sum(1)
    # What lies outside comes first in order, so that the quantile is that of the rest.
    rank = values.shape[1] - 1 - ((1 - GLASS_QUANTILE) * (n_seen - 1)).astype(int)
    glass = np.sort(values, 1)[np.arange(len(values)), rank]
    is_seen = n_seen >= FEWEST_IN_PART
    return np.log(np.maximum(glass[is_seen], 1.0).astype(np.float64)), places[is_seen]


def _fit(glass: NDArray[np.float64], places: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """Return the coefficients of the field through the glass of parts, and whether enough of them agree with it."""
    if len(glass) < FEWEST_PARTS:
        return np.empty(0), False
    terms, weight = np.stack(_terms(*places.T), 1), np.ones(len(glass))
    for _ in range(15):
        weighted = terms * weight[:, None]
        fit = np.asarray(np.linalg.solve(weighted.T @ terms + 1e-9 * np.eye(terms.shape[1]), weighted.T @ glass))
        left = glass - terms @ fit
        weight = np.where(left > 0, 1.0, np.exp(-0.5 * (left / 0.04) ** 2) + 0.02)
    field = terms @ fit
    fit[0] -= field.max()
    return fit, bool(np.mean(np.abs(left) < NEAR) >= MOST_AGREE)


def lit_evenly(pixels: NDArray[np.uint8], gain: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return (y, x, 3) uint8 as in even light, given the gain (y, x) of each pixel."""
    return np.asarray(np.rint(np.minimum(pixels * gain[..., None], 255.0)), np.uint8)


def _terms(y: NDArray[np.float64], x: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Return the terms of the field; the last is the way lenses darken the corners."""
    return (np.ones_like(y * x), y + 0 * x, x + 0 * y, y * y + 0 * x, y * x, x * x + 0 * y, (y * y + x * x) ** 2)
