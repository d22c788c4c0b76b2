"""TIFF and OME-TIFF files and pyramids, opened lazily."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import finalize
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from napari_bloodcell.core.errors import READ_ERRORS, InputError, reason_of, warn_of_input
from napari_bloodcell.images.files import (
    UM_PER_UNIT,
    WSI_EXTRA,
    Decoded,
    ImageFile,
    check_colours,
    main_image,
    open_picture,
    sensible_pixel_size,
    stated_pixel_size,
    to_float,
    upright,
)
from napari_bloodcell.images.plane import sides_of

if TYPE_CHECKING:
    import tifffile

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # our own errors say what is wrong with a file

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WHOLE_BELOW = 2**27
"""A TIFF in strips with fewer values is decoded at once; a larger one strip by strip."""
_ASSOCIATED_ALPHA = 1
"""TIFF's name for transparency by which the colours are multiplied."""
_UM_PER_RESOLUTION_UNIT = {2: 25400.0, 3: 1e4, 4: 1e3, 5: 1.0}
"""Inch and centimetre; millimetre and micrometre are extensions that some writers use."""
_NO_UNIT = ("", "pixel", "reference frame")
"""OME's units of images whose size is not known."""
_ALWAYS_DECODED = (1, 8, 32773, 32946)
"""Compressions that need no imagecodecs: none, deflate, PackBits."""


class _TiffInUse:
    """A TIFF that stays open as long as one of its levels is referenced."""

    def __init__(self, path: Path, **options: Any) -> None:
        import tifffile

        # Metadata of MicroManager and NDTiff would make tifffile read other files of the set.
        self.tiff = tifffile.TiffFile(path, is_mmstack=False, is_ndtiff=False, **options)
        # Not __del__: in a reference cycle the open file might be collected first.
        finalize(self, self.tiff.close)


class _TiffLevel:
    """A level of a TIFF, read tile by tile, or at once if all of it is asked for."""

    def __init__(self, file: _TiffInUse, series: tifffile.TiffPageSeries, level: int) -> None:
        import zarr

        self._file, self._series, self._level = file, series, level
        self._array = zarr.open_array(series.aszarr(level=level), mode="r")
        self.shape, self.dtype, self.chunks = self._array.shape, self._array.dtype, self._array.chunks

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[Any]:
        is_all = all(one.indices(n) == (0, n, 1) for one, n in zip(key, self.shape, strict=True))
        return np.asarray(self._series.asarray(level=self._level) if is_all else self._array[key])


def open_tiff(path: Path) -> ImageFile:
    """Open a TIFF: lazily if it is tiled or large, else to be decoded as a whole."""
    import tifffile

    damaged: tuple[type[Exception], ...] = (tifffile.TiffFileError, *READ_ERRORS)

    def fault(error: Exception) -> InputError:
        if isinstance(error, InputError):
            return error
        if "imagecodecs" in str(error):
            return InputError(f"{path} cannot be read without imagecodecs. {WSI_EXTRA}")
        return InputError(f"{path} is a damaged or unknown kind of TIFF: {reason_of(error)}.")

    try:
        file, ome = _open_own_pages(path)
        series = _main_series(file.tiff, path)
        _check_complete(series, path)
        page, about = series.keyframe, _ome_pixels(ome, series)
        pixel_size = _tiff_pixel_size(file.tiff, page, about, path)
        axes = series.axes.lower()
        if "c" in axes:
            check_colours(_channel_names(file.tiff, about), str(path))
        axes, flips = upright(axes, getattr(page.tags.get("Orientation"), "value", 1), path)
        if _needs_pillow(page, path):  # Pillow turns it upright itself
            picture = open_picture(path, [one.index for one in series.pages if one is not None])
            return replace(picture, pixel_size_um=pixel_size)
        has_alpha = page.samplesperpixel != 4 or any(page.extrasamples)
        if not has_alpha:
            warn_of_input(f"{path} does not say what its fourth channel is; it was left out.")
        is_premultiplied = page.samplesperpixel == 4 and page.extrasamples[:1] == (_ASSOCIATED_ALPHA,)
        is_small = len(series.levels) == 1 and not page.is_tiled and series.size < _WHOLE_BELOW
        if not is_small and page.photometric not in (0, 3):
            levels = [_TiffLevel(file, series, level) for level in range(len(series.levels))]
            return ImageFile(levels, axes, pixel_size, flips, has_alpha, is_premultiplied=is_premultiplied)
        shape, dtype = series.shape, series.dtype
        if page.photometric == 3 and page.colormap is not None:
            shape, dtype, axes = (*shape, 3), np.dtype(np.uint8), f"{axes}s"

        def decode() -> NDArray[Any]:
            try:
                return _with_colours(series.asarray(), page)
            except damaged as error:
                raise fault(error) from error
            finally:
                file.tiff.close()

        whole = Decoded(shape, dtype, decode, str(path))
        return ImageFile([whole], axes, pixel_size, flips, has_alpha, is_premultiplied=is_premultiplied)
    except damaged as error:
        raise fault(error) from error


def _open_own_pages(path: Path) -> tuple[_TiffInUse, ElementTree.Element | None]:
    """Open a TIFF without the other files of its set; return it and its OME metadata, if any."""
    file = _TiffInUse(path)
    try:
        root = ElementTree.fromstring(file.tiff.ome_metadata or "") if file.tiff.is_ome else None
    except ElementTree.ParseError:
        root = None
    if root is None:
        return file, None
    name, uuids = path.name.lower(), list(root.iterfind("{*}Image/{*}Pixels/{*}TiffData/{*}UUID"))
    images = root.findall("{*}Image")
    if images and not uuids:
        return file, root
    has_name = any(uuid.get("FileName", "").lower() == name for uuid in uuids)  # False if the file was renamed
    is_spread = False
    for image in images:
        are_here = []
        for place in image.iterfind("{*}Pixels/{*}TiffData"):
            if (uuid := place.find("{*}UUID")) is None:
                are_here.append(True)
                continue
            are_here.append(uuid.get("FileName", "").lower() == name if has_name else uuid.text == root.get("UUID"))
            place.remove(uuid)  # without it, the data lie in this file
        is_spread |= any(are_here) and not all(are_here)
        if are_here and not any(are_here):
            root.remove(image)
    if not is_spread and root.find("{*}Image") is not None:
        return _TiffInUse(path, omexml=ElementTree.tostring(root, encoding="unicode")), root
    is_whole = not is_spread and file.tiff.pages.first.samplesperpixel >= 3  # else it may be one of several colours
    warn_of_input(
        f"{path} is one of several files of an image (OME-TIFF). Only its own pages are read.", is_doubt=not is_whole
    )
    return _TiffInUse(path, is_ome=False), root


def _main_series(tiff: tifffile.TiffFile, path: Path) -> tifffile.TiffPageSeries:
    """Return the image that is meant, not thumbnails, labels and other small pictures."""
    if not any(math.prod(series.shape) for series in tiff.series):
        raise InputError(f"{path} is a TIFF without any image.")
    if 50706 in tiff.pages.first.tags:  # DNGVersion: its pages for display are previews
        raise InputError(f"{path} is a camera's raw file, which is not read. Save it as TIFF, PNG or JPEG.")
    images = []
    for number, series in enumerate(tiff.series):
        size = sides_of(series.shape, series.axes.lower())
        is_reduced = bool(series.keyframe.is_reduced) or series.name.lower() in ("thumbnail", "label", "macro", "map")
        images.append((series.name or f"image {number}", size, is_reduced))
    best = main_image(images, str(path), "Save one as a file of its own.")
    if images[best][2]:
        warn_of_input(f"{path} holds nothing but reduced copies of an image; the largest is read.")
    return tiff.series[best]


def _check_complete(series: tifffile.TiffPageSeries, path: Path) -> None:
    """Raise `InputError` if the file ends before its pixels do."""
    size = path.stat().st_size
    for page in series.pages:
        if page is None:
            raise InputError(f"{path} is incomplete: pages that its metadata name are missing.")
        if any(a + n > size for a, n in zip(page.dataoffsets, page.databytecounts, strict=False)):
            raise InputError(f"{path} is truncated: it ends before its pixels do. Copy it again from its source.")
        if len(page.dataoffsets) < math.prod(series.keyframe.chunked):
            raise InputError(f"{path} is damaged: it is described as larger than it is. Copy it again from its source.")
        if page.dataoffsets and not any(page.databytecounts):
            raise InputError(f"{path} is damaged: it has no pixels. Copy it again from its source.")


def _needs_pillow(page: tifffile.TiffPage, path: Path) -> bool:
    """Return whether Pillow must read a page: because of its colours, or a compression that needs imagecodecs."""
    photometric, n_samples, bits = page.photometric, page.samplesperpixel, page.bitspersample
    is_grey = photometric in (0, 1)
    if n_samples > 2 and is_grey:
        if n_samples > 3 or page.planarconfig != 1:
            raise InputError(f"{path} has {n_samples} grey channels, not red, green and blue. Save it as an RGB image.")
        warn_of_input(f"{path} calls its three channels grey; they were taken for red, green and blue.")
    if n_samples == 2 and is_grey and not any(page.extrasamples):
        raise InputError(
            f"{path} has 2 grey channels, and does not say what they are. Save one as an image of its own."
        )
    is_plain = photometric in (0, 1, 2, 3) or (photometric == 6 and page.compression in (6, 7))
    is_plain = is_plain and not (is_grey and n_samples == 2)
    if is_plain and _is_decoded_by_tifffile(page.compression, page.predictor):
        return False
    fits = bits <= 8 or (n_samples == 1 and bits == 16)  # Pillow would truncate others to 8 bits
    if fits and photometric in (0, 1, 2, 3, 5, 6, 8) and page.compression in (*_ALWAYS_DECODED, 5, 6, 7):
        return True
    compression = getattr(page.compression, "name", page.compression)
    if is_plain:
        raise InputError(f"{path} is compressed as {compression}, which needs imagecodecs. {WSI_EXTRA}")
    raise InputError(
        f"{path} stores its colours as {getattr(photometric, 'name', photometric)} in {n_samples} samples of {bits} "
        f"bits, compressed as {compression}, which is not read. Save it as an RGB image."
    )


def _is_decoded_by_tifffile(compression: int, predictor: int) -> bool:
    import tifffile

    if find_spec("imagecodecs") is None:
        return compression in _ALWAYS_DECODED and predictor in (1, 2)
    return compression == 1 or compression in tifffile.TIFF.DECOMPRESSORS


def _with_colours(pixels: NDArray[Any], page: tifffile.TiffPage) -> NDArray[Any]:
    """Return pixels with their palette applied and with black as zero."""
    if page.photometric == 3 and page.colormap is not None:
        return np.moveaxis((page.colormap >> 8).astype(np.uint8)[:, pixels], 0, -1)
    if page.photometric == 0 and pixels.dtype.kind in "ub":
        return ~pixels if pixels.dtype.kind == "b" else (2 ** int(page.bitspersample) - 1) - pixels
    return pixels


def _channel_names(tiff: tifffile.TiffFile, pixels: ElementTree.Element | None) -> list[str]:
    if tiff.is_imagej and isinstance(tiff.imagej_metadata, dict):
        return [str(label) for label in tiff.imagej_metadata.get("Labels") or ()]
    return [] if pixels is None else [channel.get("Name", "") for channel in pixels.iterfind("{*}Channel")]


def _ome_pixels(root: ElementTree.Element | None, series: tifffile.TiffPageSeries) -> ElementTree.Element | None:
    """Return the OME metadata of an image, matched by its size."""
    found = [] if root is None else root.findall("{*}Image/{*}Pixels")
    sides = [str(side) for side in sides_of(series.shape, series.axes.lower())]
    return next((one for one in found if [one.get("SizeY"), one.get("SizeX")] == sides), None)


def _tiff_pixel_size(
    tiff: tifffile.TiffFile, page: tifffile.TiffPage, pixels: ElementTree.Element | None, path: Path
) -> float | None:
    """Return µm per pixel from OME metadata, Aperio's description, or the resolution tags."""
    if pixels is not None:
        units = {pixels.get(f"PhysicalSize{axis}Unit", "µm") for axis in "XY" if pixels.get(f"PhysicalSize{axis}")}
        if unknown := [one for one in units if one.lower() not in (*UM_PER_UNIT, *_NO_UNIT)]:
            warn_of_input(
                f"{path} says the size of a pixel in {unknown[0]!r}, a unit that is not known; it is not used. Give "
                "pixel_size_um."
            )
        return stated_pixel_size([_physical_size(pixels, axis) for axis in "YX"], str(path))
    if mpp := re.search(r"\bMPP\s*=\s*([0-9.]+)", page.description or ""):  # Aperio
        return stated_pixel_size([to_float(mpp[1])] * 2, str(path))
    unit: float | None = None
    if tiff.is_imagej and isinstance(tiff.imagej_metadata, dict):
        name = str(tiff.imagej_metadata.get("unit", "")).replace("\\u00B5", "µ")
        unit = UM_PER_UNIT.get(name.lower())
    if unit is None:
        tag = page.tags.get("ResolutionUnit")
        unit = _UM_PER_RESOLUTION_UNIT.get(int(tag.value) if tag is not None else 2)
    return sensible_pixel_size([_per_pixel(page, f"{a}Resolution", unit) for a in "YX"], str(path))


def _physical_size(pixels: ElementTree.Element, axis: str) -> float | None:
    unit = UM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm").lower())
    size = to_float(pixels.get(f"PhysicalSize{axis}"))
    return None if size is None or unit is None else size * unit


def _per_pixel(page: tifffile.TiffPage, tag_name: str, unit_um: float | None) -> float | None:
    tag = page.tags.get(tag_name)
    if tag is None or unit_um is None:
        return None
    pixels, units = tag.value if isinstance(tag.value, tuple) else (tag.value, 1)
    return unit_um * float(units) / float(pixels) if pixels else None
