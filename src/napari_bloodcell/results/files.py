"""Names of the files that a result may have in its folder."""

from __future__ import annotations

COUNTS, CELLS, RECIPE, GEOJSON = "counts.json", "cells.csv", "recipe.json", "cells.geojson"
ZARR, CELLS_TIFF, TYPES_TIFF = "smear.ome.zarr", "cells.tif", "types.tif"
OVERLAY, KDE = "overlay.png", "kde.png"
SLIDE, PARQUET = "slide.json", "cells.parquet"
FILES: tuple[str, ...] = (
    *(COUNTS, CELLS, RECIPE, GEOJSON, ZARR, CELLS_TIFF, TYPES_TIFF, OVERLAY, KDE),
    *(PARQUET, SLIDE),  # the second of a whole slide only
)
"""Every name that a result may have in its folder; nothing else there is ever touched."""
