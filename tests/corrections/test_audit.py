from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.corrections.audit import agreement_of, audits_of, draw_sample, result_of
from napari_bloodcell.corrections.correction import Correction

N_CELLS = {"RBC": 900, "WBC": 40, "platelet": 60}


def judgement(i: int, audited: str, said: str, *, who: str = "Ada", audit: str = "first", n: int = 0) -> Correction:
    """What a reader says of one cell, the i-th of a row of cells."""
    cells = np.zeros((4, 4 * i + 4), np.int32)
    cells[:3, 4 * i : 4 * i + 3] = i
    box = (0, 4 * i, 3, 4 * i + 3)
    of_cells = n or N_CELLS[audited]
    what = {"from_type": audited, "to_type": said, "annotator": who, "image_sha256": "a" * 64}
    return Correction.of_cell(cells, i, box, **what, audit=audit, audit_type=audited, audit_cells=of_cells)


def test_a_sample_has_the_wished_number_of_each_class_or_all_of_a_rarer_one() -> None:
    types = ["RBC"] * 50 + ["WBC"] * 3 + [""] * 4
    drawn = draw_sample(range(1, 58), types, 20, seed=1)
    assert {name: sum(d.cell_type == name for d in drawn) for name in ("RBC", "WBC", "")} == {
        "RBC": 20,
        "WBC": 3,
        "": 0,
    }
    assert len({d.cell for d in drawn}) == 23
    assert {d.of_cells for d in drawn if d.cell_type == "RBC"} == {50}
    assert drawn == draw_sample(range(1, 58), types, 20, seed=1)
    assert [d.cell_type for d in drawn] != sorted(d.cell_type for d in drawn)  # else the order would tell the type


def test_each_cell_of_a_class_is_as_likely_drawn() -> None:
    drawn = [d.cell for seed in range(400) for d in draw_sample(range(10), ["RBC"] * 10, 3, seed=seed)]
    assert stats.chisquare(np.bincount(drawn, minlength=10)).pvalue > 0.001


def test_without_types_there_is_nothing_to_draw() -> None:
    with pytest.raises(InputError, match="nothing to audit"):
        draw_sample([1, 2], ["", ""], 5)


def test_the_result_is_told_with_its_exact_interval() -> None:
    judged = [judgement(i, "RBC", "RBC" if i >= 3 else "WBC", n=200) for i in range(200)]
    found = result_of(judged)
    assert (found.right, found.n) == (197, 200)
    assert str(found).startswith("right 197 of 200, 98.5 % (95.7–99.7 %)")


def test_classes_count_by_their_cells_not_by_their_samples() -> None:
    judged = [judgement(i, "RBC", "RBC") for i in range(20)]
    judged += [judgement(20 + i, "WBC", "WBC" if i < 10 else "RBC") for i in range(20)]
    found = result_of(judged)
    assert found.share.value == 0.75
    assert found.weighted.value == pytest.approx((900 + 40 * 0.5) / 940)
    assert found.by_type == {"RBC": (20, 20, 900), "WBC": (10, 20, 40)}


def test_the_weighted_interval_of_one_class_is_the_exact_one_and_nineteen_of_twenty_hold_the_truth() -> None:
    one = result_of([judgement(i, "RBC", "RBC" if i else "WBC") for i in range(30)])
    assert (one.weighted.low, one.weighted.high) == pytest.approx((one.share.low, one.share.high), abs=1e-9)
    random, held, n = np.random.default_rng(0), 0, 300
    truth = {"RBC": 0.95, "WBC": 0.7, "platelet": 0.85}
    share = sum(N_CELLS[t] * p for t, p in truth.items()) / sum(N_CELLS.values())
    for _ in range(n):
        rows = [(t, random.random() < p) for t, p in truth.items() for _ in range(40)]
        found = result_of([judgement(i, t, t if right else "other") for i, (t, right) in enumerate(rows)]).weighted
        held += found.low <= share <= found.high
    assert held / n >= 0.93


def test_audits_are_told_apart_by_name_and_reader_and_ordinary_corrections_are_none() -> None:
    ordinary = Correction.of_cell(np.ones((3, 3), int), 1, (0, 0, 3, 3), from_type="RBC", to_type="WBC",
                                  annotator="Ada", image_sha256="a" * 64)  # fmt: skip
    first, second = judgement(1, "RBC", "RBC"), judgement(1, "RBC", "WBC", who="Ben")
    again, gone = judgement(1, "RBC", "WBC"), judgement(2, "RBC", "RBC")
    found = audits_of([ordinary, first, second, again, gone, gone.undo(), judgement(3, "WBC", "WBC", audit="other")])
    assert set(found) == {"first", "other"}
    assert {who: [c.to_type for c in said] for who, said in found["first"].items()} == {"Ada": ["WBC"], "Ben": ["WBC"]}


def test_two_readers_get_their_kappa_over_the_cells_that_both_judged() -> None:
    ada = [judgement(i, "RBC", "RBC" if i < 6 else "WBC") for i in range(10)]
    ben = [judgement(i, "RBC", "RBC" if i < 5 else "WBC", who="Ben") for i in range(9)]
    (found,) = agreement_of({"Ada": ada, "Ben": ben})
    assert (found.names, found.n) == (("Ada", "Ben"), 9)
    observed, chance = 8 / 9, (6 * 5 + 3 * 4) / 81
    assert found.kappa.value == pytest.approx((observed - chance) / (1 - chance))
    assert str(found).startswith("Ada and Ben: κ = 0.77 (")


def test_what_the_audit_says_is_in_the_line_of_the_journal_and_older_lines_have_none() -> None:
    one = judgement(1, "RBC", "WBC")
    assert Correction.from_json(one.to_json()) == one
    content = json.loads(one.to_json())
    for name in ("audit", "audit_type", "audit_cells"):
        del content[name]
    assert Correction.from_json(json.dumps(content)).audit == ""
    with pytest.raises(ValueError, match="-5"):
        Correction.from_json(json.dumps(json.loads(one.to_json()) | {"audit_cells": -5}))
