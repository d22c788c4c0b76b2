"""Keeps a slide's result true to changes by people: types in the OME-Zarr, table, counts, outlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from napari_bloodcell.core.cells import UNIDENTIFIED, type_lut
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.files import LOCK, locked, make_folder, staged, writing
from napari_bloodcell.core.params import ClassifyParams, Recipe
from napari_bloodcell.core.protocols import Calibration, FailedTile
from napari_bloodcell.corrections.journal import image_hash
from napari_bloodcell.images.image import SlideImage
from napari_bloodcell.results.files import GEOJSON, RECIPE, ZARR
from napari_bloodcell.results.ome_zarr import create_smear, label_metadata, open_levels
from napari_bloodcell.results.plan import Plan
from napari_bloodcell.results.pyramid import CELLS, IMAGE, TYPES, Pyramids
from napari_bloodcell.results.result import Result
from napari_bloodcell.results.store import read_result, write_slide_result
from napari_bloodcell.stages.parts import PART_PX


def repaint_types(folder: Path, codes: NDArray[np.uint8], boxes: NDArray[np.integer[Any]]) -> None:
    """Rewrite the types in boxes (M, 4), (y0, x0, y1, x1) pixels of the finest level, at all levels.

    `codes` (≥ N + 1,) uint8 is the type's code by id, 0 for none; ids beyond its end have none. Whole chunks are
    written.
    """
    lut = np.append(codes, np.uint8(0))
    with writing(folder):
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


def write_corrected(
    folder: Path,
    cells: pd.DataFrame,
    names: Sequence[str],
    *,
    typed_with: ClassifyParams | None = None,
    classifier: dict[str, str] | None = None,
) -> Result:
    """Rewrite a slide's table, counts, recipe and outlines after its cells were changed, and return the result.

    The label images must be changed already. `typed_with` and `classifier` (name and sha256) record a later typing.
    """
    before = read_result(folder)
    plan = before.plan
    if plan is None:
        raise InputError(f"{folder} holds no result of a slide.")
    if typed_with is not None and classifier is not None:
        recipe = plan.recipe.model_copy(update={"classify": typed_with})
        plan = replace(plan, recipe=recipe, models={**plan.models, "classify": classifier})
    if list(names) != before.names:
        root: Any = zarr.open_group(folder / ZARR / TYPES, mode="r+")
        root.attrs["ome"] = {**root.attrs["ome"], "image-label": label_metadata(names)}
    result = Result.of_plan(
        folder,
        plan,
        cells,
        names=list(names),
        failed_tiles=before.failed_tiles,
        warnings=before.warnings,
        image_sha256=before.image_sha256,
        is_corrected=True,
    )
    return write_slide_result(result, geojson=(folder / GEOJSON).is_file())


def write_slide(
    folder: Path,
    image: SlideImage,
    cells: Any,
    table: pd.DataFrame,
    *,
    names: Sequence[str],
    recipe: Recipe,
    models: dict[str, dict[str, str]],
    calibration: Calibration,
    device: str = "auto",
    failed_tiles: Sequence[FailedTile] = (),
    warnings: Sequence[str] = (),
) -> Result:
    """Write an image of any size with cells from elsewhere as the result of a slide.

    `cells` are ids (Y, X), sliced; those without a row have no type. They must not lie in `folder`.
    """
    pixel_size_um = recipe.segment.pixel_size_um or image.pixel_size_um
    plan = Plan(
        shape=image.shape,
        overlap=recipe.segment.tile_overlap or 0,
        calibration=calibration,
        recipe=recipe,
        classes=tuple(name for name in names if name != UNIDENTIFIED),
        models=models,
        image_digest="saved from layers",
        name=image.name,
        pixel_size_um=pixel_size_um,
        block_px=PART_PX,
        device=device,
    )
    codes = np.append(type_lut(table, names), np.uint8(0))
    make_folder(folder)
    incomplete = (RECIPE,)  # written again with the numbers
    with locked(folder / LOCK, wait=False), staged(folder, last=ZARR, stale=incomplete) as stage:
        create_smear(stage / ZARR, shape=plan.shape, names=names, name=plan.name, pixel_size_um=pixel_size_um)
        pyramids = Pyramids(stage / ZARR)
        for box in map(plan.block, range(plan.n_blocks)):
            y0, x0, y1, x1 = box
            pixels, labels = image.read(box), np.asarray(cells[y0:y1, x0:x1])
            pyramids.write_block(IMAGE, np.moveaxis(pixels, -1, 0), box)
            pyramids.write_block(CELLS, labels.astype(np.int32), box)
            pyramids.write_block(TYPES, np.take(codes, labels, mode="clip"), box)
        for group in (IMAGE, CELLS, TYPES):
            pyramids.fill_coarse_levels(group)
    result = Result.of_plan(
        folder,
        plan,
        table,
        names=list(names),
        failed_tiles=list(failed_tiles),
        warnings=tuple(warnings),
        image_sha256=image_hash(image.pixels),
        is_corrected=True,
    )
    return write_slide_result(result)
