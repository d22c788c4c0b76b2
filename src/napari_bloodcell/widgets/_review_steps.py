"""What a review changed, with all that is needed to take it back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from napari_bloodcell.widgets._cell_features import rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import NDArray

    from napari_bloodcell.corrections import Correction
    from napari_bloodcell.widgets._review_classes import ClassList


@dataclass(frozen=True, slots=True, eq=False)
class CellTypes:
    """Types of some cells with their probabilities and who said so; each of shape (N,)."""

    types: NDArray[np.object_]
    probabilities: NDArray[np.float64]
    sources: NDArray[np.object_]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One change that can be taken back.

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
    written : list of Correction
        What the journal last wrote of it.
    """

    what: str
    ids: NDArray[np.int64]
    before: CellTypes
    after: CellTypes
    classes: tuple[ClassList, ClassList] | None = None
    renamed: Mapping[str, str] | None = None
    written: list[Correction] = field(default_factory=list)


def types_of(features: pd.DataFrame, ids: NDArray[np.int64]) -> CellTypes:
    """Return the types of cells, all of which are in the table."""
    rows = rows_of(features, ids)

    def text(column: str) -> NDArray[np.object_]:
        values = features[column].iloc[rows].to_numpy(object)
        return np.array([v if isinstance(v, str) else "" for v in values], object)

    return CellTypes(text("cell_type"), features["probability"].to_numpy(np.float64)[rows], text("type_source"))
