"""Any image as an (Y, X, 3) uint8 plane: arrays, lazy arrays, pyramids, Pillow images and files."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_bloodcell.core.errors import READ_ERRORS, InputError, heard_of_input, reason_of
from napari_bloodcell.images.files import (
    MAX_PIXELS,
    check_size,
    image_name,
    open_zarr,
    pillow_pixels,
    read_image_file,
)
from napari_bloodcell.images.values import conversion_of, to_rgb

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BAND = 256  # rows hashed at once


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One plane of a smear.

    Attributes
    ----------
    data : ndarray of uint8, shape (Y, X, 3)
        RGB, 0 to 255. Read-only: it may be a view of the user's own array, which is never changed.
    pixel_size_um : float or None
        Micrometres per pixel, where the source says it.
    name : str
        The file's name without its ending, or "image".
    source : str or None
        The file's path; None for an array.
    warnings : tuple of str
        What had to be done to the source before it could be used.
    """

    data: NDArray[np.uint8]
    pixel_size_um: float | None = None
    name: str = "image"
    source: str | None = None
    warnings: tuple[str, ...] = ()


def read_plane(source: object, *, name: str | None = None, max_pixels: int = MAX_PIXELS) -> Plane:
    """Return any image as an (Y, X, 3) uint8 plane.

    Parameters
    ----------
    source : array-like, path, Pillow image, sequence of pyramid levels, Zarr group or Plane
        Grey (Y, X), RGB or RGBA, channels last or first, with further axes of length 1. Booleans, uint8, other
        integers up to 65535, floats of 0 to 1, 0 to 255 or 0 to 65535. Of a pyramid the first level is taken.
    name : str, optional
        The plane's name, instead of the file's.
    max_pixels : int
        Most pixels that are read from a file or a lazy array.

    Returns
    -------
    Plane
        A uint8 RGB array is not copied, only viewed.

    Raises
    ------
    InputError
        If it is not one plane of an image: no pixels, a stack, other channels, values out of range, complex numbers,
        a file that is missing, damaged or of an unknown format.

    Warns
    -----
    InputWarning
        If NaN or infinite pixels were replaced, or an alpha channel of zeros was ignored.

    Notes
    -----
    RGBA is composited on white. Integers of more than 8 bits are scaled by the fewest bits of 10, 12, 14 or 16 that
    hold the largest value, because cameras of 12 bits write 16. NaN becomes the colour of the empty glass (the 95th
    percentile of each channel).
    """
    if isinstance(source, Plane):
        return source
    with heard_of_input() as heard:
        if isinstance(source, str | os.PathLike):
            path = Path(os.fspath(source)).expanduser()
            file = read_image_file(path, max_pixels=max_pixels)
            data = _rgb(file.data, file.axes, max_pixels, f"The image {path}")
            return Plane(data, file.pixel_size_um, name or image_name(path), str(path), tuple(heard))
        array, axes, pixel_size_um = _open(source)
        return Plane(_rgb(array, axes, max_pixels, "The image"), pixel_size_um, name or "image", warnings=tuple(heard))


def image_sha256(image: NDArray[np.uint8]) -> str:
    """Return the sha256 of an image's shape and pixels, the same whatever file it came from."""
    digest = hashlib.sha256(repr(tuple(image.shape)).encode())
    for y in range(0, image.shape[0], _BAND):
        digest.update(image[y : y + _BAND].tobytes())
    return digest.hexdigest()


def _open(source: Any) -> tuple[Any, str | None, float | None]:
    """Return an array-like, its axes and µm per pixel from anything that is not a path."""
    if _comes_from(source, "PIL") and hasattr(source, "getbands"):
        pixels, axes = pillow_pixels(source)
        return pixels, axes, None
    if _comes_from(source, "zarr") and not hasattr(source, "dtype"):
        file = open_zarr(source, "The Zarr group")
        return file.data, file.axes, file.pixel_size_um
    if isinstance(source, Sequence) and len(source) and all(_is_image_array(level) for level in source):
        return _full_resolution(list(source)), None, None
    if isinstance(source, np.ma.MaskedArray):
        values: Any = source.astype(np.float64)
        return values.filled(np.nan), None, None
    return source, None, None


def _comes_from(thing: Any, package: str) -> bool:
    """Return whether a thing's type is defined in a package, without importing that."""
    return any(base.__module__.partition(".")[0] == package for base in type(thing).__mro__)


def _is_image_array(thing: object) -> bool:
    return hasattr(thing, "dtype") and len(getattr(thing, "shape", ())) >= 2


def _full_resolution(levels: list[Any]) -> Any:
    """Return the first level of a pyramid; a list of equal arrays is stacked instead."""
    sizes = [int(np.prod(level.shape)) for level in levels]
    if len(levels) > 1 and len({tuple(level.shape) for level in levels}) == 1:
        return np.stack([np.asarray(level) for level in levels])
    if any(a < b for a, b in itertools.pairwise(sizes)):
        shapes = ", ".join(str(tuple(level.shape)) for level in levels)
        raise InputError(f"The levels of a pyramid must go from the largest to the smallest; the shapes are {shapes}.")
    return levels[0]


def _rgb(source: Any, axes: str | None, max_pixels: int, what: str) -> NDArray[np.uint8]:
    """Return anything with a shape as read-only (Y, X, 3) uint8."""
    if not isinstance(source, np.ndarray):
        source = _load(source, max_pixels, what)
    if source.ndim >= 2 and source.size == 0:
        raise InputError(f"{what} has no pixels (shape {source.shape}).")
    image = to_yxc(np.asarray(source), axes, what)
    if image.dtype == np.uint8 and image.shape[2] == 3:
        rgb = np.ascontiguousarray(image).view()
    else:
        rgb = to_rgb(image, conversion_of(image, what))
    rgb.flags.writeable = False
    return rgb


def _load(source: Any, max_pixels: int, what: str) -> NDArray[Any]:
    if (shape := getattr(source, "shape", None)) is not None:
        check_size(shape, max_pixels, what)
    try:
        return np.asarray(source[...] if _comes_from(source, "zarr") else source)
    except READ_ERRORS as error:
        raise InputError(
            f"{what} of type {type(source).__name__} cannot be made an array: {reason_of(error)}."
        ) from error


# --- axes ----------------------------------------------------------------------------------------------------------


def to_yxc(array: NDArray[Any], axes: str | None, what: str) -> NDArray[Any]:
    """Return a view with the axes (Y, X, channel)."""
    if array.ndim < 2:
        kind = f" of type {array.dtype}" if array.dtype.kind in "OUSMmV" else ""
        raise InputError(
            f"{what} must be an array with at least the axes (Y, X), or the path of an image; "
            f"what was given{kind} has the shape {array.shape}."
        )
    if axes is None or "y" not in axes or "x" not in axes or len(axes) != array.ndim:
        axes = guess_axes(array.shape)
    positions = {letter: axes.index(letter) for letter in "yx"}
    channel = next((axes.index(a) for a in "sc" if a in axes and array.shape[axes.index(a)] > 1), None)
    if channel is None:  # pages of which there are as many as colours
        channel = next((i for i, a in enumerate(axes) if a in "iq" and array.shape[i] in (3, 4)), None)
    for i, letter in enumerate(axes):
        if i not in (positions["y"], positions["x"], channel) and array.shape[i] > 1:
            raise InputError(_stack_message(what, array.shape, i, letter))
    order = [positions["y"], positions["x"]] + ([] if channel is None else [channel])
    rest = [i for i in range(array.ndim) if i not in order]
    image: NDArray[Any] = array.transpose(rest + order)[(0,) * len(rest)]
    if channel is None:
        return image.reshape((*image.shape[:2], 1))
    if image.shape[2] not in (3, 4):
        raise InputError(
            f"{what} has {image.shape[2]} channels (shape {array.shape}). Allowed are 1 (grey), 3 (RGB) and 4 (RGBA)."
        )
    return image


def guess_axes(shape: tuple[int, ...]) -> str:
    """Return a letter per axis for an array that does not name them; "?" stands for an axis of further planes."""
    n = len(shape)
    if n == 2:
        return "yx"
    if shape[-1] in (3, 4) or (n == 3 and shape[-1] == 1):
        return "?" * (n - 3) + "yxc"
    leading = [i for i in range(n - 2) if shape[i] in (3, 4)]
    if leading:
        return "".join("c" if i == leading[-1] else "?" for i in range(n - 2)) + "yx"
    if n == 3 and shape[-1] == 2 and shape[0] > 4:
        return "yxc"
    return "?" * (n - 2) + "yx"


def _stack_message(what: str, shape: tuple[int, ...], axis: int, letter: str) -> str:
    called = "" if letter == "?" else f" ({letter!r})"
    index = ", ".join([":"] * axis + ["0"])
    return (
        f"{what} has {shape[axis]} planes along axis {axis}{called} of its shape {shape}; one is analysed at a time. "
        f"Give one of them, for example image[{index}]."
    )
