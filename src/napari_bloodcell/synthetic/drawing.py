"""Draws a whole smear of known truth: picture, label image and a row of truth per cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_bloodcell.core.cells import BOX, BUILTIN_TYPES, CENTROID
from napari_bloodcell.core.errors import SettingsError
from napari_bloodcell.core.geometry import Box, box_of_mask, shared_box, slices_of
from napari_bloodcell.synthetic.optics import GIEMSA, Optics, Stain, expose
from napari_bloodcell.synthetic.placing import Crowd, scatter
from napari_bloodcell.synthetic.shapes import HALO_PX, CellSpec, PlacedCell, optical_density, place


@dataclass(frozen=True, slots=True, eq=False)
class SyntheticSmear:
    """A drawn smear with its truth.

    Attributes
    ----------
    image : ndarray of uint8, shape (Y, X, 3)
        The picture, RGB.
    cells : ndarray of int32, shape (Y, X)
        Number of the cell that lies on top, 1..N, 0 for empty glass.
    types : ndarray of uint8, shape (Y, X)
        1 RBC, 2 WBC, 3 platelet, 0 for empty glass.
    table : DataFrame
        One row per cell, index `id`: `cell_type`, `subtype`, centroid (`centroid_y`, `centroid_x`) and box (`bbox_y0`,
        `bbox_x0`, `bbox_y1`, `bbox_x1`) of the whole cell within the image, `area_px` of the same, `visible_px` that no
        other cell covers, `overlap` (share of `area_px` where another cell lies over or under it), `group` (the same
        for cells that overlap), `cells_in_group`, `touches_edge`.
    masks : list of ndarray of bool
        The whole cell within its box, in the order of the table, also where another one covers it.
    """

    image: NDArray[np.uint8]
    cells: NDArray[np.int32]
    types: NDArray[np.uint8]
    table: pd.DataFrame
    masks: list[NDArray[np.bool_]]

    @property
    def counts(self) -> dict[str, int]:
        """The true number of cells of each type."""
        return {name: int((self.table["cell_type"] == name).sum()) for name in BUILTIN_TYPES}


def draw_smear(
    shape: tuple[int, int] = (1600, 2304),
    *,
    seed: int = 0,
    n_rbc: int | None = None,
    n_wbc: int | None = None,
    n_platelets: int | None = None,
    rbc_diameter_px: float = 36.0,
    anisocytosis: float = 0.08,
    pair_share: float = 0.1,
    clump_share: float = 0.08,
    stain: Stain = GIEMSA,
    optics: Optics | None = None,
) -> SyntheticSmear:
    """Draw a random smear.

    Parameters
    ----------
    shape : tuple of int
        (Y, X), pixels.
    seed : int
        The same seed and settings give the same smear.
    n_rbc, n_wbc, n_platelets : int, optional
        Cells to draw; fewer where there is no room left. By default as dense as a good field: red cells over four
        tenths of the glass, one white cell per 80 and one platelet per 16 of them.
    rbc_diameter_px : float
        Width of a typical red cell, pixels.
    anisocytosis : float
        Standard deviation of red cells' diameters, relative.
    pair_share, clump_share : float
        Shares of the red cells that lie in overlapping pairs, and in clumps of three to six.
    stain : Stain
        Colours of cells and glass.
    optics : Optics, optional
        Light, focus and noise.

    Returns
    -------
    SyntheticSmear
        The picture and the truth.

    Raises
    ------
    SettingsError
        If a size, a number or a share is not possible.
    """
    if min(shape) < 1 or rbc_diameter_px < 6:
        raise SettingsError(f"shape={shape}, rbc_diameter_px={rbc_diameter_px}: give at least 1×1 pixels and 6 px.")
    if min(pair_share, clump_share) < 0 or pair_share + clump_share > 1:
        raise SettingsError(f"pair_share={pair_share} and clump_share={clump_share}: give shares of at most 1 in all.")
    if min(n or 0 for n in (n_rbc, n_wbc, n_platelets)) < 0:
        raise SettingsError(f"n_rbc={n_rbc}, n_wbc={n_wbc}, n_platelets={n_platelets}: give 0 or more.")
    dense = int(0.4 * shape[0] * shape[1] / (np.pi / 4 * rbc_diameter_px**2))
    red = dense if n_rbc is None else n_rbc
    crowd = Crowd(
        n_rbc=red,
        n_wbc=round(red / 80) if n_wbc is None else n_wbc,
        n_platelets=round(red / 16) if n_platelets is None else n_platelets,
        rbc_diameter_px=rbc_diameter_px,
        anisocytosis=anisocytosis,
        pair_share=pair_share,
        clump_share=clump_share,
        pallor=stain.pallor,
    )
    placed = scatter(crowd, shape, np.random.default_rng([seed, 10]))
    return _draw(placed, shape, stain, optics or Optics(), seed)


def draw_cells(
    specs: Sequence[CellSpec],
    shape: tuple[int, int],
    *,
    seed: int = 0,
    stain: Stain = GIEMSA,
    optics: Optics | None = None,
) -> SyntheticSmear:
    """Draw the given cells in order, the last on top; cells outside the image are left out."""
    return _draw([place(spec) for spec in specs], shape, stain, optics or Optics(), seed)


def _draw(
    placed: Sequence[PlacedCell], shape: tuple[int, int], stain: Stain, optics: Optics, seed: int
) -> SyntheticSmear:
    density = np.zeros((*shape, 3), np.float32)
    cells = np.zeros(shape, np.int32)
    n_layers = np.zeros(shape, np.uint8)
    shown: list[PlacedCell] = []
    boxes: list[Box] = []
    masks: list[NDArray[np.bool_]] = []
    for cell in placed:
        _add(density, optical_density(cell, stain), (cell.origin[0] - HALO_PX, cell.origin[1] - HALO_PX))
        seen = _within(cell, shape)
        if seen is None:
            continue
        box, mask = seen
        shown.append(cell)
        boxes.append(box)
        masks.append(mask)
        view = slices_of(box)
        cells[view][mask] = len(shown)
        n_layers[view][mask] += 1
    table = _truth(shown, boxes, masks, cells, n_layers)
    codes = np.array([0, *(BUILTIN_TYPES.index(c.spec.cell_type) + 1 for c in shown)], np.uint8)
    image = expose(density, stain, optics, np.random.default_rng([seed, 20]))
    return SyntheticSmear(image, cells, codes[cells], table, masks)


def _add(plane: NDArray[np.float32], part: NDArray[np.float32], origin: tuple[int, int]) -> None:
    """Add a part to a plane where the two overlap."""
    box = _box_in(plane.shape, origin, part.shape)
    if box is not None:
        plane[slices_of(box)] += part[slices_of(box, origin)]


def _box_in(plane: tuple[int, ...], origin: tuple[int, int], part: tuple[int, ...]) -> Box | None:
    """Return the box that a part of this shape at `origin` (y, x) covers of a plane of this shape, or None."""
    return shared_box((0, 0, plane[0], plane[1]), (*origin, origin[0] + part[0], origin[1] + part[1]))


def _within(cell: PlacedCell, shape: tuple[int, int]) -> tuple[Box, NDArray[np.bool_]] | None:
    """Return the part of a cell that lies in the image, as box and mask, or None."""
    whole = _box_in(shape, cell.origin, cell.mask.shape)
    box = None if whole is None else box_of_mask(cell.mask[slices_of(whole, cell.origin)], whole[:2])
    return None if box is None else (box, cell.mask[slices_of(box, cell.origin)])


def _truth(
    shown: Sequence[PlacedCell],
    boxes: Sequence[Box],
    masks: Sequence[NDArray[np.bool_]],
    cells: NDArray[np.int32],
    n_layers: NDArray[np.uint8],
) -> pd.DataFrame:
    visible = np.bincount(cells.ravel(), minlength=len(shown) + 1)
    groups = _groups(boxes, masks)
    rows = []
    for number, (cell, box, mask) in enumerate(zip(shown, boxes, masks, strict=True), 1):
        y, x = np.nonzero(mask)
        layers = n_layers[slices_of(box)][mask]
        rows.append(
            {
                "id": number,
                "cell_type": cell.spec.cell_type,
                "subtype": cell.spec.subtype,
                "centroid_y": float(y.mean() + box[0]),
                "centroid_x": float(x.mean() + box[1]),
                **dict(zip(BOX, box, strict=True)),
                "area_px": int(mask.sum()),
                "visible_px": int(visible[number]),
                "overlap": float((layers > 1).mean()),
                "group": groups[number - 1],
                "touches_edge": 0 in box[:2] or box[2] == cells.shape[0] or box[3] == cells.shape[1],
            }
        )
    columns = ["id", "cell_type", "subtype", *CENTROID, *BOX, "area_px", "visible_px", "overlap", "group"]
    table = pd.DataFrame(rows, columns=[*columns, "touches_edge"]).set_index("id")
    table.insert(len(columns) - 1, "cells_in_group", table.groupby("group")["group"].transform("size").astype(np.int64))
    return table


def _groups(boxes: Sequence[Box], masks: Sequence[NDArray[np.bool_]]) -> list[int]:
    """Return the group number of each cell; cells whose masks share a pixel are in one group."""
    group = list(range(len(boxes)))
    corners = np.array(boxes, np.int64).reshape(-1, 4)
    for i, (box, mask) in enumerate(zip(boxes, masks, strict=True)):
        low, high = np.maximum(corners[:i, :2], box[:2]), np.minimum(corners[:i, 2:], box[2:])
        for j in np.flatnonzero((low < high).all(1)).tolist():
            both = (*low[j].tolist(), *high[j].tolist())
            if (mask[slices_of(both, box[:2])] & masks[j][slices_of(both, boxes[j][:2])]).any():
                old, new = group[i], group[j]
                group = [new if g == old else g for g in group]
    return group
