"""Send a result to the OMERO image that it is of: cells as ROIs, tables as attachments. Needs omero-py.

Written by OMERO's documentation for Python, and not tried on a server.

    python to_omero.py results/42_smear.svs --image 42 --host omero.example.org --user ada
"""

from __future__ import annotations

import argparse
import getpass
from pathlib import Path
from typing import Any

import napari_bloodcell as nb
from napari_bloodcell.core.cells import full_name, type_colour
from napari_bloodcell.core.outlines import iter_polygons

NAMESPACE = "napari-bloodcell"
AT_ONCE = 500  # ROIs sent together


def polygons_of(result: nb.Result) -> list[tuple[str, str, str]]:
    """Return name, colour ("#rrggbb") and points ("x,y x,y …", pixels) of each piece of each cell."""
    found = []
    for cell, pieces in iter_polygons(result.cells[...]):
        row = result.table.loc[cell]
        name = full_name(str(row["cell_type"]), str(row["subtype"] or ""))
        colour = type_colour(str(row["cell_type"]), result.names) if row["cell_type"] else "#8a8f98"
        for outer, *_holes in pieces:
            corners = zip(outer[:-2:2], outer[1:-2:2], strict=True)
            found.append((f"{cell} {name}", colour, " ".join(f"{x},{y}" for x, y in corners)))
    return found


def send(connection: Any, image_id: int, folder: Path) -> None:
    """Add ROIs and attachments to an image."""
    from omero.model import PolygonI, RoiI
    from omero.rtypes import rint, rstring

    image = connection.getObject("Image", image_id)
    rois = []
    for text, colour, points in polygons_of(nb.read_result(folder)):
        shape = PolygonI()
        shape.points, shape.textValue = rstring(points), rstring(text)
        rgba = int(colour[1:] + "ff", 16)
        shape.strokeColor = rint(rgba - 2**32 if rgba >= 2**31 else rgba)  # a signed number
        roi = RoiI()
        roi.addShape(shape)
        roi.setImage(image._obj)
        rois.append(roi)
    for start in range(0, len(rois), AT_ONCE):
        connection.getUpdateService().saveCollection(rois[start : start + AT_ONCE])
    for name in ("cells.csv", "counts.json", "recipe.json"):
        if (folder / name).is_file():
            image.linkAnnotation(connection.createFileAnnfromLocalFile(str(folder / name), ns=NAMESPACE))


def main() -> None:
    """Send the result of the command line."""
    from omero.gateway import BlitzGateway

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--image", type=int, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--user", required=True)
    given = parser.parse_args()
    with BlitzGateway(given.user, getpass.getpass(), host=given.host, secure=True) as connection:
        send(connection, given.image, given.folder)


if __name__ == "__main__":
    main()
