"""COCO annotations: cells as polygons or run lengths, written and read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_bloodcell.core.cells import boxes_of
from napari_bloodcell.core.errors import READ_ERRORS, InputError, reason_of
from napari_bloodcell.core.geometry import Box, slices_of
from napari_bloodcell.core.outlines import box_of_rings, fill, iter_polygons
from napari_bloodcell.results.exchange.geojson import only
from napari_bloodcell.results.result import Result
from napari_bloodcell.stages.parts import PART_PX, iter_parts

Mask = tuple[Box, NDArray[np.bool_]]
"""A box (y0, x0, y1, x1) and the mask (h, w) in it."""


def write_coco(path: Path, results: Mapping[str, Result], *, rle: bool = False) -> None:
    """Write the cells of results by the names of their image files, as one COCO file.

    A cell is the polygons of its pieces or, with a hole or with `rle`, its run lengths: both are exactly its mask.
    """
    names = list(dict.fromkeys(name for result in results.values() for name in result.names))
    category = {name: i for i, name in enumerate(names, start=1)}
    content = {
        "info": {"description": "cells found by napari-bloodcell"},
        "images": [
            {"id": i, "file_name": name, "height": int(result.cells.shape[0]), "width": int(result.cells.shape[1])}
            for i, (name, result) in enumerate(results.items(), start=1)
        ],
        "categories": [{"id": i, "name": name, "supercategory": "cell"} for name, i in category.items()],
    }
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f'{encode(content)[:-1]},"annotations":[')
        number = 0
        for image, result in enumerate(results.values(), start=1):
            for annotation in _annotations(result, category, rle=rle):
                number += 1
                file.write(f"{',' * (number > 1)}\n{encode({'id': number, 'image_id': image, **annotation})}")
        file.write("\n]}\n")


def _annotations(result: Result, category: Mapping[str, int], *, rle: bool) -> Iterator[dict[str, Any]]:
    table, shape = result.table, result.cells.shape
    for rows, box in iter_parts(table, shape, PART_PX):
        here = table.iloc[rows].sort_index()
        place = {label: row for row, label in enumerate(here.index.tolist())}
        boxes, types, areas = boxes_of(here).tolist(), here["cell_type"].tolist(), here["area_px"].tolist()
        part = only(np.asarray(result.cells[slices_of(box)]), here.index)
        for label, pieces in iter_polygons(part, box[:2]):
            row = place[label]
            if types[row] not in category:  # without a type
                continue
            y0, x0, y1, x1 = boxes[row]
            outline: Any = [piece[0][:-2] for piece in pieces]
            if rle or any(len(piece) > 1 for piece in pieces):
                mask = part[y0 - box[0] : y1 - box[0], x0 - box[1] : x1 - box[1]] == label
                outline = {"size": list(shape), "counts": run_lengths(mask, (y0, x0), shape)}
            yield {
                "category_id": category[types[row]],
                "segmentation": outline,
                "area": areas[row],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "iscrowd": 0,
                "cell": label,
            }


def run_lengths(mask: NDArray[np.bool_], corner: tuple[int, int], shape: tuple[int, ...]) -> list[int]:
    """Return the run lengths of a mask (h, w) at `corner` (y, x) of an image, column by column, the first outside."""
    height, (y, x) = int(shape[0]), corner
    columns, rows = np.nonzero(mask.T)
    place = (columns + x) * height + rows + y
    starts = place[np.append(True, np.diff(place) > 1)] if len(place) else place
    ends = place[np.append(np.diff(place) > 1, True)] + 1 if len(place) else place
    edges = np.stack([starts, ends], 1).reshape(-1)
    runs: list[int] = np.diff(np.concatenate([[0], edges, [height * int(shape[1])]])).tolist()
    return runs[:-1] if len(runs) > 1 and not runs[-1] else runs


def mask_of_runs(counts: str | list[int], shape: tuple[int, int]) -> Mask | None:
    """Return the mask of COCO's run lengths, as numbers or packed into a text; None if it is empty."""
    runs = np.array(_unpacked(counts) if isinstance(counts, str) else counts, np.int64)
    ends = np.cumsum(runs)
    if (runs < 0).any() or (ends[-1] if len(ends) else 0) > shape[0] * shape[1]:
        raise ValueError("run lengths that do not fit the image")
    starts, stops = ends[:-1:2], ends[1::2]
    starts, stops = starts[stops > starts], stops[stops > starts]
    if not len(starts):
        return None
    x0, x1 = int(starts[0] // shape[0]), int((stops[-1] - 1) // shape[0]) + 1
    flat = np.zeros((x1 - x0) * shape[0] + 1, np.int8)
    np.add.at(flat, starts - x0 * shape[0], 1)
    np.add.at(flat, stops - x0 * shape[0], -1)
    mask = np.cumsum(flat[:-1]).reshape(x1 - x0, shape[0]).T.astype(bool)
    rows = np.flatnonzero(mask.any(1))
    y0, y1 = int(rows[0]), int(rows[-1]) + 1
    return (y0, x0, y1, x1), mask[y0:y1]


def _unpacked(text: str) -> list[int]:
    """Return the numbers in COCO's packed text: five bits a character, and from the third on differences."""
    numbers: list[int] = []
    at = 0
    while at < len(text):
        value, shift, is_more = 0, 0, True
        while is_more:
            bits = ord(text[at]) - 48
            value |= (bits & 0x1F) << shift
            is_more, at, shift = bool(bits & 0x20), at + 1, shift + 5
            if not is_more and bits & 0x10:
                value -= 1 << shift
        numbers.append(value + numbers[-2] if len(numbers) > 2 else value)
    return numbers


def iter_coco(path: Path) -> Iterator[tuple[str, tuple[int, int], list[tuple[str, Mask]]]]:
    """Yield name, shape (Y, X) and annotated objects (class, mask) of each image of a COCO file.

    A box without a segmentation is the ellipse that fills it. Raises `InputError` if it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        names = {int(one["id"]): str(one["name"]) for one in content["categories"]}
        by_image: dict[int, list[dict[str, Any]]] = {}
        for annotation in content["annotations"]:
            by_image.setdefault(int(annotation["image_id"]), []).append(annotation)
        for image in content["images"]:
            shape = (int(image["height"]), int(image["width"]))
            found = [(names[int(a["category_id"])], _mask(a, shape)) for a in by_image.get(int(image["id"]), [])]
            yield str(image["file_name"]), shape, [(name, mask) for name, mask in found if mask is not None]
    except READ_ERRORS as error:
        raise InputError(f"{path} is no intact COCO file: {reason_of(error)}.") from error


def _mask(annotation: Mapping[str, Any], shape: tuple[int, int]) -> Mask | None:
    outline = annotation.get("segmentation")
    if isinstance(outline, dict):
        if tuple(outline["size"]) != shape:
            raise ValueError(f"run lengths of {outline['size']} for an image of {list(shape)}")
        return mask_of_runs(outline["counts"], shape)
    rings = [ring for ring in outline or [] if len(ring) >= 6]
    if rings:
        return mask_of_rings(rings, shape)
    x, y, width, height = map(float, annotation["bbox"])
    return ellipse((x, y, width, height), shape)


def mask_of_rings(rings: list[list[float]], shape: tuple[int, ...]) -> Mask | None:
    """Return the union of polygons x, y, x, y, … as a mask; None if they hold no pixel of the image."""
    box = box_of_rings(rings, shape)
    mask = np.any([fill([ring], box) for ring in rings], axis=0)
    return (box, mask) if mask.any() else None


def ellipse(box: tuple[float, float, float, float], shape: tuple[int, ...]) -> Mask | None:
    """Return the ellipse that fills a box (x, y, width, height)."""
    x, y, width, height = box
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    ring = np.stack([x + width / 2 * (1 + np.cos(angle)), y + height / 2 * (1 + np.sin(angle))], 1)
    return mask_of_rings([ring.reshape(-1).tolist()], shape) if width > 0 and height > 0 else None
