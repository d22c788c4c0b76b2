"""The typed image of a smear, derived: a lookup table over the label image, read when and where it is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self
from weakref import WeakSet

import numpy as np

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

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return one of its own for a layer that was duplicated; nothing shows it yet."""
        return type(self)(self.codes[:-1].copy())

    def show_in(self, layer: Labels) -> None:
        """Refresh this layer, too, when codes change."""
        self._layers.add(layer)

    def replace(self, codes: NDArray[np.uint8]) -> None:
        """Take the codes of all ids, shape (N + 1,), and refresh what shows them."""
        self.codes = np.append(codes, np.uint8(0))
        self.refresh()

    def change(self, ids: Sequence[int] | NDArray[np.integer[Any]], code: int) -> None:
        """Give cells another code and refresh what shows them: constant time, however many cells there are."""
        index = np.asarray(ids, np.int64)
        if index.size and index.max() >= self.codes.size - 1:
            self.codes = np.concatenate([self.codes, np.zeros(int(index.max()) + 2 - self.codes.size, np.uint8)])
        self.codes[index] = code
        self.refresh()

    def refresh(self) -> None:
        """Draw again what shows the types."""
        for layer in self._layers:
            if layer.multiscale:
                layer._reset_thumbnail_level_data()
            layer.refresh(extent=False)


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
        return np.take(self._lookup.codes, np.asarray(self._ids[key]), mode="clip")

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the whole level."""
        return self[...].astype(dtype or np.uint8, copy=False)
