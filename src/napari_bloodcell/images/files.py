"""Image files, opened lazily: JPEG, PNG, TIFF, OME-TIFF, OME-Zarr, slides and others, as arrays with named axes."""

from __future__ import annotations

import math
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_bloodcell.core.errors import READ_ERRORS, InputError, escaped, reason_of, warn_of_input
from napari_bloodcell.images.plane import sides_of

if TYPE_CHECKING:
    import PIL.Image
    import zarr

_COMMON = (
    "jpg jpeg jpe jfif jif mpo png apng webp avif avifs gif jp2 j2k j2c jpc jpf jpx bmp dib ppm pgm pbm pnm pcx tga "
    "tif tiff btf tf2 tf8 lsm stk qptiff"
)
_SCANNERS = "svs ndpi mrxs scn vms vmu bif svslide dcm"
_MICROSCOPES = "czi nd2 lif"
_FOREIGN = (
    "heic heif heics heifs hif jxl jxr wdp hdp exr hdr psd psb xcf "  # phones, screens, editors
    "dng cr2 cr3 crw nef nrw arw sr2 srw orf raf rw2 raw pef rwl iiq 3fr "  # cameras
    "lof xlif vsi ets oib oif oir zvi dv r3d ims sld sldy obf msr mvd2 "  # microscopes
    "isyntax i2syntax sdpc kfb tmap mds mdsx dicom "  # scanners
    "avi mp4 m4v mov mkv wmv mpg mpeg webm nrrd mha mhd nii fits"  # films, arrays
)

DICOM = ".dcm"
"""A slide may be several files of these, one for each level, each of which opens all of it."""

IMAGE_SUFFIXES: frozenset[str] = frozenset(f".{ending}" for ending in f"{_COMMON} {_SCANNERS} {_MICROSCOPES}".split())
"""Endings by which images are found in a folder; a file's format is told by its first bytes."""

MICROSCOPE_SUFFIXES: frozenset[str] = frozenset(f".{ending}" for ending in _MICROSCOPES.split())
"""Files that may hold several images; one is named as if the file were a folder: ``slide.czi/2``."""

NEED_SCANNER_READER: frozenset[str] = frozenset((".mrxs", ".vms", ".vmu", DICOM))
"""Of these nothing but OpenSlide reads the slide; some hold a small picture of it."""

UNREAD_SUFFIXES: frozenset[str] = frozenset(f".{ending}" for ending in _FOREIGN.split())
"""Endings of image formats that are not read; such files in a folder are reported as left out."""

MAX_PIXELS = 2**30
"""Most pixels that are read from a file or a lazy array at once (3 GiB as uint8)."""

SENSIBLE_UM_PER_PX: tuple[float, float] = (0.02, 2.0)
"""A red cell is 375 px wide at one end and 4 px at the other; resolutions beyond are a printer's or a screen's."""

WSI_EXTRA = 'Install what reads slides: pip install "napari-bloodcell[wsi]".'

_KINDS = {
    "an HEIC photo": rb".{4}ftyp(hei|hev|mif1|msf1)",
    "a film": rb".{4}ftyp|\x1aE\xdf\xa3",
    "a JPEG XL image": rb"\xff\x0a|\x00{3}\x0cJXL ",
    "a PDF": rb"%PDF",
    "an archive": rb"PK\x03\x04|\x1f\x8b",
    "a web page": rb"\s*<(!doctype )?html",
}
"""How files begin that people take for images, because they were renamed or not downloaded as they thought."""
_ZARR_MARKERS = ("zarr.json", ".zgroup", ".zarray")
_MOST_LISTED, _MOST_OPENED, _DEEPEST = 6, 50, 3
"""Images of a container that a message lists, images that are opened, and depth to which groups are searched."""
UM_PER_UNIT: dict[str, float] = {
    "picometer": 1e-6, "picometre": 1e-6, "pm": 1e-6,
    "angstrom": 1e-4, "å": 1e-4, "ångström": 1e-4,
    "nanometer": 1e-3, "nanometre": 1e-3, "nm": 1e-3,
    "micrometer": 1.0, "micrometre": 1.0, "micron": 1.0, "microns": 1.0, "um": 1.0, "µm": 1.0, "μm": 1.0,
    "millimeter": 1e3, "millimetre": 1e3, "mm": 1e3,
    "centimeter": 1e4, "centimetre": 1e4, "cm": 1e4,
    "decimeter": 1e5, "decimetre": 1e5, "dm": 1e5,
    "meter": 1e6, "metre": 1e6, "m": 1e6,
    "kilometer": 1e9, "kilometre": 1e9, "km": 1e9,
    "inch": 25400.0, "in": 25400.0, "thou": 25.4, "mil": 25.4, "pt": 25400 / 72, "foot": 304800.0, "ft": 304800.0,
    "yard": 914400.0, "yd": 914400.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class ImageFile:
    """What a file holds, as it is stored.

    `levels` is the pyramid, finest first, in the file's dtype and order of axes, read where it is sliced. `axes` has
    one lower-case letter per axis ("yx", "cyx", "yxs", …), or is None if the file does not say. `flips` lists those of
    "y" and "x" that are stored in reverse. Without `has_alpha` a fourth channel is left out; if `is_premultiplied` the
    colours are multiplied by it. `channels` names those along "c". `best_plane` tells
    the plane of a stack that is meant if nobody chooses, () for none.
    """

    levels: Sequence[Any]
    axes: str | None
    pixel_size_um: float | None = None
    flips: str = ""
    has_alpha: bool = True
    channels: Sequence[str] = ()
    is_premultiplied: bool = False
    best_plane: Callable[[], Sequence[int]] | None = None


class Decoded:
    """An array that can only be decoded as a whole, which happens once, when its first pixels are read."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, decode: Callable[[], Any], what: str) -> None:
        check_size(shape, MAX_PIXELS, what)
        self.shape, self.dtype, self._what = shape, np.dtype(dtype), what
        self._decode = decode
        self._pixels: NDArray[Any] | None = None
        self._lock = threading.Lock()

    def __getitem__(self, key: Any) -> NDArray[Any]:
        with self._lock:
            if self._pixels is None:
                pixels = np.asarray(self._decode())
                if pixels.shape != self.shape:
                    raise InputError(f"{self._what} is damaged: {pixels.shape} pixels instead of {self.shape}.")
                self._pixels = pixels
        return np.asarray(self._pixels[key])


def image_name(path: Path) -> str:
    """Return a file's name without its format's endings: ``smear.ome.tif`` → ``smear``, ``a.czi/2`` → ``a 2``."""
    file, scene = split_scene(path)
    if scene:
        return f"{image_name(file)} {escaped(scene)}"
    stem = path.stem if path.suffix.lower() in IMAGE_SUFFIXES | {".zarr"} else path.name
    if stem.lower().endswith(".ome"):
        stem = stem[: -len(".ome")]
    return escaped(stem).strip(". ") or "image"


def split_scene(path: Path) -> tuple[Path, str]:
    """Return the file that a path names, and the image in it that ``slide.czi/2`` names, "" for none."""
    is_scene = path.parent.suffix.lower() in MICROSCOPE_SUFFIXES and os.path.isfile(path.parent)
    return (path.parent, path.name) if is_scene else (path, "")


def is_zarr(path: Path) -> bool:
    """Return whether a folder is a Zarr array or group; one that must not be read is none."""
    return os.path.isdir(path) and any(os.path.isfile(path / marker) for marker in _ZARR_MARKERS)


def is_image_path(path: Path) -> bool:
    """Return whether a path looks like an image: a Zarr folder, or a file with an image's ending, read or not."""
    path, _ = split_scene(path)
    return is_zarr(path) or (path.suffix.lower() in IMAGE_SUFFIXES | UNREAD_SUFFIXES and os.path.isfile(path))


def find_images(folder: Path) -> list[Path]:
    """Return the images directly in a folder, sorted by name, without hidden ones."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and is_image_path(path))


def count_pixels(shape: Sequence[int]) -> int:
    """Return how many pixels an array of any axes has; sides up to 4 count as channels."""
    return math.prod(int(n) for n in shape if int(n) > 4)


def check_size(shape: Sequence[int], max_pixels: int, what: str) -> None:
    """Raise `InputError` where an image has more pixels than may be read at once."""
    if count_pixels(shape) > max_pixels:
        raise InputError(
            f"{what} has the shape {tuple(shape)}: more than {max_pixels:,} pixels are not read at once. "
            "Give a part of it, or a level of lower resolution."
        )


def main_image(images: Sequence[tuple[str, Sequence[int], bool]], where: str, advice: str) -> int:
    """Return the index of the image that is meant: the one beside which all others are small.

    Each is (name, (height, width), whether the file calls it a reduced copy of another). If several could be meant, the
    `InputError` ends with `advice`.
    """
    areas = [math.prod(shape) for _, shape, _ in images]
    best = max(range(len(images)), key=lambda i: (not images[i][2], areas[i]))
    others = [i for i in range(len(images)) if i != best and not images[i][2]]

    def listed(which: Sequence[int]) -> str:
        more = [f"and {len(which) - _MOST_LISTED} more"] * (len(which) > _MOST_LISTED)
        return ", ".join(
            [f"{images[i][0]} ({images[i][1][0]} × {images[i][1][1]} pixels)" for i in which[:_MOST_LISTED]] + more
        )

    if any(4 * areas[i] > areas[best] for i in others):
        rivals = sorted([best, *others])
        raise InputError(f"{where} holds {len(rivals)} images: {listed(rivals)}; one is analysed at a time. {advice}")
    slope = images[best][1][0] / images[best][1][1]
    differing = [i for i in others if not 0.9 < images[i][1][0] / images[i][1][1] / slope < 1.1]
    if differing:  # an image of the same proportions is a thumbnail or a pyramid level
        warn_of_input(f"{where} holds several images: {listed([best])} is read, not {listed(differing)}.")
    return best


# --- micrometres per pixel, orientation, channels --------------------------------------------------------------------


def sensible_pixel_size(sizes_um: Sequence[float | None], where: str) -> float | None:
    """Return µm per pixel from those along (y, x), or None if they are missing or implausible."""
    given = [size for size in sizes_um if size is not None and np.isfinite(size) and size > 0]
    if len(given) != 2:
        return None
    low, high = SENSIBLE_UM_PER_PX
    if not low <= min(given) <= max(given) <= high:
        return None
    if max(given) > 1.01 * min(given):
        warn_of_input(
            f"{where} says {given[0]:g} µm per pixel along y and {given[1]:g} along x; pixels should be square, "
            "so neither is used. Give pixel_size_um or rbc_diameter_px."
        )
        return None
    return float(sum(given) / 2)


def stated_pixel_size(sizes_um: Sequence[float | None], where: str) -> float | None:
    """Return `sensible_pixel_size` of sizes that a microscope's metadata state; impossible ones are told."""
    low, high = SENSIBLE_UM_PER_PX
    given = [size for size in sizes_um if size is not None]
    if len(given) == 2 and not all(low <= size <= high for size in given):
        warn_of_input(
            f"{where} says {given[0]:g} µm per pixel along y and {given[1]:g} along x, which no smear has ({low:g} to "
            f"{high:g}); neither is used. Give pixel_size_um or rbc_diameter_px."
        )
        return None
    return sensible_pixel_size(sizes_um, where)


def upright(axes: str, orientation: object, path: Path) -> tuple[str, str]:
    """Return axes and flips that show an image upright; `orientation` is that of EXIF and TIFF, 1 to 8."""
    turns = {2: "x", 3: "yx", 4: "y", 5: "", 6: "x", 7: "yx", 8: "y"}
    if not isinstance(orientation, int) or orientation not in turns:
        return axes, ""
    warn_of_input(
        f"{path} is stored turned or mirrored (EXIF orientation {orientation}); it is read as people see it.",
        is_doubt=False,
    )
    return axes.translate(str.maketrans("yx", "xy")) if orientation > 4 else axes, turns[orientation]


def check_colours(names: Sequence[str], where: str) -> None:
    """Reject three channels named otherwise than red, green and blue; names like "Channel 0" say nothing."""
    telling = [re.sub(r"^(channel|ch|c)?[\s:_\d/]*", "", name.strip().lower()) for name in names]
    if len(names) == 3 and all(telling) and [name[0] for name in telling] != ["r", "g", "b"]:
        raise InputError(
            f"{where} has the channels {', '.join(names)}, which are not red, green and blue. Save it as an RGB image."
        )


# --- JPEG, PNG, BMP, … -----------------------------------------------------------------------------------------------

_limit_lock = threading.Lock()


def pillow_rgb(image: PIL.Image.Image, mode: str | None = None) -> PIL.Image.Image:
    """Return a Pillow image as grey, RGB or RGBA, without palette or other colour spaces."""
    mode = mode or _mode_read(image)
    return image if mode == image.mode else image.convert(mode)


def _mode_read(image: PIL.Image.Image) -> str:
    if image.mode == "P":
        return "RGBA" if "transparency" in image.info else "RGB"
    colours = {"CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB", "RGBX": "RGB"}
    return colours.get(image.mode, "RGBA" if image.mode in ("PA", "LA", "La", "RGBa") else image.mode)


@contextmanager
def _pillow(path: Path) -> Iterator[PIL.Image.Image]:
    """Open a file with Pillow, turning its exceptions into `InputError`."""
    import PIL.Image

    damaged: tuple[type[Exception], ...] = (PIL.Image.DecompressionBombError, *READ_ERRORS)
    try:
        with _limit_lock:  # our own limit, `MAX_PIXELS`, is the documented one
            before, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
            try:
                image = PIL.Image.open(path)
            finally:
                PIL.Image.MAX_IMAGE_PIXELS = before
        with image:
            yield image
    except PIL.UnidentifiedImageError as error:
        with path.open("rb") as file:
            start = file.read(64)
        kind = next((name for name, form in _KINDS.items() if re.match(form, start, re.DOTALL | re.IGNORECASE)), None)
        what = "not an image that can be read" if kind is None else f"{kind}, whatever its ending, which is not read"
        raise InputError(
            f"{path} is {what}. Allowed are JPEG, PNG, BMP, TIFF, OME-TIFF, OME-Zarr and the like."
        ) from error
    except InputError:
        raise
    except damaged as error:
        raise InputError(
            f"{path} is damaged or truncated: {reason_of(error)}. Copy it again from its source."
        ) from error


def open_picture(path: Path, pages: Sequence[int] | None = None) -> ImageFile:
    """Open what Pillow reads: all frames, or the given pages of a TIFF, as planes."""
    from PIL.ImageMode import getmode

    with _pillow(path) as image:
        frames = range(getattr(image, "n_frames", 1)) if pages is None else pages
        if image.format == "MPO":  # a photo, with previews and gain maps behind it
            others: list[tuple[int, int]] = []
            with suppress(*READ_ERRORS):  # they may be damaged
                others = [_size_of(image, frame) for frame in frames[1:]]
            if _size_of(image, 0) in others:
                warn_of_input(f"{path} holds {len(frames)} photos; the first is read.")
            frames = frames[:1]
        size = _size_of(image, frames[0])
        mode = getmode(_mode_read(image))
        shape = (len(frames),) * (len(frames) > 1) + size + (len(mode.bands),) * (len(mode.bands) > 1)
        orientation = 1 if image.format == "TIFF" else _exif_orientation(image, path)  # Pillow turns TIFFs itself

    def decode() -> NDArray[Any]:
        with _pillow(path) as image:
            found = []
            for frame in frames:
                image.seek(frame)
                found.append(np.asarray(pillow_rgb(image, mode.mode)))
            return found[0] if len(found) == 1 else np.stack(found)

    axes = "t" * (len(frames) > 1) + "yx" + "s" * (len(mode.bands) > 1)
    axes, flips = upright(axes, orientation, path)
    return ImageFile([Decoded(shape, mode.typestr, decode, str(path))], axes, flips=flips)


def _size_of(image: PIL.Image.Image, frame: int) -> tuple[int, int]:
    image.seek(frame)
    return image.height, image.width


def _exif_orientation(image: PIL.Image.Image, path: Path) -> object:
    """Return the EXIF orientation; Pillow would decode a whole PNG to look for it, so its end is searched first."""
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & set(image.info):
        with path.open("rb") as file:
            file.seek(-min(path.stat().st_size, 2**16), os.SEEK_END)
            if b"eXIf" not in file.read():
                return 1
    return image.getexif().get(0x0112, 1)


# --- Zarr ------------------------------------------------------------------------------------------------------------


def open_zarr_folder(path: Path) -> ImageFile:
    """Open an OME-Zarr, a Zarr array, or a container of one image."""
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
    """Open a Zarr array, an OME-Zarr group (0.1 to 0.5), or a container, such as a plate, that means one image."""
    import zarr

    if isinstance(node, zarr.Array):
        return ImageFile([node], _dimension_names(node))
    found = list(islice(_iter_zarr_images(node, "", where), _MOST_OPENED))
    if not found:
        raise InputError(f"{where} is a Zarr group without any image.")
    images = [(name, sides_of(image.levels[0].shape, image.axes), False) for name, image in found]
    image = found[main_image(images, where, "Give the path of one.") if len(found) > 1 else 0][1]
    check_colours(image.channels, where)
    return image


def _iter_zarr_images(group: zarr.Group, name: str, where: str) -> Iterator[tuple[str, ImageFile]]:
    """Yield the images in a group and its subgroups, with their paths."""
    import zarr

    attributes: Mapping[str, Any] = group.attrs.asdict()
    ome: Mapping[str, Any] = attributes.get("ome", attributes)
    if multiscales := _dicts(ome.get("multiscales")):
        for multiscale in multiscales:
            channels = [str(c.get("label", "")) for c in _dicts((ome.get("omero") or {}).get("channels"))]
            yield name or str(multiscale.get("name", "")), _multiscale_image(group, multiscale, channels, where)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about files beside the Zarr's, such as METADATA.ome.xml
        members = sorted(group.members())
    for key, child in members:
        path = f"{name}/{key}".lstrip("/")
        if isinstance(child, zarr.Array):
            yield path, ImageFile([child], _dimension_names(child))
        elif key != "labels" and path.count("/") < _DEEPEST:
            yield from _iter_zarr_images(child, path, where)


def _multiscale_image(
    group: zarr.Group, multiscale: Mapping[str, Any], channels: Sequence[str], where: str
) -> ImageFile:
    import zarr

    dataset = multiscale["datasets"][0]
    array = group.get(inside(str(dataset["path"]), where))
    if not isinstance(array, zarr.Array):
        raise InputError(f"{where} is an OME-Zarr whose array {dataset['path']!r} is missing.")
    found = [group.get(inside(str(level["path"]), where)) for level in multiscale["datasets"]]
    levels = [level for level in found if isinstance(level, zarr.Array) and level.ndim == array.ndim]
    axes = [a if isinstance(a, dict) else {"name": a} for a in multiscale.get("axes", [])]
    if len(axes) != array.ndim:
        return ImageFile(levels, "tczyx"[-array.ndim :] if array.ndim in (2, 5) else None)
    scale = _zarr_scale(dataset, array.ndim) * _zarr_scale(multiscale, array.ndim)
    units = [UM_PER_UNIT.get(str(a.get("unit", "")).lower()) for a in axes]
    sizes = {a["name"]: float(unit * s) for a, unit, s in zip(axes, units, scale, strict=True) if unit is not None}
    # Writers put a scale of exactly one if they know none.
    known = [None if sizes.get(a) == 1.0 else sizes.get(a) for a in "yx"]
    letters = "".join(str(a["name"])[:1].lower() for a in axes)
    return ImageFile(levels, letters, stated_pixel_size(known, where), channels=channels)


def _dimension_names(array: zarr.Array[Any]) -> str | None:
    """Return the first letters of a Zarr array's axis names, or None."""
    names = [str(name or "?")[0].lower() for name in getattr(array.metadata, "dimension_names", None) or ()]
    return "".join(names) or None


def _zarr_scale(item: Mapping[str, Any], ndim: int) -> NDArray[np.float64]:
    scale = np.ones(ndim)
    for transformation in _dicts(item.get("coordinateTransformations")):
        if transformation.get("type") == "scale" and len(transformation.get("scale", ())) == ndim:
            scale = scale * np.asarray(transformation["scale"], float)
    return scale


def _dicts(items: Iterable[Any] | None) -> list[dict[str, Any]]:
    return [item for item in items or () if isinstance(item, dict)]


def is_inside(relative: str) -> bool:
    """Return whether a path named in a file stays in its folder, on every system."""
    path = PureWindowsPath(relative)
    return bool(relative) and "\0" not in relative and not path.drive and not path.root and ".." not in path.parts


def inside(relative: str, where: str) -> str:
    """Return a path named in a file; `InputError` if it is absolute or leaves the file's folder."""
    if not is_inside(relative):
        raise InputError(f"{where} names the path {relative!r}, which leaves its folder. Such a file is not read.")
    return relative


# --- OpenSlide -------------------------------------------------------------------------------------------------------


class _Scan:
    """A scanner's file opened with OpenSlide.

    After a damaged part OpenSlide reads nothing more of a file, so it is then opened again.
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


class _ScanLevel:
    """A level read by OpenSlide, sliced as (Y, X, 4) uint8 RGBA; glass that was not scanned is transparent."""

    dtype = np.dtype(np.uint8)
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


def open_scan(path: Path) -> ImageFile | None:
    """Open a scanner's file; None if OpenSlide is not installed or does not know the format."""
    try:
        import openslide
    except ImportError:
        return None
    vendor = openslide.OpenSlide.detect_format(str(path))
    if vendor in (None, "generic-tiff"):
        return None
    try:
        scan = _Scan(path)
    except openslide.OpenSlideError as error:
        raise InputError(f"{path} is a damaged {vendor} slide: {reason_of(error)}.") from error
    sizes = [to_float(scan.slide.properties.get(f"openslide.mpp-{axis}")) for axis in "yx"]
    levels = [_ScanLevel(scan, level) for level in range(scan.slide.level_count)]
    return ImageFile(levels, "yxs", stated_pixel_size(sizes, str(path)))


def to_float(text: str | None) -> float | None:
    """Return a text as a number, or None."""
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
