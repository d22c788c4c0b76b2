"""Writes results into folders and reads them back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_bloodcell.core.cells import type_colour
from napari_bloodcell.core.errors import READ_ERRORS, InputError, SettingsError, reason_of
from napari_bloodcell.core.files import staged
from napari_bloodcell.core.protocols import FailedTile
from napari_bloodcell.corrections.journal import image_hash
from napari_bloodcell.images.open import read_plane
from napari_bloodcell.images.plane import Plane
from napari_bloodcell.results import files
from napari_bloodcell.results.exchange.geojson import to_geojson
from napari_bloodcell.results.ome_zarr import read_labels, rgb, write_ome_zarr
from napari_bloodcell.results.plan import Plan
from napari_bloodcell.results.recipes import (
    ImageRecord,
    RecipeRecord,
    make_record,
    read_record,
    to_json,
)
from napari_bloodcell.results.result import Result
from napari_bloodcell.results.table import read_csv, read_quality, write_csv, write_parquet, write_quality
from napari_bloodcell.stages.parts import PART_PX

LabelFormat = Literal["ome-zarr", "tiff"]

_DAMAGED: tuple[type[Exception], ...] = (SettingsError, *READ_ERRORS)


def write_result(
    result: Result,
    folder: str | Path,
    *,
    image: Plane | NDArray[np.uint8],
    label_format: LabelFormat = "ome-zarr",
    geojson: bool = False,
    pictures: Mapping[str, Callable[[Path], object]] | None = None,
) -> Path:
    """Write a result into a folder, whole or not at all.

    Parameters
    ----------
    result : Result
        Result of `analyse`.
    folder : path
        Made if it is missing. An earlier result in it is replaced; other files are left alone.
    image : Plane or ndarray of uint8, shape (Y, X, 3)
        The image analysed.
    label_format : {"ome-zarr", "tiff"}
        ``smear.ome.zarr`` (image, labels/cells, labels/types), or ``cells.tif`` and ``types.tif``.
    geojson : bool
        Write ``cells.geojson`` for QuPath too.
    pictures : mapping of file name to function, optional
        Each function is called with the path to write, for ``overlay.png`` and ``kde.png``.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    OutputError
        If something cannot be written; an earlier result is then still there.
    """
    plane = image if isinstance(image, Plane) else Plane(image)
    size = result.recipe.segment.pixel_size_um or plane.pixel_size_um
    result = replace(result, image_sha256=image_hash(plane.data), pixel_size_um=size)
    with staged(Path(folder), last=files.RECIPE, stale=files.FILES) as stage:
        _write_pixels(stage, result, None if label_format == "tiff" else plane.data)
        _write_numbers(stage, result, geojson=geojson)
        for name, draw in (pictures or {}).items():
            draw(stage / name)
    return Path(folder)


def rewrite_result(result: Result, folder: Path) -> Result:
    """Write a result whose cells were changed in the place of the one that was read from a folder; return it.

    It has the files that the folder had. Of label TIFFs there is no image, and so no overlay any more.
    """
    from napari_bloodcell.results.pictures import pictures_of_smear

    result = replace(result, numbers={}, known_counting=None)
    result = replace(
        result,
        rows=result.table.assign(cells_in_region=result.counting.cells_in_region),
        known_counting=result.counting,
    )
    plane = read_plane(folder / files.ZARR) if (folder / files.ZARR).is_dir() else None
    had = {name for name in (files.GEOJSON, files.OVERLAY, files.KDE) if (folder / name).is_file()}
    with staged(folder, last=files.RECIPE, stale=files.FILES) as stage:
        _write_pixels(stage, result, None if plane is None else plane.data)
        _write_numbers(stage, result, geojson=files.GEOJSON in had)
        drawn = pictures_of_smear(result, plane or Plane(np.zeros((1, 1, 3), np.uint8)), overlay=plane is not None)
        for name, draw in drawn.items():
            if name in had:
                draw(stage / name)
    return result


def write_slide_result(result: Result, *, geojson: bool = False) -> Result:
    """Write everything but the pixels of a slide's result into its folder, whole or not at all; return the result."""
    if result.folder is None:
        raise ValueError("a result in memory has no folder")
    counting = result.counting
    rows = result.table.assign(cells_in_region=counting.cells_in_region)
    stale = (files.QUALITY, files.GEOJSON, files.CELLS_TIFF, files.TYPES_TIFF, files.OVERLAY, files.KDE)
    with staged(result.folder, last=files.RECIPE, stale=stale) as stage:
        _write_numbers(stage, replace(result, rows=rows, known_counting=counting), geojson=geojson)
    return replace(result, rows=result.folder / files.PARQUET, known_counting=counting)


def _write_numbers(stage: Path, result: Result, *, geojson: bool) -> None:
    """Write table, counts, outlines and recipe; for a slide also the plan of its run."""
    write_csv(stage / files.CELLS, result.table, pixel_size_um=result.pixel_size_um)
    write_parquet(stage / files.PARQUET, result.table, pixel_size_um=result.pixel_size_um)
    (stage / files.COUNTS).write_bytes(json_text(numbers_of(result)).encode())
    if result.quality is not None:
        write_quality(stage / files.QUALITY, result.quality)
    if geojson:
        part_px = PART_PX if result.plan is None else result.plan.block_px
        outlines = to_geojson(result.cells, result.table, result.names, image_id=result.image_sha256, part_px=part_px)
        with (stage / files.GEOJSON).open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(outlines)
    if result.plan is not None:
        about = {
            "plan": json.loads(result.plan.to_json()),
            "image_sha256": result.image_sha256,
            "failed_tiles": [asdict(tile) for tile in result.failed_tiles],
            "warnings": list(result.warnings),
            "names": list(result.names),
            "is_corrected": result.is_corrected,
        }
        (stage / files.SLIDE).write_bytes(json_text(about).encode())
    (stage / files.RECIPE).write_bytes(to_json(record_of(result)).encode())


def read_result(folder: str | Path) -> Result:
    """Open a result; a slide's pixels stay on disk, and its table is read when it is first used.

    Raises
    ------
    InputError
        If the folder holds no result, or a damaged one.
    """
    folder = Path(folder)
    if not (folder / files.RECIPE).is_file():
        raise InputError(f"{folder} holds no result: {files.RECIPE} is missing. Give the folder of one image.")
    try:
        record = read_record(folder / files.RECIPE)
        numbers = json.loads((folder / files.COUNTS).read_text(encoding="utf-8"))
        numbers["counts"] = {str(name): int(n) for name, n in numbers["counts"].items()}
        what: dict[str, Any] = {
            "names": [str(entry["name"]) for entry in numbers["types"]],
            "failed_tiles": [FailedTile(**{**t, "box": tuple(t["box"])}) for t in numbers.get("failed_tiles") or ()],
            "warnings": tuple(map(str, numbers.get("warnings") or ())),
            "image_sha256": record.image.sha256,
            "pixel_size_um": record.image.pixel_size_um,
            "numbers": numbers,
            "record": record,
            "quality": read_quality(folder / files.QUALITY),
        }
        result = _open_slide(folder, what) if (folder / files.SLIDE).is_file() else _read_whole(folder, record, what)
    except _DAMAGED as error:
        raise InputError(f"The result in {folder} is damaged: {reason_of(error)}.") from error
    shape = (record.image.height, record.image.width)
    if result.cells.shape != shape or result.types.shape != shape:
        raise InputError(
            f"The result in {folder} is damaged: its label images have the shapes {result.cells.shape} and "
            f"{result.types.shape}, its image {shape}."
        )
    return result


open_slide_result = read_result


def _open_slide(folder: Path, what: dict[str, Any]) -> Result:
    about = json.loads((folder / files.SLIDE).read_text(encoding="utf-8"))
    plan, is_corrected = Plan.from_json(json.dumps(about["plan"])), bool(about.get("is_corrected", False))
    return Result.of_plan(folder, plan, folder / files.PARQUET, is_corrected=is_corrected, **what)


def _read_whole(folder: Path, record: RecipeRecord, what: dict[str, Any]) -> Result:
    cells, types = read_labels(folder / files.ZARR) if (folder / files.ZARR).is_dir() else _read_tiffs(folder)
    return Result(
        cells,
        types,
        read_csv(folder / files.CELLS),
        calibration=record.calibration,
        recipe=record.recipe,
        models={stage: model.model_dump() for stage, model in record.models.items()},
        image_name=record.image.name,
        device=record.device,
        **what,
    )


def record_of(result: Result) -> RecipeRecord:
    """Return the content of a result's ``recipe.json``."""
    height, width = result.cells.shape
    return make_record(
        result.recipe,
        models=result.models,
        image=ImageRecord(
            name=result.image_name,
            sha256=result.image_sha256,
            height=height,
            width=width,
            pixel_size_um=result.pixel_size_um,
        ),
        calibration=result.calibration,
        device=str(result.device),
    )


def numbers_of(result: Result) -> dict[str, Any]:
    """Return the content of a result's ``counts.json``; areas are in pixels²."""
    counting = result.counting
    return {
        "image": result.image_name,
        "counts": dict(counting.counts),
        "uncorrected": dict(counting.uncorrected),
        "edges": counting.edges,
        "counted": dict(counting.counted),
        "area_mm2": counting.area_mm2,
        "rbc_interval_95": None if counting.interval is None else list(counting.interval),
        "rbc_mean": counting.posterior.mean,
        "rule": counting.rule,
        "thresholds_px": counting.thresholds.tolist(),
        "peaks_px": counting.peaks.tolist(),
        "bandwidth_px": counting.bandwidth,
        "single_area_px": counting.single_area,
        "differential_percent": dict(counting.differential),
        "differential": counting.differential_table.to_dict("index"),
        "nrbc_per_100_wbc": counting.nrbc_per_100_wbc,
        "abnormal": counting.n_abnormal,
        "morphology": counting.morphology_table.to_dict("index"),
        "parasitaemia": result.parasitaemia,
        "red_cells": None if counting.population is None else counting.population.as_dict(result.pixel_size_um),
        "per_mm2": counting.per_mm2,
        "quality": None
        if (quality := result.quality) is None
        else {
            "verdict": quality.verdict,
            "reasons": list(quality.reasons),
            "share_good": quality.share_good,
            "counts_in_good": result.counts_in_good,
        },
        "rbc_diameter_px": result.calibration.rbc_diameter_px,
        "pixel_size_um": result.pixel_size_um,
        "types": [
            {"code": i + 1, "name": name, "colour": type_colour(name, result.names)}
            for i, name in enumerate(result.names)
        ],
        "failed_tiles": [asdict(tile) for tile in result.failed_tiles],
        "warnings": list(result.warnings),
    }


def json_text(content: Any) -> str:
    """Return content as JSON; numbers that are not finite become null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        if isinstance(value, np.generic):
            value = value.item()
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _write_pixels(folder: Path, result: Result, image: NDArray[np.uint8] | None) -> None:
    """Write the label images: with the image as OME-Zarr, without as TIFF."""
    if image is None:
        _write_tiffs(folder, result)
        return
    write_ome_zarr(
        folder / files.ZARR,
        image=image,
        cells=result.cells,
        types=result.types,
        names=result.names,
        name=result.image_name,
        pixel_size_um=result.pixel_size_um,
    )


def _write_tiffs(folder: Path, result: Result) -> None:
    """Write ``cells.tif`` (16 bits if the ids fit, for ImageJ) and ``types.tif`` (with its colours)."""
    import tifffile

    options: dict[str, Any] = {"compression": "zlib", "software": "napari-bloodcell", "metadata": None}
    if result.pixel_size_um:  # as ImageJ writes it: with a resolution per centimetre alone, it would show centimetres
        per_um = 1 / result.pixel_size_um
        options |= {"resolution": (per_um, per_um), "resolutionunit": "NONE"}
        options["description"] = "ImageJ=1.54f\nimages=1\nunit=micron\n"
    dtype = np.uint16 if result.cells.max(initial=0) < 2**16 else np.uint32
    tifffile.imwrite(folder / files.CELLS_TIFF, result.cells.astype(dtype), photometric="minisblack", **options)
    colours = np.zeros((3, 256), np.uint16)
    for code, name in enumerate(result.names[:255], start=1):
        colours[:, code] = rgb(type_colour(name, result.names))
    colours *= 257
    tifffile.imwrite(folder / files.TYPES_TIFF, result.types, photometric="palette", colormap=colours, **options)


def _read_tiffs(folder: Path) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    import tifffile

    damaged: tuple[type[Exception], ...] = (tifffile.TiffFileError, *READ_ERRORS)
    try:
        cells = np.asarray(tifffile.imread(folder / files.CELLS_TIFF))
        types = np.asarray(tifffile.imread(folder / files.TYPES_TIFF))
    except damaged as error:
        raise InputError(f"The label images of {folder} are missing or damaged: {reason_of(error)}.") from error
    return cells.astype(np.int32), types.astype(np.uint8)
