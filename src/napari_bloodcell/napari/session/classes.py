"""The classes of a cells layer: names, colours and keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self

import numpy as np
from napari.components import ViewerModel
from napari.layers import Labels

from napari_bloodcell.core.cells import (
    BUILTIN_TYPES,
    UNIDENTIFIED,
    USER_COLOURS,
    full_name,
    kind_colour,
    kind_names,
    split_name,
    type_names,
)
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.preferences import colour_of, is_colour

EDIT_KEYS: Final = {"D": "delete", "S": "split", "J": "merge", "A": "mark abnormal", "K": "kinds"}
"""Letters that do something else to cells, so no class gets them."""
MOST_CLASSES: Final = 254
"""The types layer has one byte per pixel; 0 is the background."""


@dataclass(frozen=True)
class ClassList:
    """Class names (a class's code is its position plus 1), and the colours that the user chose."""

    names: tuple[str, ...]  # the program's own first, then the user's, "unidentified" last
    colours: Mapping[str, str]  # "#rrggbb" by name; other classes have their default
    kinds: tuple[str, ...] = field(default_factory=lambda: tuple(kind_names()))  # full names, the user's last

    @classmethod
    def of(cls, cells_layer: Labels) -> Self:
        """Return the classes of a cells layer."""
        kinds = tuple(links.kinds_of(cells_layer))
        return cls(tuple(links.names_of(cells_layer)), dict(links.colours_of(cells_layer)), kinds)

    def kinds_of(self, cell_type: str) -> list[str]:
        """Return the full names of the kinds of a type, "unidentified" last; empty if it has none."""
        mine = [name for name in self.kinds if split_name(name)[0] == cell_type]
        unknown = full_name(cell_type, UNIDENTIFIED)
        known = [name for name in mine if name != unknown]
        return [*known, unknown] if cell_type in BUILTIN_TYPES else known

    def check(self, name: str) -> None:
        """Raise `InputError` unless this is a class, or the full name of a kind."""
        cell_type = split_name(name)[0]
        if name not in (*self.names, *self.kinds_of(cell_type)):
            names = self.names if cell_type == name else self.kinds_of(cell_type) or self.names
            raise InputError(f"There is no class {name!r}; there are {', '.join(names)}.")

    def colour_of(self, name: str) -> str:
        """Return the colour of a class or a kind as "#rrggbb"."""
        default = kind_colour(name, self.kinds_of(split_name(name)[0])) if split_name(name)[1] else ""
        return self.colours.get(name) or default or colour_of(name, self.names)

    def add_kind(self, cell_type: str, kind: str) -> ClassList:
        """Return the list with another kind of a type; raises `InputError` as `add`, or if the type has no kinds."""
        if cell_type not in BUILTIN_TYPES:
            raise InputError(f"{cell_type!r} has no kinds; {', '.join(BUILTIN_TYPES)} have.")
        kind = self._checked(kind, [split_name(name)[1] for name in self.kinds_of(cell_type)])
        return replace(self, kinds=(*self.kinds, full_name(cell_type, kind)))

    def add(self, name: str, colour: str | None = None) -> ClassList:
        """Return the list with another class.

        Raises `InputError` if the name is empty or taken, the colour is invalid, or there are too many classes.
        """
        name = self._checked(name)
        if len(self.names) >= MOST_CLASSES:
            raise InputError(f"There are {len(self.names)} classes; no more than {MOST_CLASSES} can be told apart.")
        names = tuple(type_names([*self.names, name]))
        used = set(self.colours.values())
        fresh = next((c for c in USER_COLOURS if c not in used), USER_COLOURS[len(names) % len(USER_COLOURS)])
        return replace(self, names=names, colours={**self.colours, name: _checked_colour(colour or fresh)})

    def having(self, names: Iterable[str]) -> ClassList:
        """Return the list with those of these classes and kinds that are missing."""
        classes = self
        for name in dict.fromkeys(names):
            cell_type, kind = split_name(name)
            if cell_type and cell_type not in classes.names:
                classes = classes.add(cell_type)
            if kind and name not in classes.kinds_of(cell_type):
                classes = classes.add_kind(cell_type, kind)
        return classes

    def rename(self, old: str, new: str) -> ClassList:
        """Return the list with a class of the user renamed; raises as `add` and `check_is_own`."""
        self.check_is_own(old, "renamed")
        new = self._checked(new)
        colours = {new if name == old else name: colour for name, colour in self.colours.items()}
        return replace(self, names=tuple(new if name == old else name for name in self.names), colours=colours)

    def recolour(self, name: str, colour: str) -> ClassList:
        """Return the list with another colour for a class."""
        if name not in (*self.names, *self.kinds):
            raise InputError(f"There is no class {name!r}; there are {', '.join(self.names)}.")
        return replace(self, colours={**self.colours, name: _checked_colour(colour)})

    def delete(self, name: str) -> ClassList:
        """Return the list without a class of the user."""
        self.check_is_own(name, "deleted")
        colours = {n: c for n, c in self.colours.items() if n != name}
        return replace(self, names=tuple(n for n in self.names if n != name), colours=colours)

    def check_is_own(self, name: str, what: str) -> None:
        """Raise `InputError` unless the class is one of the user's; counting needs the others by name."""
        if name in BUILTIN_TYPES or name == UNIDENTIFIED:
            raise InputError(f"{name} is a class of the program, which counts by it: it cannot be {what}.")
        if name not in self.names:
            raise InputError(f"There is no class {name!r}; there are {', '.join(self.names)}.")

    def _checked(self, name: str, known: Sequence[str] | None = None) -> str:
        name = " ".join(name.split())
        if not name or len(name) > 60 or any(c in '/\\:*?"<>|' for c in name) or name.startswith("."):
            raise InputError(f'{name!r} is not a valid class name: give up to 60 letters, without / \\ : * ? " < > |.')
        if name.lower() in {other.lower() for other in (self.names if known is None else known)}:
            raise InputError(f"There is a class {name!r} already; give another name.")
        return name

    def keys(self, of_type: str = "") -> dict[str, str]:
        """Return class by key: digits in order, and the first letter if free, else another letter of the name.

        "unidentified" is 0, so that classes that are added later leave the digits of others alone.

        With `of_type`, the same for the kinds of a type, by full name.
        """
        names = self.kinds_of(of_type) if of_type else list(self.names)
        unknown = full_name(of_type, UNIDENTIFIED) if of_type else UNIDENTIFIED
        digits = zip("0123456789", [unknown, *(name for name in names if name != unknown)], strict=False)
        keys: dict[str, str] = {digit: name for digit, name in digits if name in names}
        late = []
        for name in names:
            first = (split_name(name)[1] or name)[0].upper()
            if first.isascii() and first.isalpha() and first not in keys and first not in EDIT_KEYS:
                keys[first] = name
            else:
                late.append(name)
        for name in late:
            letters = (split_name(name)[1] or name).upper()
            free = (c for c in letters if c.isascii() and c.isalpha() and c not in {*keys, *EDIT_KEYS})
            letter = next(free, None)
            if letter is not None:
                keys[letter] = name
        return keys


def with_classes_of_others(viewer: ViewerModel, cells_layer: Labels) -> ClassList:
    """Return the classes of a cells layer, extended by the user's classes in other images of the viewer."""
    classes = ClassList.of(cells_layer)
    for other in (layer for layer in viewer.layers if links.is_cells(layer) and layer is not cells_layer):
        theirs = ClassList.of(other)
        for name in theirs.names:
            if name.lower() not in {known.lower() for known in classes.names} and len(classes.names) < MOST_CLASSES:
                classes = classes.add(name, theirs.colours.get(name))
        fresh = [name for name in theirs.kinds if name not in classes.kinds]
        classes = replace(classes, kinds=(*classes.kinds, *fresh))
    return classes


def show_classes(
    viewer: ViewerModel, cells_layer: Labels, classes: ClassList, renamed: Mapping[str, str] | None = None
) -> None:
    """Give a cells layer these classes; cells keep theirs, even if its code changes.

    `renamed` has new class names by old ones. Cells of a removed class get no code.
    """
    old = links.names_of(cells_layer)
    info = links.info_of(cells_layer)
    info["names"], info["colours"] = list(classes.names), dict(classes.colours)
    info["kinds"] = list(classes.kinds)
    codes = {name: code for code, name in enumerate(classes.names, start=1)}
    mapping = np.zeros(256, np.uint8)
    for code, name in enumerate(old, start=1):
        mapping[code] = codes.get((renamed or {}).get(name, name), 0)
    lookup = layers.lookup_of(cells_layer)
    if links.types_layer_for(viewer, cells_layer) is not None:
        layers.add_types(viewer, cells_layer)  # recolours the types layer
    if not np.array_equal(mapping[: len(old) + 1], np.arange(len(old) + 1)):
        lookup.replace(mapping[lookup.codes[:-1]], lookup.kinds[:-1])


def _checked_colour(colour: str) -> str:
    if not is_colour(colour):
        raise InputError(f"{colour!r} is not a colour; give one as #rrggbb.")
    return colour.lower()


def key_of(name: str, keys: Mapping[str, str]) -> str:
    """Return the keys of a class for people: "R or 1"."""
    mine: Sequence[str] = sorted((k for k, n in keys.items() if n == name), key=str.isdigit)
    return " or ".join(mine)
