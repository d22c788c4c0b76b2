"""Boxes of proposed cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def box_ious(box: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the IoU of a box (4,) with others (N, 4), as x0, y0, x1, y1."""
    shared = np.maximum(np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]), 0).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return np.asarray(shared / np.maximum(areas - shared, 1e-9), np.float32)


def non_maximum_suppression(
    boxes: NDArray[np.floating], scores: NDArray[np.floating], iou_max: float
) -> NDArray[np.intp]:
    """Return the indices of the boxes (N, 4) that no better box overlaps by more than `iou_max`, best first."""
    order = np.argsort(-scores, kind="stable")
    x0, y0, x1, y1 = np.ascontiguousarray(boxes[order].T)
    area = (x1 - x0) * (y1 - y0)
    alive = np.ones(len(order), bool)
    for i in range(len(order)):
        if alive[i]:
            rest = slice(i + 1, None)
            width = np.minimum(x1[i], x1[rest]) - np.maximum(x0[i], x0[rest])
            height = np.minimum(y1[i], y1[rest]) - np.maximum(y0[i], y0[rest])
            shared = np.maximum(width, 0) * np.maximum(height, 0)
            union = np.maximum(area[i] + area[rest] - shared, 1e-9)
            alive[rest] &= shared / union <= iou_max  # divided: 0.7 * 90 is less than 63
    return np.asarray(order[alive], np.intp)
