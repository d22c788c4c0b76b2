"""The work behind the docks, as generators that know no layer: they run in a worker or in a script alike."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from napari_bloodcell.core.cells import UNIDENTIFIED, measure_cells, type_names
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.progress import Steps
from napari_bloodcell.core.protocols import Calibration, Progress
from napari_bloodcell.corrections.journal import image_hash
from napari_bloodcell.napari.layers.features import PLANE, to_table
from napari_bloodcell.napari.layers.images import plane_number
from napari_bloodcell.napari.work.models import iter_classifier, iter_fetch, iter_generator
from napari_bloodcell.stages.classify import iter_classify, iter_type_rows
from napari_bloodcell.stages.parts import PART_PX, iter_measure
from napari_bloodcell.stages.replacing import replace_cells
from napari_bloodcell.stages.segment import Segmentation, calibrate_cells, iter_segment

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Sequence

    from numpy.typing import NDArray

    from napari_bloodcell.core.params import ClassifyParams, SegmentParams
    from napari_bloodcell.core.protocols import CellClassifier, CellMask, MaskGenerator
    from napari_bloodcell.images.plane import Plane
    from napari_bloodcell.napari.layers.images import ImageSource, PlaneIndex

    Box = tuple[int, int, int, int]
    ShouldStop = Callable[[], bool]


@dataclass(frozen=True, eq=False)
class FoundMasks:
    """What a tile brought, for live display: masks in pixels of the plane."""

    index: PlaneIndex
    masks: Sequence[CellMask]


@dataclass(frozen=True, eq=False)
class FoundCells:
    """The cells of one plane.

    Attributes
    ----------
    index : tuple of int
        The plane, along the leading axes of a stack.
    cells : ndarray of int32, shape (Y, X)
        Ids, unique in the whole stack.
    table : DataFrame
        Rows of this plane; with a column `plane` where there are several.
    segmentation : Segmentation
        What was found this time: its calibration, model and failed tiles.
    image_sha256 : str
        Of the plane.
    """

    index: PlaneIndex
    cells: NDArray[np.int32]
    table: pd.DataFrame
    segmentation: Segmentation
    image_sha256: str

    def without_pixels(self) -> FoundCells:
        """Return this with images of no pixels, to be kept while many planes come."""
        none = np.zeros((0, 0), np.int32)
        return replace(self, cells=none, segmentation=replace(self.segmentation, cells=none))


@dataclass(frozen=True, eq=False)
class TypedCells:
    """The types of a cells layer: its whole table, the names of all types, and who typed."""

    table: pd.DataFrame
    names: list[str]
    classifier: CellClassifier


@dataclass(frozen=True, eq=False)
class EarlierCells:
    """What a cells layer held when the work began: labels (…, Y, X) and features, which are not changed."""

    cells: NDArray[np.int32]
    features: pd.DataFrame

    @cached_property
    def table(self) -> pd.DataFrame:
        """The cell table; made when it is asked for, as a worker does, because that takes time for many cells."""
        return to_table(self.features)

    def of_plane(self, index: PlaneIndex, stack_shape: tuple[int, ...]) -> tuple[NDArray[np.int32], pd.DataFrame]:
        """Return labels and rows of one plane."""
        if not stack_shape or PLANE not in self.table.columns:
            return self.cells[index], self.table
        return self.cells[index], self.table[self.table[PLANE] == plane_number(index, stack_shape)]


def iter_find_cells(
    source: ImageSource,
    *,
    params: SegmentParams,
    planes: Sequence[PlaneIndex] = ((),),
    regions: Sequence[Box] = (),
    earlier: EarlierCells | None = None,
    keep: Collection[int] = (),
    generator: MaskGenerator | None = None,
    should_stop: ShouldStop = lambda: False,
) -> Generator[Progress, None, list[FoundCells]]:
    """Find the cells of planes of an image layer.

    Parameters
    ----------
    source : ImageSource
        The image.
    params : SegmentParams
        Settings.
    planes : sequence of tuple of int
        Which planes of a stack.
    regions : sequence of tuple
        (y0, x0, y1, x1), pixels; only these parts. Empty: all of each plane.
    earlier : EarlierCells, optional
        Cells that stay where nothing new is looked for.
    keep : collection of int
        Ids of earlier cells that stay in any case.
    generator : MaskGenerator, optional
        Instead of the one that the settings name.
    should_stop : callable
        Asked after each tile; what is done until then is the result.

    Yields
    ------
    Progress
        Tiles, with `FoundMasks`; after each plane with `FoundCells`.

    Returns
    -------
    list of FoundCells
        Of all planes that were looked at, without their pixels.
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
        steps = Steps(_iter_find_in_plane(plane, known, parts, keep, params, generator, first_id, should_stop))
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
) -> Generator[Progress, None, tuple[NDArray[np.int32], pd.DataFrame, Segmentation]]:
    """Find the cells of the parts of one plane, and put them among those that are known there."""
    done = 0
    found: Segmentation | None = None
    for part in parts:
        steps = Steps(iter_segment(plane, params=params, generator=generator, region=part, should_stop=should_stop))
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


@dataclass(frozen=True, eq=False)
class _SegmentedPlane:
    cells: NDArray[np.int32]
    table: pd.DataFrame
    calibration: Calibration


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

    Parameters
    ----------
    source : ImageSource
        The image.
    cells : ndarray of int, shape (…, Y, X)
        Labels of the same shape; may be those of another program.
    table : DataFrame, optional
        Their table, index = id. What was painted by hand since is measured again. None: all of it is measured.
    params : ClassifyParams
        Settings.
    names : sequence of str
        Names of the types that the layer has already; their codes stay.
    calibration : Calibration, optional
        What was measured of the smear; measured again where it is not known.
    classifier : CellClassifier, optional
        Instead of the one that the settings name.
    """
    if cells.shape != source.shape:
        raise InputError(
            f"The cells have the shape {cells.shape}, the image {source.name!r} {source.shape}: they do not belong "
            "together. Choose the image that the cells were found in."
        )
    if classifier is None:
        classifier = yield from iter_classifier(params)
    iter_types = _iter_type_large if source.is_large else _iter_type_planes
    typed = yield from iter_types(source, cells, table, params, calibration, classifier)
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
    """Type the cells of one plane after the other, and return their table."""
    tables = []
    total = 0 if table is None else len(table)
    done = 0
    for index in source.plane_indices():
        labels = np.asarray(cells[index])
        known = _rows_of_plane(table, index, source.stack_shape)
        rows = measured(labels, known)
        if rows.empty and source.stack_shape:
            continue
        plane = source.plane(index)
        if calibration is None:
            calibration = calibrate_cells(plane.data, rows)
        segmented = _SegmentedPlane(labels.astype(np.int32, copy=False), rows, calibration)
        steps = Steps(iter_classify(plane.data, segmented, params=params, classifier=classifier))
        done_before = done
        for step in steps:
            done = done_before + step.done
            yield Progress(done, max(total, done_before + step.total), step.what, step.payload)
        rows = steps.result.table
        if source.stack_shape:
            rows = rows.assign(**{PLANE: plane_number(index, source.stack_shape)})
        tables.append(rows)
    return pd.concat(tables) if tables else measure_cells(np.zeros((1, 1), np.int32))


def _iter_type_large(
    source: ImageSource,
    cells: NDArray[np.int32],
    table: pd.DataFrame | None,
    params: ClassifyParams,
    calibration: Calibration | None,
    classifier: CellClassifier,
) -> Generator[Progress, None, pd.DataFrame]:
    """Type the cells of a plane that is never in memory as a whole, and return their table."""
    pixels = source.slide().pixels
    now = yield from iter_measure(cells)
    if table is not None:
        same = (table["area_px"].reindex(now.index) == now["area_px"]).to_numpy()
        now = pd.concat([table.loc[now.index[same]], _with_known(now[~same], table)]).sort_index()
    calibration = calibration or calibrate_cells(pixels, now)
    return (
        yield from iter_type_rows(
            pixels, cells, now, calibration, params=params, classifier=classifier, part_px=PART_PX
        )
    )


def measured(cells: NDArray[np.integer], table: pd.DataFrame | None) -> pd.DataFrame:
    """Return the table of a label image (Y, X), measuring only cells that the table does not have as they are."""
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


def _with_known(fresh: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return cells that were measured again, with what the table says of their types and quality."""
    fresh = fresh.copy()
    for column in ("cell_type", "probability", "type_source", "predicted_iou", "stability_score"):
        old = table[column].reindex(fresh.index)
        fresh[column] = old.where(old.notna(), fresh[column]).astype(fresh[column].dtype)
    return fresh


def _rows_of_plane(table: pd.DataFrame | None, index: PlaneIndex, stack_shape: tuple[int, ...]) -> pd.DataFrame | None:
    if table is None or not stack_shape or PLANE not in table.columns:
        return table
    return table[table[PLANE] == plane_number(index, stack_shape)]
