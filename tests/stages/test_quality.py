"""A place is told to be worth counting or not, with a reason, the same in parts as as a whole."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

import napari_bloodcell as nb
from napari_bloodcell.core.cells import RBC, measure_cells
from napari_bloodcell.core.geometry import grown, slices_of
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.stages.quality.measures import Grid, measure_part
from napari_bloodcell.stages.quality.verdicts import Quality, judge
from napari_bloodcell.synthetic import SyntheticSmear, draw_smear
from tests.fakes import BrightnessClassifier, ThresholdGenerator
from tests.slides.conftest import random_discs, settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH = 36.0
MODELS = {"generator": ThresholdGenerator(), "classifier": BrightnessClassifier()}
SEEN = Calibration(WIDTH, (228.0, 222.0, 226.0), 200.0, red_rgb=(190.0, 140.0, 170.0))


@pytest.fixture(scope="module")
def smear() -> SyntheticSmear:
    return draw_smear((720, 760), seed=3, pair_share=0.0, clump_share=0.0)


def judged(
    image: NDArray[np.uint8], cells: NDArray[np.int32], width: float = WIDTH, seen: Calibration = SEEN
) -> Quality:
    """The quality of a picture in which every cell is known, and red."""
    seen = replace(seen, rbc_diameter_px=width)
    grid, (height, wide) = Grid.of(cells.shape, seen), cells.shape
    sums = measure_part(image, cells, (0, 0), (0, 0, height, wide), grid, seen)
    return judge(sums, measure_cells(cells).assign(cell_type=RBC), grid, seen)


def blurred(image: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    return ndimage.gaussian_filter(image, (sigma, sigma, 0))


def test_a_sharp_field_is_good_and_its_blurred_copy_says_how_wide_an_edge_is(smear: SyntheticSmear) -> None:
    sharp, soft = (judged(picture, smear.cells) for picture in (smear.image, blurred(smear.image, 0.1 * WIDTH)))
    assert (sharp.verdict, sharp.reasons) == ("good", ())
    assert set(sharp.tiles["verdict"]) == {"good"}
    assert sharp.share_good == 1
    assert set(soft.tiles["verdict"]) == {"blurred"}
    assert "out of focus: the edge of a red cell is" in soft.reasons[0]
    assert soft.tiles["confidence"].between(0.5, 1).all()


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_verdicts_are_those_of_the_picture_at_another_scale(smear: SyntheticSmear, scale: float) -> None:
    image = smear.image.copy()
    image[:, :380] = blurred(image, 0.1 * WIDTH)[:, :380]
    cells = ndimage.zoom(smear.cells, scale, order=0)
    other = judged(ndimage.zoom(image, (scale, scale, 1), order=1), cells, WIDTH * scale)
    own = judged(image, smear.cells)
    assert list(other.tiles["verdict"]) == list(own.tiles["verdict"]) == ["blurred", "good"] * 2


@pytest.mark.parametrize(
    ("n_red", "verdict"), [(0, "empty"), (40, "thin"), (210, "good")], ids=["no cell", "few cells", "a monolayer"]
)
def test_how_much_is_covered_decides(n_red: int, verdict: str) -> None:
    smear = draw_smear((720, 760), seed=4, n_rbc=n_red, n_wbc=0, n_platelets=0, pair_share=0, clump_share=0)
    assert judged(smear.image, smear.cells).verdict == verdict


def test_cells_that_lie_on_each_other_are_stacked() -> None:
    smear = draw_smear((720, 760), seed=5, pair_share=0.1, clump_share=0.9)
    assert judged(smear.image, smear.cells).verdict == "stacked"


def test_a_blue_stain_is_odd(smear: SyntheticSmear) -> None:
    seen = replace(SEEN, red_rgb=(60.0, 60.0, 90.0))
    assert judged(smear.image, smear.cells, seen=seen).verdict == "odd stain"


def test_stain_beside_the_cells_is_dirt(smear: SyntheticSmear) -> None:
    rng, image = np.random.default_rng(0), smear.image.copy()
    specks = ndimage.binary_dilation(rng.random(smear.cells.shape) < 0.012, iterations=2)
    image[specks] = (90, 40, 110)
    assert judged(image, smear.cells).verdict == "dirty"


def test_sums_over_parts_are_those_of_the_whole() -> None:
    wide = 70.0
    image = np.random.default_rng(1).integers(0, 255, (403, 517, 3), np.uint8)
    cells = ndimage.label(ndimage.gaussian_filter(np.random.default_rng(2).random((403, 517)), 6) > 0.5)[0]
    seen = replace(SEEN, rbc_diameter_px=wide)
    grid = Grid.of(cells.shape, seen)
    assert grid.bin_px == 2
    whole = measure_part(image, cells, (0, 0), (0, 0, 403, 517), grid, seen)
    found, tiles = [], 0
    for y in (0, 101, 250):
        for x in (0, 333):
            core = (y, x, {0: 101, 101: 250, 250: 403}[y], {0: 333, 333: 517}[x])
            around = grown(core, grid.margin_px, cells.shape)
            part = slices_of(around)
            one = measure_part(image[part], cells[part], around[:2], core, grid, seen)
            found.append(one.cells)
            tiles = tiles + one.tiles
    pd.testing.assert_frame_equal(pd.concat(found).groupby(level=0).sum(), whole.cells)
    assert np.array_equal(tiles, whole.tiles)


def test_cells_of_bad_places_count_only_if_that_is_asked_for() -> None:
    image = random_discs((700, 611), 220)
    image[:, 300:] = 230  # half of it is empty
    results = {how: nb.analyse(image, recipe=settings_of(how), **MODELS) for how in ("report", "good only", "off")}
    report, good, off = results.values()
    assert "empty" in set(report.quality.tiles["verdict"])
    assert off.quality is None
    assert off.counts_in_good is None
    assert report.counts == off.counts
    assert good.counts == report.counts_in_good
    assert (good.table["cells_in_region"] >= 1).all()


def settings_of(how: str) -> nb.Recipe:
    recipe = settings()
    return recipe.model_copy(update={"count": nb.CountParams(quality=how, rule="none")})


def test_assess_gives_the_quality_of_analyse() -> None:
    image = random_discs((700, 611), 220)
    own = nb.assess(image, recipe=settings(), **MODELS)
    pd.testing.assert_frame_equal(own.tiles, nb.analyse(image, recipe=settings(), **MODELS).quality.tiles)
