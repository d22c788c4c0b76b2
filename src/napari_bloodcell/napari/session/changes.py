"""Changes of a layer's cells, with everything needed to undo them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_bloodcell.corrections.cell_types import CellTypes
from napari_bloodcell.corrections.correction import Correction
from napari_bloodcell.corrections.edits import Edit
from napari_bloodcell.napari.layers.features import rows_of
from napari_bloodcell.napari.session.classes import ClassList

NONE: Final = np.empty(0, np.int64)
"""No cells."""


@dataclass(slots=True, eq=False)
class TypeChange:
    """Changed types, changed classes, or both."""

    what: str  # for people, in the past: "typed cell 5 as WBC"
    ids: NDArray[np.int64]  # (N,), cells whose type changed
    before: CellTypes
    after: CellTypes
    classes: tuple[ClassList, ClassList] | None = None  # before and after, if they changed
    renamed: Mapping[str, str] | None = None  # new class names by old ones
    selected: NDArray[np.int64] = field(default_factory=lambda: NONE)  # ended by the change, restored by undo
    written: list[Correction] = field(default_factory=list)  # what the journal last wrote about it
    n_corrections_made: int = 0  # number of corrections written, or queued for writing

    @property
    def n_bytes(self) -> int:
        """Approximate memory use."""
        return 64 * len(self.ids)


@dataclass(frozen=True, slots=True, eq=False)
class OutlineChange:
    """Cells added, deleted, split, merged or painted."""

    edit: Edit
    by_hand: frozenset[int]  # cells that a person had outlined before
    selected: NDArray[np.int64] = field(default_factory=lambda: NONE)  # restored by undo

    @property
    def what(self) -> str:
        """What was done, for people."""
        return self.edit.what

    @property
    def n_bytes(self) -> int:
        """Approximate memory use."""
        return self.edit.n_bytes


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Everything that a layer holds about its cells, copied."""

    cells: NDArray[np.int32] | None  # (…, Y, X); None if a run leaves them alone
    features: pd.DataFrame
    info: dict[str, Any]  # the plugin's metadata of the layer
    by_hand: frozenset[int]  # cells that a person outlined


@dataclass(slots=True, eq=False)
class RunChange:
    """A run that found or typed all cells."""

    what: str  # for people, in the past
    other: Snapshot  # the layer before the run; once undone, after it
    selected: NDArray[np.int64] = field(default_factory=lambda: NONE)

    @property
    def n_bytes(self) -> int:
        """Approximate memory use."""
        cells = self.other.cells
        return (cells.nbytes if cells is not None else 0) + int(self.other.features.memory_usage().sum())


Change = TypeChange | OutlineChange | RunChange


def types_of(features: pd.DataFrame, ids: NDArray[np.int64]) -> CellTypes:
    """Return the types of cells, all of which must be in the table."""
    return CellTypes.of(features.iloc[rows_of(features, ids)])


def some(ids: NDArray[np.int64]) -> str:
    """Return "cell 5" or "12 cells"."""
    return f"cell {ids[0]}" if len(ids) == 1 else f"{len(ids):,} cells"
