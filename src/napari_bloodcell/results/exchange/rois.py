"""Cells as ROIs of ImageJ and Fiji: ``RoiSet.zip``, written and read."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from napari_bloodcell.core.cells import type_colour
from napari_bloodcell.core.errors import READ_ERRORS, InputError, reason_of
from napari_bloodcell.core.extras import needed
from napari_bloodcell.core.geometry import slices_of
from napari_bloodcell.core.outlines import Polygon, iter_polygons
from napari_bloodcell.results.exchange.features import Feature
from napari_bloodcell.results.exchange.geojson import class_names, only
from napari_bloodcell.results.ome_zarr import rgb
from napari_bloodcell.stages.parts import PART_PX, iter_parts

_MOVE, _LINE, _CLOSE = 0.0, 1.0, 4.0
_NAME = re.compile(r"(\d+)(?:[ _-]+(.+))?")


def write_rois(path: Path, cells: Any, table: pd.DataFrame, names: Sequence[str], *, part_px: int = PART_PX) -> None:
    """Write a ``RoiSet.zip``: a ROI for each cell of a label image (Y, X), named "<id> <class>", in its class's colour.

    Outlines run along the edges of pixels, so ImageJ measures the areas of the masks. A cell with holes or in several
    pieces is a composite ROI.
    """
    roifile = needed("roifile", extra="exchange", what="Writing ROIs of ImageJ")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for rows, box in iter_parts(table, cells.shape, part_px):
            here = table.iloc[rows].sort_index()
            types, classes = here["cell_type"].tolist(), class_names(here)
            place = {label: row for row, label in enumerate(here.index.tolist())}
            part = only(np.asarray(cells[slices_of(box)]), here.index)
            for label, pieces in iter_polygons(part, box[:2]):
                row = place[label]
                roi = _roi(roifile, pieces, f"{label} {classes[row]}".strip())
                if types[row]:
                    roi.stroke_color = bytes((255, *rgb(type_colour(types[row], names))))
                entry = zipfile.ZipInfo(f"{label:07d}.roi")  # without the time: the same cells give the same file
                archive.writestr(entry, roi.tobytes(), zipfile.ZIP_DEFLATED)


def _roi(roifile: Any, pieces: list[Polygon], name: str) -> Any:
    rings = [np.reshape(ring, (-1, 2)) for piece in pieces for ring in piece]
    if len(rings) == 1:
        return roifile.ImagejRoi.frompoints(rings[0][:-1], name=name)
    corners = np.concatenate(rings)
    (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
    path: list[float] = []
    for ring in rings:
        for i, (x, y) in enumerate(ring[:-1].tolist()):
            path += [_LINE if i else _MOVE, x, y]
        path.append(_CLOSE)
    return roifile.ImagejRoi(
        roitype=roifile.ROI_TYPE.RECT,
        name=name,
        **{"left": left, "top": top, "right": right, "bottom": bottom},
        shape_roi_size=len(path),
        multi_coordinates=np.array(path, np.float32),
    )


def holds_rois(path: Path) -> bool:
    """Return whether a zip holds ROIs."""
    with zipfile.ZipFile(path) as archive:
        return any(name.lower().endswith(".roi") for name in archive.namelist())


def iter_rois(path: Path) -> Iterator[Feature]:
    """Yield the ROIs of a ``RoiSet.zip`` or a ``.roi`` file as features, with the class that their names tell.

    Raises `InputError` if it cannot be read.
    """
    roifile = needed("roifile", extra="exchange", what="Reading ROIs of ImageJ")
    damaged: tuple[type[Exception], ...] = (zipfile.BadZipFile, *READ_ERRORS)
    try:
        if path.suffix.lower() == ".roi":
            yield _feature(roifile.ImagejRoi.frombytes(path.read_bytes()))
            return
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.lower().endswith(".roi"):
                    yield _feature(roifile.ImagejRoi.frombytes(archive.read(name)))
    except InputError:
        raise
    except damaged as error:
        raise InputError(f"{path} holds no intact ROIs of ImageJ: {reason_of(error)}.") from error


def _feature(roi: Any) -> Feature:
    named = _NAME.fullmatch(roi.name or "")
    rings = [np.asarray(ring, np.float64) for ring in roi.coordinates(multi=True)]
    rings = [ring.tolist() for ring in rings if len(ring) > 2]
    return Feature(
        id="",
        name=named[1] if named else "",
        kind="detection",
        class_name=(named[2] or "") if named else "",
        rings=rings,
        is_hole=[False] * len(rings),
    )
