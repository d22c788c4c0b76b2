"""Cells at the edge of a field: densities are those of the smear, whatever the size of the field."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from napari_bloodcell.core.cells import BOX, measure_cells
from napari_bloodcell.core.params import CountParams, Recipe, SegmentParams
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.stages.calibration import SeenField, note_rim
from napari_bloodcell.stages.counting import Counting, count
from napari_bloodcell.stages.surroundings import Surroundings

WIDTH = 20.0
"""Of a red cell, pixels."""
SIDE = 1600
"""Of the smear, pixels; it goes on beyond its edges as it began."""
DIAMETERS = {"RBC": WIDTH, "WBC": 1.8 * WIDTH, "platelet": 0.4 * WIDTH}


@cache
def smear() -> tuple[NDArray[np.int32], NDArray[np.object_]]:
    """Round cells on a jittered grid, twice: labels (Y, X) and the type of each id."""
    rng = np.random.default_rng(7)
    step, jitter = 40, 2
    labels, types = np.zeros((SIDE, SIDE), np.int32), [""]
    for row in range(SIDE // step):
        for column in range(SIDE // step):
            number = (3 * row + 7 * column) % 10
            kind = "WBC" if number == 0 else "platelet" if number in (4, 7) else "RBC"
            y, x = step * np.array([row, column]) + rng.uniform(-jitter, jitter, 2)
            radius = DIAMETERS[kind] / 2 * rng.uniform(0.92, 1.0)
            reach = int(radius) + 2
            ys, xs = np.arange(int(y) - reach, int(y) + reach + 1), np.arange(int(x) - reach, int(x) + reach + 1)
            inside = (ys[:, None] - y) ** 2 + (xs[None] - x) ** 2 <= radius**2
            rows, columns = np.nonzero(inside)
            labels[ys[rows] % SIDE, xs[columns] % SIDE] = len(types)
            types.append(kind)
    return np.tile(labels, (2, 2)), np.array(types, object)


def calibration(outside: str = "") -> Calibration:
    return Calibration(WIDTH, (230.0, 230.0, 230.0), 200.0, outside=outside)


def found_in(cells: NDArray[np.int32], seen: Calibration) -> pd.DataFrame:
    """The table of what the program would find: without slivers, of which too little shows."""
    table = measure_cells(cells)
    table["cell_type"] = smear()[1][table.index]
    box = table[list(BOX)].to_numpy()
    sides, least = box[:, 2:] - box[:, :2], SegmentParams().edge_visible_min * WIDTH
    cut = (box[:, :2] == 0) | (box[:, 2:] == cells.shape)
    table = table[~(cut & (sides < least)).any(1)].copy()
    note_rim(table, seen)
    return table


@dataclass(frozen=True)
class Seen:
    """A field of the smear, with what is found in it."""

    table: pd.DataFrame
    field: SeenField

    def count(self, edges: str) -> Counting:
        params = CountParams(rule="none", edges=edges)  # type: ignore[arg-type]
        return count(self.table, params=params, rbc_diameter_px=WIDTH, field=self.field)


@cache
def fields(n: int, least: int, most: int, *, is_round: bool = False) -> list[Seen]:
    """Fields at random places, of so many red cells' widths a side."""
    rng, found = np.random.default_rng(1), []
    for _ in range(n):
        height, width = (rng.uniform(least, most, 2) * WIDTH).astype(int)
        top, left = rng.integers(0, SIDE, 2)
        cells, outside = smear()[0][top : top + height, left : left + width], ""
        if is_round:
            y, x = np.mgrid[:height, :width] + 0.5
            dark = (2 * y / height - 1) ** 2 + (2 * x / width - 1) ** 2 > 1
            cells, outside = np.where(dark, 0, cells), Surroundings(cells.shape, dark).to_text()
        seen = calibration(outside)
        found.append(Seen(found_in(cells, seen), SeenField.of(cells.shape, seen, SegmentParams(), 0.25)))
    return found


def density_over_truth(seen: list[Seen], edges: str, kinds: tuple[str, ...] = tuple(DIAMETERS)) -> float:
    """The mean density of fields, weighted by their areas, by the smear's."""
    counted = [one.count(edges) for one in seen]
    cells = sum(c.counted.get(kind, 0) for c in counted for kind in kinds)
    area_px = sum(c.area_mm2 or 0 for c in counted) / (0.25**2 * 1e-6)
    return float(cells / area_px / (np.isin(smear()[1], kinds).sum() / SIDE**2))


def test_the_mean_density_of_200_small_fields_is_that_of_the_smear() -> None:
    assert density_over_truth(fields(200, 5, 20), "frame") == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("kind", list(DIAMETERS))
def test_it_is_so_for_large_and_for_small_cells(kind: str) -> None:
    assert density_over_truth(fields(200, 5, 20), "frame", (kind,)) == pytest.approx(1, abs=0.03)


def test_counting_every_cell_seen_gives_too_many_and_whole_cells_alone_too_few() -> None:
    assert density_over_truth(fields(200, 5, 20), "all") > 1.05
    assert density_over_truth(fields(200, 5, 20), "inside") < 0.93


def test_the_mean_density_of_round_fields_is_that_of_the_smear() -> None:
    seen = fields(60, 13, 15, is_round=True)
    assert density_over_truth(seen, "frame") == pytest.approx(1, abs=0.01)
    assert density_over_truth(seen, "all") > 1.04


def square(y: int, x: int, side: int = 10) -> NDArray[np.int32]:
    cells = np.zeros((100, 120), np.int32)
    cells[max(y, 0) : y + side, max(x, 0) : x + side] = 1
    return cells


@pytest.mark.parametrize(
    ("y", "x", "counts"),
    [(40, 40, True), (-2, 40, True), (40, -2, True), (92, 40, False), (40, 112, False), (92, -2, False)],
)
def test_a_cell_that_touches_the_top_or_left_counts_and_one_at_the_right_or_bottom_does_not(
    y: int, x: int, counts: bool
) -> None:
    table = measure_cells(square(y, x), cell_type=["RBC"])
    field = SeenField.of((100, 120), calibration(), SegmentParams(), None)
    counting = count(table, field=field)
    assert counting.counts["RBC"] == 1
    assert counting.counted["RBC"] == int(counts)
    assert counting.counted_ids.tolist() == ([1] if counts else [])


def test_shares_are_of_the_cells_that_count() -> None:
    cells = np.zeros((100, 120), np.int32)
    cells[40:50, 40:50], cells[60:70, 40:50], cells[40:50, 110:120] = 1, 2, 3
    table = measure_cells(cells, cell_type=["WBC"] * 3, subtype=["neutrophil", "lymphocyte", "lymphocyte"])
    field = SeenField.of((100, 120), calibration(), SegmentParams(), None)
    assert count(table, field=field).differential == {"neutrophil": 50.0, "lymphocyte": 50.0}
    every = count(table, params=CountParams(edges="all"), field=field)
    assert every.differential["lymphocyte"] == pytest.approx(200 / 3)


def test_numbers_say_which_cells_they_are_of() -> None:
    table = measure_cells(square(40, 40), cell_type=["RBC"])
    field = SeenField.of((100, 120), calibration(), SegmentParams(), 0.25)
    assert count(table, field=field).edges == "frame"
    assert count(table, params=CountParams(edges="inside"), field=field).edges == "inside"
    assert count(table, area_mm2=1.0).edges == "all"  # nothing tells where the edges are


def test_the_paper_counts_every_cell() -> None:
    assert Recipe.paper().count.edges == "all"
    assert Recipe().count.edges == "frame"
