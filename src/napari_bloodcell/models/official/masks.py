"""From SAM's low-resolution logits to masks of the image, one box at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_bloodcell.core.geometry import box_of_mask, slices_of
from napari_bloodcell.core.protocols import CellMask

STABILITY_OFFSET = 1.0
"""A mask's stability is the IoU of its logits cut at plus and at minus this (SamAutomaticMaskGenerator's default)."""


@dataclass(frozen=True, slots=True, eq=False)
class UpSampling:
    """SAM's linear up-sampling of logits (h, w) to an image (Y, X): `rows` (Y, h) and `columns` (X, w), float32."""

    rows: NDArray[np.float32]
    columns: NDArray[np.float32]

    def candidate(self, logits: NDArray[np.float32], iou: float, point: tuple[float, float]) -> Candidate | None:
        """Return the mask of logits (h, w) in the image's pixels, or None where it is empty.

        Only the box in which a logit exceeds the lower of the two cuts of the stability score is up-sampled.
        """
        inside = logits > -STABILITY_OFFSET
        y, y_low = _reach(inside, 1, self.rows)
        x, x_low = _reach(inside, 0, self.columns)
        if y.start >= y.stop or x.start >= x.stop:
            return None
        full = self.rows[y, y_low] @ logits[y_low, x_low] @ self.columns[x, x_low].T
        mask, corner = full > 0, (y.start, x.start)
        box = box_of_mask(mask, corner)
        if box is None:
            return None
        stability = np.count_nonzero(full > STABILITY_OFFSET) / np.count_nonzero(full > -STABILITY_OFFSET)
        return Candidate(
            bbox=box,
            changes=np.flatnonzero(np.diff(mask[slices_of(box, corner)].ravel(), prepend=False)).astype(np.int32),
            predicted_iou=iou,
            stability_score=float(stability),
            point=point,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A mask before suppression, as run lengths: hundreds of whole-tile masks would fill the memory."""

    bbox: tuple[int, int, int, int]
    changes: NDArray[np.int32]  # where the flattened mask changes, beginning with False
    predicted_iou: float  # as the network says it, also above 1
    stability_score: float
    point: tuple[float, float]

    def mask(self) -> CellMask:
        """Return the mask itself."""
        y0, x0, y1, x1 = self.bbox
        flips = np.zeros((y1 - y0) * (x1 - x0), bool)
        flips[self.changes] = True
        iou = min(max(self.predicted_iou, 0.0), 1.0)
        return CellMask(
            bbox=self.bbox,
            mask=np.logical_xor.accumulate(flips).reshape(y1 - y0, x1 - x0),
            predicted_iou=iou,
            stability_score=self.stability_score,
            score=iou * self.stability_score,
            point=self.point,
        )


def empty_mask(point: tuple[float, float]) -> CellMask:
    """Return a mask of one pixel that is not set."""
    y, x = int(point[0]), int(point[1])
    return CellMask((y, x, y + 1, x + 1), np.zeros((1, 1), np.bool_), 0.0, 0.0, 0.0, point)


def _reach(inside_2d: NDArray[np.bool_], across: int, matrix: NDArray[np.float32]) -> tuple[slice, slice]:
    """Return the pixels that the low-resolution places `inside` reach, and the places that those pixels need."""
    inside = np.asarray(inside_2d.any(axis=across), np.bool_)
    pixels = np.flatnonzero(matrix[:, inside].any(1))
    if not pixels.size:
        return slice(0, 0), slice(0, 0)
    reached = slice(int(pixels[0]), int(pixels[-1]) + 1)
    needed = np.flatnonzero(matrix[reached].any(0))
    return reached, slice(int(needed[0]), int(needed[-1]) + 1)
