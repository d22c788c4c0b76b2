"""One history of everything people do with the cells of a layer: types, classes, outlines and runs. No window."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from copy import deepcopy
from dataclasses import replace
from typing import Any, Self
from weakref import ref

import numpy as np
import pandas as pd
from napari.components import ViewerModel
from napari.layers import Labels
from napari.utils.events import EmitterGroup, Event
from napari.utils.notifications import show_warning
from numpy.typing import NDArray

from napari_bloodcell.core.cells import UNIDENTIFIED, split_name
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.protocols import CellMask
from napari_bloodcell.corrections import edits
from napari_bloodcell.corrections.cell_types import CellTypes
from napari_bloodcell.corrections.edits import Edit
from napari_bloodcell.corrections.history import History
from napari_bloodcell.corrections.journal import standing
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.features import FEW, INDEX, PLANE, cells_near, cells_outside, rows_of, to_table
from napari_bloodcell.napari.layers.images import current_plane, plane_number, visible_box
from napari_bloodcell.napari.layers.keeper import keeper_of
from napari_bloodcell.napari.layers.look import cell_at, kind_code
from napari_bloodcell.napari.layers.selection import point_out, pointed_out, select_cells, selected_cells
from napari_bloodcell.napari.session.changes import (
    NONE,
    Change,
    OutlineChange,
    RunChange,
    Snapshot,
    TypeChange,
    some,
    types_of,
)
from napari_bloodcell.napari.session.classes import ClassList, show_classes
from napari_bloodcell.napari.session.journal import (
    Found,
    LayerJournal,
    SecondOpinion,
    decisions_of,
    notify_if_failed,
    when_done,
)
from napari_bloodcell.napari.session.strokes import strokes_of

Point = tuple[float, float]
Ids = Sequence[int] | NDArray[np.integer[Any]]


class CellsSession:
    """Changes the cells of a layer, with undo.

    `events.done`, `undone` and `redone` follow each change, with the change as value; `classes` when the classes
    changed, `selection` when other cells are selected or pointed out. Holds neither layer nor viewer alive.
    """

    def __init__(self, viewer: ViewerModel, cells_layer: Labels) -> None:
        self._viewer, self._layer = ref(viewer), ref(cells_layer)
        self.history: History[Change] = History()
        self.journal = LayerJournal(viewer, cells_layer)
        self.n_corrections = 0  # valid ones of this image, as far as the journal was read
        self.by_hand: frozenset[int] = frozenset()  # cells that a person outlined
        self.looked_at: set[int] = set()
        self.doubted = NONE  # cells that the model doubts, or did before a person typed them
        self.is_changing = False  # true while the session itself writes to the table
        self.busy = ""  # while a run works: "found" locks cells against any change, "typed" against new outlines
        self._model_opinions: dict[int, tuple[str, float | None]] = {}
        self._mouse_was: tuple[float, ...] = ()
        self._writing: list[Future[Any]] = []
        self._n_written = 0
        self.events = EmitterGroup(source=self, done=None, undone=None, redone=None, classes=None, selection=None)
        cells_layer.events.paint.connect(self._on_paint)

    def is_of(self, viewer: ViewerModel, cells_layer: Labels) -> bool:
        """Return whether this session belongs to that layer in that viewer."""
        return self._layer() is cells_layer and self._viewer() is viewer

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return itself; `cells_session` makes a new one for a duplicated layer."""
        return self

    @property
    def layer(self) -> Labels:
        """The cells layer."""
        layer = self._layer()
        if layer is None:
            raise InputError("The layer of these cells is gone.")
        return layer

    @property
    def viewer(self) -> ViewerModel:
        """The viewer."""
        viewer = self._viewer()
        if viewer is None:
            raise InputError("The window of these cells is closed.")
        return viewer

    @property
    def classes(self) -> ClassList:
        """The current classes."""
        return ClassList.of(self.layer)

    @property
    def plane(self) -> tuple[int, ...]:
        """The plane that the sliders show."""
        return current_plane(self.viewer, self.layer)

    @property
    def next_id(self) -> int:
        """The next free id."""
        return int(self.layer.features[INDEX].max()) + 1 if INDEX in self.layer.features.columns else 1

    def numbers(self) -> dict[str, int]:
        """Return the number of cells of each class, and of each kind that has some: 4 ms for a million cells."""
        lookup, classes = layers.lookup_of(self.layer), self.classes
        of_types, of_kinds = (np.bincount(codes, minlength=256) for codes in (lookup.codes, lookup.kinds))
        numbers = {name: int(of_types[code]) for code, name in enumerate(classes.names, start=1)}
        return numbers | {name: n for k, name in enumerate(classes.kinds) if (n := int(of_kinds[kind_code(k)]))}

    # --- which cells are meant --------------------------------------------------------------------------------------

    @property
    def selected(self) -> NDArray[np.int64]:
        """Sorted ids of the selected cells."""
        return selected_cells(self.viewer, self.layer)

    def select(self, ids: Ids) -> None:
        """Select exactly these cells."""
        select_cells(self.viewer, self.layer, ids)
        self.events.selection()

    def toggle(self, cell: int) -> None:
        """Add a cell to the selection, or remove it."""
        self.select(np.setxor1d(self.selected, [cell]))

    def point_out(self, cell: int) -> None:
        """Outline a cell; keys act on it until the mouse moves."""
        point_out(self.viewer, self.layer, [cell])
        self._mouse_was = tuple(self.viewer.cursor.position)
        self.events.selection()

    @property
    def meant(self) -> NDArray[np.int64]:
        """Ids of cells that a key acts on: selected, else pointed out (until the mouse moves), else under the mouse."""
        selected = self.selected
        if len(selected):
            return selected
        position = tuple(self.viewer.cursor.position)
        if self._mouse_was and position == self._mouse_was:
            return pointed_out(self.viewer, self.layer)
        cell = cell_at(self.layer, position)
        return np.array([cell], np.int64) if cell else NONE

    def out_of_view(self, ids: Ids) -> NDArray[np.int64]:
        """Return those of `ids` that the window does not show."""
        layer = self.layer
        box = visible_box(layer)
        hidden = cells_outside(layer.features, ids, box) if box is not None else NONE
        stack = self._cells.shape[:-2]
        if stack and PLANE in layer.features.columns:
            rows = rows_of(layer.features, ids)
            elsewhere = layer.features[PLANE].to_numpy()[rows] != plane_number(self.plane, stack)
            hidden = np.union1d(hidden, layer.features[INDEX].to_numpy(np.int64)[rows[elsewhere]])
        return hidden

    # --- types and classes -------------------------------------------------------------------------------------------

    def type_cells(self, ids: Ids, cell_type: str, *, annotator: str | None = None) -> int:
        """Type cells as a person, by class or by kind ("WBC: neutrophil"), and return how many.

        Cells that already have the type are confirmed: from now on it is a person's decision.
        """
        wanted = self._known(ids)
        self.classes.check(cell_type)
        if not len(wanted):
            return 0
        after = types_of(self.layer.features, wanted).called([cell_type] * len(wanted))
        return self._decide(f"typed {some(wanted)} as {cell_type}", wanted, after, annotator)

    def mark_abnormal(self, ids: Ids, *, annotator: str | None = None) -> int:
        """Mark cells as abnormal, or take the mark away if all have it; return how many."""
        wanted = self._known(ids)
        if not len(wanted):
            return 0
        before = types_of(self.layer.features, wanted)
        is_marked = bool(before.is_abnormal.all())
        after = replace(before, is_abnormal=np.full(len(wanted), not is_marked))
        what = f"{'unmarked' if is_marked else 'marked'} {some(wanted)} as abnormal"
        return self._decide(what, wanted, after, annotator)

    def _decide(self, what: str, ids: NDArray[np.int64], after: CellTypes, annotator: str | None) -> int:
        """Do what a person decided about cells, and write it to the journal; return how many cells."""
        change = TypeChange(what, ids, types_of(self.layer.features, ids), after, selected=self._used(ids))
        self._do(change, before_told=lambda: self._note(change, annotator or self.journal.annotator))
        return len(ids)

    def add_class(self, name: str, colour: str | None = None) -> None:
        """Add a class; raises as `ClassList.add`."""
        self._change_classes(f"added class {name}", self.classes.add(name, colour))

    def add_kind(self, cell_type: str, kind: str) -> None:
        """Add a kind of RBC, WBC or platelet; raises as `ClassList.add_kind`."""
        self._change_classes(f"added {kind} as a kind of {cell_type}", self.classes.add_kind(cell_type, kind))

    def rename_class(self, old: str, new: str) -> None:
        """Rename a class of the user, and retype its cells."""
        classes = self.classes.rename(old, new)
        name = next(n for n in classes.names if n not in self.classes.names)
        self._change_classes(f"renamed class {old} to {name}", classes, of_class=old, to=name, renamed={old: name})

    def recolour_class(self, name: str, colour: str) -> None:
        """Change the colour of a class."""
        self._change_classes(f"recoloured class {name}", self.classes.recolour(name, colour))

    def delete_class(self, name: str, *, into: str = UNIDENTIFIED) -> None:
        """Delete a class of the user, and move its cells into another."""
        classes = self.classes.delete(name)
        if into not in classes.names:
            raise InputError(f"There is no class {into!r} for the cells of {name!r}.")
        self._change_classes(f"deleted class {name}", classes, of_class=name, to=into)

    # --- outlines ----------------------------------------------------------------------------------------------------

    def add(
        self,
        mask: CellMask,
        *,
        plane: tuple[int, ...] | None = None,
        may_replace: Collection[int] | None = None,
        **values: object,
    ) -> int:
        """Add a cell and return its id; raises as `edits.add_cell`."""
        plane = self.plane if plane is None else plane
        stack = self._cells.shape[:-2]
        near = cells_near(self.layer.features, mask.bbox, plane=plane_number(plane, stack) if stack else None)
        rows = self._rows_of(near)
        edit = edits.add_cell(self._cells, rows, mask, plane=plane, values=values, may_replace=may_replace)
        self._do(OutlineChange(edit, self.by_hand))
        return int(edit.added.index.max())

    def delete(self, ids: Ids) -> None:
        """Delete cells; raises as `edits.delete_cells`."""
        wanted = [int(i) for i in ids]
        edit = edits.delete_cells(self._cells, self._rows_of(wanted), wanted, plane=self.plane)
        self._do(OutlineChange(edit, self.by_hand, self._used(wanted)))

    def split(self, cell: int, *, line: tuple[Point, Point] | None = None) -> None:
        """Split a cell at its waist, or along a line in pixels of the layer; raises as `edits.split_cell`."""
        edit = edits.split_cell(self._cells, self._rows_of([cell]), cell, line=line, plane=self._plane_of([cell]))
        self._do(OutlineChange(edit, self.by_hand, self._used([cell])))

    def merge(self, ids: Ids) -> None:
        """Merge several cells into one; raises as `edits.merge_cells`."""
        wanted = [int(i) for i in ids]
        edit = edits.merge_cells(self._cells, self._rows_of(wanted), wanted, plane=self._plane_of(wanted))
        self._do(OutlineChange(edit, self.by_hand, self._used(wanted)))

    def take_stroke(
        self, before: NDArray[np.int32], after: NDArray[np.int32], corner: tuple[int, int], plane: tuple[int, ...] = ()
    ) -> None:
        """Enter a painted patch (h, w), at `corner` (y, x) of a plane, into cells, table and history."""
        box = (*corner, corner[0] + before.shape[0], corner[1] + before.shape[1])
        self._cells[edits.window_of(plane, box)] = after
        changed = before != after
        ids = [int(i) for i in np.union1d(before[changed], after[changed])]
        edit = edits.repaint(self._cells, self._rows_of(ids), before, corner, plane=plane)
        change = OutlineChange(edit, self.by_hand)
        self._show(edit)
        self._remember(change)

    # --- runs --------------------------------------------------------------------------------------------------------

    def snapshot(self, *, with_cells: bool) -> Snapshot:
        """Return a copy of what the layer holds now."""
        layer = self.layer
        cells = np.array(self._cells, np.int32) if with_cells else None
        return Snapshot(cells, layer.features.copy(), deepcopy(links.info_of(layer)), self.by_hand)

    def remember_run(self, what: str, before: Snapshot, kept: Collection[int] = ()) -> None:
        """Record a run that changed the layer as one undo step; it left the cells `kept` alone."""
        self.by_hand &= frozenset(kept)
        self.doubted = NONE
        self._remember(RunChange(what, before))

    # --- undo --------------------------------------------------------------------------------------------------------

    def undo(self) -> Change:
        """Undo the last change and return it; raises as `History.undo`."""
        self._check_may(self.history.done[-1] if self.history.done else None)
        change = self.history.undo(self._take_back)
        if len(change.selected):
            self.select(change.selected)
        self.events.undone(value=change)
        return change

    def redo(self) -> Change:
        """Redo the change that was undone last and return it; raises as `History.redo`."""
        self._check_may(self.history.undone[-1] if self.history.undone else None)
        change = self.history.redo(self._do_again)
        if len(change.selected):
            self.select(NONE)
        self.events.redone(value=change)
        return change

    def _do(self, change: TypeChange | OutlineChange, before_told: Callable[[], None] = lambda: None) -> None:
        self._check_may(change)
        self._apply(change)
        before_told()
        self._remember(change)

    def _remember(self, change: Change) -> None:
        self.history.add(change)
        if len(change.selected):  # using a selection ends it
            self.select(NONE)
        self.events.done(value=change)

    def _apply(self, change: TypeChange | OutlineChange) -> None:
        if isinstance(change, OutlineChange):
            change.edit.apply(self._cells, self._rows_of([]))
            self._show(change.edit)
            return
        if change.classes is not None:
            self._show_classes(change.classes[1], change.renamed)
        self._put(change.ids, change.after)

    def _do_again(self, change: Change) -> None:
        if isinstance(change, RunChange):
            self._swap(change)
            return
        self._apply(change)
        self._take_back_in_journal(change, 1)

    def _take_back(self, change: Change) -> None:
        if isinstance(change, RunChange):
            self._swap(change)
        elif isinstance(change, OutlineChange):
            edit = change.edit.reversed()
            edit.apply(self._cells, self._rows_of([]))
            self._show(edit)
            self.by_hand = change.by_hand
        else:
            if change.classes is not None:
                self._show_classes(change.classes[0], {new: old for old, new in (change.renamed or {}).items()})
            self._put(change.ids, change.before)
            self._take_back_in_journal(change, -1)

    def _check_may(self, change: Change | None) -> None:
        """Raise `InputError` if a run is working on what the change affects."""
        if self.busy == "found" or (self.busy and not isinstance(change, TypeChange)):
            raise InputError(f"The cells of this image are being {self.busy}: wait for that, or press Cancel.")

    def _used(self, ids: Ids) -> NDArray[np.int64]:
        """Return the selection if all of it is about to be used, else no cells."""
        selected = self.selected
        return selected if np.isin(selected, ids).all() else NONE

    def _swap(self, run: RunChange) -> None:
        """Exchange the contents of the layer with the snapshot of a run."""
        layer, other = self.layer, run.other
        if other.cells is not None and other.cells.shape != self._cells.shape:
            raise InputError(f"The layer has a different shape now: {run.what!r} cannot be undone or done again.")
        run.other = self.snapshot(with_cells=other.cells is not None)
        if other.cells is not None:
            self._cells[...] = other.cells
        info = links.info_of(layer)
        info.clear()
        info.update(other.info)
        self.by_hand = other.by_hand
        layers.set_features(layer, other.features)
        show_classes(self.viewer, layer, self.classes)
        layers.refresh_cells(layer)
        self.events.classes()

    # --- the journal -------------------------------------------------------------------------------------------------

    def correct(self, types: Mapping[int, str], *, annotator: str | None = None) -> int:
        """Type cells, adding missing classes, and return how many; everything is on disk when it returns."""
        if not self.journal.has_image:
            raise InputError(f"The image of {self.layer.name!r} is not in the viewer: corrections are kept with it.")
        ids: dict[str, list[int]] = {}
        for cell, name in types.items():
            ids.setdefault(name, []).append(int(cell))
        for name in {split_name(name)[0]: 0 for name in ids}:
            if name not in self.classes.names:
                self.add_class(name)
        self._have_classes(list(ids))
        n = sum(self.type_cells(cells, name, annotator=annotator) for name, cells in ids.items())
        self.flush()
        return n

    def put_back(self) -> tuple[Found, int]:
        """Restore earlier corrections; return what the journal holds, and how many cells were retyped."""
        found = self.journal.look_up().result()
        return found, self._put_back(found)

    def put_back_soon(self, then: Callable[[Found, int], object]) -> None:
        """Restore earlier corrections once the journal is read, then call `then` with what `put_back` returns."""
        find, n_written = ref(self), self._n_written

        def restore(found: Found) -> None:
            session = find()
            if session is not None and session._n_written != n_written:
                session.put_back_soon(then)  # `found` is stale: it may hold a correction that was undone since
            elif session is not None:
                with suppress(InputError):  # the layer may be gone
                    then(found, session._put_back(found))

        if self.journal.has_image:
            when_done(self.journal.look_up(), restore)

    def take_over(self, opinion: SecondOpinion) -> int:
        """Adopt another person's corrections of cells that nobody here typed, as one undo step; return how many."""
        self._check_may(None)
        stand = standing(opinion.taken)
        if not stand:
            return 0
        ids = self._known(list(opinion.said))
        ids = ids[types_of(self.layer.features, ids).sources != "user"]
        said, before, n = [opinion.said[int(i)] for i in ids], types_of(self.layer.features, ids), len(stand)
        names, marks = [one.said for one in said], np.array([one.to_abnormal for one in said], np.bool_)
        self._have_classes(names)
        after = before.restored(names, before.is_abnormal | marks)
        change = TypeChange(f"took over {n:,} correction{'' if n == 1 else 's'}", ids, before, after)
        change.written.extend(stand)
        change.n_corrections_made = n
        self.n_corrections += n
        self._write(self.journal.take_over(opinion.taken))
        self._do(change)
        return n

    def flush(self) -> None:
        """Block until everything is on disk; raise `OutputError` if it could not be written."""
        writing, self._writing = self._writing, []
        for future in writing:
            future.result()
        keeper = keeper_of(self.layer)
        if keeper is not None:
            keeper.flush()

    def _put_back(self, found: Found) -> int:
        """Retype cells as the journal says, except those that a person has typed since."""
        self.n_corrections = found.n_corrections
        ids = self._known(list(found.types))
        ids = ids[types_of(self.layer.features, ids).sources != "user"]
        wanted = [found.types[int(i)] for i in ids]
        if len(ids):
            self._have_classes(wanted)
            marks = np.array([int(i) in found.abnormal for i in ids])
            self._write_types(ids, types_of(self.layer.features, ids).restored(wanted, marks))
        return len(ids)

    def _have_classes(self, names: Sequence[str]) -> None:
        """Add the classes that are missing."""
        classes = self.classes.having(names)
        if classes != self.classes:
            self._show_classes(classes)

    def _note(self, change: TypeChange, annotator: str) -> None:
        """Write a person's decisions to the journal."""
        if not self.journal.has_image:
            show_warning("The image of these cells is not in the viewer: corrections cannot be kept without it.")
            return
        said = decisions_of(self.layer, change, annotator, self._model_opinions)
        change.n_corrections_made = len(said)
        self.n_corrections += len(said)
        self._write(self.journal.write(change.written, said))

    def _take_back_in_journal(self, change: Change, sign: int) -> None:
        if isinstance(change, TypeChange) and change.n_corrections_made:
            self.n_corrections += sign * change.n_corrections_made
            self._write(self.journal.take_back(change.written))

    def _write(self, future: Future[Any]) -> None:
        future.add_done_callback(notify_if_failed)
        self._writing = [one for one in self._writing if not one.done() or one.exception()]
        self._writing.append(future)
        self._n_written += 1

    # --- the layer ---------------------------------------------------------------------------------------------------

    @property
    def _cells(self) -> NDArray[np.int32]:
        return links.full_resolution(self.layer)

    @property
    def _features(self) -> pd.DataFrame:
        features: pd.DataFrame = self.layer.features
        if INDEX not in features.columns:
            raise InputError(f"The layer {self.layer.name!r} has no table of cells. Segment the image first.")
        return features

    def _change_classes(
        self,
        what: str,
        classes: ClassList,
        *,
        of_class: str | None = None,
        to: str = "",
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        """Replace the classes; the cells of one class move into another."""
        features, ids = self.layer.features, NONE
        if of_class is not None and "cell_type" in features.columns:
            ids = features[INDEX].to_numpy(np.int64)[(features["cell_type"] == of_class).to_numpy(bool)]
        before = types_of(features, ids)
        change = TypeChange(what, ids, before, before.moved_to(to), (self.classes, classes), renamed)
        self._do(change, before_told=lambda: self._note_persons(change))

    def _note_persons(self, change: TypeChange) -> None:
        """Write to the journal how cells that a person typed were moved into another class."""
        mine = change.after.sources == "user"
        if mine.any():
            before, after = change.before.take(mine), change.after.take(mine)
            part = TypeChange(change.what, change.ids[mine], before, after, written=change.written)
            self._note(part, self.journal.annotator)
            change.n_corrections_made = part.n_corrections_made

    def _show_classes(self, classes: ClassList, renamed: Mapping[str, str] | None = None) -> None:
        show_classes(self.viewer, self.layer, classes, renamed)
        self.events.classes()

    def _put(self, ids: NDArray[np.int64], cells: CellTypes) -> None:
        """Write types; cells deleted since are skipped, types of deleted classes become ""."""
        self.looked_at.update(ids.tolist())
        known = {*self.classes.names, ""}
        types = np.array([t if t in known else "" for t in cells.types], object)
        self._write_types(ids, replace(cells, types=types))

    def _write_types(self, ids: NDArray[np.int64], cells: CellTypes) -> None:
        """Write types; a few without events of napari's layer list, each of which redraws it."""
        self.is_changing = True
        try:
            with self.viewer.layers.events.blocker() if len(ids) <= FEW else nullcontext():
                columns = cells.columns
                layers.set_types(self.layer, ids, columns.pop("cell_type"), **columns)
        finally:
            self.is_changing = False

    def _show(self, edit: Edit) -> None:
        """Update pyramid levels, features, types and selection after an edit of the pixels."""
        layer = self.layer
        if layer.multiscale:
            for level in layer.data[1:]:
                for patch in edit.patches:
                    patch.write_level(level, self._cells)
        old, new = edit.removed, edit.added
        layers.replace_rows(layer, old, new)
        gone = old.index.difference(new.index)
        selected = self.selected
        if np.isin(selected, gone).any():
            self.select(np.setdiff1d(selected, gone))
        if np.isin(pointed_out(self.viewer, layer), gone).any():
            point_out(self.viewer, layer, [])
        self.by_hand = (self.by_hand - frozenset(gone.tolist())) | frozenset(new.index.tolist())
        keeper = keeper_of(layer)
        if keeper is not None:
            for patch in edit.patches:
                keeper.touch(patch.box)
        layers.refresh_cells(layer)

    def _known(self, ids: Ids) -> NDArray[np.int64]:
        """Return those ids that are in the table."""
        features = self._features
        wanted = np.unique(np.asarray(ids, np.int64))
        return np.asarray(features[INDEX].to_numpy(np.int64)[rows_of(features, wanted)], np.int64)

    def _rows_of(self, ids: Ids) -> pd.DataFrame:
        """Return the table of these cells and of the last one, whose id new ids follow."""
        features = self._features
        rows = np.union1d(rows_of(features, ids) if len(ids) else [], [len(features) - 1]).astype(np.intp)
        return to_table(features.iloc[rows])

    def _plane_of(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Return the plane of the first of these cells; without one, the plane shown."""
        rows = self._rows_of(ids[:1])
        return edits.plane_of(rows, ids[0] if ids else 0, self._cells.shape[:-2], self.plane)

    def _on_paint(self, event: Event) -> None:
        """Enter what was painted with napari's own tools into table and history."""
        if INDEX not in self.layer.features.columns or self.busy:
            return
        for stroke in strokes_of(self._cells, event.value):
            self.take_stroke(stroke.before, stroke.after, stroke.corner, stroke.plane)
