"""An image of any size as a lazy pyramid of RGB levels, with its µm per pixel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_bloodcell.core.errors import READ_ERRORS, BloodCellError, InputError, reason_of, warn_of_input
from napari_bloodcell.core.geometry import Box
from napari_bloodcell.images.plane import Layout
from napari_bloodcell.images.values import Conversion, conversion_of, to_rgb

SCAN_SIDE_PX = 2048
"""Side of the parts in which values that are not 8-bit are scanned for their range."""
LARGEST_CHUNK_PX = 4096 * 4096
"""A slide whose chunks have more pixels than this is copied before it is analysed."""


class Level:
    """One level of an image: reads any box as RGB, and is sliced like an array (Y, X, 3) uint8."""

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, array: Any, layout: Layout, what: str, conversion: Conversion | None = None) -> None:
        self._array, self._layout, self._what = array, layout, what
        self.conversion = conversion or Conversion()
        self.n_channels = layout.n_channels
        self.shape = (int(array.shape[layout.axes[0]]), int(array.shape[layout.axes[1]]), 3)
        self.stored_dtype = np.dtype(array.dtype)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of the whole level."""
        return self.size

    @property
    def chunks(self) -> tuple[int, int, int] | None:
        """Pixels read at once, as (y, x, 3), if known."""
        chunks = getattr(self._array, "chunks", None)
        if chunks is None:
            return None
        sides = [max(side) if isinstance(side, tuple) else int(side) for side in chunks]
        return sides[self._layout.axes[0]], sides[self._layout.axes[1]], 3

    def raw(self, box: Box) -> NDArray[Any]:
        """Return a box (y0, x0, y1, x1), pixels, as stored, (y, x, channels); `InputError` if it is damaged."""
        try:
            return self._layout.read(self._array, box)
        except BloodCellError:
            raise
        except READ_ERRORS as error:
            raise InputError(f"{self._what} cannot be read at {box}: it is damaged ({reason_of(error)}).") from error

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Return a box (y0, x0, y1, x1), pixels, as (y, x, 3) uint8."""
        return to_rgb(self.raw(box), self.conversion)

    def converted(self, conversion: Conversion) -> Level:
        """Return the level with another conversion of its values."""
        return Level(self._array, self._layout, self._what, conversion)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        keys = key if isinstance(key, tuple) else (key,)
        if Ellipsis in keys:
            i = keys.index(Ellipsis)
            keys = (*keys[:i], *[slice(None)] * (3 - len(keys) + 1), *keys[i + 1 :])
        index: list[Any] = [*keys, *([slice(None)] * (2 - len(keys)))]
        rows, columns, rest = index[0], index[1], index[2:]
        (y0, y1, in_rows), (x0, x1, in_columns) = _span(rows, self.shape[0]), _span(columns, self.shape[1])
        part = self.read((y0, x0, y1, x1)) if y1 > y0 and x1 > x0 else np.empty((y1 - y0, x1 - x0, 3), np.uint8)
        picked = part[in_rows] if isinstance(in_rows, int) else part[in_rows, :]
        picked = picked[..., in_columns, :]
        return np.asarray(picked[..., rest[0]] if rest else picked)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the whole level."""
        return self[...].astype(dtype or np.uint8, copy=False)


def _span(key: Any, n: int) -> tuple[int, int, Any]:
    """Return the range to read of an axis of length n, and the key within that range."""
    if isinstance(key, slice):
        start, stop, step = key.indices(n)
        if step < 0:
            raise IndexError("A slide cannot be read backwards; use a step of at least 1.")
        return start, max(start, stop), slice(None, None, step)
    index = int(key) + (n if key < 0 else 0)
    if not 0 <= index < n:
        raise IndexError(f"{key} lies outside of an axis of {n} pixels")
    return index, index + 1, 0


@dataclass(frozen=True, eq=False)
class SlideImage:
    """An image of any size, read where it is sliced.

    Attributes
    ----------
    levels : tuple of Level
        The pyramid, finest first; a single level if the source has no more.
    pixel_size_um : float or None
        Micrometres per pixel of the finest level, if the source gives it.
    name : str
        The file's name without its ending, or "image".
    source : str or None
        Path to open it again; None for an array.
    """

    levels: tuple[Level, ...]
    pixel_size_um: float | None = None
    name: str = "image"
    source: str | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(Y, X) of the finest level, pixels."""
        return self.levels[0].shape[0], self.levels[0].shape[1]

    @property
    def pixels(self) -> Any:
        """The finest level, which stages take for an array (Y, X, 3) uint8."""
        return self.levels[0]

    @property
    def n_pixels(self) -> int:
        """Pixels of the finest level."""
        return self.shape[0] * self.shape[1]

    @property
    def reads_tiles(self) -> bool:
        """Whether a tile can be read without reading much more: not with strips, rows, or one huge chunk."""
        chunks = self.levels[0].chunks
        return chunks is None or chunks[0] * chunks[1] <= LARGEST_CHUNK_PX

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Return a box (y0, x0, y1, x1) of the finest level, (y, x, 3) uint8."""
        return self.levels[0].read(box)

    def level_for(self, shrink: float) -> tuple[Level, float]:
        """Return the coarsest level at most `shrink` times smaller, and how many times smaller it is."""
        factors = [self.shape[0] / level.shape[0] for level in self.levels]
        fitting = [i for i, factor in enumerate(factors) if factor <= max(shrink, 1.0) * 1.001]
        best = max(fitting, key=lambda i: factors[i])
        return self.levels[best], factors[best]

    def with_measured_values(self) -> Self:
        """Return the image with its value range scanned, unless it is plain 8-bit RGB.

        Raises
        ------
        InputError
            If values are out of range.
        """
        return self._converted(_parts_of(self.levels[0]))

    def with_displayed_values(self) -> Self:
        """Return the image with its value range taken from its coarsest level: good enough for display."""
        return self._converted(None)

    def read_whole(self) -> NDArray[np.uint8]:
        """Return all of the finest level, (Y, X, 3) uint8, with measured values; each pixel is read once."""
        raw = self.levels[0].raw((0, 0, *self.shape))
        held = Level(raw, Layout((0, 1, 2), {}, raw.shape[2]), self.source or "The image", self.levels[0].conversion)
        image = self if len(self.levels) > 1 else replace(self, levels=(held,))
        return to_rgb(raw, image._conversion(_parts_of(held)))

    def _converted(self, parts: Iterable[NDArray[Any]] | None) -> Self:
        conversion = self._conversion(parts)
        return replace(self, levels=tuple(level.converted(conversion) for level in self.levels))

    def _conversion(self, parts: Iterable[NDArray[Any]] | None) -> Conversion:
        """Return the conversion for values in the range of these parts, by default of the coarsest level."""
        coarsest, what = self.levels[-1], self.source or "The image"
        if coarsest.stored_dtype == np.uint8 and coarsest.n_channels < 4:
            return Conversion()
        small = coarsest.raw(_middle_of(coarsest.shape))
        conversion = conversion_of(small, [small] if parts is None else parts, what)
        conversion = replace(conversion, is_premultiplied=coarsest.conversion.is_premultiplied)
        if coarsest.n_channels < 4 or any(part[..., 3].any() for part in chain([small], _parts_of(coarsest))):
            return conversion
        warn_of_input(f"{what} has an alpha channel that is 0 everywhere; it was ignored.")
        return replace(conversion, use_alpha=False)


def _middle_of(shape: tuple[int, ...]) -> Box:
    """Return the middle of a level, at most `SCAN_SIDE_PX` wide."""
    side_y, side_x = min(shape[0], SCAN_SIDE_PX), min(shape[1], SCAN_SIDE_PX)
    y, x = (shape[0] - side_y) // 2, (shape[1] - side_x) // 2
    return y, x, y + side_y, x + side_x


def _parts_of(level: Level) -> Iterator[NDArray[Any]]:
    for y in range(0, level.shape[0], SCAN_SIDE_PX):
        for x in range(0, level.shape[1], SCAN_SIDE_PX):
            yield level.raw((y, x, min(y + SCAN_SIDE_PX, level.shape[0]), min(x + SCAN_SIDE_PX, level.shape[1])))
