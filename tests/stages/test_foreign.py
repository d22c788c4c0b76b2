"""Label images as Cellpose, StarDist and Fiji write them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import napari_bloodcell as nb
from napari_bloodcell.cli import main as cli
from napari_bloodcell.core.errors import InputError, InputWarning
from napari_bloodcell.images.open import read_plane
from napari_bloodcell.stages.segment import LARGEST_ID, segmentation_of
from tests.fakes import BrightnessClassifier, disc_image

CENTRES = [(30.0, 30.0), (30.0, 80.0), (80.0, 40.0)]
IDS = (3, 40, 700)


def labels() -> np.ndarray:
    yy, xx = np.mgrid[:120, :120]
    cells = np.zeros((120, 120), np.int32)
    for (y, x), i in zip(CENTRES, IDS, strict=True):
        cells[(yy - y) ** 2 + (xx - x) ** 2 <= 144] = i
    return cells


def smear() -> np.ndarray:
    image = disc_image(CENTRES, (120, 120))
    image[labels() == 40] = 50
    return image


def as_cellpose(path: Path) -> Path:
    Image.fromarray(labels().astype(np.uint16)).save(path / "smear_cp_masks.png")
    return path / "smear_cp_masks.png"


def as_cellpose_tiff(path: Path) -> Path:
    tifffile.imwrite(path / "smear_cp_masks.tif", labels().astype(np.uint32), compression="zlib")
    return path / "smear_cp_masks.tif"


def as_stardist(path: Path) -> Path:  # csbdeep.io.save_tiff_imagej_compatible
    tifffile.imwrite(path / "smear.tif", labels().astype(np.uint16)[None, None, None, ..., None], imagej=True)
    return path / "smear.tif"


def as_fiji(path: Path) -> Path:  # 32-bit floats, as MorphoLibJ
    tifffile.imwrite(path / "smear-lbl.tif", labels().astype(np.float32), imagej=True)
    return path / "smear-lbl.tif"


def as_numpy(path: Path) -> Path:
    np.save(path / "masks.npy", labels().astype(np.int64))
    return path / "masks.npy"


@pytest.mark.parametrize("written", [as_cellpose, as_cellpose_tiff, as_stardist, as_fiji, as_numpy])
def test_the_cells_of_other_programs_are_typed_in_one_call_with_their_ids(written, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    typed = nb.classify(smear(), written(tmp_path), classifier=BrightnessClassifier())
    assert typed.table["cell_type"].to_dict() == {3: "RBC", 40: "WBC", 700: "RBC"}
    assert typed.table["area_px"].tolist() == [int((labels() == i).sum()) for i in IDS]
    assert np.array_equal(typed.types, np.select([labels() == 40, labels() > 0], [2, 1]))


def test_an_array_is_taken_as_it_is_and_not_changed() -> None:
    cells = labels()
    typed = nb.classify(smear(), cells, classifier=BrightnessClassifier())
    assert typed.table.index.tolist() == list(IDS)
    assert np.array_equal(cells, labels())


def test_analyse_types_and_counts_given_cells() -> None:
    result = nb.analyse(smear(), cells=labels(), classifier=BrightnessClassifier())
    assert (result.counts["RBC"], result.counts["WBC"]) == (2, 1)
    assert np.array_equal(result.cells, labels())
    assert result.models["segment"]["name"] == "labels"


def test_the_command_writes_a_result_that_can_be_reviewed(tmp_path: Path) -> None:
    Image.fromarray(smear()).save(tmp_path / "smear.png")
    words = ["classify", str(tmp_path / "smear.png"), str(as_cellpose(tmp_path)), "-o", str(tmp_path / "out"), "-q"]
    assert cli.main([*words, "--geojson"]) == cli.DONE
    result = nb.read_result(tmp_path / "out")
    assert np.array_equal(result.cells, labels())
    assert result.models["segment"]["name"] == "smear_cp_masks.png"
    assert len(json.loads((tmp_path / "out" / "cells.geojson").read_text())["features"]) == 3


def test_huge_ids_are_numbered_anew_and_this_is_told() -> None:
    cells = np.where(labels() == 700, 2 * LARGEST_ID, labels())
    with pytest.warns(InputWarning, match="numbered anew"):
        found = segmentation_of(cells, read_plane(smear()))
    assert found.table.index.tolist() == [1, 2, 3]


def test_a_mask_of_one_id_in_pieces_is_doubted() -> None:
    with pytest.warns(InputWarning, match="a mask of one id in 3 pieces"):
        segmentation_of(labels() > 0, read_plane(smear()))


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        (np.zeros((120, 120), int), "holds no cell"),
        (np.zeros((60, 120), int), "do not belong together"),
        (np.zeros((120, 120, 3), int), "no colours and no stack"),
        (np.full((120, 120), -1), "whole numbers from 0"),
        (np.full((120, 120), 0.5), "whole numbers from 0"),
        (np.full((120, 120), np.nan), "no numbers"),
        (np.full((120, 120), "a"), "the dtype"),
    ],
)
def test_what_is_no_label_image_of_the_smear_is_refused(cells: np.ndarray, says: str) -> None:
    with pytest.raises(InputError, match=says):
        segmentation_of(cells, read_plane(smear()))


def test_files_that_are_no_label_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.tif").write_bytes(b"II*\0bad")
    np.save(tmp_path / "smear_seg.npy", {"masks": labels()}, allow_pickle=True)  # type: ignore[arg-type]
    for name, says in (("bad.tif", "no intact label"), ("smear_seg.npy", "pickle"), ("none.png", "There is no file")):
        with pytest.raises(InputError, match=says):
            segmentation_of(tmp_path / name, read_plane(smear()))
