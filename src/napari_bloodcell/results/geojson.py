"""Cells as GeoJSON for QuPath: outline, type with its colour, measurements."""

from __future__ import annotations

import itertools
import json
import math
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from napari_bloodcell.core.cells import boxes_of, full_name, type_colour
from napari_bloodcell.core.geometry import slices_of
from napari_bloodcell.results.ome_zarr import rgb
from napari_bloodcell.stages.parts import iter_parts

_MEASUREMENTS: dict[str, str] = {
    "area_px": "Area px^2",
    "probability": "Probability",
    "subtype_probability": "Subtype probability",
    "predicted_iou": "Predicted IoU",
    "stability_score": "Stability score",
    "cells_in_region": "Cells in region",
}
_NAMESPACE = uuid.UUID("6d7f0a5e-9b0c-4c55-8e47-3c1f3ed7a2b4")
Ring = list[tuple[int, int]]


def to_geojson(
    cells: Any, table: pd.DataFrame, names: Sequence[str], *, image_id: str = "", part_px: int | None = None
) -> Iterator[str]:
    """Yield the text of a FeatureCollection piece by piece, one detection per cell.

    `cells` are ids (Y, X), in memory or on disk; those without a row are left out. `image_id` makes the objects' ids
    unique to the image. Cells that begin in the same square of `part_px` pixels are read together; None: all at once.
    Coordinates are (x, y) in pixels with (0, 0) at the outer corner of the first pixel; outlines run along pixel edges,
    so their area is the cell's.
    """
    yield '{"type": "FeatureCollection", "features": ['
    separator = "\n"
    for rows, box in iter_parts(table, cells.shape, part_px):
        part = np.asarray(cells[slices_of(box)])
        for feature in _features(part, table.iloc[rows], names, box[:2], image_id):
            yield separator + feature
            separator = ",\n"
    yield "\n]}\n"


def _features(
    cells: NDArray[np.integer[Any]], table: pd.DataFrame, names: Sequence[str], corner: tuple[int, int], image_id: str
) -> Iterator[str]:
    """Yield the feature of each row of a table, for a part (Y, X) of the image that begins at `corner`."""
    colours = {name: rgb(type_colour(name, names)) for name in names}
    columns = {label: table[column].tolist() for column, label in _MEASUREMENTS.items() if column in table}
    types = table["cell_type"].tolist()
    kinds = table["subtype"].fillna("").tolist() if "subtype" in table else [""] * len(table)
    boxes = boxes_of(table) - np.tile(corner, 2)
    for row, (label, (y0, x0, y1, x1)) in enumerate(zip(table.index.tolist(), boxes.tolist(), strict=True)):
        mask = cells[y0:y1, x0:x1] == label
        if not mask.any():
            continue
        properties: dict[str, Any] = {"objectType": "detection", "name": str(label)}
        if types[row]:
            name = full_name(types[row], kinds[row])
            properties["classification"] = {"name": name, "color": colours[types[row]]}
        properties["measurements"] = {
            name: values[row] for name, values in columns.items() if math.isfinite(values[row])
        }
        feature = {
            "type": "Feature",
            "id": str(uuid.uuid5(_NAMESPACE, f"{image_id}/{label}")),
            "geometry": _geometry(mask, x0 + corner[1], y0 + corner[0]),
            "properties": properties,
        }
        yield json.dumps(feature, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _geometry(mask: NDArray[np.bool_], x0: int, y0: int) -> dict[str, Any]:
    rings = outlines(mask)
    if sum(_signed_area(ring) > 0 for ring in rings) == 1:
        parts = [rings]
    else:
        components, n = ndimage.label(mask)
        parts = [outlines(components == i + 1) for i in range(n)]
    polygons = [
        [[(x + x0, y + y0) for x, y in ring] for ring in sorted(part, key=_signed_area, reverse=True)] for part in parts
    ]
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def outlines(mask: NDArray[np.bool_]) -> list[Ring]:
    """Return the closed rings of (x, y) corners around a mask (Y, X): outlines clockwise, holes the other way.

    Pixels that touch only at a corner have outlines of their own.
    """
    padded = np.pad(mask, 1)
    inner = padded[1:-1, 1:-1]
    steps = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right along the top of a pixel, down its right side, and so on
    neighbours = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])
    corners = ((0, 0), (1, 0), (1, 1), (0, 1))
    outgoing: dict[tuple[int, int], set[int]] = {}
    for direction, (neighbour, (dx, dy)) in enumerate(zip(neighbours, corners, strict=True)):
        ys, xs = np.nonzero(inner & ~neighbour)
        for start in zip((xs + dx).tolist(), (ys + dy).tolist(), strict=True):
            outgoing.setdefault(start, set()).add(direction)
    rings: list[Ring] = []
    while outgoing:
        first = next(iter(outgoing))
        point, direction, ring = first, -1, []
        while point in outgoing:
            choices = outgoing[point]
            turn_right = (direction + 1) % 4
            following = turn_right if direction >= 0 and turn_right in choices else next(iter(choices))
            choices.discard(following)
            if not choices:
                del outgoing[point]
            if following != direction:
                ring.append(point)
            direction = following
            point = (point[0] + steps[direction][0], point[1] + steps[direction][1])
            if point == first and (point not in outgoing or (direction + 1) % 4 not in outgoing[point]):
                break
        ring.append(ring[0])
        rings.append(ring)
    return rings


def _signed_area(ring: Ring) -> float:
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in itertools.pairwise(ring)) / 2
