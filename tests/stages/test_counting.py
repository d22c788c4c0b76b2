"""From the cell table to numbers."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import integrate
from scipy.stats import gaussian_kde

from napari_bloodcell.core.cells import BOX
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.params import CountParams
from napari_bloodcell.stages.counting import Counting, count, iter_count
from napari_bloodcell.stages.mixture import (
    binned_kde,
    density_peaks,
    fit_overlap,
    scott_bandwidth,
    sum_up,
    typical_area,
)

PAPER = CountParams(rule="paper")


def table(areas: Any, cell_type: Any = "RBC", **columns: Any) -> pd.DataFrame:
    areas = np.asarray(areas, float)
    ids = pd.Index(np.arange(1, areas.size + 1), name="id")
    types = [cell_type] * areas.size if isinstance(cell_type, str) else cell_type
    return pd.DataFrame({"cell_type": pd.Series(types, ids, object), "area_px": areas, **columns}, index=ids)


def cells(
    n: int, *, seed: int = 0, clumps: tuple[float, ...] = (), size: float = 1000, spread: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    """Areas of n regions, of which the shares `clumps` are 2, 3, … touching cells, and how many cells each is."""
    rng = np.random.default_rng(seed)
    k = rng.choice(len(clumps) + 1, n, p=[1 - sum(clumps), *clumps]) + 1
    singles = size * np.exp(spread * rng.standard_normal((n, len(clumps) + 1)))
    total = np.where(np.arange(len(clumps) + 1) < k[:, None], singles, 0).sum(1)
    return total * (1 - 0.05 * (k - 1) / k), k


def boxes(areas: np.ndarray, long: np.ndarray) -> dict[str, np.ndarray]:
    """Boxes of round regions, and of regions twice as long as wide."""
    short = np.sqrt(areas / (np.pi / 4) / np.where(long, 2, 1))
    sides = np.rint(short), np.rint(short * np.where(long, 2, 1))
    return dict(zip(BOX, np.stack([0 * short, 0 * short, *sides]).astype(int), strict=True))


# --- the density -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 200, 5000])
def test_the_binned_density_is_the_exact_one(n: int) -> None:
    areas, _ = cells(n, clumps=(0.15, 0.05))
    bandwidth = scott_bandwidth(areas, robust=False)
    grid, density = binned_kde(areas, bandwidth, low=0, high=5000, points=1024)
    exact = gaussian_kde(areas)
    assert bandwidth == pytest.approx(float(np.sqrt(exact.covariance[0, 0])))
    assert np.abs(density - exact(grid)).max() < 0.003 * exact(grid).max()


def test_the_density_integrates_to_one() -> None:
    grid, density = binned_kde(cells(500)[0], 30.0, low=0, high=3000, points=700)
    assert integrate.trapezoid(density, grid) == pytest.approx(1, abs=1e-3)


def test_the_robust_bandwidth_does_not_see_a_few_huge_areas() -> None:
    areas, _ = cells(1000)
    assert scott_bandwidth(np.append(areas, [1e6, 2e6])) == pytest.approx(scott_bandwidth(areas), rel=0.1)


def test_bumps_of_noise_are_no_peaks() -> None:
    areas, _ = cells(400, seed=3)
    grid, density = binned_kde(areas, 8.0, low=0, high=2000, points=2048)
    assert len(density_peaks(grid, density, n=400, bandwidth=8.0)) > 5
    assert len(density_peaks(grid, density, n=400, bandwidth=8.0, significance=3)) == 1


# --- the paper's rule ------------------------------------------------------------------------------------------------


def test_the_paper_rule_cuts_midway_between_successive_peaks() -> None:
    areas, _ = cells(3000, clumps=(0.2, 0.1))
    result = count(table(areas), params=PAPER)
    assert len(result.peaks) >= 3
    assert result.thresholds == pytest.approx(((result.peaks[1:] + result.peaks[:-1]) / 2)[:3])
    expected = 1 + (areas[:, None] >= result.thresholds).sum(1)
    assert result.cells_in_region.tolist() == expected.tolist()


def test_the_paper_rule_counts_no_region_as_more_than_four() -> None:
    areas = np.repeat(np.arange(1, 9) * 1000.0, 40) + np.tile(np.linspace(-40, 40, 40), 8)
    result = count(table(areas), params=CountParams(rule="paper", bandwidth=60, max_cells_per_region=8))
    assert len(result.peaks) == 8
    assert result.cells_in_region.max() == 4
    assert result.thresholds == pytest.approx([1500, 2500, 3500], abs=5)


def test_the_paper_rule_finds_no_doubles_with_one_peak_only() -> None:
    result = count(table([*cells(300)[0], 2000.0]), params=CountParams(rule="paper", bandwidth=400))
    assert result.thresholds.size == 0
    assert result.counts["RBC"] == 301


def test_the_paper_rule_counts_twice_where_debris_makes_the_first_peak_and_the_robust_rule_does_not() -> None:
    debris = np.random.default_rng(1).normal(150, 20, 120)
    areas = np.concatenate([debris, cells(600)[0]])
    assert count(table(areas), params=PAPER).counts["RBC"] > 1250
    assert count(table(areas)).counts["RBC"] == 720


# --- the robust rule -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [300, 5000])
@pytest.mark.parametrize("spread", [0.07, 0.1, 0.14])
def test_clumps_are_counted_right(n: int, spread: float) -> None:
    areas, k = cells(n, clumps=(0.12, 0.03, 0.01), spread=spread, seed=n)
    result = count(table(areas))
    assert result.counts["RBC"] == pytest.approx(k.sum(), rel=0.025)
    assert result.uncorrected["RBC"] == n


def test_clumps_in_small_fields_are_counted_right_on_average() -> None:
    found, true = 0, 0
    for seed in range(20):
        areas, k = cells(60, clumps=(0.12, 0.03, 0.01), spread=0.13, seed=seed)
        found, true = found + count(table(areas)).counts["RBC"], true + k.sum()
    assert found == pytest.approx(true, rel=0.03)


@pytest.mark.parametrize("spread", [0.08, 0.15, 0.22])
def test_large_single_cells_are_not_counted_twice(spread: float) -> None:
    areas, _ = cells(3000, spread=spread)
    assert count(table(areas)).counts["RBC"] <= 3000 * 1.002


def test_two_sizes_of_single_cells_are_not_clumps() -> None:
    small, large = cells(900, size=800, spread=0.08)[0], cells(500, size=1150, spread=0.08)[0]
    assert count(table(np.concatenate([small, large]))).counts["RBC"] == 1400


def test_a_second_mode_of_round_regions_is_large_cells_and_of_long_ones_is_doubles() -> None:
    areas, k = cells(1000, clumps=(0.15,))
    assert count(table(areas, **boxes(areas, k == 2))).counts["RBC"] == pytest.approx(k.sum(), rel=0.01)
    large_cells = count(table(areas, **boxes(areas, np.zeros(1000, bool)))).counts["RBC"]
    assert large_cells - 1000 < 0.35 * (k.sum() - 1000)


def test_few_doubles_among_many_cells_are_found_without_a_second_mode() -> None:
    areas = [*cells(500, spread=0.09)[0], 2050.0, 1980.0]
    assert count(table(areas)).counts["RBC"] == 504


def test_a_clump_of_six_counts_six() -> None:
    areas, _ = cells(500, clumps=(0.1,))
    result = count(table([*areas, 6 * 960.0]))
    assert result.cells_in_region.iloc[-1] == 6


def test_no_region_counts_more_than_the_settings_allow() -> None:
    for most in (1, 2, 5):
        result = count(table([*cells(100)[0], 9e4]), params=CountParams(max_cells_per_region=most))
        assert result.cells_in_region.max() == most
        assert result.posterior.regions.shape == (101, most)


def test_cells_cut_by_the_edge_do_not_shape_the_thresholds_and_count_as_one() -> None:
    areas, _ = cells(400, clumps=(0.1,))
    cut = np.random.default_rng(2).uniform(40, 800, 300)
    edge = np.arange(700) >= 400
    with_cut = count(table([*areas, *cut], touches_edge=edge))
    assert with_cut.thresholds == pytest.approx(count(table(areas)).thresholds)
    assert (with_cut.cells_in_region.to_numpy()[edge] == 1).all()


def test_a_clump_at_the_edge_counts_by_what_is_seen_of_it() -> None:
    areas, _ = cells(400, clumps=(0.1,))
    result = count(table([*areas, 2000.0], touches_edge=np.arange(401) == 400))
    assert result.cells_in_region.iloc[-1] == 2


def test_fewer_than_twenty_cells_count_one_each_with_an_interval_that_tells_the_doubt() -> None:
    result = count(table([*np.linspace(900, 1100, 12), 2000]))
    assert result.counts["RBC"] == 13
    assert result.interval == (13, 14)
    assert result.thresholds.size == 0


def test_the_diameter_decides_where_most_regions_are_doubles() -> None:
    areas, k = cells(600, clumps=(0.6,), spread=0.08)
    assert count(table(areas), rbc_diameter_px=2 * np.sqrt(1000 / np.pi)).counts["RBC"] == pytest.approx(
        k.sum(), rel=0.02
    )


def test_without_a_rule_every_region_is_one_cell() -> None:
    areas, _ = cells(300, clumps=(0.2,))
    result = count(table(areas), params=CountParams(rule="none"))
    assert result.counts["RBC"] == 300
    assert result.posterior.mean > 340


@pytest.mark.parametrize("rule", ["paper", "none", "manual"])
def test_an_interval_of_the_robust_rule_stands_beside_no_other_rules_number(rule: str) -> None:
    rows = table(cells(300, clumps=(0.2,))[0])
    if rule == "manual":
        assert count(rows, thresholds=[1500]).interval is None
    else:
        assert count(rows, params=CountParams.model_validate({"rule": rule})).interval is None


def test_thresholds_that_are_given_replace_the_rule() -> None:
    result = count(table([500, 1500, 2500, 2500, 9000]), thresholds=[1000, 2500])
    assert result.cells_in_region.tolist() == [1, 2, 3, 3, 3]
    assert result.rule == "manual"


def test_thresholds_of_the_settings_replace_the_rule_too() -> None:
    rows = table([500, 1500, 2500, 2500, 9000])
    by_settings = count(rows, params=CountParams(thresholds=(1000, 2500)))
    assert by_settings.counts == count(rows, thresholds=[1000, 2500]).counts
    assert by_settings.rule == "manual"


def test_a_number_of_cells_that_is_probable_at_no_area_has_no_threshold() -> None:
    rng = np.random.default_rng(276)
    areas = 1000 * np.exp(rng.normal(0, 0.23, 40))
    odd = rng.random(40) < 0.35
    areas[odd] = 1000 * np.exp(rng.normal(0, 0.6, odd.sum()))
    areas[rng.random(40) < 0.1] *= 2
    thresholds = count(table(areas)).thresholds
    assert 0 < thresholds.size < 7
    assert (np.diff(thresholds, prepend=0) >= 0).all()
    assert thresholds[0] > 1000


# --- the posterior ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [80, 2500, 40_000])
def test_the_interval_holds_the_number_that_was_counted(n: int) -> None:
    areas, k = cells(n, clumps=(0.15, 0.03), spread=0.12)
    result = count(table(areas))
    assert result.interval is not None
    low, high = result.interval
    assert low <= result.counts["RBC"] <= high
    assert result.posterior.low <= result.posterior.mean <= result.posterior.high
    assert result.posterior.mean == pytest.approx(k.sum(), rel=0.015 if n > 80 else 0.04)
    assert high - low < max(0.03 * k.sum(), 5)


def test_the_probabilities_of_a_region_sum_to_one_and_agree_with_its_count() -> None:
    areas, _ = cells(1000, clumps=(0.15, 0.03))
    result = count(table(areas))
    assert result.posterior.regions.sum(1) == pytest.approx(np.ones(1000), abs=1e-5)
    best = result.posterior.regions.argmax(1) + 1
    assert (best == result.cells_in_region.to_numpy()).mean() > 0.998


def test_the_interval_holds_the_truth_for_nearly_all_smears() -> None:
    held = []
    for seed in range(40):
        areas, k = cells(600, clumps=(0.12, 0.03), spread=0.13, seed=seed)
        low, high = count(table(areas)).interval or (0, 0)
        held.append(low <= k.sum() <= high)
    assert np.mean(held) >= 0.85


def test_the_exact_interval_and_the_normal_one_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    areas, _ = cells(2000, clumps=(0.2,), spread=0.15)
    model = fit_overlap(areas, typical_area(areas), max_cells=4)
    monkeypatch.setattr("napari_bloodcell.stages.mixture.EXACT_REGIONS", 10_000)
    exact = sum_up(model, areas, max_cells=4)
    monkeypatch.setattr("napari_bloodcell.stages.mixture.EXACT_REGIONS", 0)
    normal = sum_up(model, areas, max_cells=4)
    assert (normal.low, normal.high) == pytest.approx((exact.low, exact.high), abs=2)


# --- properties ------------------------------------------------------------------------------------------------------

some_areas = arrays(np.float64, st.integers(1, 120), elements=st.floats(1, 1e5, allow_subnormal=False))
rules = st.sampled_from(["robust", "paper", "none"])


@given(areas=some_areas, rule=rules, seed=st.integers(0, 99))
def test_a_larger_region_never_counts_fewer_cells(areas: np.ndarray, rule: str, seed: int) -> None:
    areas = np.concatenate([areas, cells(200, seed=seed, clumps=(0.1,))[0]])
    result = count(table(areas), params=CountParams.model_validate({"rule": rule}))
    by_area = result.cells_in_region.to_numpy()[np.argsort(areas, kind="stable")]
    assert (np.diff(by_area) >= 0).all()
    assert (np.diff(result.posterior.regions[np.argsort(areas)].cumsum(1), axis=0) <= 1e-5).all()


@given(areas=some_areas, rule=rules)
def test_there_are_never_fewer_cells_than_regions(areas: np.ndarray, rule: str) -> None:
    result = count(table(areas), params=CountParams.model_validate({"rule": rule}))
    assert result.counts["RBC"] >= areas.size
    assert result.interval is None or result.interval[0] >= areas.size
    assert result.cells_in_region.sum() == result.counts["RBC"]


@given(seed=st.integers(0, 999), factor=st.floats(0.01, 100), n=st.integers(1, 400), rule=rules)
def test_the_scale_of_the_image_changes_no_count(seed: int, factor: float, n: int, rule: str) -> None:
    areas, _ = cells(n, seed=seed, clumps=(0.1, 0.03))
    params = CountParams.model_validate({"rule": rule})
    one, other = count(table(areas), params=params), count(table(areas * factor), params=params)
    assert one.cells_in_region.tolist() == other.cells_in_region.tolist()
    assert one.interval == other.interval


@given(seed=st.integers(0, 99))
def test_the_order_of_the_rows_changes_no_count(seed: int) -> None:
    areas = table(cells(150, seed=seed, clumps=(0.1,))[0])
    shuffled = areas.sample(frac=1, random_state=seed)
    assert count(shuffled).cells_in_region.sort_index().equals(count(areas).cells_in_region)


# --- types, tables, errors -------------------------------------------------------------------------------------------


def test_white_cells_and_platelets_are_counted_one_by_one_and_user_classes_are_kept() -> None:
    types = ["RBC"] * 30 + ["WBC"] * 3 + ["platelet"] * 2 + ["sickle"] * 4 + ["", "unidentified"]
    areas = [1000.0] * 30 + [9000.0] * 3 + [90.0] * 2 + [900.0] * 6
    result = count(table(areas, types))
    assert result.counts == {"RBC": 30, "WBC": 3, "platelet": 2, "sickle": 4, "unidentified": 2}
    assert list(result.counts)[:3] == ["RBC", "WBC", "platelet"]
    assert (result.cells_in_region == 1).all()


def test_white_cells_say_nothing_about_the_size_of_red_ones() -> None:
    areas, _ = cells(200, clumps=(0.1,))
    both = table([*areas, *np.full(300, 5000.0)], ["RBC"] * 200 + ["WBC"] * 300)
    assert count(both).thresholds == pytest.approx(count(table(areas)).thresholds)


def test_counts_per_type_are_aligned_with_the_index_of_the_table() -> None:
    areas, _ = cells(300, clumps=(0.2,))
    rows = table(areas)
    rows.index = pd.Index(np.arange(300)[::-1] * 7 + 3, name="id")
    result = count(rows)
    assert result.cells_in_region.index.equals(rows.index)
    assert result.cells_in_region.dtype == np.int64


def test_the_differential_is_in_percent_of_the_classes_of_white_cells() -> None:
    types = ["Neutrophils"] * 6 + ["lymphocyte"] * 3 + ["eosinophil"] + ["sickle"] * 5
    assert count(table(np.full(15, 900.0), types)).differential == pytest.approx(
        {"Neutrophils": 60, "lymphocyte": 30, "eosinophil": 10}
    )
    mine = count(table(np.full(15, 900.0), types), wbc_classes=["lymphocyte", "eosinophil"]).differential
    assert mine == pytest.approx({"lymphocyte": 75, "eosinophil": 25})


def test_one_class_of_white_cells_makes_no_differential() -> None:
    assert count(table(np.full(9, 900.0), "WBC")).differential == {}


def test_counts_per_square_millimetre_are_known_where_the_area_is() -> None:
    result = count(table(np.full(50, 900.0)), area_mm2=0.25)
    assert result.per_mm2 is not None
    assert result.per_mm2["RBC"] == 200
    assert count(table([900.0])).per_mm2 is None


@pytest.mark.parametrize("rule", ["robust", "paper", "none"])
@pytest.mark.parametrize("rows", [table([]), table([900.0, 800.0], "WBC")])
def test_a_table_without_red_cells_has_none(rows: pd.DataFrame, rule: str) -> None:
    result = count(rows, params=CountParams.model_validate({"rule": rule}))
    assert result.counts["RBC"] == 0
    assert result.interval == ((0, 0) if rule == "robust" else None)
    assert result.areas.size == result.grid.size == result.peaks.size == 0
    assert len(result.cells_in_region) == len(rows)


@pytest.mark.parametrize("rule", ["robust", "paper", "none"])
@pytest.mark.parametrize("areas", [[700.0], [700.0] * 2, [700.0] * 500, [1, 1e9]])
def test_equal_single_and_absurd_areas_are_counted(areas: list[float], rule: str) -> None:
    result = count(table(areas), params=CountParams.model_validate({"rule": rule}))
    assert result.counts["RBC"] >= len(areas)
    assert np.isfinite(result.density).all()


def test_only_cells_at_the_edge_are_counted_too() -> None:
    result = count(table(cells(50)[0], touches_edge=np.ones(50, bool)))
    assert result.counts["RBC"] == 50


@pytest.mark.parametrize("bad", [np.nan, 0.0, -5.0, np.inf])
def test_an_area_that_is_no_area_is_an_error_that_names_the_cell(bad: float) -> None:
    with pytest.raises(InputError, match=r"cell 3"):
        count(table([900, 950, bad, 990]))


def test_areas_that_are_no_numbers_are_an_error() -> None:
    rows = table([900.0, 950.0])
    rows["area_px"] = ["big", "small"]
    with pytest.raises(InputError, match="area_px"):
        count(rows)


@pytest.mark.parametrize("column", ["cell_type", "area_px"])
def test_a_missing_column_is_an_error(column: str) -> None:
    with pytest.raises(InputError, match=column):
        count(table([900.0]).drop(columns=column))


@pytest.mark.parametrize("setting", [{"rbc_diameter_px": 0}, {"area_mm2": -1}, {"area_mm2": np.nan}])
def test_a_size_that_is_not_above_zero_is_an_error(setting: dict[str, float]) -> None:
    with pytest.raises(InputError, match="above 0"):
        count(table([900.0]), **setting)


@pytest.mark.parametrize("thresholds", [[2000, 1000], [-1], [np.nan], [[1, 2]]])
def test_thresholds_that_do_not_rise_are_an_error(thresholds: Any) -> None:
    with pytest.raises(InputError, match="thresholds"):
        count(table([900.0]), thresholds=thresholds)


def test_counting_tells_its_progress_and_returns_the_same() -> None:
    rows = table(cells(100, clumps=(0.1,))[0])
    work, steps = iter_count(rows), []
    while True:
        try:
            steps.append(next(work))
        except StopIteration as end:
            result: Counting = end.value
            break
    assert [(s.done, s.total) for s in steps] == [(0, 2), (1, 2), (2, 2)]
    assert result.counts == count(rows).counts


def test_the_table_is_not_changed() -> None:
    rows = table(cells(100, clumps=(0.1,))[0])
    kept = rows.copy()
    count(rows)
    pd.testing.assert_frame_equal(rows, kept)


def test_a_million_cells_take_less_than_half_a_second_of_computing() -> None:
    areas, k = cells(1_000_000, clumps=(0.1,))
    rows = table(areas, ["RBC"] * 1_000_000)
    took = []
    for _ in range(3):
        start = time.process_time()
        result = count(rows)
        took.append(time.process_time() - start)
    assert min(took) < 0.5
    assert result.counts["RBC"] == pytest.approx(k.sum(), rel=0.005)


def test_kinds_that_a_model_told_and_classes_of_the_user_make_one_differential() -> None:
    types = ["WBC"] * 8 + ["neutrophil"] * 2 + ["RBC"] * 5
    kinds = ["neutrophil"] * 3 + ["lymphocyte"] * 3 + ["erythroblast", ""] + [""] * 2 + ["lymphocyte"] * 5
    counting = count(table(np.full(15, 900.0), types).assign(subtype=kinds))
    assert counting.kinds == {"neutrophil": 5, "lymphocyte": 3, "erythroblast": 1}
    assert counting.differential == pytest.approx({"neutrophil": 62.5, "lymphocyte": 37.5})
    assert counting.nrbc_per_100_wbc == pytest.approx(12.5)
    found = counting.differential_table
    assert found.loc["neutrophil"].tolist() == pytest.approx([5, 62.5, 24.486, 91.477], abs=1e-3)
    assert np.isnan(found.loc["erythroblast", "percent"])


def test_without_kinds_there_is_no_differential() -> None:
    counting = count(table(np.full(9, 900.0), "WBC"))
    assert counting.differential_table.empty
    assert counting.nrbc_per_100_wbc is None
