"""Boxes of proposed cells."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


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


def colour_in_boxes(image: Any, boxes: NDArray[np.number[Any]]) -> tuple[float, float, float] | None:
    """Return the typical colour of cells: the median over cells of the median over the ellipse in each box.

    `image` (Y, X, 3) is sliced box by box; `boxes` (N, 4) are (y0, x0, y1, x1), pixels.
    """
    colours = []
    for y0, x0, y1, x1 in boxes.astype(int).clip(min=0).tolist():
        part = np.asarray(image[y0:y1, x0:x1])
        y, x = np.ogrid[: part.shape[0], : part.shape[1]]
        inside = np.hypot((2 * y + 1) / max(y1 - y0, 1) - 1, (2 * x + 1) / max(x1 - x0, 1) - 1) < 0.9
        if inside.any():
            colours.append(np.median(part[inside], axis=0))
    if not colours:
        return None
    red, green, blue = np.median(colours, axis=0).tolist()
    return red, green, blue
