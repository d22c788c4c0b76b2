"""Which tile or block is next: blocks follow once their tiles are done, failed tiles are tried again at the end."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from napari_bloodcell.errors import BloodCellError, OutputError, in_one_line
from napari_bloodcell.slides.crew import Task
from napari_bloodcell.slides.neighbours import TileNotDone
from napari_bloodcell.slides.plan import grown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari_bloodcell.slides.plan import Plan

ROUNDS = 2
"""How often a tile or block is handed out before it has failed."""


class TilesThenBlocks:
    """Finds the cells of tiles and settles the blocks.

    Parameters
    ----------
    plan : Plan
        The run.
    tiles, blocks : iterable of int
        Which are left to do, rising.
    failed : dict of int to str, optional
        Tiles that have failed already, with their errors; those of this schedule are added.
    """

    def __init__(
        self, plan: Plan, tiles: Iterable[int], blocks: Iterable[int], failed: dict[int, str] | None = None
    ) -> None:
        self._plan = plan
        self._tiles, self._blocks = deque(tiles), deque(blocks)
        self._missing = set(self._tiles)
        self._again: deque[int] = deque()
        self._postponed: deque[int] = deque()
        self._tries: dict[Task, int] = {}
        self.failed = failed if failed is not None else {}

    def next(self) -> Task | None:
        """Return a block that can be settled, else a tile, or None."""
        if self._blocks and self._is_ready(self._blocks[0]):
            return self._block(self._blocks.popleft())
        if not self._tiles and self._again:
            self._tiles, self._again = self._again, self._tiles
        if self._tiles:
            return Task("tile", self._tiles.popleft())
        if not self._missing and self._postponed:
            return self._block(self._postponed.popleft())
        return None

    def ended(self, task: Task, error: Exception | None) -> None:
        """Hear that a task has ended.

        Raises
        ------
        Exception
            What stops the run: a full disk, or a block that failed again.
        """
        if isinstance(error, OutputError):
            raise error
        if error is None:
            if task.kind == "tile":
                self._missing.discard(task.number)
            return
        if task.kind == "block" and isinstance(error, TileNotDone) and self._missing:
            self._postponed.append(task.number)
            return
        self._tries[task] = self._tries.get(task, 0) + 1
        if self._tries[task] < ROUNDS:
            (self._again if task.kind == "tile" else self._blocks).append(task.number)
        elif task.kind == "tile":
            self.failed[task.number] = in_one_line(error)
            self._missing.discard(task.number)
        elif isinstance(error, BloodCellError):
            raise error
        else:
            place = self._plan.block(task.number)
            raise BloodCellError(f"The cells at {place} could not be typed: {in_one_line(error)}") from error

    def _is_ready(self, block: int) -> bool:
        if not self._missing:
            return True
        around = grown(self._plan.block(block), 2 * self._plan.overlap, self._plan.shape)
        return self._missing.isdisjoint(self._plan.tiles_reading(around))

    def _block(self, number: int) -> Task:
        return Task("block", number, frozenset(self.failed))


class InOrder:
    """Does tasks one after the other; one that fails stops the run."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = deque(tasks)

    def next(self) -> Task | None:
        """Return the next task, or None."""
        return self._tasks.popleft() if self._tasks else None

    def ended(self, task: Task, error: Exception | None) -> None:
        """Hear that a task has ended, and raise its error if it has one."""
        if error is not None:
            raise error
