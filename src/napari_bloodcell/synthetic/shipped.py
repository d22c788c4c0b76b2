"""The smear shipped with the program, and its truth."""

from __future__ import annotations

import json
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from napari_bloodcell.core.cells import BUILTIN_TYPES
from napari_bloodcell.synthetic.drawing import SyntheticSmear, draw_smear

SHIPPED_SHAPE = (1600, 2304)
SHIPPED_SEED = 11
IMAGE_NAME, CELLS_NAME, TRUTH_NAME = "smear.jpg", "smear_cells.png", "truth.json"


class Truth(TypedDict):
    """The truth of the shipped smear.

    `counts` are cells of each type. `cells` (Y, X) int32 is the number 1..N of the cell on top, `types` (Y, X) uint8 1
    RBC, 2 WBC, 3 platelet; both 0 for empty glass. `table` is that of `SyntheticSmear`.
    """

    counts: dict[str, int]
    cells: NDArray[np.int32]
    types: NDArray[np.uint8]
    table: pd.DataFrame


def shipped_path() -> Traversable:
    """Return the path of the shipped smear's picture."""
    return files("napari_bloodcell") / "data" / IMAGE_NAME


def draw_shipped() -> SyntheticSmear:
    """Draw the shipped smear again."""
    return draw_smear(SHIPPED_SHAPE, seed=SHIPPED_SEED)


def load_shipped() -> tuple[NDArray[np.uint8], Truth]:
    """Return the shipped smear, (Y, X, 3) uint8, and its truth."""
    folder = files("napari_bloodcell") / "data"
    with (folder / IMAGE_NAME).open("rb") as file, Image.open(file) as picture:
        image = np.asarray(picture.convert("RGB"), np.uint8)
    with (folder / CELLS_NAME).open("rb") as file, Image.open(file) as picture:
        cells = np.asarray(picture, np.int32)
    content = json.loads((folder / TRUTH_NAME).read_text("utf-8"))
    table = pd.DataFrame(content["cells"]).set_index("id")
    codes = np.array([0, *(BUILTIN_TYPES.index(name) + 1 for name in table["cell_type"])], np.uint8)
    return image, Truth(counts=content["counts"], cells=cells, types=codes[cells], table=table)
