"""The numbers of the Count dock, without Qt."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from napari.layers import Labels
from numpy.typing import NDArray

from napari_bloodcell.core.cells import BOX, RBC, WBC, centroids_of
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.files import csv_text
from napari_bloodcell.core.params import CountParams
from napari_bloodcell.napari.layers.features import INDEX, PLANE, rows_of, to_table
from napari_bloodcell.napari.layers.images import pixel_size_um
from napari_bloodcell.napari.layers.links import full_resolution, info_of, known_calibration_of
from napari_bloodcell.napari.layers.regions import Region
from napari_bloodcell.napari.layers.results import recipe_of
from napari_bloodcell.results.plot import draw_kde
from napari_bloodcell.stages.calibration import SeenField
from napari_bloodcell.stages.counting import ERYTHROBLAST, Counting, count, is_white
from napari_bloodcell.stages.red_cells.shapes import INFECTED

FEWEST_WBC: Final = 100
"""Fewest white cells for a differential; below that, its percentages are mostly chance."""
HEADER: Final = (
    *("type", "regions", "cells", "low_95", "high_95", "cells_per_mm2", "percent_of_wbc"),
    *("image", "region", "rule", "thresholds_px2", "pixel_size_um", "segment_model", "classify_model", "counted_at"),
)


@dataclass(frozen=True, slots=True)
class CountRow:
    """A line of the table of counts; None where a value is unknown or does not apply."""

    cell_type: str
    regions: int  # as segmented
    cells: int  # corrected for overlap
    interval: tuple[int, int] | None  # 95 %, of `cells`; None where counting leaves no doubt
    per_mm2: float | None
    percent: float | None  # of the white cells in the differential


@dataclass(frozen=True, slots=True)
class Origin:
    """What was counted: image, region, the models (name and hash) that found and typed the cells, and when (UTC)."""

    image: str
    region: str
    segment_model: str
    classify_model: str
    counted_at: str

    @property
    def models_and_time(self) -> tuple[str, str, str]:
        """The last columns of the table."""
        return self.segment_model, self.classify_model, self.counted_at


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """The counts of a layer, or of a region of it."""

    counting: Counting
    rows: list[CountRow]
    rbc_ids: NDArray[np.int64]  # (N,), ids of the regions in `counting.areas`
    n_cells: int  # in the layer
    n_counted: int  # in the region
    pixel_size_um: float | None
    area_mm2: float | None  # of what was counted
    origin: Origin

    @property
    def n_white(self) -> int:
        """White cells of all classes."""
        return sum(row.cells for row in self.rows if is_white(row.cell_type))

    @property
    def scope(self) -> str:
        """How much was counted, if not everything or if the area is known; else ""."""
        parts = []
        if self.n_counted != self.n_cells:
            parts.append(f"{self.n_counted:,} of {self.n_cells:,} regions")
        if self.area_mm2:
            parts.append(f"{self.area_mm2:.4g} mm²")
        return f"Counted: {', '.join(parts)}." if parts else ""

    @property
    def population(self) -> str:
        """Sizes of the single red cells, in a line; "" for fewer than two."""
        found = self.counting.population
        return "" if found is None else found.sentence(self.pixel_size_um)

    @property
    def warning(self) -> str:
        """Reasons for caution about the numbers; "" if there are none."""
        if self.n_cells and not any(row.cells for row in self.rows if row.cell_type != "unidentified"):
            return "These cells have no types yet: classify them, then they are counted by type."
        told = list(self.counting.doubts)
        thresholds = self.counting.thresholds
        if (np.diff(thresholds) == 0).any():
            jumps = sorted({float(t) for t in thresholds if (thresholds == t).sum() > 1})
            told += [self._jump(area) for area in jumps]
        if self.counting.differential:
            n_in_it = self.counting.n_in_differential
            n_without = self.n_white - n_in_it - self.counting.kinds.get(ERYTHROBLAST, 0)
            if n_without > 0:
                told.append(f"The differential leaves out {n_without:,} white cells without a class.")
            if n_in_it < FEWEST_WBC:
                told.append(
                    f"The differential rests on {n_in_it} white cells; count at least {FEWEST_WBC} "
                    "before you rely on its percentages."
                )
        return " ".join(told)

    def _jump(self, area: float) -> str:
        """Explain coinciding thresholds: at this area a region becomes several cells at once."""
        cells = np.flatnonzero(self.counting.thresholds == area) + 2
        size = f"{area:.0f} px²" if self.pixel_size_um is None else f"{area * self.pixel_size_um**2:.0f} µm²"
        skipped = " or ".join(str(n) for n in cells[:-1])
        return f"From {size} on a region is {cells[-1]} cells; {skipped} is at no area the likeliest."

    def ids_between(self, low: float, high: float) -> NDArray[np.int64]:
        """Return the ids of the RBC regions with an area, pixels², in a range."""
        areas = self.counting.areas
        return self.rbc_ids[(areas >= low) & (areas <= high)]

    def to_text(self, *, delimiter: str = ",") -> str:
        """Return the table of counts with a header, for a file or the clipboard."""
        stream = io.StringIO()
        writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
        writer.writerow(HEADER)
        thresholds = " ".join(f"{area:.6g}" for area in self.counting.thresholds)
        said = (self.counting.rule, thresholds, self.pixel_size_um)
        for row in self.rows:
            low, high = row.interval or (None, None)
            per_mm2 = None if row.per_mm2 is None else f"{row.per_mm2:.6g}"
            percent = None if row.percent is None else f"{row.percent:.1f}"
            numbers = [csv_text(row.cell_type), row.regions, row.cells, low, high, per_mm2, percent]
            origin = [csv_text(self.origin.image), self.origin.region]
            writer.writerow([*numbers, *origin, *said, *self.origin.models_and_time])
        return stream.getvalue()


@dataclass(frozen=True, slots=True, eq=False)
class CountTask:
    """What a count needs of a layer, so that it can run in any thread."""

    features: pd.DataFrame
    params: CountParams
    region: Region | None  # only cells whose centroid lies in it
    plane: int | None  # only this plane of a stack
    rbc_diameter_px: float | None
    pixel_size_um: float | None
    field: SeenField
    origin: Origin

    @classmethod
    def of(
        cls,
        cells_layer: Labels,
        *,
        params: CountParams | None = None,
        region: Region | None = None,
        plane: int | None = None,
        where: str = "",
    ) -> Self:
        """Return the task of counting a layer: quick, however many cells there are.

        `params` are by default those of the layer's recipe; `where` names the region in a saved table. Raises
        `InputError` if the layer has no cell table.
        """
        features = cells_layer.features
        if INDEX not in features.columns or "cell_type" not in features.columns:
            raise InputError(f"The layer {cells_layer.name!r} has no table of cells. Segment the image first.")
        recipe, calibration = recipe_of(cells_layer), known_calibration_of(cells_layer)
        size = pixel_size_um(cells_layer) or recipe.segment.pixel_size_um
        return cls(
            features=features.copy(deep=False),
            params=params or recipe.count,
            region=region,
            plane=plane,
            rbc_diameter_px=None if calibration is None else calibration.rbc_diameter_px,
            pixel_size_um=size,
            field=SeenField.of(
                full_resolution(cells_layer).shape, calibration, recipe.segment, size, outline=region, plane=plane
            ),
            origin=_origin_of(cells_layer, where or "whole image"),
        )

    @property
    def n_cells(self) -> int:
        """Rows of the table, background included."""
        return len(self.features)

    def run(self) -> Counted:
        """Count; raise `InputError` if something cannot be counted."""
        wanted = ("cell_type", "subtype", "abnormal", "area_px", "touches_edge", PLANE, *BOX)
        table = to_table(self.features, wanted)
        n_cells, candidates = len(table), table
        if self.region is not None or self.plane is not None:
            table = table[_is_counted(self.features, self.region, self.plane)]
        counting = count(
            table,
            params=self.params,
            rbc_diameter_px=self.rbc_diameter_px,
            field=self.field,
            candidates=candidates,
        )
        ids = table.index.to_numpy(np.int64)[(table["cell_type"] == RBC).to_numpy(bool)]
        rows = _rows(counting)
        return Counted(
            counting, rows, ids, n_cells, len(table), self.pixel_size_um, self.field.area_mm2("all"), self.origin
        )


def note_cells_in_region(cells_layer: Labels, counted: Counted) -> None:
    """Store how many cells each counted region is in the features, without an event: nothing shown changes."""
    features = cells_layer.features
    column = np.ones(len(features), np.int64)
    column[0] = 0
    if "cells_in_region" in features.columns:
        column = features["cells_in_region"].to_numpy(np.int64, copy=True)
    found = counted.counting.cells_in_region
    rows = np.searchsorted(features[INDEX].to_numpy(np.int64), found.index.to_numpy(np.int64))
    column[rows] = found.to_numpy(np.int64)
    features["cells_in_region"] = column


def _origin_of(cells_layer: Labels, region: str) -> Origin:
    info = info_of(cells_layer)
    models = info.get("models") or {}
    segment, classify = (_model_in_words(models.get(stage) or {}) for stage in ("segment", "classify"))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Origin(str(info.get("image") or cells_layer.name), region, segment, classify, now)


def _model_in_words(model: Mapping[str, str]) -> str:
    """Return a model's name and the start of its hash: "embedded (1f2e3d4c)"."""
    name, sha256 = model.get("name") or "unknown", model.get("sha256") or ""
    return f"{name} ({sha256[:8]})" if sha256 else name


def save_histogram(path: Path, counted: Counted) -> None:
    """Save the histogram on white, for print: .png, .svg or .pdf."""
    figure = Figure(figsize=(8, 5), layout="constrained", facecolor="white")
    draw_kde(counted.counting, figure.add_subplot(), pixel_size_um=counted.pixel_size_um)
    figure.savefig(path, dpi=160)


def area_of_cell(features: pd.DataFrame, cell: int) -> tuple[float, str] | None:
    """Return area, pixels², and type of a cell from the features, or None if it is not there."""
    rows = rows_of(features, [cell])
    if not len(rows):
        return None
    return float(features["area_px"].to_numpy()[rows[0]]), str(features["cell_type"].iat[rows[0]] or "")


def _is_counted(features: pd.DataFrame, region: Region | None, plane: int | None) -> NDArray[np.bool_]:
    """Return which cells lie in the region and on the plane."""
    rows = features[INDEX].to_numpy() != 0
    planes = features[PLANE].to_numpy(np.int64)[rows] if PLANE in features.columns else None
    counted = np.ones(int(rows.sum()), bool)
    if plane is not None and planes is not None:
        counted &= planes == plane
    if region is not None:
        counted &= region.contains(centroids_of(features)[rows], planes)
    return counted


def _rows(counting: Counting) -> list[CountRow]:
    """Return a row per type, and, where a model told the kinds of white cells, one per kind, with its percentage."""
    per_mm2: dict[str, Any] = dict(counting.per_mm2 or {})
    is_told = any(n > counting.counts.get(kind, 0) for kind, n in counting.kinds.items())
    percent = counting.differential
    rows = [
        CountRow(
            name,
            counting.uncorrected[name],
            cells,
            counting.interval if name == RBC else None,
            per_mm2.get(name),
            None if is_told else percent.get(name),
        )
        for name, cells in counting.counts.items()
    ]
    kinds = counting.kinds.items() if is_told else ()
    rows += [CountRow(f"{WBC}: {kind}", n, n, None, None, percent.get(kind)) for kind, n in kinds]
    shapes = counting.morphology_table
    rows += [CountRow(f"{RBC}: {kind}", n, n, None, None, p) for kind, n, p in shapes[["n", "percent"]].itertuples()]
    n_infected, n_red = counting.red_kinds.get(INFECTED, 0), counting.counts[RBC]
    if n_infected and n_red:
        rows.append(CountRow(f"{RBC}: {INFECTED}", n_infected, n_infected, None, None, 100 * n_infected / n_red))
    return rows
