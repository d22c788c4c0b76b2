"""Resampling to the working scale on one grid for the whole smear, so that every tile sees the same pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def resample(
    image: NDArray[np.uint8], scale: float, *, origin: tuple[int, int] = (0, 0), align: int = 1, multiple: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.bool_], tuple[int, int]]:
    """Resample a part (Y, X, 3) uint8 of a smear, which lies at `origin` (y, x), on the one grid of the smear.

    Returns (H, W, 3) float32, 0 to 255; where the part has pixels (H, W), elsewhere it is 0; and the corner (y, x) on
    the resampled smear, a multiple of `align`. H and W are multiples of `multiple`: few different shapes let a network
    reuse its plans. Pixel k of the resampled smear is centred on (k + 0.5) / scale - 0.5 of the smear, whatever the
    part. The triangle filter is as wide as a resampled pixel where the image shrinks, so nothing aliases.
    """
    spans = [_span(offset, n_in, scale, align, multiple) for offset, n_in in zip(origin, image.shape[:2], strict=True)]
    margin = int(np.ceil(1 / scale)) + 1  # what the filter reaches beyond the part
    planes = np.moveaxis(image, 2, 0).astype(np.float32)
    padded = np.pad(planes, ((0, 0), (margin, margin), (margin, margin)), mode="edge")
    y, x = spans
    top, left = margin - origin[0], margin - origin[1]
    box = (x.begin / scale + left, y.begin / scale + top, x.end / scale + left, y.end / scale + top)
    size = (x.end - x.begin, y.end - y.begin)
    # In floating point, so that no rounding depends on where the part begins.
    channels = [Image.fromarray(c).resize(size, Image.Resampling.BILINEAR, box=box) for c in padded]
    resampled = np.zeros((y.size, x.size, 3), np.float32)
    inside = np.zeros((y.size, x.size), bool)
    here = (slice(y.begin - y.first, y.end - y.first), slice(x.begin - x.first, x.end - x.first))
    inside[here] = True
    for k, channel in enumerate(channels):
        resampled[(*here, k)] = np.asarray(channel)
    return resampled, inside, (y.first, x.first)


@dataclass(frozen=True, slots=True)
class _Span:
    """One axis of the result on the resampled smear: it begins at `first`, and holds the part from `begin` to `end`."""

    first: int
    size: int
    begin: int
    end: int


def _span(offset: int, n_in: int, scale: float, align: int, multiple: int) -> _Span:
    first = int(np.floor(offset * scale / align)) * align
    last = int(np.ceil((offset + n_in) * scale))
    size = max(1, int(np.ceil((last - first) / multiple))) * multiple
    begin = min(max(first, int(np.ceil(offset * scale - 0.5))), first + size - 1)
    end = max(begin + 1, min(last, int(np.ceil((offset + n_in) * scale - 0.5))))
    return _Span(first, size, begin, end)
