"""The cells of a whole slide as columns, as a table, and as Parquet and CSV."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from napari_bloodcell.core.cells import COLUMNS
from napari_bloodcell.core.errors import READ_ERRORS, InputError, reason_of
from napari_bloodcell.results.store import table_to_csv

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

ROWS_AT_ONCE = 50_000
"""Rows that are written, or turned into text, at once."""
BBOX, CENTROID = ("bbox_y0", "bbox_x0", "bbox_y1", "bbox_x1"), ("centroid_y", "centroid_x")


@dataclass(eq=False)
class CellColumns:
    """The cell table of a slide, 100 bytes a cell: ids are 1..N, in the order of the rows.

    Attributes
    ----------
    types : DataFrame
        The columns that typing needs and fills: `cell_type`, `probability`, `type_source`, `proposed_type`,
        `proposed_probability`; index = id.
    area_px : ndarray of int64, shape (N,)
    bbox : ndarray of int32, shape (N, 4)
    centroid : ndarray of float64, shape (N, 2)
    predicted_iou, stability_score : ndarray of float64, shape (N,)
    cells_in_region : ndarray of int64, shape (N,)
    touches_edge : ndarray of bool, shape (N,)
    """

    types: pd.DataFrame
    area_px: NDArray[np.int64]
    bbox: NDArray[np.int32]
    centroid: NDArray[np.float64]
    predicted_iou: NDArray[np.float64]
    stability_score: NDArray[np.float64]
    cells_in_region: NDArray[np.int64]
    touches_edge: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.area_px)

    def frame(self, rows: slice | NDArray[np.integer] = slice(None)) -> pd.DataFrame:
        """Return rows as a cell table with the columns of `cells.COLUMNS`."""
        types = self.types.iloc[rows]
        columns: dict[str, Any] = {name: types[name].to_numpy() for name in types.columns}
        columns |= {
            "area_px": self.area_px[rows],
            "bbox": _tuples(self.bbox[rows]),
            "centroid": _tuples(self.centroid[rows]),
            "predicted_iou": self.predicted_iou[rows],
            "stability_score": self.stability_score[rows],
            "cells_in_region": self.cells_in_region[rows],
            "touches_edge": self.touches_edge[rows],
        }
        return pd.DataFrame({name: columns[name] for name in COLUMNS}, index=types.index)

    def for_counting(self) -> pd.DataFrame:
        """Return the columns that counting needs, as small as they are here."""
        import pyarrow

        boxes = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(self.bbox.ravel()), 4)
        return pd.DataFrame(
            {
                "cell_type": self.types["cell_type"],
                "area_px": self.area_px,
                "touches_edge": self.touches_edge,
                "bbox": pd.Series(pd.arrays.ArrowExtensionArray(boxes), index=self.types.index),
            },
            index=self.types.index,
        )

    def parts(self) -> Iterator[pd.DataFrame]:
        """Yield the table `ROWS_AT_ONCE` rows at a time; an empty one where there is no cell."""
        for start in range(0, max(len(self), 1), ROWS_AT_ONCE):
            yield self.frame(slice(start, start + ROWS_AT_ONCE))


def write_parquet(path: Path, cells: CellColumns) -> None:
    """Write the table as Parquet; boxes and centroids in columns of their own, as in the CSV."""
    import pyarrow.parquet

    schema = _schema()
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for part in cells.parts():
            columns: dict[str, Any] = {"id": part.index.to_numpy(np.int64)}
            for name in part.columns:
                if name in ("bbox", "centroid"):
                    names = BBOX if name == "bbox" else CENTROID
                    values = np.array(part[name].tolist(), np.float64).reshape(-1, len(names))
                    columns |= {n: values[:, i] for i, n in enumerate(names)}
                else:
                    columns[str(name)] = part[name].to_numpy()
            arrays = [pyarrow.array(columns[f.name], type=f.type, from_pandas=True, safe=False) for f in schema]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


def write_csv(path: Path, cells: CellColumns) -> None:
    """Write the table as the CSV that `store.table_to_csv` makes of a small one."""
    with path.open("w", encoding="utf-8", newline="") as file:
        for i, part in enumerate(cells.parts()):
            text = table_to_csv(part)
            file.write(text if i == 0 else text.partition("\n")[2])


def read_parquet(path: Path, columns: Mapping[str, str] = COLUMNS) -> pd.DataFrame:
    """Return the cell table that `write_parquet` wrote, index = id.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        stored = pyarrow.parquet.read_table(path).to_pydict()
        index = pd.Index(np.array(stored["id"], np.int64), name="id")
        stored["bbox"] = list(zip(*([int(v) for v in stored[n]] for n in BBOX), strict=True))
        stored["centroid"] = list(zip(*(stored[n] for n in CENTROID), strict=True))
        table = {name: pd.Series(stored[name], index=index, dtype=dtype) for name, dtype in columns.items()}
    except (pyarrow.ArrowException, *READ_ERRORS) as error:
        raise InputError(f"The table {path} is missing or damaged: {reason_of(error)}.") from error
    return pd.DataFrame(table, index=index)


def read_features(path: Path) -> pd.DataFrame:
    """Return the table as the `features` of a Labels layer: the id in `index`, and a first row for the background.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        stored = pyarrow.parquet.read_table(path)
        columns: dict[str, Any] = {}
        for name in stored.column_names:
            if pyarrow.types.is_string(stored.schema.field(name).type):
                coded = stored[name].combine_chunks().dictionary_encode()
                known = np.array([*coded.dictionary.to_pylist(), None], object)
                codes = coded.indices.to_numpy(zero_copy_only=False)
                texts = known[np.concatenate([[len(known) - 1], codes]).astype(np.intp)]
                columns[name] = pd.Series(texts, dtype=object)  # as `to_features` gives them
            else:
                values = stored[name].to_numpy()
                first = np.array([np.nan if values.dtype.kind == "f" else 0], values.dtype)
                columns[name] = np.concatenate([first, values])
    except (pyarrow.ArrowException, *READ_ERRORS) as error:
        raise InputError(f"The table {path} is missing or damaged: {reason_of(error)}.") from error
    return pd.DataFrame({"index": columns.pop("id"), **columns})


def _schema() -> Any:
    import pyarrow

    kinds = {
        "object": pyarrow.string(),
        "float64": pyarrow.float64(),
        "int64": pyarrow.int64(),
        "bool": pyarrow.bool_(),
    }
    fields = [("id", pyarrow.int64())]
    for name, dtype in COLUMNS.items():
        if name == "bbox":
            fields += [(part, pyarrow.int32()) for part in BBOX]
        elif name == "centroid":
            fields += [(part, pyarrow.float64()) for part in CENTROID]
        else:
            fields.append((name, kinds[dtype]))
    return pyarrow.schema(fields)


def _tuples(values: NDArray[Any]) -> NDArray[np.object_]:
    out = np.empty(len(values), object)
    out[:] = [tuple(row) for row in values.tolist()]
    return out
