"""Reads images, and the program's results, into napari's layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_bloodcell.core.cells import measure_cells, type_names
from napari_bloodcell.core.errors import READ_ERRORS, InputError, reason_of
from napari_bloodcell.images.files import is_image_path
from napari_bloodcell.napari.pyramids import info_of_result, placement_um, read_slide, read_slide_result
from napari_bloodcell.results.exchange.compare import LARGEST_CELL, iter_regions
from napari_bloodcell.results.exchange.features import iter_features
from napari_bloodcell.results.files import COUNTS, RECIPE, SLIDE, ZARR
from napari_bloodcell.results.ome_zarr import read_labels
from napari_bloodcell.results.result import Result
from napari_bloodcell.results.store import read_result

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_bloodcell.napari.pyramids import LayerData

MOST_BYTES_READ: Final = 256 * 1024**2
"""A larger image is read lazily, tile by tile."""
GEOJSON: Final = ".geojson"
_PLACED: Final = ("scale", "translate", "units", "axis_labels")
NO_LAYERS: Final[list[Any]] = [(None,)]
"""What napari expects from a reader that has told the user why there is nothing."""


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """Return the reader for a path: for results (folder, OME-Zarr or ``recipe.json``), for images, or None."""
    if not isinstance(path, str):
        return None
    if _result_folder(Path(path)) is not None or _zarr_with_cells(Path(path)) is not None:
        return _read_for_napari
    if path.lower().endswith(GEOJSON):
        return _read_regions_for_napari
    return _read_slide_for_napari if is_image_path(Path(path)) else None


def read_layers(path: str | Path) -> list[LayerData]:
    """Read a result as layer data: the image, the cells with their table, and their types.

    `path` is a result's folder, the OME-Zarr in it, or its ``recipe.json``. An OME-Zarr alone works as well: its table
    is measured from the cells. Raises `InputError` if there is no intact result.
    """
    path = Path(path)
    folder, zarr = _result_folder(path), _zarr_with_cells(path)
    if folder is not None and (folder / SLIDE).is_file():
        return read_slide_result(folder)
    if folder is not None:
        result = read_result(folder)
        image = _read_image(folder / ZARR) if (folder / ZARR).is_dir() else None
        return _as_layers(
            image, result.cells, result.table, result.names, result.image_name, result.pixel_size_um, result
        )
    if zarr is None:
        raise InputError(f"{path} holds no result of the program: neither {RECIPE} nor an OME-Zarr with labels/cells.")
    cells, types = read_labels(zarr)
    names = _names_in(zarr)
    table = _table_from_types(cells, types, names)
    image = _read_image(zarr)
    return _as_layers(image, cells, table, names, _stem(zarr), _pixel_size_in(zarr), None)


def read_regions(path: str | Path, image_layer: Image | None = None) -> list[LayerData]:
    """Read the regions that were drawn in QuPath as a Shapes layer, in which docks look and count; holes are filled.

    `image_layer` is that of their image, which the shapes lie on. Raises `InputError` if there is none.
    """
    from napari_bloodcell.napari.layers.look import placement_of

    path = Path(path)
    found = list(iter_regions(iter_features(path)))
    outer = [
        (np.asarray(ring, np.float64)[:, 1::-1] - 0.5, feature)  # QuPath counts from the corner of the first pixel
        for feature in found
        for ring, is_hole in zip(feature.rings, feature.is_hole, strict=True)
        if not is_hole
    ]
    if not outer:
        raise InputError(
            f"{path} holds no region: no annotation without a class, of the class Region*, or larger than "
            f"{LARGEST_CELL:.0f} red cells. Cells come back by napari-bloodcell import."
        )
    about = {
        "name": f"{image_layer.name if image_layer is not None else path.stem} regions",
        "shape_type": "polygon",
        "face_color": "transparent",
        "edge_color": "yellow",
        "edge_width": 2,
        "features": pd.DataFrame({name: [getattr(one, name) for _, one in outer] for name in ("name", "class_name")}),
        **(
            {}
            if image_layer is None
            else {name: place[-2:] for name, place in placement_of(image_layer).items() if name in _PLACED}
        ),
    }
    return [([corners for corners, _ in outer], about, "shapes")]


def _read_regions_for_napari(path: str | Sequence[str]) -> list[LayerData]:
    import napari
    from napari.layers import Image

    from napari_bloodcell.napari.notify import notify_in_window

    viewer = napari.current_viewer()
    images = [layer for layer in viewer.layers if isinstance(layer, Image)] if viewer is not None else []
    chosen = [layer for layer in images if layer in viewer.layers.selection] if viewer is not None else []
    image = next(iter([*chosen, *images]), None)
    return notify_in_window(lambda: read_regions(path if isinstance(path, str) else path[0], image), NO_LAYERS)


def _read_for_napari(path: str | Sequence[str]) -> list[LayerData]:
    """Read a result for napari, and link its layers once napari has made them."""
    import napari

    from napari_bloodcell.napari.notify import notify_in_window

    found = notify_in_window(lambda: read_layers(path if isinstance(path, str) else path[0]), NO_LAYERS)
    viewer = napari.current_viewer()
    if viewer is not None and found is not NO_LAYERS:
        from napari_bloodcell.napari.session.opening import open_soon
        from napari_bloodcell.napari.window import watch_window

        open_soon(viewer)
        watch_window(viewer)
    return found


def _read_slide_for_napari(path: str | Sequence[str]) -> list[LayerData]:
    from napari_bloodcell.napari.notify import notify_in_window

    return notify_in_window(lambda: read_slide(path if isinstance(path, str) else path[0]), NO_LAYERS)


def _result_folder(path: Path) -> Path | None:
    """Return the folder of the result that a path belongs to."""
    folder = path.parent if path.is_file() or path.suffix == ".zarr" else path
    is_part = path.name in (RECIPE, COUNTS) or path.name == ZARR or path.is_dir()
    if path.is_dir() and path.suffix == ".zarr" and path.name != ZARR:
        return None
    return folder if is_part and (folder / RECIPE).is_file() and (folder / COUNTS).is_file() else None


def _zarr_with_cells(path: Path) -> Path | None:
    has_cells = all((path / "labels" / name).is_dir() for name in ("cells", "types"))
    return path if path.is_dir() and has_cells else None


def _as_layers(
    image: Any,
    cells: NDArray[np.int32],
    table: pd.DataFrame,
    names: list[str],
    name: str,
    pixel_size_um: float | None,
    result: Result | None,
) -> list[LayerData]:
    from napari_bloodcell.napari.layers.cells import as_layer_data

    place = placement_um(pixel_size_um)
    info: dict[str, Any] = {"kind": "cells", "image": name, "names": names}
    if result is not None:
        info |= info_of_result(result)
    layers: list[LayerData] = []
    if image is not None:
        is_pyramid = isinstance(image, list)
        layers.append((image, {"name": name, "rgb": True, "multiscale": is_pyramid, **place}, "image"))
    return [*layers, *as_layer_data(cells, table, info, place)]


def _read_image(path: Path) -> Any:
    """Return the image of an OME-Zarr as (Y, X, 3), or as a list of levels if it is large."""
    import zarr

    try:
        root: Any = zarr.open_group(path, mode="r")
        levels = [root[d["path"]] for d in root.attrs["ome"]["multiscales"][0]["datasets"]]
        if levels[0].nbytes <= MOST_BYTES_READ:
            return np.ascontiguousarray(np.moveaxis(np.asarray(levels[0][...]), 0, -1))
    except READ_ERRORS as error:
        raise InputError(f"The image in {path} is missing or damaged: {reason_of(error)}.") from error
    import dask.array

    from_zarr: Any = dask.array.from_zarr
    return [dask.array.moveaxis(from_zarr(level), 0, -1) for level in levels]


def _names_in(path: Path) -> list[str]:
    """Return the class names listed in an OME-Zarr."""
    import zarr

    try:
        root: Any = zarr.open_group(path, mode="r")
        listed = root["labels/types"].attrs["ome"]["image-label"]["properties"]
        return [str(entry["name"]) for entry in sorted(listed, key=lambda entry: int(entry["label-value"]))]
    except READ_ERRORS:
        return type_names()


def _pixel_size_in(path: Path) -> float | None:
    import zarr

    from napari_bloodcell.images.files import open_zarr

    try:
        return open_zarr(zarr.open_group(path, mode="r"), str(path)).pixel_size_um
    except READ_ERRORS:
        return None


def _table_from_types(cells: NDArray[np.int32], types: NDArray[np.uint8], names: list[str]) -> pd.DataFrame:
    """Measure cells, and take their types from the types image."""
    table = measure_cells(cells)
    flat = cells.ravel()
    pixels = np.flatnonzero(flat)
    codes = np.zeros(int(cells.max(initial=0)) + 1, np.intp)
    codes[flat[pixels]] = types.ravel()[pixels]
    by_code = np.array(["", *names], object)
    table["cell_type"] = by_code[np.minimum(codes[table.index.to_numpy()], len(names))]
    return table


def _stem(path: Path) -> str:
    return path.name.removesuffix(".zarr").removesuffix(".ome") or "smear"
