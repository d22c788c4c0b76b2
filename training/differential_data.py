"""Windows around single white cells, of two laboratories, for the model that tells their kinds apart.

`wbc`: crops with the cell in the middle. TXL-PBC train: the fields whose central white cell has a known kind. Held out
for validation: the smears of `raabin`, and the crops of `pbc`, whose names fall into `VAL`. TXL-PBC val is never seen.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

from napari_bloodcell.learning.dataset import read_picture
from napari_bloodcell.models.colour import colour_in_boxes
from napari_bloodcell.stages.cutouts import GLASS_LEVEL, RED_LEVEL, colour_lut
from training.cnn_data import RBC, WBC, txl_fields
from training.cnn_masks import normalised

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

CLASSES = (
    "neutrophil",
    "eosinophil",
    "basophil",
    "lymphocyte",
    "monocyte",
    "immature granulocyte",
    "erythroblast",
)
RBC_DIAMETER_PX = 50.0
CANVAS_PX = 176
"""Side of what is kept around a cell: the crops' own; training turns, shifts and scales within it."""
VAL = 5
"""One in so many smears of `raabin` is held out, and one in twice as many crops of `pbc`, by the hash of its name."""
_MIDDLE_PX = 62
"""Farther than this from the middle of a crop there is no white cell, as a rule."""
_FEWEST_PX = 300


@dataclass
class Windows:
    """Canvases (N, 176, 176, 3) uint8, glass at `GLASS_LEVEL`, with the cell in the middle."""

    canvases: NDArray[np.uint8]
    labels: NDArray[np.int64]
    stains: NDArray[np.float32]
    """Optical density of a typical red cell of the image that each comes from, (N, 3)."""
    origins: NDArray[np.str_]
    """"pbc", "raabin" or a laboratory of TXL-PBC."""
    groups: NDArray[np.str_]
    """Smear or day, "" where it is not known."""
    is_val: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.integer]) -> Windows:
        """Return some of them."""
        return Windows(*(v[rows] for v in vars(self).values()))


def _is_held_out(name: str, one_in: int) -> bool:
    return hashlib.sha256(name.encode()).digest()[0] % one_in == 0


def density(colour: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the optical density of colours (…, 3), with glass at `GLASS_LEVEL`."""
    return (-np.log(np.clip(colour / GLASS_LEVEL, 0.02, 0.98))).astype(np.float32)


def stain_of_crop(crop: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the optical density of what is stained away from the middle of a crop: red cells, as a rule."""
    y, x = np.ogrid[: crop.shape[0], : crop.shape[1]]
    far = np.hypot(y - crop.shape[0] / 2 + 0.5, x - crop.shape[1] / 2 + 0.5) > _MIDDLE_PX
    pixels = crop[far & (-np.log(np.maximum(crop, 1) / GLASS_LEVEL).mean(-1) > 0.08)]
    return density(np.median(pixels, axis=0) if len(pixels) >= _FEWEST_PX else np.array(RED_LEVEL))


def of_one_stain(pixels: NDArray[np.uint8], stain: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return pixels (Y, X, 3), glass at `GLASS_LEVEL`, as the program shows them to the model: in its stain."""
    red = GLASS_LEVEL * np.exp(-stain.astype(float))
    colour = (float(red[0]), float(red[1]), float(red[2]))
    lut = colour_lut((GLASS_LEVEL,) * 3, GLASS_LEVEL, colour, RED_LEVEL, in_any_stain=True)
    return pixels if lut is None else lut[np.arange(3), pixels]


def crops(data: Path) -> Windows:
    """Return the crops of `wbc` but for platelets."""
    table = pd.read_csv(data / "wbc" / "labels.csv").fillna("")
    table = table[table["class"] != "platelet"]
    canvases = np.empty((len(table), CANVAS_PX, CANVAS_PX, 3), np.uint8)
    for whole, file in zip(canvases, table["file"], strict=True):
        image = read_picture(data / "wbc" / file)
        whole[:] = normalised(image, 1.0)
    kinds = table["class"].str.replace("_", " ")
    in_pbc = [_is_held_out(file, 2 * VAL) for file in table["file"]]
    in_raabin = [_is_held_out(slide, VAL) for slide in table["slide"].astype(str)]
    return Windows(
        canvases,
        np.array([CLASSES.index(kind) for kind in kinds], np.int64),
        np.stack([stain_of_crop(crop) for crop in canvases]),
        table["source"].to_numpy(str),
        table["slide"].to_numpy(str),
        np.where(table["source"] == "pbc", in_pbc, in_raabin),
    )


def txl_windows(data: Path, part: str) -> Windows:
    """Return the central white cells of TXL-PBC's fields whose kind is known."""
    kinds = pd.read_csv(data / "txl_pbc" / "wbc_types.csv")
    found: list[tuple[NDArray[np.uint8], int, NDArray[np.float32], str]] = []
    for name, kind in zip(kinds["image"], kinds["class"], strict=True):
        if not name.startswith(f"{part}/"):
            continue
        for lab, image, boxes, diameter in txl_fields(data, part, file=name.split("/")[1]):
            if (window := _central(image, boxes, diameter)) is not None:
                found.append((window[0], CLASSES.index(kind), window[1], lab))
    canvases, labels, stains, origins = zip(*found, strict=True)
    n = len(found)
    return Windows(
        np.stack(canvases), np.array(labels), np.stack(stains), np.array(origins), np.full(n, ""), np.zeros(n, bool)
    )


def _central(
    image: NDArray[np.uint8], boxes: NDArray[np.float64], diameter: float
) -> tuple[NDArray[np.uint8], NDArray[np.float32]] | None:
    """Return canvas and stain of the white cell next to the middle of a field, if there is one."""
    white = boxes[boxes[:, 0] == WBC]
    if not len(white):
        return None
    middle = (white[:, 1:3] + white[:, 3:5]) / 2
    y, x = middle[np.hypot(*(middle - np.array(image.shape[:2]) / 2).T).argmin()]
    half = CANVAS_PX * diameter / RBC_DIAMETER_PX / 2
    even = normalised(image, 1.0)
    red = boxes[boxes[:, 0] == RBC, 1:]
    colour = colour_in_boxes(even, red) if len(red) >= 3 else RED_LEVEL
    return canvas(Image.fromarray(even), (x - half, y - half, x + half, y + half)), density(np.array(colour))


def canvas(image: Image.Image, box: tuple[float, float, float, float], side: int = CANVAS_PX) -> NDArray[np.uint8]:
    """Return a box (x0, y0, x1, y1) of an image at a canvas's size; beyond the image there is glass."""
    x0, y0, x1, y1 = (round(v) for v in box)
    out = Image.new("RGB", (x1 - x0, y1 - y0), (round(GLASS_LEVEL),) * 3)
    out.paste(image, (-x0, -y0))
    return np.asarray(out.resize((side, side), Image.Resampling.BILINEAR))


def kept_in(cache: Path | None, name: str, make: Callable[[], Windows]) -> Windows:
    """Return the windows that a folder keeps under a name; if it has none, make them and keep them there."""
    if cache is None:
        return make()
    if not (path := cache / f"{name}.npz").exists():
        np.savez(path, **vars(make()))
    with np.load(path) as file:
        return Windows(**file)


def training_windows(data: Path) -> Windows:
    """Return the crops, and the cells of TXL-PBC's training fields."""
    parts = [crops(data), txl_windows(data, "train")]
    return Windows(*(np.concatenate([getattr(p, name) for p in parts]) for name in vars(parts[0])))


def sampling_weights(windows: Windows) -> NDArray[np.float64]:
    """Return how often each is drawn, (N,): classes alike, then laboratories and smears by the root of their size."""
    weights = np.zeros(len(windows))
    for label in np.unique(windows.labels):
        mine = windows.labels == label
        for origin in np.unique(windows.origins[mine]):
            there = mine & (windows.origins == origin)
            for group in np.unique(windows.groups[there]):
                rows = there & (windows.groups == group)
                weights[rows] = 1 / np.sqrt(rows.sum())
            weights[there] *= np.sqrt(there.sum()) / weights[there].sum()
        weights[mine] /= weights[mine].sum()
    return weights / weights.sum()
