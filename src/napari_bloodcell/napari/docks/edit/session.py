"""Edits of one cells layer: image, table, types and undo go together. Works without a window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from napari.utils.events import EmitterGroup
from napari.utils.notifications import show_info

from napari_bloodcell.core.cells import BOX, boxes_of
from napari_bloodcell.core.errors import BloodCellError, InputError
from napari_bloodcell.corrections.edits import add_cell, delete_cells, merge_cells, repaint, split_cell
from napari_bloodcell.corrections.patches import Edit, History, replace_rows, window_of, write_level
from napari_bloodcell.napari.layers.cells import (
    current_plane,
    full_resolution,
    is_cells,
    lookup_of,
    names_of,
    plane_number,
    refresh_cells,
)
from napari_bloodcell.napari.layers.features import INDEX, boxes_in, rows_of, to_features, to_table
from napari_bloodcell.napari.layers.keeper import keeper_of
from napari_bloodcell.napari.layers.selection import select_cells, selected_cells
from napari_bloodcell.napari.layers.session import CellsSession

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from napari.components import ViewerModel
    from napari.layers import Labels
    from napari.utils.events import Event
    from numpy.typing import NDArray

    from napari_bloodcell.core.protocols import CellMask
    from napari_bloodcell.corrections.edits import Point


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
        if BOX[0] not in features.columns:
            return self._rows_of([])
        y0, x0, y1, x1 = boxes_of(features).T
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


@dataclass(frozen=True, eq=False)
class Stroke:
    """What a stroke changed in one plane.

    Attributes
    ----------
    plane : tuple of int
        Position in the axes before the last two.
    corner : tuple of int
        (y, x) of the patch, pixels.
    before, after : ndarray of int32, shape (h, w)
        Labels of the patch.
    """

    plane: tuple[int, ...]
    corner: tuple[int, int]
    before: NDArray[np.int32]
    after: NDArray[np.int32]

    @property
    def window(self) -> tuple[int | slice, ...]:
        """Where the patch lies in the label image."""
        return (*self.plane, *(slice(c, c + n) for c, n in zip(self.corner, self.before.shape, strict=True)))


def strokes_of(cells: NDArray[np.integer[Any]], atoms: Sequence[Any]) -> list[Stroke]:
    """Return what the history atoms of a paint event changed in a label image, one stroke per plane.

    napari emits the event before it writes a single stroke, and after it has written those of a drag: neither `before`
    nor `after` can be read from the image, but both follow from the atoms.
    """
    boxes = [_box_of(atom, cells.shape) for atom in atoms]
    low = np.min([box[0] for box in boxes], axis=0)
    high = np.max([box[1] for box in boxes], axis=0)
    before = np.array(cells[tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))], np.int32)
    for atom in reversed(atoms):
        _write(before, atom, low, cells.shape, is_undoing=True)
    after = before.copy()
    for atom in atoms:
        _write(after, atom, low, cells.shape, is_undoing=False)
    first = tuple(int(a) for a in low)
    return [
        Stroke(
            tuple(p + a for p, a in zip(plane, first, strict=False)),
            (first[-2], first[-1]),
            before[plane],
            after[plane],
        )
        for plane in np.ndindex(before.shape[:-2])
        if np.any(before[plane] != after[plane])
    ]


def _write(
    patch: NDArray[np.int32], atom: Any, low: NDArray[np.intp], shape: tuple[int, ...], *, is_undoing: bool
) -> None:
    """Write an atom's old or new labels into a patch whose first pixel is `low`: a box with a mask, or indices."""
    if not hasattr(atom, "slice_key"):
        patch[tuple(np.asarray(i) - a for i, a in zip(atom[0], low, strict=True))] = atom[1] if is_undoing else atom[2]
        return
    inner = patch[tuple(slice(s.start - a, s.stop - a) for s, a in zip(_slices(atom, shape), low, strict=True))]
    mask = np.ones(inner.shape, bool) if atom.mask is None else np.reshape(atom.mask, inner.shape)
    inner[mask] = np.ravel(atom.old_values) if is_undoing else atom.new_value


def _slices(atom: Any, shape: tuple[int, ...]) -> list[slice]:
    keys = [k if isinstance(k, slice) else slice(int(k), int(k) + 1) for k in atom.slice_key]
    return [slice(*k.indices(n)[:2]) for k, n in zip(keys, shape, strict=True)]


def _box_of(atom: Any, shape: tuple[int, ...]) -> tuple[list[int], list[int]]:
    if hasattr(atom, "slice_key"):
        slices = _slices(atom, shape)
        return [s.start for s in slices], [s.stop for s in slices]
    return [int(np.min(i)) for i in atom[0]], [int(np.max(i)) + 1 for i in atom[0]]
