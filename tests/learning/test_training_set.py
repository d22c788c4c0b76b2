"""A training set grows without duplicates, keeps every cell in its part, and can be read by anyone."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from napari_bloodcell.core.cells import measure_cells
from napari_bloodcell.core.errors import InputError, OutputError, TrainingError
from napari_bloodcell.core.params import TrainParams
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.learning.dataset import read_parts
from napari_bloodcell.learning.train import parts_of
from napari_bloodcell.learning.training_list import BY_CLASS, BY_IMAGE, LIST, assign_parts
from napari_bloodcell.learning.training_set import Added, TrainingSet, TypedCell
from napari_bloodcell.stages.cutouts import RED_LEVEL, cut_out

if TYPE_CHECKING:
    from pathlib import Path

SHARES = (0.75, 0.15, 0.10)


def cell(number: int, cell_type: str = "RBC", image: int = 0, **more) -> TypedCell:
    """Return a cell that can be told from others by its pixels and by its place in its image."""
    cutout = np.zeros((128, 128, 3), np.uint8)
    cutout[50:60, 50:60] = 100
    cutout[55, 55] = 1 + np.array([number % 250, number // 250, image])
    return TypedCell(
        cutout,
        cell_type,
        "ada",
        image=f"smear {image}",
        image_sha256=f"{image:064d}",
        cell=str(number),
        bbox=(0, 20 * number, 10, 20 * number + 10),
        rbc_diameter_px=10.0,
        glass_rgb=(200.0, 210.0, 220.0),
        **more,
    )


def parts_by_cell(folder: Path) -> dict[tuple[str, str], str]:
    table = TrainingSet(folder).table
    return dict(zip(zip(table["image_sha256"], table["cell"], strict=True), table["split"], strict=True))


# --- what is added --------------------------------------------------------------------------------------------------


def test_what_was_added_is_read_again(tmp_path: Path):
    made = TrainingSet(tmp_path)
    assert made.add([cell(1, "WBC"), cell(2)]) == Added(2, 0, 0)
    again = TrainingSet(tmp_path)
    assert again.classes == ("RBC", "WBC")
    first = next(again.cells())
    assert (first.cell_type, first.annotator, first.image, first.bbox) == ("WBC", "ada", "smear 0", (0, 20, 10, 30))
    assert (first.rbc_diameter_px, first.glass_rgb) == (10.0, (200.0, 210.0, 220.0))
    assert first.cutout.any(-1).sum() == 100


def test_anyone_can_read_the_folder(tmp_path: Path):
    TrainingSet(tmp_path).add([cell(1, "WBC"), cell(2)])
    table = pd.read_csv(tmp_path / "cutouts.csv")
    assert {"file", "class", "split", "annotator", "image", "image_sha256"} <= set(table.columns)
    for row in table.itertuples():
        with Image.open(tmp_path / row.file) as picture:
            assert picture.size == (128, 128)
        assert (tmp_path / row.file).parent.name == table.loc[row.Index, "class"]


def test_the_same_pixels_are_a_duplicate_wherever_they_come_from(tmp_path: Path):
    made = TrainingSet(tmp_path)
    made.add([cell(1)])
    elsewhere = TypedCell(np.roll(cell(1).cutout, 3, 0), "RBC", "bob", image="copy")
    assert made.add([elsewhere]) == Added(0, 1, 0)


def test_a_cell_that_was_segmented_again_is_not_a_second_cell(tmp_path: Path):
    made = TrainingSet(tmp_path)
    made.add([cell(1)])
    cutout = cell(1).cutout.copy()
    cutout[50, 50] = 0
    again = TypedCell(cutout, "WBC", "ada", image_sha256=f"{0:064d}", bbox=(0, 21, 10, 30))
    assert made.add([again]) == Added(0, 0, 1)
    assert made.classes == ("WBC",)


def test_the_last_type_counts_and_the_old_picture_goes(tmp_path: Path):
    made = TrainingSet(tmp_path)
    made.add([cell(1, "RBC")])
    before = parts_by_cell(tmp_path)
    assert made.add([cell(1, "blast")]) == Added(0, 0, 1)
    assert parts_by_cell(tmp_path) == before
    assert [p.parent.name for p in tmp_path.rglob("*.png")] == ["blast"]


def test_a_cell_that_nobody_can_identify_is_no_example_but_keeps_its_part(tmp_path: Path):
    made = TrainingSet(tmp_path / "set")
    made.add([cell(n, ("RBC", "WBC")[n % 2]) for n in range(20)])
    before = parts_by_cell(tmp_path / "set")
    assert made.add([cell(3, "unidentified"), cell(4, "unidentified")]) == Added(0, 0, 2)
    assert made.classes == ("RBC", "WBC")
    assert made.counts().to_numpy().sum() == 18
    assert sum(len(part) for _, part in made.parts(rbc_diameter_px=10.0, glass_level=235.0).items()) == 18
    assert made.add([cell(3, "WBC")]) == Added(0, 0, 1)
    assert parts_by_cell(tmp_path / "set") == before
    exported = made.export(tmp_path / "exported")
    (exported / "cutouts.csv").unlink()
    parts = read_parts(exported)
    assert parts is not None
    assert parts.train.classes == ("RBC", "WBC")
    assert sum(len(part) for _, part in parts.items()) == 19


def test_a_cell_without_a_type_or_without_pixels_is_refused(tmp_path: Path):
    with pytest.raises(TrainingError, match="no type"):
        TrainingSet(tmp_path).add([cell(1, " ")])
    with pytest.raises(TrainingError, match="no pixels"):
        TrainingSet(tmp_path).add([TypedCell(np.zeros((9, 9, 3), np.uint8), "RBC")])
    assert not list(tmp_path.rglob("*.png"))


def test_a_class_with_an_odd_name_stays_in_the_folder(tmp_path: Path):
    TrainingSet(tmp_path / "set").add([cell(1, "../../evil/x")])
    assert not list(tmp_path.glob("*.png"))
    assert TrainingSet(tmp_path / "set").classes == ("../../evil/x",)


@pytest.mark.parametrize("row", ["../x.png,RBC,train", "RBC/x.png,RBC,none", "RBC/x.png,,train"])
def test_a_damaged_list_is_refused(tmp_path: Path, row: str):
    TrainingSet(tmp_path).add([cell(1)])
    path = tmp_path / "cutouts.csv"
    header = path.read_text().splitlines()[0]
    path.write_text(f"{header}\n{row}{',' * (header.count(',') - 2)}\n")
    with pytest.raises(TrainingError, match="damaged"):
        TrainingSet(tmp_path)


def test_a_damaged_list_of_long_words_is_told_in_short(tmp_path: Path):
    grown = TrainingSet(tmp_path / "set")
    grown.add([cell(i) for i in range(4)])
    path = tmp_path / "set" / "cutouts.csv"
    table = pd.read_csv(path, dtype=str)
    table.loc[0, "rbc_diameter_px"] = "a" * 100_000
    table.to_csv(path, index=False)
    with pytest.raises(TrainingError, match=r"cannot be read: .*aaa…\.$") as caught:
        TrainingSet(tmp_path / "set").table()
    assert len(str(caught.value)) < 1000


def test_a_list_that_is_none_is_refused(tmp_path: Path):
    (tmp_path / "cutouts.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TrainingError, match="cannot be read"):
        TrainingSet(tmp_path)


@pytest.fixture
def short_list(tmp_path: Path) -> Path:
    """Return a set as File > Save Selected Layers wrote it before: six columns, and no parts."""
    rows = ["file,class,image,image_sha256,cell,type_source"]
    for number in range(20):
        kind = ("RBC", "WBC")[number % 2]
        file = tmp_path / "set" / kind / f"smear_{number:06d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cell(number).cutout).save(file)
        rows.append(f"{kind}/{file.name},{kind},smear,{0:064d},{number},user")
    (tmp_path / "set" / "cutouts.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "set"


def test_a_set_with_the_short_list_of_earlier_versions_opens_each_time_with_the_same_parts(short_list: Path):
    opened = TrainingSet(short_list)
    assert opened.counts().to_numpy().tolist() == [[8, 1, 1], [8, 1, 1]]
    pd.testing.assert_frame_equal(opened.table, TrainingSet(short_list).table)
    parts = parts_of(short_list, TrainParams())
    assert [len(part) for _, part in parts.items()] == [16, 2, 2]


def test_a_short_list_is_written_with_all_columns_when_cells_come(short_list: Path):
    before = parts_by_cell(short_list)
    assert TrainingSet(short_list).add([cell(50), cell(3, "blast")]) == Added(1, 0, 1)
    assert before.items() <= parts_by_cell(short_list).items()
    assert "split" in pd.read_csv(short_list / "cutouts.csv").columns


def test_a_short_list_that_leaves_its_folder_is_refused(short_list: Path):
    path = short_list / "cutouts.csv"
    path.write_text(path.read_text().replace("RBC/smear_000000.png", "../smear_000000.png"))
    with pytest.raises(TrainingError, match="damaged"):
        TrainingSet(short_list)


# --- parts ----------------------------------------------------------------------------------------------------------

ADDITIONS = st.lists(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["RBC", "WBC", "blast"]), st.integers(0, 5)), max_size=12),
    min_size=1,
    max_size=5,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(additions=ADDITIONS)
def test_a_cell_never_changes_its_part_however_the_set_grows(tmp_path_factory, additions):
    folder = tmp_path_factory.mktemp("set")
    known: dict[tuple[str, str], str] = {}
    for batch in additions:
        TrainingSet(folder).add([cell(n, t, image) for n, t, image in batch])
        now = parts_by_cell(folder)
        assert known.items() <= now.items()
        known = now
    assert len(known) == len({(n, image) for batch in additions for n, _, image in batch})


@settings(max_examples=100, deadline=None)
@given(additions=ADDITIONS, order=st.randoms(use_true_random=False))
def test_images_that_come_when_there_are_several_stay_whole_and_the_order_of_cells_does_not_matter(additions, order):
    known: list[dict] = []
    for batch in additions:
        new = [
            {"class": t, "image_sha256": str(image), "sha256": f"{n} {image}", "split": "", "split_by": ""}
            for n, t, image in dict.fromkeys(batch)
        ]
        parts = assign_parts(known, new, SHARES)
        shuffled = order.sample(range(len(new)), len(new))
        assert [parts[i] for i in shuffled] == assign_parts(known, [new[i] for i in shuffled], SHARES)
        known += [row | {"split": p, "split_by": by} for row, (p, by) in zip(new, parts, strict=True)]
    whole = {(row["image_sha256"], row["split"]) for row in known if row["split_by"] == BY_IMAGE}
    assert len(whole) == len({image for image, _ in whole})


def test_one_image_is_split_75_15_10_in_each_class(tmp_path: Path):
    made = TrainingSet(tmp_path)
    made.add([cell(i, "RBC") for i in range(100)])
    made.add([cell(100 + i, "WBC") for i in range(20)])
    assert made.counts().to_numpy().tolist() == [[75, 15, 10], [15, 3, 2]]


def test_several_images_are_split_by_image_and_every_part_gets_one(tmp_path: Path):
    made = TrainingSet(tmp_path)
    made.add([cell(i, "RBC" if i % 3 else "WBC", image) for image in range(10) for i in range(12)])
    by_image = made.table.groupby("image_sha256")["split"].nunique()
    assert (by_image == 1).all()
    numbers = Counter(made.table.groupby("image_sha256")["split"].first())
    assert numbers["train"] >= 6
    assert min(numbers["val"], numbers["test"]) >= 1


def test_further_cells_of_an_image_follow_it(tmp_path: Path):
    made = TrainingSet(tmp_path)
    made.add([cell(i, "RBC", image) for image in range(4) for i in range(5)])
    before = made.table.groupby("image_sha256")["split"].first()
    made.add([cell(100 + i, "WBC", image) for image in range(4) for i in range(5)])
    for image, group in made.table.groupby("image_sha256"):
        assert set(group["split"]) == {before[image]}


# --- import and export ----------------------------------------------------------------------------------------------


def paper_folder(folder: Path, parts: dict[str, dict[str, int]]) -> Path:
    number = 0
    for part, classes in parts.items():
        for name, n in classes.items():
            (folder / part / name).mkdir(parents=True)
            for _ in range(n):
                number += 1
                Image.fromarray(cell(number).cutout).save(folder / part / name / f"2_1_{number}.png")
    return folder


def test_the_papers_layout_is_imported_with_its_parts(tmp_path: Path):
    folder = paper_folder(tmp_path / "paper", {"train": {"RBC": 5, "WBC": 2}, "val": {"RBC": 3, "WBC": 1}})
    made = TrainingSet(tmp_path / "set")
    assert made.add_folder(folder, annotator="Rao") == Added(11, 0, 0)
    assert made.counts().to_numpy().tolist() == [[5, 3, 0], [2, 1, 0]]
    assert made.add_folder(folder) == Added(0, 11, 0)


def test_a_folder_per_class_is_split_here(tmp_path: Path):
    folder = paper_folder(tmp_path / "paper", {"": {"RBC": 20, "WBC": 20}})
    made = TrainingSet(tmp_path / "set")
    made.add_folder(folder)
    assert made.counts().to_numpy().tolist() == [[15, 3, 2], [15, 3, 2]]


def test_what_is_exported_is_the_papers_layout_and_comes_back_as_it_was(tmp_path: Path):
    made = TrainingSet(tmp_path / "set")
    made.add([cell(i, "RBC" if i % 2 else "WBC", i % 4) for i in range(40)])
    exported = made.export(tmp_path / "out")
    assert {p.relative_to(exported).parts[0] for p in exported.rglob("*.png")} == {"train", "val", "test"}
    other = TrainingSet(tmp_path / "other")
    other.add_folder(exported)
    columns = ["class", "split", "split_by", "annotator", "image_sha256", "cell", "y0", "glass_r", "sha256", "when"]
    pd.testing.assert_frame_equal(other.table[columns], made.table[columns])
    with pytest.raises(OutputError, match="not empty"):
        made.export(exported)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mine=st.sets(st.integers(0, 25)), theirs=st.sets(st.integers(0, 25)))
def test_importing_another_set_never_moves_a_cell(tmp_path_factory, mine, theirs):
    folder = tmp_path_factory.mktemp("sets")
    here, there = TrainingSet(folder / "here"), TrainingSet(folder / "there")
    here.add([cell(n) for n in mine])
    there.add([cell(n) for n in theirs])
    before, other = parts_by_cell(folder / "here"), parts_by_cell(folder / "there")
    here.add_folder(folder / "there")
    assert parts_by_cell(folder / "here") == other | before


# --- arrays ---------------------------------------------------------------------------------------------------------


class Segmented:
    def __init__(self) -> None:
        self.cells = np.zeros((300, 400), np.int32)
        self.cells[5:25, 5:25], self.cells[30:40, 50:60], self.cells[50:250, 100:300] = 1, 2, 3
        self.table = measure_cells(self.cells)
        self.calibration = Calibration(20.0, (230.0, 220.0, 210.0), 200.0, red_rgb=(180.0, 90.0, 120.0))


def test_a_list_of_before_red_cells_were_measured_still_opens(tmp_path: Path):
    made = TrainingSet(tmp_path)
    made.add([cell(n, "RBC" if n % 2 else "WBC") for n in range(8)])
    made.table.drop(columns=["red_r", "red_g", "red_b"]).to_csv(tmp_path / LIST, index=False)
    pd.testing.assert_frame_equal(TrainingSet(tmp_path).table, made.table)


def test_typed_cells_of_a_smear_give_the_cutouts_that_the_classifier_sees(tmp_path: Path):
    rng = np.random.default_rng(0)
    image = rng.integers(60, 200, (300, 400, 3), dtype=np.uint8)
    segmented, types = Segmented(), {1: "RBC", 2: "platelet", 3: "WBC"}
    made = TrainingSet(tmp_path)
    made.add_segmentation(image, segmented, types, annotator="ada", name="s", image_sha256="a" * 64)
    parts = made.parts(rbc_diameter_px=10.0, glass_level=235.0, red_level=RED_LEVEL)
    colours = {"background_rgb": segmented.calibration.background_rgb, "glass_level": 235.0}
    colours |= {"red_rgb": segmented.calibration.red_rgb, "red_level": RED_LEVEL}
    seen = cut_out(image, segmented.cells, list(types), scale=10 / 20, **colours)
    by_type = {
        c: x
        for part in (parts.train, parts.val, parts.test)
        for c, x in zip([part.classes[k] for k in part.labels], part.cutouts, strict=True)
    }
    for cell_type, cutout in zip(types.values(), seen, strict=True):
        np.testing.assert_array_equal(by_type[cell_type], cutout)
    with Image.open(next((tmp_path / "WBC").iterdir())) as picture:
        assert picture.size == (200, 200)


def test_by_default_the_cells_that_a_user_typed_are_added(tmp_path: Path):
    segmented = Segmented()
    segmented.table["cell_type"] = "RBC"
    segmented.table.loc[2, "type_source"] = "user"
    image = np.full((300, 400, 3), 100, np.uint8)
    what = {"annotator": "ada", "name": "s", "image_sha256": "a" * 64}
    assert TrainingSet(tmp_path).add_segmentation(image, segmented, **what).new == 1
    with pytest.raises(InputError, match="no cell 9"):
        TrainingSet(tmp_path).add_segmentation(image, segmented, {9: "RBC"}, **what)
    segmented.table["type_source"] = "model"
    with pytest.raises(TrainingError, match="No cell is typed"):
        TrainingSet(tmp_path).add_segmentation(image, segmented, **what)


def test_cells_of_unknown_scale_train_only_a_classifier_that_takes_any(tmp_path: Path):
    made = TrainingSet(tmp_path / "set")
    made.add_folder(paper_folder(tmp_path / "paper", {"": {"RBC": 4, "WBC": 4}}))
    assert sum(len(part) for _, part in made.parts().items()) == 8
    with pytest.raises(TrainingError, match="rbc_diameter_px and glass_rgb"):
        made.parts(rbc_diameter_px=28.0, glass_level=235.0)


def test_every_cutout_is_named_by_its_file(tmp_path: Path):
    made = TrainingSet(tmp_path)
    made.add([cell(i, "RBC" if i % 2 else "WBC") for i in range(20)])
    parts = made.parts()
    for _, part in parts.items():
        for name, label in zip(part.names, part.labels, strict=True):
            assert (tmp_path / name).parent.name == part.classes[label]


def test_part_and_reason_of_imported_cells_are_kept():
    row = {"class": "RBC", "image_sha256": "a", "sha256": "b", "split": "test", "split_by": BY_CLASS}
    assert assign_parts([], [row], SHARES) == [("test", BY_CLASS)]
