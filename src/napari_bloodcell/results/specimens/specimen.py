"""A specimen: the fields of one smear, pooled to one answer."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_bloodcell.core.cells import KINDS, PLATELET, RBC, WBC, with_later
from napari_bloodcell.core.errors import InputError, ResultWarning, escaped
from napari_bloodcell.core.statistics import Estimate
from napari_bloodcell.corrections.cell_types import CellTypes
from napari_bloodcell.corrections.journal import Journal, place
from napari_bloodcell.results.files import RECIPE
from napari_bloodcell.results.result import Result
from napari_bloodcell.results.specimens.doubts import doubts_about_fields, doubts_about_journal, listed
from napari_bloodcell.results.specimens.shares import density_of, ratio_of, share_of
from napari_bloodcell.results.store import read_result
from napari_bloodcell.stages.calibration import LEAST_CONFIDENCE, RBC_DIAMETER_UM, SeenField
from napari_bloodcell.stages.counting import ERYTHROBLAST, OUTSIDE
from napari_bloodcell.stages.red_cells.shapes import in_order, morphology_table, read_grades

SIZE_BIN_UM, SIZE_MOST_UM = 0.25, 15.0
"""Classes of the distribution of sizes, micrometres."""
PIXEL_SIZE, RED_CELL = "pixel size", "red cell"
"""Rulers: the µm per pixel that was given, or a red cell's width, taken as 7.5 µm."""


@dataclass(frozen=True, eq=False)
class Specimen:
    """Many fields of one smear with their pooled numbers.

    Everything is derived from `results` when it is first asked for, so the pooled numbers are sums over the fields.

    Attributes
    ----------
    name : str
        As the user gave it.
    results : tuple of Result
        The fields, each image once, in the order given.
    field_names : tuple of str
        A name for each, unique.
    warnings : tuple of str
        Why the pooled numbers are not to be trusted as they are, in sentences for people.

    Notes
    -----
    `counts` are of all cells seen. Everything per area and every share is made of `counted`, the cells of the unbiased
    frame (`CountParams.edges`), and has a 95 % interval that grows where fields differ more than chance would have it.
    """

    name: str
    results: tuple[Result, ...]
    field_names: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @cached_property
    def counts(self) -> dict[str, int]:
        """Cells per type, RBC after correction for overlap: the sum over the fields."""
        return self._total("counts")

    @cached_property
    def uncorrected(self) -> dict[str, int]:
        """Regions per type: the sum over the fields."""
        return self._total("uncorrected")

    @cached_property
    def counted(self) -> dict[str, int]:
        """Cells per type of the unbiased frames: the sum over the fields."""
        return self._total("counted")

    @cached_property
    def kinds(self) -> dict[str, int]:
        """White cells of each kind in the frames, in the order of a differential."""
        found = self._total("kinds")
        order = [*(name for name in KINDS[WBC] if name in found), *(name for name in found if name not in KINDS[WBC])]
        return {name: found[name] for name in order}

    @cached_property
    def fields(self) -> pd.DataFrame:
        """The fields: index `field`; a row each.

        Columns: `folder`, `image_sha256`, `height`, `width` (pixels), `pixel_size_um`, `rbc_diameter_px`,
        `scale_confidence`, `smear_confidence`, `ruler` ("pixel size", "red cell" or ""), `area_mm2` (of the frame), a
        column a type with its cells, one with `_counted` for those of the frame, `WBC_` and the kind for each kind,
        `quality` (verdict on the field, "" if it is not known), `share_good` (of its area), a column a type with
        `_good` for its cells in good places, `n_corrected` (cells that people typed), `n_failed_tiles` and `warnings`.
        """
        rows = []
        for result in self.results:
            counting, (ruler, area) = result.counting, _area_of(result)
            height, width = result.cells.shape[-2:]
            row: dict[str, Any] = {
                "folder": "" if result.folder is None else str(result.folder),
                "image_sha256": result.image_sha256,
                "height": int(height),
                "width": int(width),
                "pixel_size_um": np.nan if result.pixel_size_um is None else result.pixel_size_um,
                "rbc_diameter_px": result.calibration.rbc_diameter_px,
                "scale_confidence": result.calibration.scale_confidence,
                "smear_confidence": result.calibration.smear_confidence,
                "ruler": ruler,
                "area_mm2": np.nan if area is None else area,
            }
            row |= {name: counting.counts.get(name, 0) for name in self.counts}
            row |= {f"{name}_counted": counting.counted.get(name, 0) for name in self.counts}
            row |= {f"{WBC}_{kind}": counting.kinds.get(kind, 0) for kind in self.kinds}
            good = result.counts_in_good
            row["quality"] = "" if result.quality is None else result.quality.verdict
            row["share_good"] = np.nan if result.quality is None else result.quality.share_good
            row |= {f"{name}_good": np.nan if good is None else good.get(name, 0) for name in self.counts}
            row["n_corrected"] = int((result.table["type_source"] == "user").sum())
            row["n_failed_tiles"] = len(result.failed_tiles)
            row["warnings"] = " ".join(result.warnings)
            rows.append(row)
        return pd.DataFrame(rows, index=pd.Index(self.field_names, name="field"))

    @property
    def n_fields(self) -> int:
        """How many there are."""
        return len(self.results)

    @cached_property
    def area_mm2(self) -> float | None:
        """Area of all frames, mm²; None if it is known of no field."""
        known = self.fields["area_mm2"].dropna()
        return float(known.sum()) if len(known) else None

    @cached_property
    def ruler(self) -> str:
        """What the area was measured with: "pixel size", "red cell", both joined by "and", or ""."""
        return " and ".join(sorted(set(self.fields["ruler"]) - {""}))

    @cached_property
    def intervals(self) -> dict[str, tuple[int, int]]:
        """95 % interval of `counts` by type, where there is one, from overlap alone: missed cells are not in it."""
        found = [result.counting.interval for result in self.results]
        if any(one is None for one in found):
            return {}
        total, ends = self.counts[RBC], np.array(found, np.float64)
        own = np.array([result.counting.counts[RBC] for result in self.results], np.float64)
        low, high = np.hypot.reduce(own - ends[:, 0]), np.hypot.reduce(ends[:, 1] - own)
        return {RBC: (round(total - low), round(total + high))}

    @cached_property
    def densities(self) -> pd.DataFrame:
        """Cells per mm²: index type; `n` (of the frames with a known area), `per_mm2`, `low`, `high`."""
        known = self.fields[self.fields["area_mm2"].notna()]
        found = {name: known[f"{name}_counted"] for name in self.counts}
        rows = [(int(n.sum()), *_numbers(density_of(n, known["area_mm2"]))) for n in found.values()]
        index = pd.Index(list(found), name="type", dtype=object)
        return pd.DataFrame(rows, index=index, columns=["n", "per_mm2", "low", "high"])

    @cached_property
    def differential(self) -> pd.DataFrame:
        """White cells: index kind; `n`, `percent` of those counted, `low` and `high`.

        Erythroblasts and unidentified cells have a number and no percentage.
        """
        names = [kind for kind in self.kinds if kind not in OUTSIDE]
        whole = self.fields[[f"{WBC}_{kind}" for kind in names]].sum(axis=1)
        rows = []
        for kind, n in self.kinds.items():
            part = self.fields[f"{WBC}_{kind}"]
            rows.append((n, *(_numbers(share_of(part, whole).times(100)) if kind in names else [np.nan] * 3)))
        index = pd.Index(list(self.kinds), name="kind", dtype=object)
        return pd.DataFrame(rows, index=index, columns=["n", "percent", "low", "high"]).astype({"n": "int64"})

    @property
    def n_in_differential(self) -> int:
        """White cells that make up its 100 %."""
        return sum(n for kind, n in self.kinds.items() if kind not in OUTSIDE)

    @cached_property
    def morphology(self) -> pd.DataFrame:
        """Shapes of red cells: index kind; `n`, `percent`, `low`, `high`, and `grade`, "" for none."""
        kinds = in_order(self._total("red_kinds"))
        grades = read_grades(self.results[0].counting.grades) if kinds else {}
        table = morphology_table(kinds, grades)[["n", "percent", "low", "high", "grade"]]
        of_fields = pd.DataFrame([result.counting.red_kinds for result in self.results], columns=list(kinds)).fillna(0)
        whole = of_fields.sum(axis=1)
        for kind in kinds:
            table.loc[kind, ["percent", "low", "high"]] = _numbers(share_of(of_fields[kind], whole).times(100))
        return table

    @cached_property
    def parasitaemia(self) -> Estimate | None:
        """Infected red cells in percent of all, of the fields in which somebody looked for them; None for none."""
        told = [one for result in self.results if (one := result.parasitaemia) is not None]
        if not told:
            return None
        return share_of([one["infected"] for one in told], [one["red_cells"] for one in told]).times(100)

    @cached_property
    def diameters_um(self) -> NDArray[np.float64]:
        """Widths of single whole red cells, micrometres, (N,): those of circles of the same area.

        Where the size of a pixel is not known, the typical cell of a field is taken as 7.5 µm.
        """
        found = []
        for result in self.results:
            size = _pixel_size_of(result)[1]
            if size is not None:
                found.append(2 * np.sqrt(result.counting.single_areas / np.pi) * size)
        return np.concatenate(found) if found else np.empty(0)

    @cached_property
    def sizes(self) -> pd.DataFrame:
        """Distribution of `diameters_um`: index `from_um`; `to_um`, `n`, `percent`, `low`, `high`."""
        edges = np.arange(0, SIZE_MOST_UM + SIZE_BIN_UM, SIZE_BIN_UM)
        found, _ = np.histogram(np.minimum(self.diameters_um, SIZE_MOST_UM - 1e-9), edges)
        shares = [share_of([n], [found.sum()]).times(100) for n in found]
        rows = [(end, int(n), *_numbers(s)) for end, n, s in zip(edges[1:], found, shares, strict=True)]
        index = pd.Index(edges[:-1], name="from_um")
        return pd.DataFrame(rows, index=index, columns=["to_um", "n", "percent", "low", "high"])

    def per_field(self, diameter_um: float) -> pd.DataFrame:
        """Return the cells in one round field of this diameter, micrometres: index type; `per_field`, `low`, `high`.

        A high power field (40×, field number 20) is 500 µm wide, an oil immersion field (100×) 200 µm.
        """
        if not (np.isfinite(diameter_um) and diameter_um > 0):
            raise InputError(f"The field is {diameter_um!r} µm wide; give its diameter in µm, a number above 0.")
        area = np.pi / 4 * diameter_um**2 * 1e-6
        table = self.densities[["per_mm2", "low", "high"]] * area
        return table.rename(columns={"per_mm2": "per_field"})

    @property
    def rbc_per_wbc(self) -> Estimate:
        """Red cells for one white cell."""
        return self.ratio(RBC, WBC)

    @property
    def platelets_per_1000_rbc(self) -> Estimate:
        """Platelets for 1,000 red cells."""
        return self.ratio(PLATELET, RBC).times(1000)

    @property
    def nrbc_per_100_wbc(self) -> Estimate:
        """Erythroblasts for 100 white cells of the differential."""
        names = [f"{WBC}_{kind}" for kind in self.kinds if kind not in OUTSIDE]
        own = self.fields.get(f"{WBC}_{ERYTHROBLAST}", pd.Series(0, self.fields.index))
        return ratio_of(own, self.fields[names].sum(axis=1)).times(100)

    def ratio(self, part: str, of: str) -> Estimate:
        """Return how many cells of one type there are for one of another."""
        return ratio_of(*(self.fields.get(f"{name}_counted", pd.Series(0, self.fields.index)) for name in (part, of)))

    def per_ul(
        self, cell_type: str, factor: float, factor_interval: tuple[float, float], *, field_um: float
    ) -> Estimate:
        """Return cells per µL of blood by a laboratory's own factor: cells per field of `field_um` times `factor`.

        Parameters
        ----------
        cell_type : str
            Such as "WBC" or "platelet".
        factor : float
            Cells per µL for one cell per field, found by the laboratory with an analyser: it holds nowhere else.
        factor_interval : tuple of float
            (low, high), its 95 % interval; it becomes part of that of the result.
        field_um : float
            Diameter of the field that the factor belongs to, micrometres.

        Raises
        ------
        InputError
            If the factor is not within its interval, or the area or the type is not known.
        """
        low, high = factor_interval
        if not (0 < low <= factor <= high < np.inf):
            raise InputError(
                f"The factor {factor!r} with the interval {factor_interval!r} cannot be used: give three numbers above "
                "0, low, factor and high, in rising order."
            )
        if cell_type not in self.counts:
            raise InputError(f"There is no type {cell_type!r} here; there are {', '.join(self.counts)}.")
        if self.area_mm2 is None:
            raise InputError("The area of no field is known. Give pixel_size_um when the fields are analysed.")
        table = self.per_field(field_um)
        value, own_low, own_high = (float(table[name][cell_type]) for name in ("per_field", "low", "high"))
        if not value:
            return Estimate(0.0, 0.0, own_high * high)
        below = np.hypot(np.log(value / own_low), np.log(factor / low))
        above = np.hypot(np.log(own_high / value), np.log(high / factor))
        middle = value * factor
        return Estimate(middle, middle * float(np.exp(-below)), middle * float(np.exp(above)))

    def _total(self, what: str) -> dict[str, int]:
        total: Counter[str] = Counter()
        for result in self.results:
            total.update(getattr(result.counting, what))
        return dict(total)


def pool(
    results: Result | str | Path | Iterable[Result | str | Path],
    *,
    name: str = "specimen",
    journal: Journal | str | Path | None = None,
) -> Specimen:
    """Pool the results of the fields of one smear.

    Parameters
    ----------
    results : Result, path, or iterable of them
        Results or their folders; a folder of results stands for all results in it. An image given twice counts once.
    name : str
        Of the specimen.
    journal : Journal or path, optional
        Corrections of types that replace those of the tables; those that were saved with a result are in its table.

    Returns
    -------
    Specimen
        With the doubts about it in `warnings`.

    Raises
    ------
    InputError
        If there is no result, or a damaged one.

    Warns
    -----
    ResultWarning
        For each of the specimen's warnings: fields of another magnification or stain, other settings, models or
        versions of the program, no area, a single field, a journal of other images.
    """
    specimen = specimen_of(results, name=name, journal=journal)
    for sentence in specimen.warnings:
        warnings.warn(f"{name}: {sentence}", ResultWarning, stacklevel=2)
    return specimen


def specimen_of(
    results: Result | str | Path | Iterable[Result | str | Path],
    *,
    name: str = "specimen",
    journal: Journal | str | Path | None = None,
) -> Specimen:
    """Return what `pool` returns, for those who show the specimen's `warnings` themselves; raises as it does."""
    given = [results] if isinstance(results, Result | str | Path) else list(results)
    found = [result for one in given for result in _results_of(one)]
    if not found:
        raise InputError(f"The specimen {name!r} has no field. Give at least one result, or its folder.")
    doubts: list[str] = []
    fields, names = _each_once(found, doubts)
    if journal is not None:
        book = journal if isinstance(journal, Journal) else Journal(journal)
        doubts += doubts_about_journal(book, [result.image_sha256 for result in fields])
        fields = [_corrected(result, book) for result in fields]
    doubts += doubts_about_fields(fields, names)
    doubts += _doubts_about_areas(fields, names)
    return Specimen(name, tuple(fields), tuple(names), tuple(doubts))


def folders_of_results(folder: Path) -> list[Path]:
    """Return a result's folder itself, or those of the results in it, sorted by name; `InputError` if there is none."""
    if (folder / RECIPE).is_file():
        return [folder]
    found = sorted(path.parent for path in folder.glob(f"*/{RECIPE}"))
    if not found:
        raise InputError(
            f"{escaped(folder)} holds no result. Give the folder of a result, or one that analyse wrote results into."
        )
    return found


def _results_of(one: Result | str | Path) -> list[Result]:
    if isinstance(one, Result):
        return [one]
    folders = folders_of_results(Path(one))
    return [replace(read_result(folder), folder=folder) for folder in folders]


def _each_once(found: Sequence[Result], doubts: list[str]) -> tuple[list[Result], list[str]]:
    """Return the results of different images, each with a unique name."""
    fields: list[Result] = []
    names: list[str] = []
    seen: dict[str, str] = {}
    for result in found:
        own = result.folder.name if result.folder is not None else result.image_name
        if result.image_sha256 and result.image_sha256 in seen:
            doubts.append(f"{own} shows the same picture as {seen[result.image_sha256]} and counts once.")
            continue
        name, number = own, 1
        while name in names:
            number += 1
            name = f"{own}_{number}"
        fields.append(result)
        names.append(name)
        if result.image_sha256:
            seen[result.image_sha256] = name
    return fields, names


def _corrected(result: Result, journal: Journal) -> Result:
    """Return a result with the types that a journal's corrections give its cells."""
    known = journal.read(result.image_sha256) if result.image_sha256 else []
    placed = place(known, result.cells).by_cell if known else {}
    said = {cell: one for cell, one in placed.items() if cell in result.table.index}
    if not said:
        return result
    table, ids = with_later(result.table).copy(), list(said)
    marks = np.array([one.to_abnormal for one in said.values()], np.bool_)
    cells = CellTypes.of(table.loc[ids]).restored([one.said for one in said.values()], marks)
    for column, values in cells.columns.items():
        table.loc[ids, column] = values
    names = list(dict.fromkeys([*result.names, *(str(name) for name in cells.types if name)]))
    return replace(result, rows=table, names=names, known_counting=None, numbers={})


def _pixel_size_of(result: Result) -> tuple[str, float | None]:
    """Return the ruler of a field and its µm per pixel; ("", None) if there is none."""
    calibration = result.calibration
    field = SeenField.of(result.cells.shape, calibration, result.recipe.segment, result.pixel_size_um)
    if field.pixel_size_um is not None:
        return PIXEL_SIZE, field.pixel_size_um
    is_measured = calibration.source != "default" and calibration.scale_confidence >= LEAST_CONFIDENCE
    if result.pixel_size_um is None and is_measured:
        return RED_CELL, RBC_DIAMETER_UM / calibration.rbc_diameter_px
    return "", None


def _area_of(result: Result) -> tuple[str, float | None]:
    """Return the ruler of a field and the area of its frame, mm²."""
    ruler, size = _pixel_size_of(result)
    if size is None:
        return "", None
    field = SeenField.of(result.cells.shape, result.calibration, result.recipe.segment, size)
    return ruler, field.area_mm2(result.counting.edges)


def _doubts_about_areas(fields: Sequence[Result], names: Sequence[str]) -> list[str]:
    rulers = [_pixel_size_of(result)[0] for result in fields]
    said = []
    without = [name for name, ruler in zip(names, rulers, strict=True) if not ruler]
    if without:
        said.append(
            f"The area of {listed(without)} is not known, so nothing per area is made of {_them(without)}. Give "
            "pixel_size_um when they are analysed."
        )
    if {PIXEL_SIZE, RED_CELL} <= set(rulers):
        by_cell = [name for name, ruler in zip(names, rulers, strict=True) if ruler == RED_CELL]
        said.append(
            f"The area of {listed(by_cell)} is measured by the width of its red cells, others' by µm per pixel."
        )
    return said


def _them(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _numbers(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high
