from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_bloodcell.core.cells import BOX, CENTROID, measure_cells
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.protocols import CellMask
from napari_bloodcell.corrections.edits import (
    Edit,
    add_cell,
    delete_cells,
    merge_cells,
    repaint,
    replace_rows,
    split_cell,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEASURED = ["area_px", *BOX, *CENTROID, "touches_edge"]
SIDE = 64


def discs(*centres: tuple[float, float], radius: float = 8) -> NDArray[np.int32]:
    cells = np.zeros((SIDE, SIDE), np.int32)
    yy, xx = np.mgrid[:SIDE, :SIDE]
    for i, (y, x) in enumerate(centres, start=1):
        cells[((yy - y) ** 2 + (xx - x) ** 2 <= radius**2) & (cells == 0)] = i
    return cells


def typed(cells: NDArray[np.int32]) -> pd.DataFrame:
    table = measure_cells(cells)
    types = ["RBC", "WBC", "platelet"][: len(table)] + ["RBC"] * max(len(table) - 3, 0)
    table["cell_type"] = pd.Series(types, index=table.index, dtype=object)
    table["probability"] = 0.9
    return table


def mask_at(y: float, x: float, radius: float = 8) -> CellMask:
    side = int(radius)
    yy, xx = np.mgrid[-side : side + 1, -side : side + 1]
    box = (int(y) - side, int(x) - side, int(y) + side + 1, int(x) + side + 1)
    return CellMask(box, yy**2 + xx**2 <= radius**2, 0.8, 0.7, 0.9, (y, x), "RBC")


def assert_measured(cells: NDArray[np.int32], table: pd.DataFrame) -> None:
    expected = measure_cells(cells)
    expected = expected[expected["area_px"] > 0]
    assert list(table.index) == list(expected.index)
    for column in MEASURED:
        assert table[column].tolist() == expected[column].tolist()


def test_an_added_cell_has_the_largest_id_plus_one_and_is_measured() -> None:
    cells = discs((12, 12), (40, 40))
    table = typed(cells)
    new = add_cell(cells, table, mask_at(14, 44)).apply(cells, table)
    assert cells[14, 44] == 3
    assert new.loc[3, "cell_type"] == "RBC"
    assert new.loc[3, "predicted_iou"] == pytest.approx(0.8)
    assert_measured(cells, new)


def test_an_added_cell_leaves_the_pixels_of_its_neighbours_alone() -> None:
    cells = discs((30, 20))
    before = cells.copy()
    table = typed(cells)
    new = add_cell(cells, table, mask_at(30, 30)).apply(cells, table)
    np.testing.assert_array_equal(cells == 1, before == 1)
    assert_measured(cells, new)


def test_an_added_cell_replaces_one_that_it_mostly_covers() -> None:
    cells = discs((30, 30), radius=5)
    table = typed(cells)
    new = add_cell(cells, table, mask_at(31, 30)).apply(cells, table)
    assert list(new.index) == [2]
    assert cells[30, 30] == 2
    assert_measured(cells, new)


def test_an_added_cell_is_one_part_when_a_neighbour_cuts_it() -> None:
    cells = np.zeros((SIDE, SIDE), np.int32)
    cells[:, 30:33] = 1
    table = typed(cells)
    add_cell(cells, table, mask_at(30, 34)).apply(cells, table)
    assert not (cells[:, :30] == 2).any()
    assert (cells[:, 33:] == 2).any()


def test_a_cell_that_is_there_already_is_not_added_again() -> None:
    cells = np.ones((SIDE, SIDE), np.int32)
    table = typed(cells)
    with pytest.raises(InputError, match="Cell 1 is there already"):
        add_cell(cells, table, mask_at(30, 30))


@pytest.mark.parametrize("mask", [mask_at(-40, 20), CellMask((3, 3, 4, 4), np.zeros((1, 1), bool), 0, 0, 0, (3, 3))])
def test_an_empty_mask_is_no_cell(mask: CellMask) -> None:
    cells = discs((30, 30))
    with pytest.raises(InputError, match="No cell was found"):
        add_cell(cells, typed(cells), mask)


def test_a_mask_over_the_edge_is_cut_and_touches_the_edge() -> None:
    cells = discs((40, 40))
    table = typed(cells)
    new = add_cell(cells, table, mask_at(2, 60)).apply(cells, table)
    assert new.loc[2, "touches_edge"]
    assert_measured(cells, new)


def test_the_first_cell_of_an_empty_smear_can_be_added() -> None:
    cells = np.zeros((SIDE, SIDE), np.int32)
    table = measure_cells(cells)
    new = add_cell(cells, table, mask_at(30, 30)).apply(cells, table)
    assert list(new.index) == [1]
    assert_measured(cells, new)


def test_a_deleted_cell_is_gone_from_image_and_table() -> None:
    cells = discs((12, 12), (40, 40))
    table = typed(cells)
    new = delete_cells(cells, table, [1]).apply(cells, table)
    assert set(np.unique(cells)) == {0, 2}
    assert_measured(cells, new)


@pytest.mark.parametrize("ids", [[], [0], [7]])
def test_background_and_unknown_cells_cannot_be_deleted(ids: list[int]) -> None:
    cells = discs((12, 12))
    with pytest.raises(InputError, match="cell"):
        delete_cells(cells, typed(cells), ids)


def test_a_region_is_split_at_its_waist_and_both_parts_keep_its_type() -> None:
    cells = np.minimum(discs((30, 22), (30, 36)), 1)
    table = typed(cells)
    new = split_cell(cells, table, 1).apply(cells, table)
    assert cells[30, 18] != cells[30, 40]
    assert list(new["cell_type"]) == ["RBC", "RBC"]
    assert new["area_px"].min() > 0.4 * new["area_px"].sum()
    assert_measured(cells, new)


def test_the_lobes_of_a_region_in_two_pieces_become_two_cells() -> None:
    cells = np.minimum(discs((15, 15), (45, 45)), 1)
    table = typed(cells)
    new = split_cell(cells, table, 1).apply(cells, table)
    assert len(new) == 2


def test_a_round_cell_has_no_waist() -> None:
    cells = discs((30, 30))
    with pytest.raises(InputError, match="Cut it by a line"):
        split_cell(cells, typed(cells), 1)


def test_a_line_cuts_a_cell_in_two() -> None:
    cells = discs((30, 30))
    table = typed(cells)
    new = split_cell(cells, table, 1, line=((10, 33), (50, 33))).apply(cells, table)
    assert cells[30, 25] == 1
    assert cells[30, 36] == 2
    assert_measured(cells, new)


@pytest.mark.parametrize("line", [((0, 0), (60, 1)), ((30, 30), (30, 30))])
def test_a_line_beside_the_cell_is_refused(line: tuple[tuple[float, float], tuple[float, float]]) -> None:
    cells = discs((30, 30))
    with pytest.raises(InputError, match="does not cross cell 1"):
        split_cell(cells, typed(cells), 1, line=line)


def test_merged_cells_have_id_and_type_of_the_largest() -> None:
    cells = discs((30, 14), radius=6)
    cells[discs((30, 34), radius=9) > 0] = 2
    table = typed(cells)
    new = merge_cells(cells, table, [1, 2]).apply(cells, table)
    assert list(new.index) == [2]
    assert new.loc[2, "cell_type"] == "WBC"
    assert_measured(cells, new)


@pytest.mark.parametrize("ids", [[1], [1, 1], []])
def test_one_cell_cannot_be_merged(ids: list[int]) -> None:
    cells = discs((12, 12))
    with pytest.raises(InputError, match="two or more"):
        merge_cells(cells, typed(cells), ids)


def test_painting_becomes_an_edit_that_can_be_undone() -> None:
    cells = discs((20, 20), (40, 40))
    before, table = cells.copy(), typed(cells)
    cells[38:60, 10:44] = 1
    cells[0:4, 50:60] = 9
    edit = repaint(cells, table, before[0:60, 5:60], (0, 5))
    new = replace_rows(table, edit.removed, edit.added)
    assert_measured(cells, new)
    assert new.loc[9, "cell_type"] == ""
    pd.testing.assert_frame_equal(edit.reversed().apply(cells, new), table)
    np.testing.assert_array_equal(cells, before)


def test_an_edit_whose_pixels_changed_since_is_not_undone() -> None:
    cells = discs((20, 20), (40, 40))
    edit = delete_cells(cells, typed(cells), [1, 2])
    table = edit.apply(cells, typed(cells))
    cells[18:22, 18:22] = 5
    with pytest.raises(InputError, match="changed in another way"):
        edit.reversed().apply(cells, table)
    assert cells[20, 20] == 5
    assert cells[40, 40] == 0  # nothing of it is written


def test_cells_that_lie_far_apart_are_deleted_by_a_window_each() -> None:
    cells = np.zeros((20, 5000), np.int32)
    cells[2:9, 2:9], cells[2:9, 8:14], cells[4:9, 4000:4010] = 1, 2, 3
    table = typed(cells)
    edit = delete_cells(cells, table, [1, 2, 3])
    assert sum(patch.before.size for patch in edit.patches) < 200
    before = cells.copy()
    new = edit.apply(cells, table)
    assert not cells.any()
    assert new.empty
    pd.testing.assert_frame_equal(edit.reversed().apply(cells, new), table)
    np.testing.assert_array_equal(cells, before)


def test_cells_far_apart_are_not_merged() -> None:
    cells = np.zeros((20, 5000), np.int32)
    cells[2:9, 2:9], cells[4:9, 4900:4910] = 1, 2
    with pytest.raises(InputError, match="too far apart"):
        merge_cells(cells, typed(cells), [1, 2])


def test_a_cell_takes_the_place_of_those_that_it_may_only() -> None:
    cells = discs((30, 30), radius=5)
    table = typed(cells)
    new = add_cell(cells, table, mask_at(31, 30), may_replace=[]).apply(cells, table)
    assert list(new.index) == [1, 2]
    assert cells[30, 30] == 1
    assert_measured(cells, new)


def test_only_the_plane_of_a_stack_is_edited() -> None:
    stack = np.stack([discs((20, 20)), discs((20, 20)) * 2])
    table = pd.concat([typed(stack[0]), typed(discs((20, 20))).set_axis([2])])
    table.index.name = "id"
    table["plane"] = [0, 1]
    new = delete_cells(stack, table, [2]).apply(stack, table)
    new = add_cell(stack, new, mask_at(50, 50), plane=(1,)).apply(stack, new)
    assert (stack[0] == 1).any()
    assert stack[1, 50, 50] == 2
    assert new.loc[2, "plane"] == 1
    assert new["plane"].dtype == table["plane"].dtype


@pytest.mark.parametrize("step", [2, 3, 4])
def test_coarser_levels_follow(step: int) -> None:
    cells = discs((20, 20), (41, 43))
    level = cells[::step, ::step].copy()
    table = typed(cells)
    edit = split_cell(cells, table, 2, line=((10, 43), (60, 43)))
    edit.apply(cells, table)
    for patch in edit.patches:
        patch.write_level(level, cells)
    np.testing.assert_array_equal(level, cells[::step, ::step])


places = st.tuples(st.integers(0, SIDE - 1), st.integers(0, SIDE - 1))


@st.composite
def chains(draw: st.DrawFn) -> list[tuple[str, tuple[int, int], tuple[int, int]]]:
    kinds = st.sampled_from(["add", "delete", "split", "line", "merge"])
    return draw(st.lists(st.tuples(kinds, places, places), min_size=1, max_size=8))


def edit_at(
    kind: str, cells: NDArray[np.int32], table: pd.DataFrame, a: tuple[int, int], b: tuple[int, int]
) -> Edit | None:
    one, other = int(cells[a]), int(cells[b])
    try:
        if kind == "add":
            return add_cell(cells, table, mask_at(*a, radius=7))
        if kind == "delete":
            return delete_cells(cells, table, [one] if one == other or not other else [one, other])
        if kind == "merge":
            return merge_cells(cells, table, [one, other])
        return split_cell(cells, table, one, line=((float(a[0]), float(a[1])), (0.0, 0.0)) if kind == "line" else None)
    except InputError:
        return None


@given(st.lists(places, max_size=6), chains())
def test_undo_is_the_inverse_of_every_chain_of_edits(
    centres: list[tuple[int, int]], chain: list[tuple[str, tuple[int, int], tuple[int, int]]]
) -> None:
    cells = discs(*centres)
    table = typed(cells)
    table["mine"] = np.arange(len(table))
    edits, states = [], [(cells.copy(), table)]
    for kind, a, b in chain:
        edit = edit_at(kind, cells, table, a, b)
        if edit is not None:
            table = edit.apply(cells, table)
            edits.append(edit)
            states.append((cells.copy(), table))
            assert_measured(cells, table)
    for edit, (image, rows) in zip(reversed(edits), reversed(states[:-1]), strict=True):
        table = edit.reversed().apply(cells, table)
        np.testing.assert_array_equal(cells, image)
        pd.testing.assert_frame_equal(table, rows)
    for edit, (image, rows) in zip(edits, states[1:], strict=True):
        table = edit.apply(cells, table)
        np.testing.assert_array_equal(cells, image)
        pd.testing.assert_frame_equal(table, rows)


@given(st.lists(places, min_size=1, max_size=6), places, st.sampled_from(["split", "line"]))
def test_a_split_keeps_the_partition(centres: list[tuple[int, int]], end: tuple[int, int], kind: str) -> None:
    cells = discs(*centres)
    cells[cells == 2] = 1
    before, table = cells.copy(), typed(cells)
    edit = edit_at(kind, cells, table, centres[0], end)
    if edit is None:
        return
    edit.apply(cells, table)
    np.testing.assert_array_equal(cells > 0, before > 0)
    parents = [np.unique(before[cells == i]) for i in np.unique(cells)]
    assert all(len(p) == 1 for p in parents)
    np.testing.assert_array_equal(cells[before != before[centres[0]]], before[before != before[centres[0]]])
