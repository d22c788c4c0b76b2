from __future__ import annotations

import threading

import pytest

from napari_bloodcell.ahead import one_ahead


def test_the_items_come_in_their_order() -> None:
    assert list(one_ahead(range(50))) == list(range(50))
    assert list(one_ahead([])) == []


def test_the_next_item_is_made_while_the_last_is_used() -> None:
    made = [threading.Event() for _ in range(3)]

    def items():
        for k, event in enumerate(made):
            event.set()
            yield k

    for k in one_ahead(items()):
        if k + 1 < len(made):
            assert made[k + 1].wait(5)


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def items():
        yield 1
        raise OSError("the disk is gone")

    found = []
    with pytest.raises(OSError, match="the disk"):
        found.extend(one_ahead(items()))
    assert found == [1]


def test_no_thread_is_left_when_the_caller_stops_early() -> None:
    work = one_ahead(iter(range(10)))
    next(work)
    work.close()  # type: ignore[attr-defined]
    assert not any(t.name.startswith("one-ahead") for t in threading.enumerate())
