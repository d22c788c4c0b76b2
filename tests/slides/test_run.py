"""A slide that is analysed in parts comes to what it comes to as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

import napari_bloodcell as nb
from napari_bloodcell.progress import drain
from napari_bloodcell.slides.run import iter_analyse_slide
from tests.fakes import BrightnessClassifier, ThresholdGenerator
from tests.slides.conftest import random_discs, settings

if TYPE_CHECKING:
    from pathlib import Path

MODELS = {"generator": ThresholdGenerator(), "classifier": BrightnessClassifier()}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("overlap", [None, 0])
def test_in_parts_comes_to_the_same_as_in_memory(overlap: int | None, tmp_path: Path) -> None:
    image = random_discs((700, 611), 220)
    recipe = settings(tile_overlap=overlap)
    whole = nb.analyse(image, recipe=recipe, **MODELS)
    parts = drain(iter_analyse_slide(image, tmp_path, recipe=recipe, **MODELS))
    assert len(whole.table) > 100
    assert np.array_equal(parts.cells[...], whole.cells)
    assert np.array_equal(parts.types[...], whole.types)
    pd.testing.assert_frame_equal(parts.table, whole.table)
    assert parts.counts == whole.counts
    assert parts.counting.interval == whole.counting.interval
