"""What people changed in another program: outlines that came back, beside the cells of a result."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_bloodcell.core.cells import BOX, CENTROID
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.geometry import Box, box_of_mask, slices_of
from napari_bloodcell.core.outlines import box_of_rings, fill
from napari_bloodcell.corrections.correction import SAME_FROM
from napari_bloodcell.results.exchange.features import Feature
from napari_bloodcell.results.exchange.geojson import class_names, feature_id
from napari_bloodcell.stages.calibration import DEFAULT_DIAMETER_PX

_AT_ONCE = 500  # features compared together
_NEARLY = 1e-6  # pixels by which the middle of an outline that nobody touched may differ
LARGEST_CELL = 20.0
"""An annotation with a class, larger than this many red cells, is no cell but a region."""
MOST_MISSING = 0.5
"""If more than this share of the cells is missing in a file, it is taken for an export of a few objects."""


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """A cell that a person outlined anew: its mask (h, w) within a box.

    `label` is the id of the cell that it was, 0 if it was drawn. `to_type` is the type that the person gave it, with
    its kind, "" if they left what it had.
    """

    label: int
    box: Box
    mask: NDArray[np.bool_]
    to_type: str


@dataclass(slots=True)
class Changes:
    """What differs between a file and a result.

    `retyped` maps ids to types, with their kinds; `outlines` are cells that were edited or drawn; `missing` are ids
    that the file lacks. `regions` are annotations that are no cells, each a list of rings of (x, y). `n_unread` objects
    enclose no area.
    """

    n_same: int = 0
    n_known: int = 0
    retyped: dict[int, str] = field(default_factory=dict)
    outlines: list[Outline] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    regions: list[list[Any]] = field(default_factory=list)
    n_unread: int = 0


def is_region(feature: Feature, area_px: float, rbc_diameter_px: float) -> bool:
    """Return whether an object is an annotation that is no cell: without a class, of the class Region*, or large."""
    if feature.kind != "annotation":
        return False
    largest_px = LARGEST_CELL * math.pi / 4 * rbc_diameter_px**2
    return not feature.class_name or feature.class_name.startswith("Region") or area_px > largest_px


def iter_regions(features: Iterable[Feature], rbc_diameter_px: float = DEFAULT_DIAMETER_PX) -> Iterator[Feature]:
    """Yield the objects with an area that are regions."""
    for feature in features:
        if feature.rings and is_region(feature, float(_measure([feature])[0, 0]), rbc_diameter_px):
            yield feature


class Comparison:
    """Compares the outlines of a file with the cells (Y, X) of a result and their table, in memory or on disk."""

    def __init__(self, cells: Any, table: pd.DataFrame, *, image_id: str, rbc_diameter_px: float) -> None:
        self.cells, self.table = cells, table
        self.changes = Changes()
        self._image_id = image_id
        self._rbc_diameter_px = rbc_diameter_px
        self._ids = table.index.to_numpy(np.int64)
        self._is_seen = np.zeros(len(table), bool)
        self._classes = class_names(table)
        self._columns = [table[name].to_numpy(np.float64) for name in ("area_px", *CENTROID, *BOX)]
        self._by_feature: dict[str, int] = {}

    def add(self, features: Iterable[Feature]) -> Iterator[int]:
        """Compare features, and yield after some how many were."""
        remaining, done = iter(features), 0
        while some := list(islice(remaining, _AT_ONCE)):
            self._add(some)
            done += len(some)
            yield done

    def finish(self, *, delete_missing: bool | None) -> Changes:
        """Return what differs; cells that the file lacks were deleted, unless there are too many or `delete_missing`.

        Raises `InputError` if most cells are missing and nobody said what that means.
        """
        missing = self._ids[~self._is_seen].tolist()
        if not self.changes.n_known or delete_missing is False:
            missing = []
        if delete_missing is None and len(missing) > MOST_MISSING * len(self._ids):
            raise InputError(
                f"{len(missing):,} of {len(self._ids):,} cells are not in the file: it looks like an export of some "
                "objects. Say whether these cells were deleted (delete_missing=True, --delete-missing) or are to stay "
                "(False, --keep-missing)."
            )
        self.changes.missing = missing
        return self.changes

    def _add(self, features: Sequence[Feature]) -> None:
        with_area = [f for f in features if f.rings]
        self.changes.n_unread += len(features) - len(with_area)
        measured = _measure(with_area)
        rows = np.array([self._row_of(f) for f in with_area], np.int64)
        is_same = np.zeros(len(with_area), bool)
        known = np.flatnonzero(rows >= 0)
        if len(known):
            mine = np.stack([column[rows[known]] for column in self._columns], 1)
            is_same[known] = (np.abs(mine - measured[known]) < _NEARLY).all(1)
        for feature, row, same, area in zip(with_area, rows.tolist(), is_same.tolist(), measured[:, 0], strict=True):
            if row >= 0 and self._is_seen[row]:  # a copy, or a piece that was cut off
                if not same:
                    self._add_outline(feature, -1)
            elif same:
                self._take(row, feature, None)
            elif row < 0 and is_region(feature, float(area), self._rbc_diameter_px):
                self.changes.regions.append(feature.rings)
            else:
                self._add_outline(feature, row)

    def _row_of(self, feature: Feature) -> int:
        """Return the row of the cell that a feature was written for; -1 if it is none of them."""
        if feature.name.isdecimal() and len(feature.name) < 11:  # the name that was written
            row = self._row(int(feature.name))
            if row >= 0 and feature.id == feature_id(self._image_id, int(feature.name)):
                return row
        if not feature.id or feature.kind == "annotation":
            return -1
        if not self._by_feature:  # somebody renamed cells
            self._by_feature = {feature_id(self._image_id, i): row for row, i in enumerate(self._ids.tolist())}
        return self._by_feature.get(feature.id, -1)

    def _row(self, label: int) -> int:
        place = int(np.searchsorted(self._ids, label))
        return place if place < len(self._ids) and self._ids[place] == label else -1

    def _add_outline(self, feature: Feature, row: int) -> None:
        shape = self.cells.shape
        box = box_of_rings(feature.rings, shape)
        mask = fill(feature.rings, box)
        inner = box_of_mask(mask, box[:2])
        if inner is None:
            self.changes.n_unread += 1
            return
        mask, box = mask[slices_of(inner, box[:2])], inner
        if row < 0:
            row = self._most_alike(mask, box)
        if row < 0:
            self.changes.outlines.append(Outline(0, box, mask, feature.class_name))
        else:
            self._take(row, feature, None if self._is_whole(mask, box, row) else (box, mask))

    def _take(self, row: int, feature: Feature, outline: tuple[Box, NDArray[np.bool_]] | None) -> None:
        """Note a cell that came back."""
        label = int(self._ids[row])
        self.changes.n_known += 1
        self._is_seen[row] = True
        to_type = "" if feature.class_name == self._classes[row] else feature.class_name
        if outline is not None:
            self.changes.outlines.append(Outline(label, *outline, to_type))
        elif to_type:
            self.changes.retyped[label] = to_type
        else:
            self.changes.n_same += 1

    def _most_alike(self, mask: NDArray[np.bool_], box: Box) -> int:
        """Return the row of the cell, not seen yet, whose IoU is the highest and above `SAME_FROM`; -1 for none."""
        under = np.asarray(self.cells[slices_of(box)])[mask]
        labels, overlaps = np.unique(under[under > 0], return_counts=True)
        best, area = (SAME_FROM, -1), int(mask.sum())
        for label, overlap in zip(labels.tolist(), overlaps.tolist(), strict=True):
            row = self._row(label)
            if row >= 0 and not self._is_seen[row]:
                best = max(best, (overlap / (self._columns[0][row] + area - overlap), row))
        return best[1]

    def _is_whole(self, mask: NDArray[np.bool_], box: Box, row: int) -> bool:
        """Return whether a mask is exactly a cell."""
        area = int(mask.sum())
        own = np.asarray(self.cells[slices_of(box)]) == self._ids[row]
        return bool(area == self._columns[0][row] == np.count_nonzero(own & mask))


def _corners(rings: Sequence[Any]) -> NDArray[np.float64]:
    """Return the corners (x, y) of all rings, one after another; some programs add a third number."""
    corners = list(chain.from_iterable(rings))
    if set(map(len, corners)) != {2}:
        corners = [corner[:2] for corner in corners]
    return np.fromiter(chain.from_iterable(corners), np.float64, 2 * len(corners)).reshape(-1, 2)


def _measure(features: Sequence[Feature]) -> NDArray[np.float64]:
    """Return area, middle (y, x) and box (y0, x0, y1, x1) of each feature, (N, 7), pixels."""
    rings = [ring for feature in features for ring in feature.rings]
    n = np.array([len(ring) for ring in rings], np.int64)
    found = np.zeros((len(features), 7))
    if not len(rings):
        return found
    x, y = _corners(rings).T
    start = np.cumsum(n) - n
    after = np.arange(len(x)) + 1
    after[start + n - 1] = start
    cross = x * y[after] - x[after] * y
    sign = np.where([hole for feature in features for hole in feature.is_hole], -1.0, 1.0)
    sums = np.stack([cross * 3, (y + y[after]) * cross, (x + x[after]) * cross], 1)
    per_ring = np.add.reduceat(sums, start, axis=0) / 6
    per_ring *= np.sign(per_ring[:, :1]) * sign[:, None]
    first = np.cumsum([0, *(len(feature.rings) for feature in features)])[:-1]
    found[:, :3] = np.add.reduceat(per_ring, first, axis=0)
    found[:, 1:3] = found[:, 1:3] / np.where(found[:, :1] > 0, found[:, :1], np.inf) - 0.5
    low = np.stack([np.minimum.reduceat(v, start) for v in (y, x)], 1)
    high = np.stack([np.maximum.reduceat(v, start) for v in (y, x)], 1)
    found[:, 3:5], found[:, 5:] = np.minimum.reduceat(low, first), np.maximum.reduceat(high, first)
    return found
