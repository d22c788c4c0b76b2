"""What was done, one change after another, for undo and redo."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from napari_bloodcell.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_BYTES = 2**29
"""Memory that undo may take; when it takes more, the oldest changes are forgotten."""


class Change(Protocol):
    """One change that can be undone."""

    @property
    def what(self) -> str:
        """What was done, for people: "split cell 5"."""

    @property
    def n_bytes(self) -> int:
        """Memory that it takes, about."""


C = TypeVar("C", bound=Change)


@dataclass(slots=True)
class History(Generic[C]):
    """Changes that can be undone, and those that were undone and can be done again; the last one last."""

    done: list[C] = field(default_factory=list)
    undone: list[C] = field(default_factory=list)

    def add(self, change: C) -> None:
        """Remember a change that was made just now; what was undone before cannot be done again after it."""
        self.done.append(change)
        self.undone.clear()
        n_bytes = sum(one.n_bytes for one in self.done)
        while n_bytes > MOST_BYTES and len(self.done) > 1:
            n_bytes -= self.done.pop(0).n_bytes

    def undo(self, take_back: Callable[[C], None]) -> C:
        """Take the last change back by `take_back`, and return it.

        Raises
        ------
        InputError
            If there is none, or what `take_back` raises: that change is then forgotten.
        """
        if not self.done:
            raise InputError("There is nothing left to undo.")
        change = self.done.pop()
        take_back(change)
        self.undone.append(change)
        return change

    def redo(self, do_again: Callable[[C], None]) -> C:
        """Do by `do_again` what was undone last, and return it; errors as for `undo`."""
        if not self.undone:
            raise InputError("There is nothing to do again.")
        change = self.undone.pop()
        do_again(change)
        self.done.append(change)
        return change
