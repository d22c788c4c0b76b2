"""Draw the smear that ships with the program, and write its truth beside it.

Run it from the root of the repository: ``python training/make_shipped_smear.py``. The same code gives the same cells.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from napari_bloodcell.core.cells import CENTROID
from napari_bloodcell.synthetic import shipped

FOLDER = Path(__file__).parents[1] / "src" / "napari_bloodcell" / "data"


def main(folder: Path) -> None:
    """Write picture, label image and truth to `folder`."""
    smear = shipped.draw_shipped()
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(smear.image).save(folder / shipped.IMAGE_NAME, quality=93, subsampling=0)
    Image.fromarray(smear.cells.astype(np.uint16)).save(folder / shipped.CELLS_NAME, optimize=True)
    table = smear.table.reset_index()
    table["overlap"] = table["overlap"].round(4)
    table[list(CENTROID)] = table[list(CENTROID)].round(2)
    cells = ",\n".join(json.dumps(row) for row in table.to_dict("records"))
    head = {"seed": shipped.SHIPPED_SEED, "shape": list(shipped.SHIPPED_SHAPE), "counts": smear.counts}
    text = json.dumps(head)[:-1] + ', "cells": [\n' + cells + "\n]}\n"
    (folder / shipped.TRUTH_NAME).write_text(text, "utf-8")
    sys.stdout.write(f"{smear.counts} written to {folder}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
