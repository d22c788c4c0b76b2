from __future__ import annotations

import numpy as np

from napari_bloodcell.core.params import Recipe, SegmentParams
from napari_bloodcell.pipeline import analyse
from tests.fakes import BrightnessClassifier, ThresholdGenerator, disc_image

CENTRES = [(30.0, 30.0), (30.0, 100.0), (90.0, 64.0), (140.0, 140.0)]


def run(image: np.ndarray) -> object:
    recipe = Recipe(segment=SegmentParams(rbc_diameter_px=24))
    return analyse(image, recipe=recipe, generator=ThresholdGenerator(), classifier=BrightnessClassifier())


def test_cells_types_table_and_counts_agree() -> None:
    image = disc_image(CENTRES, (190, 200))
    dark = disc_image([(90.0, 150.0)], (190, 200), value=30)
    result = run(np.minimum(image, dark))
    assert result.counts["WBC"] == 1
    assert result.counts["RBC"] == len(CENTRES)
    assert result.counts["platelet"] == 0
    for label, row in result.table.iterrows():
        codes = np.unique(result.types[result.cells == label])
        assert list(codes) == [1 + result.names.index(row["cell_type"])]


def test_an_image_without_cells_counts_nothing() -> None:
    result = run(np.full((64, 64, 3), 240, np.uint8))
    assert result.counts == {"RBC": 0, "WBC": 0, "platelet": 0}
    assert result.table.empty


def test_models_are_named_with_their_weights() -> None:
    models = run(disc_image(CENTRES, (190, 200))).models
    assert models["segment"] == {"name": "threshold", "sha256": "0" * 64}
    assert models["classify"] == {"name": "brightness", "sha256": "1" * 64}


def test_the_device_is_the_one_that_was_used_and_not_the_one_that_was_asked_for() -> None:
    generator = ThresholdGenerator()
    generator.device = "cuda:1"  # type: ignore[attr-defined]
    recipe = Recipe(segment=SegmentParams(rbc_diameter_px=24, device="auto"))
    image = disc_image(CENTRES, (190, 200))
    assert analyse(image, recipe=recipe, generator=generator, classifier=BrightnessClassifier()).device == "cuda:1"
    plain = analyse(image, recipe=recipe, generator=ThresholdGenerator(), classifier=BrightnessClassifier())
    assert plain.device == "auto"  # a generator that does not tell
