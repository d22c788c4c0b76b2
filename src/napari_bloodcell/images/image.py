"""A slide of any size as a lazy pyramid of RGB levels, with its µm per pixel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from napari_bloodcell.core.errors import READ_ERRORS, BloodCellError, InputError, reason_of
from napari_bloodcell.images.plane import guess_axes, to_yxc
from napari_bloodcell.images.values import Conversion, conversion_of, to_rgb

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import DTypeLike, NDArray

    Box = tuple[int, int, int, int]

SCAN_SIDE_PX = 2048
"""Values of an image that is not 8-bit are looked through in parts of this side."""
LARGEST_CHUNK_PX = 4096 * 4096
"""Where more pixels than this must be read at once to see a few, a slide is copied before it is analysed."""


class Level:
    """One level of a slide: reads any box of it as RGB, and is sliced like an array (Y, X, 3) uint8.

    Parameters
    ----------
    array : array-like
        Pixels in any order of axes; has shape, dtype and ``__getitem__``.
    axes : str or None
        A letter per axis, "y" and "x" among them; guessed from the shape where it is None.
    what : str
        What it is called in messages.
    conversion : Conversion
        How its values become 0 to 255.
    """

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, array: Any, axes: str | None, what: str, conversion: Conversion | None = None) -> None:
        shape = tuple(int(n) for n in array.shape)
        if axes is None or "y" not in axes or "x" not in axes or len(axes) != len(shape):
            axes = guess_axes(shape) if len(shape) >= 2 else ""
        if "y" not in axes or 0 in shape:
            raise InputError(f"{what} has no plane of pixels (shape {shape}); at least the axes (Y, X) are needed.")
        self._array, self._axes, self._what = array, axes, what
        self._conversion = conversion or Conversion()
        self.shape = (shape[axes.index("y")], shape[axes.index("x")], 3)
        one_pixel = [1 if letter in "yx" else n for letter, n in zip(axes, shape, strict=True)]
        self.stored_dtype = np.dtype(array.dtype)
        self.n_channels = int(to_yxc(np.empty(one_pixel, self.stored_dtype), axes, what).shape[2])

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes that the whole level would take."""
        return self.size

    @property
    def chunks(self) -> tuple[int, int, int] | None:
        """Pixels that are read at once, as (y, x, 3), where that is known."""
        chunks = getattr(self._array, "chunks", None)
        if chunks is None:
            return None
        sides = [max(c) if isinstance(c, tuple) else int(c) for c in chunks]
        return sides[self._axes.index("y")], sides[self._axes.index("x")], 3

    def raw(self, box: Box) -> NDArray[Any]:
        """Return a box (y0, x0, y1, x1), pixels, as it is stored, (y, x, channels); `InputError` if it is damaged."""
        y0, x0, y1, x1 = box
        index: list[slice] = [slice(None)] * len(self._axes)
        index[self._axes.index("y")], index[self._axes.index("x")] = slice(y0, y1), slice(x0, x1)
        try:
            part = np.asarray(self._array[tuple(index)])
        except BloodCellError:
            raise
        except READ_ERRORS as error:
            raise InputError(f"{self._what} cannot be read at {box}: it is damaged ({reason_of(error)}).") from error
        return to_yxc(part, self._axes, self._what)

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Return a box (y0, x0, y1, x1), pixels, as (y, x, 3) uint8."""
        part = self.raw(box)
        if part.dtype == np.uint8 and part.shape[2] == 3:
            return np.ascontiguousarray(part)
        return to_rgb(part, self._conversion)

    def converted(self, conversion: Conversion) -> Level:
        """Return the level with another conversion of its values."""
        return Level(self._array, self._axes, self._what, conversion)

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
    """Return what must be read of an axis of length n, and the key within that."""
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
    """A slide.

    Attributes
    ----------
    levels : tuple of Level
        The pyramid, the finest first; one where the source has no more.
    pixel_size_um : float or None
        Micrometres per pixel of the finest level, where the source says it.
    name : str
        The file's name without its ending, or "image".
    source : str or None
        The path by which it can be opened again; None for an array.
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
        """Whether a tile can be read without reading much more: not so for strips, rows, or one huge chunk."""
        chunks = self.levels[0].chunks
        return chunks is None or chunks[0] * chunks[1] <= LARGEST_CHUNK_PX

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Return a box (y0, x0, y1, x1) of the finest level, (y, x, 3) uint8."""
        return self.levels[0].read(box)

    def level_for(self, shrink: float) -> tuple[Level, float]:
        """Return the coarsest level that is at most `shrink` times smaller, and how many times smaller it is."""
        factors = [self.shape[0] / level.shape[0] for level in self.levels]
        fitting = [i for i, factor in enumerate(factors) if factor <= max(shrink, 1.0) * 1.001]
        best = max(fitting, key=lambda i: factors[i])
        return self.levels[best], factors[best]

    def with_measured_values(self) -> Self:
        """Return the slide with its values looked through once where they are not plain 8-bit RGB.

        Raises
        ------
        InputError
            If values are out of range.
        """
        finest, coarsest = self.levels[0], self.levels[-1]
        if finest.stored_dtype == np.uint8:
            return self.with_displayed_values()
        small = coarsest.raw(_middle_of(coarsest.shape))
        conversion = conversion_of(small, self.source or "The image", _parts_of(finest))
        return replace(self, levels=tuple(level.converted(conversion) for level in self.levels))

    def with_displayed_values(self) -> Self:
        """Return the slide with its values judged by its coarsest level: enough to look at it."""
        coarsest = self.levels[-1]
        if coarsest.stored_dtype == np.uint8 and coarsest.n_channels == 3:
            return self
        small = coarsest.raw(_middle_of(coarsest.shape))
        conversion = conversion_of(small, self.source or "The image")
        return replace(self, levels=tuple(level.converted(conversion) for level in self.levels))


def levels_of(arrays: Sequence[Any], axes: str | None, what: str) -> tuple[Level, ...]:
    """Return the levels of a pyramid; those that do not shrink both sides alike (labels, thumbnails) are left out."""
    levels = [Level(arrays[0], axes, what)]
    height, width = levels[0].shape[:2]
    for array in arrays[1:]:
        level = Level(array, axes, what)
        shrink_y, shrink_x = height / level.shape[0], width / level.shape[1]
        is_smaller = level.shape[0] < levels[-1].shape[0]
        if is_smaller and abs(shrink_y - shrink_x) <= 0.02 * shrink_y + 2 * shrink_y / max(level.shape[:2]):
            levels.append(level)
    return tuple(levels)


def _middle_of(shape: tuple[int, ...]) -> Box:
    """Return the middle of a level, at most `SCAN_SIDE_PX` wide."""
    side_y, side_x = min(shape[0], SCAN_SIDE_PX), min(shape[1], SCAN_SIDE_PX)
    y, x = (shape[0] - side_y) // 2, (shape[1] - side_x) // 2
    return y, x, y + side_y, x + side_x


def _parts_of(level: Level) -> Iterator[NDArray[Any]]:
    for y in range(0, level.shape[0], SCAN_SIDE_PX):
        for x in range(0, level.shape[1], SCAN_SIDE_PX):
            yield level.raw((y, x, min(y + SCAN_SIDE_PX, level.shape[0]), min(x + SCAN_SIDE_PX, level.shape[1])))
