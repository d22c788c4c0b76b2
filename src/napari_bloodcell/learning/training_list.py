"""The list of a training set: a row per cell, and the conversion between cells and rows."""

from __future__ import annotations

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from napari_bloodcell.core.cells import check_types
from napari_bloodcell.core.errors import READ_ERRORS, TrainingError, reason_of
from napari_bloodcell.core.files import legal_name
from napari_bloodcell.images.files import is_inside
from napari_bloodcell.learning.dataset import PARTS, read_picture
from napari_bloodcell.results.table import unguard_formulas
from napari_bloodcell.stages.cutouts import CUTOUT_SIZE, RGB, centre_cutout, tight

BY_IMAGE, BY_CLASS = "image", "class"
"""A cell is in its part because its image is, or because its class was split."""
SEVERAL = 3
"""Once there are this many images, new ones go to a part as a whole."""

Row = dict[str, Any]


def assign_parts(known: Sequence[Row], new: Sequence[Row], shares: tuple[float, float, float]) -> list[tuple[str, str]]:
    """Return (part, "image" or "class") of each new cell, independent of the order of `new`.

    New cells of an image that is in a part follow it. While there are fewer than `SEVERAL` images, and for cells of
    unknown images, each class is split; later images go as a whole to the part that lacks them most. Rows need `class`,
    `image_sha256`, `sha256`, `split` ("" if open) and `split_by`.
    """
    numbers: Counter[tuple[str, str]] = Counter((row["class"], row["split"]) for row in known)
    settled = [*known, *(row for row in new if row["split"])]
    part_of_image = {r["image_sha256"]: r["split"] for r in settled if r["split_by"] == BY_IMAGE and r["image_sha256"]}
    seen = {row["image_sha256"] for row in settled if row["image_sha256"]}
    unseen = {row["image_sha256"] for row in new if row["image_sha256"] and not row["split"]} - seen
    are_several = len(seen | unseen) >= SEVERAL
    result: dict[int, tuple[str, str]] = {}
    whole: dict[str, list[int]] = defaultdict(list)
    loose: list[int] = []

    def put(cells: Iterable[int], part: str, by: str) -> None:
        for i in cells:
            result[i] = part, by
            numbers[new[i]["class"], part] += 1

    for i, row in enumerate(new):
        image = row["image_sha256"]
        if row["split"]:
            put([i], row["split"], row["split_by"])
        elif image in part_of_image:
            put([i], part_of_image[image], BY_IMAGE)
        elif are_several and image in unseen:
            whole[image].append(i)
        else:
            loose.append(i)
    largest_first = sorted(whole.items(), key=lambda item: (-len(item[1]), item[0]))
    for n_done, (_, cells) in enumerate(largest_first):
        classes = Counter(new[i]["class"] for i in cells)
        put(cells, _part_of_image(classes, numbers, shares, len(whole) - n_done), BY_IMAGE)
    for i in sorted(loose, key=lambda i: hashlib.sha256(new[i]["sha256"].encode()).digest()):
        put([i], _neediest(new[i]["class"], numbers, shares), BY_CLASS)
    return [result[i] for i in range(len(new))]


def _neediest(name: str, numbers: Mapping[tuple[str, str], int], shares: Sequence[float]) -> str:
    """Return the part that lacks most of a class when one more comes; the first of ties."""
    total = 1 + sum(numbers.get((name, part), 0) for part in PARTS)
    lacking = [share * total - numbers.get((name, part), 0) for part, share in zip(PARTS, shares, strict=True)]
    return PARTS[lacking.index(max(lacking))]


def _part_of_image(
    classes: Counter[str], numbers: Mapping[tuple[str, str], int], shares: Sequence[float], n_left: int
) -> str:
    """Return the part that lacks most of an image's cells; an empty part if only as many images are left."""
    open_parts = [part for part, share in zip(PARTS, shares, strict=True) if share > 0]
    empty = [part for part in open_parts if not any(n for (_, p), n in numbers.items() if p == part)]
    choice = empty if len(empty) >= n_left else open_parts

    def lack(part: str) -> float:
        gain = 0.0
        for name, n in classes.items():
            total = n + sum(numbers.get((name, p), 0) for p in PARTS)
            wanted = shares[PARTS.index(part)] * total - numbers.get((name, part), 0)
            gain += min(n, max(wanted, 0.0)) / n
        return gain

    return max(choice, key=lambda part: (lack(part), -PARTS.index(part)))


LIST = "cutouts.csv"
"""Name of the list, which holds a row per picture."""
_BOX, GLASS, RED = ["y0", "x0", "y1", "x1"], ["glass_r", "glass_g", "glass_b"], ["red_r", "red_g", "red_b"]
COLUMNS: dict[str, str] = {
    **dict.fromkeys(["file", "class", "split", "annotator", "when", "image", "image_sha256", "cell"], "str"),
    **dict.fromkeys(_BOX, "Int64"),
    **dict.fromkeys(["rbc_diameter_px", *GLASS, *RED], "float64"),
    **dict.fromkeys(["split_by", "sha256"], "str"),
}
"""Columns of the list with their dtypes. `split` is "train", "val" or "test", `split_by` "image" or "class";
`y0` … `x1` is the cell's box in its image, `rbc_diameter_px` the width of a red cell there, `glass_*` and `red_*` the
colours of its glass and of a typical red cell, empty where they are not known. `sha256` is that of the picture's
pixels."""
_SAME_CELL = 0.5  # boxes of one image whose IoU is more than this are those of one cell


@dataclass(frozen=True, slots=True, eq=False)
class TypedCell:
    """A cell on black, (H, W, 3) uint8 at its image's own scale and colours, with its type.

    `image`, `image_sha256`, `cell` (its id) and `bbox` (y0, x0, y1, x1) say where it comes from; `rbc_diameter_px`,
    `glass_rgb` and `red_rgb` (0 to 255) are those of that image. `when` is UTC, ISO 8601, "" for now. `split` is
    "train", "val" or "test" where that is settled already, `split_by` "image" where that is so because its image is,
    "class" otherwise.
    """

    cutout: NDArray[np.uint8]
    cell_type: str
    annotator: str = ""
    image: str = ""
    image_sha256: str = ""
    cell: str = ""
    bbox: tuple[int, int, int, int] | None = None
    rbc_diameter_px: float | None = None
    glass_rgb: RGB | None = None
    red_rgb: RGB | None = None
    when: str = ""
    split: str = ""
    split_by: str = BY_CLASS


class KnownCells:
    """Finds the row of a cell by its pixels, or by its box in its image."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._by_pixels: dict[str, Row] = {}
        self._by_image: dict[str, list[Row]] = {}
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """Add a row."""
        self._by_pixels[row["sha256"]] = row
        if row["image_sha256"] and _is_known(row["y0"]):
            self._by_image.setdefault(row["image_sha256"], []).append(row)

    def find(self, row: Row) -> Row | None:
        """Return the row of the same cell, if there is one."""
        if row["sha256"] in self._by_pixels:
            return self._by_pixels[row["sha256"]]
        there = self._by_image.get(row["image_sha256"], []) if _is_known(row["y0"]) else []
        if not there:
            return None
        boxes = np.array([[other[k] for k in _BOX] for other in there], float)
        mine = np.array([row[k] for k in _BOX], float)
        low, high = np.maximum(boxes[:, :2], mine[:2]), np.minimum(boxes[:, 2:], mine[2:])
        shared = np.clip(high - low, 0, None).prod(1)
        iou = shared / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + (mine[2:] - mine[:2]).prod() - shared)
        best = int(iou.argmax())
        return there[best] if iou[best] > _SAME_CELL else None


def row_of(cell: TypedCell) -> Row:
    """Return the row of a cell, not yet assigned to a part."""
    if not cell.cell_type.strip():
        raise TrainingError(f"Cell {cell.cell or '?'} of {cell.image or 'an unknown image'} has no type.")
    check_types([cell.cell_type])
    if cell.cutout.ndim != 3 or cell.cutout.shape[2] != 3 or not cell.cutout.any():
        raise TrainingError(f"Cell {cell.cell or '?'} of {cell.image or 'an unknown image'} has no pixels (H, W, 3).")
    pixels = tight(cell.cutout)
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    source = "_".join(part for part in (legal_name(cell.image, instead=""), legal_name(cell.cell, instead="")) if part)
    box = cell.bbox or (None, None, None, None)
    glass, red = (colour or (None, None, None) for colour in (cell.glass_rgb, cell.red_rgb))
    return {
        "file": f"{legal_name(cell.cell_type, instead='_')}/{source}{'_' if source else ''}{digest[:10]}.png",
        "class": cell.cell_type,
        "split": cell.split,
        "annotator": cell.annotator,
        "when": cell.when or datetime.now(UTC).isoformat(timespec="seconds"),
        "image": cell.image,
        "image_sha256": cell.image_sha256,
        "cell": cell.cell,
        **dict(zip(_BOX, box, strict=True)),
        "rbc_diameter_px": cell.rbc_diameter_px,
        **dict(zip(GLASS, glass, strict=True)),
        **dict(zip(RED, red, strict=True)),
        "split_by": cell.split_by,
        "sha256": digest,
    }


def cell_of(row: Row, folder: Path) -> TypedCell:
    """Return the cell of a row, with its picture from the set's folder."""
    box = [int(row[k]) for k in _BOX if _is_known(row[k])]
    return TypedCell(
        read_picture(folder / row["file"]),
        row["class"],
        row["annotator"],
        image=row["image"],
        image_sha256=row["image_sha256"],
        cell=row["cell"],
        bbox=(box[0], box[1], box[2], box[3]) if len(box) == 4 else None,
        rbc_diameter_px=float(row["rbc_diameter_px"]) if _is_known(row["rbc_diameter_px"]) else None,
        glass_rgb=_colour_in(row, GLASS),
        red_rgb=_colour_in(row, RED),
        when=row["when"],
        split=row["split"],
        split_by=row["split_by"],
    )


def _colour_in(row: Row, columns: Sequence[str]) -> RGB | None:
    red, green, blue = (row[k] for k in columns)
    return (float(red), float(green), float(blue)) if all(map(_is_known, (red, green, blue))) else None


def picture_of(cutout: NDArray[np.uint8]) -> bytes:
    """Return a cutout as PNG: centred on 128×128, or its own square if larger."""
    small = tight(cutout)
    buffer = io.BytesIO()
    Image.fromarray(centre_cutout(small, max(CUTOUT_SIZE, *small.shape[:2]))).save(buffer, "PNG")
    return buffer.getvalue()


def rows_of(table: pd.DataFrame) -> list[Row]:
    """Return the rows of a list, each by column."""
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def read_list(path: Path, shares: tuple[float, float, float]) -> pd.DataFrame:
    """Return the list of a training set, empty if there is none; `TrainingError` if it is damaged."""
    if not path.is_file():
        return typed(pd.DataFrame(columns=list(COLUMNS)))
    try:
        table = unguard_formulas(pd.read_csv(path, dtype=str, keep_default_na=False))
        is_short = "type_source" in table
        table = table if is_short else typed(table)
        splits = [PARTS[0]] * len(table) if is_short else table["split"]
        cells = zip(table["file"], table["class"], splits, strict=True)
        bad = [file for file, name, part in cells if not is_inside(file) or not name or part not in PARTS]
        bad += table.loc[table["file"].duplicated(), "file"].tolist()
    except READ_ERRORS as error:
        raise TrainingError(f"The list {path} cannot be read: {reason_of(error)}.") from error
    if bad:
        raise TrainingError(
            f"The list {path} is damaged at {bad[0]}: each row needs a file, a class and a split of its own."
        )
    return _completed(table, path.parent, shares) if is_short else table


def _completed(table: pd.DataFrame, folder: Path, shares: tuple[float, float, float]) -> pd.DataFrame:
    """Return the short list once written by File > Save Selected Layers with all columns; cells get their parts."""
    rows = []
    for row in rows_of(table):
        cell = TypedCell(
            read_picture(folder / row["file"]),
            row["class"],
            annotator="" if row["type_source"] == "user" else row["type_source"],
            image=row["image"],
            image_sha256=row["image_sha256"],
            cell=row["cell"],
        )
        rows.append(row_of(cell) | {"file": row["file"], "when": ""})
    for row, (part, by) in zip(rows, assign_parts([], rows, shares), strict=True):
        row["split"], row["split_by"] = part, by
    return typed(pd.DataFrame(rows, columns=list(COLUMNS)))


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """Return a list with the dtypes of `COLUMNS`; `KeyError` if a column is missing, except `RED`: it came later."""
    table = table.assign(**{name: "" for name in RED if name not in table})
    columns: dict[str, Any] = {}
    for name, dtype in COLUMNS.items():
        column = table[name]
        if dtype == "str":
            columns[name] = column.astype(object)
        else:
            columns[name] = pd.to_numeric(column.where(column != "", None)).astype(pd.api.types.pandas_dtype(dtype))
    return pd.DataFrame(columns)


def _is_known(value: object) -> bool:
    return not (value is None or value is pd.NA or value != value)
