"""Reads image files: JPEG, PNG, TIFF, OME-TIFF, OME-Zarr and others, with µm per pixel where they say it."""

from __future__ import annotations

import logging
import math
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_bloodcell.core.errors import READ_ERRORS, InputError, reason_of, warn_of_input

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import PIL.Image
    import tifffile
    import zarr

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what is wrong with a file, our errors say

IMAGE_SUFFIXES: frozenset[str] = frozenset(
    (
        *(".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".ppm", ".pgm"),
        *(".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide"),  # of scanners
    )
)
"""Endings by which images are found in a folder. What a file is, its first bytes say."""

MAX_PIXELS = 2**30
"""Most pixels that are read from a file or a lazy array at once (3 GiB as uint8)."""

SENSIBLE_UM_PER_PX: tuple[float, float] = (0.02, 2.0)
"""A red cell is 375 px wide at the one and 4 px at the other; beyond, a resolution is a printer's or a screen's."""

WSI_EXTRA = 'Install what reads slides: pip install "napari-bloodcell[wsi]".'

_ZARR_MARKERS = ("zarr.json", ".zgroup", ".zarray")
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_UM_PER_UNIT: dict[str, float] = {
    "angstrom": 1e-4, "å": 1e-4,
    "nanometer": 1e-3, "nanometre": 1e-3, "nm": 1e-3,
    "micrometer": 1.0, "micrometre": 1.0, "micron": 1.0, "microns": 1.0, "um": 1.0, "µm": 1.0, "μm": 1.0,
    "millimeter": 1e3, "millimetre": 1e3, "mm": 1e3,
    "centimeter": 1e4, "centimetre": 1e4, "cm": 1e4,
    "meter": 1e6, "metre": 1e6, "m": 1e6,
    "inch": 25400.0, "in": 25400.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class ImageFile:
    """What a file holds, as it is.

    Attributes
    ----------
    data : array-like
        Pixels in the file's dtype and order of axes; has shape, dtype and ``__getitem__``.
    axes : str or None
        One lower-case letter per axis ("yx", "cyx", "yxs", …); None where the file does not say.
    pixel_size_um : float or None
        Micrometres per pixel, where the file gives a sensible value.
    levels : tuple of array-like
        The pyramid, `data` first, where the file has one that can be read level by level.
    """

    data: Any
    axes: str | None
    pixel_size_um: float | None
    levels: tuple[Any, ...] = ()


def image_name(path: Path) -> str:
    """Return a file's name without the endings of its format: ``smear.ome.tif`` → ``smear``."""
    stem = path.stem if path.suffix.lower() in IMAGE_SUFFIXES or path.suffix.lower() == ".zarr" else path.name
    if stem.lower().endswith(".ome"):
        stem = stem[: -len(".ome")]
    return stem.strip(". ") or "image"


def is_zarr(path: Path) -> bool:
    """Return whether a folder is a Zarr array or group."""
    return os.path.isdir(path) and any((path / marker).is_file() for marker in _ZARR_MARKERS)


def find_images(folder: Path) -> list[Path]:
    """Return the image files and Zarr folders that lie in a folder, sorted by name; hidden ones are left out."""
    found = [
        path
        for path in folder.iterdir()
        if not path.name.startswith(".")
        and (is_zarr(path) or (path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()))
    ]
    return sorted(found)


def read_image_file(path: Path, *, max_pixels: int = MAX_PIXELS) -> ImageFile:
    """Read an image file, of at most so many pixels, or open a Zarr folder.

    Raises
    ------
    InputError
        If it does not exist, is empty, truncated, of an unknown format, too large, or holds several images.
    """
    if os.path.isdir(path):  # False for a name that is too long, where Path.is_dir raises
        return _read_zarr_folder(path)
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}.") from error
    if not magic:
        raise InputError(f"{path} is empty (0 bytes).")
    if path.suffix.lower() == ".mrxs":
        raise InputError(f"{path} is but the small picture of a slide. {WSI_EXTRA}")
    return _read_tiff(path, max_pixels) if magic in TIFF_MAGIC else _read_pillow(path)


def check_size(shape: Sequence[int], max_pixels: int, what: str) -> None:
    """Raise `InputError` where an image has more pixels than may be read at once; sides up to 4 count as channels."""
    if math.prod(int(n) for n in shape if int(n) > 4) > max_pixels:
        raise InputError(
            f"{what} has the shape {tuple(shape)}: more than {max_pixels:,} pixels are not read at once. "
            "Give a part of it, or a level of lower resolution."
        )


def sensible_pixel_size(sizes_um: Sequence[float | None], where: str) -> float | None:
    """Return micrometres per pixel from those along y and x, or None where they are missing or make no sense."""
    given = [size for size in sizes_um if size is not None and np.isfinite(size) and size > 0]
    if len(given) != 2:
        return None
    low, high = SENSIBLE_UM_PER_PX
    if not low <= min(given) <= max(given) <= high:
        return None
    if max(given) > 1.01 * min(given):
        warn_of_input(
            f"{where} says {given[0]:g} µm per pixel along y and {given[1]:g} along x; pixels should be square, "
            "so neither is used. Give pixel_size_um or rbc_diameter_px.",
            stacklevel=2,
        )
        return None
    return float(sum(given) / 2)


# --- JPEG, PNG, BMP, … ---------------------------------------------------------------------------------------------


def pillow_pixels(image: PIL.Image.Image) -> tuple[np.ndarray[Any, np.dtype[Any]], str]:
    """Return a Pillow image's pixels and their axes; palettes and colour spaces other than RGB are resolved."""
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    elif image.mode in ("LA", "La", "RGBa"):
        image = image.convert("RGBA")
    elif image.mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        image = image.convert("RGB")
    pixels = np.asarray(image)
    return pixels, "yx" if pixels.ndim == 2 else "yxs"


def _read_pillow(path: Path) -> ImageFile:
    import PIL.Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(path) as image:
                n_frames = getattr(image, "n_frames", 1)
                if n_frames > 1:
                    raise InputError(
                        f"{path} holds {n_frames} images (frames); one is analysed at a time. "
                        "Save one as a file of its own."
                    )
                image.load()
                pixels, axes = pillow_pixels(image)
    except PIL.UnidentifiedImageError as error:
        raise InputError(
            f"{path} is not an image that can be read. "
            "Allowed are JPEG, PNG, BMP, TIFF, OME-TIFF, OME-Zarr and the like."
        ) from error
    except PIL.Image.DecompressionBombError as error:
        raise InputError(f"{path} is too large for its format; save it as TIFF or OME-Zarr.") from error
    except InputError:
        raise
    except READ_ERRORS as error:
        raise InputError(
            f"{path} is damaged or truncated: {reason_of(error)}. Copy it again from its source."
        ) from error
    return ImageFile(pixels, axes, None)


# --- TIFF ----------------------------------------------------------------------------------------------------------


def _read_tiff(path: Path, max_pixels: int) -> ImageFile:
    import tifffile

    damaged: tuple[type[Exception], ...] = (tifffile.TiffFileError, *READ_ERRORS)
    try:
        with tifffile.TiffFile(path) as tiff:
            series = main_series(tiff, path)
            check_size(series.shape, max_pixels, str(path))
            check_complete(series, path)
            axes, pixel_size = series.axes.lower(), tiff_pixel_size(tiff, series, path)
            pixels = _tiff_pixels(series, path)
    except InputError:
        raise
    except damaged as error:
        raise InputError(f"{path} is a damaged or unknown kind of TIFF: {reason_of(error)}.") from error
    if pixels.ndim != len(axes):
        axes = "yxs" if pixels.ndim == 3 else "yx"
    return ImageFile(pixels, axes, pixel_size)


def main_series(tiff: tifffile.TiffFile, path: Path) -> tifffile.TiffPageSeries:
    """Return the first image; smaller ones behind it (thumbnail, label, macro, pyramid) are left out."""
    if not tiff.series:
        raise InputError(f"{path} is a TIFF without any image.")
    first, *others = tiff.series
    if any(other.size >= first.size for other in others):
        raise InputError(
            f"{path} holds {len(tiff.series)} images of its size or larger; one is analysed at a time. "
            "Save one as a file of its own."
        )
    return first


def check_complete(series: tifffile.TiffPageSeries, path: Path) -> None:
    """Raise where the file ends before its pixels do."""
    size = path.stat().st_size
    for page in series.pages:
        if page is None:
            raise InputError(f"{path} is incomplete: pages that its metadata name are missing.")
        if any(a + n > size for a, n in zip(page.dataoffsets, page.databytecounts, strict=False)):
            raise InputError(f"{path} is truncated: it ends before its pixels do. Copy it again from its source.")
        if len(page.dataoffsets) < math.prod(series.keyframe.chunked):
            raise InputError(f"{path} is damaged: it is described as larger than it is. Copy it again from its source.")


def _tiff_pixels(series: tifffile.TiffPageSeries, path: Path) -> np.ndarray[Any, np.dtype[Any]]:
    page = series.keyframe
    try:
        pixels = np.asarray(series.asarray())
    except ValueError as error:
        if "imagecodecs" not in str(error) or len(series.pages) != 1:
            raise
        return np.asarray(_read_pillow(path).data)  # Pillow brings LZW, JPEG and others of its own
    if page.photometric == 3 and page.colormap is not None:  # palette
        return np.moveaxis((page.colormap >> 8).astype(np.uint8)[:, pixels], 0, -1)
    if page.photometric == 0 and pixels.dtype.kind in "ub":  # white is zero
        return ~pixels if pixels.dtype.kind == "b" else (2 ** int(page.bitspersample) - 1) - pixels
    return pixels


def tiff_pixel_size(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, path: Path) -> float | None:
    """Return the µm per pixel that a TIFF states in its OME-XML, in words, or in its resolution."""
    page = series.keyframe
    if tiff.is_ome:
        return sensible_pixel_size(_ome_xml_sizes(tiff.ome_metadata or ""), str(path))
    if mpp := re.search(r"\bMPP\s*=\s*([0-9.]+)", page.description or ""):  # Aperio
        return sensible_pixel_size([float(mpp[1])] * 2, str(path))
    unit: float | None = None
    if tiff.is_imagej and isinstance(tiff.imagej_metadata, dict):
        name = str(tiff.imagej_metadata.get("unit", "")).replace("\\u00B5", "µ")
        unit = _UM_PER_UNIT.get(name.lower())
    if unit is None:
        tag = page.tags.get("ResolutionUnit")
        unit = {2: 25400.0, 3: 10000.0}.get(int(tag.value) if tag is not None else 2)
    return sensible_pixel_size([_per_pixel(page, f"{a}Resolution", unit) for a in "YX"], str(path))


def _per_pixel(page: tifffile.TiffPage, tag_name: str, unit_um: float | None) -> float | None:
    tag = page.tags.get(tag_name)
    if tag is None or unit_um is None:
        return None
    pixels, units = tag.value if isinstance(tag.value, tuple) else (tag.value, 1)
    return unit_um * float(units) / float(pixels) if pixels else None


def _ome_xml_sizes(xml: str) -> list[float | None]:
    element = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", xml)
    text = element[0] if element else ""
    sizes: list[float | None] = []
    for axis in "YX":
        value = re.search(rf'\bPhysicalSize{axis}\s*=\s*"([^"]*)"', text)
        unit = re.search(rf'\bPhysicalSize{axis}Unit\s*=\s*"([^"]*)"', text)
        factor = _UM_PER_UNIT.get(unit[1].lower() if unit else "µm")
        try:
            size = float(value[1]) * factor if value and factor is not None else None
        except ValueError:
            size = None
        sizes.append(size)
    return sizes


# --- Zarr ----------------------------------------------------------------------------------------------------------


def _read_zarr_folder(path: Path) -> ImageFile:
    if not is_zarr(path):
        raise InputError(f"{path} is a folder, but neither an OME-Zarr nor a Zarr array.")
    import zarr

    try:
        return open_zarr(zarr.open(str(path), mode="r"), str(path))
    except InputError:
        raise
    except READ_ERRORS as error:
        raise InputError(f"{path} is a damaged Zarr: {reason_of(error)}.") from error


def open_zarr(node: zarr.Array[Any] | zarr.Group, where: str) -> ImageFile:
    """Return the image of a Zarr array, or the full resolution of an OME-Zarr group (0.1 to 0.5)."""
    import zarr

    if isinstance(node, zarr.Array):
        return ImageFile(node, None, None)
    attributes: Mapping[str, Any] = node.attrs.asdict()
    ome: Mapping[str, Any] = attributes.get("ome", attributes)
    if not ome.get("multiscales"):
        return _open_without_ome(node, attributes, where)
    multiscale = ome["multiscales"][0]
    dataset = multiscale["datasets"][0]
    array = node.get(inside(str(dataset["path"]), where))
    if not isinstance(array, zarr.Array):
        raise InputError(f"{where} is an OME-Zarr whose array {dataset['path']!r} is missing.")
    found = [node.get(inside(str(level["path"]), where)) for level in multiscale["datasets"]]
    levels = tuple(level for level in found if isinstance(level, zarr.Array) and level.ndim == array.ndim)
    axes = [a if isinstance(a, dict) else {"name": a} for a in multiscale.get("axes", [])]
    if len(axes) != array.ndim:
        return ImageFile(array, "tczyx"[-array.ndim :] if array.ndim in (2, 5) else None, None, levels)
    scale = _zarr_scale(dataset, array.ndim) * _zarr_scale(multiscale, array.ndim)
    units = [_UM_PER_UNIT.get(str(a.get("unit", "")).lower(), np.nan) for a in axes]
    sizes = {a["name"]: float(unit * s) for a, unit, s in zip(axes, units, scale, strict=True)}
    # A scale of exactly one is what writers put where nothing is known.
    known = [None if sizes.get(a) == 1.0 else sizes.get(a) for a in "yx"]
    letters = "".join(str(a["name"])[:1].lower() for a in axes)
    return ImageFile(array, letters, sensible_pixel_size(known, where), levels)


def _open_without_ome(node: zarr.Group, attributes: Mapping[str, Any], where: str) -> ImageFile:
    import zarr

    if "bioformats2raw.layout" in attributes.get("ome", attributes) and isinstance(first := node.get("0"), zarr.Group):
        return open_zarr(first, f"{where}/0")
    arrays = sorted(node.arrays())
    if len(arrays) == 1:
        return ImageFile(arrays[0][1], None, None)
    names = ", ".join(name for name, _ in arrays) or "none"
    raise InputError(f"{where} is a Zarr group without OME metadata (arrays: {names}). Give the path of one array.")


def _zarr_scale(item: Mapping[str, Any], ndim: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    scale = np.ones(ndim)
    for transformation in _dicts(item.get("coordinateTransformations")):
        if transformation.get("type") == "scale" and len(transformation.get("scale", ())) == ndim:
            scale = scale * np.asarray(transformation["scale"], float)
    return scale


def _dicts(items: Iterable[Any] | None) -> list[dict[str, Any]]:
    return [item for item in items or () if isinstance(item, dict)]


def is_inside(relative: str) -> bool:
    """Return whether a path that a file names stays in its folder, on every system."""
    path = PureWindowsPath(relative)
    return bool(relative) and "\0" not in relative and not path.drive and not path.root and ".." not in path.parts


def inside(relative: str, where: str) -> str:
    """Return a path that a file names, if it stays in its folder.

    Raises
    ------
    InputError
        If it is absolute or climbs out.
    """
    if not is_inside(relative):
        raise InputError(f"{where} names the path {relative!r}, which leaves its folder. Such a file is not read.")
    return relative
