"""Corrections survive a crash and a new segmentation, and two people's are compared."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from napari_bloodcell.core.errors import InputError, InputWarning, OutputError
from napari_bloodcell.corrections.correction import pack, unpack
from napari_bloodcell.corrections.journal import (
    Correction,
    Journal,
    cohens_kappa,
    default_journal_folder,
    image_hash,
    merge,
    place,
    standing,
)

if TYPE_CHECKING:
    from pathlib import Path

IMAGE = "ab" * 32
SIDE = 9


def grid_of_cells(n: int = 12, side: int = SIDE, first_id: int = 1) -> np.ndarray:
    """Return squares in rows of 4, ids from `first_id`."""
    cells = np.zeros((20 * (n // 4 + 1), 90), np.int32)
    for i in range(n):
        y, x = 5 + 20 * (i // 4), 5 + 20 * (i % 4)
        cells[y : y + side, x : x + side] = first_id + i
    return cells


def box_of(cells: np.ndarray, cell: int) -> tuple[int, int, int, int]:
    y, x = np.nonzero(cells == cell)
    return int(y.min()), int(x.min()), int(y.max()) + 1, int(x.max()) + 1


def correct(cells: np.ndarray, cell: int, to_type: str = "WBC", annotator: str = "ada", **more) -> Correction:
    what = {"from_type": "RBC", "to_type": to_type, "annotator": annotator, "image_sha256": IMAGE, **more}
    return Correction.of_cell(cells, cell, box_of(cells, cell), **what)


# --- one correction -------------------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(1, 12), st.randoms(use_true_random=False))
def test_an_outline_is_what_it_was_after_packing(height, width, random):
    mask = np.array([[random.random() < 0.5 for _ in range(width)] for _ in range(height)])
    np.testing.assert_array_equal(unpack(pack(mask), mask.shape), mask)


@given(st.text(max_size=20), st.text(max_size=20), st.one_of(st.none(), st.floats(0, 1)))
def test_a_correction_is_the_same_after_writing_whatever_words_it_holds(to_type, annotator, probability):
    made = correct(grid_of_cells(), 3, to_type, annotator, model_probability=probability)
    line = made.to_json()
    assert "\n" not in line
    assert Correction.from_json(line) == made


def test_the_outline_of_a_correction_is_that_of_the_cell():
    cells = grid_of_cells()
    cells[5, 5] = 0
    made = correct(cells, 1)
    assert made.area == SIDE * SIDE - 1
    np.testing.assert_array_equal(made.mask, cells[5:14, 5:14] == 1)


def test_a_cell_that_is_not_in_its_box_cannot_be_corrected():
    with pytest.raises(InputError, match="no pixel"):
        Correction.of_cell(
            grid_of_cells(), 99, (0, 0, 5, 5), from_type="", to_type="WBC", annotator="ada", image_sha256=IMAGE
        )


@pytest.mark.parametrize(
    "change",
    [
        {"bbox": [5, 5, 5, 9]},
        {"runs": [0, 5]},
        {"runs": [-4, 85]},
        {"to_type": 7},
        {"centroid": [1]},
        {"centroid": [900.0, 9.0]},
        {"centroid": [float("nan"), 9.0]},
        {"bbox": [0, 0, 1, 2**26], "runs": [0, 2**26], "centroid": [0, 9]},
        {"bbox": [0, 0, 2**13, 2**13], "runs": [0, 2**26]},
        {"bbox": [10**30, 0, 10**30 + 1, 1], "runs": [0, 1], "centroid": [10**30, 0]},
        {"cell": None},
    ],
)
def test_a_line_that_is_no_correction_is_refused(change):
    line = json.dumps(json.loads(correct(grid_of_cells(), 1).to_json()) | change)
    with pytest.raises(ValueError, match=r".+"):
        Correction.from_json(line)


# --- files ----------------------------------------------------------------------------------------------------------


def test_each_image_has_a_file_of_its_own_in_a_folder(tmp_path: Path):
    journal, cells = Journal(tmp_path / "new"), grid_of_cells()
    one, other = correct(cells, 1), correct(cells, 2, image_sha256="cd" * 32)
    for made in (one, other):
        journal.append(made)
    assert sorted(p.name for p in (tmp_path / "new").glob("[!.]*")) == [f"{IMAGE}.jsonl", f"{'cd' * 32}.jsonl"]
    assert journal.read(IMAGE) == [one]
    assert set(journal.read()) == {one, other}


def test_one_file_holds_every_image_where_a_file_is_given(tmp_path: Path):
    journal, cells = Journal(tmp_path / "mine.jsonl"), grid_of_cells()
    one, other = correct(cells, 1), correct(cells, 2, image_sha256="cd" * 32)
    for made in (one, other):
        journal.append(made)
    assert journal.read() == [one, other]
    assert journal.read("cd" * 32) == [other]


def test_a_journal_that_does_not_exist_is_empty(tmp_path: Path):
    assert Journal(tmp_path / "none").read() == []
    assert Journal(tmp_path / "none.jsonl").read(IMAGE) == []


def test_a_hash_from_elsewhere_does_not_lead_out_of_the_folder(tmp_path: Path):
    Journal(tmp_path / "folder").append(correct(grid_of_cells(), 1, image_sha256="../../evil"))
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.jsonl")] == ["folder/evil.jsonl"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(n=st.integers(1, 5), lost=st.integers(1, 2000))
def test_a_torn_file_loses_only_what_was_torn(tmp_path: Path, n: int, lost: int):
    path, cells = tmp_path / "torn.jsonl", grid_of_cells()
    path.unlink(missing_ok=True)
    journal, made = Journal(path), [correct(cells, i + 1) for i in range(n)]
    for correction in made:
        journal.append(correction)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(len(whole) - lost, 0)])
    kept = path.read_bytes().count(b"\n")
    assert journal.read() == made[:kept]
    later = correct(cells, 12)
    journal.append(later)
    assert journal.read() == [*made[:kept], later]


def test_a_damaged_line_in_the_middle_is_named_and_passed_over(tmp_path: Path):
    path, cells = tmp_path / "mine.jsonl", grid_of_cells()
    journal = Journal(path)
    for i in (1, 2, 3):
        journal.append(correct(cells, i))
    lines = path.read_bytes().split(b"\n")
    lines[1] = b"\xff\x00 nonsense"
    path.write_bytes(b"\n".join(lines))
    with pytest.warns(InputWarning, match="1 of 3 lines .* damaged .*: 2"):
        assert [c.cell for c in journal.read()] == [1, 3]


def test_a_journal_that_cannot_be_written_says_so(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cell 1 cannot be written"):
        Journal(tmp_path / "file" / "below").append(correct(grid_of_cells(), 1))


def test_a_write_that_fails_halfway_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch):
    journal, cells = Journal(tmp_path / "mine.jsonl"), grid_of_cells()
    journal.append(correct(cells, 1))
    before = journal.path.read_bytes()

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match="No space left"):
        journal.append(correct(cells, 2))
    assert journal.path.read_bytes() == before


_WRITER = """
import sys
import numpy as np
from napari_bloodcell.corrections.journal import Correction, Journal
cells = np.zeros((60, 60), np.int32)
cells[5:50, 5:50] = 1
journal = Journal(sys.argv[1])
for number in range(100_000):
    journal.append(Correction.of_cell(cells, 1, (5, 5, 50, 50), from_type="RBC", to_type=str(number), annotator="ada",
                                      image_sha256="ab" * 32))
    print(number, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_kill_9_loses_no_correction_that_was_reported_as_written(tmp_path: Path):
    path = tmp_path / "killed.jsonl"
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    reported = -1
    while reported < 40:
        reported = int(writer.stdout.readline())
    time.sleep(0.01)
    os.kill(writer.pid, signal.SIGKILL)
    rest = writer.stdout.read().split("\n")
    writer.wait()
    writer.stdout.close()
    reported = max([reported, *(int(line) for line in rest[:-1] if line)])
    found = [int(c.to_type) for c in Journal(path).read()]
    assert found == list(range(len(found)))
    assert len(found) - 1 in (reported, reported + 1)  # written, but killed before it could be reported
    Journal(path).append(correct(grid_of_cells(), 1, "later"))
    assert [c.to_type for c in Journal(path).read()][-2:] == [str(found[-1]), "later"]


_CONTENDER = """
import sys
import numpy as np
from napari_bloodcell.corrections.journal import Correction, Journal
cells = np.ones((9, 9), np.int32)
journal = Journal(sys.argv[1])
sys.stdin.readline()
for number in range(1000):
    journal.append(Correction.of_cell(cells, 1, (0, 0, 9, 9), from_type="RBC", to_type=str(number),
                                      annotator=sys.argv[2], image_sha256="ab" * 32))
"""


@pytest.mark.slow
def test_four_processes_that_write_one_journal_lose_nothing(tmp_path: Path):
    command = [sys.executable, "-c", _CONTENDER, str(tmp_path)]
    writers = [subprocess.Popen([*command, who], stdin=subprocess.PIPE, text=True) for who in "abcd"]
    for writer in writers:
        writer.communicate("go\n")
    for writer in writers:
        assert writer.wait() == 0
    found = Journal(tmp_path).read()
    for who in "abcd":
        assert [c.to_type for c in found if c.annotator == who] == [str(n) for n in range(1000)]


def test_the_folder_can_be_chosen_by_a_variable(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("NAPARI_BLOODCELL_JOURNAL", str(tmp_path))
    assert default_journal_folder() == tmp_path
    monkeypatch.delenv("NAPARI_BLOODCELL_JOURNAL")
    assert default_journal_folder().name == "journal"


# --- undo -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["type", "undo", "redo"]), max_size=30))
def test_the_corrections_that_hold_are_those_of_an_editor_with_undo_and_redo(steps):
    cells = grid_of_cells()
    written: list[Correction] = []
    done: list[Correction] = []
    undone: list[tuple[Correction, Correction]] = []  # what was typed, and the record that took it back
    for i, step in enumerate(steps):
        if step == "type":
            written.append(correct(cells, i % 12 + 1, f"type {i}"))
            done.append(written[-1])
            undone.clear()
        elif step == "undo" and done:
            typed = done.pop()
            written.append(typed.undo())
            undone.append((typed, written[-1]))
        elif step == "redo" and undone:
            typed, back = undone.pop()
            written.append(back.undo())
            done.append(typed)
    assert [c.key for c in standing(written)] == sorted((c.key for c in done), key=[c.key for c in written].index)


def test_an_undone_correction_is_not_placed():
    cells = grid_of_cells()
    made = correct(cells, 2)
    assert place([made, made.undo()], cells).found == {}
    back = made.undo()
    assert place([made, back, back.undo()], cells).found == {2: "WBC"}


# --- placing --------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(order=st.permutations(range(12)), chosen=st.sets(st.integers(1, 12)), shift=st.integers(-2, 2))
def test_corrections_follow_their_cells_through_new_ids_and_small_changes(order, chosen, shift):
    cells = grid_of_cells()
    corrections = [correct(cells, i, f"type {i}") for i in sorted(chosen)]
    renumbered = np.concatenate([[0], np.array(order) + 100])[cells]
    moved = np.roll(renumbered, shift, axis=1)
    placed = place(corrections, moved)
    assert placed.found == {order[i - 1] + 100: f"type {i}" for i in chosen}
    assert placed.lost == []


@settings(deadline=None, max_examples=50)
@given(gone=st.sets(st.integers(1, 12)), chosen=st.sets(st.integers(1, 12)))
def test_every_corrected_cell_is_found_or_lost_and_none_is_both(gone, chosen):
    cells = grid_of_cells()
    corrections = [correct(cells, i) for i in sorted(chosen)]
    placed = place(corrections, np.where(np.isin(cells, list(gone)), 0, cells))
    assert set(placed.found) == chosen - gone
    assert {c.cell for c in placed.lost} == chosen & gone


def test_the_last_correction_of_a_cell_decides_also_across_segmentations():
    cells, renumbered = grid_of_cells(), grid_of_cells(first_id=50)
    placed = place([correct(cells, 1, "WBC"), correct(renumbered, 50, "blast")], cells)
    assert placed.found == {1: "blast"}
    assert placed.by_cell[1].cell == 50


def test_a_cell_lost_twice_is_listed_once():
    cells = grid_of_cells()
    lost = place([correct(cells, 1, "WBC"), correct(cells, 1, "blast")], np.zeros_like(cells)).lost
    assert [c.to_type for c in lost] == ["blast"]


def test_a_cell_that_was_split_in_two_halves_is_lost():
    cells = grid_of_cells(side=10)
    halves = cells.copy()
    halves[5:15, 5:15][:, 5:] = 99
    halves[5:15, 5:15][0, :5] = 0
    assert place([correct(cells, 1)], halves).found == {}


def test_a_large_cell_that_swallowed_the_corrected_one_is_not_taken_for_it():
    cells = grid_of_cells()
    swallowed = np.zeros_like(cells)
    swallowed[:, :] = 7
    assert place([correct(cells, 6)], swallowed).found == {}


def test_placing_reads_a_lazy_label_image_around_the_cells_only():
    class Watched:
        shape = (10**6, 10**6)

        def __getitem__(self, window):
            sizes = [s.stop - s.start for s in window]
            assert max(sizes) <= 3 * SIDE
            return np.zeros(sizes, np.int32)

    assert len(place([correct(grid_of_cells(), 6)], Watched()).lost) == 1


# --- merging --------------------------------------------------------------------------------------------------------


def test_two_people_who_agree_are_one_correction_and_who_differ_a_dispute():
    cells = grid_of_cells()
    ada = [correct(cells, i, "WBC", "ada") for i in (1, 2, 3)]
    bob = [correct(cells, i, t, "bob") for i, t in ((2, "WBC"), (3, "blast"), (4, "RBC"))]
    merged = merge([ada, bob])
    assert sorted(c.cell for c in merged.agreed) == [1, 2, 4]
    assert [d.types for d in merged.disputes] == [{"ada": "WBC", "bob": "blast"}]
    assert merged.n_shared == {("ada", "bob"): 2}


def test_the_last_word_of_a_person_counts_in_a_dispute():
    cells = grid_of_cells()
    first, second = correct(cells, 1, "blast", "ada"), correct(cells, 1, "WBC", "ada")
    merged = merge([[first, second], [correct(cells, 1, "WBC", "bob")]])
    assert merged.disputes == []
    assert merged.kappas == {("ada", "bob"): 1.0}


@settings(deadline=None, max_examples=40)
@given(
    ada=st.dictionaries(st.integers(1, 8), st.sampled_from(["RBC", "WBC"])),
    bob=st.dictionaries(st.integers(1, 8), st.sampled_from(["RBC", "WBC"])),
)
def test_merging_loses_no_cell_and_does_not_depend_on_the_order_or_on_copies(ada, bob):
    cells = grid_of_cells(8)
    mine = [correct(cells, i, t, "ada") for i, t in ada.items()]
    theirs = [correct(cells, i, t, "bob") for i, t in bob.items()]
    merged = merge([mine, theirs])
    settled, disputed = {c.cell for c in merged.agreed}, {d.corrections[0].cell for d in merged.disputes}
    assert settled | disputed == set(ada) | set(bob)
    assert disputed == {i for i in set(ada) & set(bob) if ada[i] != bob[i]}
    other = merge([theirs, mine + theirs, mine])
    assert {c.cell for c in other.agreed} == settled
    assert other.kappas == merged.kappas


def test_cells_of_different_images_are_not_compared():
    cells = grid_of_cells()
    merged = merge([[correct(cells, 1, "WBC")], [correct(cells, 1, "RBC", "bob", image_sha256="cd" * 32)]])
    assert merged.disputes == []
    assert merged.kappas == {}


def test_journals_are_merged_from_disk(tmp_path: Path):
    cells = grid_of_cells()
    journals = [Journal(tmp_path / "a.jsonl"), Journal(tmp_path / "b")]
    for journal, (to_type, who) in zip(journals, [("WBC", "ada"), ("RBC", "bob")], strict=True):
        journal.append(correct(cells, 5, to_type, who))
    assert merge(journals).disputes[0].types == {"ada": "WBC", "bob": "RBC"}


def outline(mask: np.ndarray, corner: tuple[int, int] = (0, 0), to_type: str = "WBC") -> Correction:
    """Return the correction of a cell that is so in a box that begins there."""
    y, x = corner
    box = (y, x, y + mask.shape[0], x + mask.shape[1])
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    return Correction(1, box, middle, pack(mask), "RBC", to_type, "ada", IMAGE)


MASKS = st.integers(1, 6).flatmap(lambda w: st.lists(st.lists(st.booleans(), min_size=w, max_size=w), min_size=1))


@given(MASKS, MASKS, st.tuples(*[st.integers(0, 6)] * 4))
def test_the_overlap_of_outlines_is_that_of_their_pixels(first, second, places):
    masks, planes = [np.array(rows) for rows in (first, second)], np.zeros((2, 40, 40), bool)
    assume(all(mask.any() and len(mask) < 30 for mask in masks))
    corners = places[:2], places[2:]
    for plane, mask, (y, x) in zip(planes, masks, corners, strict=True):
        plane[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    one, other = (outline(mask, corner) for mask, corner in zip(masks, corners, strict=True))
    assert one.iou(other) == (planes[0] & planes[1]).sum() / (planes[0] | planes[1]).sum()
    assert one.most_iou(other) >= one.iou(other)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["huge", "noise", "long"])
def test_a_crafted_journal_does_not_hang(tmp_path: Path, kind: str):
    random = np.random.default_rng(0)
    huge = replace(outline(np.ones((1, 1), bool)), bbox=(0, 0, 8192, 2048), centroid=(5.0, 5.0))
    made = {
        "huge": lambda i: replace(huge, runs=(i, 2**24 - i)),
        "noise": lambda i: outline(random.random((32, 32)) < 0.5),
        "long": lambda i: outline(np.ones((1 + i % 3, 8192), bool), (i, 0)),
    }[kind]
    lines = "".join(made(i).to_json() + "\n" for i in range(400))
    (tmp_path / "crafted.jsonl").write_text(lines)
    found = Journal(tmp_path / "crafted.jsonl").read()
    assert len(found) == 400
    place(found, np.zeros((50, 50), np.int32))


def test_a_box_as_long_as_a_slide_is_no_cell_and_costs_nothing(tmp_path: Path):
    line = outline(np.ones((1, 1), bool)).to_json()
    crafted = json.loads(line) | {"bbox": [0, 0, 1, 2**26], "runs": [0, 2**26]}
    (tmp_path / "crafted.jsonl").write_text(json.dumps(crafted) + "\n" + line + "\n")
    with pytest.warns(InputWarning, match="1 of 2 lines"):
        assert len(place(Journal(tmp_path / "crafted.jsonl").read(), np.ones((1, 1), np.int32)).found) == 1


def test_kappa_of_a_worked_example():
    # 50 cases; both yes 20, both no 15, only one of them 5 and 10: 0.4 (Wikipedia, "Cohen's kappa")
    a = ["yes"] * 25 + ["no"] * 25
    b = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohens_kappa(a, b) == pytest.approx(0.4)
    assert cohens_kappa(dict(enumerate(a)), dict(enumerate(b)) | {99: "yes"}) == pytest.approx(0.4)


@given(st.lists(st.sampled_from("abc"), min_size=1), st.randoms(use_true_random=False))
def test_kappa_is_symmetric_at_most_1_and_1_for_the_same(types, random):
    other = random.sample(types, len(types))
    assert cohens_kappa(types, types) == 1
    assert cohens_kappa(types, other) == pytest.approx(cohens_kappa(other, types))
    assert -1 <= cohens_kappa(types, other) <= 1


def test_kappa_of_nothing_is_not_a_number_and_of_different_lengths_an_error():
    assert np.isnan(cohens_kappa([], []))
    with pytest.raises(InputError, match="2 and 1"):
        cohens_kappa(["a", "b"], ["a"])


# --- the hash of an image -------------------------------------------------------------------------------------------


def test_a_small_image_has_the_hash_that_results_are_named_by():
    image = np.random.default_rng(0).integers(0, 255, (300, 70, 3), np.uint8)
    digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
    assert image_hash(image) == image_hash([image, image[::2, ::2]]) == digest


def test_the_hash_is_that_of_the_pixels_wherever_they_lie(tmp_path: Path):
    image = np.random.default_rng(0).integers(0, 255, (300, 70, 3), np.uint8)
    lazy = zarr.open_array(tmp_path / "a.zarr", mode="w", shape=image.shape, dtype="u1", chunks=(64, 64, 3))
    lazy[:] = image
    assert image_hash(lazy) == image_hash(image)
    changed = image.copy()
    changed[200, 3, 1] ^= 1
    assert image_hash(changed) != image_hash(image)


def test_a_huge_lazy_image_is_named_by_few_blocks():
    class Slide:
        shape, dtype, seed, read = (100_000, 120_000, 3), np.dtype(np.uint8), 0, 0

        def __getitem__(self, window):
            size = (window[0].stop - window[0].start, window[1].stop - window[1].start, 3)
            self.read += size[0] * size[1]
            return np.full(size, (window[0].start * 7 + window[1].start + self.seed) % 251, np.uint8)

    one, same, other = Slide(), Slide(), Slide()
    other.seed = 1
    assert image_hash(one) == image_hash(same) != image_hash(other)
    assert 0 < one.read <= 64 * 128 * 128


def test_other_kinds_of_pixels_are_other_images():
    grey = np.zeros((10, 10), np.uint8)
    hashes = {
        image_hash(a) for a in (grey, grey.astype(np.uint16), grey.astype(">u2"), np.zeros((10, 10, 3), np.uint8))
    }
    assert len(hashes) == 3


def test_what_is_no_image_has_no_hash():
    with pytest.raises(InputError, match="shape"):
        image_hash(np.zeros((0, 5)))
    with pytest.raises(InputError, match="shape"):
        image_hash("smear.jpg")


def test_a_correction_of_another_image_is_no_overlap():
    made = correct(grid_of_cells(), 1)
    assert made.iou(made) == 1
    assert made.iou(replace(made, image_sha256="cd" * 32)) == 0
