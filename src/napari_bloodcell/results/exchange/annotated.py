"""Images that people annotated in other programs: COCO and YOLO, as training sets and as truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_bloodcell.core.cells import BUILTIN_TYPES, KINDS, PLATELET, RBC, WBC, measure_cells, split_name
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.files import expanded
from napari_bloodcell.core.geometry import slices_of
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.images.open import read_plane
from napari_bloodcell.images.plane import Plane
from napari_bloodcell.results.exchange.coco import Mask, iter_coco
from napari_bloodcell.results.exchange.yolo import iter_yolo
from napari_bloodcell.stages.segment import calibrate_cells

_SAME = {
    **dict.fromkeys(("rbc", "rbcs", "red blood cell", "red cell", "erythrocyte"), RBC),
    **dict.fromkeys(("wbc", "wbcs", "white blood cell", "white cell", "leukocyte", "leucocyte"), WBC),
    **dict.fromkeys(("platelet", "plt", "thrombocyte"), PLATELET),
}
"""Names of the built-in types in other data sets, in lower case and singular."""


@dataclass(frozen=True, eq=False)
class Annotated:
    """An annotated image: everything of a segmentation that typing and training need.

    Attributes
    ----------
    path : Path
        The image.
    cells : ndarray of int32, shape (Y, X)
        Ids 1..N in the order of the annotations; where they overlap the smaller one is on top.
    table : DataFrame
        The cell table, typed by a person.
    """

    path: Path
    cells: NDArray[np.int32]
    table: pd.DataFrame

    @cached_property
    def plane(self) -> Plane:
        """The image."""
        plane = read_plane(self.path)
        if plane.data.shape[:2] != self.cells.shape:
            raise InputError(f"{self.path} has {plane.data.shape[:2]} pixels, its annotations {self.cells.shape}.")
        return plane

    @cached_property
    def calibration(self) -> Calibration:
        """Measurements of the image."""
        return calibrate_cells(self.plane.data, self.table)


def iter_annotated(source: str | Path, images: str | Path | None = None) -> Iterator[Annotated]:
    """Yield the annotated images of a COCO file, or of a folder of YOLO labels.

    Parameters
    ----------
    source : path
        A ``.json`` of COCO (polygons, run lengths or boxes), or the folder of a YOLO data set (polygons or boxes).
    images : path, optional
        Folder of a COCO file's images; by default that of the file.

    Raises
    ------
    InputError
        If it cannot be read, or an image is missing.

    Notes
    -----
    Classes called as the built-in types usually are (rbc, erythrocytes, Platelets, …) are those, others the user's own.
    Boxes become the ellipses that fill them: good enough to count and to type, too coarse to learn outlines from.
    """
    source = expanded(source)
    if source.is_dir():
        for path, shape, objects in iter_yolo(source):
            yield _annotated(path, shape, objects)
        return
    folder = source.parent if images is None else expanded(images)
    for name, shape, objects in iter_coco(source):
        found = next((p for p in (folder / name, folder / Path(name).name) if p.is_file()), None)
        if found is None:
            raise InputError(f"The image {name} of {source} is not in {folder}. Give the folder of its images.")
        yield _annotated(found, shape, objects)


def counts_of_annotations(source: str | Path) -> pd.DataFrame:
    """Return how many objects of each class people annotated: a row an image, as `compare` takes counts by hand.

    Columns are `image`, types ("RBC"), and kinds ("WBC_neutrophil"), whose cells count for their type, too. Images of
    a COCO file need not be there.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    source = expanded(source)
    listed = iter_yolo(source) if source.is_dir() else iter_coco(source)
    rows = []
    for name, _shape, objects in listed:
        row: dict[str, Any] = {"image": Path(name).name, **dict.fromkeys(BUILTIN_TYPES, 0)}
        for column in (column for found, _mask in objects for column in _measures_of(found)):
            row[column] = row.get(column, 0) + 1
        rows.append(row)
    if not rows:
        raise InputError(f"{source} lists no image.")
    table = pd.DataFrame(rows).fillna(0)
    return table.astype({column: int for column in table.columns if column != "image"})


def _measures_of(name: str) -> list[str]:
    """Return the measures that an object of a class adds to."""
    cell_type, kind = split_name(name)
    plain = " ".join(name.lower().replace("_", " ").split())
    known = {one: of for of, kinds in KINDS.items() for one in kinds}
    if plain in known or (singular := plain.removesuffix("s")) in known:
        kind = plain if plain in known else singular
        cell_type = known[kind]
    cell_type = _type_of(cell_type)
    return [cell_type, f"{cell_type}_{kind}"] if kind else [cell_type]


def _annotated(path: Path, shape: tuple[int, int], objects: Sequence[tuple[str, Mask]]) -> Annotated:
    cells = np.zeros(shape, np.int32)
    for i in sorted(range(len(objects)), key=lambda i: -int(objects[i][1][1].sum())):
        box, mask = objects[i][1]
        cells[slices_of(box)][mask] = i + 1
    table = measure_cells(cells)
    types = [_type_of(objects[i - 1][0]) for i in table.index]
    table["cell_type"] = pd.Series(types, table.index, dtype=object)
    table["type_source"], table["probability"] = "user", 1.0
    return Annotated(path, cells, table)


def _type_of(name: str) -> str:
    plain = " ".join(name.lower().replace("_", " ").replace("-", " ").split())
    return _SAME.get(plain) or _SAME.get(plain.removesuffix("s")) or name
