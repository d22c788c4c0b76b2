"""Label images from other programs, repaired until they can be cells."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Labels
from napari.utils.notifications import show_info
from numpy.typing import NDArray
from scipy import ndimage

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.napari.layers.images import is_large_plane
from napari_bloodcell.napari.layers.links import full_resolution, has_table
from napari_bloodcell.napari.layers.look import pyramid_of
from napari_bloodcell.stages.segment import LARGEST_ID


def number_cells(layer: Labels) -> None:
    """Give every cell of a foreign layer an id of its own, and tell the user.

    Cellpose and StarDist number each frame from 1, and some programs use very large ids. Raises `InputError` if the
    layer holds no cell.
    """
    cells: Any = full_resolution(layer)
    if has_table(layer) or is_large_plane(cells.shape):
        return
    ids = [_ids_in(np.asarray(cells[index])) for index in np.ndindex(cells.shape[:-2])]
    together = np.concatenate(ids)
    if not len(together):
        raise InputError(f"{layer.name!r} holds no cell: all its labels are 0.")
    largest = int(together.max())
    if largest <= LARGEST_ID and len(np.unique(together)) == len(together):
        return
    numbered, first = np.zeros(cells.shape, np.int32), 1
    for index, own in zip(np.ndindex(cells.shape[:-2]), ids, strict=True):
        plane = np.asarray(cells[index])
        numbered[index] = np.where(plane > 0, np.searchsorted(own, plane) + first, 0)
        first += len(own)
    layer.data = pyramid_of(numbered, is_pyramid=layer.multiscale)
    why = f"were as large as {largest:,}" if largest > LARGEST_ID else "began anew in each plane"
    show_info(f"The ids of {layer.name!r} {why}: each cell has one of its own now, 1 to {first - 1:,}.")


def pieces_of_mask(layer: Labels) -> NDArray[np.int32] | None:
    """Return the connected pieces of a mask, numbered 1..N, (…, Y, X); None if the layer is no mask.

    A mask has one id only, and more than one piece.
    """
    cells: Any = full_resolution(layer)
    if has_table(layer) or is_large_plane(cells.shape):
        return None
    mask = np.asarray(cells) != 0
    if not mask.any() or np.ptp(np.asarray(cells)[mask]):
        return None
    flat = np.zeros((3,) * cells.ndim, bool)  # no connection between planes
    flat[(1,) * (cells.ndim - 2)] = True
    pieces, n = ndimage.label(mask, flat)
    return np.asarray(pieces, np.int32) if n > 1 else None


def _ids_in(plane: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return the sorted ids in a plane, without the background."""
    if plane.size and int(plane.min()) >= 0 and int(plane.max()) <= LARGEST_ID:
        return np.flatnonzero(np.bincount(plane.ravel())[1:]) + 1
    found = np.unique(plane)
    return np.asarray(found[found > 0], np.int64)
