"""Boxes of proposals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def non_maximum_suppression(
    boxes: NDArray[np.floating], scores: NDArray[np.floating], iou_max: float
) -> NDArray[np.intp]:
    """Return the indices of the boxes (N, 4) that no better box overlaps by more than `iou_max`, best first."""
    order = np.argsort(-scores, kind="stable")
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(best)
        low, high = np.maximum(boxes[best, :2], boxes[rest, :2]), np.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        union = np.maximum(area[best] + area[rest] - shared, 1e-9)
        order = rest[shared / union <= iou_max]  # divided: 0.7 * 90 is less than 63
    return np.array(kept, np.intp)
