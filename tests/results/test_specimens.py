"""Specimens: many fields, one answer."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import napari_bloodcell as nb
from napari_bloodcell.core.cells import box_of, measure_cells, type_lut, type_names
from napari_bloodcell.core.errors import InputError, ResultWarning
from napari_bloodcell.core.params import CountParams, Recipe, SegmentParams
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.core.statistics import exact_interval
from napari_bloodcell.results.result import Result
from napari_bloodcell.results.specimens.shares import density_of, ratio_of, share_of
from napari_bloodcell.results.specimens.specimen import Specimen, pool

KINDS = ("neutrophil", "lymphocyte")
SIDE, SHAPE = 12, (200, 240)


def a_field(number: int, *, n: int = 40, **changes: Any) -> Result:
    """A field with n cells, of which every eighth is a white cell and every tenth a platelet."""
    cells = np.zeros(SHAPE, np.int32)
    for i in range(n):
        y, x = 5 + 18 * (i // 12), 6 + 19 * (i % 12)
        cells[y : y + SIDE, x : x + SIDE] = i + 1
    types = ["WBC" if i % 8 == number % 8 else "platelet" if i % 10 == 9 else "RBC" for i in range(n)]
    kinds = [KINDS[i % 2] if kind == "WBC" else "" for i, kind in enumerate(types)]
    table = measure_cells(cells, cell_type=types, subtype=kinds, probability=[0.9] * n)
    names = type_names()
    values: dict[str, Any] = {
        "names": names,
        "calibration": Calibration(13.5, (230.0, 220.0, 215.0), 180.0, red_rgb=(200.0, 140.0, 150.0)),
        "recipe": Recipe(),
        "models": {"segment": {"name": "embedded", "sha256": "a" * 64}},
        "image_name": f"field_{number}",
        "device": "cpu",
        "failed_tiles": [],
        "pixel_size_um": 0.5,
        "image_sha256": f"{number:064x}",
    }
    return Result(cells, type_lut(table, names, n)[cells], table, **values | changes)


def some_fields(n: int = 6) -> list[Result]:
    return [a_field(number, n=30 + 7 * number) for number in range(n)]


def pooled(results: Any, **options: Any) -> Specimen:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResultWarning)
        return pool(results, **options)


def an_image(number: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (*SHAPE, 3), np.uint8)


# --- sums ------------------------------------------------------------------------------------------------------------


def test_pooled_numbers_are_the_sums_over_the_fields_to_the_cell() -> None:
    results = some_fields()
    specimen = nb.pool(results, name="S1")
    for what in ("counts", "counted", "uncorrected", "kinds"):
        one_by_one = [getattr(result.counting, what) for result in results]
        names = {name for one in one_by_one for name in one}
        assert getattr(specimen, what) == {name: sum(one.get(name, 0) for one in one_by_one) for name in names}
    assert {name: int(specimen.fields[name].sum()) for name in specimen.counts} == specimen.counts
    assert specimen.area_mm2 == pytest.approx(sum(result.counting.area_mm2 or 0 for result in results))
    assert specimen.densities.loc["RBC", "per_mm2"] == pytest.approx(specimen.counted["RBC"] / specimen.area_mm2)
    assert specimen.warnings == ()
    assert (specimen.name, specimen.n_fields) == ("S1", 6)


def test_shares_and_rates_follow_from_the_sums_and_lie_in_their_intervals() -> None:
    specimen = pool(some_fields())
    counted, n = specimen.counted, specimen.n_in_differential
    assert n == counted["WBC"]
    assert specimen.differential["percent"].sum() == pytest.approx(100)
    assert specimen.differential.loc["neutrophil", "percent"] == pytest.approx(100 * specimen.kinds["neutrophil"] / n)
    assert specimen.rbc_per_wbc.value == pytest.approx(counted["RBC"] / counted["WBC"])
    assert specimen.platelets_per_1000_rbc.value == pytest.approx(1000 * counted["platelet"] / counted["RBC"])
    field = specimen.per_field(200)
    assert field.loc["RBC", "per_field"] == pytest.approx(
        specimen.densities.loc["RBC", "per_mm2"] * np.pi * 0.1**2, rel=1e-9
    )
    for estimate in (specimen.rbc_per_wbc, specimen.platelets_per_1000_rbc):
        assert estimate.low < estimate.value < estimate.high
    for table in (specimen.differential, specimen.densities):
        assert (table["low"] < table.iloc[:, 1]).all()
        assert (table.iloc[:, 1] < table["high"]).all()


def test_the_distribution_of_sizes_is_of_single_whole_red_cells() -> None:
    specimen = pool(some_fields())
    width = 2 * np.sqrt(SIDE**2 / np.pi) * 0.5
    assert specimen.diameters_um == pytest.approx(width)
    row = specimen.sizes[specimen.sizes["n"] > 0]
    assert row.index[0] <= width < row["to_um"].iloc[0]
    assert row["n"].sum() == len(specimen.diameters_um)


def test_shapes_and_parasites_are_pooled_from_the_fields_that_tell_them() -> None:
    results = some_fields(3)
    assert (len(pool(results).morphology), pool(results).parasitaemia) == (0, None)
    for number, kinds in enumerate((["normal"] * 8 + ["teardrop"] * 2, ["normal"] * 19 + ["infected"])):
        table = results[number].table.copy()
        red = table.index[table["cell_type"] == "RBC"][: len(kinds)]
        table.loc[red, "subtype"] = kinds
        results[number] = replace(results[number], rows=table)
    specimen = pool(results)
    assert specimen.morphology["n"].to_dict() == {"normal": 27, "teardrop": 2}
    teardrops = specimen.morphology.loc["teardrop"]
    assert teardrops["percent"] == pytest.approx(100 * 2 / 29)
    assert teardrops["low"] < teardrops["percent"] < teardrops["high"]
    assert teardrops["grade"] == "2+"
    infected, n = specimen.parasitaemia, results[1].counts["RBC"]
    assert infected is not None
    assert (infected.value, infected.high) == pytest.approx((100 / n, 100 * exact_interval(1, n)[1]))


def test_a_correction_of_any_field_changes_the_pooled_numbers() -> None:
    results = some_fields(3)
    table = results[1].table.copy()
    red = table.index[table["cell_type"] == "RBC"][:2]
    table.loc[red, ["cell_type", "type_source"]] = ["WBC", "user"]
    corrected = replace(results[1], rows=table)
    before, after = pool(results), pool([results[0], corrected, results[2]])
    assert after.counts["WBC"] == before.counts["WBC"] + 2
    assert after.counts["RBC"] == before.counts["RBC"] - 2
    assert after.fields["n_corrected"].tolist() == [0, 2, 0]


def test_folders_and_results_pool_to_the_same(tmp_path: Path) -> None:
    results = some_fields(3)
    for number, result in enumerate(results):
        nb.write_result(result, tmp_path / f"field_{number}", image=an_image(number))
    from_folder = pool(tmp_path)
    assert from_folder.counts == pool(results).counts
    assert list(from_folder.fields.index) == ["field_0", "field_1", "field_2"]
    assert pool([tmp_path / "field_0", tmp_path / "field_2"], name="x").counts != from_folder.counts


# --- per µL ----------------------------------------------------------------------------------------------------------


def test_cells_per_microlitre_take_the_factor_and_its_interval_from_the_user() -> None:
    specimen = pool(some_fields())
    sure = specimen.per_ul("platelet", 20_000, (20_000, 20_000), field_um=200)
    unsure = specimen.per_ul("platelet", 20_000, (15_000, 26_000), field_um=200)
    assert sure.value == unsure.value == pytest.approx(20_000 * specimen.per_field(200).loc["platelet", "per_field"])
    assert unsure.low < sure.low < sure.value < sure.high < unsure.high


@pytest.mark.parametrize("interval", [(0, 2), (3, 4), (1, 1.5), (1, np.inf)])
def test_a_factor_outside_its_interval_is_refused(interval: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="factor"):
        pool(some_fields()).per_ul("WBC", 2, interval, field_um=500)


# --- intervals -------------------------------------------------------------------------------------------------------


def test_fields_that_differ_widen_the_interval_and_equal_ones_do_not() -> None:
    even, uneven = share_of([10] * 10, [100] * 10), share_of([0, 20] * 5, [100] * 10)
    assert even.value == uneven.value == 0.1
    assert uneven.high - uneven.low > 2 * (even.high - even.low)
    assert (even.low, even.high) == pytest.approx((0.0821, 0.1203), abs=1e-4)  # Clopper and Pearson, 100 of 1,000


def test_the_interval_of_a_density_holds_the_true_one_where_fields_differ() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        rates = rng.gamma(20, 1 / 20, 12)
        found = density_of(rng.poisson(60 * rates), np.ones(12))
        held += found.low <= 60 <= found.high
    assert 0.93 <= held / 300 <= 0.99


def test_nothing_found_has_an_interval_and_nothing_looked_at_has_none() -> None:
    assert share_of([0, 0], [50, 50]).low == 0
    assert 0.03 < share_of([0, 0], [50, 50]).high < 0.04
    assert density_of([0], [2.0]).high == pytest.approx(3.689 / 2, abs=1e-3)
    assert np.isnan(share_of([0], [0]).value)
    assert np.isnan(ratio_of([5], [0]).value)


# --- what should not be pooled in silence ----------------------------------------------------------------------------


def test_a_specimen_without_a_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'S1' has no field"):
        pool([], name="S1")
    with pytest.raises(InputError, match="holds no result"):
        pool(tmp_path)


def test_one_field_says_that_nothing_is_known_of_others() -> None:
    with pytest.warns(ResultWarning, match="one field only"):
        specimen = pool([a_field(1)])
    assert specimen.counts == a_field(1).counting.counts


def test_fields_of_another_magnification_or_stain_are_named() -> None:
    seen = Calibration(13.5, (230.0, 220.0, 215.0), 180.0, red_rgb=(200.0, 140.0, 150.0))
    results = [
        *some_fields(4),
        a_field(7, calibration=replace(seen, rbc_diameter_px=20.0)),
        a_field(8, calibration=replace(seen, red_rgb=(140.0, 150.0, 190.0))),
    ]
    specimen = pooled(results)
    assert any("another magnification" in said and "field_7 (20 px)" in said for said in specimen.warnings)
    assert any("another stain" in said and "field_8" in said for said in specimen.warnings)
    assert len(specimen.warnings) == 2


def test_a_field_without_an_area_is_named_and_no_part_of_densities() -> None:
    lost = Calibration(13.5, (230.0, 220.0, 215.0), 180.0, scale_confidence=0.1)
    results = [*some_fields(3), a_field(7, calibration=lost, pixel_size_um=None)]
    specimen = pooled(results)
    assert any("area of field_7 is not known" in said for said in specimen.warnings)
    assert specimen.densities.loc["RBC", "n"] == sum(result.counting.counted["RBC"] for result in results[:3])
    assert specimen.counted["RBC"] == sum(result.counting.counted["RBC"] for result in results)


def test_areas_by_the_red_cell_are_told_from_those_by_the_pixel_size() -> None:
    specimen = pooled([a_field(1), a_field(2, pixel_size_um=None)])
    assert specimen.fields["ruler"].tolist() == ["pixel size", "red cell"]
    assert any("area of field_2 is measured by the width of its red cells" in said for said in specimen.warnings)


def test_another_recipe_other_models_and_another_version_are_named(tmp_path: Path) -> None:
    other = Recipe(segment=SegmentParams(score_min=0.6), count=CountParams(edges="all"))
    results = [*some_fields(3), a_field(7, recipe=other), a_field(8, models={"segment": {"name": "x", "sha256": "b"}})]
    nb.write_result(a_field(9), tmp_path, image=an_image())
    stored = nb.read_result(tmp_path)
    assert stored.record is not None
    old, new = ({**stored.record.packages, "napari-bloodcell": version} for version in ("1.0", "2.0"))
    results += [
        replace(stored, record=stored.record.model_copy(update={"packages": packages}), image_sha256=name)
        for packages, name in ((old, "c"), (new, "d"), (new, "e"))
    ]
    said = " ".join(pooled(results).warnings)
    assert "settings differ between fields (count.edges, segment.score_min): field_7 against" in said
    assert "models differ between fields: field_8 against" in said
    assert "version of the program differs between fields (1.0, 2.0)" in said


def test_a_picture_given_twice_counts_once() -> None:
    results = some_fields(3)
    specimen = pooled([*results, replace(results[0], image_name="renamed")])
    assert specimen.counts == pool(results).counts
    assert specimen.warnings == ("renamed shows the same picture as field_0 and counts once.",)


def test_corrections_of_a_journal_count_and_those_of_other_pictures_are_named(tmp_path: Path) -> None:
    results, journal = some_fields(2), nb.Journal(tmp_path)
    cell = int(results[0].table.index[results[0].table["cell_type"] == "RBC"][3])
    box = tuple(int(v) for v in results[0].table.loc[cell, ["bbox_y0", "bbox_x0", "bbox_y1", "bbox_x1"]])
    for image in (results[0].image_sha256, "f" * 64):
        what = {"from_type": "RBC", "to_type": "WBC", "annotator": "A", "image_sha256": image}
        journal.append(nb.Correction.of_cell(results[0].cells, cell, box, **what))  # type: ignore[arg-type]
    specimen = pooled(results, journal=journal)
    assert specimen.counts["WBC"] == pool(results).counts["WBC"] + 1
    assert specimen.fields["n_corrected"].tolist() == [1, 0]
    assert any("pictures that are no field here: ffffffffffff…" in said for said in specimen.warnings)


def test_kinds_and_marks_of_a_journal_are_those_of_the_pooled_cells(tmp_path: Path) -> None:
    result, journal = a_field(0), nb.Journal(tmp_path)
    cells = result.table.index[result.table["cell_type"] == "RBC"][:2]
    said = ({"to_type": "WBC", "to_subtype": "monocyte"}, {"to_type": "", "to_abnormal": True})
    for cell, what in zip(cells, said, strict=True):
        one = {"from_type": "RBC", "annotator": "A", "image_sha256": result.image_sha256, **what}
        journal.append(nb.Correction.of_cell(result.cells, int(cell), box_of(result.table, int(cell)), **one))
    before, specimen = pooled(result), pooled(result, journal=journal)
    n = before.counts
    assert specimen.counts == {**n, "RBC": n["RBC"] - 1, "WBC": n["WBC"] + 1}
    assert specimen.kinds == {**before.kinds, "monocyte": 1}
    told = specimen.results[0].table.loc[list(cells), ["cell_type", "subtype", "type_source", "abnormal"]]
    assert told.to_numpy().tolist() == [["WBC", "monocyte", "user", False], ["RBC", "", "model", True]]
