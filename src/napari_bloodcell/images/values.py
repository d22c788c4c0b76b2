"""Pixels of any allowed dtype as RGB of 0 to 255."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_bloodcell.core.errors import InputError, warn_of_input

_BAND = 256  # rows converted at once: keeps the float copy small
_TOLERANCE = 0.05  # interpolation may overshoot a range by this share


@dataclass(frozen=True)
class Conversion:
    """How an image's values become 0 to 255, the same for all of its parts.

    `scale` is the value that becomes 255. A fourth channel is composited on white if `use_alpha`, else ignored; in a
    premultiplied image the colours hold its factor already. `missing` replaces NaN and infinite pixels, 0 to 255 per
    channel; None if there are none.
    """

    scale: float = 255.0
    use_alpha: bool = True
    missing: tuple[float, ...] | None = None
    is_premultiplied: bool = False


def conversion_of(image: NDArray[Any], parts: Iterable[NDArray[Any]], what: str) -> Conversion:
    """Return the conversion for an image whose values are scanned in `parts`, all (y, x, channel).

    `image` is the image or a small copy, from which the colour of the glass is taken for missing pixels.
    """
    if image.dtype.kind not in "buif":
        raise InputError(
            f"{what} has the dtype {image.dtype}. "
            "Allowed are bool, integers up to 65535 and floats of 0 to 1 or 0 to 255."
        )
    if image.dtype.itemsize == 1 and image.dtype.kind in "bu":
        return Conversion(1.0 if image.dtype.kind == "b" else 255.0)
    low, high, n_missing = _value_range(parts, what)
    scale = _scale(image.dtype, low, high, what)
    if not n_missing:
        return Conversion(scale)
    warn_of_input(
        f"{what} has {n_missing} pixels that are NaN or infinite; they were given the colour of the empty glass."
    )
    return Conversion(scale, missing=_glass(image, scale))


def to_rgb(image: NDArray[Any], conversion: Conversion) -> NDArray[np.uint8]:
    """Return (Y, X, channel) of any allowed dtype as (Y, X, 3) uint8: a view where it is that already."""
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return np.ascontiguousarray(image)
    out = np.empty((*image.shape[:2], 3), np.uint8)
    for y in range(0, image.shape[0], _BAND):
        band = image[y : y + _BAND]
        values = _to_255(band, conversion.scale)
        if conversion.missing is not None:
            values[~np.isfinite(band).all(axis=2)] = conversion.missing
        if conversion.use_alpha and band.shape[2] == 4:
            alpha = values[..., 3:] / 255
            colours = values[..., :3] if conversion.is_premultiplied else values[..., :3] * alpha
            values = np.minimum(colours + 255 * (1 - alpha), 255)
        out[y : y + _BAND] = np.rint(values[..., :3])
    return out


def _value_range(parts: Iterable[NDArray[Any]], what: str) -> tuple[float, float, int]:
    """Return the smallest and largest finite value, and the number of pixels that are not finite."""
    low, high, n_missing, size = np.inf, -np.inf, 0, 0
    for part in parts:
        finite = part
        size += part.size
        if part.dtype.kind == "f":
            is_finite = np.isfinite(part)
            n_missing += int((~is_finite.all(axis=2)).sum())
            finite = part[is_finite]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if high < low:
        raise InputError(f"{what} has no finite value: all {size} are NaN or infinite.")
    return low, high, n_missing


def _scale(dtype: np.dtype[Any], low: float, high: float, what: str) -> float:
    """Return the value that becomes 255."""
    tolerance = _TOLERANCE if dtype.kind == "f" else 0.0
    tops: list[float] = [1.0] if dtype.kind == "f" else []
    for top in [*tops, 255.0, 1023.0, 4095.0, 16383.0, 65535.0]:
        if high <= top * (1 + (tolerance if top <= 255 else 0)) and low >= -tolerance * high:
            return top
    raise InputError(
        f"{what} ({dtype}) has values from {low:g} to {high:g}. "
        "Allowed are 0 to 255, 0 to 65535, and 0 to 1 for floats; rescale it."
    )


def _to_255(band: NDArray[Any], scale: float) -> NDArray[np.floating[Any]]:
    """Return values as floats of 0 to 255."""
    values: NDArray[np.floating[Any]] = band.astype(np.float64 if band.dtype.itemsize > 4 else np.float32)
    if scale != 255.0:
        values = values * np.asarray(255.0 / scale, values.dtype)
    clipped: NDArray[np.floating[Any]] = np.clip(values, 0, 255)
    return clipped


def _glass(image: NDArray[Any], scale: float) -> tuple[float, ...]:
    """Return the colour of the empty glass, 0 to 255: the 95th percentile of each channel's finite values."""
    step = max(1, int(np.sqrt(image.shape[0] * image.shape[1] / 1e6)))
    colours = []
    for channel in range(image.shape[2]):
        values = image[::step, ::step, channel]
        if not np.isfinite(values).any():
            values = image[..., channel]
        values = values[np.isfinite(values)]
        colours.append(float(np.percentile(values, 95)) if values.size else scale)
    return tuple(float(v) for v in np.clip(np.asarray(colours) * (255.0 / scale), 0, 255))
