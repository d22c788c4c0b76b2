"""Writes the pyramids of an OME-Zarr block by block."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from zarr.storage import LocalStore

from napari_bloodcell.core.files import writing
from napari_bloodcell.core.geometry import Box
from napari_bloodcell.results.ome_zarr import CHUNK, halvings, open_levels
from napari_bloodcell.stages.tiles import BLOCK_LEVELS

if TYPE_CHECKING:
    import zarr
    from zarr.core.buffer import Buffer

IMAGE, CELLS, TYPES = "", "labels/cells", "labels/types"
"""Groups of the OME-Zarr that have a pyramid."""


class Pyramids:
    """The pyramids of an existing OME-Zarr, opened once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._levels: dict[str, list[zarr.Array[Any]]] = {}

    def levels(self, group: str) -> list[zarr.Array[Any]]:
        """Return the levels of a group, finest first."""
        if group not in self._levels:
            self._levels[group] = open_levels(SyncedStore(self.folder), group)
        return self._levels[group]

    def write_block(self, group: str, data: NDArray[Any], box: Box) -> None:
        """Write a block (…, Y, X) into the levels that blocks write, and wait until it is on the disk.

        A block covers whole chunks of these levels, so that several processes can write blocks at once. Raises
        `OutputError`, as on a full disk.
        """
        levels = self.levels(group)[:BLOCK_LEVELS]
        for k, part in enumerate(halvings(data, len(levels), is_label=group != IMAGE)):
            self._write(group, k, part, box[0] >> k, box[1] >> k)

    def fill_coarse_levels(self, group: str) -> None:
        """Write the coarser levels, each from the one before, a few chunks at a time."""
        levels, side = self.levels(group), 2 * CHUNK
        for k in range(BLOCK_LEVELS, len(levels)):
            height, width = levels[k].shape[-2:]
            for y in range(0, height, side):
                for x in range(0, width, side):
                    y1, x1 = min(y + side, height), min(x + side, width)
                    finer = np.asarray(levels[k - 1][..., 2 * y : 2 * y1, 2 * x : 2 * x1])
                    self._write(group, k, list(halvings(finer, 2, is_label=group != IMAGE))[1], y, x)

    def fill_coarse_levels_at(self, group: str, box: Box) -> None:
        """Write a block of a label image into the coarser levels at once, for those who watch; in one process only."""
        levels = self.levels(group)
        for k in range(BLOCK_LEVELS, len(levels)):
            y0, x0, y1, x1 = (-(-side // 2**k) for side in box)
            finer = np.asarray(levels[k - 1][2 * y0 : 2 * y1, 2 * x0 : 2 * x1])
            self._write(group, k, finer[::2, ::2], y0, x0)

    def _write(self, group: str, level: int, data: NDArray[Any], y: int, x: int) -> None:
        """Write data (…, Y, X) that begins at y, x into a level."""
        height, width = data.shape[-2:]
        with writing(self.folder / group):
            self.levels(group)[level][..., y : y + height, x : x + width] = data


class SyncedStore(LocalStore):
    """A folder whose chunks are completely on the disk when a write returns."""

    async def set(self, key: str, value: Buffer) -> None:
        """Write a chunk; zarr renames it once it is whole."""
        await super().set(key, value)
        await asyncio.to_thread(_sync, self.root / key)


def _sync(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())
