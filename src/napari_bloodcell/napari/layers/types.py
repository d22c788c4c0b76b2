"""The types layer of a smear: a lookup table over the label image, evaluated where it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self
from weakref import WeakSet

import numpy as np
from napari.layers import Labels
from numpy.typing import DTypeLike, NDArray

from napari_bloodcell.napari.layers import private
from napari_bloodcell.napari.layers.drawing import look_up, redraw_boxes

UNTYPED: Final = np.uint8(255)
"""Colour code of cells without a type."""


class TypeLookup:
    """Maps label ids to type codes, and redraws the layers that show them.

    `codes` is uint8, (≥ N + 2,): 0 for background and cells without a type. Its last entry is always 0, because ids
    beyond the table read that entry. `kinds`, as long, has the codes of kinds, 0 where there is none; `shown` is what
    is drawn: the types, or the kinds where there are some.
    """

    def __init__(self, codes: NDArray[np.uint8], kinds: NDArray[np.uint8] | None = None) -> None:
        self.codes = np.append(codes, np.uint8(0))
        self.kinds = _as_long(kinds, self.codes)
        self.by_kind = False
        self._coloured: WeakSet[Labels] = WeakSet()
        self._derived: WeakSet[Labels] = WeakSet()
        self._colours: dict[int | None, Any] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy for a duplicated layer; no layer shows it yet."""
        copy = type(self)(self.codes[:-1].copy(), self.kinds[:-1].copy())
        copy.by_kind = self.by_kind
        return copy

    @property
    def shown(self) -> NDArray[np.uint8]:
        """The codes by which cells are drawn."""
        return np.where(self.kinds == 0, self.codes, self.kinds) if self.by_kind else self.codes

    def show_in(self, layer: Labels) -> None:
        """Redraw this layer, which is derived from the codes, whenever they change."""
        self._derived.add(layer)

    def colour(self, cells_layer: Labels, colours: dict[int | None, Any]) -> None:
        """Colour the cells themselves by their codes, `UNTYPED` included."""
        if cells_layer not in self._coloured or colours != self._colours:  # setting it redraws the layer
            cells_layer.colormap = private.LookupColormap.by(self.colours_of, colours)
            self._coloured.add(cells_layer)
            self._colours = colours

    def colours_of(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Return the colour codes of labels: 0 for background, `UNTYPED` for cells without a type."""
        shown = self.shown
        return np.where(ids == 0, np.uint8(0), look_up(np.where(shown == 0, UNTYPED, shown), ids))

    def replace(self, codes: NDArray[np.uint8], kinds: NDArray[np.uint8] | None = None) -> None:
        """Replace the codes of all ids, (N + 1,), and redraw. Without `kinds` there are none."""
        self.codes = np.append(codes, np.uint8(0))
        self.kinds = _as_long(kinds, self.codes)
        for layer in list(self._coloured):
            private.read_again(layer)
        self.refresh()

    def change(
        self,
        ids: Sequence[int] | NDArray[np.integer[Any]],
        code: int | NDArray[np.uint8],
        *,
        boxes: NDArray[np.int64] | None = None,
        kind: int | NDArray[np.uint8] = 0,
    ) -> None:
        """Set the codes of some cells, one for all or one for each, and redraw; constant time.

        Only inside `boxes` (N, 4), (y0, x0, y1, x1) in pixels of the finest level, if they are given.
        """
        index = np.asarray(ids, np.int64)
        if index.size and index.max() >= self.codes.size - 1:
            more = np.zeros(int(index.max()) + 2 - self.codes.size, np.uint8)
            self.codes, self.kinds = np.concatenate([self.codes, more]), np.concatenate([self.kinds, more])
        self.codes[index], self.kinds[index] = code, kind
        for layer in list(self._coloured):
            if boxes is None or not redraw_boxes(layer, boxes):
                private.read_again(layer)
        self.refresh()

    def refresh(self) -> None:
        """Redraw the derived layers after codes or cells changed."""
        for layer in list(self._derived):
            private.read_again(layer)


def _as_long(kinds: NDArray[np.uint8] | None, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return codes of kinds for as many ids as there are codes."""
    out = np.zeros_like(codes)
    if kinds is not None:
        out[: len(kinds)] = kinds
    return out


class TypedView:
    """One level of a types layer, (..., Y, X) uint8, which napari slices like an array.

    Reads the cells layer on each access, so it also follows when the layer's data are replaced.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, cells_layer: Labels, lookup: TypeLookup, level: int = 0) -> None:
        self._cells_layer, self._lookup, self._level = cells_layer, lookup, level

    @property
    def _ids(self) -> Any:
        data = self._cells_layer.data
        return data[self._level] if self._cells_layer.multiscale else data

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the level."""
        return tuple(int(n) for n in self._ids.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of pixels."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        return look_up(self._lookup.shown, np.asarray(self._ids[key]))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the whole level."""
        return self[...].astype(dtype or np.uint8, copy=False)
