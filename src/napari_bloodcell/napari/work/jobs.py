"""The work behind the docks, as generators without layers, for workers and scripts alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_bloodcell.core.cells import BOX, LATER, UNIDENTIFIED, measure_cells, type_names, with_later
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.geometry import Box
from napari_bloodcell.core.params import ClassifyParams, SegmentParams
from napari_bloodcell.core.progress import Steps
from napari_bloodcell.core.protocols import Calibration, CellClassifier, CellMask, MaskGenerator, Progress
from napari_bloodcell.corrections.journal import image_hash
from napari_bloodcell.images.plane import Plane
from napari_bloodcell.napari.layers.features import PLANE, rows_on_plane, to_table
from napari_bloodcell.napari.layers.images import ImageSource, PlaneIndex, plane_number
from napari_bloodcell.napari.work.models import iter_classifier, iter_fetch, iter_generator
from napari_bloodcell.stages.classify import iter_type_rows
from napari_bloodcell.stages.parts import PART_PX, iter_measure
from napari_bloodcell.stages.replacing import replace_cells
from napari_bloodcell.stages.segment import Segmentation, at_score, calibrate_cells, iter_segment

ShouldStop = Callable[[], bool]


@dataclass(frozen=True, eq=False)
class FoundMasks:
    """Masks found in a tile, in pixels of the plane, for live display."""

    index: PlaneIndex
    masks: Sequence[CellMask]


@dataclass(frozen=True, eq=False)
class FoundCells:
    """The cells of one plane."""

    index: PlaneIndex
    cells: NDArray[np.int32]  # (Y, X), ids unique in the whole stack
    table: pd.DataFrame  # rows of this plane; of a stack, with a column `plane`
    segmentation: Segmentation  # of this run: calibration, model and failed tiles
    image_sha256: str  # of the plane

    def without_pixels(self) -> FoundCells:
        """Return a copy with empty images, to keep while many planes follow."""
        none = np.zeros((0, 0), np.int32)
        return replace(self, cells=none, segmentation=replace(self.segmentation, cells=none))


@dataclass(frozen=True, eq=False)
class TypedCells:
    """The typed cells of a layer: its whole table, all class names, and the classifier."""

    table: pd.DataFrame
    names: list[str]
    classifier: CellClassifier


@dataclass(frozen=True, eq=False)
class EarlierCells:
    """Contents of a cells layer before the work: labels (…, Y, X) and features. Read only."""

    cells: NDArray[np.int32]
    features: pd.DataFrame

    @cached_property
    def table(self) -> pd.DataFrame:
        """The cell table, built on first use: for many cells that takes time, which a worker has."""
        return to_table(self.features)

    def of_plane(self, index: PlaneIndex, stack_shape: tuple[int, ...]) -> tuple[NDArray[np.int32], pd.DataFrame]:
        """Return labels and rows of one plane."""
        return self.cells[index], rows_on_plane(self.table, index, stack_shape)


def iter_find_cells(
    source: ImageSource,
    *,
    params: SegmentParams,
    planes: Sequence[PlaneIndex] = ((),),
    regions: Sequence[Box] = (),
    earlier: EarlierCells | None = None,
    keep: Collection[int] = (),
    keep_from: float | None = None,
    generator: MaskGenerator | None = None,
    should_stop: ShouldStop = lambda: False,
) -> Generator[Progress, None, list[FoundCells]]:
    """Find the cells in planes of an image layer; return `FoundCells` of each plane, without its pixels.

    Yields tiles with `FoundMasks`, and after each plane `FoundCells`. `regions` are boxes (y0, x0, y1, x1) in pixels:
    `earlier` cells outside them stay, and those in `keep` stay anywhere. `keep_from` is that of `iter_segment`.
    `should_stop` is asked after each tile.
    """
    if generator is None:
        if not (yield from iter_fetch(params.model, should_stop)):
            return []
        generator = yield from iter_generator(params)
    parts: list[Box | None] = list(regions) or [None]
    next_id = int(earlier.cells.max(initial=0)) + 1 if earlier is not None and source.stack_shape else 1
    total = _count_tiles(source.shape[-2:], parts, params.tile_size) * len(planes)
    results: list[FoundCells] = []
    done = 0
    for index in planes:
        plane = source.plane(index)
        known = earlier.of_plane(index, source.stack_shape) if earlier is not None else None
        first_id = next_id if source.stack_shape else None
        steps = Steps(
            _iter_find_in_plane(plane, known, parts, keep, params, generator, first_id, should_stop, keep_from)
        )
        done_before = done
        for step in steps:
            done = done_before + step.done
            yield Progress(done, total, step.what, FoundMasks(index, _masks_of(step)))
        cells, table, segmentation = steps.result
        if source.stack_shape:
            table = table.assign(**{PLANE: plane_number(index, source.stack_shape)})
            next_id = max(next_id, int(cells.max(initial=0)) + 1)
        found = FoundCells(index, cells, table, segmentation, image_hash(plane.data))
        results.append(found.without_pixels())
        yield Progress(done, total, "tiles", found)
        if should_stop():
            break
    return results


def _iter_find_in_plane(
    plane: Plane,
    known: tuple[NDArray[np.int32], pd.DataFrame] | None,
    parts: Sequence[Box | None],
    keep: Collection[int],
    params: SegmentParams,
    generator: MaskGenerator,
    first_id: int | None,
    should_stop: ShouldStop,
    keep_from: float | None,
) -> Generator[Progress, None, tuple[NDArray[np.int32], pd.DataFrame, Segmentation]]:
    """Find the cells in parts of one plane, and merge them with the known ones."""
    done = 0
    found: Segmentation | None = None
    for part in parts:
        how: dict[str, Any] = {"params": params, "generator": generator, "should_stop": should_stop}
        steps = Steps(iter_segment(plane, region=part, keep_from=keep_from, **how))
        done_before = done
        for step in steps:
            done = done_before + step.done
            yield Progress(done, 0, step.what, step.payload)
        found = steps.result
        if known is None:
            known = np.zeros_like(found.cells), found.table.iloc[:0]
        missing = [tile.box for tile in found.failed_tiles]
        known = replace_cells(
            *known, found.cells, found.table, within=part, except_in=missing, keep=keep, first_id=first_id
        )
        if first_id is not None:
            first_id = max(first_id, int(known[0].max(initial=0)) + 1)
        if should_stop():
            break
    if known is None or found is None:
        raise InputError("There is no region to look at. Draw one, or choose the whole image.")
    return (*known, found)


def cells_at_score(
    earlier: EarlierCells, found: Segmentation, params: SegmentParams, keep: Collection[int]
) -> tuple[NDArray[np.int32], pd.DataFrame]:
    """Return the cells of an image at another score, as a new run would put them in the place of earlier ones.

    Cells that were there before, with the same outline, have the types that they had.
    """
    shape = (int(earlier.cells.shape[0]), int(earlier.cells.shape[1]))
    anew = at_score(found, params, shape)
    cells, table = replace_cells(earlier.cells, earlier.table, anew.cells, anew.table, keep=keep)
    same = ["area_px", *BOX]
    known = with_later(earlier.table).reset_index().set_index(same)
    known = known[~known.index.duplicated()].reindex(pd.MultiIndex.from_frame(table[same]))
    told = (known["cell_type"].fillna("") != "").to_numpy()
    table = with_later(table)
    for column in ("cell_type", "probability", "type_source", *LATER):
        table.loc[told, column] = known.loc[told, column].to_numpy()
    return cells, table


def _masks_of(step: Progress) -> Sequence[CellMask]:
    _, masks = step.payload if isinstance(step.payload, tuple) else (None, [])
    return list(masks)


def _count_tiles(shape: tuple[int, ...], parts: Sequence[Box | None], tile_size: int) -> int:
    total = 0
    for part in parts:
        y0, x0, y1, x1 = part or (0, 0, shape[0], shape[1])
        height, width = min(y1, shape[0]) - max(y0, 0), min(x1, shape[1]) - max(x0, 0)
        total += -(-max(height, 0) // tile_size) * -(-max(width, 0) // tile_size)
    return total


def iter_type_cells(
    source: ImageSource,
    cells: NDArray[np.int32],
    table: pd.DataFrame | None,
    *,
    params: ClassifyParams,
    names: Sequence[str] = (),
    calibration: Calibration | None = None,
    classifier: CellClassifier | None = None,
) -> Generator[Progress, None, TypedCells]:
    """Type the cells of a layer, plane by plane.

    `cells` has the shape of the source, (…, Y, X), and may come from another program. `table` has index = id; cells
    painted since are measured again, without a table all are. `names` are the layer's classes, whose codes stay.
    `calibration` is measured if it is not given.
    """
    if cells.shape != source.shape:
        raise InputError(
            f"The cells have the shape {cells.shape}, the image {source.name!r} {source.shape}: they do not belong "
            "together. Choose the image that the cells were found in."
        )
    if classifier is None:
        classifier = yield from iter_classifier(params)
    typed = yield from _iter_type_planes(source, cells, table, params, calibration, classifier)
    typed.index.name = "id"
    found = [t for t in typed["cell_type"].unique() if t]
    names = type_names([n for n in [*names, *classifier.classes, *found] if n != UNIDENTIFIED])
    return TypedCells(typed, names, classifier)


def _iter_type_planes(
    source: ImageSource,
    cells: NDArray[np.int32],
    table: pd.DataFrame | None,
    params: ClassifyParams,
    calibration: Calibration | None,
    classifier: CellClassifier,
) -> Generator[Progress, None, pd.DataFrame]:
    """Type the cells plane by plane and return their table; a large plane is read in parts, never as a whole."""
    tables = []
    total = 0 if table is None else len(table)
    done = 0
    for index in source.plane_indices():
        known = None if table is None else rows_on_plane(table, index, source.stack_shape)
        pixels: Any
        labels: Any
        if source.is_large:
            pixels, labels, part_px = source.slide().pixels, cells, PART_PX
            rows = _with_unchanged((yield from iter_measure(labels)), known)
        else:
            pixels, labels, part_px = None, np.asarray(cells[index]), None
            rows = measured(labels, known)
        if rows.empty and source.stack_shape:
            continue
        if pixels is None:
            pixels = source.plane(index).data
        if calibration is None:
            calibration = calibrate_cells(pixels, rows)
        steps = Steps(
            iter_type_rows(pixels, labels, rows, calibration, params=params, classifier=classifier, part_px=part_px)
        )
        done_before = done
        for step in steps:
            done = done_before + step.done
            yield Progress(done, max(total, done_before + step.total), step.what, step.payload)
        rows = steps.result
        tables.append(rows.assign(**{PLANE: plane_number(index, source.stack_shape)}) if source.stack_shape else rows)
    return pd.concat(tables) if tables else measure_cells(np.zeros((1, 1), np.int32))


def measured(cells: NDArray[np.integer], table: pd.DataFrame | None) -> pd.DataFrame:
    """Return the table of a label image (Y, X); only cells that changed since `table` are measured."""
    if table is None:
        return measure_cells(cells)
    areas = np.bincount(cells.ravel())
    ids = np.flatnonzero(areas[1:]) + 1
    known = table.reindex(ids)
    same = (known["area_px"] == areas[ids]).to_numpy()
    if same.all():
        return table.loc[ids]
    fresh = measure_cells(np.where(np.isin(cells, ids[~same]), cells, 0))
    return pd.concat([table.loc[ids[same]], _with_known(fresh, table)]).sort_index()


def _with_unchanged(now: pd.DataFrame, table: pd.DataFrame | None) -> pd.DataFrame:
    """Return measured cells, with the rows of `table` for those whose area is unchanged."""
    if table is None:
        return now
    same = (table["area_px"].reindex(now.index) == now["area_px"]).to_numpy()
    return pd.concat([table.loc[now.index[same]], _with_known(now[~same], table)]).sort_index()


def _with_known(fresh: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return newly measured cells with the types and quality that the table holds for them."""
    fresh = fresh.copy()
    for column in ("cell_type", "probability", "type_source", "predicted_iou", "stability_score"):
        old = table[column].reindex(fresh.index)
        fresh[column] = old.where(old.notna(), fresh[column]).astype(fresh[column].dtype)
    return fresh
