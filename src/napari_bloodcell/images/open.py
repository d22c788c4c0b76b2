"""Opens any image: arrays, lazy arrays, pyramids, Pillow images, files, and slides larger than memory."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_bloodcell.core.errors import READ_ERRORS, InputError, InputWarning, escaped, heard_of_input, reason_of
from napari_bloodcell.core.files import expanded
from napari_bloodcell.images.files import (
    MAX_PIXELS,
    NEED_SCANNER_READER,
    UNREAD_SUFFIXES,
    WSI_EXTRA,
    ImageFile,
    check_size,
    count_pixels,
    image_name,
    open_picture,
    open_scan,
    open_zarr,
    open_zarr_folder,
    pillow_rgb,
)
from napari_bloodcell.images.image import Level, SlideImage
from napari_bloodcell.images.microscopes import open_microscope
from napari_bloodcell.images.plane import Plane, further_axes, layout_of
from napari_bloodcell.images.tiff import TIFF_MAGIC, open_tiff
from napari_bloodcell.images.values import Conversion

LARGE_PX = 8192 * 8192
"""A larger image is analysed on disk if an output folder is given: in memory it takes 2 GB."""


def open_image(source: object, *, name: str | None = None) -> SlideImage:
    """Open an image of any size lazily.

    Parameters
    ----------
    source : path, array-like, Pillow image, sequence of pyramid levels, Zarr array or group, Plane or SlideImage
        A path is that of a JPEG, PNG or other picture, a TIFF or OME-TIFF, an OME-Zarr (0.1 to 0.5), a Zarr array, or
        SVS, NDPI, MRXS and other formats of OpenSlide (the extra `wsi`), or CZI, ND2 and LIF of microscopes (the extra
        `bio`; ``slide.czi/2`` is the second scene of that file). Arrays are NumPy's, dask's, Zarr's or anything
        that NumPy converts: grey (Y, X), RGB or RGBA, channels last or first, with further axes of length 1. Booleans,
        uint8, other integers up to 65535, floats of 0 to 1, 0 to 255 or 0 to 65535.
    name : str, optional
        Instead of the file's.

    Returns
    -------
    SlideImage
        Levels are read when and where they are sliced. A format without separate parts, such as JPEG, is decoded once,
        when its first pixels are read.

    Raises
    ------
    InputError
        If it is missing, damaged, of an unknown format, or not one plane.

    Warns
    -----
    InputWarning
        If it had to be changed, such as turned upright.
    """
    return source if isinstance(source, SlideImage) else open_stack(source, name=name).image()


def read_plane(source: object, *, name: str | None = None, max_pixels: int = MAX_PIXELS) -> Plane:
    """Return any image as an (Y, X, 3) uint8 plane: `open_image`, taken whole.

    Parameters
    ----------
    source : object
        As for `open_image`. Of a pyramid the first level is taken.
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
        If NaN or infinite pixels were replaced, or an alpha channel of zeros was ignored; and as `open_image`.

    Notes
    -----
    RGBA is composited on white. Integers of more than 8 bits are scaled by the fewest bits of 10, 12, 14 or 16 that
    hold the largest value, because cameras of 12 bits write 16. NaN becomes the colour of the empty glass (the 95th
    percentile of each channel).
    """
    if isinstance(source, Plane):
        return source
    with heard_of_input() as heard:
        image = open_image(source, name=name)
        if not isinstance(source, np.ndarray):
            check_size(image.shape, max_pixels, image.source or "The image")
        pixels = image.read_whole().view()
    pixels.flags.writeable = False
    return Plane(pixels, image.pixel_size_um, image.name, image.source, tuple(heard.doubts))


def is_slide(source: object) -> bool:
    """Return whether an image is better analysed in parts: it is large, or a dask or Zarr array.

    Raises `InputError` as `open_image` does.
    """
    if isinstance(source, SlideImage) or _comes_from(source, "dask", "zarr"):
        return True
    if isinstance(source, str | os.PathLike):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)  # it is raised again when the image is opened for use
            return open_image(source).n_pixels > LARGE_PX
    if isinstance(source, Sequence) and source and hasattr(source[0], "shape"):
        source = source[0]
    return count_pixels(getattr(source.data if isinstance(source, Plane) else source, "shape", ())) > LARGE_PX


@dataclass(frozen=True, eq=False)
class Stack:
    """An image that may have axes beyond those of a plane: time, depth, pages."""

    file: ImageFile
    name: str
    source: str | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the further axes; () for a single plane."""
        stored = self.file.levels[0].shape
        return tuple(int(stored[axis]) for axis in further_axes(stored, self.file.axes))

    @property
    def further(self) -> tuple[str, ...]:
        """Names of the further axes: "t", "z", …, or "plane 1", … where the file does not say."""
        letters = further_axes(self.file.levels[0].shape, self.file.axes).values()
        return tuple(f"plane {i}" if letter == "?" else letter for i, letter in enumerate(letters, start=1))

    def image(self, plane: Sequence[int] = ()) -> SlideImage:
        """Return one plane, by its position along each further axis; by default that in best focus, if known."""
        file, what = self.file, self.source or "The image"
        if not plane and self.shape and file.best_plane is not None:
            plane = file.best_plane()
        levels: list[Level] = []
        for array in file.levels:
            layout = layout_of(array.shape, file.axes, what, flips=file.flips, has_alpha=file.has_alpha, plane=plane)
            level = Level(array, layout, what, Conversion(is_premultiplied=file.is_premultiplied))
            if not levels or _is_coarser(level, levels):
                levels.append(level)
        return SlideImage(tuple(levels), file.pixel_size_um, self.name, self.source)


def open_stack(source: object, *, name: str | None = None) -> Stack:
    """Open an image of one plane or more, as `open_image` does."""
    if isinstance(source, str | os.PathLike):
        path = expanded(source)
        return Stack(_open_file(path), name or image_name(path), str(path))
    if isinstance(source, Plane):
        return Stack(ImageFile([source.data], "yxs", source.pixel_size_um), name or source.name, source.source)
    return Stack(_open_object(source), name or "image", _path_of_zarr(source))


def _open_file(path: Path) -> ImageFile:
    """Open an image file or a Zarr folder; the format is told by the first bytes."""
    if os.path.isdir(path):  # False for a name that is too long, where Path.is_dir raises
        return open_zarr_folder(path)
    if (found := open_microscope(path)) is not None:
        return found
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError as error:
        raise InputError(f"There is no file {escaped(path)}.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{escaped(path)} cannot be opened: {reason}.") from error
    if not magic:
        raise InputError(f"{path} is empty (0 bytes).")
    if path.suffix.lower() in UNREAD_SUFFIXES:  # some would open as TIFF and yield their thumbnail
        raise InputError(f"{path} is left out: {path.suffix} files are not read. Save it as TIFF, PNG or JPEG.")
    if (scan := open_scan(path)) is not None:
        return scan
    if path.suffix.lower() in NEED_SCANNER_READER:
        raise InputError(f"{path} is not read: OpenSlide finds no slide in it, or is not there. {WSI_EXTRA}")
    return open_tiff(path) if magic in TIFF_MAGIC else open_picture(path)


def _open_object(source: Any) -> ImageFile:
    """Open anything that is neither a path nor one of our own images."""
    if _comes_from(source, "PIL") and hasattr(source, "getbands"):
        pixels = np.asarray(pillow_rgb(source))
        return ImageFile([pixels], "yxs"[: pixels.ndim])
    if _comes_from(source, "zarr"):
        return open_zarr(source, "The Zarr group")
    if isinstance(source, Level):
        return ImageFile([source], "yxs")
    if isinstance(source, Sequence) and len(source) and all(len(getattr(one, "shape", ())) >= 2 for one in source):
        return ImageFile(_pyramid(source), None)
    if isinstance(source, np.ma.MaskedArray):
        source = np.ma.filled(source.astype(np.float64), np.nan)
    if not isinstance(getattr(source, "dtype", None), np.dtype) or not getattr(source, "shape", ()):
        try:
            source = np.asarray(source)
        except READ_ERRORS as error:
            raise InputError(
                f"The image of type {type(source).__name__} cannot be made an array: {reason_of(error)}."
            ) from error
    return ImageFile([source], None)


def _comes_from(thing: Any, *packages: str) -> bool:
    """Return whether an object's type is defined in one of these packages, without importing them."""
    return any(base.__module__.partition(".")[0] in packages for base in type(thing).__mro__)


def _path_of_zarr(node: Any) -> str | None:
    """Return the folder of a Zarr array or group if another process can open it, else None."""
    root = getattr(getattr(node, "store", None), "root", None)
    return str(Path(root) / node.path) if isinstance(root, Path) and (Path(root) / node.path).is_dir() else None


def _pyramid(levels: Sequence[Any]) -> Sequence[Any]:
    """Return the levels of a pyramid after checking that their shapes shrink."""
    shapes = [tuple(int(n) for n in level.shape) for level in levels]
    if len(levels) > 1 and len(set(shapes)) == 1:
        raise InputError(
            f"{len(levels)} images of the same shape {shapes[0]} were given; one is analysed at a time. "
            "The levels of a pyramid go from the largest to the smallest."
        )
    if any(np.prod(a) < np.prod(b) for a, b in itertools.pairwise(shapes)):
        raise InputError(
            "The levels of a pyramid must go from the largest to the smallest; the shapes are "
            f"{', '.join(map(str, shapes))}."
        )
    return levels


def _is_coarser(level: Level, levels: list[Level]) -> bool:
    """Return whether a level shrinks both sides alike from the finest: labels and thumbnails do not."""
    shrink_y, shrink_x = (levels[0].shape[axis] / level.shape[axis] for axis in (0, 1))
    is_smaller = level.shape[0] < levels[-1].shape[0]
    return is_smaller and abs(shrink_y - shrink_x) <= 0.02 * shrink_y + 2 * shrink_y / max(level.shape[:2])


open_slide = open_image
"""The name of `open_image` in the public API."""
