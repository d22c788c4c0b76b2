from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st

from napari_bloodcell.core.cells import (
    BOX,
    CENTROID,
    COLUMNS,
    LATER,
    cell_table,
    measure_cells,
    type_lut,
    type_names,
    with_later,
)
from napari_bloodcell.core.errors import InputError, OutputError
from napari_bloodcell.core.files import make_folder, write_bytes
from napari_bloodcell.core.params import Recipe
from napari_bloodcell.core.protocols import Calibration, FailedTile
from napari_bloodcell.corrections.journal import image_hash
from napari_bloodcell.images.open import read_plane
from napari_bloodcell.images.plane import Plane
from napari_bloodcell.results import store
from napari_bloodcell.results.files import FILES
from napari_bloodcell.results.result import Result
from napari_bloodcell.results.store import read_result, write_result
from napari_bloodcell.results.table import read_csv, read_parquet, write_csv


def a_result(
    shape: tuple[int, int] = (60, 90), *, n: int = 6, types: tuple[str, ...] = ("RBC", "WBC", "band")
) -> Result:
    cells = np.zeros(shape, np.int32)
    for i in range(n):
        y, x = 2 + 14 * (i // 3), 3 + 16 * (i % 3)
        cells[y : y + 8 + i % 2, x : x + 9] = i + 1
    table = measure_cells(cells, predicted_iou=np.linspace(0.5, 0.9, n), stability_score=np.full(n, 1 / 3))
    table["cell_type"] = pd.Series([types[i % len(types)] for i in range(n)], index=table.index, dtype=object)
    table["probability"] = np.linspace(1 / 7, 1, n)
    names = type_names(types)
    calibration = Calibration(36.25, (230.0, 220.5, 214.0), 181.5, "estimated")
    return Result(
        cells,
        type_lut(table, names, n)[cells],
        table,
        names,
        calibration,
        Recipe(),
        {"segment": {"name": "embedded", "sha256": "a" * 64}},
        "field 1",
        "cpu",
        failed_tiles=[],
    )


def an_image(shape: tuple[int, int] = (60, 90)) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("label_format", ["ome-zarr", "tiff"])
def test_what_was_written_is_read_back(tmp_path: Path, label_format: Any) -> None:
    result = a_result()
    write_result(result, tmp_path, image=an_image(), label_format=label_format)
    stored = read_result(tmp_path)
    np.testing.assert_array_equal(stored.cells, result.cells)
    np.testing.assert_array_equal(stored.types, result.types)
    assert (stored.cells.dtype, stored.types.dtype) == (np.int32, np.uint8)
    pd.testing.assert_frame_equal(stored.table, result.table)
    assert stored.counts == result.counts
    assert stored.names == result.names
    assert stored.recipe == result.recipe
    assert stored.record.image.sha256 == image_hash(an_image())
    assert stored.record.calibration.rbc_diameter_px == 36.25


@pytest.mark.parametrize("label_format", ["ome-zarr", "tiff"])
def test_a_result_without_cells_is_written_and_read_back(tmp_path: Path, label_format: Any) -> None:
    result = a_result(n=0)
    write_result(result, tmp_path, image=an_image(), label_format=label_format, geojson=True)
    stored = read_result(tmp_path)
    pd.testing.assert_frame_equal(stored.table, result.table)
    assert stored.counts == {"RBC": 0, "WBC": 0, "platelet": 0}
    assert not stored.cells.any()


def test_the_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_result(a_result(), tmp_path / name, image=an_image(), label_format="tiff", geojson=True)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_counts_json_holds_numbers_before_and_after_correction(tmp_path: Path) -> None:
    result = a_result()
    result.failed_tiles.append(FailedTile("y0_x0", (0, 0, 9, 9), "out of memory"))
    write_result(result, tmp_path, image=Plane(an_image(), pixel_size_um=0.25))
    numbers = json.loads((tmp_path / "counts.json").read_text())
    assert numbers["counts"] == result.counts
    assert numbers["uncorrected"] == result.counting.uncorrected
    assert tuple(numbers["rbc_interval_95"]) == result.counting.interval
    assert numbers["pixel_size_um"] == 0.25
    assert numbers["failed_tiles"] == [{"name": "y0_x0", "box": [0, 0, 9, 9], "error": "out of memory"}]
    assert [t["name"] for t in numbers["types"]] == ["RBC", "WBC", "platelet", "band", "unidentified"]


# --- label images ----------------------------------------------------------------------------------------------------


def test_the_ome_zarr_has_the_image_and_labels_with_names_and_colours(tmp_path: Path) -> None:
    image = an_image((1500, 700))
    write_result(a_result((1500, 700)), tmp_path, image=Plane(image, pixel_size_um=0.2))
    plane = read_plane(tmp_path / "smear.ome.zarr")
    np.testing.assert_array_equal(plane.data, image)
    assert plane.pixel_size_um == pytest.approx(0.2)
    root = zarr.open_group(tmp_path / "smear.ome.zarr", mode="r")
    assert root.metadata.zarr_format == 3
    assert root["labels"].attrs["ome"]["labels"] == ["cells", "types"]
    described = root["labels/types"].attrs["ome"]["image-label"]
    assert described["properties"][1] == {"label-value": 2, "name": "WBC"}
    assert described["colors"][0] == {"label-value": 1, "rgba": [224, 49, 47, 255]}
    assert root["0"].shape == (3, 1500, 700)
    assert root["1"].shape == (3, 750, 350)
    assert root["labels/cells/1"].shape == (750, 350)


def test_the_levels_of_an_image_are_means_and_those_of_labels_are_picked(tmp_path: Path) -> None:
    image, result = an_image((1501, 701)), a_result((1501, 701))
    write_result(result, tmp_path, image=Plane(image, pixel_size_um=0.2))
    root = zarr.open_group(tmp_path / "smear.ome.zarr", mode="r")
    np.testing.assert_array_equal(root["labels/cells/1"][...], result.cells[::2, ::2])
    mean = image[:1500, :700].reshape(750, 2, 350, 2, 3).mean(axis=(1, 3))
    assert abs(root["1"][:, :750, :350] - np.moveaxis(mean, -1, 0)).max() <= 0.5
    scales = [d["coordinateTransformations"] for d in root.attrs["ome"]["multiscales"][0]["datasets"]]
    assert scales[1][0]["scale"] == [1.0, 0.4, 0.4]
    assert scales[1][1]["translation"] == pytest.approx([0.0, 0.1, 0.1])


def test_the_tiffs_have_few_enough_bits_for_imagej_and_the_colours_of_the_types(tmp_path: Path) -> None:
    write_result(a_result(), tmp_path, image=Plane(an_image(), pixel_size_um=0.25), label_format="tiff")
    assert tifffile.imread(tmp_path / "cells.tif").dtype == np.uint16
    coloured = read_plane(tmp_path / "types.tif")
    assert tuple(coloured.data[a_result().types == 1][0]) == (224, 49, 47)
    assert coloured.pixel_size_um == pytest.approx(0.25)


def test_more_cells_than_sixteen_bits_hold_are_kept(tmp_path: Path) -> None:
    result = a_result()
    cells = np.where(result.cells == 6, 70_000, result.cells).astype(np.int32)
    result = replace(result, cells=cells, rows=result.table.rename(index={6: 70_000}))
    write_result(result, tmp_path, image=an_image(), label_format="tiff")
    np.testing.assert_array_equal(read_result(tmp_path).cells, result.cells)


# --- the cell table --------------------------------------------------------------------------------------------------


def test_the_csv_has_the_columns_of_the_table(tmp_path: Path) -> None:
    write_csv(tmp_path / "cells.csv", a_result().table)
    lines = (tmp_path / "cells.csv").read_bytes().decode().split("\n")
    head = "id,cell_type,probability,type_source,area_px,bbox_y0,bbox_x0,bbox_y1,bbox_x1,centroid_y,centroid_x"
    assert lines[0].startswith(head)
    assert lines[1].startswith("1,RBC,0.14285714285714285,model,72,2,3,10,12,5.5,7.0,")
    assert lines[-1] == ""


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc"))) | st.sampled_from(["NA", "nan", 'a,"b"', "=1+1"])
VALUES = {
    "cell_type": TEXT,
    "proposed_type": TEXT,
    "subtype": TEXT,
    "probability": st.floats(allow_infinity=False),
    **dict.fromkeys(BOX, st.integers(0, 2**40)),
    **dict.fromkeys(CENTROID, st.floats(0, 1e9)),
    "touches_edge": st.booleans(),
}


@given(data=st.data(), n=st.integers(0, 8))
def test_any_table_survives_the_csv(data: st.DataObject, n: int) -> None:
    ids = pd.Index(range(3, 3 + n), name="id", dtype=np.int64)
    table = pd.DataFrame(index=ids)
    for name, dtype in COLUMNS.items():
        values = [data.draw(VALUES.get(name, st.integers(0, 9))) for _ in range(n)]
        values = [str(v) for v in values] if dtype == "object" and name not in VALUES else values
        table[name] = pd.Series(values, ids, dtype=dtype)
    text = io.StringIO()
    write_csv(text, table)
    text.seek(0)
    pd.testing.assert_frame_equal(read_csv(text), table)


def test_tables_of_before_kinds_were_told_still_open(tmp_path: Path) -> None:
    table = a_result().table
    table.drop(columns=list(LATER)).assign(area_um2=1.0).rename_axis("id").to_csv(tmp_path / "cells.csv")
    table.drop(columns=list(LATER)).rename_axis("id").reset_index().to_parquet(tmp_path / "cells.parquet")
    for read in (read_csv(tmp_path / "cells.csv"), read_parquet(tmp_path / "cells.parquet")):
        pd.testing.assert_frame_equal(read, with_later(table), check_names=False)


def test_a_csv_without_a_column_is_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "cells.csv", a_result().table.drop(columns="touches_edge"))
    with pytest.raises(ValueError, match="touches_edge"):
        read_csv(tmp_path / "cells.csv")


def test_no_text_in_a_csv_is_a_formula(tmp_path: Path) -> None:
    names = ["=1+1", "+x", "-x", "@x", "\tx", "'=x", "'x", "RBC"]
    table = cell_table(np.arange(1, 9), cell_type=names)
    write_csv(tmp_path / "cells.csv", table)
    with (tmp_path / "cells.csv").open(newline="", encoding="utf-8") as file:
        written = [row["cell_type"] for row in csv.DictReader(file)]
    assert written == ["'=1+1", "'+x", "'-x", "'@x", "'\tx", "''=x", "'x", "RBC"]
    assert read_csv(tmp_path / "cells.csv")["cell_type"].tolist() == names


@pytest.mark.parametrize("pixel_size_um", [0.5, None])
def test_areas_are_written_in_square_micrometres_where_a_pixel_has_a_size(
    tmp_path: Path, pixel_size_um: float | None
) -> None:
    result = a_result()
    write_result(result, tmp_path, image=Plane(an_image(), pixel_size_um=pixel_size_um))
    in_um2 = result.table["area_px"].to_numpy() * (pixel_size_um or np.nan) ** 2
    for written in (pd.read_csv(tmp_path / "cells.csv"), pd.read_parquet(tmp_path / "cells.parquet")):
        np.testing.assert_array_equal(written["area_um2"].to_numpy(float), in_um2)
        assert written["id"].tolist() == result.table.index.tolist()
    pd.testing.assert_frame_equal(read_parquet(tmp_path / "cells.parquet"), result.table)


def test_fifty_thousand_rows_are_read_in_a_moment(tmp_path: Path) -> None:
    n = 50_000
    rng = np.random.default_rng(0)
    table = cell_table(np.arange(1, n + 1), cell_type="RBC", probability=rng.random(n), centroid_y=rng.random(n))
    write_csv(tmp_path / "cells.csv", table)
    start = time.process_time()
    pd.testing.assert_frame_equal(read_csv(tmp_path / "cells.csv"), table)
    assert time.process_time() - start < 1.0


# --- whole or not at all ---------------------------------------------------------------------------------------------


def test_an_earlier_result_is_replaced_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "my notes.txt").write_text("mine")
    write_result(a_result(), tmp_path, image=an_image(), label_format="tiff", geojson=True)
    write_result(a_result(n=3), tmp_path, image=an_image(), label_format="ome-zarr")
    write_result(a_result(n=4), tmp_path, image=an_image(), label_format="ome-zarr")
    names = {"counts.json", "cells.csv", "cells.parquet", "recipe.json", "smear.ome.zarr", "my notes.txt"}
    assert {p.name for p in tmp_path.iterdir()} == names
    assert len(read_result(tmp_path).table) == 4


def test_a_kill_while_a_result_is_replaced_never_leaves_a_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    replace, left = os.replace, iter(())

    def replace_until_killed(source: Path, target: Path) -> None:
        if next(left, None) is None:
            raise Killed
        replace(source, target)

    seen = set()
    for moves in range(40):
        folder = tmp_path / str(moves)
        for n in (6, 3):
            left = iter(range(moves if n == 3 else 99))
            with monkeypatch.context() as patch, contextlib.suppress(Killed):
                patch.setattr(os, "replace", replace_until_killed)
                patch.setattr(shutil, "rmtree", lambda *_args, **_options: None)  # who is killed tidies nothing up
                write_result(a_result(n=n), folder, image=an_image(), label_format="tiff", geojson=n == 6)
        try:
            stored = read_result(folder)
        except InputError:
            seen.add(0)
            continue
        seen.add(len(stored.table))
        assert len(stored.table) == stored.counts["RBC"] * 3 == stored.cells.max()
    assert seen == {0, 3, 6}


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("cannot be drawn"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_earlier_result(tmp_path: Path, error: BaseException) -> None:
    write_result(a_result(), tmp_path, image=an_image())
    before = content(tmp_path)

    def fail(path: Path) -> None:
        raise error

    with pytest.raises((OutputError, ValueError, KeyboardInterrupt)) as raised:
        write_result(a_result(n=2), tmp_path, image=an_image(), pictures={"kde.png": fail})
    assert isinstance(raised.value, OutputError) or not isinstance(error, OSError)
    assert content(tmp_path) == before


def test_the_recipe_is_put_down_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (moved.append(Path(b)), replace(a, b)))
    write_result(a_result(), tmp_path, image=an_image(), pictures={"overlay.png": lambda p: p.write_bytes(b"png")})
    names = [path.name for path in moved if path.parent == tmp_path]
    assert names[-1] == "recipe.json"
    assert (
        set(names)
        == {"cells.csv", "cells.parquet", "counts.json", "overlay.png", "recipe.json", "smear.ome.zarr"}
        <= set(FILES)
    )


def test_a_file_where_the_folder_should_be_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    for folder in (tmp_path / "out", tmp_path / "out" / "inner"):
        with pytest.raises(OutputError, match="out"):
            write_result(a_result(), folder, image=an_image())


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission_is_an_output_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        make_folder(tmp_path / "out")
    tmp_path.chmod(0o700)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(tmp_path / "a.csv", b"first")

    def fail(source: str, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match=r"a\.csv.*Permission denied"):
        write_bytes(tmp_path / "a.csv", b"second")
    assert content(tmp_path) == {"a.csv": b"first"}


# --- damaged results -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("recipe.json", None),
        ("recipe.json", b"{}"),
        ("counts.json", None),
        ("counts.json", b"[]"),
        ("counts.json", b"{"),
        ("cells.csv", b""),
        ("cells.csv", b"id\n1,2\n"),
        ("cells.csv", b"\xff\xfe"),
        ("cells.tif", None),
        ("types.tif", b"II*\0"),
    ],
)
def test_a_damaged_result_is_refused_by_its_folder(tmp_path: Path, name: str, damage: bytes | None) -> None:
    write_result(a_result(), tmp_path, image=an_image(), label_format="tiff")
    (tmp_path / name).unlink()
    if damage is not None:
        (tmp_path / name).write_bytes(damage)
    with pytest.raises(InputError, match=tmp_path.name):
        read_result(tmp_path)


def test_labels_of_another_image_are_refused(tmp_path: Path) -> None:
    write_result(a_result(), tmp_path, image=an_image(), label_format="tiff")
    tifffile.imwrite(tmp_path / "cells.tif", np.zeros((5, 5), np.uint16))
    with pytest.raises(InputError, match="shapes"):
        read_result(tmp_path)


def test_results_do_not_import_what_draws() -> None:
    assert "matplotlib" not in vars(store)
