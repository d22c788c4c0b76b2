"""Converts cells layers to results that can be counted and saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from napari.layers import Labels
from numpy.typing import NDArray

from napari_bloodcell.core.cells import type_lut
from napari_bloodcell.core.errors import InputError, OutputError
from napari_bloodcell.core.params import CountParams, Recipe
from napari_bloodcell.core.protocols import Calibration, FailedTile
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.features import PLANE, full_table, rows_on_plane
from napari_bloodcell.napari.layers.images import ImageSource, PlaneIndex, is_large_plane, pixel_size_um
from napari_bloodcell.results.result import Result
from napari_bloodcell.slides.save import write_slide
from napari_bloodcell.stages.calibration import SeenField
from napari_bloodcell.stages.counting import Counting, count

_UNKNOWN = {"name": "unknown", "sha256": ""}


def recipe_of(cells_layer: Labels) -> Recipe:
    """Return the settings that a layer's cells were found, typed and counted with; defaults where unknown."""
    return Recipe.model_validate(links.info_of(cells_layer).get("recipe") or {})


def count_cells(
    cells_layer: Labels,
    params: CountParams | None = None,
    *,
    index: PlaneIndex | None = None,
) -> Counting:
    """Count the cells of a layer, or of one plane of it; per mm² if the layer has physical units."""
    table = links.table_of(cells_layer)
    if not len(table) or not table["cell_type"].astype(bool).any():
        raise InputError(f"The cells of {cells_layer.name!r} have no types yet. Classify them first.")
    shape = links.full_resolution(cells_layer).shape
    if index:
        table, shape = rows_on_plane(table, index, shape[:-2]), shape[-2:]
    recipe = recipe_of(cells_layer)
    field = SeenField.of(shape, links.known_calibration_of(cells_layer), recipe.segment, pixel_size_um(cells_layer))
    diameter = links.calibration_of(cells_layer).rbc_diameter_px
    return count(table, params=params or recipe.count, rbc_diameter_px=diameter, field=field)


def result_of(cells_layer: Labels, index: PlaneIndex = ()) -> Result:
    """Return a cells layer, or one plane of it, as the `Result` that `napari_bloodcell.analyse` would return.

    Raises `InputError` if the cells have no types, or the layer is too large for memory.
    """
    info = links.info_of(cells_layer)
    labels: Any = links.full_resolution(cells_layer)
    if not isinstance(labels, np.ndarray) and not index and is_large_plane(labels.shape):
        raise InputError(
            f"{cells_layer.name!r} is too large to be held in memory. Its table is table_of, its counts count_layer; "
            "save_result writes it."
        )
    counting = count_cells(cells_layer, index=index)
    table = rows_on_plane(links.table_of(cells_layer), index, labels.shape[:-2] if index else ())
    table = table.assign(cells_in_region=counting.cells_in_region)
    cells = np.asarray(labels[index], np.int32)
    names = links.names_of(cells_layer)
    recipe = recipe_of(cells_layer)
    size = pixel_size_um(cells_layer)
    if size is not None and recipe.segment.pixel_size_um is None:
        recipe = recipe.model_copy(update={"segment": recipe.segment.model_copy(update={"pixel_size_um": size})})
    return Result(
        cells=cells,
        types=type_lut(table, names, int(cells.max(initial=0)))[cells],
        rows=table,
        known_counting=counting,
        names=names,
        calibration=links.calibration_of(cells_layer),
        recipe=recipe,
        models=_models_of(cells_layer),
        image_name=str(info.get("image") or cells_layer.name),
        device=str(info.get("device") or "auto"),
        failed_tiles=_failed_tiles_of(cells_layer),
        warnings=links.warnings_of(cells_layer),
        pixel_size_um=size or recipe.segment.pixel_size_um,
    )


def save_large(folder: Path, cells_layer: Labels, source: ImageSource) -> None:
    """Save the typed cells of a plane that never fits into memory, with its image, as the result of a slide."""
    from napari_bloodcell.results.pictures import write_pictures_of_slide

    info = links.info_of(cells_layer)
    own = info.get("folder")
    if own is not None and folder.resolve() == Path(own).resolve():
        raise OutputError(f"{folder} holds these cells, and every correction of them is saved there. Choose another.")
    if not links.table_of(cells_layer, ("cell_type",))["cell_type"].astype(bool).any():
        raise InputError(f"The cells of {cells_layer.name!r} have no types yet. Classify them first.")
    result = write_slide(
        folder,
        source.slide(),
        links.full_resolution(cells_layer),
        full_table(cells_layer.features),
        names=links.names_of(cells_layer),
        recipe=recipe_of(cells_layer),
        models=_models_of(cells_layer),
        calibration=links.calibration_of(cells_layer),
        device=str(info.get("device") or "auto"),
        failed_tiles=_failed_tiles_of(cells_layer),
        warnings=links.warnings_of(cells_layer),
    )
    write_pictures_of_slide(result)


def _models_of(cells_layer: Labels) -> dict[str, dict[str, str]]:
    known: dict[str, dict[str, str]] = links.info_of(cells_layer).get("models") or {}
    return {**dict.fromkeys(("segment", "classify"), _UNKNOWN), **known}


def _failed_tiles_of(cells_layer: Labels) -> list[FailedTile]:
    listed = links.info_of(cells_layer).get("failed_tiles") or []
    return [FailedTile(**{**tile, "box": tuple(tile["box"])}) for tile in listed]


@dataclass(frozen=True, eq=False)
class SegmentedPlane:
    """One plane of a cells layer, as input for cutouts."""

    cells: NDArray[np.int32]
    table: pd.DataFrame
    calibration: Calibration


def segmented_plane(cells_layer: Labels, index: PlaneIndex = ()) -> SegmentedPlane:
    """Return labels, table and calibration of one plane of a cells layer; the labels of a large one stay lazy."""
    labels = links.full_resolution(cells_layer)
    table = rows_on_plane(links.table_of(cells_layer), index, labels.shape[:-2] if index else ())
    cells = labels if is_large_plane(labels.shape) else np.asarray(labels[index], np.int32)
    return SegmentedPlane(cells, table, links.calibration_of(cells_layer))


def planes_with_cells(cells_layer: Labels) -> list[PlaneIndex]:
    """Return the planes of a stack that have cells; ``[()]`` if there is one plane only."""
    stack_shape = links.full_resolution(cells_layer).shape[:-2]
    if not stack_shape:
        return [()]
    numbers = sorted(set(links.table_of(cells_layer, (PLANE,))[PLANE].tolist()))
    return [tuple(int(i) for i in np.unravel_index(int(n), stack_shape)) for n in numbers]
