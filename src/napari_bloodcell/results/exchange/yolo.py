"""YOLO labels: a text file an image, a line a cell, written and read."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from napari_bloodcell.core.cells import boxes_of
from napari_bloodcell.core.errors import READ_ERRORS, InputError, reason_of
from napari_bloodcell.core.files import make_folder, write_bytes
from napari_bloodcell.core.geometry import slices_of
from napari_bloodcell.core.outlines import iter_polygons, signed_area
from napari_bloodcell.images.files import IMAGE_SUFFIXES
from napari_bloodcell.images.open import open_image
from napari_bloodcell.results.exchange.coco import Mask, ellipse, mask_of_rings
from napari_bloodcell.results.exchange.geojson import only
from napari_bloodcell.results.result import Result
from napari_bloodcell.stages.parts import PART_PX, iter_parts

DATA = "data.yaml"
_LISTS = (DATA, "dataset.yaml", "classes.txt", "obj.names")
_NAMED = re.compile(r"^\s*(\d+)\s*:\s*(.+?)\s*$|^\s*-\s+(.+?)\s*$")


def write_yolo(folder: Path, results: Mapping[str, Result], *, boxes: bool = False) -> None:
    """Write ``labels/<image>.txt`` for each result by the name of its image file, and ``data.yaml`` with the classes.

    A line is the outline of a cell's largest piece, or its box: numbers are shares of the image's width and height.
    """
    names = list(dict.fromkeys(name for result in results.values() for name in result.names))
    make_folder(folder / "labels")
    for name, result in results.items():
        lines = "".join(f"{line}\n" for line in _lines(result, names, boxes=boxes))
        write_bytes(folder / "labels" / f"{Path(name).stem}.txt", lines.encode())
    listed = "".join(f"  {i}: {_quoted(name)}\n" for i, name in enumerate(names))
    text = f"path: .\ntrain: images\nval: images\nnames:\n{listed}"
    write_bytes(folder / DATA, text.encode())


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def _lines(result: Result, names: Sequence[str], *, boxes: bool) -> Iterator[str]:
    table, (height, width) = result.table, result.cells.shape
    number = {name: i for i, name in enumerate(names)}
    for rows, box in iter_parts(table, result.cells.shape, PART_PX):
        here = table.iloc[rows].sort_index()
        types = dict(zip(here.index.tolist(), here["cell_type"].tolist(), strict=True))
        around = dict(zip(here.index.tolist(), boxes_of(here).tolist(), strict=True))
        for label, pieces in iter_polygons(only(np.asarray(result.cells[slices_of(box)]), here.index), box[:2]):
            if types[label] not in number:
                continue
            if boxes:
                y0, x0, y1, x1 = around[label]
                values = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]
            else:
                ring = max((piece[0] for piece in pieces), key=signed_area)[:-2]
                values = (np.reshape(ring, (-1, 2)) / [width, height]).reshape(-1).tolist()
            yield f"{number[types[label]]} {' '.join(f'{value:.9g}' for value in values)}"


def iter_yolo(folder: Path) -> Iterator[tuple[Path, tuple[int, int], list[tuple[str, Mask]]]]:
    """Yield path, shape (Y, X) and annotated objects (class, mask) of each image of a YOLO data set that has labels.

    Classes are named in ``data.yaml`` or ``classes.txt``; labels lie beside the images, or in ``labels`` where these
    lie in ``images``. A box is the ellipse that fills it. Raises `InputError` if something is missing or damaged.
    """
    names = _class_names(folder)
    texts = [path for path in sorted(folder.rglob("*.txt")) if path.name not in _LISTS]
    found = [(text, image) for text in texts if (image := _image_of(text, folder)) is not None]
    if not found:
        raise InputError(f"{folder} holds no image with YOLO labels: there are {len(texts)} text files.")
    for text, image in found:
        shape = open_image(image).shape
        try:
            rows = [line.split() for line in text.read_text(encoding="utf-8").splitlines() if line.strip()]
            objects = [(names[int(row[0])], _mask([float(v) for v in row[1:]], shape)) for row in rows]
        except READ_ERRORS as error:
            raise InputError(f"{text} holds no intact YOLO labels: {reason_of(error)}.") from error
        yield image, shape, [(name, mask) for name, mask in objects if mask is not None]


def _mask(values: list[float], shape: tuple[int, int]) -> Mask | None:
    height, width = shape
    if len(values) in (4, 5):  # a box, and perhaps how sure somebody was
        x, y, w, h = values[:4]
        return ellipse(((x - w / 2) * width, (y - h / 2) * height, w * width, h * height), shape)
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f"a line with {len(values)} numbers")
    return mask_of_rings([(np.reshape(values, (-1, 2)) * [width, height]).reshape(-1).tolist()], shape)


def _class_names(folder: Path) -> list[str]:
    listed = next((path for name in _LISTS if (path := folder / name).is_file()), None)
    if listed is None:
        raise InputError(f"{folder} does not name its classes: {' or '.join(_LISTS)} is missing.")
    text = listed.read_text(encoding="utf-8-sig")
    if listed.suffix != ".yaml":
        return [line.strip() for line in text.splitlines() if line.strip()]
    _, _, rest = text.partition("names:")
    if rest.strip().startswith("["):
        inner = rest.strip()[1:].partition("]")[0]
        return [_plain(name) for name in inner.split(",") if name.strip()]
    names: list[str] = []
    for line in rest.splitlines()[1:]:
        if not (named := _NAMED.match(line)):
            break
        names.append(_plain(named[2] or named[3]))
    if not names:
        raise InputError(f"{listed} names no classes.")
    return names


def _plain(text: str) -> str:
    text = text.strip()
    return text[1:-1].replace("''", "'") if text[:1] in "'\"" and text[-1:] == text[:1] else text


def _image_of(text: Path, folder: Path) -> Path | None:
    """Return the image that a text file labels."""
    relative = text.relative_to(folder)
    moved = folder.joinpath(*("images" if part == "labels" else part for part in relative.parts))
    beside = (path for base in (moved, text) for path in base.parent.glob(f"{glob.escape(base.stem)}.*"))
    return next((path for path in beside if path.suffix.lower() in IMAGE_SUFFIXES), None)
