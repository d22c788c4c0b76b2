"""The embedded SAM says how sure it is of the scale, and of what it looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import napari_bloodcell as nb
from napari_bloodcell.models.load import load_generator
from napari_bloodcell.stages.calibration import doubts_of
from napari_bloodcell.stages.segment import calibrate
from napari_bloodcell.synthetic import load_shipped
from tests.examples import pictures

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_bloodcell.core.protocols import Calibration, MaskGenerator


def with_nuclei() -> np.ndarray:
    """The shipped smear, as if it were a bird's."""
    image, truth = load_shipped()
    table = truth["table"].query("cell_type == 'RBC' and bbox_y1 <= 420 and bbox_x1 <= 560")
    return pictures.nucleated(image[:420, :560], table[["bbox_y0", "bbox_x0", "bbox_y1", "bbox_x1"]].to_numpy())


OTHER_THINGS = {
    "noise": pictures.noise,
    "dust": pictures.dust,
    "twelve specks on an empty picture": lambda: pictures.dust(n=12, width=8, scatter=0.4),
    "twelve equal grains": lambda: pictures.dust(n=12, width=16, scatter=0.1),
    "dust of large grains of one size": lambda: pictures.dust(n=25, width=18, scatter=0.25),
    "hemocytometer": pictures.hemocytometer,
    "a hemocytometer with bright lines": lambda: pictures.hemocytometer((400, 500), 66, 90, 1.9),
    "a hemocytometer with narrow squares": lambda: pictures.hemocytometer((300, 400), 20, 225, 0.4),
    "bird blood": pictures.bird_blood,
    "a smear whose red cells have a nucleus": lambda: with_nuclei(),
    "dark field": lambda: pictures.dark_field(load_shipped()[0][:420, :560]),
    "fluorescence": pictures.fluorescence,
    "fluorescence out of focus": lambda: pictures.fluorescence(blur=3, base=20),
    "a smear in negative": lambda: 255 - load_shipped()[0][:420, :560],
    "a black picture": lambda: np.zeros((300, 400, 3), np.uint8),
    "a picture of one grey": lambda: np.full((300, 400, 3), 137, np.uint8),
}


@pytest.fixture(scope="module")
def sam() -> MaskGenerator:
    return load_generator("embedded", "cpu")


@pytest.fixture(scope="module")
def smear() -> np.ndarray:
    return load_shipped()[0][:600, :800]


def measured(image: np.ndarray, sam: MaskGenerator, **settings: float) -> Calibration:
    return calibrate(image, params=nb.SegmentParams(**settings), generator=sam)


def test_nothing_is_said_of_an_ordinary_smear(sam: MaskGenerator, smear: np.ndarray) -> None:
    calibration = measured(smear, sam)
    assert doubts_of(calibration) == ()
    assert min(calibration.scale_confidence, calibration.smear_confidence) > 0.8


@pytest.mark.parametrize(
    "frame", [pictures.round_field, pictures.mosaic_on_black, pictures.viewer_window, pictures.eyepiece_grid]
)
def test_the_scale_does_not_collapse_in_a_frame(
    sam: MaskGenerator, smear: np.ndarray, frame: Callable[[np.ndarray], np.ndarray]
) -> None:
    expected = measured(smear, sam).rbc_diameter_px
    assert measured(frame(smear), sam).rbc_diameter_px == pytest.approx(expected, rel=0.08)


def test_a_frame_that_is_not_found_costs_no_width(sam: MaskGenerator, smear: np.ndarray) -> None:
    rising = np.linspace(40, 180, smear.shape[1])[:, None]
    calibration = measured(pictures.round_field(smear, rising), sam)
    assert calibration.outside == ""
    assert calibration.rbc_diameter_px == pytest.approx(measured(smear, sam).rbc_diameter_px, rel=0.08)


@pytest.mark.parametrize("name", OTHER_THINGS)
def test_other_things_than_smears_are_told(sam: MaskGenerator, name: str) -> None:
    assert doubts_of(measured(OTHER_THINGS[name](), sam))


def test_light_from_one_side_changes_no_count(sam: MaskGenerator, smear: np.ndarray) -> None:
    even = nb.segment(smear, generator=sam)
    uneven = nb.segment(pictures.light_from_one_side(smear), generator=sam)
    assert len(uneven.table) == pytest.approx(len(even.table), rel=0.02)
    kinds = [found.table["proposed_type"].value_counts() for found in (even, uneven)]
    assert kinds[1].get("WBC", 0) == pytest.approx(kinds[0].get("WBC", 0), abs=1)


@pytest.mark.parametrize("pixel_size_um", [1.0, 0.03])
def test_impossible_units_are_told_and_give_no_width(
    sam: MaskGenerator, smear: np.ndarray, pixel_size_um: float
) -> None:
    calibration = measured(smear, sam, pixel_size_um=pixel_size_um)
    assert calibration.rbc_diameter_px == pytest.approx(measured(smear, sam).rbc_diameter_px, rel=0.08)
    (sentence,) = doubts_of(calibration, pixel_size_um)
    assert f"With {pixel_size_um:g} µm per pixel a red cell would be" in sentence


def test_possible_units_give_the_width(sam: MaskGenerator, smear: np.ndarray) -> None:
    calibration = measured(smear, sam, pixel_size_um=0.22)
    assert calibration.rbc_diameter_px == 7.5 / 0.22
    assert doubts_of(calibration, 0.22) == ()
