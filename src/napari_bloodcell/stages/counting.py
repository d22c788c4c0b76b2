"""From the cell table to numbers: cells per type, red cells corrected for overlap (paper §4.2, Fig. 6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_bloodcell.core.cells import BOX, BUILTIN_TYPES, KINDS, RBC, UNIDENTIFIED, WBC, boxes_of
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.params import CountParams
from napari_bloodcell.core.progress import drained
from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.core.statistics import proportion
from napari_bloodcell.stages.calibration import SeenField
from napari_bloodcell.stages.mixture import (
    DEBRIS,
    OverlapModel,
    Posterior,
    binned_kde,
    default_overlap,
    density_peaks,
    fit_overlap,
    scott_bandwidth,
    sum_up,
    typical_area,
)
from napari_bloodcell.stages.red_cells.population import Population, population_of
from napari_bloodcell.stages.red_cells.shapes import FEWEST_CELLS, in_order, morphology_table, read_grades

FEWEST_TO_FIT = 20
"""With fewer whole red cells the robust rule counts each region once."""
PAPER_MAX_CELLS = 4
"""The paper counts no region as more cells than this (§4.2)."""
GRID_PER_BANDWIDTH, MOST_GRID_POINTS = 5, 1 << 16
"""A narrow bandwidth gets more grid points than the settings ask for."""
LEUKOCYTES: tuple[str, ...] = (
    *("neutrophil", "segmented neutrophil", "band neutrophil", "band", "lymphocyte", "monocyte", "eosinophil"),
    *("basophil", "blast", "promyelocyte", "myelocyte", "metamyelocyte", "immature granulocyte", "plasma cell"),
)
"""User classes with these names (any case, singular or plural) are white cells of a differential."""

ERYTHROBLAST = "erythroblast"
OUTSIDE = (ERYTHROBLAST, UNIDENTIFIED)
"""Kinds that are not part of a differential's 100 %."""


@dataclass(frozen=True, slots=True, eq=False)
class Counting:
    """Numbers of cells and everything they were derived from.

    Attributes
    ----------
    rule : str
        "robust", "paper", "none", or "manual" if thresholds were given.
    areas : ndarray of float64, shape (N,)
        Areas of all RBC regions, pixels², in the order of the table.
    at_edge : ndarray of bool, shape (N,)
        Those that touch the edge of the image.
    grid, density : ndarray of float64, shape (G,)
        KDE of the areas: pixels², and 1 / pixels². Empty where there is no RBC. The robust rule leaves cells that
        touch the edge and debris out of it.
    n_in_kde : int
        Regions that the KDE is made of.
    bandwidth : float
        Its bandwidth, pixels².
    peaks : ndarray of float64, shape (P,)
        Areas of its peaks, pixels².
    thresholds : ndarray of float64, shape (T,)
        Rising; a region of at least the k-th counts as k + 1 cells, pixels².
    single_area : float
        Area of a typical single red cell, pixels²; NaN where there is no RBC.
    uncorrected, counts : dict of str to int
        Regions, and cells, per type: RBC, WBC, platelet, then the user's classes.
    posterior : Posterior
        The probabilities behind the RBC number.
    interval : tuple of int or None
        (low, high): 95 % interval of the number of RBC, which lies in it. None for other rules than "robust": the
        interval is that of the robust rule's model, and would contradict them.
    cells_in_region : pandas.Series of int64
        Cells that each row of the table counts as; same index.
    kinds : dict of str to int
        White cells of each kind: `subtype` of those typed WBC, and the user's classes of white cells. In the order of
        `KINDS`; empty where no kind was told.
    differential : dict of str to float
        Percent of each of them but `OUTSIDE`; empty for fewer than two.
    edges : str
        Which cells `counted`, and with it `kinds`, `differential` and `per_mm2`, are made of: a rule of
        `CountParams.edges`. `counts` are of all cells seen, those cut by the edge too.
    counted : dict of str to int
        Cells per type by this rule.
    counted_ids : ndarray of int64, shape (M,)
        Regions that they are.
    area_mm2 : float or None
        The area that they belong to, mm²; None if it is unknown.
    per_mm2 : dict of str to float or None
        `counted` per mm²; None if the area is unknown.
    n_abnormal : int
        Cells of any type that a person marked as abnormal.
    red_kinds : dict of str to int
        Red cells of each kind, `subtype` of those typed RBC; a region counts once. Empty where no kind was told.
    grades : str
        File of the grades of shapes; "" for the program's.
    """

    rule: str
    areas: NDArray[np.float64]
    at_edge: NDArray[np.bool_]
    grid: NDArray[np.float64]
    density: NDArray[np.float64]
    n_in_kde: int
    bandwidth: float
    peaks: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    single_area: float
    uncorrected: dict[str, int]
    counts: dict[str, int]
    posterior: Posterior
    interval: tuple[int, int] | None
    cells_in_region: pd.Series[int]
    kinds: dict[str, int]
    differential: dict[str, float]
    edges: str
    counted: dict[str, int]
    counted_ids: NDArray[np.int64]
    area_mm2: float | None
    per_mm2: dict[str, float] | None
    red_kinds: dict[str, int]
    grades: str
    n_abnormal: int = 0

    @property
    def single_areas(self) -> NDArray[np.float64]:
        """Areas of whole single red cells, pixels², (M,): no debris, not cut by the edge, not counted as several."""
        whole = self.areas[~self.at_edge]
        most = self.thresholds[0] if self.thresholds.size else np.inf
        return whole[(whole >= DEBRIS * self.single_area) & (whole < most)]

    @property
    def population(self) -> Population | None:
        """Sizes of the cells of `single_areas`; None for fewer than two."""
        return population_of(self.single_areas)

    @property
    def morphology_table(self) -> pd.DataFrame:
        """Shapes of red cells: see `stages.red_cells.shapes.morphology_table`."""
        kinds = in_order(self.red_kinds)
        return morphology_table(kinds, read_grades(self.grades) if kinds else {})

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why the shapes of red cells are not to be trusted as they are, in sentences for people."""
        n = sum(in_order(self.red_kinds).values())
        if not 0 < n < FEWEST_CELLS:
            return ()
        return (f"Shapes were told of {n:,} red cells; grades of rare shapes need {FEWEST_CELLS:,}.",)

    @property
    def n_in_differential(self) -> int:
        """White cells that make up its 100 %: those of a kind that is not in `OUTSIDE`."""
        return sum(n for kind, n in self.kinds.items() if kind not in OUTSIDE)

    @property
    def differential_table(self) -> pd.DataFrame:
        """The differential: index kind; `n`, `percent` of the white cells counted, `low` and `high`, its 95 % interval.

        The interval is exact. Kinds in `OUTSIDE` have a number and no percentage.
        """
        total, rows = self.n_in_differential, []
        for name, n in self.kinds.items():
            share = proportion(n, 0 if name in OUTSIDE else total).times(100)
            rows.append((n, share.value, share.low, share.high))
        index = pd.Index(list(self.kinds), name="kind", dtype=object)
        return pd.DataFrame(rows, index=index, columns=["n", "percent", "low", "high"]).astype({"n": "int64"})

    @property
    def nrbc_per_100_wbc(self) -> float | None:
        """Erythroblasts per 100 white cells counted; None where no kind was told."""
        total = self.n_in_differential
        return 100 * self.kinds.get(ERYTHROBLAST, 0) / total if total else None

    @property
    def corrected(self) -> dict[str, int]:
        """Cells per type after the correction for overlap: `counts`."""
        return self.counts


def iter_count(
    table: pd.DataFrame,
    *,
    params: CountParams | None = None,
    rbc_diameter_px: float | None = None,
    area_mm2: float | None = None,
    field: SeenField | None = None,
    candidates: pd.DataFrame | None = None,
    thresholds: Sequence[float] | None = None,
    wbc_classes: Sequence[str] | None = None,
) -> Generator[Progress, None, Counting]:
    """Count the cells of a table: white cells and platelets one by one, red cells corrected for overlap.

    Parameters
    ----------
    table : DataFrame
        The cell table. `cell_type` and `area_px` (pixels²) are needed; `touches_edge` and the boxes are used if there.
    params : CountParams, optional
        The rule and its settings.
    rbc_diameter_px : float, optional
        Width of a typical red cell, pixels; helps to tell single cells from debris and from clumps.
    area_mm2 : float, optional
        Area of the smear that was seen, mm², where no `field` is given.
    field : SeenField, optional
        The field, in which `params.edges` tells the cells that count per area and in shares. Without it all do.
    candidates : DataFrame, optional
        Cells that may count in it, by default those of the table: all of the image, where the table is that of a part,
        with only the cells whose centre lies in it.
    thresholds : sequence of float, optional
        Rising areas, pixels²; they replace those of the settings and of the rule (a region of at least the k-th counts
        as k + 1).
    wbc_classes : sequence of str, optional
        User classes that make up the differential. None: those of `LEUKOCYTES`.

    Yields
    ------
    Progress
        After each step.

    Returns
    -------
    Counting
        Counts and their derivation.

    Raises
    ------
    InputError
        A column is missing, an area is not a positive number, or `rbc_diameter_px`, `area_mm2` or `thresholds`
        cannot be used.

    Notes
    -----
    ``rule="paper"`` is the paper's §4.2: KDE (Scott's bandwidth) of all RBC areas, a threshold midway between each two
    successive peaks, at most four cells. It has no threshold if there is only one peak, counts every whole cell twice
    if debris or cut cells make the first peak, and follows any bump of the density.

    ``rule="robust"``, the default, departs from it: debris (below a quarter of the typical cell) and regions that
    touch the edge of the image do not shape the model, though they count by it, as one or more; a mixture of single
    and overlapping cells takes the place of midpoints; doubles are taken to be rare unless a second mode near twice
    the single area is there and is not as round as single cells. See `napari_bloodcell.stages.mixture`.
    """
    params = params or CountParams()
    _check_positive(rbc_diameter_px=rbc_diameter_px, area_mm2=area_mm2)
    edges, framed = "all", table
    if field is not None and BOX[0] in table.columns:
        edges, area_mm2 = params.edges, field.area_mm2(params.edges) or None
        if edges != "all":
            framed = table if candidates is None else candidates
            planes = framed["plane"].to_numpy(np.int64) if "plane" in framed.columns else None
            framed = framed[field.counts(framed, edges, planes)]
    uncorrected, is_rbc = _count_types(table)
    areas = _rbc_areas(table, is_rbc)
    at_edge = _column_of(table, "touches_edge", is_rbc)
    chosen = params.thresholds if thresholds is None else thresholds
    given = None if chosen is None else _checked_thresholds(chosen)
    yield Progress(0, 2, "counting cells")

    rule = "manual" if given is not None else params.rule
    max_cells = min(params.max_cells_per_region, PAPER_MAX_CELLS) if rule == "paper" else params.max_cells_per_region
    expected = None if rbc_diameter_px is None else np.pi / 4 * rbc_diameter_px**2
    whole, single_area = _whole_cells(areas, at_edge, expected)
    in_kde = areas if rule == "paper" else whole
    grid, density, bandwidth, peaks = _kde(in_kde, single_area, max_cells, params, rule)
    yield Progress(1, 2, "counting cells")

    model = _overlap_model(table, is_rbc, areas, whole, single_area, max_cells)
    if given is None:
        given = _rule_thresholds(rule, model, peaks, enough=whole.size >= FEWEST_TO_FIT, max_cells=max_cells)
    cells = 1 + np.searchsorted(given, areas, side="right")
    n_rbc = int(cells.sum())
    posterior = sum_up(model, areas, max_cells=max_cells)
    is_robust = rule == "robust"
    counts = {**uncorrected, RBC: n_rbc}
    per_region = np.ones(len(table), np.int64)
    per_region[is_rbc] = cells
    counted = counts if framed is table else _counted_in(framed, given, counts)
    yield Progress(2, 2, "counting cells")
    kinds = _kinds(framed, counted, wbc_classes)
    return Counting(
        rule=rule,
        areas=areas,
        at_edge=at_edge,
        grid=grid,
        density=density,
        n_in_kde=in_kde.size,
        bandwidth=bandwidth,
        peaks=peaks,
        thresholds=given,
        single_area=single_area,
        uncorrected=uncorrected,
        counts=counts,
        posterior=posterior,
        interval=(min(posterior.low, n_rbc), max(posterior.high, n_rbc)) if is_robust else None,
        cells_in_region=pd.Series(per_region, index=table.index, name="cells_in_region"),
        kinds=kinds,
        differential=_differential(kinds),
        edges=edges,
        counted=counted,
        counted_ids=framed.index.to_numpy(np.int64),
        area_mm2=area_mm2,
        per_mm2=None if area_mm2 is None else {name: n / area_mm2 for name, n in counted.items()},
        n_abnormal=int(table["abnormal"].sum()) if "abnormal" in table else 0,
        red_kinds=dict(_kinds_of(table, RBC)),
        grades=params.grades,
    )


count = drained(iter_count)
"""`iter_count`, run to its end."""


def _counted_in(framed: pd.DataFrame, thresholds: NDArray[np.float64], counts: Mapping[str, int]) -> dict[str, int]:
    """Return the cells per type of the regions that count, in the order of `counts`."""
    found, is_rbc = _count_types(framed)
    found[RBC] = int((1 + np.searchsorted(thresholds, _rbc_areas(framed, is_rbc), side="right")).sum())
    return dict.fromkeys(counts, 0) | found


def _check_positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not (np.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value!r}; it must be a number above 0. Leave it out if it is not known.")


def _checked_thresholds(thresholds: Sequence[float]) -> NDArray[np.float64]:
    given = np.asarray(thresholds, np.float64)
    if given.ndim != 1 or not np.all(np.isfinite(given)) or np.any(given <= 0) or np.any(np.diff(given) < 0):
        raise InputError(f"thresholds are {list(thresholds)!r}; they must be rising areas above 0, in pixels².")
    return given


def _count_types(table: pd.DataFrame) -> tuple[dict[str, int], NDArray[np.bool_]]:
    """Return the number of regions per type, and which rows are RBC."""
    for column in ("cell_type", "area_px"):
        if column not in table.columns:
            raise InputError(
                f"The cell table has no column {column!r}; it has {', '.join(map(str, table.columns)) or 'none'}. "
                "Count the table that segment() made and classify() typed."
            )
    codes, found = pd.factorize(table["cell_type"])
    numbers = np.bincount(codes + 1, minlength=len(found) + 1)
    counts = dict.fromkeys(BUILTIN_TYPES, 0)
    untyped = int(numbers[0])
    rbc_code = -2
    for code, name in enumerate(found):
        if name in ("", UNIDENTIFIED):
            untyped += int(numbers[code + 1])
        else:
            counts[str(name)] = int(numbers[code + 1])
        if name == RBC:
            rbc_code = code
    if untyped:
        counts[UNIDENTIFIED] = untyped
    return counts, codes == rbc_code


def _rbc_areas(table: pd.DataFrame, is_rbc: NDArray[np.bool_]) -> NDArray[np.float64]:
    try:
        areas = table["area_px"].to_numpy(np.float64, na_value=np.nan)[is_rbc]
    except (TypeError, ValueError) as error:
        raise InputError("The column 'area_px' holds something that is not a number (pixels² are expected).") from error
    bad = ~(np.isfinite(areas) & (areas > 0))
    if bad.any():
        row = table.index[is_rbc][int(np.argmax(bad))]
        raise InputError(
            f"The area of {int(bad.sum())} red cell(s) is not a number above 0 (first: cell {row}, "
            f"{areas[int(np.argmax(bad))]}). Measure the cells again, or drop these rows."
        )
    return areas


def _column_of(table: pd.DataFrame, column: str, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
    if column not in table.columns:
        return np.zeros(int(rows.sum()), bool)
    return table[column].to_numpy(bool)[rows]


def _whole_cells(
    areas: NDArray[np.float64], at_edge: NDArray[np.bool_], expected: float | None
) -> tuple[NDArray[np.float64], float]:
    """Return areas that tell the size of cells (not cut by the edge, no debris), and that of a typical cell."""
    inside = areas[~at_edge] if not at_edge.all() else areas
    if inside.size == 0:
        return inside, float("nan")
    single_area = typical_area(inside, expected)
    return inside[inside >= DEBRIS * single_area], single_area


def _kde(
    areas: NDArray[np.float64], single_area: float, max_cells: int, params: CountParams, rule: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], float, NDArray[np.float64]]:
    """Return grid, density, bandwidth and peaks; for other rules than the paper's without outliers and noise."""
    if areas.size == 0:
        return np.empty(0), np.empty(0), float("nan"), np.empty(0)
    bandwidth = params.bandwidth or scott_bandwidth(areas, robust=rule != "paper")
    high = float(areas.max()) + 4 * bandwidth
    if rule != "paper":
        high = float(np.clip(high, 3 * single_area, (max_cells + 1.5) * single_area + 4 * bandwidth))
    points = max(params.grid_points, min(int(high / bandwidth * GRID_PER_BANDWIDTH), MOST_GRID_POINTS))
    grid, density = binned_kde(areas, bandwidth, low=0.0, high=high, points=points)
    significance = 0.0 if rule == "paper" else 3.0
    peaks = density_peaks(grid, density, n=areas.size, bandwidth=bandwidth, significance=significance)
    return grid, density, bandwidth, grid[peaks]


def _overlap_model(
    table: pd.DataFrame,
    is_rbc: NDArray[np.bool_],
    areas: NDArray[np.float64],
    whole: NDArray[np.float64],
    single_area: float,
    max_cells: int,
) -> OverlapModel | None:
    if areas.size == 0:
        return None
    if whole.size < FEWEST_TO_FIT:
        return default_overlap(single_area, max_cells=max_cells)
    are_round = _doubles_are_round(table, np.flatnonzero(is_rbc), areas / single_area)
    return fit_overlap(whole, single_area, max_cells=max_cells, doubles_are_round=are_round)


def _doubles_are_round(table: pd.DataFrame, rows: NDArray[np.intp], relative: NDArray[np.float64]) -> bool:
    """Return whether regions of about twice the single area are as round as single cells: then they are large cells."""
    if BOX[0] not in table.columns:
        return False

    def roundness(low: float, high: float) -> float | None:
        found = np.flatnonzero((relative > low) & (relative < high))
        if found.size < 5:
            return None
        sample = found[:: max(found.size // 500, 1)]
        boxes = boxes_of(table.iloc[rows[sample]])
        return float(np.median(relative[sample] / (boxes[:, 2:] - boxes[:, :2]).max(1) ** 2.0))

    single, double = roundness(0.8, 1.25), roundness(1.7, 2.3)
    return single is not None and double is not None and double > 0.88 * single


def _rule_thresholds(
    rule: str, model: OverlapModel | None, peaks: NDArray[np.float64], *, enough: bool, max_cells: int
) -> NDArray[np.float64]:
    if rule == "paper":
        return ((peaks[1:] + peaks[:-1]) / 2)[: max_cells - 1]
    if rule == "robust" and model is not None and enough:
        return model.thresholds()
    return np.empty(0)


def is_white(name: str) -> bool:
    """Return whether cells of a type are white: `WBC`, or a class of them in `LEUKOCYTES`."""
    return name == WBC or name.lower() in LEUKOCYTES or name.lower().removesuffix("s") in LEUKOCYTES


def _kinds(table: pd.DataFrame, counts: dict[str, int], wbc_classes: Sequence[str] | None) -> dict[str, int]:
    """Return how many white cells there are of each kind, by model and by hand."""
    if wbc_classes is None:
        names = [n for n in counts if n != WBC and is_white(n)]
    else:
        names = [n for n in dict.fromkeys(wbc_classes) if n in counts and n not in (RBC, WBC)]
    found = Counter({name: counts[name] for name in names})
    found.update(_kinds_of(table, WBC))
    order = [*(name for name in KINDS[WBC] if name in found), *(name for name in found if name not in KINDS[WBC])]
    return {name: found[name] for name in order}


def _kinds_of(table: pd.DataFrame, of_type: str) -> Mapping[str, int]:
    """Return how many cells of a type a model told each kind of."""
    if "subtype" not in table:
        return {}
    codes, names = pd.factorize(table["subtype"])  # ten times as fast as to compare texts
    told = codes[(table["cell_type"] == of_type).to_numpy(bool)]
    numbers = np.bincount(told[told >= 0], minlength=len(names)).tolist()
    found = {str(name): n for name, n in zip(names, numbers, strict=True) if n and name}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _differential(kinds: dict[str, int]) -> dict[str, float]:
    """Return percent per kind of white cells; empty if there are fewer than two kinds."""
    counted = {name: n for name, n in kinds.items() if name not in OUTSIDE}
    total = sum(counted.values())
    return {name: 100 * n / total for name, n in counted.items()} if len(counted) > 1 and total else {}
