"""Long work is followed step by step, and is closed whatever happens."""

from __future__ import annotations

import pytest

from napari_bloodcell.core.progress import Steps, drain
from napari_bloodcell.core.protocols import Progress


class Counting:
    """Work of three steps that notes whether it could clean up."""

    def __init__(self):
        self.is_closed = False

    def run(self):
        try:
            for done in range(1, 4):
                yield Progress(done, 3, "steps")
        finally:
            self.is_closed = True
        return "result"


def test_the_steps_come_before_the_result():
    steps = Steps(Counting().run())
    assert [step.done for step in steps] == [1, 2, 3]
    assert steps.result == "result"


def test_a_loop_that_is_left_early_closes_the_work():
    counting = Counting()
    for _ in Steps(counting.run()):
        break
    assert counting.is_closed


def test_work_that_was_not_done_has_no_result():
    steps = Steps(Counting().run())
    next(iter(steps))
    with pytest.raises(AttributeError, match="result"):
        _ = steps.result


def test_drain_closes_the_work_when_showing_progress_fails():
    counting = Counting()
    with pytest.raises(ZeroDivisionError):
        drain(counting.run(), lambda step: 1 / 0)
    assert counting.is_closed


def test_drain_shows_every_step_and_returns_the_result():
    seen = []
    assert drain(Counting().run(), lambda step: seen.append(step.done)) == "result"
    assert seen == [1, 2, 3]
