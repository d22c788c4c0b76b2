"""Places cells: chains of touching cells and empty glass, with overlapping pairs and clumps among them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_bloodcell.core.geometry import CROSS, largest_part
from napari_bloodcell.synthetic.optics import smooth_field
from napari_bloodcell.synthetic.shapes import DIAMETER_IN_RBC, CellSpec, PlacedCell, Subtype, place

WBC_SHARES: dict[Subtype, float] = {"neutrophil": 0.6, "lymphocyte": 0.28, "monocyte": 0.07, "eosinophil": 0.05}
"""Shares of white cells, about those of a healthy differential."""
_TRIES = 60
_TOUCHING_SHARE = 0.6
_MOST_CLIPPED = 0.1
_LEAST_SEEN = 0.55
_LEAST_OVERLAP = 0.05
_LEAST_IN_IMAGE = 0.2


@dataclass(frozen=True, slots=True)
class Crowd:
    """How many cells lie on the smear, and how.

    There are fewer than `n_rbc`, `n_wbc` and `n_platelets` if there is no room left. `rbc_diameter_px` is the width of
    a typical red cell, pixels, `anisocytosis` the relative standard deviation of red cells' diameters. `pair_share` and
    `clump_share` of the red cells lie in overlapping pairs and in clumps of three to six. `pallor` is the lowest and
    highest depth of their pale centre.
    """

    n_rbc: int
    n_wbc: int
    n_platelets: int
    rbc_diameter_px: float
    anisocytosis: float
    pair_share: float
    clump_share: float
    pallor: tuple[float, float]


class _Plane:
    """The owner of each pixel while cells are placed, with a margin for cells cut by the image's edge."""

    def __init__(self, shape: tuple[int, int], margin: int) -> None:
        self.shape, self.margin = shape, margin
        self.owner = np.zeros((shape[0] + 2 * margin, shape[1] + 2 * margin), np.int32)
        self.cells: list[PlacedCell] = []
        self._covered: list[NDArray[np.int32]] = []

    def window(self, cell: PlacedCell) -> NDArray[np.int32] | None:
        """Return the owners under a cell, or None if the cell would leave the margin."""
        y, x = cell.origin[0] + self.margin, cell.origin[1] + self.margin
        height, width = cell.mask.shape
        if y < 0 or x < 0 or y + height > self.owner.shape[0] or x + width > self.owner.shape[1]:
            return None
        return self.owner[y : y + height, x : x + width]

    def share_in_image(self, cell: PlacedCell) -> float:
        """Return the share of a cell's pixels that lie in the image."""
        y, x = cell.origin
        seen = cell.mask[max(-y, 0) : max(self.shape[0] - y, 0), max(-x, 0) : max(self.shape[1] - x, 0)]
        return float(seen.sum() / cell.mask.sum())

    def visible_share(self, cell: PlacedCell, number: int) -> float:
        """Return the share of a placed cell's pixels that no later one covers."""
        window = self.window(cell)
        return 0.0 if window is None else float((window[cell.mask] == number).mean())

    def fitted(self, cell: PlacedCell, over: frozenset[int] = frozenset()) -> PlacedCell | None:
        """Return the cell, flattened where it presses on a neighbour, or None if it does not fit.

        `over` holds the numbers of the cells that it may overlap.
        """
        window = self.window(cell)
        if window is None or self.share_in_image(cell) < _LEAST_IN_IMAGE:
            return None
        others = window > 0
        for number in over:
            others &= window != number
        if not (others & cell.mask).any():
            return cell
        mask = largest_part(cell.mask & ~ndimage.binary_dilation(others), CROSS)
        if mask.sum() < (1 - _MOST_CLIPPED) * cell.mask.sum():
            return None
        return replace(cell, mask=mask)

    def lay(self, cell: PlacedCell) -> int:
        """Put a cell on top and return its number, from 1."""
        window = self.window(cell)
        if window is None:
            raise ValueError("The cell lies outside the plane: place it within the image and its margin.")
        self.cells.append(cell)
        self._covered.append(window[cell.mask])
        window[cell.mask] = len(self.cells)
        return len(self.cells)

    def take_back(self, n: int) -> None:
        """Remove the last `n` cells."""
        for _ in range(n):
            cell, covered = self.cells.pop(), self._covered.pop()
            window = self.window(cell)
            if window is not None:
                window[cell.mask] = covered


def scatter(crowd: Crowd, shape: tuple[int, int], rng: np.random.Generator) -> list[PlacedCell]:
    """Return cells placed on a plane of (Y, X) pixels, the last on top; white cells first, platelets in the gaps."""
    plane = _Plane(shape, margin=int(3 * crowd.rbc_diameter_px))
    room = smooth_field(shape, 1.8 * crowd.rbc_diameter_px, rng)
    room_for_cells = room > np.quantile(room, 0.22)
    subtypes: list[Subtype] = rng.choice(np.array(list(WBC_SHARES)), crowd.n_wbc, p=list(WBC_SHARES.values())).tolist()
    for subtype in subtypes:
        _lay_alone(plane, subtype, crowd, rng)
    for size in _group_sizes(crowd, rng):
        laid = any(_lay_group(plane, size, crowd, room_for_cells, rng) for _ in range(_TRIES))
        if not laid and size == 1:
            break  # no room is left, and only single cells follow
    for _ in range(crowd.n_platelets):
        _lay_alone(plane, "platelet", crowd, rng)
    return plane.cells


def _group_sizes(crowd: Crowd, rng: np.random.Generator) -> list[int]:
    """Return the sizes of groups of overlapping red cells, largest first, since clumps need room."""
    sizes: list[int] = []
    while sum(sizes) < crowd.clump_share * crowd.n_rbc:
        sizes.append(int(rng.choice([3, 4, 5, 6], p=[0.45, 0.3, 0.15, 0.1])))
    sizes += [2] * round(crowd.pair_share * crowd.n_rbc / 2)
    while sum(sizes) > crowd.n_rbc:
        sizes.pop()
    return sizes + [1] * (crowd.n_rbc - sum(sizes))


def _random_spec(subtype: Subtype, crowd: Crowd, shape: tuple[int, int], rng: np.random.Generator) -> CellSpec:
    low, high = DIAMETER_IN_RBC[subtype]
    size = rng.uniform(low, high)
    elongation = 1 + abs(rng.normal(0, 0.09))
    roughness = 0.025
    if subtype == "erythrocyte":
        size = float(np.clip(rng.normal(1, crowd.anisocytosis), 0.68, 1.35))
        elongation = 1 + abs(rng.normal(0, 0.16))
        roughness = float(np.clip(rng.lognormal(-3.8, 0.5), 0.008, 0.08))
    elif subtype == "platelet":
        elongation, roughness = 1 + abs(rng.normal(0, 0.35)), 0.09
    low_pallor, high_pallor = crowd.pallor
    reach = 0.35 * size * crowd.rbc_diameter_px
    return CellSpec(
        subtype=subtype,
        y=rng.uniform(-reach, shape[0] + reach),
        x=rng.uniform(-reach, shape[1] + reach),
        diameter_px=size * crowd.rbc_diameter_px,
        elongation=float(min(elongation, 1.7)),
        angle=rng.uniform(0, np.pi),
        roughness=roughness,
        pallor=low_pallor + (high_pallor - low_pallor) * rng.random() ** 2,
        density=float(np.clip(rng.lognormal(0, 0.11 if subtype == "erythrocyte" else 0.08), 0.7, 1.5)),
        seed=int(rng.integers(2**31)),
    )


def _lay_alone(plane: _Plane, subtype: Subtype, crowd: Crowd, rng: np.random.Generator) -> None:
    """Place a cell on free glass; give up if there is no room."""
    for _ in range(_TRIES):
        cell = place(_random_spec(subtype, crowd, plane.shape, rng))
        window = plane.window(cell)
        if window is not None and not window[cell.mask].any() and plane.fitted(cell) is not None:
            plane.lay(cell)
            return


def _lay_group(plane: _Plane, size: int, crowd: Crowd, room: NDArray[np.bool_], rng: np.random.Generator) -> bool:
    """Place red cells that overlap each other and no others; all of them or none."""
    spec = _random_spec("erythrocyte", crowd, plane.shape, rng)
    if plane.cells and rng.random() < _TOUCHING_SHARE:
        spec = _beside(spec, plane.cells[rng.integers(len(plane.cells))].spec, rng.uniform(-3, 2), rng)
    if not room[int(np.clip(spec.y, 0, room.shape[0] - 1)), int(np.clip(spec.x, 0, room.shape[1] - 1))]:
        return False
    first = plane.fitted(place(spec))
    if first is None:
        return False
    numbers = [plane.lay(first)]
    for _ in range(size - 1):
        if not any(_lay_over(plane, numbers, crowd, rng) for _ in range(12)):
            plane.take_back(len(numbers))
            return False
    return True


def _lay_over(plane: _Plane, numbers: list[int], crowd: Crowd, rng: np.random.Generator) -> bool:
    """Place another cell of a group over one of its cells, if each of them stays visible."""
    partner = plane.cells[rng.choice(numbers) - 1]
    spec = _random_spec("erythrocyte", crowd, plane.shape, rng)
    depth = rng.uniform(0.12, 0.5) * (spec.diameter_px + partner.spec.diameter_px) / 2
    cell = plane.fitted(place(_beside(spec, partner.spec, -depth, rng)), frozenset(numbers))
    if cell is None:
        return False
    window = plane.window(cell)
    if window is None or (window[cell.mask] > 0).mean() < _LEAST_OVERLAP:
        return False
    added = plane.lay(cell)
    if any(plane.visible_share(plane.cells[n - 1], n) < _LEAST_SEEN for n in numbers):
        plane.take_back(1)
        return False
    numbers.append(added)
    return True


def _beside(spec: CellSpec, other: CellSpec, gap: float, rng: np.random.Generator) -> CellSpec:
    """Move a cell to a random side of another, `gap` pixels from it; negative values overlap."""
    angle = rng.uniform(0, 2 * np.pi)
    distance = (spec.diameter_px + other.diameter_px) / 2 + gap
    return replace(spec, y=other.y + distance * np.sin(angle), x=other.x + distance * np.cos(angle))
