"""What is found in a whole slide: arrays on disk, read where they are looked at."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_bloodcell.core.cells import type_names
from napari_bloodcell.core.errors import READ_ERRORS, InputError, reason_of
from napari_bloodcell.core.protocols import FailedTile
from napari_bloodcell.results.ome_zarr import open_levels
from napari_bloodcell.results.plan import Plan
from napari_bloodcell.results.store import PARQUET, SLIDE, ZARR
from napari_bloodcell.results.table import read_parquet
from napari_bloodcell.stages.calibration import seen_area_mm2
from napari_bloodcell.stages.counting import Counting, count

if TYPE_CHECKING:
    import pandas as pd
    import zarr
    from numpy.typing import NDArray

    from napari_bloodcell.core.params import Recipe
    from napari_bloodcell.core.protocols import Calibration


@dataclass(frozen=True, eq=False)
class SlideResult:
    """Everything found in one slide; has what `pipeline.SmearResult` has, with Zarr arrays for pixels.

    Attributes
    ----------
    folder : path
        Where it lies.
    plan : Plan
        The run that made it.
    image_sha256 : str
        Hash of the pixels, block by block.
    failed_tiles : list of FailedTile
        Tiles that hold no cells because they failed; the same command tries them again.
    known_counting : Counting, optional
        Where it was counted just now.
    known_names : tuple of str
        Names of all types, where people added some; () for those of the classifier.
    is_corrected : bool
        Whether people changed cells or types after the run.
    warnings : tuple of str
        Why the numbers are not to be trusted as they are, in sentences for people.
    """

    folder: Path
    plan: Plan
    image_sha256: str
    failed_tiles: list[FailedTile] = field(default_factory=list)
    known_counting: Counting | None = field(default=None, repr=False)
    known_names: tuple[str, ...] = ()
    is_corrected: bool = False
    warnings: tuple[str, ...] = ()

    @cached_property
    def cells(self) -> zarr.Array[Any]:
        """Label image, shape (Y, X), int32: 0 background, ids 1..N; a Zarr array."""
        return open_levels(self.folder / ZARR, "labels/cells", "r")[0]

    @cached_property
    def types(self) -> zarr.Array[Any]:
        """1 + the position of the cell's type in `names`, shape (Y, X), uint8; a Zarr array."""
        return open_levels(self.folder / ZARR, "labels/types", "r")[0]

    def overview(self) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.uint8]]:
        """Return image (Y, X, 3), cells and types (Y, X) at the coarsest level; white where the image is not there."""
        path = self.folder / ZARR
        cells, types = (np.asarray(open_levels(path, f"labels/{name}", "r")[-1][...]) for name in ("cells", "types"))
        if self.plan.copies_image:
            image = np.moveaxis(np.asarray(open_levels(path, "", "r")[-1][...]), 0, -1)
        else:
            image = np.full((*cells.shape, 3), 255, np.uint8)
        return np.ascontiguousarray(image, np.uint8), cells.astype(np.int32), types.astype(np.uint8)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per cell, index = id; read when it is first asked for."""
        return read_parquet(self.folder / PARQUET)

    @cached_property
    def counting(self) -> Counting:
        """Where the counts come from."""
        if self.known_counting is not None:
            return self.known_counting
        plan = self.plan
        return count(
            self.table,
            params=plan.recipe.count,
            rbc_diameter_px=plan.calibration.rbc_diameter_px,
            area_mm2=area_mm2(plan),
        )

    @property
    def counts(self) -> dict[str, int]:
        """Cells per type, RBC after correction for overlap."""
        return self.counting.counts

    @property
    def names(self) -> list[str]:
        """Names of all types."""
        return list(self.known_names) or type_names(self.plan.classes)

    @property
    def calibration(self) -> Calibration:
        """What was measured once for the whole slide."""
        return self.plan.calibration

    @property
    def recipe(self) -> Recipe:
        """The settings used."""
        return self.plan.recipe

    @property
    def models(self) -> dict[str, dict[str, str]]:
        """Stage → name and sha256 of the model that did it."""
        return self.plan.models

    @property
    def image_name(self) -> str:
        """Name of the image, without folder and ending."""
        return self.plan.name

    @property
    def device(self) -> str:
        """What the generator ran on, as "cpu" or "cuda:0"."""
        return self.plan.device


def area_mm2(plan: Plan) -> float | None:
    """Return the area of a slide, mm², where its pixels have a size."""
    size = plan.recipe.segment.pixel_size_um or plan.pixel_size_um
    return seen_area_mm2(plan.shape, size, plan.calibration)


def open_slide_result(folder: str | Path) -> SlideResult:
    """Open the result of a slide.

    Raises
    ------
    InputError
        If the folder holds none, or a damaged one.
    """
    folder = Path(folder)
    try:
        content = json.loads((folder / SLIDE).read_text(encoding="utf-8"))
        plan = Plan.from_json(json.dumps(content["plan"]))
        failed = [FailedTile(**{**tile, "box": tuple(tile["box"])}) for tile in content["failed_tiles"]]
        names = tuple(str(name) for name in content.get("names") or ())
        corrected = bool(content.get("is_corrected", False))
        said = tuple(str(sentence) for sentence in content.get("warnings") or ())
        sha256 = str(content["image_sha256"])
        return SlideResult(folder, plan, sha256, failed, known_names=names, is_corrected=corrected, warnings=said)
    except FileNotFoundError as error:
        raise InputError(f"{folder} holds no result of a slide: {SLIDE} is missing.") from error
    except READ_ERRORS as error:
        raise InputError(f"The result in {folder} is damaged: {reason_of(error)}.") from error


@dataclass(frozen=True, slots=True, eq=False)
class SmearResult:
    """Everything found in one smear.

    Attributes
    ----------
    cells : ndarray of int32, shape (Y, X)
        Label image, 0 background, ids 1..N.
    types : ndarray of uint8, shape (Y, X)
        1 RBC, 2 WBC, 3 platelet, then user classes: 1 + the position of the type in `names`; 0 background.
    table : DataFrame
        One row per cell, index = id; see `cells.COLUMNS`.
    counts : dict of str to int
        Cells per type, RBC after correction for overlap.
    counting : Counting
        Where the counts come from: areas, KDE, peaks, thresholds, posterior, interval.
    names : list of str
        Names of all types.
    calibration : Calibration
        What was measured once for the whole smear.
    recipe : Recipe
        The settings used.
    models : dict
        Stage → {"name", "sha256"} of the model that did it.
    image_name : str
        Name of the image, without folder and ending.
    device : str
        What the generator ran on, as "cpu" or "cuda:0".
    failed_tiles : list of FailedTile
        Tiles that hold no cells because they failed.
    warnings : tuple of str
        Why the numbers are not to be trusted as they are, in sentences for people; empty where nothing speaks against
        them.
    """

    cells: NDArray[np.int32]
    types: NDArray[np.uint8]
    table: pd.DataFrame
    counts: dict[str, int]
    counting: Counting
    names: list[str]
    calibration: Calibration
    recipe: Recipe
    models: dict[str, dict[str, str]]
    image_name: str
    device: str
    failed_tiles: list[FailedTile] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
