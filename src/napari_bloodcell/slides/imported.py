"""What people changed in another program, written into the result and the journal."""

from __future__ import annotations

import zipfile
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_bloodcell.core.cells import UNIDENTIFIED, box_of, cell_table, full_name, split_name, type_lut, type_names
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.files import LOCK, locked
from napari_bloodcell.core.geometry import Box, box_of_mask, slices_of
from napari_bloodcell.core.progress import drained
from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.corrections.correction import Correction
from napari_bloodcell.corrections.edits import Patch, measure_cell, read_window
from napari_bloodcell.corrections.journal import Journal, default_journal_folder
from napari_bloodcell.results.exchange.compare import Changes, Comparison, Outline
from napari_bloodcell.results.exchange.features import Feature, iter_features
from napari_bloodcell.results.exchange.rois import holds_rois, iter_rois
from napari_bloodcell.results.files import ZARR
from napari_bloodcell.results.ome_zarr import open_levels
from napari_bloodcell.results.pyramid import CELLS
from napari_bloodcell.results.result import Result
from napari_bloodcell.results.store import read_result, rewrite_result
from napari_bloodcell.slides.save import repaint_types, write_corrected


@dataclass(frozen=True)
class Imported:
    """What came back from another program.

    Attributes
    ----------
    n_same, n_retyped, n_edited, n_drawn, n_deleted : int
        Cells that nobody touched; that got another type, another outline; that were added, that were taken away.
    n_left_out : int
        Outlines that were not taken over: they lie on other cells, outside of the image, or enclose no area.
    regions : list
        Annotations that are no cells, each a list of rings of (x, y), pixels.
    corrections : list of Correction
        As written to the journal.
    result : Result
        The result as it is now.
    """

    n_same: int
    n_retyped: int
    n_edited: int
    n_drawn: int
    n_deleted: int
    n_left_out: int
    regions: list[Any] = field(repr=False)
    corrections: list[Correction] = field(repr=False)
    result: Result = field(repr=False)


def iter_import_cells(
    folder: str | Path,
    file: str | Path,
    *,
    annotator: str,
    journal: Journal | None = None,
    delete_missing: bool | None = None,
) -> Generator[Progress, None, Imported]:
    """Take over what people changed in QuPath or ImageJ: into a result, and as corrections into the journal.

    Parameters
    ----------
    folder : path
        A result, of which ``cells.geojson`` was opened in QuPath. Its cells, types, table and counts are changed.
    file : path
        The objects exported from there as GeoJSON, or a ``RoiSet.zip`` of ImageJ. Cells are found by the ids that were
        written, others by overlap. Annotations with a class are cells that people drew, unless they are larger than
        `LARGEST_CELL` red cells.
    annotator : str
        Who did it.
    journal : Journal, optional
        By default that of the user.
    delete_missing : bool, optional
        Whether cells that the file lacks were deleted. None: yes, unless more than half are missing.

    Yields
    ------
    Progress
        After some objects each.

    Raises
    ------
    InputError
        If one of both cannot be read, the image of the result is unknown, or it is unclear whether cells were deleted.
    OutputError
        If result or journal cannot be written.

    Notes
    -----
    A cell keeps its pixels where another outline overlaps it. Of a cell with another outline the type is confirmed, and
    the correction has the new outline.
    """
    folder = Path(folder)
    result = read_result(folder)
    with nullcontext() if result.plan is None else locked(folder / LOCK, wait=False):
        if not result.image_sha256:
            raise InputError(f"The result in {folder} does not say which image it is of. Analyse the image again.")
        compared = Comparison(
            result.cells,
            result.table,
            image_id=result.image_sha256,
            rbc_diameter_px=result.calibration.rbc_diameter_px,
        )
        for done in compared.add(_iter_objects(Path(file))):
            yield Progress(done, 0, "objects compared")
        changes = compared.finish(delete_missing=delete_missing)
        work = _Work(result, annotator)
        work.delete(changes.missing)
        work.retype(changes.retyped)
        n_left_out = changes.n_unread + work.outline(changes.outlines)
        yield Progress(0, 1, "result written")
        if work.corrections:
            result = work.write(folder)
            (journal or Journal(default_journal_folder())).extend(work.corrections)
        yield Progress(1, 1, "result written")
    return _summary(changes, work, n_left_out, result)


import_cells = drained(iter_import_cells)
"""`iter_import_cells`, run to its end."""


def _iter_objects(file: Path) -> Iterator[Feature]:
    """Yield the objects of a GeoJSON file, or the ROIs of ImageJ."""
    if file.suffix.lower() == ".roi" or (zipfile.is_zipfile(file) and holds_rois(file)):
        return iter_rois(file)
    return iter_features(file)


def _summary(changes: Changes, work: _Work, n_left_out: int, result: Result) -> Imported:
    return Imported(
        n_same=changes.n_same,
        n_retyped=len(changes.retyped),
        n_edited=work.n_edited,
        n_drawn=work.n_drawn,
        n_deleted=len(changes.missing),
        n_left_out=n_left_out,
        regions=changes.regions,
        corrections=work.corrections,
        result=result,
    )


class _Work:
    """Changes the cells of a result; their table is put together at the end, once."""

    def __init__(self, result: Result, annotator: str) -> None:
        self.corrections: list[Correction] = []
        self.n_edited = self.n_drawn = 0
        self._result, self._annotator = result, annotator
        self._table = result.table
        self._cells, self._is_slide = result.cells, result.plan is not None
        if result.folder is not None and self._is_slide:
            self._levels = open_levels(result.folder / ZARR, CELLS)
            self._cells = self._levels[0]
        self._types: dict[int, str] = {}
        self._rows: dict[int, dict[str, object]] = {}
        self._gone: set[int] = set()
        self._boxes: list[Box] = []

    def delete(self, ids: list[int]) -> None:
        """Take cells away."""
        for cell in ids:
            self._note(cell, box_of(self._table, cell), is_deleted=True)
            self._clear(cell)
        self._gone.update(ids)

    def retype(self, types: dict[int, str]) -> None:
        """Give cells other types."""
        for cell, name in types.items():
            box = box_of(self._table, cell)
            self._note(cell, box, name)
            self._types[cell] = name
            self._boxes.append(box)

    def outline(self, outlines: list[Outline]) -> int:
        """Give cells other outlines, and add those that were drawn; return how many found no free place."""
        n_left_out = 0
        was = {one.label: self._clear(one.label) for one in outlines if one.label}
        next_id = int(self._table.index.max()) + 1 if len(self._table) else 1
        for one in outlines:
            before = read_window(self._cells, (), one.box)
            free = one.mask & (before == 0)
            inner = box_of_mask(free, one.box[:2])
            if inner is None:
                n_left_out += 1
                if one.label:  # it stays as it was, as far as others left it
                    corner, own = was[one.label]
                    now = read_window(self._cells, (), (*corner, corner[0] + own.shape[0], corner[1] + own.shape[1]))
                    self._write(corner, now, np.where(own & (now == 0), one.label, now))
                continue
            label = one.label or next_id
            next_id += label == next_id
            self._write(one.box[:2], before, np.where(free, label, before))
            measured = measure_cell(free[slices_of(inner, one.box[:2])], inner[:2], self._cells.shape)
            self._rows[label] = measured
            self._types[label] = one.to_type or self._name_of(one.label) or UNIDENTIFIED
            self._note(label, inner, self._types[label])
            self.n_edited, self.n_drawn = self.n_edited + bool(one.label), self.n_drawn + (not one.label)
        return n_left_out

    def write(self, folder: Path) -> Result:
        """Write the result, and return it."""
        table, result = self._changed_table(), self._result
        given = (split_name(name)[0] for name in self._types.values())
        names = type_names([n for n in (*result.names, *given) if n != UNIDENTIFIED])
        if self._is_slide:
            repaint_types(folder, type_lut(table, names), np.array(self._boxes, np.int64).reshape(-1, 4))
            return write_corrected(folder, table, names)
        cells = self._cells
        types = type_lut(table, names, int(cells.max(initial=0)))[cells]
        return rewrite_result(replace(result, cells=cells, types=types, rows=table, names=names), folder)

    def _changed_table(self) -> pd.DataFrame:
        table = self._table.drop(index=[i for i in self._gone if i not in self._rows])
        new = [i for i in self._rows if i not in table.index]
        if new:
            blank = {"predicted_iou": np.nan, "stability_score": np.nan}
            table = pd.concat([table, cell_table(new, **blank)]).sort_index()
            table.index.name = "id"
        if self._rows:
            ids = list(self._rows)
            for name in next(iter(self._rows.values())):
                table.loc[ids, name] = np.array([self._rows[i][name] for i in ids])
        ids = list(self._types)
        if ids:
            types, kinds = zip(*map(split_name, self._types.values()), strict=True)
            table.loc[ids, "cell_type"], table.loc[ids, "subtype"] = list(types), list(kinds)
            table.loc[ids, "type_source"] = "user"
            table.loc[ids, "subtype_source"] = ["user" if kind else "model" for kind in kinds]
            table.loc[ids, "probability"] = 1.0
            table.loc[ids, "subtype_probability"] = [1.0 if kind else np.nan for kind in kinds]
        return table

    def _name_of(self, cell: int) -> str:
        """Return type and kind that a cell had, "" for none."""
        if cell not in self._table.index:
            return ""
        return full_name(str(self._table.at[cell, "cell_type"] or ""), str(self._table.at[cell, "subtype"] or ""))

    def _note(self, cell: int, box: Box, name: str = "", *, is_deleted: bool = False) -> None:
        """Note the correction of a cell; its outline is that in the label image, and if deleted that which it had."""
        before, after = split_name(self._name_of(cell)), split_name(name)
        by_model = bool(before[0]) and self._table.at[cell, "type_source"] != "user"
        probability = float(self._table.at[cell, "probability"]) if by_model else np.nan  # type: ignore[arg-type]
        is_marked = cell in self._table.index and bool(self._table.at[cell, "abnormal"])
        model = self._result.models.get("classify") or {}
        self.corrections.append(
            Correction.of_cell(
                self._cells,
                cell,
                box,
                from_type=before[0],
                to_type=after[0],
                annotator=self._annotator,
                image_sha256=self._result.image_sha256,
                model=str(model.get("name", "")),
                model_sha256=str(model.get("sha256", "")),
                model_type=before[0] if by_model else "",
                model_probability=probability if np.isfinite(probability) else None,
                from_subtype=before[1],
                to_subtype=after[1],
                from_abnormal=is_marked,
                to_abnormal=is_marked,
                is_deleted=is_deleted,
            )
        )

    def _clear(self, cell: int) -> tuple[tuple[int, int], NDArray[np.bool_]]:
        """Take a cell out of the label image, and return where it began (y, x), and its mask (h, w)."""
        box = box_of(self._table, cell)
        before = read_window(self._cells, (), box)
        self._write(box[:2], before, np.where(before == cell, 0, before))
        return box[:2], before == cell

    def _write(self, corner: tuple[int, int], before: Any, after: Any) -> None:
        patch = Patch((), corner, before, after)
        patch.write(self._cells)
        self._boxes.append(patch.box)
        if self._is_slide:
            for level in self._levels[1:]:
                patch.write_level(level, self._cells)
