"""Models that need no weights; they implement the protocols."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from napari_bloodcell.core.protocols import Calibration, CellMask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_bloodcell.core.params import SegmentParams


@dataclass
class ThresholdGenerator:
    """Takes each connected dark region as a cell."""

    threshold: int = 160
    fails_on: tuple[int, int] | None = None
    fails_once: bool = False
    name: str = "threshold"
    sha256: str = "0" * 64
    normalises_light: bool = True
    calls: int = 0

    def overlap_px(self, calibration: Calibration) -> int:
        return int(2 * calibration.rbc_diameter_px)

    def calibrate(self, sample: NDArray[np.uint8], first: Calibration) -> Calibration:
        return first

    def generate(
        self,
        image: NDArray[np.uint8],
        calibration: Calibration,
        params: SegmentParams,
        *,
        origin: tuple[int, int] = (0, 0),
        within: tuple[int, int, int, int] | None = None,
    ) -> list[CellMask]:
        self.calls += 1
        if self.fails_on == origin:
            if self.fails_once:
                self.fails_on = None
            raise RuntimeError("out of memory")
        labels, n = ndimage.label(image.mean(-1) < self.threshold)
        cells = []
        for i, (rows, columns) in enumerate(ndimage.find_objects(labels, max_label=n), start=1):
            mask = labels[rows, columns] == i
            box = (rows.start, columns.start, rows.stop, columns.stop)
            centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            cells.append(CellMask(box, mask, 0.9, 0.9, 0.9, centre, "RBC"))
        return cells

    def predict(
        self,
        image: NDArray[np.uint8],
        calibration: Calibration,
        *,
        points: NDArray[np.floating] | None = None,
        boxes: NDArray[np.floating] | None = None,
    ) -> list[CellMask]:
        return []


@dataclass
class BrightnessClassifier:
    """Calls dark cells WBC."""

    name: str = "brightness"
    sha256: str = "1" * 64
    classes: tuple[str, ...] = ("RBC", "WBC")
    rbc_diameter_px: float | None = None

    def predict(self, cutouts: NDArray[np.uint8]) -> NDArray[np.float32]:
        lit = cutouts.any(-1)
        mean = cutouts.mean(-1).sum((1, 2)) / np.maximum(lit.sum((1, 2)), 1)
        dark = (mean < 80).astype(np.float32) * 0.8 + 0.1
        return np.stack([1 - dark, dark], 1).astype(np.float32)


def disc_image(
    centres: list[tuple[float, float]], shape: tuple[int, int], radius: float = 12, value: int = 120
) -> NDArray[np.uint8]:
    """Dark discs on bright glass, (Y, X, 3) uint8."""
    image = np.full((*shape, 3), 230, np.uint8)
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    for y, x in centres:
        image[(yy - y) ** 2 + (xx - x) ** 2 <= radius**2] = value
    return image
