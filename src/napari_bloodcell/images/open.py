"""Opens slides: OME-Zarr, plain Zarr, TIFF pyramids, what OpenSlide reads, pictures, and arrays of any kind."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import finalize

import numpy as np

from napari_bloodcell.core.errors import READ_ERRORS, InputError, reason_of
from napari_bloodcell.images.files import (
    MAX_PIXELS,
    TIFF_MAGIC,
    WSI_EXTRA,
    check_complete,
    check_size,
    image_name,
    is_zarr,
    main_series,
    open_zarr,
    sensible_pixel_size,
    tiff_pixel_size,
)
from napari_bloodcell.images.image import Level, SlideImage, levels_of
from napari_bloodcell.images.plane import Plane, read_plane

if TYPE_CHECKING:
    import tifffile
    import zarr
    from numpy.typing import NDArray


def open_slide(source: object, *, name: str | None = None) -> SlideImage:
    """Open an image of any size lazily.

    Parameters
    ----------
    source : path, array-like, sequence of pyramid levels, Zarr group, Plane or SlideImage
        OME-Zarr (0.1 to 0.5), the path of a Zarr array, OME-TIFF and other TIFF pyramids, SVS, NDPI, MRXS and what else
        OpenSlide reads (the extra `wsi`), JPEG, PNG; NumPy, dask and Zarr arrays.
    name : str, optional
        Instead of the file's.

    Returns
    -------
    SlideImage
        Levels are read when and where they are sliced. A JPEG, PNG or other picture is read whole: it has no parts that
        could be read alone.

    Raises
    ------
    InputError
        If it is missing, damaged, of an unknown format, or not one plane.
    """
    if isinstance(source, SlideImage):
        return source
    if isinstance(source, str | os.PathLike):
        path = Path(os.fspath(source)).expanduser()
        return _open_path(path, name or image_name(path))
    if isinstance(source, Plane):
        return SlideImage(
            levels_of([source.data], "yxs", "The image"), source.pixel_size_um, name or source.name, source.source
        )
    arrays, axes, pixel_size_um, path_of = _open_object(source)
    return SlideImage(levels_of(arrays, axes, "The image"), pixel_size_um, name or "image", path_of)


LARGE_PX = 8192 * 8192
"""An image with more pixels is analysed on disk where there is a folder to do that in: in memory it takes 2 GB."""


def is_slide(source: object) -> bool:
    """Return whether an image is better analysed in parts: it is large, or a dask or Zarr array.

    Raises
    ------
    InputError
        As `open_slide`.
    """
    if type(source).__module__.partition(".")[0] in ("dask", "zarr") or isinstance(source, SlideImage):
        return True
    if isinstance(source, str | os.PathLike):
        return open_slide(source).n_pixels > LARGE_PX
    if isinstance(source, Sequence) and source and hasattr(source[0], "shape"):
        source = source[0]
    shape = getattr(source.data if isinstance(source, Plane) else source, "shape", ())
    return math.prod(int(n) for n in shape if n > 4) > LARGE_PX


def read_whole(source: object, *, name: str | None = None) -> Plane:
    """Read an image as one plane in memory, as `smear.read_plane` does, and what only OpenSlide reads, too.

    Raises
    ------
    InputError
        As `smear.read_plane`.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(os.fspath(source)).expanduser()
        if (slide := _open_with_openslide(path, name or image_name(path))) is not None:
            check_size(slide.shape, MAX_PIXELS, str(path))
            pixels = slide.read((0, 0, *slide.shape))
            pixels.flags.writeable = False
            return Plane(pixels, slide.pixel_size_um, slide.name, str(path))
    return read_plane(source, name=name)


def _open_object(source: Any) -> tuple[Sequence[Any], str | None, float | None, str | None]:
    """Return levels, axes, µm per pixel and path of what is no path."""
    if isinstance(source, list | tuple) and source and all(hasattr(one, "shape") for one in source):
        if len(source) > 1 and len({tuple(one.shape) for one in source}) == 1:
            raise InputError(
                f"{len(source)} images of the same shape {tuple(source[0].shape)} were given; one is analysed at a "
                "time. The levels of a pyramid go from the largest to the smallest."
            )
        return source, None, None, None
    if type(source).__module__.partition(".")[0] == "zarr":
        file = open_zarr(source, "The Zarr group")
        return file.levels or (file.data,), file.axes, file.pixel_size_um, _path_of_zarr(source)
    if isinstance(source, Level):
        return [source], "yxs", None, None
    if not hasattr(source, "shape") or not hasattr(source, "dtype"):
        source = read_plane(source).data
    return [source], None, None, None


def _path_of_zarr(node: Any) -> str | None:
    """Return the folder of a Zarr array or group, where it has one that another process can open."""
    root = getattr(getattr(node, "store", None), "root", None)
    return str(Path(root) / node.path) if isinstance(root, Path) and (Path(root) / node.path).is_dir() else None


def _open_path(path: Path, name: str) -> SlideImage:
    if is_zarr(path):
        import zarr

        try:
            file = open_zarr(zarr.open(str(path), mode="r"), str(path))
            levels = levels_of(file.levels or (file.data,), file.axes, str(path))
        except InputError:
            raise
        except READ_ERRORS as error:
            raise InputError(f"{path} is a damaged Zarr: {reason_of(error)}.") from error
        return SlideImage(levels, file.pixel_size_um, name, str(path))
    if (found := _open_with_openslide(path, name)) is not None:
        return found
    if os.path.isfile(path):
        with path.open("rb") as stream:
            magic = stream.read(4)
        if magic in TIFF_MAGIC:
            return _open_tiff(path, name)
    return SlideImage(levels_of([_Picture(path)], "yxs", str(path)), None, name, str(path))


class _Picture:
    """A JPEG, PNG or the like: its size is known at once, its pixels are all read when the first are asked for."""

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, path: Path) -> None:
        import PIL.Image

        self._path = path
        self._pixels: NDArray[np.uint8] | None = None
        damaged: tuple[type[Exception], ...] = (PIL.Image.DecompressionBombError, *READ_ERRORS)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
                with PIL.Image.open(path) as picture:
                    self.shape = (picture.height, picture.width, 3)
        except damaged:
            self.shape = self._read().shape  # says what is wrong with it

    def _read(self) -> NDArray[np.uint8]:
        if self._pixels is None:
            self._pixels = read_plane(self._path).data
        return self._pixels

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        return np.asarray(self._read()[key])


# --- TIFF ------------------------------------------------------------------------------------------------------------


class _TiffInUse:
    """A TIFF that is open as long as one of its levels is held."""

    def __init__(self, path: Path) -> None:
        import tifffile

        self.tiff = tifffile.TiffFile(path)
        # Not __del__: within a cycle the file might be collected before it, open.
        finalize(self, self.tiff.close)


class _TiffLevel:
    """A level of a TIFF, read tile by tile."""

    def __init__(self, array: zarr.Array[Any], file: _TiffInUse) -> None:
        self._array, self._file = array, file
        self.shape, self.dtype, self.chunks = array.shape, array.dtype, array.chunks

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return np.asarray(self._array[key])


def _open_tiff(path: Path, name: str) -> SlideImage:
    import tifffile
    import zarr

    damaged: tuple[type[Exception], ...] = (tifffile.TiffFileError, *READ_ERRORS)
    try:
        file = _TiffInUse(path)
        tiff = file.tiff
        series = main_series(tiff, path)
        check_complete(series, path)
        page = series.keyframe
        if page.photometric in (0, 3) or (len(series.levels) == 1 and not page.is_tiled and series.size < 2**27):
            plane = read_plane(path, name=name)  # palettes and the like are small; what is small is read whole
            return SlideImage(levels_of([plane.data], "yxs", str(path)), plane.pixel_size_um, name, str(path))
        pixel_size = tiff_pixel_size(tiff, series, path)
        arrays = [
            _TiffLevel(zarr.open_array(series.aszarr(level=i), mode="r"), file) for i in range(len(series.levels))
        ]
        _try_to_decode(arrays[0], page)
        return SlideImage(levels_of(arrays, series.axes.lower(), str(path)), pixel_size, name, str(path))
    except InputError:
        raise
    except damaged as error:
        if "imagecodecs" in str(error):
            if (found := _open_with_openslide(path, name, generic=True)) is not None:
                return found
            raise InputError(f"{path} is compressed as {_compression_of(path)}. {WSI_EXTRA}") from error
        raise InputError(f"{path} is a damaged or unknown kind of TIFF: {reason_of(error)}.") from error


def _try_to_decode(array: Any, page: tifffile.TiffPage | tifffile.TiffFrame) -> None:
    """Read one pixel, so that a compression that cannot be read is known at once."""
    array[tuple(slice(0, 1) for _ in array.shape)]
    if page.dataoffsets and not page.databytecounts[0]:
        raise ValueError("its first tile is empty")


def _compression_of(path: Path) -> str:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        compression = tiff.pages.first.compression
        return str(getattr(compression, "name", compression))


# --- OpenSlide -------------------------------------------------------------------------------------------------------


class _Scan:
    """A file of a scanner that OpenSlide has open.

    Once OpenSlide has met a damaged part it reads nothing more of the file, so that it has to be opened anew.
    """

    def __init__(self, path: Path) -> None:
        import openslide

        self._path, self._damaged = path, openslide.OpenSlideError
        self._open = openslide.OpenSlide
        self.slide = self._open(str(path))

    def read(self, corner: tuple[int, int], level: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Return a part (height, width, 4) of a level; `corner` (x, y) is in pixels of the finest one."""
        slide = self.slide
        try:
            return np.asarray(slide.read_region(corner, level, size))
        except self._damaged as error:
            if self.slide is slide:
                self.slide = self._open(str(self._path))
            raise ValueError(str(error)) from error


class _OpenSlideLevel:
    """A level that OpenSlide reads, sliced as (Y, X, 4) uint8 RGBA; glass that was not scanned is transparent."""

    dtype = np.dtype(np.uint8)
    ndim = 3
    chunks = (256, 256, 4)

    def __init__(self, scan: _Scan, level: int) -> None:
        width, height = scan.slide.level_dimensions[level]
        self._scan, self._level, self.shape = scan, level, (int(height), int(width), 4)
        self._step = float(scan.slide.level_downsamples[level])

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[np.uint8]:
        y0, y1, _ = key[0].indices(self.shape[0])
        x0, x1, _ = key[1].indices(self.shape[1])
        corner = (round(x0 * self._step), round(y0 * self._step))
        return self._scan.read(corner, self._level, (max(0, x1 - x0), max(0, y1 - y0)))


def _open_with_openslide(path: Path, name: str, *, generic: bool = False) -> SlideImage | None:
    """Open what a maker of scanners wrote; None where OpenSlide is not installed or does not know the file."""
    try:
        import openslide
    except ImportError:
        return None
    if not os.path.exists(path):
        return None
    vendor = openslide.OpenSlide.detect_format(str(path))
    if vendor is None or (vendor == "generic-tiff" and not generic):
        return None
    try:
        scan = _Scan(path)
    except openslide.OpenSlideError as error:
        raise InputError(f"{path} is a damaged {vendor} slide: {reason_of(error)}.") from error
    sizes = [_number(scan.slide.properties.get(f"openslide.mpp-{axis}")) for axis in "yx"]
    arrays = [_OpenSlideLevel(scan, level) for level in range(scan.slide.level_count)]
    return SlideImage(levels_of(arrays, "yxs", str(path)), sensible_pixel_size(sizes, str(path)), name, str(path))


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
