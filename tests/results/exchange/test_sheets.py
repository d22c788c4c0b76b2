from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest
import tifffile

from napari_bloodcell.core.cells import type_names
from napari_bloodcell.images.open import open_image
from napari_bloodcell.results.exchange import sheets
from napari_bloodcell.results.store import read_result, write_result
from napari_bloodcell.results.table import read_csv
from tests.results.test_store import a_result, an_image


def test_fijis_table_has_fijis_columns_in_micrometres() -> None:
    result = replace(a_result(), pixel_size_um=0.5)
    table = sheets.fiji_table(result)
    assert table.index.name == " "
    assert list(table) == ["Label", "Area", "X", "Y", "BX", "BY", "Width", "Height"]
    row = result.table.loc[1]
    assert table.loc[1, "Label"] == "1 RBC"
    assert table.loc[1, "Area"] == row["area_px"] * 0.25
    assert table.loc[1, ["BX", "BY", "Width", "Height"]].tolist() == [1.5, 1.0, 4.5, 4.0]
    assert table.loc[1, ["X", "Y"]].tolist() == [3.75, 3.0]  # the middle of its box


def test_a_csv_has_a_byte_order_mark_on_request_only(tmp_path: Path) -> None:
    sheets.write_table(tmp_path / "a.csv", a_result(), bom=True)
    sheets.write_table(tmp_path / "b.csv", a_result())
    assert (tmp_path / "a.csv").read_bytes() == b"\xef\xbb\xbf" + (tmp_path / "b.csv").read_bytes()
    pd.testing.assert_frame_equal(read_csv(tmp_path / "b.csv"), a_result().table)


def test_a_workbook_has_numbers_and_no_class_name_is_a_formula(tmp_path: Path) -> None:
    result = a_result(types=("RBC", "WBC", "=1+1"))
    assert "=1+1" in type_names(result.names)
    sheets.write_xlsx(tmp_path / "a.xlsx", sheets.tables_of([("=field", result)]))
    book = openpyxl.load_workbook(tmp_path / "a.xlsx")
    assert book.sheetnames == ["counts", "differential", "cells"]
    head, row = (list(cells) for cells in list(book["counts"].rows)[:2])
    values = {one.value: other.value for one, other in zip(head, row, strict=True)}
    assert (values["image"], values["RBC"], values["=1+1"]) == ("=field", 2, 2)
    cells = [cell for sheet in book for line in sheet.rows for cell in line]
    assert all(cell.data_type in ("s", "n", "b") for cell in cells)
    assert sum(cell.value == "=1+1" for cell in cells) == 3
    areas = pd.read_excel(tmp_path / "a.xlsx", "cells")["area_px"]
    assert areas.tolist() == result.table["area_px"].tolist()


@pytest.mark.parametrize("n", [6, 70_000])
def test_label_tiffs_tell_imagej_micrometres_per_pixel(tmp_path: Path, n: int) -> None:
    result = replace(a_result(), pixel_size_um=0.25)
    cells = np.where(result.cells == 6, n, result.cells).astype(np.int32)
    table = result.table.rename(index={6: n})
    result = replace(result, cells=cells, rows=table, recipe=result.recipe)
    segment = result.recipe.segment.model_copy(update={"pixel_size_um": 0.25})
    result = replace(result, recipe=result.recipe.model_copy(update={"segment": segment}))
    write_result(result, tmp_path, image=an_image(), label_format="tiff")
    for name in ("cells.tif", "types.tif"):
        with tifffile.TiffFile(tmp_path / name) as tiff:
            assert tiff.imagej_metadata is not None
            assert tiff.imagej_metadata["unit"] == "micron"
            assert tiff.pages.first.tags["XResolution"].value == (4, 1)
        assert open_image(tmp_path / name).pixel_size_um == 0.25
    assert np.array_equal(read_result(tmp_path).cells, cells)
