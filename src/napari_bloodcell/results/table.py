"""The cell table as CSV and as Parquet, with the same columns in both."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from napari_bloodcell.core.cells import COLUMNS, LATER, cell_table, with_later
from napari_bloodcell.core.errors import READ_ERRORS, InputError, reason_of
from napari_bloodcell.core.files import csv_text, text_of_csv
from napari_bloodcell.stages.quality.verdicts import COLUMNS as QUALITY_COLUMNS
from napari_bloodcell.stages.quality.verdicts import LIMITS, VERDICTS, Quality
from napari_bloodcell.stages.red_cells.measurements import COLUMNS as MEASURED

ROWS_AT_ONCE = 50_000
"""Rows converted or written at once."""
_EXACT: dict[str, Any] = {} if pd.__version__ >= "3.1" else {"float_precision": "round_trip"}
"""Before 3.1, pandas rounds the numbers it reads unless told otherwise."""
_ON_DISK: dict[str, Any] = {name: "int32" for name in COLUMNS if name.startswith("bbox")}


_MEASURE = "measure_{}"
AREA_UM2 = "area_um2"
"""A column on disk only: the area in µm², empty if the size of a pixel is unknown."""


def write_csv(file: Path | TextIO, table: pd.DataFrame, *, pixel_size_um: float | None = None) -> None:
    """Write a cell table as CSV: numbers in full, missing ones empty, no text that is a formula, LF line ends."""
    written = guard_formulas(table.assign(**{AREA_UM2: _area_um2(table, pixel_size_um)}))
    written.to_csv(file, index_label="id", lineterminator="\n", encoding="utf-8", chunksize=ROWS_AT_ONCE)


def _area_um2(table: pd.DataFrame, pixel_size_um: float | None) -> pd.Series[float]:
    return table["area_px"] * (pixel_size_um**2 if pixel_size_um else math.nan)


def guard_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose texts no spreadsheet takes for formulas; undone by `unguard_formulas`."""
    return _map_texts(table, csv_text)


def unguard_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """Undo `guard_formulas`."""
    return _map_texts(table, text_of_csv)


def _map_texts(table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    table = table.rename(columns=change)
    for name in table.columns[[dtype.kind == "O" for dtype in table.dtypes]]:
        changed = {text: change(text) for text in table[name].unique() if isinstance(text, str)}
        if any(old != new for old, new in changed.items()):
            table[name] = table[name].map(changed, na_action="ignore").astype(table[name].dtype)
    return table


def write_quality(path: Path, quality: Quality) -> None:
    """Write the tiles of a smear with their verdicts, and what they were judged by, as CSV."""
    measures = quality.measures.rename(columns=_MEASURE.format)
    whole = quality.tiles.join(measures)
    whole.to_csv(path, index_label="tile", lineterminator="\n", encoding="utf-8")


def read_quality(path: Path) -> Quality | None:
    """Return what `write_quality` wrote, None if there is no file; `ValueError` if it is damaged."""
    if not path.is_file():
        return None
    missing = {_MEASURE.format(name): [""] for name in LIMITS}
    whole = pd.read_csv(path, index_col="tile", na_values=missing, keep_default_na=False, **_EXACT)
    lacking = [name for name in (*QUALITY_COLUMNS, *missing) if name not in whole.columns]
    if lacking or not set(whole["verdict"]) <= set(VERDICTS):
        raise ValueError(f"{path.name} lacks columns, or has verdicts that are none")
    measures = whole[list(missing)].set_axis(list(LIMITS), axis=1)
    return Quality.of(whole[list(QUALITY_COLUMNS)].rename_axis(None), measures.rename_axis(None))


def read_csv(file: Path | TextIO) -> pd.DataFrame:
    """Return the table of `write_csv`, index = id; unknown columns are texts. `ValueError` if one is missing."""
    missing = {name: [""] for name in (*(n for n, dtype in COLUMNS.items() if dtype == "float64"), *MEASURED)}
    dtypes = defaultdict(lambda: "object", COLUMNS, id="int64", **dict.fromkeys(MEASURED, "float64"))
    table: pd.DataFrame = pd.read_csv(
        file, index_col="id", dtype=dtypes, na_values=missing, keep_default_na=False, **_EXACT
    )
    table = unguard_formulas(table.drop(columns=AREA_UM2, errors="ignore"))
    table = with_later(table)
    lacking = [name for name in COLUMNS if name not in table.columns]
    if lacking:
        raise ValueError(f"cells.csv lacks the columns {', '.join(lacking)}")
    return table


def write_parquet(path: Path, table: pd.DataFrame, *, pixel_size_um: float | None = None) -> None:
    """Write the known columns of a cell table as Parquet, with what was measured."""
    import pyarrow.parquet

    kinds = {
        "object": pyarrow.string(),
        "float64": pyarrow.float64(),
        "int64": pyarrow.int64(),
        "bool": pyarrow.bool_(),
    }
    kinds["int32"] = pyarrow.int32()
    measured = {name: "float64" for name in MEASURED if name in table}
    columns = {"id": "int64", **COLUMNS, **measured, AREA_UM2: "float64"}
    schema = pyarrow.schema([(name, kinds[_ON_DISK.get(name, dtype)]) for name, dtype in columns.items()])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, max(len(table), 1), ROWS_AT_ONCE):
            rows = table.iloc[start : start + ROWS_AT_ONCE][[*COLUMNS, *measured]].rename_axis("id").reset_index()
            rows[AREA_UM2] = _area_um2(rows, pixel_size_um)
            writer.write_table(pyarrow.Table.from_pandas(rows, schema, preserve_index=False, safe=False))


def read_parquet(path: Path) -> pd.DataFrame:
    """Return the table written by `write_parquet`, index = id; `InputError` if it is missing or damaged."""
    import pyarrow
    import pyarrow.parquet

    try:
        stored = pyarrow.parquet.read_table(path)
        names = [name for name in COLUMNS if name in stored.column_names or name not in LATER]
        table = cell_table(stored["id"].to_numpy(), **{name: stored[name].to_pandas().to_numpy() for name in names})
        measured = [name for name in MEASURED if name in stored.column_names]
        return table.assign(**{name: stored[name].to_pandas().to_numpy() for name in measured})
    except (pyarrow.ArrowException, *READ_ERRORS) as error:
        raise InputError(f"The table {path} is missing or damaged: {reason_of(error)}.") from error
