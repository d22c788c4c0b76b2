from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_bloodcell.core.cells import centroids_of
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.params import SegmentParams
from napari_bloodcell.core.progress import drain
from napari_bloodcell.models.load import load_generator
from napari_bloodcell.stages.segment import at_score, iter_segment, sample_of, segment
from napari_bloodcell.synthetic import load_shipped
from tests.fakes import ThresholdGenerator, disc_image

GIVEN = {"rbc_diameter_px": 24.0}
CENTRES = [(30, 30), (30, 100), (90, 64), (64, 128), (128, 128), (128, 40), (150, 90), (20, 160), (100, 170)]


def params(**settings_: object) -> SegmentParams:
    return SegmentParams(**{**GIVEN, "tile_size": 64, **settings_})  # type: ignore[arg-type]


def test_each_cell_gets_one_row_and_one_label() -> None:
    result = segment(disc_image(CENTRES, (190, 200)), params=params(), generator=ThresholdGenerator())
    assert len(result.table) == len(CENTRES) == result.cells.max()
    found = np.array(sorted(centroids_of(result.table).tolist()))
    assert np.allclose(found, sorted(CENTRES))
    assert (result.table["area_px"] == np.bincount(result.cells.ravel())[1:]).all()


@given(tile_size=st.integers(64, 260), overlap=st.sampled_from([None, 0]))
@settings(max_examples=15)
def test_tiles_leave_no_trace(tile_size: int, overlap: int | None) -> None:
    image = disc_image(CENTRES, (190, 200))
    whole = segment(image, params=params(tile_size=512), generator=ThresholdGenerator())
    tiled = segment(image, params=params(tile_size=tile_size, tile_overlap=overlap), generator=ThresholdGenerator())
    assert len(tiled.table) == len(whole.table)
    differ = (tiled.cells > 0) != (whole.cells > 0)
    assert differ.sum() <= (0 if overlap is None else 8)  # a tile without overlap drops crumbs of a few pixels


def test_the_image_is_not_changed() -> None:
    image = disc_image(CENTRES, (190, 200), value=20)
    before = image.copy()
    generator = ThresholdGenerator(normalises_light=False)
    segment(image, params=params(brightness_target=250), generator=generator)
    assert (image == before).all()


def test_a_tile_that_fails_is_named_and_the_others_are_done() -> None:
    image = disc_image(CENTRES, (190, 200))
    result = segment(image, params=params(tile_overlap=0), generator=ThresholdGenerator(fails_on=(64, 64)))
    assert [t.box for t in result.failed_tiles] == [(64, 64, 128, 128)]
    assert "out of memory" in result.failed_tiles[0].error
    assert len(result.table) > 4


def test_a_tile_that_fails_once_is_tried_again() -> None:
    image = disc_image(CENTRES, (190, 200))
    generator = ThresholdGenerator(fails_on=(0, 0), fails_once=True)
    result = segment(image, params=params(), generator=generator)
    assert not result.failed_tiles
    assert len(result.table) == len(CENTRES)


def test_progress_reaches_its_total_and_carries_the_masks() -> None:
    steps = []
    drain(iter_segment(disc_image(CENTRES, (190, 200)), params=params(), generator=ThresholdGenerator()), steps.append)
    assert steps[-1].done == steps[-1].total == len(steps) == 12
    assert sum(len(s.payload[1]) for s in steps) >= len(CENTRES)


def test_a_given_width_is_taken_as_it_is() -> None:
    image = disc_image(CENTRES, (190, 200))
    by_width = segment(image, params=SegmentParams(rbc_diameter_px=31), generator=ThresholdGenerator())
    by_pixel = segment(image, params=SegmentParams(pixel_size_um=0.25), generator=ThresholdGenerator())
    assert (by_width.calibration.rbc_diameter_px, by_width.calibration.source) == (31, "given")
    assert (by_pixel.calibration.rbc_diameter_px, by_pixel.calibration.source) == (30, "pixel size")


def test_an_empty_field_has_no_cells() -> None:
    result = segment(np.full((80, 90, 3), 240, np.uint8), generator=ThresholdGenerator())
    assert result.table.empty
    assert result.cells.shape == (80, 90)
    assert not result.cells.any()


@pytest.mark.parametrize("shape", [(300, 200), (4000, 3000), (9000, 40)])
def test_a_sample_is_small_enough_to_look_at(shape: tuple[int, int]) -> None:
    sample = sample_of(np.zeros((*shape, 3), np.uint8))
    assert 0 < sample.shape[0] * sample.shape[1] <= 1536**2


@pytest.mark.parametrize(("score", "loses_some"), [(0.25, False), (0.8, True)])
def test_cells_at_another_score_are_those_of_a_run_with_it(score: float, loses_some: bool) -> None:
    image, generator = load_shipped()[0][:400, :500], load_generator("embedded", "cpu", "float32")
    usual = SegmentParams(rbc_diameter_px=36)
    kept = segment(image, params=usual, generator=generator, keep_from=0.2)
    other = usual.model_copy(update={"score_min": score})
    anew, found = segment(image, params=other, generator=generator), at_score(kept, other, (400, 500))
    assert np.array_equal(found.cells, anew.cells)
    assert found.table.equals(anew.table)
    assert (len(anew.table) < len(kept.table)) == loses_some


def test_without_proposals_there_is_no_other_score() -> None:
    found = segment(disc_image(CENTRES, (190, 200)), params=params(), generator=ThresholdGenerator(), keep_from=0.2)
    with pytest.raises(InputError, match="No proposals were kept"):
        at_score(found, params(score_min=0.6), (190, 200))
