"""Small named smears of known truth: each shows one thing that can go wrong. `SCENES` has them all by name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_bloodcell.synthetic import TINTED, CellSpec, Optics, SyntheticSmear, draw_cells, draw_smear

if TYPE_CHECKING:
    from collections.abc import Callable

RBC_PX = 36.0
"""Width of the red cells of every scene, pixels."""
TILE = 128
"""Side of the tiles for which `cell_on_four_tiles` and `cells_along_a_tile_border` are made, pixels."""
EVEN_LIGHT = Optics(vignetting=0.0, gradient=0.0, defocus_px=0.9)


def rbc(y: float, x: float, seed: int = 0) -> CellSpec:
    """A round red cell."""
    return CellSpec("erythrocyte", y, x, RBC_PX, angle=float(seed), roughness=0.015, seed=seed)


def empty_glass() -> SyntheticSmear:
    """No cell at all."""
    return draw_cells([], (128, 160), optics=EVEN_LIGHT)


def one_cell() -> SyntheticSmear:
    """One red cell in the middle."""
    return draw_cells([rbc(64, 64)], (128, 128), optics=EVEN_LIGHT)


def two_touching_cells() -> SyntheticSmear:
    """Two red cells side by side, one pixel between them."""
    return draw_cells([rbc(64, 45, 1), rbc(64, 83, 2)], (128, 128), optics=EVEN_LIGHT)


def two_overlapping_cells() -> SyntheticSmear:
    """Two red cells, each with about a fifth of its area under or over the other."""
    return draw_cells([rbc(64, 52, 1), rbc(64, 77, 2)], (128, 128), optics=EVEN_LIGHT)


def clump_of_six() -> SyntheticSmear:
    """Six red cells, each overlapping the next."""
    places = [(60, 50), (52, 76), (64, 102), (88, 108), (104, 86), (98, 58)]
    return draw_cells([rbc(y, x, i) for i, (y, x) in enumerate(places)], (160, 160), optics=EVEN_LIGHT)


def cell_on_four_tiles() -> SyntheticSmear:
    """One red cell on the corner where four tiles meet, and one inside the first tile."""
    return draw_cells([rbc(TILE, TILE, 1), rbc(50, 50, 2)], (2 * TILE, 2 * TILE), optics=EVEN_LIGHT)


def cells_along_a_tile_border() -> SyntheticSmear:
    """Five red cells cut by the border between two tiles, each at another place."""
    specs = [rbc(28 + 48 * i, TILE + offset, i) for i, offset in enumerate((-15, -7, 0, 7, 15))]
    return draw_cells(specs, (2 * TILE, 2 * TILE), optics=EVEN_LIGHT)


def cell_cut_by_the_edge() -> SyntheticSmear:
    """Two red cells cut by the edge of the image, one in half, one but for a slice, and one whole."""
    return draw_cells([rbc(0, 40, 1), rbc(64, 140, 2), rbc(64, 64, 3)], (128, 128), optics=EVEN_LIGHT)


def wbc_with_lobed_nucleus() -> SyntheticSmear:
    """A neutrophil, with red cells around it."""
    specs = [
        CellSpec("neutrophil", 80, 80, 60, roughness=0.02, seed=4),
        rbc(30, 30, 1),
        rbc(130, 40, 2),
        rbc(80, 135, 3),
    ]
    return draw_cells(specs, (160, 160), optics=EVEN_LIGHT)


def wbc_on_tinted_glass() -> SyntheticSmear:
    """The same field on tinted glass, where the cytoplasm hardly differs from the background."""
    specs = [
        CellSpec("neutrophil", 80, 80, 60, roughness=0.02, seed=4),
        rbc(30, 30, 1),
        rbc(130, 40, 2),
        rbc(80, 135, 3),
    ]
    return draw_cells(specs, (160, 160), stain=TINTED, optics=EVEN_LIGHT)


def every_white_cell() -> SyntheticSmear:
    """A neutrophil, a lymphocyte, a monocyte and an eosinophil."""
    specs = [
        CellSpec("neutrophil", 60, 60, 60, seed=1),
        CellSpec("lymphocyte", 60, 160, 47, seed=2),
        CellSpec("monocyte", 160, 60, 70, seed=3),
        CellSpec("eosinophil", 160, 160, 62, seed=4),
    ]
    return draw_cells(specs, (220, 220), optics=EVEN_LIGHT)


def only_white_cells() -> SyntheticSmear:
    """Two lymphocytes and no red cell."""
    specs = [CellSpec("lymphocyte", 60, 50, 46, seed=1), CellSpec("lymphocyte", 70, 120, 50, seed=2)]
    return draw_cells(specs, (140, 180), optics=EVEN_LIGHT)


def platelets_among_cells() -> SyntheticSmear:
    """Three red cells and four platelets."""
    specs = [rbc(40, 40, 1), rbc(40, 110, 2), rbc(110, 70, 3)]
    specs += [
        CellSpec("platelet", y, x, 11, elongation=1.2, angle=float(i), roughness=0.08, seed=i)
        for i, (y, x) in enumerate([(75, 30), (75, 75), (20, 75), (120, 120)])
    ]
    return draw_cells(specs, (150, 150), optics=EVEN_LIGHT)


def ring_with_a_hole() -> SyntheticSmear:
    """One red cell with a very pale centre, which must not become a hole or a cell of its own."""
    return draw_cells([replace(rbc(64, 64), pallor=0.95)], (128, 128), optics=EVEN_LIGHT)


def dark_field() -> SyntheticSmear:
    """Red cells in so little light that the paper brightens the tile (mean below 140)."""
    smear = draw_cells([rbc(40, 40, 1), rbc(90, 90, 2)], (128, 128), optics=EVEN_LIGHT)
    dark = (smear.image.astype(np.float32) * 0.4).astype(np.uint8)
    return replace(smear, image=dark)


def small_smear() -> SyntheticSmear:
    """A random field of 400×500 px with a bit of everything."""
    return draw_smear((400, 500), seed=5, n_wbc=2, n_platelets=4)


SCENES: dict[str, Callable[[], SyntheticSmear]] = {
    scene.__name__: scene
    for scene in (
        empty_glass,
        one_cell,
        two_touching_cells,
        two_overlapping_cells,
        clump_of_six,
        cell_on_four_tiles,
        cells_along_a_tile_border,
        cell_cut_by_the_edge,
        wbc_with_lobed_nucleus,
        wbc_on_tinted_glass,
        every_white_cell,
        only_white_cells,
        platelets_among_cells,
        ring_with_a_hole,
        dark_field,
        small_smear,
    )
}
