"""A slide is judged block by block as it is in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import pytest

import napari_bloodcell as nb
from napari_bloodcell.core.progress import drain
from napari_bloodcell.slides.run import iter_analyse_slide
from tests.fakes import BrightnessClassifier, ThresholdGenerator
from tests.slides.conftest import random_discs, settings

if TYPE_CHECKING:
    from pathlib import Path

MODELS = {"generator": ThresholdGenerator(), "classifier": BrightnessClassifier()}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("overlap", [None, 0])
def test_a_slide_is_judged_as_in_memory_and_its_quality_is_kept(overlap: int | None, tmp_path: Path) -> None:
    image, recipe = random_discs((700, 611), 220), settings(tile_overlap=overlap)
    whole = nb.analyse(image, recipe=recipe, **MODELS)
    parts = drain(iter_analyse_slide(image, tmp_path, recipe=recipe, **MODELS))
    stored = nb.read_result(tmp_path)
    assert len(whole.quality.tiles) > 1
    for other in (parts, stored):
        pd.testing.assert_frame_equal(other.quality.tiles, whole.quality.tiles)
        pd.testing.assert_frame_equal(other.quality.measures, whole.quality.measures)
        assert other.counts_in_good == whole.counts_in_good
