"""Undo and redo of changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from napari_bloodcell.core.errors import InputError

MOST_BYTES = 2**29
"""Memory for undo; beyond it the oldest changes are forgotten."""


class Change(Protocol):
    """One change that can be undone."""

    @property
    def what(self) -> str:
        """What was done, for people: "split cell 5"."""

    @property
    def n_bytes(self) -> int:
        """Approximate memory."""


C = TypeVar("C", bound=Change)


@dataclass(slots=True)
class History(Generic[C]):
    """Changes that can be undone and redone, the latest last."""

    done: list[C] = field(default_factory=list)
    undone: list[C] = field(default_factory=list)

    def add(self, change: C) -> None:
        """Record a change just made; this clears the redo list."""
        self.done.append(change)
        self.undone.clear()
        n_bytes = sum(one.n_bytes for one in self.done)
        while n_bytes > MOST_BYTES and len(self.done) > 1:
            n_bytes -= self.done.pop(0).n_bytes

    def undo(self, take_back: Callable[[C], None]) -> C:
        """Undo the last change by `take_back` and return it; a change whose `take_back` raises is dropped."""
        if not self.done:
            raise InputError("There is nothing left to undo.")
        change = self.done.pop()
        take_back(change)
        self.undone.append(change)
        return change

    def redo(self, do_again: Callable[[C], None]) -> C:
        """Redo the change undone last by `do_again` and return it; errors as for `undo`."""
        if not self.undone:
            raise InputError("There is nothing to do again.")
        change = self.undone.pop()
        do_again(change)
        self.done.append(change)
        return change
