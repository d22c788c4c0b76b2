"""Keeps the result of a slide true when people change its cells: types in the OME-Zarr, table, counts, outlines."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import zarr

from napari_bloodcell.counting import count
from napari_bloodcell.errors import OutputError
from napari_bloodcell.ome_zarr import open_levels, type_metadata
from napari_bloodcell.slides.finish import write_numbers_of_slide
from napari_bloodcell.slides.pyramid import CELLS, TYPES
from napari_bloodcell.slides.result import area_mm2, open_slide_result
from napari_bloodcell.slides.table import BBOX, CENTROID, CellColumns
from napari_bloodcell.store import GEOJSON, ZARR

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_bloodcell.params import ClassifyParams
    from napari_bloodcell.slides.result import SlideResult

_TYPING = ("cell_type", "probability", "type_source", "proposed_type", "proposed_probability")


def columns_of(features: pd.DataFrame) -> CellColumns:
    """Return the cells of a layer's features, with the id in `index` and a first row for the background."""
    rows = features[features["index"].to_numpy() != 0]
    index = pd.Index(rows["index"].to_numpy(np.int64), name="id")

    def numbers(name: str, dtype: type, instead: float = 0) -> NDArray[Any]:
        values = rows[name].to_numpy() if name in rows.columns else np.full(len(rows), instead)
        return np.asarray(values, dtype)

    blanks = {"cell_type": "", "type_source": "model", "proposed_type": ""}
    types = pd.DataFrame(
        {
            name: rows[name].fillna(blanks[name]).to_numpy(object)
            if name in blanks and name in rows.columns
            else (np.full(len(rows), blanks[name], object) if name in blanks else numbers(name, float, np.nan))
            for name in _TYPING
        },
        index=index,
    )
    return CellColumns(
        types=types,
        area_px=numbers("area_px", np.int64),
        bbox=np.stack([numbers(name, np.int32) for name in BBOX], axis=1),
        centroid=np.stack([numbers(name, np.float64) for name in CENTROID], axis=1),
        predicted_iou=numbers("predicted_iou", np.float64, np.nan),
        stability_score=numbers("stability_score", np.float64, np.nan),
        cells_in_region=numbers("cells_in_region", np.int64, 1),
        touches_edge=numbers("touches_edge", np.bool_),
    )


def repaint_types(folder: Path, codes: NDArray[np.uint8], boxes: NDArray[np.integer[Any]]) -> None:
    """Write the types of the cells in boxes anew, at all levels.

    Parameters
    ----------
    folder : path
        Of the result.
    codes : ndarray of uint8, shape (≥ N + 1,)
        Code of the type by id, 0 for none; ids beyond its end have none.
    boxes : ndarray of int, shape (M, 4)
        (y0, x0, y1, x1), pixels of the finest level. Whole chunks around them are written.

    Raises
    ------
    OutputError
        If they cannot be written.
    """
    lut = np.append(codes, np.uint8(0))
    try:
        cells, types = open_levels(folder / ZARR, CELLS, "r"), open_levels(folder / ZARR, TYPES)
        for k, (source, target) in enumerate(zip(cells, types, strict=True)):
            side_y, side_x = target.chunks
            low = boxes[:, :2] // (np.array([side_y, side_x]) * 2**k)
            high = (boxes[:, 2:] - 1) // (np.array([side_y, side_x]) * 2**k)
            chunks: set[tuple[int, int]] = set()
            for (r0, c0), (r1, c1) in zip(low.tolist(), high.tolist(), strict=True):
                chunks.update((r, c) for r in range(r0, r1 + 1) for c in range(c0, c1 + 1))
            for row, column in sorted(chunks):
                here = (slice(row * side_y, (row + 1) * side_y), slice(column * side_x, (column + 1) * side_x))
                target[here] = np.take(lut, np.asarray(source[here]), mode="clip")
    except OSError as error:
        raise OutputError(f"{folder} cannot be written to: {error.strerror or error}.") from error


def write_corrected(
    folder: Path,
    features: pd.DataFrame,
    names: Sequence[str],
    *,
    typed_with: ClassifyParams | None = None,
    classifier: dict[str, str] | None = None,
) -> SlideResult:
    """Write table, counts, recipe and outlines of a slide anew after its cells were changed, and return its result.

    Parameters
    ----------
    folder : path
        Of the result; its label images are changed already.
    features : DataFrame
        The cell table as the features of a Labels layer.
    names : sequence of str
        Names of all types.
    typed_with, classifier : optional
        Settings of another typing since, and name and hash of its model, for the record.

    Raises
    ------
    BloodCellError
        If there is no result, or it cannot be written to.
    """
    before = open_slide_result(folder)
    plan, cells = before.plan, columns_of(features)
    if typed_with is not None and classifier is not None:
        recipe = plan.recipe.model_copy(update={"classify": typed_with})
        plan = replace(plan, recipe=recipe, models={**plan.models, "classify": classifier})
    counting = count(
        cells.for_counting(),
        params=plan.recipe.count,
        rbc_diameter_px=plan.calibration.rbc_diameter_px,
        area_mm2=area_mm2(plan),
    )
    cells.cells_in_region = np.asarray(counting.cells_in_region, np.int64)
    known = () if list(names) == before.names and not before.known_names else tuple(names)
    result = replace(before, plan=plan, known_counting=counting, known_names=known, is_corrected=True)
    if known:
        root: Any = zarr.open_group(folder / ZARR / TYPES, mode="r+")
        root.attrs["ome"] = {**root.attrs["ome"], "image-label": type_metadata(names)}
    write_numbers_of_slide(result, cells, geojson=(folder / GEOJSON).is_file())
    return result
