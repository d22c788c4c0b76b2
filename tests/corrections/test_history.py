from __future__ import annotations

from dataclasses import dataclass

import pytest

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.corrections import history as module
from napari_bloodcell.corrections.history import History


@dataclass
class Step:
    what: str
    n_bytes: int = 1


def nothing(_step: Step) -> None:
    pass


def test_the_last_change_is_undone_first_and_done_again_last() -> None:
    history: History[Step] = History()
    for what in "abc":
        history.add(Step(what))
    assert [history.undo(nothing).what for _ in "abc"] == ["c", "b", "a"]
    assert [history.redo(nothing).what for _ in "abc"] == ["a", "b", "c"]


def test_a_new_change_forgets_what_was_undone() -> None:
    history: History[Step] = History()
    history.add(Step("a"))
    history.undo(nothing)
    history.add(Step("b"))
    with pytest.raises(InputError, match="nothing to do again"):
        history.redo(nothing)


def test_nothing_to_undo_is_an_error_that_says_so() -> None:
    with pytest.raises(InputError, match="nothing left to undo"):
        History().undo(nothing)


def test_a_change_that_cannot_be_undone_is_forgotten() -> None:
    history: History[Step] = History()
    history.add(Step("a"))
    history.add(Step("b"))

    def fail(_step: Step) -> None:
        raise InputError("changed in another way")

    with pytest.raises(InputError, match="another way"):
        history.undo(fail)
    assert history.undo(nothing).what == "a"


def test_the_oldest_changes_go_when_memory_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    history: History[Step] = History()
    for what in "abcd":
        history.add(Step(what, 4))
    assert [step.what for step in history.done] == ["c", "d"]
