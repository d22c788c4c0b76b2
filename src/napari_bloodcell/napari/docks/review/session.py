"""The review of one cells layer: types and classes are changed, and taken back without limit. No window is needed."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from napari.utils.events import EmitterGroup

from napari_bloodcell.core.cells import BUILTIN_TYPES, UNIDENTIFIED, USER_COLOURS, type_names
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers.features import FEW, INDEX, rows_of
from napari_bloodcell.napari.layers.session import CellsSession

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from napari.components import ViewerModel
    from napari.layers import Labels
    from numpy.typing import NDArray
    from qtpy.QtCore import QObject

    from napari_bloodcell.corrections.correction import Correction


_SESSION: Final = "napari_bloodcell_review"


class ReviewSession(CellsSession):
    """Changes types and classes of a layer.

    `events.typed` is emitted after each change of types, value a `Step`; `events.undone` and `events.redone` after it
    was taken back or done again; `events.classes` when the classes are others.
    """

    def __init__(self, viewer: ViewerModel, cells_layer: Labels) -> None:
        super().__init__(viewer, cells_layer)
        self.done: list[Step] = []
        self.undone: list[Step] = []
        self.looked_at: set[int] = set()
        self.model_said: dict[int, tuple[str, float | None]] = {}
        """Type and probability that the model gave to cells which a person typed since."""
        self.journal: QObject | None = None
        """Where this review is written to, while it is."""
        self.is_changing = False
        """True while the session itself writes to the table."""
        self.events = EmitterGroup(source=self, typed=None, undone=None, redone=None, classes=None)

    @property
    def classes(self) -> ClassList:
        """The classes as they are now."""
        return ClassList.of(self.layer)

    def numbers(self) -> dict[str, int]:
        """Return how many cells each class has: 2 ms for a million."""
        numbers = np.bincount(layers.lookup_of(self.layer).codes, minlength=256)
        return {name: int(numbers[code]) for code, name in enumerate(self.classes.names, start=1)}

    def type_cells(self, ids: Sequence[int] | NDArray[np.integer[Any]], cell_type: str) -> int:
        """Say of what type cells are, as a person; return how many that are.

        Cells that have the type already are confirmed: they are a person's decision from then on.

        Raises
        ------
        InputError
            If there is no such class, or the layer has no table.
        """
        wanted = self._known(ids)
        if cell_type not in self.classes.names:
            raise InputError(f"There is no class {cell_type!r}; there are {', '.join(self.classes.names)}.")
        if not len(wanted):
            return 0
        n = len(wanted)
        after = CellTypes(np.full(n, cell_type, object), np.ones(n), np.full(n, "user", object))
        one = f"cell {wanted[0]}" if n == 1 else f"{n:,} cells"
        self._do(Step(f"{one}: {cell_type}", wanted, types_of(self.layer.features, wanted), after))
        return n

    def add_class(self, name: str, colour: str | None = None) -> None:
        """Add a class; see `ClassList.add`, also for what it raises."""
        self._change_classes(f"new class {name}", self.classes.add(name, colour))

    def rename_class(self, old: str, new: str) -> None:
        """Rename a class of the user, its cells with it."""
        classes = self.classes.rename(old, new)
        name = next(n for n in classes.names if n not in self.classes.names)
        self._change_classes(f"class {old} is {name}", classes, of_class=old, to=name, renamed={old: name})

    def recolour_class(self, name: str, colour: str) -> None:
        """Give a class another colour."""
        self._change_classes(f"another colour of {name}", self.classes.recolour(name, colour))

    def delete_class(self, name: str, *, into: str = UNIDENTIFIED) -> None:
        """Delete a class of the user; its cells go into another one."""
        classes = self.classes.delete(name)
        if into not in classes.names:
            raise InputError(f"There is no class {into!r} for the cells of {name!r}.")
        self._change_classes(f"class {name} deleted", classes, of_class=name, to=into)

    def undo(self) -> Step:
        """Take the last change back and return it.

        Raises
        ------
        InputError
            If there is none.
        """
        if not self.done:
            raise InputError("There is no change of types left to undo.")
        step = self.done.pop()
        self.undone.append(step)
        if step.classes is not None:
            back = {new: old for old, new in (step.renamed or {}).items()}
            self._show_classes(step.classes[0], back)
        self._put(step.ids, step.before)
        self.events.undone(value=step)
        return step

    def redo(self) -> Step:
        """Do again what was undone last, and return it.

        Raises
        ------
        InputError
            If there is nothing.
        """
        if not self.undone:
            raise InputError("There is no undone change of types to do again.")
        step = self.undone.pop()
        self.done.append(step)
        self._apply(step)
        self.events.redone(value=step)
        return step

    def restore(self, types: Mapping[int, str]) -> int:
        """Bring back what a person said of cells earlier, where nothing newer was said; return of how many."""
        ids = self._known(list(types))
        now = types_of(self.layer.features, ids)
        ids = ids[now.sources != "user"]
        if not len(ids):
            return 0
        wanted = [types[int(i)] for i in ids]
        classes = self.classes
        for name in dict.fromkeys(wanted):
            if name not in classes.names:
                classes = classes.add(name)
        if classes != self.classes:
            self._show_classes(classes)
        self._write(ids, wanted)
        return len(ids)

    def _change_classes(
        self,
        what: str,
        classes: ClassList,
        *,
        of_class: str | None = None,
        to: str = "",
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        """Take other classes; cells of one class go into another."""
        features = self.layer.features
        ids = np.empty(0, np.int64)
        if of_class is not None and "cell_type" in features.columns:
            ids = features[INDEX].to_numpy(np.int64)[(features["cell_type"] == of_class).to_numpy(bool)]
        before = types_of(self.layer.features, ids)
        after = CellTypes(np.full(len(ids), to, object), before.probabilities, before.sources)
        self._do(Step(what, ids, before, after, (self.classes, classes), renamed))

    def _do(self, step: Step) -> None:
        self._apply(step)
        self.done.append(step)
        self.undone.clear()
        self.events.typed(value=step)

    def _apply(self, step: Step) -> None:
        if step.classes is not None:
            self._show_classes(step.classes[1], step.renamed)
        self._put(step.ids, step.after)

    def _show_classes(self, classes: ClassList, renamed: Mapping[str, str] | None = None) -> None:
        show_classes(self.viewer, self.layer, classes, renamed)
        self.events.classes()

    def _put(self, ids: NDArray[np.int64], cells: CellTypes) -> None:
        """Write types; cells that were deleted since are passed over, types of classes deleted since are none."""
        self.looked_at.update(ids.tolist())
        known = {*self.classes.names, ""}
        types = [t if t in known else "" for t in cells.types]
        self._write(ids, types, probability=cells.probabilities, source=cells.sources)

    def _write(self, ids: NDArray[np.int64], types: Sequence[str], **values: Any) -> None:
        """Write types; of a few napari's list of layers, which would be drawn anew at each event, hears nothing."""
        self.is_changing = True
        try:
            with self.viewer.layers.events.blocker() if len(ids) <= FEW else nullcontext():
                layers.set_types(self.layer, ids, types, **values)
        finally:
            self.is_changing = False

    def _known(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return the ids that are in the table."""
        features = self.layer.features
        if INDEX not in features.columns:
            raise InputError(f"The layer {self.layer.name!r} has no table of cells. Segment the image first.")
        wanted = np.unique(np.asarray(ids, np.int64))
        return np.asarray(features[INDEX].to_numpy(np.int64)[rows_of(features, wanted)], np.int64)


def review_session(viewer: ViewerModel, cells_layer: Labels) -> ReviewSession:
    """Return the review of a cells layer; it lives as long as the layer, and so does what can be undone.

    As long as nothing was done in it, it takes over the classes that the user made in other images of the viewer.

    Raises
    ------
    InputError
        If this is not a layer of cells with their table.
    """
    name = getattr(cells_layer, "name", None)
    if not layers.is_cells(cells_layer):
        raise InputError(f"The layer {name!r} holds no cells. Segment the image first.")
    if INDEX not in cells_layer.features.columns or "cell_type" not in cells_layer.features.columns:
        raise InputError(f"The layer {name!r} has no table of cells. Segment the image first.")
    session = cells_layer.metadata.get(_SESSION)
    if not isinstance(session, ReviewSession) or not session.is_of(viewer, cells_layer):
        session = cells_layer.metadata[_SESSION] = ReviewSession(viewer, cells_layer)
    if not session.done and not session.undone:
        classes = with_those_of_others(viewer, cells_layer)
        if classes != session.classes:
            show_classes(viewer, cells_layer, classes)
    return session


MOST_CLASSES: Final = 254
"""The typed layer has one byte for a pixel; 0 is the background."""


@dataclass(frozen=True)
class ClassList:
    """Names of all classes, code of a class = position plus 1, and the colours that the user chose.

    Attributes
    ----------
    names : tuple of str
        The program's own first, then the user's, "unidentified" last.
    colours : dict of str to str
        "#rrggbb" by name; those that are not here have their usual colour.
    """

    names: tuple[str, ...]
    colours: Mapping[str, str]

    @classmethod
    def of(cls, cells_layer: Labels) -> Self:
        """Return the classes of a cells layer."""
        return cls(tuple(layers.names_of(cells_layer)), dict(layers.colours_of(cells_layer)))

    def add(self, name: str, colour: str | None = None) -> ClassList:
        """Return the list with one class more.

        Raises
        ------
        InputError
            If the name is empty or taken, the colour is none, or there are too many classes.
        """
        name = self._checked(name)
        if len(self.names) >= MOST_CLASSES:
            raise InputError(f"There are {len(self.names)} classes; no more than {MOST_CLASSES} can be told apart.")
        names = tuple(type_names([*self.names, name]))
        used = set(self.colours.values())
        fresh = next((c for c in USER_COLOURS if c not in used), USER_COLOURS[len(names) % len(USER_COLOURS)])
        return ClassList(names, {**self.colours, name: _checked_colour(colour or fresh)})

    def rename(self, old: str, new: str) -> ClassList:
        """Return the list with another name for a class of the user; errors as for `add`, and of `check_is_own`."""
        self.check_is_own(old, "renamed")
        new = self._checked(new)
        colours = {new if name == old else name: colour for name, colour in self.colours.items()}
        return ClassList(tuple(new if name == old else name for name in self.names), colours)

    def recolour(self, name: str, colour: str) -> ClassList:
        """Return the list with another colour for a class."""
        if name not in self.names:
            raise InputError(f"There is no class {name!r}; there are {', '.join(self.names)}.")
        return replace(self, colours={**self.colours, name: _checked_colour(colour)})

    def delete(self, name: str) -> ClassList:
        """Return the list without a class of the user."""
        self.check_is_own(name, "deleted")
        colours = {n: c for n, c in self.colours.items() if n != name}
        return ClassList(tuple(n for n in self.names if n != name), colours)

    def check_is_own(self, name: str, what: str) -> None:
        """Raise `InputError` if a class is not one of the user's: counting needs the others by their names."""
        if name in BUILTIN_TYPES or name == UNIDENTIFIED:
            raise InputError(f"{name} is a class of the program, which counts by it: it cannot be {what}.")
        if name not in self.names:
            raise InputError(f"There is no class {name!r}; there are {', '.join(self.names)}.")

    def _checked(self, name: str) -> str:
        name = " ".join(name.split())
        if not name or len(name) > 60 or any(c in '/\\:*?"<>|' for c in name) or name.startswith("."):
            raise InputError(f'{name!r} is no name of a class: give up to 60 letters, without / \\ : * ? " < > |.')
        if name.lower() in {known.lower() for known in self.names}:
            raise InputError(f"There is a class {name!r} already; give another name.")
        return name

    def keys(self) -> dict[str, str]:
        """Return which key stands for which class: 1–9 in their order, and first letters, else another letter."""
        keys: dict[str, str] = {str(i): name for i, name in enumerate(self.names[:9], start=1)}
        late = []
        for name in self.names:
            first = name[0].upper()
            if first.isascii() and first.isalpha() and first not in keys:
                keys[first] = name
            else:
                late.append(name)
        for name in late:
            free = (c for c in name.upper() if c.isascii() and c.isalpha() and c not in keys)
            letter = next(free, None)
            if letter is not None:
                keys[letter] = name
        return keys


def with_those_of_others(viewer: ViewerModel, cells_layer: Labels) -> ClassList:
    """Return the classes of a cells layer with those that the user made in other images of the viewer."""
    classes = ClassList.of(cells_layer)
    for other in (layer for layer in viewer.layers if layers.is_cells(layer) and layer is not cells_layer):
        theirs = ClassList.of(other)
        for name in theirs.names:
            if name.lower() not in {known.lower() for known in classes.names} and len(classes.names) < MOST_CLASSES:
                classes = classes.add(name, theirs.colours.get(name))
    return classes


def show_classes(
    viewer: ViewerModel, cells_layer: Labels, classes: ClassList, renamed: Mapping[str, str] | None = None
) -> None:
    """Give a cells layer these classes; cells keep theirs, also where a class has another code now.

    `renamed` says under which new name an old class goes on. Cells of a class that is gone have no code any more.
    """
    old = layers.names_of(cells_layer)
    info = layers.info_of(cells_layer)
    info["names"], info["colours"] = list(classes.names), dict(classes.colours)
    codes = {name: code for code, name in enumerate(classes.names, start=1)}
    mapping = np.zeros(256, np.uint8)
    for code, name in enumerate(old, start=1):
        mapping[code] = codes.get((renamed or {}).get(name, name), 0)
    lookup = layers.lookup_of(cells_layer)
    types = layers.types_layer_for(viewer, cells_layer)
    if types is not None:
        types.colormap = layers.type_colormap(classes.names, classes.colours)
        types.metadata[layers.KEY]["names"] = list(classes.names)
    if not np.array_equal(mapping[: len(old) + 1], np.arange(len(old) + 1)):
        lookup.replace(mapping[lookup.codes[:-1]])


def _checked_colour(colour: str) -> str:
    if len(colour) != 7 or colour[0] != "#" or any(c not in "0123456789abcdefABCDEF" for c in colour[1:]):
        raise InputError(f"{colour!r} is no colour; give one as #rrggbb.")
    return colour.lower()


def key_of(name: str, keys: Mapping[str, str]) -> str:
    """Return the keys of a class, as people read them: "R or 1"."""
    mine: Sequence[str] = sorted((k for k, n in keys.items() if n == name), key=str.isdigit)
    return " or ".join(mine)


@dataclass(frozen=True, slots=True, eq=False)
class CellTypes:
    """Types of some cells with their probabilities and who said so; each of shape (N,)."""

    types: NDArray[np.object_]
    probabilities: NDArray[np.float64]
    sources: NDArray[np.object_]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One change that can be taken back.

    Attributes
    ----------
    what : str
        What was done, for people.
    ids : ndarray of int64, shape (N,)
        Cells whose type changed.
    before, after : CellTypes
        Their types.
    classes : tuple of ClassList, optional
        Classes before and after, where they changed.
    renamed : dict of str to str
        New names of classes by old ones.
    written : list of Correction
        What the journal last wrote of it.
    """

    what: str
    ids: NDArray[np.int64]
    before: CellTypes
    after: CellTypes
    classes: tuple[ClassList, ClassList] | None = None
    renamed: Mapping[str, str] | None = None
    written: list[Correction] = field(default_factory=list)


def types_of(features: pd.DataFrame, ids: NDArray[np.int64]) -> CellTypes:
    """Return the types of cells, all of which are in the table."""
    rows = rows_of(features, ids)

    def text(column: str) -> NDArray[np.object_]:
        values = features[column].iloc[rows].to_numpy(object)
        return np.array([v if isinstance(v, str) else "" for v in values], object)

    return CellTypes(text("cell_type"), features["probability"].to_numpy(np.float64)[rows], text("type_source"))
