from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.matching import label_iou
from napari_bloodcell.core.errors import ModelError
from napari_bloodcell.core.params import SegmentParams
from napari_bloodcell.core.protocols import Calibration, MaskGenerator
from napari_bloodcell.models.embedded.network import WindowSam
from napari_bloodcell.models.embedded.sam import EmbeddedSam
from napari_bloodcell.models.load import load_generator
from napari_bloodcell.models.weights import SHIPPED_FOLDER
from napari_bloodcell.stages.segment import segment
from tests.examples import scenes

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.network

SHIPPED = SHIPPED_FOLDER / "sam_embedded.safetensors"


@pytest.fixture(scope="module")
def sam() -> MaskGenerator:
    return load_generator("embedded", "cpu")


def write(path: Path, metadata: dict[str, str] | None) -> Path:
    torch.manual_seed(0)
    save_file({k: v.half() for k, v in WindowSam().state_dict().items()}, path, metadata=metadata)
    return path


def test_shipped_weights_are_small_and_load(sam: MaskGenerator) -> None:
    assert SHIPPED.stat().st_size <= 15e6
    assert isinstance(sam, MaskGenerator)
    assert len(sam.sha256) == 64


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no embedded SAM"):
        EmbeddedSam(write(tmp_path / "other.safetensors", {"format": "something else"}))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.safetensors", {"format": "napari-bloodcell-embedded-sam"})
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot be read"):
        EmbeddedSam(cut)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "strange.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata={"format": "napari-bloodcell-embedded-sam"})
    with pytest.raises(ModelError, match="does not fit"):
        EmbeddedSam(path)


def test_a_model_that_does_not_exist_is_named() -> None:
    with pytest.raises(ModelError, match="nonsense"):
        load_generator("nonsense")


@pytest.mark.parametrize(
    ("scene", "n"),
    [
        (scenes.one_cell, 1),
        (scenes.two_touching_cells, 2),
        (scenes.two_overlapping_cells, 2),
        (scenes.cell_on_four_tiles, 2),
    ],
)
def test_every_cell_of_a_scene_is_found_with_its_outline(sam: MaskGenerator, scene: object, n: int) -> None:
    smear = scene()  # type: ignore[operator]
    result = segment(smear.image, params=SegmentParams(rbc_diameter_px=36), generator=sam)
    assert len(result.table) == n
    assert (label_iou(smear.cells, result.cells).max(1) > 0.75).all()


def test_empty_glass_has_no_cells(sam: MaskGenerator) -> None:
    assert segment(scenes.empty_glass().image, generator=sam).table.empty


@pytest.mark.parametrize("zoom", [0.5, 1.0, 2.0])
def test_the_working_scale_is_found_at_any_magnification(sam: MaskGenerator, zoom: float) -> None:
    from skimage.transform import rescale

    smear = scenes.small_smear()
    image = np.rint(255 * rescale(smear.image, zoom, channel_axis=-1, anti_aliasing=zoom < 1)).astype(np.uint8)
    width = segment(image, generator=sam).calibration.rbc_diameter_px
    areas = np.bincount(smear.cells[smear.types == 1])
    truth = 2 * np.sqrt(np.median(areas[areas > 0]) / np.pi) * zoom
    assert width == pytest.approx(truth, rel=0.2)


def test_tiles_of_any_size_give_the_same_cells(sam: MaskGenerator) -> None:
    image = scenes.small_smear().image
    given = {"rbc_diameter_px": 36.0}
    whole = segment(image, params=SegmentParams(tile_size=2048, **given), generator=sam)
    for tile_size in (128, 200, 256):
        tiled = segment(image, params=SegmentParams(tile_size=tile_size, **given), generator=sam)
        assert len(tiled.table) == len(whole.table)
        same = label_iou(whole.cells, tiled.cells).max(1) >= 0.9
        assert same.mean() >= 0.995


def test_a_click_or_a_box_gives_the_cell(sam: MaskGenerator) -> None:
    smear = scenes.two_touching_cells()
    calibration = Calibration(36.0, (235.0, 235.0, 235.0), 200.0)
    for label in (1, 2):
        yy, xx = np.nonzero(smear.cells == label)
        box = np.array([[yy.min(), xx.min(), yy.max() + 1, xx.max() + 1]])
        point = np.array([[yy.mean(), xx.mean()]])
        for given in ({"points": point}, {"boxes": box}):
            (mask,) = sam.predict(smear.image, calibration, **given)
            y0, x0, y1, x1 = mask.bbox
            found = np.zeros(smear.cells.shape, bool)
            found[y0:y1, x0:x1] = mask.mask
            truth = smear.cells == label
            assert (found & truth).sum() / (found | truth).sum() > 0.75


def test_points_and_boxes_together_are_refused(sam: MaskGenerator) -> None:
    with pytest.raises(ModelError, match="either"):
        sam.predict(np.zeros((50, 50, 3), np.uint8), Calibration(36.0, (230.0,) * 3, 200.0))
