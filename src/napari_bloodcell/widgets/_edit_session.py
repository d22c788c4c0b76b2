"""Edits of one cells layer: image, table, types and undo go together. Works without a window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from napari.utils.events import EmitterGroup
from napari.utils.notifications import show_info

from napari_bloodcell.edits import add_cell, delete_cells, merge_cells, repaint, split_cell
from napari_bloodcell.errors import BloodCellError, InputError
from napari_bloodcell.patches import Edit, History, replace_rows, window_of, write_level
from napari_bloodcell.widgets._cell_features import INDEX, boxes_in, rows_of, to_features, to_table
from napari_bloodcell.widgets._cells_session import CellsSession
from napari_bloodcell.widgets._highlight import select_cells, selected_cells
from napari_bloodcell.widgets._layers import (
    current_plane,
    full_resolution,
    is_cells,
    lookup_of,
    names_of,
    plane_number,
    refresh_cells,
)
from napari_bloodcell.widgets._slide_keeper import keeper_of
from napari_bloodcell.widgets._strokes import strokes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from napari.components import ViewerModel
    from napari.layers import Labels
    from napari.utils.events import Event
    from numpy.typing import NDArray

    from napari_bloodcell.edits import Point
    from napari_bloodcell.protocols import CellMask

_SESSION: Final = "napari_bloodcell_edits"


class EditSession(CellsSession):
    """Adds, deletes, splits and merges the cells of a layer, and takes it back.

    `events.edited` is emitted after each change, `value` being what was done, in words.
    """

    def __init__(self, viewer: ViewerModel, cells_layer: Labels) -> None:
        super().__init__(viewer, cells_layer)
        self.history = History()
        self.events = EmitterGroup(source=self, edited=None)
        cells_layer.events.paint.connect(self._on_paint)

    @property
    def plane(self) -> tuple[int, ...]:
        """The plane that the sliders show."""
        return current_plane(self.viewer, self.layer)

    def add(self, mask: CellMask, *, plane: tuple[int, ...] | None = None, **values: object) -> int:
        """Add a cell and return its id; see `edits.add_cell`, also for what it raises."""
        plane = self.plane if plane is None else plane
        edit = add_cell(self._cells, self._rows_near(mask.bbox, plane), mask, plane=plane, values=values)
        self._do(edit)
        return int(edit.added.index.max())

    def delete(self, ids: Sequence[int]) -> None:
        """Delete cells; see `edits.delete_cells`."""
        self._do(delete_cells(self._cells, self._rows_of(ids), ids, plane=self._plane_of(ids)))

    def split(self, cell: int, *, line: tuple[Point, Point] | None = None) -> None:
        """Split a cell at its waist, or along a line in pixels of the layer; see `edits.split_cell`."""
        self._do(split_cell(self._cells, self._rows_of([cell]), cell, line=line, plane=self._plane_of([cell])))

    def merge(self, ids: Sequence[int]) -> None:
        """Make several cells one; see `edits.merge_cells`."""
        self._do(merge_cells(self._cells, self._rows_of(ids), ids, plane=self._plane_of(ids)))

    def undo(self) -> None:
        """Take the last edit back; see `History.undo`."""
        edit, _ = self.history.undo(self._cells, self._rows_of([]))
        self._show(edit, edit.added, edit.removed, f"undone: {edit.what}")

    def redo(self) -> None:
        """Do again what was undone last; see `History.redo`."""
        edit, _ = self.history.redo(self._cells, self._rows_of([]))
        self._show(edit, edit.removed, edit.added, edit.what)

    def painted(
        self,
        before: NDArray[np.int32],
        after: NDArray[np.int32],
        corner: tuple[int, int],
        *,
        plane: tuple[int, ...] = (),
    ) -> None:
        """Take a patch (h, w) at `corner` (y, x) of a plane that was painted into cells, table and history."""
        box = (*corner, corner[0] + before.shape[0], corner[1] + before.shape[1])
        self._cells[window_of(plane, box)] = after
        changed = before != after
        ids = [int(i) for i in np.union1d(before[changed], after[changed])]
        edit = repaint(self._cells, self._rows_of(ids), before, corner, plane=plane)
        self.history.remember(edit)
        self._show(edit, edit.removed, edit.added, edit.what)

    @property
    def next_id(self) -> int:
        """An id that no cell has."""
        return int(self.layer.features[INDEX].max()) + 1 if INDEX in self.layer.features.columns else 1

    def cells_outside(self, ids: Sequence[int], box: tuple[int, int, int, int]) -> list[int]:
        """Return those of some cells that lie wholly outside of a box (y0, x0, y1, x1)."""
        features = self.layer.features
        rows = rows_of(features, ids) if len(ids) else np.empty(0, np.intp)
        boxes = boxes_in(features, rows)
        if boxes is None or not len(boxes):
            return []
        y0, x0, y1, x1 = boxes.T
        outside = (y1 <= box[0]) | (y0 >= box[2]) | (x1 <= box[1]) | (x0 >= box[3])
        return [int(i) for i in features[INDEX].to_numpy()[rows[outside]]]

    @property
    def _cells(self) -> NDArray[np.int32]:
        return full_resolution(self.layer)

    def _do(self, edit: Edit) -> None:
        self.history.do(edit, self._cells, self._rows_of([]))
        self._show(edit, edit.removed, edit.added, edit.what)

    def _show(self, edit: Edit, old: pd.DataFrame, new: pd.DataFrame, what: str) -> None:
        """Bring coarser levels, features, types and selection up to date with an edit."""
        layer = self.layer
        if layer.multiscale:
            for level in layer.data[1:]:
                write_level(level, self._cells, edit)
        self._put_rows(old, new)
        gone = old.index.difference(new.index)
        selected = selected_cells(self.viewer, layer)
        if np.isin(selected, gone).any():
            select_cells(self.viewer, layer, np.setdiff1d(selected, gone))
        keeper = keeper_of(layer)
        if keeper is not None:
            (y0, x0), (height, width) = edit.corner, edit.before.shape
            keeper.touch((y0, x0, y0 + height, x0 + width))
        refresh_cells(layer)
        self.events.edited(value=what)

    def _put_rows(self, old: pd.DataFrame, new: pd.DataFrame) -> None:
        """Exchange rows of the features, and the types of their cells."""
        layer = self.layer
        features = layer.features.set_index(INDEX, drop=False)
        rows = (to_features(rows).set_index(INDEX, drop=False).drop(index=0) for rows in (old, new))
        layer.features = replace_rows(features, *rows).reset_index(drop=True)
        lookup, names = lookup_of(layer), names_of(layer)
        lookup.change(old.index.difference(new.index).to_numpy(), 0)
        for name, ids in new.groupby("cell_type").groups.items():
            lookup.change(ids.to_numpy(), names.index(str(name)) + 1 if name in names else 0)

    def _rows_of(self, ids: Sequence[int]) -> pd.DataFrame:
        """Return the table of these cells, and of the last one, whose id new ids follow."""
        features = self.layer.features
        if INDEX not in features.columns:
            raise InputError(f"The layer {self.layer.name!r} has no table of cells. Segment the image first.")
        rows = np.union1d(rows_of(features, ids) if len(ids) else [], [len(features) - 1]).astype(np.intp)
        return to_table(features.iloc[rows])

    def _rows_near(self, box: tuple[int, int, int, int], plane: tuple[int, ...]) -> pd.DataFrame:
        """Return the table of the cells whose boxes touch this one, and of the last."""
        features = self.layer.features
        if "bbox_y0" not in features.columns:
            return self._rows_of([])
        y0, x0, y1, x1 = (features[f"bbox_{side}"].to_numpy() for side in ("y0", "x0", "y1", "x1"))
        near = (y0 < box[2]) & (y1 > box[0]) & (x0 < box[3]) & (x1 > box[1])
        if plane and "plane" in features.columns:
            near &= features["plane"].to_numpy() == plane_number(plane, self._cells.shape[:-2])
        return self._rows_of(features[INDEX].to_numpy()[near])

    def _plane_of(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Return the plane that the first of these cells is in: that of its row, else the one shown."""
        features, stack = self.layer.features, self._cells.shape[:-2]
        rows = rows_of(features, ids) if len(ids) and INDEX in features.columns else np.empty(0, np.intp)
        if stack and rows.size and "plane" in features.columns:
            return tuple(int(i) for i in np.unravel_index(int(features["plane"].iat[rows[0]]), stack))
        return self.plane

    def _on_paint(self, event: Event) -> None:
        """Take what was painted with napari's own tools into table and history."""
        layer = self.layer
        if INDEX not in layer.features.columns:
            return
        for stroke in strokes_of(self._cells, event.value):
            self.painted(stroke.before, stroke.after, stroke.corner, plane=stroke.plane)


def edit_session(viewer: ViewerModel, cells_layer: Labels) -> EditSession:
    """Return the session of a cells layer; it lives as long as the layer, and so does what can be undone.

    Raises
    ------
    InputError
        If this is not a layer of cells.
    """
    if not is_cells(cells_layer):
        raise InputError(f"The layer {getattr(cells_layer, 'name', None)!r} holds no cells. Segment the image first.")
    session = cells_layer.metadata.get(_SESSION)
    if not isinstance(session, EditSession) or not session.is_of(viewer, cells_layer):
        session = cells_layer.metadata[_SESSION] = EditSession(viewer, cells_layer)
        cells_layer.bind_key("Control-Z", _undo_key, overwrite=True)
        cells_layer.bind_key("Control-Shift-Z", _redo_key, overwrite=True)
    return session


def _undo_key(layer: Labels) -> None:
    """Undo the last edit of cells."""
    _guarded(layer, "undo")


def _redo_key(layer: Labels) -> None:
    """Do the last undone edit of cells again."""
    _guarded(layer, "redo")


def _guarded(layer: Labels, name: str) -> None:
    try:
        getattr(layer.metadata[_SESSION], name)()
    except BloodCellError as error:
        show_info(str(error))
