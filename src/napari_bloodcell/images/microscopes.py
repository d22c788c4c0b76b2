"""Files of microscopes, opened lazily: CZI (Zeiss), ND2 (Nikon), LIF (Leica). The extra `bio` brings their readers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import finalize
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_bloodcell.core.errors import READ_ERRORS, InputError, reason_of, warn_of_input
from napari_bloodcell.core.geometry import Box
from napari_bloodcell.images.files import (
    UM_PER_UNIT,
    ImageFile,
    check_colours,
    main_image,
    split_scene,
    stated_pixel_size,
    to_float,
)

BIO_EXTRA = 'Install what reads files of microscopes: pip install "napari-bloodcell[bio]".'
_BRIGHT_FIELD = "The program counts the cells of stained smears in bright field. Give a colour image of it."
_CACHE_BYTES = 2**28
_FOCUS_PX = 512
"""Side of the five parts of a plane by which its sharpness is measured."""
_COARSEST_PX = 1024
"""A pyramid ends with the level that is no larger."""
_DYED = ("fluo", "confocal", "tirf", "multiphoton", "luminescence")
"""Parts of the names of what lights up in the dark."""
MOST_SCENES = 24
"""Images of one file that are opened together."""

Read = Callable[[Mapping[str, int], Box], NDArray[Any]]
"""Reads a box (y0, x0, y1, x1) of one plane, named by its place along each further axis: (y, x) or (y, x, 3)."""


def open_microscope(path: Path) -> ImageFile | None:
    """Open a CZI, ND2 or LIF file, or one scene of it (``slide.czi/2``); None for any other path.

    Raises `InputError` if its reader is not installed, it is damaged, holds several images of which none is named, or
    shows fluorescence.
    """
    file, scene = split_scene(path)
    opener = _OPENERS.get(file.suffix.lower())
    if opener is None or not file.is_file():
        return None
    try:
        return opener(file, scene)
    except InputError:
        raise
    except ImportError as error:
        raise InputError(
            f"{file} is not read: {(error.name or str(error)).partition('.')[0]} is not installed. {BIO_EXTRA}"
        ) from error
    except READ_ERRORS as error:
        raise InputError(
            f"{file} is a damaged or unknown kind of {file.suffix[1:].upper()}: {reason_of(error)}."
        ) from error


class SeveralImages(InputError):
    """A file holds `n` images of which none is meant before the others."""

    def __init__(self, message: str, n: int) -> None:
        super().__init__(message)
        self.n = n


def scenes_of(path: Path) -> list[Path]:
    """Return the paths of all images in a file that are meant: its own, or those of its scenes.

    Raises `InputError` as `open_microscope` does, and if there are more than `MOST_SCENES`.
    """
    try:
        open_microscope(path)
    except SeveralImages as error:
        if error.n > MOST_SCENES:
            raise
        return [path / str(i + 1) for i in range(error.n)]
    return [path]


class _Planes:
    """The planes of an image by axes such as "zcyx" or "zyxs", read where they are sliced."""

    def __init__(self, sizes: Mapping[str, int], dtype: Any, read: Read, chunks: tuple[int, ...] | None = None) -> None:
        self.axes, self.shape, self.dtype = "".join(sizes), tuple(sizes.values()), np.dtype(dtype)
        self._read = read
        if chunks is not None:
            self.chunks = chunks

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[Any]:
        wanted = {a: range(*one.indices(n)) for a, one, n in zip(self.axes, key, self.shape, strict=True)}
        y, x = wanted["y"], wanted["x"]
        further = self.axes.partition("y")[0]
        planes = [
            self._read(dict(zip(further, index, strict=True)), (y.start, x.start, y.stop, x.stop))
            for index in itertools.product(*(wanted[axis] for axis in further))
        ]
        together = np.stack(planes).reshape(*(len(wanted[axis]) for axis in further), *planes[0].shape)
        return together[..., key[-1]] if "s" in wanted else together


@dataclass(frozen=True)
class _Scene:
    """An image of a file: its name and (height, width), pixels."""

    name: str
    shape: tuple[int, int]


def _choose(path: Path, scenes: Sequence[_Scene], wanted: str) -> int:
    """Return the index of the scene that is named, by number from 1 or name, or else of the one that is meant."""
    if not scenes:
        raise InputError(f"{path} holds no image.")
    if wanted:
        found = [i for i, one in enumerate(scenes) if wanted in (one.name, str(i + 1))]
        if not found:
            names = ", ".join(f"{i + 1} ({one.name})" for i, one in enumerate(scenes))
            raise InputError(f"{path} has no scene {wanted!r}; it has {names}.")
        return found[0]
    if len(scenes) == 1:
        return 0
    listed = [(f"{i + 1} {one.name!r}", one.shape, False) for i, one in enumerate(scenes)]
    try:
        return main_image(listed, str(path), f"Give one as if the file were a folder: {path / '1'}.")
    except InputError as error:
        raise SeveralImages(str(error), len(scenes)) from error


def _image(
    path: Path, levels: Sequence[_Planes], pixel_sizes_um: Sequence[float | None], channels: Sequence[str]
) -> ImageFile:
    axes = levels[0].axes
    if "c" in axes:
        n = levels[0].shape[axes.index("c")]
        if n != 3 or len(channels) != 3:
            raise InputError(
                f"{path} has {n} grey channels ({', '.join(channels)}), not red, green and blue: it looks like "
                f"fluorescence. {_BRIGHT_FIELD}"
            )
        check_colours(channels, str(path))
    size = stated_pixel_size(pixel_sizes_um, str(path))
    return ImageFile(levels, axes, size, channels=channels, best_plane=lambda: _sharpest(levels[0], path))


def _refuse_dyes(path: Path, channels: Mapping[str, str]) -> None:
    """Raise `InputError` if a channel, by name with the words that describe how it was made, shows fluorescence."""
    told = {name: words.lower() for name, words in channels.items()}
    dyed = [name for name, words in told.items() if "bright" not in words and any(word in words for word in _DYED)]
    if dyed:
        raise InputError(f"{path} is a fluorescence image ({', '.join(dyed)}). {_BRIGHT_FIELD}")


def _sharpest(planes: _Planes, path: Path) -> tuple[int, ...]:
    """Return the plane in best focus of a stack in depth; () if it has other axes, too."""
    further = [(a, n) for a, n in zip(planes.axes, planes.shape, strict=True) if a not in "cyxs" and n > 1]
    if [axis for axis, _ in further] != ["z"]:
        return ()
    n = further[0][1]
    height, width = (planes.shape[planes.axes.index(axis)] for axis in "yx")
    side = _FOCUS_PX
    corners = [(0.5, 0.5), (0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)]
    parts = [(max(0, int(y * height) - side // 2), max(0, int(x * width) - side // 2)) for y, x in corners]
    found = np.zeros(n)
    for z in range(n):
        for y, x in parts:
            within = {"y": slice(y, min(y + side, height)), "x": slice(x, min(x + side, width)), "z": slice(z, z + 1)}
            part = np.squeeze(planes[tuple(within.get(axis, slice(None)) for axis in planes.axes)])
            grey = part.astype(np.float64)
            if grey.ndim == 3:
                grey = grey.mean(axis=-1 if planes.axes.endswith("s") else 0)
            found[z] += float(ndimage.laplace(grey).var())
    best = int(found.argmax())
    warn_of_input(f"{path} has {n} planes in depth; the one in best focus, {best + 1}, is read.", is_doubt=False)
    return (best,)


# --- Zeiss -----------------------------------------------------------------------------------------------------------


def _open_czi(path: Path, wanted: str) -> ImageFile:
    from pylibCZIrw.czi import CacheOptions, CacheType, CziReader

    reader: Any = CziReader(str(path), cache_options=CacheOptions(CacheType.Standard, _CACHE_BYTES, None))
    about = ElementTree.fromstring(reader.raw_metadata)
    found = reader.scenes_bounding_rectangle_no_pyramid or {None: reader.total_bounding_rectangle_no_pyramid}
    named = {one.get("Index"): one.get("Name", "") for one in about.iterfind(".//Dimensions/S/Scenes/Scene")}
    scenes = [
        _Scene(named.get(str(number)) or path.stem, (int(place.h), int(place.w))) for number, place in found.items()
    ]
    number, place = list(found.items())[_choose(path, scenes, wanted)]
    channels = _czi_channels(about)
    kinds = reader.pixel_types
    coloured = [c for c, kind in kinds.items() if kind.startswith("Bgr")]
    if len(coloured) == 1 and len(kinds) > 1:  # beside dyes that show the same field
        warn_of_input(f"{path} has {len(kinds)} channels; the one in colour is read.", is_doubt=False)
    elif not coloured:
        _refuse_dyes(path, channels)
    channel = coloured[0] if coloured else 0
    sizes = {
        axis.lower(): end - start
        for axis, (start, end) in reader.total_bounding_box.items()
        if axis not in "XY" and end - start > 1 and not (axis == "C" and coloured)
    }

    def level(factor: int) -> _Planes:
        def read(index: Mapping[str, int], box: Box) -> NDArray[Any]:
            y0, x0, y1, x1 = (edge * factor for edge in box)
            pixels = reader.read(
                roi=(place.x + x0, place.y + y0, x1 - x0, y1 - y0),
                plane={"C": channel} | {axis.upper(): i for axis, i in index.items()},
                scene=number,
                zoom=1 / factor,
                background_pixel=(1.0, 1.0, 1.0),  # glass that was not scanned
            )
            return np.asarray(pixels[..., ::-1] if coloured else pixels[..., 0])  # stored as blue, green, red

        shape = {"y": -(-place.h // factor), "x": -(-place.w // factor)} | ({"s": 3} if coloured else {})
        return _Planes(sizes | shape, _CZI_DTYPES[kinds[channel]], read)

    levels, factor = [level(1)], 2
    if _has_pyramid(reader):
        while max(place.h, place.w) / factor > _COARSEST_PX / 2:
            levels.append(level(factor))
            factor *= 2
    um = [to_float(about.findtext(f".//Scaling/Items/Distance[@Id='{axis}']/Value")) for axis in "YX"]
    return _image(path, levels, [size * 1e6 if size else None for size in um], [*channels])


_CZI_DTYPES = {
    **{"Gray8": np.uint8, "Gray16": np.uint16, "Gray32Float": np.float32},
    **{"Bgr24": np.uint8, "Bgr48": np.uint16, "Bgr96Float": np.float32},
}


def _czi_channels(about: ElementTree.Element) -> dict[str, str]:
    """Return the names of channels, with the words that say how they were made."""
    told = ("ContrastMethod", "IlluminationType", "AcquisitionMode")
    found = about.findall(".//Information/Image/Dimensions/Channels/Channel")
    return {
        one.get("Name") or f"channel {i + 1}": " ".join(
            [one.findtext(word, "") for word in told] + ["fluorescence"] * bool(one.findtext("EmissionWavelength"))
        )
        for i, one in enumerate(found)
    }


def _has_pyramid(reader: Any) -> bool:
    found = False

    def is_coarse(_index: int, block: Any) -> bool:
        nonlocal found
        found = block.physicalSize.w < block.logicalRect.w
        return not found  # go on

    reader.enumerate_subblocks(is_coarse)
    return found


# --- Nikon -----------------------------------------------------------------------------------------------------------


def _open_nd2(path: Path, wanted: str) -> ImageFile:
    import nd2

    with ExitStack() as stack:
        file = stack.enter_context(nd2.ND2File(path))
        planes, um, channels = _nd2_planes(file, path, wanted)
        image = _image(path, [planes], um, channels)
        finalize(planes, stack.pop_all().close)
    return image


def _nd2_planes(file: Any, path: Path, wanted: str) -> tuple[_Planes, list[float | None], list[str]]:
    """Return the planes of a position, µm per pixel along (y, x), and the names of channels."""
    sizes = {axis.lower(): int(n) for axis, n in file.sizes.items()}
    shape, is_coloured = (sizes["y"], sizes["x"]), file.is_rgb
    loops = [axis for axis in sizes if axis not in "cyxs"]
    n_positions = sizes.get("p", 1)
    position = _choose(path, [_Scene(f"position {i + 1}", shape) for i in range(n_positions)], wanted)
    told = file.metadata.channels or []
    channels = {
        one.channel.name or f"channel {i + 1}": " ".join(one.microscope.modalityFlags or ())
        for i, one in enumerate(told)
    }
    if not is_coloured:
        _refuse_dyes(path, channels)

    def read(index: Mapping[str, int], box: Box) -> NDArray[Any]:
        at = {"p": position, **index}
        number = (
            int(np.ravel_multi_index([at[axis] for axis in loops], [sizes[axis] for axis in loops])) if loops else 0
        )
        frame = file.read_frame(number).reshape([sizes.get(axis, 1) for axis in "cyxs"])
        y0, x0, y1, x1 = box
        part = frame[index.get("c", 0), y0:y1, x0:x1]
        return np.asarray(part[..., ::-1] if is_coloured else part[..., 0])  # stored as blue, green, red

    wanted_axes = {axis: n for axis, n in sizes.items() if axis not in "ps"} | (
        {"s": sizes["s"]} if is_coloured else {}
    )
    is_packed = file.attributes.compressionType is not None  # then a frame is decoded whole
    chunks = tuple(n if axis in "yxs" else 1 for axis, n in wanted_axes.items()) if is_packed else None
    volume = told[0].volume if told else None
    is_known = volume is not None and all(volume.axesCalibrated[:2])
    um: list[float | None] = [None, None]
    if volume is not None and is_known:
        um = [float(volume.axesCalibration[1]), float(volume.axesCalibration[0])]
    return _Planes(wanted_axes, file.dtype, read, chunks), um, [*channels]


# --- Leica -----------------------------------------------------------------------------------------------------------

_LIF_AXES = {1: "x", 2: "y", 3: "z", 4: "t", 10: "m"}


def _open_lif(path: Path, wanted: str) -> ImageFile:
    from liffile import LifFile

    with LifFile(path) as file:
        return _lif_image(file, path, wanted)


def _lif_image(file: Any, path: Path, wanted: str) -> ImageFile:
    images = list(file.images)
    dimensions = [_lif_dimensions(one.xml_element) for one in images]
    shown = [i for i, found in enumerate(dimensions) if {"x", "y"} <= found.keys()]
    if not shown:
        raise InputError(f"{path} holds no image with height and width.")
    shapes = [(int(dimensions[i]["y"]["n"]), int(dimensions[i]["x"]["n"])) for i in shown]
    chosen = _choose(path, [_Scene(images[i].name, shape) for i, shape in zip(shown, shapes, strict=True)], wanted)
    image, axes = images[shown[chosen]], dimensions[shown[chosen]]
    if "m" in axes:
        raise InputError(
            f"{path} has {axes['m']['n']:g} fields of a mosaic in {image.name!r}, which are not merged. Merge them in "
            "LAS X, and give the merged image."
        )
    described = image.xml_element.findall("./Data/Image/ImageDescription/Channels/ChannelDescription")
    tags = [int(one.get("ChannelTag", 0)) for one in described]
    is_coloured = sorted(tags) == [1, 2, 3]  # red, green and blue
    if not is_coloured:
        _refuse_dyes(path, _lif_channels(image.xml_element, described))
    order = [tags.index(tag) for tag in (1, 2, 3)] if is_coloured else range(len(described))
    places = [int(described[i].get("BytesInc", 0)) for i in order]
    bits = int(described[0].get("Resolution", 8))
    kind = "f" if described[0].get("DataType") == "1" else "u"
    dtype = np.dtype(f"<{kind}{next(n for n in (1, 2, 4, 8) if bits <= 8 * n)}")
    further = {axis: int(axes[axis]["n"]) for axis in ("t", "z") if axis in axes and axes[axis]["n"] > 1}
    height, width = shapes[chosen]
    block = image.memory_block
    if block.offset < 0:
        raise InputError(f"{path} has no pixels of {image.name!r} in it, but in another file.")
    stored = np.memmap(path, np.uint8, "r", block.offset, (block.size,))
    steps = {axis: int(axes[axis]["bytes"]) for axis in (*further, "y", "x")}

    def read(index: Mapping[str, int], box: Box) -> NDArray[Any]:
        y0, x0, y1, x1 = box
        start = sum(index[axis] * steps[axis] for axis in further) + y0 * steps["y"] + x0 * steps["x"]
        here = [index["c"]] if "c" in index else range(len(places))
        found = [
            np.ndarray((y1 - y0, x1 - x0), dtype, stored, start + places[c], (steps["y"], steps["x"])) for c in here
        ]
        return np.stack(found, -1) if is_coloured else found[0].copy()

    sizes = further | ({"c": len(places)} if len(places) > 1 and not is_coloured else {})
    sizes |= {"y": height, "x": width} | ({"s": 3} if is_coloured else {})
    um = [axes[a]["um"] if axes[a]["n"] > 1 and axes[a]["um"] else None for a in "yx"]
    channels = [f"{('grey', 'red', 'green', 'blue')[tag]}" if tag < 4 else "" for tag in tags]
    return _image(path, [_Planes(sizes, dtype, read)], um, channels)


def _lif_dimensions(element: ElementTree.Element) -> dict[str, dict[str, float]]:
    """Return number, step in bytes, and step in µm (0: unknown) of each axis."""
    found = {}
    for one in element.iterfind("./Data/Image/ImageDescription/Dimensions/DimensionDescription"):
        n, unit = int(one.get("NumberOfElements", 1)), UM_PER_UNIT.get(one.get("Unit", "").lower(), 0.0)
        length = abs(float(one.get("Length", 0)))
        axis = _LIF_AXES.get(int(one.get("DimID", 0)), "?")
        found[axis] = {"n": n, "bytes": int(one.get("BytesInc", 0)), "um": length * unit / max(n - 1, 1)}
    return found


def _lif_channels(element: ElementTree.Element, described: Sequence[ElementTree.Element]) -> dict[str, str]:
    """Return the channels, with the words that say how they were made."""
    methods = [one.get("ContrastingMethodName", "") for one in element.iter("WideFieldChannelInfo")]
    is_confocal = element.find(".//ATLConfocalSettingDefinition") is not None
    methods += ["confocal" if is_confocal else ""] * (len(described) - len(methods))
    found = {}
    for i, (one, method) in enumerate(zip(described, methods, strict=False)):
        colour = one.get("LUTName", "")
        is_dyed = colour.lower() not in ("", "gray", "grey")
        found[f"channel {i + 1} ({colour})"] = f"{method} {'fluorescence' if is_dyed else ''}"
    return found


_OPENERS: dict[str, Callable[[Path, str], ImageFile]] = {".czi": _open_czi, ".nd2": _open_nd2, ".lif": _open_lif}
