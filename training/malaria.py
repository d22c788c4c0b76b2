"""Malaria smears in many stains: fields with their cells, on which nothing was trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from napari_bloodcell.learning.dataset import read_picture
from training.cnn_masks import RBC, WBC

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Field = tuple[str, NDArray[np.uint8], NDArray[np.float64]]


def iml_fields(data: Path) -> Iterator[Field]:
    """Yield (file, image, boxes) of iml_malaria; boxes (N, 5) are class, y0, x0, y1, x1 in pixels: all red cells."""
    for file, rows in pd.read_csv(data / "iml_malaria" / "boxes.csv").groupby("file"):
        kinds = np.full(len(rows), RBC)
        boxes = np.stack([kinds, rows["y"], rows["x"], rows["y"] + rows["h"], rows["x"] + rows["w"]], 1)
        yield str(file), read_picture(data / "iml_malaria" / str(file)), boxes.astype(float)


def bbbc_fields(data: Path) -> Iterator[Field]:
    """Yield the same of bbbc041, with the boxes of the masks that have a class."""
    folder = data / "bbbc041"
    for name, rows in pd.read_csv(folder / "cells.csv").groupby("image"):
        windows = ndimage.find_objects(np.asarray(Image.open(folder / f"{name}_inst.png")).astype(np.int32))
        boxes = [
            (WBC if kind == "leukocyte" else RBC, y.start, x.start, y.stop, x.stop)
            for cell, kind in zip(rows["id"], rows["class"], strict=True)
            if kind != "unboxed" and windows[cell - 1] is not None
            for y, x in [windows[cell - 1]]
        ]
        yield str(name), read_picture(folder / f"{name}.jpg"), np.array(boxes, float).reshape(-1, 5)
