"""The typed image of a smear, derived: a lookup table over the label image, read when and where it is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self
from weakref import WeakSet

import numpy as np

from napari_bloodcell.napari.layers.drawing import look_up, redraw_boxes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.layers import Labels
    from numpy.typing import DTypeLike, NDArray


class TypeLookup:
    """Label id → code of its type, and the layers that show it.

    Attributes
    ----------
    codes : ndarray of uint8, shape (≥ N + 2,)
        Code of each id, 0 for background and for cells without a type. The last entry is always 0: ids that the table
        does not know are read there.
    """

    def __init__(self, codes: NDArray[np.uint8]) -> None:
        self.codes = np.append(codes, np.uint8(0))
        self._layers: WeakSet[Labels] = WeakSet()
        self._waiting: WeakSet[Labels] = WeakSet()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return one of its own for a layer that was duplicated; nothing shows it yet."""
        return type(self)(self.codes[:-1].copy())

    def show_in(self, layer: Labels) -> None:
        """Refresh this layer, too, when codes change; a hidden one is shown with the first code, for once."""
        self._layers.add(layer)
        if not layer.visible and not self.codes.any():
            self._waiting.add(layer)

    def replace(self, codes: NDArray[np.uint8]) -> None:
        """Take the codes of all ids, shape (N + 1,), and refresh what shows them."""
        self.codes = np.append(codes, np.uint8(0))
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
        if boxes is None or self._waiting:
            self.refresh()
            return
        for layer in self._layers:
            if not redraw_boxes(layer, boxes):
                _refresh(layer)

    def refresh(self) -> None:
        """Draw again what shows the types, and show what waits for the first."""
        for layer in list(self._layers):
            if layer in self._waiting and self.codes.any():
                self._waiting.discard(layer)
                layer.visible = True
            else:
                _refresh(layer)


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


def _refresh(layer: Labels) -> None:
    """Read and draw again all that is in view, at the level that is shown."""
    if layer.multiscale:
        layer._reset_thumbnail_level_data()
    layer.refresh(extent=False)
