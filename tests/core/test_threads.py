from __future__ import annotations

import threading
import time

import pytest

from napari_bloodcell.core.threads import Threads, in_threads


@pytest.mark.parametrize("threads", [None, Threads(), Threads(3)])
def test_results_come_in_the_order_of_the_items(threads: Threads | None) -> None:
    def work(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    assert list(in_threads(work, range(40), threads)) == [k * k for k in range(40)]
    assert list(in_threads(work, [], threads)) == []


def test_as_many_items_are_worked_on_at_once_as_there_are_threads() -> None:
    together = threading.Barrier(3, timeout=10)
    assert list(in_threads(lambda _: together.wait() >= 0, range(6), Threads(3))) == [True] * 6


def test_no_more_items_are_asked_for_than_are_needed_soon() -> None:
    asked: list[int] = []

    def items():
        for k in range(20):
            asked.append(k)
            yield k

    results = in_threads(str, items(), Threads(2))
    assert next(results) == "0"
    assert len(asked) == 3


def test_each_thread_prepares_itself() -> None:
    prepared: set[str] = set()
    threads = Threads(2, lambda: prepared.add(threading.current_thread().name))
    names = set(in_threads(lambda _: threading.current_thread().name, range(8), threads))
    assert names <= prepared


@pytest.mark.parametrize("threads", [None, Threads(2)])
def test_an_error_comes_where_its_result_would_have_come(threads: Threads | None) -> None:
    def work(item: int) -> int:
        if item == 2:
            raise OSError("the disk is gone")
        return item

    found: list[int] = []
    with pytest.raises(OSError, match="the disk"):
        found.extend(in_threads(work, range(9), threads))
    assert found == [0, 1]


def test_when_the_caller_stops_nothing_more_is_begun_and_no_thread_is_left() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.01)
        return item

    results = in_threads(work, range(50), Threads(2))
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(begun) <= 4
    assert not any(t.name.startswith("blood-cells") for t in threading.enumerate())
