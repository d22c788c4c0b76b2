"""Changes of a layer's cells, with everything needed to undo them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_bloodcell.core.cells import LATER, split_name
from napari_bloodcell.corrections.correction import Correction
from napari_bloodcell.corrections.edits import Edit
from napari_bloodcell.napari.layers.features import rows_of
from napari_bloodcell.napari.session.classes import ClassList

NONE: Final = np.empty(0, np.int64)
"""No cells."""


@dataclass(frozen=True, slots=True, eq=False)
class CellTypes:
    """Types of some cells, their probabilities and who gave them, the same of their kinds, and marks; each (N,)."""

    types: NDArray[np.object_]
    probabilities: NDArray[np.float64]
    sources: NDArray[np.object_]
    kinds: NDArray[np.object_]
    kind_probabilities: NDArray[np.float64]
    kind_sources: NDArray[np.object_]
    is_abnormal: NDArray[np.bool_]

    def called(self, names: Sequence[str]) -> CellTypes:
        """Return these cells as a person calls them: by type, or by type and kind ("WBC: neutrophil").

        A kind stays where its type is confirmed, and is forgotten where the type changes.
        """
        n = len(self.types)
        said = [split_name(name) for name in names]
        types, kinds = (np.array([one[i] for one in said], object).reshape(n) for i in (0, 1))
        is_told, stays = kinds != "", (kinds == "") & (types == self.types)
        return CellTypes(
            types,
            np.ones(n),
            np.full(n, "user", object),
            np.where(stays, self.kinds, kinds),
            np.where(is_told, 1.0, np.where(stays, self.kind_probabilities, np.nan)),
            np.where(is_told, "user", np.where(stays, self.kind_sources, "model")).astype(object),
            self.is_abnormal,
        )

    def moved_to(self, cell_type: str) -> CellTypes:
        """Return these cells with another type, as sure and by the same people."""
        other = self.called([cell_type] * len(self.types))
        return replace(other, probabilities=self.probabilities, sources=self.sources)

    def restored(self, names: Sequence[str], is_abnormal: NDArray[np.bool_]) -> CellTypes:
        """Return these cells as a journal has them; nothing was said about the types of those called ""."""
        told = self.called([name or str(was) for name, was in zip(names, self.types, strict=True)])
        is_said = np.array([bool(name) for name in names], np.bool_)
        sources = np.where(is_said, told.sources, self.sources).astype(object)
        sure = np.where(is_said, told.probabilities, self.probabilities)
        return replace(told, sources=sources, probabilities=sure, is_abnormal=is_abnormal)

    def take(self, rows: NDArray[np.bool_]) -> CellTypes:
        """Return some of them."""
        return CellTypes(*(getattr(self, one.name)[rows] for one in fields(self)))

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of the cell table beside `cell_type`, `probability` and `type_source`."""
        return {
            "subtype": self.kinds,
            "subtype_probability": self.kind_probabilities,
            "subtype_source": self.kind_sources,
            "abnormal": self.is_abnormal,
        }


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
    rows = rows_of(features, ids)

    def values(column: str) -> NDArray[Any]:
        if column not in features.columns:  # of an earlier version
            return np.full(len(rows), LATER.get(column, ""))
        return np.asarray(features[column].iloc[rows].to_numpy())

    def text(column: str) -> NDArray[np.object_]:
        return np.array([v if isinstance(v, str) else "" for v in values(column)], object)

    return CellTypes(
        text("cell_type"),
        values("probability").astype(np.float64),
        text("type_source"),
        text("subtype"),
        values("subtype_probability").astype(np.float64),
        text("subtype_source"),
        values("abnormal").astype(bool),
    )


def some(ids: NDArray[np.int64]) -> str:
    """Return "cell 5" or "12 cells"."""
    return f"cell {ids[0]}" if len(ids) == 1 else f"{len(ids):,} cells"
