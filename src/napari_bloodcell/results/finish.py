"""Writes the numbers of a slide: table, counts, recipe, outlines."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from napari_bloodcell.core.cells import boxes_of
from napari_bloodcell.core.files import staged
from napari_bloodcell.results.geojson import feature_collection, features_of
from napari_bloodcell.results.plan import grown
from napari_bloodcell.results.recipes import CalibrationRecord, ImageRecord, make_record, to_json
from napari_bloodcell.results.store import (
    CELLS,
    CELLS_TIFF,
    COUNTS,
    GEOJSON,
    KDE,
    OVERLAY,
    PARQUET,
    RECIPE,
    SLIDE,
    TYPES_TIFF,
    json_text,
    numbers_of,
)
from napari_bloodcell.results.table import write_csv, write_parquet

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from napari_bloodcell.results.recipes import RecipeRecord
    from napari_bloodcell.results.result import SlideResult


def write_numbers_of_slide(result: SlideResult, cells: pd.DataFrame, *, geojson: bool = False) -> None:
    """Write what a result has beside its OME-Zarr, whole or not at all, the recipe last.

    Raises
    ------
    OutputError
        If something cannot be written.
    """
    record = _record_of(result)
    stale = (GEOJSON, CELLS_TIFF, TYPES_TIFF, OVERLAY, KDE)
    with staged(result.folder, last=RECIPE, stale=stale) as stage:
        write_parquet(stage / PARQUET, cells, pixel_size_um=record.image.pixel_size_um)
        write_csv(stage / CELLS, cells, pixel_size_um=record.image.pixel_size_um)
        (stage / COUNTS).write_bytes(json_text(numbers_of(cast("Any", result), record)).encode())
        if geojson:
            with (stage / GEOJSON).open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(feature_collection(_features(result, cells)))
        about = {
            "plan": json.loads(result.plan.to_json()),
            "image_sha256": result.image_sha256,
            "failed_tiles": [asdict(tile) for tile in result.failed_tiles],
            "warnings": list(result.warnings),
            "names": list(result.known_names),
            "is_corrected": result.is_corrected,
        }
        (stage / SLIDE).write_bytes(json_text(about).encode())
        (stage / RECIPE).write_bytes(to_json(record).encode())


def _record_of(result: SlideResult) -> RecipeRecord:
    plan = result.plan
    return make_record(
        plan.recipe,
        models=plan.models,
        image=ImageRecord(
            name=plan.name,
            sha256=result.image_sha256,
            height=plan.shape[0],
            width=plan.shape[1],
            pixel_size_um=plan.recipe.segment.pixel_size_um or plan.pixel_size_um,
        ),
        calibration=CalibrationRecord.model_validate(asdict(plan.calibration)),
        device=result.device,
    )


def _features(result: SlideResult, cells: pd.DataFrame) -> Iterator[str]:
    """Yield the outline of every cell, block by block."""
    plan, boxes = result.plan, boxes_of(cells)
    home = boxes[:, 0] // plan.block_px * plan.block_grid[1] + boxes[:, 1] // plan.block_px
    order = np.argsort(home, kind="stable")
    ends = np.searchsorted(home[order], np.arange(plan.n_blocks + 1))
    for number in range(plan.n_blocks):
        rows = order[ends[number] : ends[number + 1]]
        if not len(rows):
            continue
        own = boxes[rows]
        low, high = own[:, :2].min(0).tolist(), own[:, 2:].max(0).tolist()
        y0, x0, y1, x1 = grown((low[0], low[1], high[0], high[1]), 0, plan.shape)
        labels = np.asarray(result.cells[y0:y1, x0:x1])
        ids = cells.index[rows].tolist()
        places = {
            i: (slice(b[0] - y0, b[2] - y0), slice(b[1] - x0, b[3] - x0))
            for i, b in zip(ids, own.tolist(), strict=True)
        }
        table = cells.iloc[rows]
        yield from features_of(labels, table, result.names, places, corner=(y0, x0), image_id=result.image_sha256)
