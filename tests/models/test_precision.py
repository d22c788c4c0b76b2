"""The same cells in float32 and in bfloat16, which every processor has, if only emulated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import napari_bloodcell as nb
from benchmarks.matching import label_iou, n_matched
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.models.embedded.proposals import DOUBTFUL_SCORE, doubtful_peaks
from napari_bloodcell.models.load import load_classifier, load_generator
from napari_bloodcell.synthetic import load_shipped

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytestmark = pytest.mark.network


def analysed(image: NDArray[np.uint8], precision: str) -> nb.Result:
    models = load_generator("embedded", "cpu", precision), load_classifier("embedded", "cpu", precision)
    return nb.analyse(image, generator=models[0], classifier=models[1])


@pytest.mark.filterwarnings("ignore:.*emulates")
def test_both_precisions_find_and_type_the_same_cells() -> None:
    image = load_shipped()[0][300:1100, 300:1500]
    exact, quick = (analysed(image, precision) for precision in ("float32", "bfloat16"))
    assert quick.counts == exact.counts
    assert quick.calibration == exact.calibration
    assert n_matched(label_iou(quick.cells, exact.cells)) == len(exact.table) == len(quick.table)
    assert list(quick.table["cell_type"]) == list(exact.table["cell_type"])
    assert (quick.recipe.segment.precision, exact.recipe.segment.precision) == ("bfloat16", "float32")
    assert (quick.recipe.classify.precision, exact.recipe.classify.precision) == ("bfloat16", "float32")


def test_the_width_of_a_red_cell_is_measured_in_float32_always() -> None:
    sample = load_shipped()[0][:400, :400]
    first = Calibration(30.0, (224.0, 229.0, 237.0), 203.0, "estimated")
    exact, quick = (load_generator("embedded", "cpu", p).calibrate(sample, first) for p in ("float32", "bfloat16"))
    assert quick == exact


def test_a_model_in_another_precision_leaves_the_first_as_it_was() -> None:
    for model in (load_generator("embedded", "cpu", "float32"), load_classifier("embedded", "cpu", "float32")):
        other = model.in_precision("bfloat16")  # type: ignore[attr-defined]
        assert (model.precision, other.precision) == ("float32", "bfloat16")  # type: ignore[attr-defined]
        assert other.sha256 == model.sha256


def logits(*scores: float) -> torch.Tensor:
    """A heat map (3, 5, 5) with one peak that has these scores as RBC, WBC, platelet."""
    heat = torch.full((3, 5, 5), -9.0)
    heat[:, 2, 3] = torch.logit(torch.tensor(scores))
    return heat


@pytest.mark.parametrize(
    ("scores", "is_doubtful"),
    [
        ((0.4 + DOUBTFUL_SCORE / 2, 0.1, 0.1), True),
        ((0.4 - DOUBTFUL_SCORE / 2, 0.1, 0.1), True),
        ((0.4 + DOUBTFUL_SCORE * 2, 0.1, 0.1), False),
        ((0.4 - DOUBTFUL_SCORE * 2, 0.1, 0.1), False),
        ((0.1, 0.1, 0.3 - DOUBTFUL_SCORE / 2), True),
        ((0.35, 0.1, 0.35 - DOUBTFUL_SCORE / 2), True),  # a cell as a platelet, none as a red cell
        ((0.8, 0.8 - DOUBTFUL_SCORE / 2, 0.1), True),
        ((0.2, 0.2, 0.2), False),
    ],
)
def test_peaks_near_what_a_cell_must_have_or_of_two_types_are_doubtful(
    scores: tuple[float, ...], is_doubtful: bool
) -> None:
    assert doubtful_peaks(logits(*scores), 0.4) == ([(2, 3)] if is_doubtful else [])


def test_cells_of_which_the_classifier_is_not_sure_are_typed_in_float32() -> None:
    exact, quick = (load_classifier("embedded", "cpu", p) for p in ("float32", "bfloat16"))
    rng = np.random.default_rng(0)
    cutouts = np.zeros((40, 128, 128, 3), np.uint8)
    for k, cutout in enumerate(cutouts):
        reach = 6 + k
        cutout[64 - reach : 64 + reach, 64 - reach : 64 + reach] = rng.integers(90, 190, 3)
    expected, found = exact.predict(cutouts), quick.predict(cutouts)
    unsure = expected.max(1) < 0.9
    assert unsure.any()
    assert np.allclose(found[unsure], expected[unsure], atol=1e-6)
    assert not np.array_equal(found, expected)  # the others were not
