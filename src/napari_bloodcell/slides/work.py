"""The unfinished work of a run on disk: the outcome of each tile and block.

A tile or block is done when its file exists: the file is written under a temporary name, synced and renamed after
everything else that belongs to it. It holds the hash of the settings and weights it was made with, so that work done
differently is never mixed in.
"""

from __future__ import annotations

import io
import itertools
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_bloodcell.core.errors import READ_ERRORS, InputError
from napari_bloodcell.core.files import write_bytes, writing
from napari_bloodcell.core.protocols import CellMask
from napari_bloodcell.results.plan import Plan
from napari_bloodcell.results.store import read_result

WORK = "work"
"""Folder of unfinished work within that of a result."""
Arrays = dict[str, "NDArray[Any]"]
_DAMAGED: tuple[type[Exception], ...] = (zipfile.BadZipFile, *READ_ERRORS)


class WorkFolder:
    """The unfinished work of a run, in the result's folder `output`."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.path = output / WORK

    @property
    def plan_path(self) -> Path:
        """Path of the plan."""
        return self.path / "plan.json"

    def read_plan(self) -> Plan | None:
        """Return the plan of earlier work, or None if there is none that can be used."""
        try:
            return Plan.from_json(self.plan_path.read_text(encoding="utf-8"))
        except READ_ERRORS:
            return None

    def write_plan(self, plan: Plan) -> None:
        """Save the plan."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_bytes(self.plan_path, plan.to_json().encode())

    def tile_path(self, plan: Plan, number: int) -> Path:
        """Return the file of a tile's masks."""
        row, column = divmod(number, plan.grid[1])
        return self.path / "tiles" / f"{row:05d}" / f"{column:05d}.npz"

    def block_path(self, plan: Plan, number: int) -> Path:
        """Return the file of a block's cells."""
        row, column = divmod(number, plan.block_grid[1])
        return self.path / "blocks" / f"{row:05d}" / f"{column:05d}.npz"

    def discard(self) -> None:
        """Remove the work."""
        shutil.rmtree(self.path, ignore_errors=True)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], made_with: str) -> None:
    """Write arrays into one file, whole or not at all, with the hash of what they were made with."""
    content = io.BytesIO()
    everything: dict[str, Any] = {"made_with": np.array(made_with), **arrays}
    np.savez(content, **everything)
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content.getvalue())


def read_arrays(path: Path, made_with: str) -> Arrays | None:
    """Return what `write_arrays` wrote, or None if it is missing, damaged, or made with other settings."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            if str(file["made_with"]) != made_with:
                return None
            return {name: file[name] for name in file.files if name != "made_with"}
    except _DAMAGED:
        return None


def is_made_with(path: Path, made_with: str) -> bool:
    """Return whether a file of `write_arrays` exists and was made with these settings; reads little of it."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return str(file["made_with"]) == made_with
    except _DAMAGED:
        return False


def pack_masks(masks: Sequence[CellMask]) -> Arrays:
    """Return masks as arrays for `unpack_masks`."""
    types = sorted({m.cell_type for m in masks if m.cell_type is not None})
    codes = {name: i + 1 for i, name in enumerate(types)}
    bits = [np.packbits(m.mask) for m in masks]
    numbers = [
        (m.predicted_iou, m.stability_score, m.score, m.type_probability, m.point[0], m.point[1], m.area) for m in masks
    ]
    return {
        "bbox": np.array([m.bbox for m in masks], np.int64).reshape(-1, 4),
        "numbers": np.array(numbers, np.float64).reshape(-1, 7),
        "type": np.array([codes.get(m.cell_type or "", 0) for m in masks], np.int16),
        "types": np.array(["", *types]),
        "bits": np.concatenate(bits) if bits else np.empty(0, np.uint8),
    }


def unpack_masks(arrays: Arrays) -> list[CellMask]:
    """Return the masks packed by `pack_masks`."""
    boxes, names = arrays["bbox"], [str(name) or None for name in arrays["types"]]
    sides = boxes[:, 2:] - boxes[:, :2]
    ends = np.cumsum([0, *(-(-sides.prod(1) // 8)).tolist()])
    masks = []
    for k, (start, end) in enumerate(itertools.pairwise(ends.tolist())):
        height, width = sides[k].tolist()
        mask = np.unpackbits(arrays["bits"][start:end], count=height * width).reshape(height, width).astype(bool)
        iou, stability, score, certainty, y, x, _ = arrays["numbers"][k].tolist()
        y0, x0, y1, x1 = boxes[k].tolist()
        name = names[int(arrays["type"][k])]
        masks.append(CellMask((y0, x0, y1, x1), mask, iou, stability, score, (y, x), name, certainty))
    return masks


def source_of_work(folder: Path) -> str | None:
    """Return the source path recorded in `folder` (finished or interrupted run), or None."""
    plan = WorkFolder(folder).read_plan()
    if plan is None:
        try:
            plan = read_result(folder).plan
        except InputError:
            return None
    return plan.source if plan is not None else None
