"""The masks of a tile as arrays, and back: a mask takes one bit a pixel of its box."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from napari_bloodcell.protocols import CellMask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_bloodcell.slides.work import Arrays


def pack_masks(masks: Sequence[CellMask]) -> Arrays:
    """Return masks as arrays that `unpack_masks` takes."""
    types = sorted({m.cell_type for m in masks if m.cell_type is not None})
    codes = {name: i + 1 for i, name in enumerate(types)}
    bits = [np.packbits(m.mask) for m in masks]
    numbers = [
        (m.predicted_iou, m.stability_score, m.score, m.type_probability, m.point[0], m.point[1], m.area) for m in masks
    ]
    return {
        "bbox": np.array([m.bbox for m in masks], np.int64).reshape(-1, 4),
        "numbers": np.array(numbers, np.float64).reshape(-1, 7),
        "type": np.array([codes.get(m.cell_type or "", 0) for m in masks], np.int16),
        "types": np.array(["", *types]),
        "bits": np.concatenate(bits) if bits else np.empty(0, np.uint8),
    }


def unpack_masks(arrays: Arrays) -> list[CellMask]:
    """Return the masks that `pack_masks` packed."""
    boxes, names = arrays["bbox"], [str(name) or None for name in arrays["types"]]
    sides = boxes[:, 2:] - boxes[:, :2]
    ends = np.cumsum([0, *(-(-sides.prod(1) // 8)).tolist()])
    masks = []
    for k, (start, end) in enumerate(itertools.pairwise(ends.tolist())):
        height, width = sides[k].tolist()
        mask = np.unpackbits(arrays["bits"][start:end], count=height * width).reshape(height, width).astype(bool)
        iou, stability, score, certainty, y, x, _ = arrays["numbers"][k].tolist()
        y0, x0, y1, x1 = boxes[k].tolist()
        name = names[int(arrays["type"][k])]
        masks.append(CellMask((y0, x0, y1, x1), mask, iou, stability, score, (y, x), name, certainty))
    return masks
