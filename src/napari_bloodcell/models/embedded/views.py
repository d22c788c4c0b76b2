"""What fine-tuning a SAM looks at: fields with the masks of their cells, as its encoder sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from napari_bloodcell.core.errors import TrainingError
from napari_bloodcell.core.params import SegmentParams
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.models.embedded.network import LARGE_WINDOW, RBC_DIAMETER_PX, STRIDE
from napari_bloodcell.models.embedded.proposals import propose

if TYPE_CHECKING:
    from napari_bloodcell.models.embedded.sam import Canvas, EmbeddedSam

_SMALLEST_PX = 4.0
_SAME_CELL_IOU = 0.5
_MOST_PX_OF_VIEWS = 2e7
"""Working pixels of all views, whose features are kept: 12 bytes each."""


@dataclass(frozen=True, eq=False)
class MaskedField:
    """An image (Y, X, 3) uint8 with the label image (Y, X) of its cells."""

    name: str
    image: NDArray[np.uint8]
    cells: NDArray[np.integer[Any]]
    calibration: Calibration


@dataclass(frozen=True, slots=True, eq=False)
class SeenField:
    """A field as the decoder sees it.

    Features, label image, ids (N,) of its cells; their true boxes, and those that the encoder proposes for them (the
    true one where it proposes none), both (N, 4) as x0, y0, x1, y1, canvas pixels.
    """

    canvas: Canvas
    cells: NDArray[np.integer[Any]]
    ids: NDArray[np.int64]
    boxes: NDArray[np.float32]
    proposed: NDArray[np.float32]

    def take(self, rows: NDArray[np.bool_]) -> SeenField:
        """Return some of its cells."""
        return replace(self, ids=self.ids[rows], boxes=self.boxes[rows], proposed=self.proposed[rows])


def see_all(start: EmbeddedSam, fields: Sequence[MaskedField]) -> list[list[SeenField]]:
    """Return views of each field, first as it is, then turned and mirrored if all their features fit in memory."""
    steps = [RBC_DIAMETER_PX / field.calibration.rbc_diameter_px for field in fields]
    size = sum(field.cells.size * step**2 for field, step in zip(fields, steps, strict=True))
    turns = [(k, is_mirrored) for is_mirrored in (False, True) for k in range(4)]
    if size * len(turns) > _MOST_PX_OF_VIEWS:
        turns = turns[:1]
    return [[see_field(start, _turned(field, *turn)) for turn in turns] for field in fields]


def _turned(field: MaskedField, quarters: int, is_mirrored: bool) -> MaskedField:
    """Return a field turned by quarters, and mirrored."""
    image, cells = (np.rot90(a, quarters) for a in (field.image, field.cells))
    if is_mirrored:
        image, cells = image[:, ::-1], cells[:, ::-1]
    return replace(field, image=np.ascontiguousarray(image), cells=np.ascontiguousarray(cells))


def see_field(start: EmbeddedSam, field: MaskedField) -> SeenField:
    """Return the features of a field with its cells, those that the decoder can hold whole."""
    if field.image.shape[:2] != field.cells.shape:
        raise TrainingError(
            f"{field.name}: masks of {field.cells.shape} do not belong to an image of {field.image.shape[:2]}."
        )
    with torch.no_grad():
        canvas = start.see(field.image, field.calibration)
    ids, boxes = [], []
    for i, window in enumerate(ndimage.find_objects(field.cells), start=1):
        rows, columns = window or (slice(0, 0), slice(0, 0))
        box = np.array([columns.start, rows.start, columns.stop, rows.stop], np.float32) * canvas.scale
        box -= np.tile(np.array(canvas.corner[::-1], np.float32), 2)
        side = box[2:] - box[:2]
        if side.min() >= _SMALLEST_PX and side.max() < LARGE_WINDOW * STRIDE - 6:
            ids.append(i)
            boxes.append(box)
    true = np.array(boxes, np.float32).reshape(-1, 4)
    return SeenField(canvas, field.cells, np.array(ids, np.int64), true, _proposed_for(true, canvas))


def see_proposed(start: EmbeddedSam, image: NDArray[np.uint8], calibration: Calibration) -> SeenField:
    """Return an image with the cells that the encoder proposes there, whose masks nobody drew."""
    with torch.no_grad():
        canvas = start.see(image, calibration)
        boxes = propose(canvas.heat, canvas.sides, SegmentParams().score_min).boxes.cpu().numpy()
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2]).max(1, initial=0) < LARGE_WINDOW * STRIDE - 6]
    return SeenField(canvas, np.zeros(image.shape[:2], np.int64), np.arange(len(boxes)), boxes, boxes)


def _proposed_for(boxes: NDArray[np.float32], canvas: Canvas) -> NDArray[np.float32]:
    """Return the boxes (N, 4) with which the program would ask for these cells; where it misses one, the given box."""
    found = propose(canvas.heat, canvas.sides, SegmentParams().score_min).boxes.cpu().numpy()
    if not len(found) or not len(boxes):
        return boxes
    shared = np.minimum(boxes[:, None, 2:], found[None, :, 2:]) - np.maximum(boxes[:, None, :2], found[None, :, :2])
    both = shared.clip(min=0).prod(-1)
    areas = [(b[:, 2:] - b[:, :2]).prod(-1) for b in (boxes, found)]
    iou = both / (areas[0][:, None] + areas[1][None] - both)
    return np.where(iou.max(1, keepdims=True) >= _SAME_CELL_IOU, found[iou.argmax(1)], boxes)


def split_seen(seen: list[list[SeenField]]) -> tuple[list[SeenField], list[SeenField]]:
    """Return training and validation part: every fifth field of five or more, else every fifth cell.

    What is trained on are all views of a field, what is kept is looked at as it is.
    """
    if len(seen) >= 5:
        train = [view for i, views in enumerate(seen) if i % 5 for view in views]
        return train, [views[0] for i, views in enumerate(seen) if i % 5 == 0]
    is_val = [np.arange(len(views[0].ids)) % 5 == 2 for views in seen]
    train = [view.take(~rows) for views, rows in zip(seen, is_val, strict=True) for view in views]
    val = [views[0].take(rows) for views, rows in zip(seen, is_val, strict=True)]
    return [s for s in train if len(s.ids)], [s for s in val if len(s.ids)]


def labels_around(seen: SeenField, origins: NDArray[np.integer[Any]], side: int) -> NDArray[np.int64]:
    """Return the label image in windows at stride 2 with these (x, y) origins, (N, side, side)."""
    steps = np.arange(side) * 2 + 1.0
    out = np.zeros((len(origins), side, side), np.int64)
    height, width = seen.cells.shape
    for labels, (x, y) in zip(out, origins, strict=True):
        rows = np.floor((y + steps + seen.canvas.corner[0]) / seen.canvas.scale).astype(int)
        columns = np.floor((x + steps + seen.canvas.corner[1]) / seen.canvas.scale).astype(int)
        in_y, in_x = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
        labels[np.ix_(in_y, in_x)] = seen.cells[np.ix_(rows[in_y], columns[in_x])]
    return out
