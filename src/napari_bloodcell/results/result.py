"""The result of an image, in memory or on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_bloodcell.core.cells import BOX, CENTROID, RBC, type_names
from napari_bloodcell.core.extras import needed
from napari_bloodcell.core.params import Recipe
from napari_bloodcell.core.protocols import Calibration, FailedTile
from napari_bloodcell.results.files import ZARR
from napari_bloodcell.results.ome_zarr import open_levels
from napari_bloodcell.results.plan import Plan
from napari_bloodcell.results.recipes import RecipeRecord
from napari_bloodcell.results.table import read_parquet
from napari_bloodcell.stages.calibration import SeenField
from napari_bloodcell.stages.counting import Counting
from napari_bloodcell.stages.quality.places import count_places, counts_in_good
from napari_bloodcell.stages.quality.verdicts import Quality
from napari_bloodcell.stages.red_cells.shapes import INFECTED, parasitaemia

PARASITES = "parasites"
"""Name of the model that looks for infected red cells."""


@dataclass(frozen=True, eq=False)
class Result:
    """Everything found in one image.

    Attributes
    ----------
    cells : array of int32, shape (Y, X)
        Label image, 0 background, ids 1..N: a NumPy array, or a Zarr array if the image is larger than memory.
    types : array of uint8, shape (Y, X)
        1 RBC, 2 WBC, 3 platelet, then user classes: 1 + the position of the type in `names`; 0 background.
    rows : DataFrame or path
        The cell table, or the Parquet file that `table` is read from when it is first asked for.
    names : list of str
        Names of all types.
    calibration : Calibration
        Measurements of the whole image.
    recipe : Recipe
        The settings used.
    models : dict
        Stage → {"name", "sha256"} of the model that did it.
    image_name : str
        Name of the image, without folder and ending.
    device : str
        Device of the generator, such as "cpu" or "cuda:0".
    failed_tiles : list of FailedTile
        Tiles that hold no cells because they failed; of a slide the same command tries them again.
    warnings : tuple of str
        Why the numbers are not to be trusted as they are, in sentences for people; () if nothing speaks against them.
    pixel_size_um : float or None
        Micrometres per pixel, of the settings or of the image.
    image_sha256 : str
        Hash of the image's pixels; "" before it is written.
    folder : path, optional
        Its folder, if it was read, or written part by part.
    plan : Plan, optional
        The run that made it part by part.
    is_corrected : bool
        Whether people changed cells or types after that run.
    known_counting : Counting, optional
        The counting, if it was made just now.
    numbers : dict
        The whole of ``counts.json``, if it was read.
    record : RecipeRecord, optional
        The whole of ``recipe.json``, if it was read.
    quality : Quality, optional
        How good its places are for counting; None if that was not asked for, or the result is of an earlier version.
    """

    cells: Any
    types: Any
    rows: pd.DataFrame | Path = field(repr=False)
    names: list[str]
    calibration: Calibration
    recipe: Recipe
    models: Mapping[str, Mapping[str, str]]
    image_name: str
    device: str
    failed_tiles: Sequence[FailedTile] = ()
    warnings: tuple[str, ...] = ()
    pixel_size_um: float | None = None
    image_sha256: str = ""
    folder: Path | None = None
    plan: Plan | None = None
    is_corrected: bool = False
    known_counting: Counting | None = field(default=None, repr=False)
    numbers: dict[str, Any] = field(default_factory=dict, repr=False)
    record: RecipeRecord | None = field(default=None, repr=False)
    quality: Quality | None = field(default=None, repr=False)

    @classmethod
    def of_plan(cls, folder: Path, plan: Plan, rows: pd.DataFrame | Path, **what: Any) -> Self:
        """Return the result of a run whose pixels lie in the OME-Zarr of a folder."""
        cells, types = (open_levels(folder / ZARR, f"labels/{name}", "r")[0] for name in ("cells", "types"))
        values: dict[str, Any] = {
            "names": type_names(plan.classes),
            "calibration": plan.calibration,
            "recipe": plan.recipe,
            "models": plan.models,
            "image_name": plan.name,
            "device": plan.device,
            "pixel_size_um": plan.pixel_size_used_um,
        }
        return cls(cells, types, rows, folder=folder, plan=plan, **values | what)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per cell, index = id; its columns are `core.cells.COLUMNS`."""
        return read_parquet(self.rows) if isinstance(self.rows, Path) else self.rows

    @cached_property
    def counting(self) -> Counting:
        """The source of the counts: areas, KDE, peaks, thresholds, posterior, interval."""
        return self.known_counting or count_places(
            self.table,
            self.quality,
            params=self.recipe.count,
            rbc_diameter_px=self.calibration.rbc_diameter_px,
            field=SeenField.of(self.cells.shape, self.calibration, self.recipe.segment, self.pixel_size_um),
        )

    @property
    def differential(self) -> pd.DataFrame:
        """Kinds of white cells: index kind, columns `n`, `percent`, `low` and `high` (exact 95 % interval)."""
        return self.counting.differential_table

    @property
    def morphology(self) -> pd.DataFrame:
        """Shapes of red cells: index kind, columns `n`, `percent`, `low`, `high`, `grade` and `p_…` of each grade."""
        return self.counting.morphology_table

    @property
    def parasitaemia(self) -> dict[str, Any] | None:
        """Infected red cells in percent of all, with their exact interval; None where no model looked for them."""
        found = self.counting.red_kinds.get(INFECTED, 0)
        looked = found or PARASITES in self.models
        target = self.recipe.count.parasitaemia_target
        return parasitaemia(found, self.counting.counts[RBC], target) if looked else None

    @property
    def counts(self) -> dict[str, int]:
        """Cells per type, RBC after correction for overlap."""
        stored: dict[str, int] | None = self.numbers.get("counts")
        return dict(stored) if stored is not None else self.counting.counts

    def to_anndata(self) -> Any:
        """Return the cells as an `anndata.AnnData`, which scanpy, squidpy and SpatialData read.

        Returns
        -------
        AnnData
            `X` (N, K) float32 has the numbers of the table: areas, probabilities, measurements; `var_names` are their
            columns. `obs`, named by the cells' ids, has types, kinds, marks and boxes, ``obsm["spatial"]`` (N, 2)
            float64 the centres (x, y) in pixels. ``uns["napari_bloodcell"]`` has the image, µm per pixel, counts and
            models; ``uns["spatialdata_attrs"]`` tells SpatialData that ids are those of the label image "cells".

        Raises
        ------
        InputError
            If anndata is not installed.
        """
        anndata = needed("anndata", extra="anndata", what="AnnData")
        table = self.table
        names = [n for n in table.columns if table[n].dtype.kind in "if" and n not in (*BOX, *CENTROID)]
        about = table.drop(columns=[*names, *CENTROID])
        texts = {n: _categories(about[n]) for n in about.columns if about[n].dtype.kind not in "ifb"}
        about = about.assign(**texts, cell_id=table.index.to_numpy(), region=_categories(["cells"] * len(table)))
        about.index = pd.Index([str(i) for i in table.index], dtype=object)
        return anndata.AnnData(
            X=table[names].to_numpy(np.float32),
            obs=about,
            var=pd.DataFrame(index=pd.Index(names, dtype=object)),
            obsm={"spatial": table[list(reversed(CENTROID))].to_numpy(np.float64)},
            uns={
                "napari_bloodcell": {
                    "image": self.image_name,
                    "image_sha256": self.image_sha256,
                    "pixel_size_um": float("nan") if self.pixel_size_um is None else self.pixel_size_um,
                    "counts": self.counts,
                    "models": {stage: dict(model) for stage, model in self.models.items()},
                },
                "spatialdata_attrs": {"region": "cells", "region_key": "region", "instance_key": "cell_id"},
            },
        )

    @property
    def counts_in_good(self) -> dict[str, int] | None:
        """Cells per type in good tiles; None where the quality is not known."""
        if self.quality is None:
            return None
        counted = self.table.assign(cells_in_region=self.counting.cells_in_region)
        return counts_in_good(counted, self.quality, list(self.counting.counts))

    def overview(self) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.uint8]]:
        """Return image (Y, X, 3), cells and types (Y, X) of a result on disk at the coarsest level of its OME-Zarr.

        The image is white if it was not copied.
        """
        if self.folder is None or self.plan is None:
            raise ValueError("a result in memory has no coarser levels")
        path = self.folder / ZARR
        cells, types = (np.asarray(open_levels(path, f"labels/{name}", "r")[-1][...]) for name in ("cells", "types"))
        if self.plan.copies_image:
            image = np.moveaxis(np.asarray(open_levels(path, "", "r")[-1][...]), 0, -1)
        else:
            image = np.full((*cells.shape, 3), 255, np.uint8)
        return np.ascontiguousarray(image, np.uint8), cells.astype(np.int32), types.astype(np.uint8)


def _categories(texts: Iterable[Any]) -> pd.Categorical:
    """Return texts as categories of Python's strings; AnnData files do not take those of Arrow."""
    values = [text if isinstance(text, str) else "" for text in texts]
    return pd.Categorical(values, categories=pd.Index(sorted(set(values)), dtype=object))


SmearResult = SlideResult = StoredResult = Result
"""Names by which earlier versions told apart results in memory, on disk and read from a folder."""
