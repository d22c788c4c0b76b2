"""The typed image of a smear, derived: a lookup table over the label image, read when and where it is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self
from weakref import WeakSet

import numpy as np

from napari_bloodcell.napari.layers import private
from napari_bloodcell.napari.layers.drawing import look_up, redraw_boxes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.layers import Labels
    from numpy.typing import DTypeLike, NDArray


UNTYPED: Final = np.uint8(255)
"""Colour code of cells that have no type."""


class TypeLookup:
    """Label id → code of its type, and the layers that show it: the cells, in its colours, and what is derived from it.

    Attributes
    ----------
    codes : ndarray of uint8, shape (≥ N + 2,)
        Code of each id, 0 for background and for cells without a type. The last entry is always 0: ids that the table
        does not know are read there.
    """

    def __init__(self, codes: NDArray[np.uint8]) -> None:
        self.codes = np.append(codes, np.uint8(0))
        self._coloured: WeakSet[Labels] = WeakSet()
        self._derived: WeakSet[Labels] = WeakSet()
        self._colours: dict[int | None, Any] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return one of its own for a layer that was duplicated; nothing shows it yet."""
        return type(self)(self.codes[:-1].copy())

    def show_in(self, layer: Labels) -> None:
        """Read this layer, which is derived from the codes, again when they change."""
        self._derived.add(layer)

    def colour(self, cells_layer: Labels, colours: dict[int | None, Any]) -> None:
        """Colour the cells themselves by their codes; `UNTYPED` is one of them."""
        if cells_layer not in self._coloured or colours != self._colours:  # to set it draws the layer anew
            cells_layer.colormap = private.LookupColormap.by(self.colours_of, colours)
            self._coloured.add(cells_layer)
            self._colours = colours

    def colours_of(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Return the codes by which labels are coloured: 0 for background, `UNTYPED` for cells without a type."""
        return np.where(ids == 0, np.uint8(0), look_up(np.where(self.codes == 0, UNTYPED, self.codes), ids))

    def replace(self, codes: NDArray[np.uint8]) -> None:
        """Take the codes of all ids, shape (N + 1,), and refresh what shows them."""
        self.codes = np.append(codes, np.uint8(0))
        for layer in list(self._coloured):
            private.read_again(layer)
        self.refresh()

    def change(
        self,
        ids: Sequence[int] | NDArray[np.integer[Any]],
        code: int | NDArray[np.uint8],
        *,
        boxes: NDArray[np.int64] | None = None,
    ) -> None:
        """Give cells another code and draw them again: constant time, however many cells there are.

        Parameters
        ----------
        ids : sequence of int
            The cells.
        code : int or ndarray of uint8, shape (N,)
            Their new code, or one for each.
        boxes : ndarray of int64, shape (N, 4), optional
            (y0, x0, y1, x1) of each, pixels of the finest level: only these are looked at. None: all that is shown.
        """
        index = np.asarray(ids, np.int64)
        if index.size and index.max() >= self.codes.size - 1:
            self.codes = np.concatenate([self.codes, np.zeros(int(index.max()) + 2 - self.codes.size, np.uint8)])
        self.codes[index] = code
        for layer in list(self._coloured):
            if boxes is None or not redraw_boxes(layer, boxes):
                private.read_again(layer)
        self.refresh()

    def refresh(self) -> None:
        """Draw again what is derived: codes or cells changed."""
        for layer in list(self._derived):
            private.read_again(layer)


class TypedView:
    """One level of a typed image, shape (..., Y, X) uint8: what napari slices instead of an array.

    Parameters
    ----------
    cells_layer : Labels
        Layer of the label image; followed when its data are exchanged.
    lookup : TypeLookup
        Codes of its ids.
    level : int
        Level of the pyramid; 0 where there is none.
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
        return look_up(self._lookup.codes, np.asarray(self._ids[key]))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the whole level."""
        return self[...].astype(dtype or np.uint8, copy=False)
