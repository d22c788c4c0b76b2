"""Matching of found and true cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

if TYPE_CHECKING:
    from numpy.typing import NDArray


def box_iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """IoU of every box of `a` (N, 4) with every box of `b` (M, 4), both (y0, x0, y1, x1)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), -1)
    area_a, area_b = np.prod(a[:, 2:] - a[:, :2], -1), np.prod(b[:, 2:] - b[:, :2], -1)
    return np.asarray(shared / np.maximum(area_a[:, None] + area_b[None] - shared, 1e-9), np.float64)


def label_iou(a: NDArray[np.integer], b: NDArray[np.integer]) -> NDArray[np.float64]:
    """IoU of every label of `a` with every label of `b`: (max a, max b)."""
    n_a, n_b = int(a.max(initial=0)) + 1, int(b.max(initial=0)) + 1
    shared = np.bincount(a.ravel().astype(np.int64) * n_b + b.ravel(), minlength=n_a * n_b).reshape(n_a, n_b)
    area_a, area_b = shared.sum(1), shared.sum(0)
    inner = shared[1:, 1:]
    return np.asarray(inner / np.maximum(area_a[1:, None] + area_b[None, 1:] - inner, 1), np.float64)


def n_matched(iou: NDArray[np.floating], at_least: float = 0.5) -> int:
    """Size of the best one-to-one matching with IoU of at least `at_least`."""
    if iou.size == 0:
        return 0
    rows, columns = linear_sum_assignment(-np.where(iou >= at_least, iou, 0))
    return int((iou[rows, columns] >= at_least).sum())


def f1(matched: int, found: int, true: int) -> float:
    """Harmonic mean of precision and recall."""
    return 2 * matched / (found + true) if found + true else float("nan")
