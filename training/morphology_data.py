"""Windows around single red cells of Chula RBC-12, with the shape that its laboratory gave each.

Points lie within their cells, seldom in the middle: a watershed from the points over what is stained finds the cells,
their middles and the width of a typical one. Fields are held out in blocks of twenty file numbers, one block in five.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.segmentation import watershed

from napari_bloodcell.learning.dataset import read_picture
from napari_bloodcell.models.colour import colour_in_boxes
from napari_bloodcell.stages.calibration import foreground
from training.cnn_masks import normalised
from training.differential_data import Windows, canvas, density

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

LABELS = (
    *("normal", "macrocyte", "microcyte", "spherocyte", "target", "stomatocyte", "ovalocyte", "teardrop"),
    *("burr", "schistocyte", "uncategorised", "hypochromic", "elliptocyte"),
)
"""Chula's types by their number."""
CLASSES = tuple(name for name in LABELS if name != "uncategorised")
RBC_DIAMETER_PX = 38.0
CANVAS_PX = 96
BLOCK, ONE_IN, VAL = 20, 5, 2
_FEWEST_PX = 150


def is_held_out(number: int) -> bool:
    """Return whether a field is never trained on, by the number of its file."""
    return number // BLOCK % ONE_IN == VAL


def points(data: Path) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.int64]]]:
    """Yield number, image and points (N, 3) of each field: x, y, Chula's type."""
    for path in sorted((data / "chula" / "points").glob("*.txt"), key=lambda p: int(p.stem)):
        lines = path.read_text().split()
        found = np.array(lines, np.int64).reshape(-1, 3)
        if len(found):
            yield int(path.stem), read_picture(data / "chula" / "images" / f"{path.stem}.jpg"), found


def outlines(image: NDArray[np.uint8], found: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return a label image (Y, X): the k-th point's cell is k + 1, cells without a point come after."""
    stained = foreground(image)
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(stained), 1.0)
    seeds = np.zeros(stained.shape, np.int32)
    alone = ndimage.label(stained)[0]
    y, x = found[:, 1].clip(0, stained.shape[0] - 1), found[:, 0].clip(0, stained.shape[1] - 1)
    seeds[y, x] = np.arange(1, len(found) + 1)
    seeds = np.where(seeds, seeds, ndimage.grey_dilation(seeds, 5))
    without = ~np.isin(alone, [0, *np.unique(alone[y, x])])
    seeds[without] = len(found) + alone[without]
    return np.asarray(watershed(-distance, seeds, mask=stained | (seeds > 0)), np.int32)


def windows(data: Path) -> Windows:
    """Return every cell with one of `CLASSES`."""
    cut: list[tuple[NDArray[np.uint8], int, NDArray[np.float32], str, bool]] = []
    for number, image, found in points(data):
        cells = outlines(image, found)
        slices = ndimage.find_objects(cells, len(found))
        area = np.bincount(cells.ravel(), minlength=len(found) + 1)
        good = [k for k, s in enumerate(slices) if s is not None and area[k + 1] >= _FEWEST_PX]
        boxes = {k: tuple((s.start, s.stop) for s in slices[k]) for k in good}
        inner = [
            k for k, ((y0, y1), (x0, x1)) in boxes.items() if y0 and x0 and y1 < image.shape[0] and x1 < image.shape[1]
        ]
        if not inner:
            continue
        width = float(np.median(np.sqrt(area[np.array(inner) + 1] * 4 / np.pi)))
        even, half = normalised(image, 1.0), CANVAS_PX * width / RBC_DIAMETER_PX / 2
        red = np.array([(boxes[k][0][0], boxes[k][1][0], boxes[k][0][1], boxes[k][1][1]) for k in inner], float)
        colour, picture = colour_in_boxes(even, red), Image.fromarray(even)
        stain = density(np.array(colour))
        for k, ((y0, y1), (x0, x1)) in boxes.items():
            name = LABELS[found[k, 2]]
            if name in CLASSES:
                y, x = (y0 + y1) / 2, (x0 + x1) / 2
                box = (x - half, y - half, x + half, y + half)
                cut.append(
                    (canvas(picture, box, CANVAS_PX), CLASSES.index(name), stain, str(number), is_held_out(number))
                )
    canvases, labels, stains, groups, val = zip(*cut, strict=True)
    origins = np.full(len(cut), "chula")
    return Windows(np.stack(canvases), np.array(labels), np.stack(stains), origins, np.array(groups), np.array(val))
