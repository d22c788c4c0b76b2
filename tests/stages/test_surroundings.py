"""What of a picture is no smear is found, and stays without cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import napari_bloodcell as nb
from napari_bloodcell.stages.surroundings import (
    Surroundings,
    find_surroundings,
    has_lines,
    overview_of,
    surroundings_from,
)
from napari_bloodcell.synthetic import load_shipped
from tests.examples import pictures
from tests.fakes import BrightnessClassifier, ThresholdGenerator, disc_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CENTRES = [(y, x) for y in range(150, 480, 60) for x in range(170, 560, 60)]


@pytest.fixture(scope="module")
def smear() -> np.ndarray:
    return load_shipped()[0][:600, :800]


def around(image: np.ndarray) -> Surroundings | None:
    return find_surroundings(overview_of(image), image.shape[:2])


def framed() -> np.ndarray:
    """Discs in a wide black frame."""
    image = disc_image(CENTRES, (620, 700))
    image[:60] = image[-60:] = image[:, :70] = image[:, -70:] = 0
    return image


def smooth_rim(smear: np.ndarray) -> np.ndarray:
    return pictures.round_field(smear, (50, 50, 50), sharpness=12)


def two_small_fields(smear: np.ndarray) -> np.ndarray:
    return pictures.round_field(smear, (60, 35, 20), fields=((0.5, 0.27, 0.4), (0.5, 0.73, 0.4)))


def field_that_two_corners_miss(smear: np.ndarray) -> np.ndarray:
    return pictures.round_field(smear, (50, 50, 50), fields=((0.5, 0.35, 1.3),))


def grey_mosaic(smear: np.ndarray) -> np.ndarray:
    return pictures.mosaic_on_black(smear, 60)


COLOURS = [
    *((level,) * 3 for level in (0, 12, 35, 50, 80, 110, 140, 170, 200, 255)),
    *((60, 35, 20), (90, 20, 20), (20, 30, 90), (20, 60, 30), (200, 150, 170), (120, 70, 20)),
]


@pytest.mark.parametrize("colour", COLOURS)
def test_a_rim_of_any_colour_is_no_smear(smear: np.ndarray, colour: tuple[int, int, int]) -> None:
    found = around(pictures.round_field(smear, colour))
    assert found is not None
    assert found.share == pytest.approx(1 - 0.97**2 * np.pi / 4, abs=0.04)


@pytest.mark.parametrize("colour", [(195, 195, 195), (225, 215, 225), (255, 255, 255)])
def test_a_rim_near_the_colour_of_glass_is_no_smear(smear: np.ndarray, colour: tuple[int, int, int]) -> None:
    found = around(pictures.round_field(smear, colour))
    assert found is not None
    assert found.share == pytest.approx(1 - 0.97**2 * np.pi / 4, abs=0.03)


@pytest.mark.parametrize(("level", "scatter", "width"), [(60, 35, 1), (30, 15, 1), (60, 35, 4), (120, 30, 2)])
def test_a_rim_with_a_texture_is_no_smear(smear: np.ndarray, level: int, scatter: int, width: int) -> None:
    found = around(pictures.textured_rim(smear, level, scatter, width))
    assert found is not None
    assert found.share == pytest.approx(1 - 0.97**2 * np.pi / 4, abs=0.08)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_page_around_several_fields_is_no_smear(smear: np.ndarray, level: int) -> None:
    page = pictures.page_of_fields(smear, level)
    found = around(page)
    truth = np.abs(page.astype(int) - pictures.page_of_fields(np.full_like(smear, 90), level)).max(-1) == 0
    assert found is not None
    assert (np.asarray(found) & truth).sum() > 0.97 * truth.sum()
    assert (np.asarray(found) & ~truth).sum() < 0.05 * (~truth).sum()


def crossed(image: np.ndarray) -> bool:
    small = overview_of(image)
    return has_lines(image, small, find_surroundings(small, image.shape[:2]))


@pytest.mark.parametrize("gap", [1, 4, 15])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_gaps_of_a_mosaic_are_lines(smear: np.ndarray, gap: int, level: int) -> None:
    mosaic = pictures.mosaic_with_gaps(smear, gap, level)
    assert crossed(mosaic) or around(mosaic) is not None


@pytest.mark.parametrize("angle", [0, 3, 7, 30, 45])
def test_a_graticule_at_any_angle_is_lines(smear: np.ndarray, angle: float) -> None:
    assert crossed(pictures.eyepiece_grid(smear, angle))


@pytest.mark.parametrize("step", [40, 60, 100])
def test_cells_in_rows_on_spotless_glass_are_no_lines(step: int) -> None:
    places = [(y, x) for y in range(30, 400, step) for x in range(30, 500, step)]
    assert not crossed(disc_image(places, (420, 540)))


@pytest.mark.parametrize(
    "frame",
    [
        lambda smear: smear,
        pictures.round_field,
        pictures.viewer_window,
        pictures.page_of_fields,
        pictures.textured_rim,
        pictures.light_from_one_side,
        pictures.vignetted,
    ],
)
def test_an_ordinary_smear_and_the_sides_of_a_frame_are_no_lines(
    smear: np.ndarray, frame: Callable[[np.ndarray], np.ndarray]
) -> None:
    assert not crossed(frame(smear))


@pytest.mark.parametrize("width", [0.2, 0.5])
@pytest.mark.parametrize("level", [3, 50])
def test_a_small_round_field_is_found(smear: np.ndarray, width: float, level: int) -> None:
    found = around(pictures.round_field(smear, (level,) * 3, fields=((0.4, 0.6, width),)))
    assert found is not None
    assert found.share == pytest.approx(1 - width**2 * np.pi / 4, abs=0.02)


def test_red_cells_in_the_corners_are_no_frame() -> None:
    places = [(y, x) for y in (0, 100, 200, 300) for x in (0, 130, 260, 400)]
    assert around(disc_image(places, (300, 400), radius=40)) is None


@pytest.mark.parametrize(
    "frame",
    [
        pictures.round_field,
        pictures.mosaic_on_black,
        pictures.viewer_window,
        grey_mosaic,
        smooth_rim,
        two_small_fields,
        field_that_two_corners_miss,
    ],
)
def test_what_is_no_smear_is_found(smear: np.ndarray, frame: Callable[[np.ndarray], np.ndarray]) -> None:
    picture = frame(smear)
    found = around(picture)
    truth = np.abs(picture.astype(int) - frame(np.full_like(smear, 250))).max(-1) < 9  # the same without the smear
    assert found is not None
    outside = np.asarray(found)
    assert (outside & truth).sum() > 0.99 * truth.sum()
    assert (outside & ~truth).sum() < (0.13 if frame in (smooth_rim, two_small_fields) else 0.05) * (~truth).sum()


def test_a_white_page_around_a_picture_is_no_smear(smear: np.ndarray) -> None:
    page = pictures.viewer_window(smear, (255, 255, 255))
    found = around(page)
    assert found is not None
    assert found.share == pytest.approx(1 - smear.size / page.size, abs=0.02)


@pytest.mark.parametrize(("blur", "base"), [(0, 0), (3, 20)])
def test_bright_cells_in_the_dark_are_no_field(blur: float, base: float) -> None:
    assert around(pictures.fluorescence(blur=blur, base=base)) is None


def test_outlines_that_shine_in_the_dark_are_no_field(smear: np.ndarray) -> None:
    assert around(pictures.dark_field(smear)) is None


def test_an_ordinary_smear_has_no_surroundings(smear: np.ndarray) -> None:
    assert around(smear) is None


def test_cells_on_overexposed_glass_have_no_surroundings() -> None:
    image = disc_image([(100, 100), (160, 300), (250, 60), (330, 240)], (400, 400), radius=40)
    image[image[..., 0] == 230] = 255
    assert around(image) is None


@pytest.mark.parametrize("level", [0, 137, 255])
def test_a_picture_of_one_colour_has_no_surroundings(level: int) -> None:
    assert around(np.full((300, 400, 3), level, np.uint8)) is None


def test_surroundings_are_read_back_from_their_text(smear: np.ndarray) -> None:
    found = around(pictures.round_field(smear))
    assert found is not None
    again = surroundings_from(found.to_text())
    assert again is not None
    assert again.shape == found.shape
    assert np.array_equal(again.outside, found.outside)


@pytest.mark.parametrize("text", ["1 2", "10 10 400 400 abc", "nonsense", "10 10 20 20 eJw="])
def test_a_damaged_text_is_no_surroundings(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        surroundings_from(text)


def test_boxes_at_the_rim_touch_the_surroundings() -> None:
    outside = np.zeros((10, 10), bool)
    outside[:, :2] = True
    found = Surroundings((100, 100), outside)
    assert found.touch(np.array([[40, 15, 60, 45], [40, 22, 60, 45], [40, 40, 60, 60]])).tolist() == [True, True, False]


def test_a_lazy_smear_has_the_overview_of_an_array(smear: np.ndarray) -> None:
    lazy = nb.open_slide(smear).pixels
    assert np.array_equal(overview_of(lazy), overview_of(smear))


def test_no_cell_lies_in_the_black_around_a_field() -> None:
    result = nb.segment(framed(), generator=ThresholdGenerator())
    assert len(result.table) == len(CENTRES)
    assert result.calibration.rbc_diameter_px == pytest.approx(24, rel=0.15)


def test_cells_that_the_rim_cuts_touch_an_edge() -> None:
    image = framed()
    image[200:230, 70:90] = 120
    table = nb.segment(image, generator=ThresholdGenerator()).table
    assert table["touches_edge"].sum() == 1


@pytest.mark.parametrize("tile_size", [128, 512])
def test_a_slide_with_surroundings_has_the_cells_of_memory(tile_size: int, tmp_path: Path) -> None:
    recipe = nb.Recipe(segment=nb.SegmentParams(tile_size=tile_size))
    models = {"generator": ThresholdGenerator(), "classifier": BrightnessClassifier()}
    whole = nb.segment(framed(), generator=ThresholdGenerator())
    work = nb.iter_analyse(nb.open_slide(framed()), recipe=recipe, output=tmp_path, **models)
    assert np.array_equal(np.asarray(nb.drain(work).cells) > 0, whole.cells > 0)


def test_only_the_field_counts_for_densities() -> None:
    recipe = nb.Recipe(segment=nb.SegmentParams(pixel_size_um=0.3), count=nb.CountParams(edges="all"))
    models = {"generator": ThresholdGenerator(), "classifier": BrightnessClassifier()}
    result = nb.drain(nb.iter_analyse(framed(), recipe=recipe, **models))
    field_mm2 = 500 * 560 * 0.3**2 * 1e-6
    assert result.counting.per_mm2 is not None
    assert result.counting.per_mm2["RBC"] == pytest.approx(result.counts["RBC"] / field_mm2, rel=0.04)
