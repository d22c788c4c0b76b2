"""Writes a specimen into a folder: its numbers, and the table of its fields."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pandas as pd

from napari_bloodcell.core.cells import WBC
from napari_bloodcell.core.files import csv_text, staged, write_bytes
from napari_bloodcell.results.specimens.specimen import Specimen
from napari_bloodcell.results.store import json_text
from napari_bloodcell.results.table import guard_formulas

NUMBERS: Final = "specimen.json"
FIELDS: Final = "fields.csv"
SPECIMENS: Final = "specimens.csv"
"""A row for each specimen of an output folder."""


def write_specimen(specimen: Specimen, folder: str | Path) -> Path:
    """Write ``specimen.json`` and ``fields.csv`` into a folder, whole or not at all, and return the folder.

    Raises
    ------
    OutputError
        If something cannot be written; what was there before is then still there.
    """
    folder = Path(folder)
    with staged(folder, last=NUMBERS, stale=(NUMBERS, FIELDS)) as stage:
        (stage / NUMBERS).write_bytes(json_text(numbers_of_specimen(specimen)).encode())
        guard_formulas(specimen.fields).to_csv(stage / FIELDS, lineterminator="\n", encoding="utf-8")
    return folder


def numbers_of_specimen(specimen: Specimen) -> dict[str, Any]:
    """Return the content of ``specimen.json``; areas are in mm², widths in µm."""
    return {
        "specimen": specimen.name,
        "fields": list(specimen.field_names),
        "counts": specimen.counts,
        "uncorrected": specimen.uncorrected,
        "intervals_95": {name: list(ends) for name, ends in specimen.intervals.items()},
        "edges": sorted({result.counting.edges for result in specimen.results}),
        "counted": specimen.counted,
        "area_mm2": specimen.area_mm2,
        "ruler": specimen.ruler,
        "per_mm2": _rows(specimen.densities),
        "differential": _rows(specimen.differential),
        "morphology": _rows(specimen.morphology),
        "parasitaemia": None if specimen.parasitaemia is None else asdict(specimen.parasitaemia),
        "rbc_per_wbc": asdict(specimen.rbc_per_wbc),
        "platelets_per_1000_rbc": asdict(specimen.platelets_per_1000_rbc),
        "nrbc_per_100_wbc": asdict(specimen.nrbc_per_100_wbc),
        "sizes_um": [{"from_um": start, **row} for start, row in _rows(specimen.sizes).items() if row["n"]],
        "warnings": list(specimen.warnings),
    }


def write_specimens(specimens: Sequence[Specimen], path: Path) -> None:
    """Write ``specimens.csv``: a row for each specimen."""
    rows = [_row(specimen) for specimen in specimens]
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_text(_short(value)) for name, value in row.items()} for row in rows)
    write_bytes(path, text.getvalue().encode())


def sheets_of(specimens: Sequence[Specimen]) -> dict[str, pd.DataFrame]:
    """Return the sheets of a workbook of specimens by name: their numbers, and the differential of each."""
    kinds = [one.differential.rename_axis("kind").reset_index() for one in specimens]
    for table, one in zip(kinds, specimens, strict=True):
        table.insert(0, "specimen", one.name)
    return {
        "specimens": pd.DataFrame([_row(specimen) for specimen in specimens]),
        "specimens' differential": pd.concat([table for table in kinds if len(table)] or kinds[:1], ignore_index=True),
    }


def _row(specimen: Specimen) -> dict[str, Any]:
    """Return the line of a specimen: what is not known stays empty."""
    row: dict[str, Any] = {"specimen": specimen.name, "n_fields": specimen.n_fields, **specimen.counts}
    row["area_mm2"] = specimen.area_mm2
    tables = {"per_mm2": specimen.densities, f"{WBC}_percent": specimen.differential}
    for what, table in tables.items():
        column = what if what in table.columns else "percent"
        for name, line in table.iterrows():
            row |= {f"{name}_{what}{end}": line[of] for end, of in (("", column), ("_low", "low"), ("_high", "high"))}
    for what in ("rbc_per_wbc", "platelets_per_1000_rbc"):
        estimate = getattr(specimen, what)
        row |= {
            what: estimate.value,
            f"{what}_low": estimate.low,
            f"{what}_high": estimate.high,
        }
    return row | {"warnings": " ".join(specimen.warnings)}


def _short(value: str | float | None) -> str:
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _rows(table: pd.DataFrame) -> dict[Any, dict[str, Any]]:
    return {name: {str(key): value for key, value in row.items()} for name, row in table.to_dict("index").items()}
