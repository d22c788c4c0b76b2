"""Names of the files in a result's folder."""

from __future__ import annotations

COUNTS, CELLS, RECIPE, GEOJSON = "counts.json", "cells.csv", "recipe.json", "cells.geojson"
ZARR, CELLS_TIFF, TYPES_TIFF = "smear.ome.zarr", "cells.tif", "types.tif"
OVERLAY, KDE = "overlay.png", "kde.png"
SLIDE, PARQUET = "slide.json", "cells.parquet"
QUALITY = "quality.csv"
REPORT = "report.html"
FILES: tuple[str, ...] = (
    *(COUNTS, CELLS, RECIPE, GEOJSON, ZARR, CELLS_TIFF, TYPES_TIFF, OVERLAY, KDE),
    *(PARQUET, SLIDE, REPORT, QUALITY),  # SLIDE only for whole slides
)
"""Every file a result may have; nothing else in its folder is ever touched."""
