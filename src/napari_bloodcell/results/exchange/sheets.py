"""Tables for spreadsheets and Fiji: Excel workbooks, CSV with a byte order mark, Fiji's results table."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from napari_bloodcell.core.cells import BOX, CENTROID
from napari_bloodcell.core.errors import printable
from napari_bloodcell.core.extras import needed
from napari_bloodcell.core.files import write_bytes
from napari_bloodcell.results.exchange.geojson import class_names
from napari_bloodcell.results.result import Result
from napari_bloodcell.results.table import AREA_UM2, guard_formulas, write_csv

_BOM = "\ufeff"
_WIDEST = 60  # characters of a column


def fiji_table(result: Result) -> pd.DataFrame:
    """Return the cells as Fiji's results table names them: index from 1; µm if the size of a pixel is known, else px.

    `X` and `Y` are the centre of mass; as in ImageJ the first pixel's middle lies at 0.5.
    """
    table = result.table
    size = result.pixel_size_um or 1.0
    y0, x0, y1, x1 = (table[name].to_numpy(np.float64) for name in BOX)
    y, x = (table[name].to_numpy(np.float64) + 0.5 for name in CENTROID)
    columns = {
        "Label": [f"{i} {name}".strip() for i, name in zip(table.index, class_names(table), strict=True)],
        "Area": table["area_px"].to_numpy(np.float64) * size**2,
        **{"X": x * size, "Y": y * size, "BX": x0 * size, "BY": y0 * size},
        **{"Width": (x1 - x0) * size, "Height": (y1 - y0) * size},
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(1, len(table) + 1, name=" "))


def write_table(path: Path, result: Result, *, fiji: bool = False, bom: bool = False) -> None:
    """Write the cells as CSV: with Fiji's column names, and with the byte order mark by which Excel knows UTF-8."""
    text = io.StringIO()
    if fiji:
        guard_formulas(fiji_table(result)).to_csv(text, lineterminator="\n")
    else:
        write_csv(text, result.table, pixel_size_um=result.pixel_size_um)
    write_bytes(path, ((_BOM if bom else "") + text.getvalue()).encode())


def tables_of(results: Iterable[tuple[str, Result]], *, with_cells: bool = True) -> dict[str, pd.DataFrame]:
    """Return the sheets of a workbook of named results: counts, differential and cells, a row an image or a cell."""
    counts, kinds, cells = [], [], []
    for name, result in results:
        counting = result.counting
        low, high = counting.interval or (None, None)
        row: dict[str, Any] = {"image": name, **result.counts, "RBC_low": low, "RBC_high": high}
        row |= {f"{kind} per mm²": n for kind, n in (counting.per_mm2 or {}).items()}
        counts.append(row | {"warnings": " ".join(result.warnings)})
        kinds.append(counting.differential_table.reset_index().assign(image=name))
        if with_cells:
            size = result.pixel_size_um or float("nan")
            table = result.table.reset_index().assign(image=name)
            table[AREA_UM2] = table["area_px"] * size**2
            cells.append(table)
    found = {"counts": pd.DataFrame(counts), "differential": _image_first(kinds)}
    return found | ({"cells": _image_first(cells)} if with_cells else {})


def _image_first(tables: list[pd.DataFrame]) -> pd.DataFrame:
    table = pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)
    return table[["image", *(name for name in table if name != "image")]]


def write_xlsx(path: Path, sheets: Mapping[str, pd.DataFrame]) -> None:
    """Write an Excel workbook, a sheet a table; numbers are numbers in every locale, and no text is a formula.

    Raises `InputError` if openpyxl is missing, `OutputError` if the file cannot be written.
    """
    openpyxl = needed("openpyxl", extra="exchange", what="Writing Excel workbooks")
    book = openpyxl.Workbook(write_only=True)
    bold = openpyxl.styles.Font(bold=True)
    for title, table in sheets.items():
        sheet = book.create_sheet(title)
        sheet.freeze_panes = "A2"
        for i, name in enumerate(table.columns):
            longest = max([len(str(name)), *(len(str(v)) for v in table.iloc[:100, i])])
            sheet.column_dimensions[openpyxl.utils.get_column_letter(i + 1)].width = min(longest + 2, _WIDEST)
        heads = [_text(openpyxl, sheet, str(name)) for name in table.columns]
        for cell in heads:
            cell.font = bold
        sheet.append(heads)
        columns = [table[name].tolist() for name in table.columns]
        for row in zip(*columns, strict=True):
            sheet.append([_text(openpyxl, sheet, v) if v and isinstance(v, str) else _number(v) for v in row])
    content = io.BytesIO()
    book.save(content)
    write_bytes(path, content.getvalue())


def _text(openpyxl: Any, sheet: Any, text: str) -> Any:
    """Return a cell that holds a text, also one that begins with "="."""
    cell = openpyxl.cell.WriteOnlyCell(sheet, value="")
    cell.value = printable(text)
    cell.data_type = "s"
    return cell


def _number(value: Any) -> Any:
    """Return a number; None, an empty cell, for "", and for one that is missing or not finite."""
    return None if value in (None, "") or (isinstance(value, float) and not math.isfinite(value)) else value
