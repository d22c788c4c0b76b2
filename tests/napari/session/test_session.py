"""Work on cells without a window: types, classes, order, undo, journal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from napari.components import ViewerModel

import napari_bloodcell as nb
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.corrections.journal import Correction, Journal, default_journal_folder, image_hash, standing
from napari_bloodcell.napari.docks.review.walk import Order, Tour, ordered_cells, show_cell
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.features import boxes_in, cells_in_box
from napari_bloodcell.napari.layers.private import camera_of
from napari_bloodcell.napari.layers.selection import pointed_out, selected_cells
from napari_bloodcell.napari.session.classes import ClassList
from napari_bloodcell.napari.session.journal import Found
from napari_bloodcell.napari.session.opening import cells_session
from tests.fakes import BrightnessClassifier, ThresholdGenerator, disc_image
from tests.napari.smears import CENTRES, N_SIDE, SHAPE, TYPES, add_million_cells, add_smear, label_image, typed_table

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_bloodcell.napari.session.session import CellsSession


def new_session() -> tuple[CellsSession, ViewerModel]:
    viewer = ViewerModel()
    return cells_session(viewer, add_smear(viewer)), viewer


def types_in(session: CellsSession) -> list[str]:
    return links.table_of(session.layer)["cell_type"].tolist()


def shown_types(session: CellsSession) -> NDArray[np.uint8]:
    typed = links.types_layer_for(session.viewer, session.layer)
    assert typed is not None
    return np.asarray(typed.data[...])


def assert_shown(session: CellsSession) -> None:
    """What is drawn of each cell is the code of its type in the table."""
    names, view, cells = links.names_of(session.layer), shown_types(session), np.asarray(session.layer.data)
    for cell, name in links.table_of(session.layer)["cell_type"].items():
        code = names.index(name) + 1 if name else 0
        assert set(view[cells == cell].tolist()) == {code}


def test_a_corrected_cell_is_a_persons_decision() -> None:
    session, _viewer = new_session()
    assert session.type_cells([3], "WBC") == 1
    row = links.table_of(session.layer).loc[3]
    assert (row["cell_type"], row["type_source"], row["probability"]) == ("WBC", "user", 1.0)
    assert_shown(session)


def test_of_one_cell_the_list_of_layers_hears_nothing_and_the_layer_does() -> None:
    session, viewer = new_session()
    heard: list[str] = []
    viewer.layers.events.connect(lambda event: heard.append(f"list {event.type}"))
    session.layer.events.features.connect(lambda event: heard.append(event.type))
    session.type_cells([1], "WBC")
    assert heard == ["features"]
    assert_shown(session)


def test_the_numbers_by_class_follow() -> None:
    session, _viewer = new_session()
    assert session.numbers() == {"RBC": 4, "WBC": 1, "platelet": 1, "unidentified": 0}
    session.type_cells([1, 3], "platelet")
    assert session.numbers() == {"RBC": 2, "WBC": 1, "platelet": 3, "unidentified": 0}


def test_an_unknown_class_is_refused() -> None:
    session, _viewer = new_session()
    with pytest.raises(InputError, match="there are RBC, WBC"):
        session.type_cells([1], "blast")


def test_undo_gives_type_probability_and_source_back() -> None:
    session, _viewer = new_session()
    before = links.table_of(session.layer)
    session.type_cells([1, 2, 5], "WBC")
    session.undo()
    columns = ["cell_type", "probability", "type_source"]
    assert links.table_of(session.layer)[columns].equals(before[columns])
    assert_shown(session)
    session.redo()
    assert types_in(session) == ["WBC", "WBC", "RBC", "RBC", "WBC", "RBC"]
    assert_shown(session)


def test_there_is_no_limit_to_undo() -> None:
    session, _viewer = new_session()
    for i in range(1500):
        session.type_cells([1 + i % 6], ("WBC", "RBC", "platelet")[i % 3])
    for _ in range(1500):
        session.undo()
    assert types_in(session) == TYPES
    with pytest.raises(InputError, match="nothing left to undo"):
        session.undo()


ACTIONS = st.one_of(
    st.tuples(st.just("type"), st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(0, 9)),
    st.tuples(st.just("add"), st.sampled_from(["blast", "eosinophil", "reticulocyte"])),
    st.tuples(st.just("rename"), st.sampled_from(["blast", "eosinophil"]), st.sampled_from(["lymphoblast", "Eo"])),
    st.tuples(st.just("recolour"), st.sampled_from(["RBC", "blast"]), st.sampled_from(["#123456", "#abcdef"])),
    st.tuples(st.just("delete"), st.sampled_from(["blast", "eosinophil", "Eo"])),
    st.tuples(st.just("outline"), st.sampled_from(["delete", "merge"]), st.lists(st.integers(1, 6), min_size=1)),
)


def act(session: CellsSession, action: Any) -> bool:
    """Do it, where it is allowed; say whether there was something to do."""
    name, *rest = action
    try:
        if name == "type":
            return 0 < session.type_cells(rest[0], session.classes.names[rest[1] % len(session.classes.names)])
        elif name == "outline":
            getattr(session, rest[0])(sorted(set(rest[1])))
        else:
            getattr(session, f"{name}_class")(*rest)
    except InputError:
        return False
    return True


@settings(max_examples=15, deadline=None)
@given(st.lists(ACTIONS, max_size=12))
def test_whatever_was_done_can_be_undone_and_done_again(actions: list[Any]) -> None:
    session, _viewer = new_session()

    def state() -> tuple[Any, ...]:
        table = links.table_of(session.layer)
        shown = np.stack([shown_types(session), session.layer.data])
        return session.classes, table[["cell_type", "probability", "type_source", "area_px"]].to_dict(), shown

    states = [state()]
    for action in actions:
        if act(session, action):
            states.append(state())
            assert_shown(session)
    for step, verb in ((-1, "undo"), (1, "redo")):
        order = states[:-1][::-1] if step < 0 else states[1:]
        for classes, table, view in order:
            getattr(session, verb)()
            now = state()
            assert now[:2] == (classes, table)
            assert np.array_equal(now[2], view)


def test_a_class_of_the_user_comes_before_unidentified_and_cells_keep_theirs() -> None:
    session, viewer = new_session()
    session.type_cells([6], "unidentified")
    session.add_class("blast", "#00ff00")
    session.type_cells([1], "blast")
    assert session.classes.names == ("RBC", "WBC", "platelet", "blast", "unidentified")
    assert_shown(session)
    typed = links.types_layer_for(viewer, session.layer)
    assert typed is not None
    assert np.allclose(typed.colormap.map(4), (0, 1, 0, 1))


def test_the_cells_of_a_deleted_class_are_unidentified() -> None:
    session, _viewer = new_session()
    session.add_class("blast")
    session.type_cells([2], "blast")
    session.delete_class("blast")
    assert types_in(session)[1] == "unidentified"
    assert_shown(session)


def test_a_renamed_class_keeps_its_cells_and_colour() -> None:
    session, _viewer = new_session()
    session.add_class("blast", "#102030")
    session.type_cells([2], "blast")
    session.rename_class("blast", "lymphoblast")
    assert types_in(session)[1] == "lymphoblast"
    assert session.classes.colours["lymphoblast"] == "#102030"
    assert_shown(session)


@pytest.mark.parametrize("verb", ["rename", "delete"])
def test_the_programs_own_classes_stay(verb: str) -> None:
    session, _viewer = new_session()
    with pytest.raises(InputError, match="class of the program"):
        getattr(session, f"{verb}_class")(*(["RBC", "red"] if verb == "rename" else ["RBC"]))


@pytest.mark.parametrize("name", ["", "  ", "rbc", "a/b", "x" * 61])
def test_a_name_that_is_none_or_taken_is_refused(name: str) -> None:
    with pytest.raises(InputError):
        ClassList(("RBC", "WBC", "platelet", "unidentified"), {}).add(name)


def test_there_can_be_many_classes_but_no_more_than_can_be_drawn() -> None:
    classes = ClassList(("RBC", "WBC", "platelet", "unidentified"), {})
    for i in range(250):
        classes = classes.add(f"class {i}")
    with pytest.raises(InputError, match="254"):
        classes.add("one more")


def test_keys_are_digits_and_first_letters() -> None:
    classes = ClassList(("RBC", "WBC", "platelet", "unidentified"), {}).add("promyelocyte")
    keys = classes.keys()
    assert [keys[d] for d in "12340"] == list(classes.names)
    assert {k: keys[k] for k in "RWPU"} == {"R": "RBC", "W": "WBC", "P": "platelet", "U": "unidentified"}
    assert keys["O"] == "promyelocyte"  # P and R are taken


def test_orders() -> None:
    session, _viewer = new_session()
    features = session.layer.features
    assert ordered_cells(features, Order.LEAST_CERTAIN).tolist() == [3, 5, 2, 1, 4, 6]
    assert ordered_cells(features, Order.LEAST_CERTAIN, cell_type="RBC").tolist() == [3, 1, 4, 6]
    assert ordered_cells(features, Order.READING).tolist() == [1, 4, 2, 5, 3, 6]
    session.type_cells([3], "WBC")
    assert ordered_cells(features, Order.LEAST_CERTAIN).tolist() == [5, 2, 1, 4, 6]
    assert ordered_cells(features, Order.NOT_LOOKED_AT, looked_at={1, 4}).tolist() == [2, 5, 6]


def test_the_largest_come_first() -> None:
    session, _viewer = new_session()
    features = session.layer.features
    features["area_px"] = [0, 10, 60, 30, 40, 50, 20]
    assert ordered_cells(features, Order.LARGEST).tolist() == [2, 5, 4, 3, 6, 1]


def test_a_tour_goes_on_back_and_round() -> None:
    tour = Tour()
    assert tour.step(1) == 0
    tour.start(np.array([7, 8, 9]))
    assert [tour.step(by) for by in (1, 1, -1, -1, 1, 1)] == [7, 8, 7, 9, 7, 8]


def test_a_box_holds_the_cells_whose_centre_it_holds() -> None:
    session, _viewer = new_session()
    assert cells_in_box(session.layer.features, (20, 20, 40, 100)).tolist() == [1, 2]


def test_going_to_a_cell_centres_and_outlines_it() -> None:
    session, viewer = new_session()
    assert show_cell(session, 5)
    assert np.allclose(camera_of(viewer).center[-2:], (90, 80), atol=1)
    assert pointed_out(viewer, session.layer).tolist() == [5]
    assert not len(selected_cells(viewer, session.layer))
    assert not show_cell(session, 77)


def test_a_small_cell_is_zoomed_to_and_a_large_one_is_not() -> None:
    session, viewer = new_session()
    camera_of(viewer).zoom = 0.1
    show_cell(session, 5)
    assert camera_of(viewer).zoom * 25 == pytest.approx(72, rel=0.05)
    camera_of(viewer).zoom = 4.0
    show_cell(session, 1)
    assert camera_of(viewer).zoom == 4.0


def test_typing_anew_keeps_what_was_corrected_while_it_ran() -> None:
    session, viewer = new_session()
    finished = links.table_of(session.layer).assign(cell_type="RBC", probability=0.5, type_source="model")

    class Typed:
        table, names = finished, links.names_of(session.layer)

    session.type_cells([2], "platelet")  # after the worker took its copy
    layers.add_types(viewer, session.layer, Typed())
    row = links.table_of(session.layer).loc[2]
    assert (row["cell_type"], row["type_source"]) == ("platelet", "user")


def test_a_correction_undone_while_the_journal_is_read_stays_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    session, _viewer = new_session()
    read: list[Any] = []
    monkeypatch.setattr(
        "napari_bloodcell.napari.session.session.when_done", lambda future, then: read.append((future.result(), then))
    )
    session.type_cells([1], "WBC")
    session.put_back_soon(lambda *_: None)
    session.undo()
    for _ in range(2):  # the journal is read again
        found, then = read.pop()
        then(found)
        assert types_in(session) == TYPES
    assert not read


def test_restored_types_do_not_overwrite_a_newer_decision() -> None:
    session, _viewer = new_session()
    session.type_cells([1], "platelet")
    assert session._put_back(Found({1: "WBC", 2: "blast"}, [], 2)) == 1
    assert types_in(session)[:2] == ["platelet", "blast"]
    assert_shown(session)


@pytest.mark.parametrize("corner", [(0.0, 0.0), (20480.0, 20480.0)])
@pytest.mark.parametrize("zoom", [1.0, 0.02])
def test_of_a_million_cells_one_is_drawn_anew_without_reading_the_rest(
    corner: tuple[float, float], zoom: float
) -> None:
    viewer = ViewerModel()
    layer = add_million_cells(viewer)
    session = cells_session(viewer, layer)
    typed = links.types_layer_for(viewer, layer)
    assert typed is not None
    typed._update_draw(
        scale_factor=1 / zoom,
        corner_pixels_displayed=np.array([corner, np.add(corner, 800 / zoom)]),
        shape_threshold=(800, 800),
    )
    read: list[int] = []
    plain = type(layer.data[0]).__getitem__

    def counted(self: Any, key: Any) -> Any:
        values = plain(self, key)
        read.append(int(np.size(values)))
        return values

    cell = (int(corner[0]) // 40 + 3) * N_SIDE + int(corner[1]) // 40 + 5
    type(layer.data[0]).__getitem__ = counted  # type: ignore[method-assign]
    try:
        begin = time.thread_time()
        session.type_cells([cell], "platelet")
        spent = time.thread_time() - begin
    finally:
        type(layer.data[0]).__getitem__ = plain  # type: ignore[method-assign]
    assert sum(read) < 20_000
    assert spent < 0.05
    raw, tile = typed._slice.image.raw, typed._transforms["tile2data"]
    expected = np.asarray(
        typed.data[typed.data_level][
            tuple(
                slice(round(t / s), round(t / s) + n)
                for t, s, n in zip(tile.translate, tile.scale, raw.shape, strict=True)
            )
        ]
    )
    assert np.array_equal(raw, expected)


def test_a_script_corrects_and_restores_as_the_dock_does() -> None:
    viewer = ViewerModel()
    layer = add_smear(viewer)
    assert nb.napari.correct_cells(layer, {2: "platelet", 3: "blast"}, annotator="Ada", viewer=viewer) == 2
    viewer.layers.clear()
    again = add_smear(viewer)
    assert nb.napari.restore_corrections(again, viewer=viewer) == []
    assert links.table_of(again)["cell_type"].tolist() == ["RBC", "platelet", "blast", *TYPES[3:]]
    written = Journal(default_journal_folder()).read()
    assert {c.annotator for c in written} == {"Ada"}


def test_corrections_of_each_plane_of_a_stack_come_back_to_it() -> None:
    viewer = ViewerModel()
    stack = np.stack([disc_image(CENTRES, SHAPE), disc_image(CENTRES[:3], SHAPE)])
    cells = np.stack([label_image(), np.where(label_image(CENTRES[:3]), label_image(CENTRES[:3]) + 6, 0)])
    tables = [typed_table(cells[0]).assign(plane=0), typed_table(cells[1]).assign(plane=1)]

    def add() -> Any:
        image = viewer.add_image(stack, rgb=True, name="stack")
        layer = layers.add_cells(viewer, image, cells=cells.astype(np.int32))
        layers.set_table(layer, pd.concat(tables))
        return layer

    nb.napari.correct_cells(add(), {1: "WBC", 8: "platelet"}, viewer=viewer)
    viewer.layers.clear()
    again = add()
    nb.napari.restore_corrections(again, viewer=viewer)
    by_hand = links.table_of(again).query("type_source == 'user'")["cell_type"]
    assert by_hand.to_dict() == {1: "WBC", 8: "platelet"}


def test_a_correction_stays_in_the_journal_of_its_session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    session, viewer = new_session()
    here = default_journal_folder()
    monkeypatch.setenv("NAPARI_BLOODCELL_JOURNAL", str(tmp_path / "another"))
    session.type_cells([1], "WBC")
    session.put_back()  # waits for what is written
    assert len(Journal(here).read(image_hash(viewer.layers["smear"].data))) == 1
    assert Journal(default_journal_folder()).is_empty


# --- one history -----------------------------------------------------------------------------------------------------


def standing_types(viewer: ViewerModel) -> list[str]:
    journal = Journal(default_journal_folder()).read(image_hash(viewer.layers["smear"].data))
    return [c.to_type for c in standing(journal)]


def test_undoing_a_stroke_does_not_touch_a_later_type_which_comes_first() -> None:
    session, viewer = new_session()
    session.layer.selected_label, session.layer.brush_size = 1, 5
    session.layer.paint((30, 46), 1)
    session.type_cells([1], "WBC")
    session.undo()
    assert types_in(session)[0] == "RBC"
    assert session.layer.data[30, 46] == 1
    session.redo()
    session.flush()
    assert types_in(session)[0] == "WBC"
    assert standing_types(viewer) == ["WBC"]


def test_undo_of_what_was_selected_selects_it_again() -> None:
    session, _viewer = new_session()
    session.select([1, 2])
    session.type_cells([1, 2], "platelet")
    assert not len(session.selected)
    session.undo()
    assert session.selected.tolist() == [1, 2]
    session.delete(session.selected)
    assert not len(session.selected)
    session.undo()
    assert session.selected.tolist() == [1, 2]


def test_the_cell_that_is_pointed_out_counts_until_the_mouse_is_moved() -> None:
    session, viewer = new_session()
    viewer.cursor.position = CENTRES[0]
    assert session.meant.tolist() == [1]
    session.point_out(5)
    assert session.meant.tolist() == [5]
    assert not len(session.selected)
    viewer.cursor.position = (60.0, 60.0)  # glass
    assert not len(session.meant)


def test_the_number_of_corrections_leaves_out_those_undone() -> None:
    session, _viewer = new_session()
    session.type_cells([1], "WBC")
    session.type_cells([2, 3], "platelet")
    assert session.n_corrections == 3
    session.undo()
    assert session.n_corrections == 1
    session.flush()
    found, n_back = session.put_back()
    assert (found.n_corrections, session.n_corrections, n_back) == (1, 1, 0)


def found_again(viewer: ViewerModel) -> Any:
    return nb.napari.segment_layer(viewer.layers["smear"], viewer=viewer, generator=ThresholdGenerator())


def test_finding_cells_again_keeps_those_made_by_hand_and_is_one_step_of_undo() -> None:
    session, viewer = new_session()
    layer = session.layer
    session.split(1, line=((10.0, 33.0), (50.0, 33.0)))  # two halves, which no run finds
    session.type_cells([7], "WBC")
    before, table = layer.data.copy(), links.table_of(layer)
    assert found_again(viewer) is layer
    by_hand = links.table_of(layer).loc[[1, 7]]
    assert by_hand["cell_type"].tolist() == ["RBC", "WBC"]
    assert np.array_equal(layer.data == 7, before == 7)
    assert len(links.table_of(layer)) == 7  # the other five are there once
    after = layer.data.copy()
    session.undo()
    assert np.array_equal(layer.data, before)
    pd.testing.assert_frame_equal(links.table_of(layer), table)
    assert_shown(session)
    session.undo()
    session.undo()
    assert types_in(session) == TYPES
    for _ in range(3):
        session.redo()
    assert np.array_equal(layer.data, after)


def test_cells_that_only_a_run_made_are_replaced() -> None:
    session, viewer = new_session()
    session.delete([2])
    found_again(viewer)
    assert len(links.table_of(session.layer)) == 6


def test_nothing_is_changed_while_cells_are_being_found() -> None:
    session, _viewer = new_session()
    session.type_cells([1], "WBC")
    session.busy = "found"
    with pytest.raises(InputError, match="being found"):
        session.type_cells([2], "RBC")
    with pytest.raises(InputError, match="being found"):
        session.undo()
    session.busy = "typed"
    session.type_cells([2], "RBC")
    with pytest.raises(InputError, match="being typed"):
        session.delete([2])


def test_corrections_of_another_day_are_there_when_a_picture_is_analysed() -> None:
    viewer = ViewerModel()
    nb.napari.correct_cells(add_smear(viewer), {1: "platelet"}, viewer=viewer)
    image = viewer.layers["smear"]
    viewer.layers.clear()
    viewer.layers.append(image)
    models = {"generator": ThresholdGenerator(), "classifier": BrightnessClassifier()}
    result = nb.napari.analyse_layer(image, viewer=viewer, **models)
    cell = int(result.cells[30, 30])
    assert (result.table.loc[cell, "cell_type"], result.table.loc[cell, "type_source"]) == ("platelet", "user")
    assert result.counts["platelet"] == 1


def test_a_second_persons_corrections_are_one_step_of_undo(tmp_path: Path) -> None:
    session, viewer = new_session()
    theirs = Journal(tmp_path / "theirs.jsonl")
    sha256 = image_hash(viewer.layers["smear"].data)
    for cell, name in ((3, "WBC"), (4, "platelet")):
        box = boxes_in(session.layer.features, np.array([cell]))
        assert box is not None
        what = {"from_type": "RBC", "to_type": name, "annotator": "Grace", "image_sha256": sha256}
        theirs.append(Correction.of_cell(session.layer.data, cell, tuple(box[0].tolist()), **what))
    assert session.take_over(session.journal.compare(theirs.path).result()) == 2
    session.flush()
    assert types_in(session)[2:4] == ["WBC", "platelet"]
    assert standing_types(viewer) == ["WBC", "platelet"]
    session.undo()
    session.flush()
    assert types_in(session) == TYPES
    assert standing_types(viewer) == []


def test_a_mark_that_a_second_person_set_leaves_the_type_alone(tmp_path: Path) -> None:
    session, viewer = new_session()
    theirs = Journal(tmp_path / "theirs.jsonl")
    box = boxes_in(session.layer.features, np.array([3]))
    assert box is not None
    what = {"from_type": "RBC", "to_type": "", "to_abnormal": True, "annotator": "Grace"}
    sha256 = image_hash(viewer.layers["smear"].data)
    theirs.append(Correction.of_cell(session.layer.data, 3, tuple(box[0].tolist()), image_sha256=sha256, **what))
    before = links.table_of(session.layer).loc[3]
    assert session.take_over(session.journal.compare(theirs.path).result()) == 1
    after = links.table_of(session.layer).loc[3]
    columns = ["cell_type", "probability", "type_source"]
    assert (after[columns].tolist(), after["abnormal"]) == (before[columns].tolist(), True)
    session.undo()
    assert not links.table_of(session.layer).loc[3, "abnormal"]


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    session, _viewer = new_session()
    (tmp_path / "notes.jsonl").write_text("no,journal\n1,2\n")
    with pytest.raises(InputError, match="no journal of corrections"):
        session.journal.compare(tmp_path / "notes.jsonl").result()


def test_letters_that_edit_cells_are_no_keys_of_classes() -> None:
    classes = ClassList(("RBC", "WBC", "platelet", "unidentified"), {}).add("drepanocyte").add("schistocyte")
    assert not {"D", "S", "J"} & set(classes.keys())
    assert "E" in classes.keys()  # the next letter of drepanocyte
