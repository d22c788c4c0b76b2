"""Writes the result of a smear into a folder, and reads it back."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from napari_bloodcell.core.cells import type_colour
from napari_bloodcell.core.errors import READ_ERRORS, InputError, SettingsError, reason_of
from napari_bloodcell.core.files import staged
from napari_bloodcell.corrections.journal import image_hash
from napari_bloodcell.images.plane import Plane
from napari_bloodcell.results.geojson import to_geojson
from napari_bloodcell.results.ome_zarr import read_labels, rgb, write_ome_zarr
from napari_bloodcell.results.recipes import (
    CalibrationRecord,
    ImageRecord,
    RecipeRecord,
    make_record,
    read_record,
    to_json,
)
from napari_bloodcell.results.table import read_csv, write_csv, write_parquet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from napari_bloodcell.core.params import Recipe
    from napari_bloodcell.core.protocols import Calibration
    from napari_bloodcell.stages.counting import Counting

LabelFormat = Literal["ome-zarr", "tiff"]
COUNTS, CELLS, RECIPE, GEOJSON = "counts.json", "cells.csv", "recipe.json", "cells.geojson"
ZARR, CELLS_TIFF, TYPES_TIFF = "smear.ome.zarr", "cells.tif", "types.tif"
OVERLAY, KDE = "overlay.png", "kde.png"
SLIDE, PARQUET = "slide.json", "cells.parquet"
FILES: tuple[str, ...] = (
    *(COUNTS, CELLS, RECIPE, GEOJSON, ZARR, CELLS_TIFF, TYPES_TIFF, OVERLAY, KDE),
    *(PARQUET, SLIDE),  # the second of a whole slide only
)
"""Every name that a result may have in its folder; nothing else there is ever touched."""

_DAMAGED: tuple[type[Exception], ...] = (SettingsError, *READ_ERRORS)


class Result(Protocol):
    """What is written of a result; `pipeline.SmearResult` has it."""

    @property
    def cells(self) -> NDArray[np.int32]: ...  # noqa: D102
    @property
    def types(self) -> NDArray[np.uint8]: ...  # noqa: D102
    @property
    def table(self) -> pd.DataFrame: ...  # noqa: D102
    @property
    def counts(self) -> dict[str, int]: ...  # noqa: D102
    @property
    def counting(self) -> Counting: ...  # noqa: D102
    @property
    def names(self) -> list[str]: ...  # noqa: D102
    @property
    def calibration(self) -> Calibration: ...  # noqa: D102
    @property
    def recipe(self) -> Recipe: ...  # noqa: D102
    @property
    def models(self) -> Mapping[str, Mapping[str, str]]: ...  # noqa: D102
    @property
    def image_name(self) -> str: ...  # noqa: D102
    @property
    def device(self) -> str: ...  # noqa: D102
    @property
    def failed_tiles(self) -> Sequence[Any]: ...  # noqa: D102
    @property
    def warnings(self) -> tuple[str, ...]: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class StoredResult:
    """A result that was read from its folder.

    Attributes
    ----------
    cells : ndarray of int32, shape (Y, X)
        Label image, ids 1..N.
    types : ndarray of uint8, shape (Y, X)
        1 + the position of the cell's type in `names`.
    table : DataFrame
        The cell table, index = id.
    counts : dict of str to int
        Cells per type, corrected for overlap.
    names : list of str
        Names of all types.
    numbers : dict
        The whole of ``counts.json``.
    record : RecipeRecord
        The whole of ``recipe.json``.
    """

    cells: NDArray[np.int32]
    types: NDArray[np.uint8]
    table: pd.DataFrame
    counts: dict[str, int]
    names: list[str]
    numbers: dict[str, Any]
    record: RecipeRecord

    @property
    def recipe(self) -> Recipe:
        """Settings of every stage."""
        return self.record.recipe

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why the numbers are not to be trusted as they are; () where nothing is said against them."""
        return tuple(map(str, self.numbers.get("warnings") or ()))


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
    result : SmearResult
        What `analyse` returned.
    folder : path
        Made if it is missing. An earlier result in it is replaced; other files are left alone.
    image : Plane or ndarray of uint8, shape (Y, X, 3)
        What was analysed.
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
    record = record_of(result, plane)
    with staged(Path(folder), last=RECIPE, stale=FILES) as stage:
        if label_format == "tiff":
            _write_tiffs(stage, result, record.image.pixel_size_um)
        else:
            write_ome_zarr(
                stage / ZARR,
                image=plane.data,
                cells=result.cells,
                types=result.types,
                names=result.names,
                name=result.image_name,
                pixel_size_um=record.image.pixel_size_um,
            )
        write_csv(stage / CELLS, result.table, pixel_size_um=record.image.pixel_size_um)
        write_parquet(stage / PARQUET, result.table, pixel_size_um=record.image.pixel_size_um)
        (stage / COUNTS).write_bytes(json_text(numbers_of(result, record)).encode())
        if geojson:
            with (stage / GEOJSON).open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(to_geojson(result.cells, result.table, result.names, image_id=record.image.sha256))
        for name, draw in (pictures or {}).items():
            draw(stage / name)
        (stage / RECIPE).write_bytes(to_json(record).encode())
    return Path(folder)


def read_result(folder: str | Path) -> StoredResult:
    """Read what `write_result` wrote.

    Raises
    ------
    InputError
        If the folder holds no result, or a damaged one.
    """
    folder = Path(folder)
    if not (folder / RECIPE).is_file():
        raise InputError(f"{folder} holds no result: {RECIPE} is missing. Give the folder of one image.")
    if (folder / SLIDE).is_file():
        raise InputError(f"{folder} holds a whole slide, which is not read at once; use open_slide_result.")
    try:
        record = read_record(folder / RECIPE)
        numbers = json.loads((folder / COUNTS).read_text(encoding="utf-8"))
        counts = {str(name): int(n) for name, n in numbers["counts"].items()}
        names = [str(entry["name"]) for entry in numbers["types"]]
        table = read_csv(folder / CELLS)
    except _DAMAGED as error:
        raise InputError(f"The result in {folder} is damaged: {reason_of(error)}.") from error
    cells, types = read_labels(folder / ZARR) if (folder / ZARR).is_dir() else _read_tiffs(folder)
    if cells.shape != (record.image.height, record.image.width) or types.shape != cells.shape:
        raise InputError(
            f"The result in {folder} is damaged: its label images have the shapes {cells.shape} and {types.shape}, "
            f"its image {(record.image.height, record.image.width)}."
        )
    return StoredResult(cells, types, table, counts, names, numbers, record)


def record_of(result: Result, plane: Plane) -> RecipeRecord:
    """Return what ``recipe.json`` says of a result."""
    height, width = plane.data.shape[:2]
    pixel_size = result.recipe.segment.pixel_size_um or plane.pixel_size_um
    return make_record(
        result.recipe,
        models=result.models,
        image=ImageRecord(
            name=result.image_name,
            sha256=image_hash(plane.data),
            height=height,
            width=width,
            pixel_size_um=pixel_size,
        ),
        calibration=CalibrationRecord.model_validate(asdict(result.calibration)),
        device=str(result.device),
    )


def numbers_of(result: Result, record: RecipeRecord) -> dict[str, Any]:
    """Return what ``counts.json`` says of a result; areas are in pixels²."""
    counting = result.counting
    return {
        "image": result.image_name,
        "counts": dict(result.counts),
        "uncorrected": dict(counting.uncorrected),
        "rbc_interval_95": None if counting.interval is None else list(counting.interval),
        "rbc_mean": counting.posterior.mean,
        "rule": counting.rule,
        "thresholds_px": counting.thresholds.tolist(),
        "peaks_px": counting.peaks.tolist(),
        "bandwidth_px": counting.bandwidth,
        "single_area_px": counting.single_area,
        "differential_percent": dict(counting.differential),
        "per_mm2": counting.per_mm2,
        "rbc_diameter_px": result.calibration.rbc_diameter_px,
        "pixel_size_um": record.image.pixel_size_um,
        "types": [
            {"code": i + 1, "name": name, "colour": type_colour(name, result.names)}
            for i, name in enumerate(result.names)
        ],
        "failed_tiles": [asdict(tile) for tile in result.failed_tiles],
        "warnings": list(result.warnings),
    }


def json_text(content: Any) -> str:
    """Return content as JSON; what is not a finite number becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        if isinstance(value, np.generic):
            value = value.item()
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _write_tiffs(folder: Path, result: Result, pixel_size_um: float | None) -> None:
    """Write ``cells.tif`` (16 bits where the ids fit, as ImageJ reads them) and ``types.tif`` (with its colours)."""
    import tifffile

    options: dict[str, Any] = {"compression": "zlib", "software": "napari-bloodcell", "metadata": None}
    if pixel_size_um:
        options |= {"resolution": (1e4 / pixel_size_um, 1e4 / pixel_size_um), "resolutionunit": "CENTIMETER"}
    dtype = np.uint16 if result.cells.max(initial=0) < 2**16 else np.uint32
    tifffile.imwrite(folder / CELLS_TIFF, result.cells.astype(dtype), photometric="minisblack", **options)
    colours = np.zeros((3, 256), np.uint16)
    for code, name in enumerate(result.names[:255], start=1):
        colours[:, code] = rgb(type_colour(name, result.names))
    colours *= 257
    tifffile.imwrite(folder / TYPES_TIFF, result.types, photometric="palette", colormap=colours, **options)


def _read_tiffs(folder: Path) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    import tifffile

    damaged: tuple[type[Exception], ...] = (tifffile.TiffFileError, *READ_ERRORS)
    try:
        cells = np.asarray(tifffile.imread(folder / CELLS_TIFF))
        types = np.asarray(tifffile.imread(folder / TYPES_TIFF))
    except damaged as error:
        raise InputError(f"The label images of {folder} are missing or damaged: {reason_of(error)}.") from error
    return cells.astype(np.int32), types.astype(np.uint8)
