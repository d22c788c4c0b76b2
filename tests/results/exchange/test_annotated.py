"""COCO and YOLO. What `pycocotools` makes of run lengths and polygons is the measure."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from napari_bloodcell.cli import main as cli
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.learning.training_set import TrainingSet
from napari_bloodcell.results.exchange.annotated import counts_of_annotations, iter_annotated
from napari_bloodcell.results.exchange.coco import mask_of_runs, run_lengths, write_coco
from napari_bloodcell.results.exchange.yolo import write_yolo
from napari_bloodcell.results.result import Result
from napari_bloodcell.results.store import write_result
from tests.results.test_store import a_result, an_image

# pycocotools 2.0.11 hands NumPy 2 its arrays in the old way
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
MISSING = {"id": 1, "file_name": "b.png", "height": 9, "width": 9}
MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


def with_a_hole() -> Result:
    result = a_result()
    result.cells[4:6, 6:8] = 0
    return result


@given(MASKS)
def test_run_lengths_are_those_of_pycocotools(mask: np.ndarray) -> None:
    counts = run_lengths(mask, (0, 0), mask.shape)
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert coco_mask.frPyObjects({"size": list(mask.shape), "counts": counts}, *mask.shape) == packed
    for given_counts in (counts, packed["counts"].decode()):
        found = mask_of_runs(given_counts, mask.shape)
        back = np.zeros(mask.shape, bool)
        if found is not None:
            (y0, x0, y1, x1), part = found
            back[y0:y1, x0:x1] = part
        assert np.array_equal(back, mask)


@pytest.mark.parametrize("rle", [False, True])
def test_pycocotools_finds_exactly_the_cells_in_what_is_written(tmp_path: Path, rle: bool) -> None:
    result = with_a_hole()
    write_coco(tmp_path / "coco.json", {"field 1.jpg": result}, rle=rle)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "coco.json"))
    annotations = coco.loadAnns(coco.getAnnIds())
    assert len(annotations) == len(result.table)
    assert [type(one["segmentation"]) for one in annotations].count(dict) == (6 if rle else 1)
    for one in annotations:
        assert np.array_equal(coco.annToMask(one).astype(bool), result.cells == one["cell"])
        assert coco.cats[one["category_id"]]["name"] == result.table["cell_type"][one["cell"]]


@pytest.mark.parametrize("rle", [False, True])
def test_what_was_written_as_coco_is_read_back_whole(tmp_path: Path, rle: bool) -> None:
    result = with_a_hole()
    write_coco(tmp_path / "coco.json", {"a.png": result}, rle=rle)
    Image.fromarray(an_image()).save(tmp_path / "a.png")
    (found,) = iter_annotated(tmp_path / "coco.json")
    assert np.array_equal(found.cells, result.cells)
    assert found.table["cell_type"].tolist() == result.table["cell_type"].tolist()
    assert found.table["area_px"].tolist() == [int((result.cells == i).sum()) for i in result.table.index]


def test_outlines_written_as_yolo_are_read_back_whole_and_boxes_as_ellipses(tmp_path: Path) -> None:
    result = a_result()
    for name, boxes in (("outlines", False), ("boxes", True)):
        write_yolo(tmp_path / name, {"a.png": result}, boxes=boxes)
        (tmp_path / name / "images").mkdir()
        Image.fromarray(an_image()).save(tmp_path / name / "images" / "a.png")
    (outlines,), (boxed,) = iter_annotated(tmp_path / "outlines"), iter_annotated(tmp_path / "boxes")
    assert np.array_equal(outlines.cells, result.cells)
    assert (
        outlines.table["cell_type"].tolist() == boxed.table["cell_type"].tolist() == result.table["cell_type"].tolist()
    )
    box = [f"bbox_{side}" for side in ("y0", "x0", "y1", "x1")]
    assert boxed.table[box].values.tolist() == result.table[box].values.tolist()
    share = boxed.table["area_px"] / result.table["area_px"]
    assert share.between(0.75, 0.87).all()  # about π / 4 of a rectangle


@pytest.mark.parametrize(
    "listed",
    ["names: ['RBCs', \"Platelets\", Leukocyte, blast]\n", "names:\n  0: rbc\n  1: platelets\n  2: WBC\n  3: blast\n"],
)
def test_usual_names_of_classes_are_the_built_in_types(tmp_path: Path, listed: str) -> None:
    (tmp_path / "data.yaml").write_text(f"train: images\nnc: 4\n{listed}")
    Image.fromarray(an_image()).save(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("".join(f"{i} {0.2 * i + 0.15} 0.5 0.1 0.2\n" for i in range(4)))
    (found,) = iter_annotated(tmp_path)
    assert found.table["cell_type"].tolist() == ["RBC", "platelet", "WBC", "blast"]


def test_annotations_become_a_training_set_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path / "coco.json", {"a.png": a_result()})
    Image.fromarray(an_image()).save(tmp_path / "a.png")
    for _ in range(2):
        assert cli.main(["training-set", str(tmp_path / "coco.json"), "-o", str(tmp_path / "set")]) == cli.DONE
    assert "0 new, 6 known" in capsys.readouterr().out
    made = TrainingSet(tmp_path / "set")
    assert dict(made.counts().sum(axis=1)) == {"RBC": 2, "WBC": 2, "band": 2}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "no intact COCO"),
        ('{"images": [], "categories": []}', "no intact COCO"),
        (json.dumps({"images": [MISSING], "categories": [], "annotations": []}), "is not in"),
    ],
)
def test_a_damaged_coco_file_or_a_missing_image_is_an_input_error(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "coco.json").write_text(content)
    with pytest.raises(InputError, match=says):
        list(iter_annotated(tmp_path / "coco.json"))


@pytest.mark.parametrize("line", ["7 0.5 0.5 0.1 0.1", "0 0.5 x 0.1 0.1", "0 0.5 0.5 0.1"])
def test_a_damaged_line_of_yolo_is_an_input_error(tmp_path: Path, line: str) -> None:
    (tmp_path / "classes.txt").write_text("RBC\n")
    Image.fromarray(an_image()).save(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text(line)
    with pytest.raises(InputError, match=r"a\.txt holds no intact YOLO"):
        list(iter_annotated(tmp_path))


def test_annotations_are_truth_that_results_are_compared_with(tmp_path: Path) -> None:
    folders = []
    for i, n in enumerate((3, 6, 5)):
        result = replace(a_result(n=n, types=("RBC", "WBC", "platelet")), image_name=f"field {i}")
        folders.append(write_result(result, tmp_path / "results" / f"field {i}", image=an_image()))
    for name in ("truth.json", "yolo"):
        assert cli.main(["export", *map(str, folders), "-o", str(tmp_path / name)]) == cli.DONE
    (tmp_path / "yolo" / "images").mkdir()
    for i in range(3):
        Image.fromarray(an_image()).save(tmp_path / "yolo" / "images" / f"field {i}.png")
    for name in ("truth.json", "yolo"):
        words = ["compare", str(tmp_path / name), str(tmp_path / "results"), "-o", str(tmp_path / f"out {name}")]
        assert cli.main(words) == cli.DONE
        pairs = pd.read_csv(tmp_path / f"out {name}" / "comparison.csv")
        assert pairs.groupby("measure")["by_hand"].apply(list).to_dict() == {
            "RBC": [1, 2, 2],
            "WBC": [1, 2, 2],
            "platelet": [1, 2, 1],
        }


def test_kinds_that_are_annotated_count_for_their_type(tmp_path: Path) -> None:
    names = ("neutrophils", "WBC: monocyte", "erythrocyte", "blast")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 40}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
        "annotations": [{"id": i, "image_id": 1, "category_id": i, "bbox": [9 * i, 5, 8, 8]} for i in range(4)],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    (row,) = counts_of_annotations(tmp_path / "coco.json").to_dict("records")
    assert row == {
        **{"image": "a.png", "RBC": 1, "WBC": 2, "platelet": 0},
        **{"WBC_neutrophil": 1, "WBC_monocyte": 1, "blast": 1},
    }
