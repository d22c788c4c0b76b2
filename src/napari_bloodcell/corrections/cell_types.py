"""What is said of cells: types, kinds and marks, by models and by people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_bloodcell.core.cells import split_name, with_later


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

    @classmethod
    def of(cls, table: pd.DataFrame) -> CellTypes:
        """Return those of all cells of a table, or of the rows of a layer's features."""
        table = with_later(table)

        def text(column: str) -> NDArray[np.object_]:
            return np.array([v if isinstance(v, str) else "" for v in table[column]], object)

        return cls(
            text("cell_type"),
            table["probability"].to_numpy(np.float64),
            text("type_source"),
            text("subtype"),
            table["subtype_probability"].to_numpy(np.float64),
            text("subtype_source"),
            table["abnormal"].to_numpy(bool),
        )

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
        """The columns of the cell table that say so."""
        return {
            "cell_type": self.types,
            "probability": self.probabilities,
            "type_source": self.sources,
            "subtype": self.kinds,
            "subtype_probability": self.kind_probabilities,
            "subtype_source": self.kind_sources,
            "abnormal": self.is_abnormal,
        }
