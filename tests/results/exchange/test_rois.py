from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import roifile

from napari_bloodcell.core.cells import measure_cells, type_names
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.outlines import fill
from napari_bloodcell.results.exchange.compare import Comparison
from napari_bloodcell.results.exchange.rois import iter_rois, write_rois


def cells_of_all_kinds() -> np.ndarray:
    """A disc, a ring, a cell in two pieces that touch at a corner, a single pixel."""
    cells = np.zeros((60, 80), np.int32)
    yy, xx = np.mgrid[:60, :80]
    cells[(yy - 15) ** 2 + (xx - 15) ** 2 <= 100] = 1
    cells[(yy - 15) ** 2 + (xx - 50) ** 2 <= 100] = 2
    cells[(yy - 15) ** 2 + (xx - 50) ** 2 <= 16] = 0
    cells[40:45, 10:15] = cells[45:50, 15:20] = 5
    cells[50, 70] = 9
    return cells


def written(folder: Path) -> tuple[np.ndarray, Path]:
    cells = cells_of_all_kinds()
    table = measure_cells(cells)
    table["cell_type"] = np.array(["RBC", "WBC", "platelet", ""], object)
    table.loc[2, "subtype"] = "monocyte"
    write_rois(folder / "RoiSet.zip", cells, table, type_names())
    return cells, folder / "RoiSet.zip"


def test_the_areas_of_the_rois_are_those_of_the_masks(tmp_path: Path) -> None:
    cells, path = written(tmp_path)
    for roi in roifile.roiread(path):
        label = int(roi.name.split()[0])
        rings = roi.coordinates(multi=True)
        y, x = np.nonzero(cells == label)
        assert np.array_equal(fill(rings, (0, 0, *cells.shape)), cells == label)
        assert (roi.left, roi.top, roi.right, roi.bottom)[:2] == (x.min(), y.min())


def test_rois_have_names_and_the_colours_of_their_classes(tmp_path: Path) -> None:
    rois = roifile.roiread(written(tmp_path)[1])
    assert [roi.name for roi in rois] == ["1 RBC", "2 WBC: monocyte", "5 platelet", "9"]
    assert rois[0].stroke_color == bytes((255, 0xE0, 0x31, 0x2F))
    assert zipfile.ZipFile(tmp_path / "RoiSet.zip").namelist()[0] == "0000001.roi"


def test_rois_that_come_back_are_the_same_cells(tmp_path: Path) -> None:
    cells, path = written(tmp_path)
    table = measure_cells(cells)
    table["cell_type"] = np.array(["RBC", "WBC", "platelet", ""], object)
    table.loc[2, "subtype"] = "monocyte"
    compared = Comparison(cells, table, image_id="x", rbc_diameter_px=20.0)
    list(compared.add(iter_rois(path)))
    changes = compared.finish(delete_missing=None)
    assert (changes.n_same, changes.retyped, changes.outlines, changes.missing) == (4, {}, [], [])


def test_rectangles_and_ovals_drawn_in_imagej_are_read(tmp_path: Path) -> None:
    box = {"left": 3, "top": 4, "right": 13, "bottom": 10}
    roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, name="0004-0013", **box).tofile(tmp_path / "a.roi")
    roifile.ImagejRoi(roitype=roifile.ROI_TYPE.OVAL, name="x", **box).tofile(tmp_path / "b.roi")
    (rectangle,) = iter_rois(tmp_path / "a.roi")
    (oval,) = iter_rois(tmp_path / "b.roi")
    assert fill(rectangle.rings, (0, 0, 20, 20)).sum() == 60
    assert abs(fill(oval.rings, (0, 0, 20, 20)).sum() - np.pi * 5 * 3) < 4
    assert (oval.name, oval.class_name) == ("", "")


def test_a_file_without_intact_rois_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "bad.roi").write_bytes(b"Iout" + b"\0" * 9)
    with pytest.raises(InputError, match="no intact ROIs"):
        list(iter_rois(tmp_path / "bad.roi"))
