"""Finds the cells of a smear tile by tile, with any mask generator (paper §3.2, §3.3, §3.6)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from napari_bloodcell.core.cells import boxes_of, measure_cells
from napari_bloodcell.core.errors import READ_ERRORS, InputError, in_one_line, reason_of, warn_of_input
from napari_bloodcell.core.files import expanded
from napari_bloodcell.core.geometry import grown
from napari_bloodcell.core.params import SegmentParams
from napari_bloodcell.core.progress import drained
from napari_bloodcell.core.protocols import (
    Calibration,
    CellMask,
    FailedTile,
    MaskGenerator,
    ModelInfo,
    Progress,
    doubts_about,
)
from napari_bloodcell.core.threads import in_threads
from napari_bloodcell.images.open import read_plane
from napari_bloodcell.images.plane import Plane
from napari_bloodcell.models.colour import colour_in_boxes
from napari_bloodcell.models.load import iter_load_generator
from napari_bloodcell.stages.calibration import (
    DEFAULT_DIAMETER_PX,
    RBC_DIAMETER_UM,
    background_colour,
    brighten,
    doubts_of,
    estimate_rbc_diameter,
    is_possible,
    mean_brightness,
    note_rim,
    smear_in,
)
from napari_bloodcell.stages.light import lit_evenly, measure_light
from napari_bloodcell.stages.masks import clean_masks, drop_repeated, drop_slivers, moved, paint_box
from napari_bloodcell.stages.stitch import join_tiles
from napari_bloodcell.stages.surroundings import find_surroundings, has_lines, overview_of, surroundings_from
from napari_bloodcell.stages.tiles import Tile, group_tiles, hull, iter_tiles

_TileResult = tuple[Tile, list[CellMask], Exception | None]


logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)  # shown in napari's log; Python prints only warnings to the terminal

FEWEST_MEASURED, MOST_MEASURED = 5, 150
"""Fewest and most cells of another program, as large as red cells, that give the typical red cell's colour."""
SAMPLE_SIDE_PX = 1536
"""A smear larger than this is calibrated on nine patches of it."""
LARGEST_ID = 2**24
"""Larger ids of other programs are renumbered: tables indexed by id would not fit into memory."""
ATTEMPTS = 2
"""Times a tile is tried before it is listed as failed."""
NOT_REACHED = "not reached: stopped before it"
"""Error of a tile that was not reached when the work was stopped."""
OWNER_MARGIN_PX = 2
"""A tile keeps cells whose prompt lies this far outside it; duplicates are filtered later."""
BEYOND_PX = 1 << 20
"""Prompts this far outside the smear still belong to the tile at that edge."""


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """The cells of a smear.

    Attributes
    ----------
    cells : ndarray of int32, shape (Y, X)
        Label image, 0 background, ids 1..N.
    table : DataFrame
        One row per cell, as in `cells.COLUMNS`; types are empty until `classify` fills them.
    calibration : Calibration
        Measurements of the whole smear.
    failed_tiles : list of FailedTile
        Tiles that could not be segmented; they hold no cells.
    model : ModelInfo
        The generator that found the cells.
    device : str
        Device it ran on: "cpu", "cuda:0", "mps"; the one requested if the generator does not tell.
    precision : str
        Precision it computed in: "float32", "bfloat16"; the one requested if the generator does not tell.
    warnings : tuple of str
        Why the result is doubtful, in sentences for people; empty if it is not.
    proposals : tuple of CellMask
        What `at_score` finds cells among; empty unless they were to be kept.
    """

    cells: NDArray[np.int32]
    table: pd.DataFrame
    calibration: Calibration
    model: ModelInfo
    failed_tiles: list[FailedTile] = field(default_factory=list)
    device: str = "auto"
    precision: str = "auto"
    warnings: tuple[str, ...] = ()
    proposals: tuple[CellMask, ...] = ()


def iter_segment(
    image: object,
    *,
    params: SegmentParams | None = None,
    generator: MaskGenerator | None = None,
    region: tuple[int, int, int, int] | None = None,
    should_stop: Callable[[], bool] | None = None,
    keep_from: float | None = None,
) -> Generator[Progress, None, Segmentation]:
    """Find the cells of a smear.

    Parameters
    ----------
    image : array-like or path
        Anything `read_plane` takes; a (Y, X, 3) uint8 array is not copied and never changed.
    params : SegmentParams, optional
        Settings; by default `SegmentParams()`.
    generator : MaskGenerator, optional
        Finds the cells of a tile; by default the one named by `params.model`.
    region : tuple of int, optional
        (y0, x0, y1, x1), pixels: only cells whose prompt lies in it are found, whole even if they reach beyond. The
        calibration is still that of the whole smear.
    should_stop : callable, optional
        Called after each tile, or each group of tiles that the model sees together; if it returns True, the cells found
        so far are the result, and the tiles not reached are listed in `failed_tiles`.
    keep_from : float, optional
        The lowest `score_min` at which `at_score` is to find the cells anew; without effect on generators that keep
        no proposals, and on tiles that do not overlap.

    Yields
    ------
    Progress
        After each tile; payload = the tile with its masks.

    Raises
    ------
    InputError
        If the image cannot be read as a plane.
    ModelError
        If the model cannot be loaded.
    """
    params = params or SegmentParams()
    plane = read_plane(image)
    if generator is None:
        generator = yield from iter_load_generator(params.model, params.device, params.precision)
    pixels = plane.data
    calibration = calibrate(pixels, params=params, generator=generator, pixel_size_um=plane.pixel_size_um)
    overlap = generator.overlap_px(calibration) if params.tile_overlap is None else params.tile_overlap
    tiles = _tiles_of(pixels.shape[:2], params.tile_size, overlap, region)
    groups = group_tiles(tiles, tiles_across(params, generator, calibration, overlap))
    if not overlap or not getattr(generator, "keeps_proposals", False):
        keep_from = None
    found: list[tuple[Tile, list[CellMask]]] = []
    failed: list[FailedTile] = []

    def work(group: list[Tile]) -> list[_TileResult]:
        return list(_segment_group(pixels, group, calibration, params, generator, keep_from))

    threads = getattr(generator, "threads", None) if len(groups) > 1 else None
    for number, results in enumerate(in_threads(work, groups, threads), start=1):
        for tile, masks, error in results:
            if error is not None:
                failed.append(FailedTile(tile.name, tile.core, in_one_line(error)))
            found.append((tile, masks))
            yield Progress(len(found), len(tiles), "tiles", (tile, _at(masks, params)))
        if should_stop is not None and should_stop():
            failed += [FailedTile(t.name, t.core, NOT_REACHED) for rest in groups[number:] for t in rest]
            break
    shape = (int(pixels.shape[0]), int(pixels.shape[1]))
    proposals = [m for _, own in found for m in own]
    if overlap:
        cells, table = _cells_among(proposals, shape, calibration, params)
    else:
        cells, table = _described(*_join(found, shape, calibration, params), calibration)
    model, device = ModelInfo(generator.name, generator.sha256), str(getattr(generator, "device", params.device))
    precision = str(getattr(generator, "precision", params.precision))
    doubts = (*doubts_of(calibration, params.pixel_size_um or plane.pixel_size_um), *doubts_about(generator))
    warnings = (*plane.warnings, *doubts)
    kept = () if keep_from is None else tuple(proposals)
    return Segmentation(cells, table, calibration, model, failed, device, precision, warnings, kept)


def at_score(found: Segmentation, params: SegmentParams, shape: tuple[int, int]) -> Segmentation:
    """Return the cells of a plane of `shape` (Y, X) at another `params.score_min`, without a new run.

    They are those that a run with these settings finds, from the `keep_from` on that was given. Raises `InputError` if
    no proposals were kept.
    """
    if not found.proposals:
        raise InputError("No proposals were kept of this image: find its cells again with the score in the settings.")
    cells, table = _cells_among(found.proposals, shape, found.calibration, params)
    return replace(found, cells=cells, table=table)


def _cells_among(
    proposals: Sequence[CellMask], shape: tuple[int, int], calibration: Calibration, params: SegmentParams
) -> tuple[NDArray[np.int32], pd.DataFrame]:
    """Return label image and table of the cells among the masks of overlapping tiles."""
    masks = filter_overlapping(_at(proposals, params), shape, calibration, params)
    return _described(*paint_box(masks, (0, 0, *shape)), calibration)


def _at(masks: Iterable[CellMask], params: SegmentParams) -> list[CellMask]:
    return [m for m in masks if m.is_proposed(params.score_min)]


segment = drained(iter_segment)
"""`iter_segment`, run to its end."""


def calibrate(
    pixels: NDArray[np.uint8],
    *,
    params: SegmentParams,
    generator: MaskGenerator,
    pixel_size_um: float | None = None,
    overview: NDArray[np.uint8] | None = None,
) -> Calibration:
    """Measure surroundings, glass, brightness and red cell width once for a whole (Y, X, 3) uint8 smear.

    `overview` is a small picture of it if there is one already, such as a slide's coarsest level.
    """
    sample, seen = _measure_smear(pixels, overview)
    diameter, source = _first_diameter(sample, params, pixel_size_um)
    measured = generator.calibrate(sample, replace(seen, rbc_diameter_px=diameter, source=source))
    if source == "pixel size" and is_possible(params.pixel_size_um, measured):
        return replace(measured, rbc_diameter_px=diameter)
    return measured


def calibrate_cells(pixels: Any, table: pd.DataFrame) -> Calibration:
    """Measure a smear (Y, X, 3) with cells of another origin; the typical cell tells the width if nothing else does."""
    sample, seen = _measure_smear(pixels)
    diameter = estimate_rbc_diameter(sample)
    if diameter is None and len(table):
        diameter = float(2 * np.sqrt(table["area_px"].median() / np.pi))
    if not diameter:
        return seen
    share = table["area_px"] / (np.pi / 4 * diameter**2)
    red = boxes_of(table[(share > 0.6) & (share < 1.5) & ~table["touches_edge"]])[:MOST_MEASURED]
    colour = colour_in_boxes(pixels, red) if len(red) >= FEWEST_MEASURED else None
    return replace(seen, rbc_diameter_px=diameter, source="estimated", red_rgb=colour)


def _measure_smear(
    pixels: NDArray[np.uint8], overview: NDArray[np.uint8] | None = None
) -> tuple[NDArray[np.uint8], Calibration]:
    """Return a sample of a smear without its surroundings, and its calibration without the width of a red cell."""
    sample = sample_of(pixels)
    small, shape = overview_of(pixels if overview is None else overview), (int(pixels.shape[0]), int(pixels.shape[1]))
    around = find_surroundings(small, shape)
    light = measure_light(small, shape, None if around is None else around.outside)
    if light is not None:
        sample = lit_evenly(sample, sample_of(light))
    smear, outside = sample, None if around is None else sample_of(around)
    if outside is not None and not outside.all():
        smear = sample[~outside][:, None]
    red, green, blue = background_colour(smear).tolist()
    if outside is not None:
        sample = np.where(outside[..., None], np.rint((red, green, blue)), sample).astype(np.uint8)
    seen = Calibration(
        DEFAULT_DIAMETER_PX,
        (red, green, blue),
        mean_brightness(smear),
        "default",
        outside="" if around is None else around.to_text(),
        light=() if light is None else light.numbers,
        has_lines=has_lines(pixels if isinstance(pixels, np.ndarray) else small, small, around),
    )
    return sample, seen


def _first_diameter(sample: NDArray[np.uint8], params: SegmentParams, pixel_size_um: float | None) -> tuple[float, str]:
    if params.rbc_diameter_px:
        return params.rbc_diameter_px, "given"
    if params.pixel_size_um:
        return RBC_DIAMETER_UM / params.pixel_size_um, "pixel size"
    if pixel_size_um and 0.02 <= pixel_size_um <= 1.5:
        return RBC_DIAMETER_UM / pixel_size_um, "file"
    estimate = estimate_rbc_diameter(sample)
    return (estimate, "estimated") if estimate else (DEFAULT_DIAMETER_PX, "default")


def sample_of(pixels: Any) -> NDArray[Any]:
    """Return a part of a smear (Y, X, …) small enough to look at: itself, or nine patches side by side."""
    height, width = pixels.shape[:2]
    if height * width <= SAMPLE_SIDE_PX**2:
        return np.asarray(pixels)
    side_y, side_x = min(SAMPLE_SIDE_PX // 3, height // 3), min(SAMPLE_SIDE_PX // 3, width // 3)
    if min(side_y, side_x) < 64:
        return np.asarray(pixels[: max(1, SAMPLE_SIDE_PX**2 // width), : max(1, SAMPLE_SIDE_PX**2 // height)])
    rows = np.linspace(0, height - side_y, 5).astype(int)[1:4]
    columns = np.linspace(0, width - side_x, 5).astype(int)[1:4]
    return np.concatenate(
        [np.concatenate([np.asarray(pixels[y : y + side_y, x : x + side_x]) for x in columns], 1) for y in rows], 0
    )


def _tiles_of(
    shape: tuple[int, ...], tile_size: int, overlap: int, region: tuple[int, int, int, int] | None
) -> list[Tile]:
    """Return the tiles of a plane, or of a region of it; what is read around a tile may lie outside the region."""
    if region is None:
        return list(iter_tiles(shape, tile_size, overlap))
    (height, width), (top, left, bottom, right) = shape, region
    top, left, bottom, right = max(top, 0), max(left, 0), min(bottom, height), min(right, width)
    if top >= bottom or left >= right:
        raise InputError(f"The region {region} lies outside of the image, which is {height} × {width} pixels.")
    tiles = []
    for tile in iter_tiles((bottom - top, right - left), tile_size):
        y0, x0, y1, x1 = tile.core
        core = (y0 + top, x0 + left, y1 + top, x1 + left)
        tiles.append(Tile(tile.row, tile.column, core, grown(core, overlap, shape)))
    return tiles


def tiles_across(params: SegmentParams, generator: MaskGenerator, calibration: Calibration, overlap: int) -> int:
    """Return how many tiles side by side go through the model together; 1 if the result would depend on it."""
    lit_by_tile = params.brighten and params.brighten_per == "tile" and not generator.normalises_light
    if not overlap or lit_by_tile:
        return 1
    look_px = getattr(generator, "look_px", None)
    return 1 if look_px is None else max(1, int(look_px(calibration)) // params.tile_size)


def _segment_group(
    pixels: NDArray[np.uint8],
    group: list[Tile],
    calibration: Calibration,
    params: SegmentParams,
    generator: MaskGenerator,
    keep_from: float | None,
) -> Iterator[_TileResult]:
    """Yield each tile of a group with its masks, or with the error that left it without.

    Tiles that fail together are tried again one by one, so that a failure costs one tile only.
    """
    if len(group) > 1:
        try:
            masks = segment_tile(pixels, hull(group), calibration, params, generator, keep_from)
        except Exception:
            logger.info("tiles %s to %s failed together", group[0].name, group[-1].name, exc_info=True)
        else:
            for tile in group:
                yield tile, _owned(masks, _owned_box(tile, pixels.shape)), None
            return
    for tile in group:
        try:
            yield tile, segment_tile(pixels, tile, calibration, params, generator, keep_from), None
        except Exception as error:  # a model may raise anything; the other tiles go on
            logger.info("tile %s failed", tile.name, exc_info=True)
            yield tile, [], error


def segment_tile(
    pixels: NDArray[np.uint8],
    tile: Tile,
    calibration: Calibration,
    params: SegmentParams,
    generator: MaskGenerator,
    keep_from: float | None = None,
) -> list[CellMask]:
    """Return a tile's own masks, cleaned, in the smear's pixels; raises the generator's error after `ATTEMPTS`.

    `keep_from` is for generators that keep proposals: see `iter_segment`.
    """
    more: dict[str, Any] = {} if keep_from is None else {"keep_from": keep_from}
    y0, x0, y1, x1 = tile.read
    part = np.ascontiguousarray(smear_in(pixels[y0:y1, x0:x1], (y0, x0), calibration))
    seen = calibration
    if params.brighten and not generator.normalises_light:
        mean = calibration.mean_brightness if params.brighten_per == "image" else None
        part = brighten(part, params.brightness_target, mean=mean)
        glass = background_colour(part)
        seen = replace(calibration, background_rgb=(float(glass[0]), float(glass[1]), float(glass[2])))
    owned = _owned_box(tile, pixels.shape)
    within = (owned[0] - y0, owned[1] - x0, owned[2] - y0, owned[3] - x0)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            masks = generator.generate(part, seen, params, origin=(y0, x0), within=within, **more)
            break
        except Exception:
            if attempt == ATTEMPTS:
                raise
    found = _owned([moved(m, y0, x0) for m in masks], owned)
    cleaned = clean_masks(found, rbc_diameter_px=calibration.rbc_diameter_px)
    return _without_rim(cleaned, calibration, params)


def _without_rim(masks: list[CellMask], calibration: Calibration, params: SegmentParams) -> list[CellMask]:
    """Drop masks of which the rim of the field shows too little; the edge of the picture is no such rim."""
    around = surroundings_from(calibration.outside)
    if around is None or not masks:
        return masks
    at_rim = around.touch(np.array([m.bbox for m in masks], np.int64))
    least = params.edge_visible_min * calibration.rbc_diameter_px
    kept = []
    for mask, is_cut in zip(masks, at_rim.tolist(), strict=True):
        y0, x0, y1, x1 = mask.bbox
        if not is_cut:
            kept.append(mask)
        elif min(y1 - y0, x1 - x0) >= least and (inside := mask.mask & ~around.within(mask.bbox)).any():
            kept.append(replace(mask, mask=inside))
    return kept


def _owned(masks: list[CellMask], box: tuple[int, int, int, int]) -> list[CellMask]:
    """Return the masks whose prompt lies in a box."""
    return [m for m in masks if box[0] <= m.point[0] < box[2] and box[1] <= m.point[1] < box[3]]


def _owned_box(tile: Tile, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return the box that a tile's prompts lie in, (y0, x0, y1, x1), open-ended at the smear's edges."""
    (y0, x0, y1, x1), margin = tile.core, OWNER_MARGIN_PX
    return (
        y0 - margin if y0 > 0 else -BEYOND_PX,
        x0 - margin if x0 > 0 else -BEYOND_PX,
        y1 + margin if y1 < shape[0] else shape[0] + BEYOND_PX,
        x1 + margin if x1 < shape[1] else shape[1] + BEYOND_PX,
    )


def filter_overlapping(
    masks: list[CellMask], shape: tuple[int, int], calibration: Calibration, params: SegmentParams
) -> list[CellMask]:
    """Return the cells among the masks of overlapping tiles: no duplicates, clumps, or slivers at the edge."""
    width = calibration.rbc_diameter_px
    kept = drop_repeated(masks, rbc_diameter_px=width, overlap_max=params.overlap_max)
    return drop_slivers(kept, shape, rbc_diameter_px=width, visible_min=params.edge_visible_min)


def paint_tile(
    masks: list[CellMask], tile: Tile, calibration: Calibration, params: SegmentParams
) -> tuple[NDArray[np.int32], list[CellMask]]:
    """Return the label image of a tile that overlaps no other, and the mask behind each id."""
    kept = drop_repeated(masks, rbc_diameter_px=calibration.rbc_diameter_px, overlap_max=params.overlap_max)
    return paint_box(kept, tile.core)


def _join(
    found: list[tuple[Tile, list[CellMask]]], shape: tuple[int, int], calibration: Calibration, params: SegmentParams
) -> tuple[NDArray[np.int32], list[CellMask]]:
    """Paint tiles without overlap one by one, then join the cells they cut (paper §3.6).

    Returns the label image and, for each id, the largest of the masks that were joined.
    """
    parts = []
    masks: list[CellMask] = []
    for tile, own in found:
        labels, kept = paint_tile(own, tile, calibration, params)
        masks += kept
        parts.append((*tile.core[:2], labels))
    cells, new_id = join_tiles(parts, shape)
    largest: dict[int, CellMask] = {}
    for label, mask in sorted(zip(new_id.tolist(), masks, strict=True), key=lambda pair: pair[1].area):
        largest[label] = mask
    return cells, [largest[label] for label in range(1, int(cells.max(initial=0)) + 1)]


def _described(
    cells: NDArray[np.int32], origins: list[CellMask], calibration: Calibration
) -> tuple[NDArray[np.int32], pd.DataFrame]:
    """Return a label image, and its table with the generator's figures for the mask behind each id."""
    table = measure_cells(
        cells,
        predicted_iou=[m.predicted_iou for m in origins],
        stability_score=[m.stability_score for m in origins],
        proposed_type=[m.cell_type or "" for m in origins],
        proposed_probability=[m.type_probability for m in origins],
    )
    note_rim(table, calibration)
    return cells, table


# --- label images of other programs -----------------------------------------------------------------------------------


def segmentation_of(labels: object, plane: Plane) -> Segmentation:
    """Return a label image of any program as the segmentation of a smear, with the ids that it has.

    Parameters
    ----------
    labels : path or array-like, shape (Y, X)
        Ids, 0 background: integers, or whole numbers as floats. A path is that of a TIFF, PNG or ``.npy``.
    plane : Plane
        The smear.

    Raises
    ------
    InputError
        If it cannot be read, has another size, or is no label image.

    Warns
    -----
    InputWarning
        If all cells have one id, or ids are so large that they were renumbered.
    """
    is_path = isinstance(labels, str | os.PathLike)
    what = str(labels) if is_path else "The label image"
    pixels = _read_labels(expanded(labels)) if isinstance(labels, str | os.PathLike) else np.asarray(labels)
    cells = _checked_labels(pixels, plane.data.shape[:2], what)
    table = measure_cells(cells, predicted_iou=np.nan, stability_score=np.nan)
    calibration = calibrate_cells(plane.data, table)
    note_rim(table, calibration)
    name = Path(what).name if is_path else "labels"
    doubts = doubts_of(calibration, plane.pixel_size_um)
    warnings = (*plane.warnings, *doubts)
    return Segmentation(cells, table, calibration, ModelInfo(name, ""), device="cpu", warnings=warnings)


def _read_labels(path: Path) -> NDArray[Any]:
    """Return the pixels of a file as they are stored: colours or a scale would change ids."""
    import tifffile
    from PIL import Image

    if path.name.endswith("_seg.npy"):
        raise InputError(f"{path} is a pickle, which could run code. Let Cellpose save its masks as PNG or TIFF.")
    damaged: tuple[type[Exception], ...] = (tifffile.TiffFileError, *READ_ERRORS)
    try:
        if path.suffix.lower() == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        if path.suffix.lower() in (".tif", ".tiff"):
            return np.asarray(tifffile.imread(path))
        with Image.open(path) as image:
            return np.asarray(image)  # of a palette, the indices
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}.") from error
    except damaged as error:
        raise InputError(f"{path} is no intact label image (TIFF, PNG or .npy): {reason_of(error)}.") from error


def _checked_labels(pixels: NDArray[Any], shape: tuple[int, ...], what: str) -> NDArray[np.int32]:
    pixels = pixels.reshape([n for n in pixels.shape if n != 1]) if pixels.ndim > 2 else pixels
    if pixels.ndim != 2:
        raise InputError(
            f"{what} has the shape {pixels.shape}; one plane (Y, X) of ids is needed, no colours and no stack."
        )
    if pixels.shape != shape:
        raise InputError(f"{what} has {pixels.shape} pixels, the image {shape}: they do not belong together.")
    if pixels.dtype.kind not in "buif" or not np.isfinite(pixels).all():
        raise InputError(f"{what} has the dtype {pixels.dtype} or values that are no numbers; ids are needed.")
    if pixels.size and (pixels.min() < 0 or (pixels.dtype.kind == "f" and (pixels != np.floor(pixels)).any())):
        raise InputError(f"{what} has values such as {pixels.min()}: ids are whole numbers from 0 on.")
    largest = int(pixels.max(initial=0))
    if largest > LARGEST_ID:
        ids, dense = np.unique(pixels, return_inverse=True)
        cells = (dense.reshape(shape) + (ids[0] != 0)).astype(np.int32)
        warn_of_input(f"{what} has ids up to {largest:,}: the cells are numbered anew.", is_doubt=False)
    else:
        cells = pixels.astype(np.int32)
    if not cells.any():
        raise InputError(f"{what} holds no cell: all its labels are 0.")
    if largest and not np.ptp(cells[cells > 0]) and (n := ndimage.label(cells)[1]) > 1:
        warn_of_input(
            f"{what} is a mask of one id in {n:,} pieces: all of it is one cell. Number the pieces first, as "
            "scipy.ndimage.label does."
        )
    return np.asarray(cells, np.int32)
