"""Counts of good places."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import pandas as pd

from napari_bloodcell.core.cells import centroids_of
from napari_bloodcell.core.params import CountParams
from napari_bloodcell.core.progress import drained
from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.stages.calibration import SeenField
from napari_bloodcell.stages.counting import Counting, iter_count
from napari_bloodcell.stages.quality.verdicts import Quality


def iter_count_places(
    table: pd.DataFrame,
    quality: Quality | None,
    *,
    params: CountParams,
    rbc_diameter_px: float,
    field: SeenField,
) -> Generator[Progress, None, Counting]:
    """Count the cells of a smear as `iter_count` does; with `params.quality` "good only" those in good tiles."""
    if quality is None or params.quality != "good only":
        return (yield from iter_count(table, params=params, rbc_diameter_px=rbc_diameter_px, field=field))
    counting = yield from iter_count(
        table[quality.contains(centroids_of(table))],
        params=params,
        rbc_diameter_px=rbc_diameter_px,
        field=replace(field, outline=quality),
        candidates=table,
    )
    return replace(counting, cells_in_region=counting.cells_in_region.reindex(table.index, fill_value=1))


count_places = drained(iter_count_places)
"""`iter_count_places`, run to its end."""


def counts_in_good(table: pd.DataFrame, quality: Quality, names: list[str]) -> dict[str, int]:
    """Return the cells per type of a counted table whose middle lies in a good tile."""
    good = table[quality.contains(centroids_of(table))]
    found = good.groupby("cell_type")["cells_in_region"].sum()
    return {name: int(found.get(name, 0)) for name in names}
