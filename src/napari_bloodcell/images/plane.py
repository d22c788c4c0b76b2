"""A plane in memory, and where it lies in an array with more axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_bloodcell.core.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One plane of a smear, in memory.

    Attributes
    ----------
    data : ndarray of uint8, shape (Y, X, 3)
        RGB, 0 to 255. Read-only if it was read: it may be a view of the user's own array, which is never changed.
    pixel_size_um : float or None
        Micrometres per pixel, if the source gives it.
    name : str
        The file's name without its ending, or "image".
    source : str or None
        The file's path; None for an array.
    warnings : tuple of str
        Changes that had to be made to the source and that make results doubtful.
    """

    data: NDArray[np.uint8]
    pixel_size_um: float | None = None
    name: str = "image"
    source: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Where the plane (Y, X, channel) lies in an array.

    `axes` are the positions of Y, X and, if there is one, the channel; `further` maps the position of every other axis
    to the plane's index on it. The first `n_channels` are read: 1 (grey), 3 (RGB) or 4 (RGBA). `flips` lists those of
    "y" and "x" that are stored in reverse.
    """

    axes: tuple[int, ...]
    further: dict[int, int]
    n_channels: int
    flips: str = ""

    def read(self, array: Any, box: tuple[int, int, int, int]) -> NDArray[Any]:
        """Return a box (y0, x0, y1, x1) of an array as (y, x, channel)."""
        index = [slice(None)] * len(array.shape)
        for axis, position in self.further.items():
            index[axis] = slice(position, position + 1)
        if len(self.axes) == 3:
            index[self.axes[2]] = slice(0, self.n_channels)
        turned = []
        for axis, letter, start, stop in zip(self.axes, "yx", box[:2], box[2:], strict=False):
            n = int(array.shape[axis])
            index[axis] = slice(n - stop, n - start) if letter in self.flips else slice(start, stop)
            turned.append(slice(None, None, -1 if letter in self.flips else 1))
        stored = np.asarray(array[tuple(index)]).transpose(*self.further, *self.axes)
        part: NDArray[Any] = stored[(0,) * len(self.further)][tuple(turned)]
        return part[..., None] if part.ndim == 2 else part


def sides_of(shape: Sequence[int], axes: str | None) -> tuple[int, int]:
    """Return (Y, X) of an array; (1, 1) where it has no plane."""
    letters = _letters(shape, axes) if len(shape) > 1 else ""
    return (int(shape[letters.index("y")]), int(shape[letters.index("x")])) if letters else (1, 1)


def further_axes(shape: Sequence[int], axes: str | None) -> dict[int, str]:
    """Return the positions and letters of the axes beyond a plane's that are longer than 1."""
    if len(shape) < 2:
        return {}
    letters = _letters(shape, axes)
    channel = _channel(shape, letters)
    return {i: a for i, a in enumerate(letters) if a not in "yx" and i != channel and shape[i] > 1}


def layout_of(
    shape: Sequence[int],
    axes: str | None,
    what: str,
    *,
    flips: str = "",
    has_alpha: bool = True,
    plane: Sequence[int] = (),
) -> Layout:
    """Return where the plane (Y, X, channel) lies in an array.

    Axes are named by letters including "y" and "x", or guessed if None. Colours lie along "s" (samples of a pixel) or
    "c" (named channels); without `has_alpha` a fourth one is left out. `flips` are those of "y" and "x" stored in
    reverse, `plane` is the position along each of `further_axes`.
    """
    shape = tuple(int(n) for n in shape)
    if len(shape) < 2:
        raise InputError(
            f"{what} must be an array with at least the axes (Y, X), or the path of an image; what was given has the "
            f"shape {shape}."
        )
    if 0 in shape:
        raise InputError(f"{what} has no pixels (shape {shape}).")
    letters = _letters(shape, axes)
    channel = _channel(shape, letters)
    stack = further_axes(shape, axes)
    if stack and not plane:
        raise InputError(_stack_message(what, shape, stack))
    if channel is not None and shape[channel] not in ((3,) if letters[channel] == "c" else (3, 4)):
        allowed = "3 (RGB)" if letters[channel] == "c" else "3 (RGB) and 4 (RGBA)"
        raise InputError(
            f"{what} has {shape[channel]} channels along axis {channel} of its shape {shape}. Allowed are 1 (grey), "
            f"{allowed}."
        )
    found = (letters.index("y"), letters.index("x"), *(() if channel is None else (channel,)))
    further = dict.fromkeys((i for i in range(len(shape)) if i not in found), 0)
    n_channels = 1 if channel is None else shape[channel] if has_alpha else 3
    return Layout(found, further | dict(zip(stack, plane, strict=True)), n_channels, flips)


def _letters(shape: Sequence[int], axes: str | None) -> str:
    """Return a letter per axis: those given if they fit, else a guess, with "?" for further planes."""
    if axes is not None and len(axes) == len(shape) and "y" in axes and "x" in axes:
        return axes
    n = len(shape)
    if n == 2:
        return "yx"
    if shape[-1] in (3, 4) or (n == 3 and (shape[-1] == 1 or (shape[-1] == 2 and shape[0] > 4))):
        return "?" * (n - 3) + "yxs"
    first = max((i for i in range(n - 2) if shape[i] in (3, 4)), default=None)
    return "".join("s" if i == first else "?" for i in range(n - 2)) + "yx"


def _channel(shape: Sequence[int], letters: str) -> int | None:
    return next((letters.index(a) for a in "sc" if a in letters and shape[letters.index(a)] > 1), None)


def _stack_message(what: str, shape: tuple[int, ...], stack: dict[int, str]) -> str:
    axis, letter = next(iter(stack.items()))
    called = "" if letter == "?" else f" ({letter!r})"
    colours = " If they are red, green and blue, save them as one RGB image." if shape[axis] in (3, 4) else ""
    return (
        f"{what} has {shape[axis]} planes along axis {axis}{called} of its shape {shape}; one is analysed at a time. "
        f"Give one of them, for example image[{', '.join([':'] * axis + ['0'])}].{colours}"
    )
