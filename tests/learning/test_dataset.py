"""Labelled cutouts are read, split, balanced and augmented without leaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from napari_bloodcell.core.errors import InputError, TrainingError
from napari_bloodcell.learning.dataset import (
    LabelledCutouts,
    augmented,
    balance,
    concatenate,
    read_cutouts,
    read_parts,
    split,
)

if TYPE_CHECKING:
    from pathlib import Path


def marked(n_rbc: int, n_wbc: int) -> LabelledCutouts:
    """Return cutouts each of which can be told from the others by one pixel."""
    n = n_rbc + n_wbc
    cutouts = np.zeros((n, 128, 128, 3), np.uint8)
    cutouts[:, 50:78, 50:78] = 120
    cutouts[:, 64, 64, 0] = np.arange(n) % 256
    cutouts[:, 64, 64, 1] = np.arange(n) // 256 + 1
    return LabelledCutouts(cutouts, np.repeat([0, 1], [n_rbc, n_wbc]), ("RBC", "WBC"))


def marks(dataset: LabelledCutouts) -> set[tuple[int, ...]]:
    return {tuple(c[64, 64]) for c in dataset.cutouts}


def write_folder(folder: Path, numbers: dict[str, int], size: int = 96) -> Path:
    for name, n in numbers.items():
        (folder / name).mkdir(parents=True)
        for i in range(n):
            picture = np.zeros((size, size, 3), np.uint8)
            picture[20:50, 30:60] = 100 + i
            Image.fromarray(picture).save(folder / name / f"{i}.png")
    return folder


@settings(max_examples=20, deadline=None)
@given(n_rbc=st.integers(10, 40), n_wbc=st.integers(2, 20), seed=st.integers(0, 1000))
def test_a_split_loses_and_repeats_no_cell(n_rbc: int, n_wbc: int, seed: int) -> None:
    dataset = marked(n_rbc, n_wbc)
    parts = split(dataset, seed=seed)
    found = [marks(part) for _, part in parts.items()]
    assert sum(map(len, found)) == len(dataset)
    assert set.union(*found) == marks(dataset)


def test_each_class_is_split_75_15_10() -> None:
    parts = split(marked(100, 20), seed=3)
    assert [part.counts() for _, part in parts.items()] == [
        {"RBC": 75, "WBC": 15},
        {"RBC": 15, "WBC": 3},
        {"RBC": 10, "WBC": 2},
    ]


def test_the_seed_decides_the_split() -> None:
    dataset = marked(40, 10)
    assert marks(split(dataset, seed=1).val) == marks(split(dataset, seed=1).val)
    assert marks(split(dataset, seed=1).val) != marks(split(dataset, seed=2).val)


def test_a_class_too_small_to_split_is_named() -> None:
    with pytest.raises(TrainingError, match="'WBC' has 1"):
        split(marked(20, 1))


def test_shares_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(TrainingError, match="add up to 1"):
        split(marked(20, 5), (0.5, 0.1, 0.1))


def test_balancing_makes_ten_of_each_wbc_and_thins_rbc_to_two_per_wbc() -> None:
    assert balance(marked(200, 4), seed=0).counts() == {"RBC": 80, "WBC": 40}


def test_balancing_keeps_rbc_that_are_few_already() -> None:
    assert balance(marked(30, 4), seed=0).counts() == {"RBC": 30, "WBC": 40}


def test_balancing_without_thinning_keeps_every_rbc() -> None:
    assert balance(marked(200, 4), rbc_per_wbc=None).counts()["RBC"] == 200


def test_a_copy_is_the_same_cell_turned() -> None:
    cutout = np.zeros((128, 128, 3), np.uint8)
    cutout[50:70, 40:90] = 150
    turned = augmented(cutout, np.random.default_rng(1))
    assert not np.array_equal(turned, cutout)
    assert turned.any(-1).sum() == pytest.approx(cutout.any(-1).sum(), rel=0.05)
    assert turned[turned.any(-1)].min() >= 148


def test_the_hash_is_that_of_the_cells_not_of_their_order() -> None:
    dataset = marked(5, 3)
    assert dataset.take(np.arange(8)[::-1]).content_hash() == dataset.content_hash()


def test_the_hash_changes_with_a_label() -> None:
    dataset = marked(5, 3)
    other = LabelledCutouts(dataset.cutouts, np.repeat([0, 1], [4, 4]), dataset.classes)
    assert other.content_hash() != dataset.content_hash()


def test_the_papers_layout_is_read_and_centred_on_128_px(tmp_path: Path) -> None:
    dataset = read_cutouts(write_folder(tmp_path / "train", {"WBC": 2, "RBC": 3, "blast": 1}))
    assert dataset.counts() == {"RBC": 3, "WBC": 2, "blast": 1}
    np.testing.assert_allclose(np.argwhere(dataset.cutouts[0].any(-1)).mean(0), 63.5, atol=0.5)


def test_copies_of_the_authors_are_left_out_unless_wanted(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"RBC": 2, "WBC": 2})
    (folder / "WBC" / "1.png").rename(folder / "WBC" / "aug-1.png")
    assert read_cutouts(folder).counts()["WBC"] == 1
    assert read_cutouts(folder, with_augmented=True).counts()["WBC"] == 2


def test_parts_given_as_folders_are_kept_apart(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"RBC": 3, "WBC": 2})
    write_folder(tmp_path / "val", {"RBC": 2, "WBC": 1})
    parts = read_parts(tmp_path)
    assert parts is not None
    assert [len(part) for _, part in parts.items()] == [5, 3, 0]


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"RBC": 2, "WBC": 0})
    with pytest.raises(TrainingError, match="'WBC' is empty"):
        read_cutouts(folder)


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no folder"):
        read_cutouts(tmp_path / "nothing")


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"RBC": 1})
    (folder / "RBC" / "broken.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(TrainingError, match=r"broken\.png"):
        read_cutouts(folder)


def test_joining_unites_classes() -> None:
    a = marked(2, 1)
    b = LabelledCutouts(a.cutouts[:1], np.array([0]), ("blast",))
    joined = concatenate([b, a])
    assert joined.counts() == {"RBC": 2, "WBC": 1, "blast": 1}


def test_cutouts_of_different_scales_are_not_joined() -> None:
    a = marked(2, 1)
    b = LabelledCutouts(a.cutouts, a.labels, a.classes, rbc_diameter_px=28.0)
    with pytest.raises(TrainingError, match="one scale"):
        concatenate([a, b])


def test_the_papers_own_cutouts_are_read(shared_data: Path) -> None:
    assert read_cutouts(shared_data / "cutouts" / "val").counts() == {"RBC": 479, "WBC": 5}


def test_a_class_that_would_be_taken_for_a_kind_is_refused() -> None:
    one = marked(2, 2)
    with pytest.raises(InputError, match=r"'WBC: large' cannot be the name of a type: ': ' stands between"):
        one.with_classes(("RBC", "WBC", "WBC: large"))
