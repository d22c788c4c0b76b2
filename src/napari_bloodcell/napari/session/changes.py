"""Changes of the cells of a layer, with all that is needed to take them back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from napari_bloodcell.napari.layers.features import rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import NDArray

    from napari_bloodcell.corrections.correction import Correction
    from napari_bloodcell.corrections.edits import Edit
    from napari_bloodcell.napari.session.classes import ClassList

NONE: Final = np.empty(0, np.int64)
"""No cells."""


@dataclass(frozen=True, slots=True, eq=False)
class CellTypes:
    """Types of some cells with their probabilities and who said so; each of shape (N,)."""

    types: NDArray[np.object_]
    probabilities: NDArray[np.float64]
    sources: NDArray[np.object_]


@dataclass(slots=True, eq=False)
class TypeChange:
    """Other types of cells, other classes, or both.

    Attributes
    ----------
    what : str
        What was done, for people.
    ids : ndarray of int64, shape (N,)
        Cells whose type changed.
    before, after : CellTypes
        Their types.
    classes : tuple of ClassList, optional
        Classes before and after, where they changed.
    renamed : dict of str to str
        New names of classes by old ones.
    selected : ndarray of int64
        Cells that were selected, and are no more.
    written : list of Correction
        What the journal last wrote of it.
    n_said : int
        How many corrections that are, or will be when the journal has come to it.
    """

    what: str
    ids: NDArray[np.int64]
    before: CellTypes
    after: CellTypes
    classes: tuple[ClassList, ClassList] | None = None
    renamed: Mapping[str, str] | None = None
    selected: NDArray[np.int64] = field(default_factory=lambda: NONE)
    written: list[Correction] = field(default_factory=list)
    n_said: int = 0

    @property
    def n_bytes(self) -> int:
        """Memory that it takes, about."""
        return 64 * len(self.ids)


@dataclass(frozen=True, slots=True, eq=False)
class OutlineChange:
    """Cells that were added, deleted, split, merged or painted.

    Attributes
    ----------
    edit : Edit
        Pixels and rows.
    by_hand : frozenset of int
        Ids of cells whose outlines a person had made before.
    selected : ndarray of int64
        Cells that were selected, and are no more.
    """

    edit: Edit
    by_hand: frozenset[int]
    selected: NDArray[np.int64] = field(default_factory=lambda: NONE)

    @property
    def what(self) -> str:
        """What was done, for people."""
        return self.edit.what

    @property
    def n_bytes(self) -> int:
        """Memory that it takes, about."""
        return self.edit.n_bytes


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """All that a layer holds of its cells.

    Attributes
    ----------
    cells : ndarray of int32, shape (…, Y, X), or None
        A copy of the labels; None where only the rest is kept.
    features : DataFrame
        A copy.
    info : dict
        A copy of what the program noted of the layer.
    by_hand : frozenset of int
        Ids of cells whose outlines a person made.
    """

    cells: NDArray[np.int32] | None
    features: pd.DataFrame
    info: dict[str, Any]
    by_hand: frozenset[int]


@dataclass(slots=True, eq=False)
class RunChange:
    """All cells, found or typed by a run.

    Attributes
    ----------
    what : str
        What was done, for people.
    other : Snapshot
        What the layer held before the run; once that is undone, what it held after it.
    """

    what: str
    other: Snapshot
    selected: NDArray[np.int64] = field(default_factory=lambda: NONE)

    @property
    def n_bytes(self) -> int:
        """Memory that it takes, about."""
        cells = self.other.cells
        return (cells.nbytes if cells is not None else 0) + int(self.other.features.memory_usage().sum())


Change = TypeChange | OutlineChange | RunChange


def types_of(features: pd.DataFrame, ids: NDArray[np.int64]) -> CellTypes:
    """Return the types of cells, all of which are in the table."""
    rows = rows_of(features, ids)

    def text(column: str) -> NDArray[np.object_]:
        values = features[column].iloc[rows].to_numpy(object)
        return np.array([v if isinstance(v, str) else "" for v in values], object)

    return CellTypes(text("cell_type"), features["probability"].to_numpy(np.float64)[rows], text("type_source"))
