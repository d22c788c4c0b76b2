"""Windows around single red cells of malaria smears (P. vivax), infected or not, and healthy ones with lookalikes.

`iml_malaria`: slide block 1718-1771 is held out. `bbbc041`: one field in four, by the hash of its name. Lookalikes are
made on healthy cells: platelets of TXL-PBC (those of its val part for what is held out), precipitate, single dots.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from napari_bloodcell.learning.dataset import read_picture
from napari_bloodcell.models.colour import colour_in_boxes
from training.cnn_data import PLATELET, RBC, txl_fields
from training.cnn_masks import normalised
from training.differential_data import Windows, canvas, density

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

CLASSES = ("", "infected")
"""A cell that is not infected has no kind by this model."""
INFECTED = frozenset({"ring", "trophozoite", "schizont", "gametocyte"})
LOOKALIKES = ("platelet", "precipitate", "dot")
RBC_DIAMETER_PX = 40.0
CANVAS_PX = 96
BLOCKS = (1690, 1718, 1772, 1809, 1903)
"""First file numbers of the slide blocks of iml_malaria."""
VAL_BLOCK = 1
BOX_MARGIN_PX = 10.0
"""Boxes of iml_malaria are wider than their cells by this."""
SANE_PX = (25.0, 150.0)
"""Four boxes of iml_malaria are slips of the hand: their sides are not within this."""
_LEFT_OUT = frozenset({"difficult", "unboxed", "leukocyte"})
_NUCLEAR = np.array((0.75, 1.0, 0.42))
"""Optical density of what Giemsa stains purple, relative to green."""

Cell = tuple[float, float, int]
Field = tuple[str, str, bool, "NDArray[np.uint8]", float, "NDArray[np.float64]", list[Cell]]


def fields(data: Path) -> Iterator[Field]:
    """Yield (origin, group, is_val, image, red cell's width, boxes (N, 4), cells (y, x, label)) of both sets."""
    for file, rows in pd.read_csv(data / "iml_malaria" / "boxes.csv").groupby("file"):
        rows = rows[rows[["w", "h"]].min(axis=1).gt(SANE_PX[0]) & rows[["w", "h"]].max(axis=1).lt(SANE_PX[1])]
        block = int(np.searchsorted(BLOCKS, int(str(file)[4:8]), "right")) - 1
        margin = BOX_MARGIN_PX / 2
        y, x, h, w = (rows[name].to_numpy(float) for name in "yxhw")
        boxes = np.stack([y + margin, x + margin, y + h - margin, x + w - margin], 1)
        image = read_picture(data / "iml_malaria" / str(file))
        yield "iml_malaria", str(block), block == VAL_BLOCK, image, *_cells(boxes, rows["class"].to_numpy(str))
    folder = data / "bbbc041"
    for name, rows in pd.read_csv(folder / "cells.csv").groupby("image"):
        found = ndimage.find_objects(np.asarray(Image.open(folder / f"{name}_inst.png")).astype(np.int32))
        kept = [i for i, cell in enumerate(rows["id"]) if found[cell - 1] is not None]
        slices = [found[cell - 1] for cell in rows["id"].iloc[kept]]
        boxes = np.array([(y.start, x.start, y.stop, x.stop) for y, x in slices], float)
        is_val = hashlib.sha256(str(name).encode()).digest()[0] % 4 == 0
        image = read_picture(folder / f"{name}.jpg")
        yield "bbbc041", str(name), is_val, image, *_cells(boxes, rows["class"].iloc[kept].to_numpy(str))


def _cells(boxes: NDArray[np.float64], kinds: NDArray[np.str_]) -> tuple[float, NDArray[np.float64], list[Cell]]:
    """Return the width of a red cell, the boxes of red cells, and the labelled cells."""
    told = ~np.isin(kinds, list(_LEFT_OUT))
    red = boxes[told]
    width = float(np.median(np.sqrt((red[:, 2] - red[:, 0]) * (red[:, 3] - red[:, 1]))))
    middles = (red[:, :2] + red[:, 2:]) / 2
    return width, red, [(y, x, int(kind in INFECTED)) for (y, x), kind in zip(middles, kinds[told], strict=True)]


def windows(data: Path) -> Windows:
    """Return every labelled cell of both sets."""
    found: list[tuple[NDArray[np.uint8], int, NDArray[np.float32], str, str, bool]] = []
    for origin, group, is_val, image, width, boxes, cells in fields(data):
        even = normalised(image, 1.0)
        stain = density(np.array(colour_in_boxes(even, boxes)))
        picture, half = Image.fromarray(even), CANVAS_PX * width / RBC_DIAMETER_PX / 2
        for y, x, label in cells:
            cut = canvas(picture, (x - half, y - half, x + half, y + half), CANVAS_PX)
            found.append((cut, label, stain, origin, group, is_val))
    canvases, labels, stains, origins, groups, val = zip(*found, strict=True)
    return Windows(
        np.stack(canvases), np.array(labels), np.stack(stains), np.array(origins), np.array(groups), np.array(val)
    )


def with_lookalikes(healthy: Windows, platelets: list[NDArray[np.float32]], n: int, seed: int) -> Windows:
    """Return `n` of the healthy cells for each of `LOOKALIKES`, with one drawn on each; `origins` names it.

    `platelets` are optical densities (y, x, 3), relative to the green of the red cells of their field.
    """
    rng = np.random.default_rng(seed)
    made = []
    for kind in LOOKALIKES:
        some = healthy.take(rng.choice(len(healthy), n, replace=len(healthy) < n))
        some.origins = np.full(n, kind)
        some.canvases = some.canvases.copy()
        for cell, stain in zip(some.canvases, some.stains, strict=True):
            added = _lookalike(kind, platelets, rng) * max(float(stain[1]), 0.15)
            cell[:] = np.clip(np.rint(cell * np.exp(-added)), 1, 255)
        made.append(some)
    return Windows(*(np.concatenate([getattr(m, name) for m in made]) for name in vars(made[0])))


def platelet_densities(data: Path, part: str) -> list[NDArray[np.float32]]:
    """Return what platelets of TXL-PBC add to the optical density, relative to the green of the red cells there."""
    found = []
    for _, image, boxes, width in txl_fields(data, part):
        red, scale = boxes[boxes[:, 0] == RBC, 1:], RBC_DIAMETER_PX / width
        even = normalised(image, scale)
        colour = colour_in_boxes(even, red * scale)
        if colour is None:
            continue
        green = max(float(density(np.array(colour))[1]), 0.1)
        for box in boxes[boxes[:, 0] == PLATELET, 1:] * scale:
            y0, x0, y1, x1 = box.astype(int)
            patch = even[max(y0, 0) : y1, max(x0, 0) : x1]
            if min(patch.shape[:2]) >= 6 and max(patch.shape[:2]) <= 32:
                y, x = (np.linspace(-1, 1, k) for k in patch.shape[:2])
                inside = np.clip(3 * (1.05 - np.hypot(y[:, None], x[None])), 0, 1)
                found.append((density(patch.astype(float)) * inside[..., None] / green).astype(np.float32))
    return found


def _lookalike(kind: str, platelets: list[NDArray[np.float32]], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the optical density (Y, X, 3) that one adds, relative to the green of a red cell."""
    out = np.zeros((CANVAS_PX, CANVAS_PX, 3))
    radius, angle = RBC_DIAMETER_PX / 2 * np.sqrt(rng.uniform(0, 0.6)), rng.uniform(0, 2 * np.pi)
    y, x = CANVAS_PX / 2 + radius * np.sin(angle), CANVAS_PX / 2 + radius * np.cos(angle)
    if kind == "platelet":
        patch = np.rot90(platelets[rng.integers(len(platelets))], rng.integers(4))
        top, left = round(y - patch.shape[0] / 2), round(x - patch.shape[1] / 2)
        out[top : top + patch.shape[0], left : left + patch.shape[1]] = patch * rng.uniform(0.5, 1.1)
        return out
    if kind == "dot":
        spots = [(y, x, rng.uniform(1.4, 3.4))]
        colour = _NUCLEAR * rng.uniform(1.0, 3.5) * rng.uniform(0.85, 1.15, 3)
    else:
        spread = rng.uniform(2, 11)
        spots = [(*rng.normal((y, x), spread), abs(rng.normal(0, 0.9)) + 0.6) for _ in range(int(rng.integers(2, 16)))]
        colour = np.array((1.0, 1.0, 0.8)) * rng.uniform(1.0, 4.0) * rng.uniform(0.8, 1.2, 3)
    yy, xx = np.mgrid[:CANVAS_PX, :CANVAS_PX]
    cover = np.zeros((CANVAS_PX, CANVAS_PX))
    for top, left, size in spots:
        cover = np.maximum(cover, np.clip(size + 0.5 - np.hypot(yy - top, xx - left), 0, 1))
    blurred = ndimage.gaussian_filter(cover, rng.uniform(0.4, 1.1))
    out[:] = blurred[..., None] * colour
    return out
