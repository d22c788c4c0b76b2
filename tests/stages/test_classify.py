"""Typing fills the cell table and draws the typed image; a fake classifier stands for the CNN."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest

from napari_bloodcell.core.cells import measure_cells
from napari_bloodcell.core.errors import InputError, ModelError
from napari_bloodcell.core.params import ClassifyParams, SegmentParams
from napari_bloodcell.core.protocols import Calibration, CellClassifier
from napari_bloodcell.stages.classify import classify, iter_classify
from napari_bloodcell.stages.segment import segment


@dataclass
class ByRedness:
    """Calls a cell WBC if its mean red is below 100; the probability is 0.9, or 0.6 where red is from 90 to 110."""

    name: str = "by redness"
    sha256: str = "0" * 64
    classes: tuple[str, ...] = ("RBC", "WBC")
    rbc_diameter_px: float | None = None
    glass_level: float | None = None
    seen: list[np.ndarray] = field(default_factory=list)

    def predict(self, cutouts: np.ndarray) -> np.ndarray:
        self.seen.append(cutouts)
        inside = np.maximum(cutouts.any(-1).sum((1, 2)), 1)
        red = cutouts[..., 0].sum((1, 2)) / inside
        p = np.where(np.abs(red - 100) <= 10, 0.6, 0.9)
        wbc = np.where(red < 100, p, 1 - p)
        return np.stack([1 - wbc, wbc], 1).astype(np.float32)


@dataclass
class Segmented:
    cells: np.ndarray
    table: pd.DataFrame
    calibration: Calibration


def two_rbc_and_a_wbc() -> tuple[np.ndarray, Segmented]:
    image = np.full((60, 90, 3), 230, np.uint8)
    cells = np.zeros((60, 90), np.int32)
    for i, red in enumerate((180, 105, 60)):
        window = (slice(10, 30), slice(5 + 28 * i, 25 + 28 * i))
        cells[window] = i + 1
        image[window] = (red, 120, 150)
    return image, Segmented(cells, measure_cells(cells), Calibration(20.0, (230.0, 230.0, 230.0), 200.0))


def test_every_cell_gets_type_probability_and_source() -> None:
    image, segmented = two_rbc_and_a_wbc()
    table = classify(image, segmented, classifier=ByRedness()).table
    assert table["cell_type"].tolist() == ["RBC", "RBC", "WBC"]
    assert table["probability"].tolist() == pytest.approx([0.9, 0.6, 0.9])
    assert set(table["type_source"]) == {"model"}


def test_the_typed_image_has_the_code_of_each_cell() -> None:
    image, segmented = two_rbc_and_a_wbc()
    result = classify(image, segmented, classifier=ByRedness())
    assert result.types.dtype == np.uint8
    np.testing.assert_array_equal(result.types, np.array([0, 1, 1, 2])[segmented.cells])


def test_the_segmentation_is_not_changed() -> None:
    image, segmented = two_rbc_and_a_wbc()
    before = segmented.table.copy()
    classify(image, segmented, classifier=ByRedness())
    pd.testing.assert_frame_equal(segmented.table, before)


def test_what_a_user_typed_stays() -> None:
    image, segmented = two_rbc_and_a_wbc()
    segmented.table.loc[3, ["cell_type", "type_source", "probability"]] = ["blast", "user", 1.0]
    result = classify(image, segmented, classifier=ByRedness())
    assert result.table.loc[3, ["cell_type", "type_source", "probability"]].tolist() == ["blast", "user", 1.0]
    assert result.types[20, 70] == result.names.index("blast") + 1


def test_a_cell_below_the_set_probability_is_unidentified_and_keeps_its_probability() -> None:
    image, segmented = two_rbc_and_a_wbc()
    result = classify(image, segmented, classifier=ByRedness(), params=ClassifyParams(unidentified_below=0.8))
    assert result.table["cell_type"].tolist() == ["RBC", "unidentified", "WBC"]
    assert result.table.loc[2, "probability"] == pytest.approx(0.6)
    assert result.types[20, 40] == result.names.index("unidentified") + 1


def test_cells_are_brought_to_the_scale_that_the_classifier_knows() -> None:
    image, segmented = two_rbc_and_a_wbc()
    fake = ByRedness(rbc_diameter_px=40.0)
    classify(image, segmented, classifier=fake)
    assert fake.seen[0][0].any(-1).sum() == pytest.approx(1600, rel=0.05)


def test_without_a_known_scale_cells_are_cut_as_they_are() -> None:
    image, segmented = two_rbc_and_a_wbc()
    fake = ByRedness()
    classify(image, segmented, classifier=fake)
    assert fake.seen[0][0].any(-1).sum() == 400


def test_the_tint_of_the_glass_is_taken_out_for_a_classifier_that_wants_it() -> None:
    image, segmented = two_rbc_and_a_wbc()
    segmented.calibration = Calibration(20.0, (230.0, 115.0, 230.0), 200.0)
    fake = ByRedness(glass_level=230.0)
    classify(image, segmented, classifier=fake)
    assert fake.seen[0][0, 64, 64].tolist() == [180, 240, 150]


@dataclass
class KnowsNeutrophils(ByRedness):
    """Calls what `ByRedness` takes for a WBC a neutrophil, and gives WBC nearly nothing."""

    classes: tuple[str, ...] = ("RBC", "WBC", "neutrophil")

    def predict(self, cutouts: np.ndarray) -> np.ndarray:
        rbc, white = super().predict(cutouts).T
        return np.stack([rbc, 0.1 * white, 0.9 * white], 1)


def test_a_generator_that_knows_no_neutrophils_does_not_speak_against_them() -> None:
    image, segmented = two_rbc_and_a_wbc()
    segmented.table["proposed_type"] = ["RBC", "WBC", "WBC"]
    segmented.table["proposed_probability"] = 0.97
    table = classify(image, segmented, classifier=KnowsNeutrophils()).table
    assert table["cell_type"].tolist() == ["RBC", "neutrophil", "neutrophil"]


def test_batches_do_not_change_the_result() -> None:
    image, segmented = two_rbc_and_a_wbc()
    one = classify(image, segmented, classifier=ByRedness(), params=ClassifyParams(batch_size=1))
    all_at_once = classify(image, segmented, classifier=ByRedness())
    pd.testing.assert_frame_equal(one.table, all_at_once.table)


def test_progress_counts_cells() -> None:
    image, segmented = two_rbc_and_a_wbc()
    steps = list(iter_classify(image, segmented, classifier=ByRedness(), params=ClassifyParams(batch_size=2)))
    assert [(s.done, s.total) for s in steps if s.what == "cells typed"] == [(0, 3), (2, 3), (3, 3)]


def test_a_smear_without_cells_is_typed_as_empty() -> None:
    image = np.full((30, 40, 3), 230, np.uint8)
    cells = np.zeros((30, 40), np.int32)
    result = classify(
        image, Segmented(cells, measure_cells(cells), Calibration(34.0, (230, 230, 230), 230)), classifier=ByRedness()
    )
    assert len(result.table) == 0
    assert not result.types.any()


def test_a_segmentation_of_another_image_is_refused() -> None:
    image, segmented = two_rbc_and_a_wbc()
    with pytest.raises(InputError, match="does not belong"):
        classify(image[:50], segmented, classifier=ByRedness())


@pytest.mark.parametrize("answer", [np.zeros((3, 5)), np.full((3, 2), np.nan)])
def test_a_classifier_that_answers_nonsense_is_named(answer: np.ndarray) -> None:
    image, segmented = two_rbc_and_a_wbc()

    class Broken(ByRedness):
        def predict(self, cutouts: np.ndarray) -> Any:
            return answer

    with pytest.raises(ModelError, match="by redness"):
        classify(image, segmented, classifier=Broken())


def test_the_fake_is_a_classifier() -> None:
    assert isinstance(ByRedness(), CellClassifier)


STAINS = {
    "purple": [[2.2, 0.6, 0], [0, 1.6, 0], [0, 0.2, 1.0]],
    "blue": [[3.0, 0.5, 0], [0.4, 1.2, 0], [0, 0, 0.6]],
    "over-stained": [[2.2, 0, 0], [0, 2.2, 0], [0, 0, 2.2]],
    "pale": [[0.45, 0, 0], [0, 0.45, 0], [0, 0, 0.45]],
}
"""Optical density of R, G, B that each channel gets of those of R, G, B."""


@pytest.mark.network
@pytest.mark.parametrize("name", STAINS)
def test_a_red_cell_is_red_in_any_stain(name: str, shipped: tuple[np.ndarray, Any]) -> None:
    image, glass = shipped[0][:700, :900], np.array([238.0, 232.0, 236.0])
    density = -np.log(np.clip(image / glass, 1 / 255, 1.0)) @ np.array(STAINS[name]).T
    stained = np.clip(np.rint(glass * np.exp(-density)), 0, 255).astype(np.uint8)
    before, after = (segment(picture, params=SegmentParams(device="cpu")) for picture in (image, stained))
    counts = [classify(p, s).table["cell_type"].value_counts() for p, s in ((image, before), (stained, after))]
    assert after.calibration.red_rgb is not None
    assert counts[1]["RBC"] == pytest.approx(counts[0]["RBC"], rel=0.02)
    assert counts[1].get("WBC", 0) == pytest.approx(counts[0]["WBC"], abs=1)
