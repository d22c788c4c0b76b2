"""Measurements of single cells from their outlines and pixels, in images of any size."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage.measure import perimeter_crofton

from napari_bloodcell.core.cells import boxes_of
from napari_bloodcell.core.measures import MEASURES
from napari_bloodcell.core.progress import drained
from napari_bloodcell.core.protocols import Calibration, Progress
from napari_bloodcell.stages.calibration import RBC_DIAMETER_UM, is_possible, smear_in
from napari_bloodcell.stages.parts import iter_parts

AT_ONCE = 200
"""Cells measured in one step."""
RIM, CENTRE = (0.3, 0.6), 0.75
"""Depths, in shares of a cell's greatest, of the rim that the pallor is compared with, and of the middle."""
LEAST_PALLOR = 0.05
"""A middle that is lighter by less than this share of the rim's density is no pallor."""
HALF_DOWN: Final = np.array([0.5, 0.0])
"""Half a pixel down, (y, x)."""
_LENGTHS: Final = frozenset({"perimeter", "feret_max", "feret_min", "equivalent_diameter"})


def columns_of(names: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Return the columns of measurements: name → (measurement, power of the µm per pixel that it is multiplied by)."""
    columns: dict[str, tuple[str, int]] = {}
    for name in names:
        power = 1 if name in _LENGTHS else 2 if name == "density_integral" else 0
        columns |= {f"{name}_px" if power else name: (name, 0)} | ({f"{name}_um": (name, power)} if power else {})
    return columns


COLUMNS: Final = tuple(columns_of(MEASURES))
"""All columns that can be measured."""


def um_per_px(pixel_size_um: float | None, calibration: Calibration) -> float:
    """Return the µm per pixel: the known ones if they are possible, else those that make a red cell 7.5 µm wide."""
    if pixel_size_um is not None and is_possible(pixel_size_um, calibration):
        return pixel_size_um
    return RBC_DIAMETER_UM / calibration.rbc_diameter_px


def iter_add_measurements(
    image: Any,
    cells: Any,
    table: pd.DataFrame,
    calibration: Calibration,
    names: Sequence[str],
    *,
    pixel_size_um: float | None = None,
    part_px: int | None = None,
) -> Generator[Progress, None, pd.DataFrame]:
    """Measure every cell of an image of any size; return its table with the columns of `columns_of`.

    `image` (Y, X, 3) uint8 and `cells` (Y, X) int are sliced part by part, as `iter_parts` does. Lengths are in pixels
    and in µm (`um_per_px`); angles of hue in degrees; optical densities are decadic, the mean of R, G and B.
    """
    if not names:
        return table
    found = np.full((len(table), len(names)), np.nan)
    done = 0
    for rows, (y0, x0, y1, x1) in iter_parts(table, cells.shape, part_px):
        part = smear_in(np.asarray(image[y0:y1, x0:x1]), (y0, x0), calibration)
        labels = np.asarray(cells[y0:y1, x0:x1])
        boxes = boxes_of(table.iloc[rows]) - [y0, x0, y0, x0]
        ids = table.index[rows].tolist()
        for at, (row, cell, (top, left, bottom, right)) in enumerate(zip(rows, ids, boxes.tolist(), strict=True)):
            if at % AT_ONCE == 0:
                yield Progress(done + at, len(table), "cells measured")
            mask = labels[top:bottom, left:right] == cell
            if mask.any():
                found[row] = measure_cell(part[top:bottom, left:right], mask, calibration.background_rgb, names)
        done += len(rows)
    scale, position = um_per_px(pixel_size_um, calibration), {name: k for k, name in enumerate(names)}
    return table.assign(**{c: found[:, position[n]] * scale**power for c, (n, power) in columns_of(names).items()})


add_measurements = drained(iter_add_measurements)
"""`iter_add_measurements`, run to its end."""


def measure_cell(
    pixels: NDArray[np.uint8], mask: NDArray[np.bool_], glass: Sequence[float], names: Sequence[str]
) -> list[float]:
    """Return measurements of the cell in a mask (h, w) of pixels (h, w, 3), lengths in pixels."""
    cell = _Cell(pixels, np.pad(mask, 1), np.maximum(np.asarray(glass, float), 1.0))
    return [float(_HOW[name](cell)) for name in names]


class _Cell:
    """One cell; what several measurements need is worked out once."""

    def __init__(self, pixels: NDArray[np.uint8], mask: NDArray[np.bool_], glass: NDArray[np.float64]) -> None:
        self.mask, self.area = mask, int(mask.sum())
        inner = mask[1:-1, 1:-1]
        self.transmitted = np.maximum(pixels[inner], 1) / glass
        self.density = -np.log10(self.transmitted).mean(1)
        self._known: dict[str, Any] = {}

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._known:
            self._known[name] = make()
        return self._known[name]

    @property
    def perimeter(self) -> float:
        return float(self.once("perimeter", lambda: perimeter_crofton(self.mask, 4)))  # type: ignore[no-untyped-call]

    @property
    def feret(self) -> tuple[float, float]:
        """Smallest and largest distance between parallels that hold the cell, through the middles of pixels' sides."""
        found: tuple[float, float] = self.once("feret", self._feret)
        return found

    def _feret(self) -> tuple[float, float]:
        across, down = _ends(self.mask), _ends(self.mask.T)[:, ::-1]
        hull = _hull(np.concatenate([across + HALF_DOWN, down + HALF_DOWN[::-1]]))
        edges = np.roll(hull, -1, 0) - hull
        normals = np.stack([-edges[:, 1], edges[:, 0]], 1) / np.hypot(*edges.T)[:, None]
        least = float(np.ptp(hull @ normals.T, axis=0).min())
        return least, float(np.sqrt(((hull[:, None] - hull[None]) ** 2).sum(-1)).max())

    @property
    def solidity(self) -> float:
        ends = _ends(self.mask)
        y, x = _hull(np.concatenate([ends, ends + 2 * HALF_DOWN])).T
        return self.area / (0.5 * abs(float(y @ np.roll(x, 1) - x @ np.roll(y, 1))))

    @property
    def eccentricity(self) -> float:
        y, x = np.nonzero(self.mask)
        covariance = np.cov(np.stack([y, x]), bias=True) + np.eye(2) / 12 if self.area > 1 else np.eye(2)
        small, large = np.linalg.eigvalsh(covariance)
        return float(np.sqrt(max(0.0, 1 - small / large)))

    @property
    def pallor(self) -> tuple[float, float]:
        """Share of the area that is lighter than half-way between rim and middle, and depth: 0 where it is not."""
        found: tuple[float, float] = self.once("pallor", self._pallor)
        return found

    def _pallor(self) -> tuple[float, float]:
        depth = ndimage.distance_transform_edt(self.mask)[self.mask]
        depth = depth / depth.max()
        is_rim, is_centre = (depth >= RIM[0]) & (depth <= RIM[1]), depth >= CENTRE
        if not is_rim.any():
            return 0.0, 0.0
        rim, centre = float(np.median(self.density[is_rim])), float(np.median(self.density[is_centre]))
        lighter = 1 - centre / rim if rim > 0 else 0.0
        if lighter < LEAST_PALLOR:
            return 0.0, 0.0
        inner = depth >= RIM[0]
        return float((self.density[inner] < (rim + centre) / 2).sum() / self.area), lighter

    @property
    def hue(self) -> float:
        return 360 * colorsys.rgb_to_hsv(*np.median(self.transmitted, axis=0).clip(0, 1).tolist())[0]


def _ends(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return where each row of a mask begins and ends, (K, 2): top of the row, outer side of its pixels."""
    rows = np.flatnonzero(mask.any(1))
    first, last = mask[rows].argmax(1), mask.shape[1] - mask[rows, ::-1].argmax(1)
    return np.stack([np.tile(rows, 2), np.concatenate([first, last])], 1).astype(float)


def _hull(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the corners of the convex hull of points (N, 2), in order."""
    return np.asarray(points[ConvexHull(points).vertices])


_HOW: Final[dict[str, Callable[[_Cell], float]]] = {
    "perimeter": lambda cell: cell.perimeter,
    "circularity": lambda cell: min(1.0, 4 * np.pi * cell.area / cell.perimeter**2),
    "solidity": lambda cell: cell.solidity,
    "eccentricity": lambda cell: cell.eccentricity,
    "feret_min": lambda cell: cell.feret[0],
    "feret_max": lambda cell: cell.feret[1],
    "equivalent_diameter": lambda cell: float(np.sqrt(4 * cell.area / np.pi)),
    "pallor_share": lambda cell: cell.pallor[0],
    "pallor_depth": lambda cell: cell.pallor[1],
    "density": lambda cell: float(cell.density.mean()),
    "density_integral": lambda cell: float(cell.density.sum()),
    "hue": lambda cell: cell.hue,
}
assert tuple(_HOW) == MEASURES
