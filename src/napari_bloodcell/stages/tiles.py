"""Cuts a plane into tiles (paper §3.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from napari_bloodcell.core.geometry import grown, union_of


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile of a plane; boxes are half-open (y0, x0, y1, x1), pixels.

    Cores cover the plane without overlap; `read` is the core with what is read around it.
    """

    row: int
    column: int
    core: tuple[int, int, int, int]
    read: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        """Row and column, such as "r03_c07"."""
        return f"r{self.row:02d}_c{self.column:02d}"


def iter_tiles(shape: tuple[int, ...], tile_size: int = 512, overlap: int = 0) -> Iterator[Tile]:
    """Yield the tiles of a plane of `shape` (Y, X) row by row; those at the right and bottom edge may be smaller.

    `overlap` is the number of pixels read around each. Raises `ValueError` if a size is not positive.
    """
    if tile_size < 1 or overlap < 0:
        raise ValueError(f"A tile needs a size ≥ 1 and an overlap ≥ 0; given {tile_size} and {overlap}.")
    height, width = shape[:2]
    for row, y0 in enumerate(range(0, height, tile_size)):
        for column, x0 in enumerate(range(0, width, tile_size)):
            core = (y0, x0, min(y0 + tile_size, height), min(x0 + tile_size, width))
            yield Tile(row, column, core, grown(core, overlap, shape))


def group_tiles(tiles: Sequence[Tile], n_across: int) -> list[list[Tile]]:
    """Return tiles in squares of at most `n_across` × `n_across`, in the order of their first tiles."""
    groups: dict[tuple[int, int], list[Tile]] = {}
    for tile in tiles:
        groups.setdefault((tile.row // n_across, tile.column // n_across), []).append(tile)
    return list(groups.values())


def hull(tiles: Sequence[Tile]) -> Tile:
    """Return neighbouring tiles as one, at the position of the first."""
    return Tile(tiles[0].row, tiles[0].column, union_of(t.core for t in tiles), union_of(t.read for t in tiles))


BLOCK_PX = 2048
"""Side of a block, pixels. A block holds whole chunks of the first three pyramid levels, so blocks can be written
without locks; tiles have any size."""
BLOCK_LEVELS = 3
"""Pyramid levels written by a block."""
