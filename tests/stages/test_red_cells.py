"""What is told of red cells beside their number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from napari_bloodcell.core.cells import measure_cells
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.measures import MEASURES
from napari_bloodcell.core.params import CountParams
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.results.table import read_csv, read_parquet, write_csv, write_parquet
from napari_bloodcell.stages.counting import count
from napari_bloodcell.stages.red_cells.measurements import COLUMNS, add_measurements, columns_of, um_per_px
from napari_bloodcell.stages.red_cells.population import population_of
from napari_bloodcell.stages.red_cells.shapes import morphology_table, parasitaemia, read_grades

if TYPE_CHECKING:
    from pathlib import Path

GLASS = (200.0, 200.0, 200.0)
CALIBRATION = Calibration(30.0, GLASS, 200.0)


def ellipse(long: float, short: float, side: int = 90) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return ((x / long) ** 2 + (y / short) ** 2 <= 1).astype(np.int32)


def measured(cells: np.ndarray, image: np.ndarray | None = None) -> pd.Series:
    image = np.full((*cells.shape, 3), 100, np.uint8) if image is None else image
    return add_measurements(image, cells, measure_cells(cells), CALIBRATION, MEASURES).iloc[0]


def test_a_disc_is_measured_as_geometry_says() -> None:
    disc = measured(ellipse(20, 20))
    assert disc["feret_max_px"] == pytest.approx(40, rel=0.03)
    assert disc["feret_min_px"] == pytest.approx(40, rel=0.03)
    assert disc["equivalent_diameter_px"] == pytest.approx(40, rel=0.02)
    assert disc["perimeter_px"] == pytest.approx(40 * np.pi, rel=0.03)
    assert disc["circularity"] > 0.95
    assert disc["solidity"] > 0.95
    assert disc["eccentricity"] < 0.1
    assert disc["feret_max_um"] == pytest.approx(disc["feret_max_px"] * 7.5 / 30)  # a red cell is the ruler


def test_an_ellipse_is_measured_as_geometry_says() -> None:
    found = measured(ellipse(40, 20))
    assert found["feret_max_px"] == pytest.approx(80, rel=0.03)
    assert found["feret_min_px"] == pytest.approx(40, rel=0.03)
    assert found["eccentricity"] == pytest.approx(np.sqrt(1 - 0.25), abs=0.01)
    assert found["circularity"] < 0.9


def test_a_dent_lowers_solidity_only() -> None:
    dented = ellipse(20, 20)
    dented[40:50, 45:] = 0
    assert measured(dented)["solidity"] < 0.93 < measured(ellipse(20, 20))["solidity"]


def test_the_pallor_is_where_the_middle_is_lighter() -> None:
    cells, image = ellipse(20, 20), np.full((90, 90, 3), 200, np.uint8)
    image[cells == 1] = 100
    assert tuple(measured(cells, image)[["pallor_share", "pallor_depth"]]) == (0, 0)
    image[ellipse(8, 8) == 1] = 150
    found = measured(cells, image)
    assert found["pallor_share"] == pytest.approx(64 / 400, rel=0.1)
    assert found["pallor_depth"] == pytest.approx(1 - np.log(200 / 150) / np.log(2), abs=0.02)


def test_density_is_that_of_beer_and_lambert() -> None:
    found = measured(ellipse(20, 20), np.full((90, 90, 3), 20, np.uint8))
    assert found["density"] == pytest.approx(1)
    assert found["density_integral_px"] == pytest.approx(ellipse(20, 20).sum())
    red = measured(ellipse(20, 20), np.full((90, 90, 3), (200, 50, 50), np.uint8))
    assert red["hue"] == pytest.approx(0)


@pytest.mark.parametrize("side", [(1, 1), (1, 7), (2, 2)])
def test_crumbs_are_measured_without_an_error(side: tuple[int, int]) -> None:
    cells = np.zeros((20, 20), np.int32)
    cells[5 : 5 + side[0], 5 : 5 + side[1]] = 1
    assert np.isfinite(measured(cells)[list(COLUMNS)].to_numpy(float)).all()


def test_measurements_do_not_depend_on_the_parts() -> None:
    rng = np.random.default_rng(0)
    cells = np.zeros((200, 200), np.int32)
    for i, (y, x) in enumerate(rng.integers(0, 170, (25, 2)), start=1):
        cells[y : y + rng.integers(4, 30), x : x + rng.integers(4, 30)] = i
    image, table = rng.integers(1, 255, (200, 200, 3), dtype=np.uint8), measure_cells(cells)
    whole = add_measurements(image, cells, table, CALIBRATION, MEASURES)
    parts = add_measurements(image, cells, table, CALIBRATION, MEASURES, part_px=64)
    pd.testing.assert_frame_equal(whole, parts)


def test_measurements_come_back_from_both_files(tmp_path: Path) -> None:
    cells = ellipse(20, 20)
    table = add_measurements(np.full((90, 90, 3), 90, np.uint8), cells, measure_cells(cells), CALIBRATION, MEASURES)
    write_parquet(tmp_path / "t.parquet", table)
    write_csv(tmp_path / "t.csv", table)
    for again in (read_parquet(tmp_path / "t.parquet"), read_csv(tmp_path / "t.csv")):
        pd.testing.assert_frame_equal(again[list(COLUMNS)], table[list(COLUMNS)])


def test_the_pixel_size_is_the_ruler_unless_it_is_impossible() -> None:
    assert um_per_px(0.2, CALIBRATION) == 0.2
    assert um_per_px(None, CALIBRATION) == um_per_px(2.0, CALIBRATION) == 0.25
    assert list(columns_of(["hue", "feret_max"])) == ["hue", "feret_max_px", "feret_max_um"]


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="weight cannot be measured; give any of perimeter"):
        CountParams(measurements=("weight",))
    assert CountParams(measurements=("hue", "hue")).measurements == ("hue",)


def areas_of(diameters: np.ndarray) -> np.ndarray:
    return np.pi / 4 * diameters**2


def test_the_population_of_like_cells_has_one_mode_and_its_spread() -> None:
    rng = np.random.default_rng(1)
    found = population_of(areas_of(rng.normal(40, 2, 2000)))
    assert found is not None
    assert found.mean_px[1] < 40 < found.mean_px[2]
    assert found.cv_percent[1] < 5 < found.cv_percent[2]
    assert found.modes_px == ()
    assert found.small[1] < 1 > found.large[1]
    assert found.percentiles_px[50] == pytest.approx(40, abs=0.2)


def test_intervals_of_mean_and_cv_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    tries = [population_of(areas_of(rng.normal(40, 3, 150))) for _ in range(400)]
    for name, truth in (("mean_px", 40.0), ("cv_percent", 7.5)):
        held = np.mean([low < truth < high for _, low, high in (getattr(t, name) for t in tries)])
        assert 0.91 < held < 0.99


def test_two_populations_are_told_from_one() -> None:
    rng = np.random.default_rng(3)
    found = population_of(areas_of(np.concatenate([rng.normal(32, 1.8, 600), rng.normal(42, 2.0, 900)])))
    assert found is not None
    assert found.modes_px == pytest.approx((32, 42), abs=0.6)
    assert "Two sizes: 6.42 and 8.4 µm" in found.sentence(0.2)
    skewed = population_of(areas_of(36 * np.exp(rng.gamma(4, 0.04, 1500))))
    assert skewed is not None
    assert skewed.modes_px == ()


def test_only_whole_single_cells_are_the_population() -> None:
    table = pd.DataFrame({"cell_type": "RBC", "area_px": [1000.0] * 30 + [2000.0, 100.0, 500.0], "touches_edge": False})
    table.loc[32, "touches_edge"] = True
    counting = count(table, thresholds=[1500.0])
    assert counting.population is not None
    assert counting.population.n == 30


def test_grades_follow_the_table_with_the_probability_of_each() -> None:
    table = morphology_table({"normal": 930, "spherocyte": 60, "schistocyte": 10}, read_grades())
    assert table.loc["spherocyte", "grade"] == "2+"
    assert table.loc["schistocyte", "grade"] == "2+"
    assert table.loc["normal", "grade"] == ""
    assert table.loc["spherocyte", ["p_none", "p_1+", "p_2+", "p_3+"]].sum() == pytest.approx(1)
    assert table.loc["spherocyte", "p_2+"] == pytest.approx(0.925, abs=0.02)
    assert 0.4 < table.loc["schistocyte", "p_2+"] < 0.6
    assert table.loc["spherocyte", "p_1+"] == 0


def test_the_interval_of_a_share_is_exact() -> None:
    row = morphology_table({"normal": 97, "teardrop": 3}, read_grades()).loc["teardrop"]
    assert binom.sf(2, 100, row["low"] / 100) == pytest.approx(0.025, abs=1e-4)
    assert binom.cdf(3, 100, row["high"] / 100) == pytest.approx(0.025, abs=1e-4)


def test_a_laboratory_has_its_own_grades(tmp_path: Path) -> None:
    path = tmp_path / "grades.toml"
    path.write_text('[spherocyte]\n"1+" = 1\n"2+" = 7\n', encoding="utf-8")
    grades = read_grades(path)
    assert morphology_table({"normal": 94, "spherocyte": 6}, grades).loc["spherocyte", "grade"] == "1+"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "no table of grades"),
        ('[burr]\n"4+" = 3', "one or more of 1"),
        ('[burr]\n"1+" = 9\n"2+" = 3', "must rise"),
        ('[burr]\n"1+" = "few"', "must rise"),
    ],
)
def test_a_table_that_is_no_table_of_grades_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "grades.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_grades(path)


def test_parasitaemia_has_its_exact_interval_and_its_target() -> None:
    found = parasitaemia(4, 800, 1000)
    assert found is not None
    assert found["percent"] == 0.5
    assert binom.cdf(4, 800, found["high"] / 100) == pytest.approx(0.025, abs=1e-4)
    assert not found["is_enough"]
    assert parasitaemia(0, 1000, 1000)["is_enough"]
    assert parasitaemia(0, 0, 1000) is None


def test_kinds_of_red_cells_are_counted_apart_from_the_infected() -> None:
    kinds = ["normal"] * 40 + ["teardrop"] * 3 + ["infected"] * 2 + [""] * 5
    table = pd.DataFrame({"cell_type": "RBC", "area_px": 1000.0, "subtype": kinds})
    counting = count(table)
    assert list(counting.morphology_table["n"]) == [40, 3]
    assert counting.red_kinds["infected"] == 2
    assert counting.kinds == {}
    assert counting.doubts == ("Shapes were told of 43 red cells; grades of rare shapes need 1,000.",)
