"""From the embedded SAM's heat map to proposals: where cells are, of which type, in which box."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F

from napari_bloodcell.models.boxes import non_maximum_suppression
from napari_bloodcell.models.embedded.network import CLASSES, HEAT_STRIDE, RBC_DIAMETER_PX

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_bloodcell.core.protocols import Calibration

    Look: TypeAlias = "Callable[[NDArray[np.uint8], Calibration], tuple[Proposals, NDArray[np.float32]]]"


GLASS = 235.0
"""Brightness to which the colour of the empty glass is brought."""
SCORE_SHARE = (1.0, 1.0, 0.75)
"""Of the score from which on a proposal is a cell, what a red cell, a white cell and a platelet need."""
DOUBTFUL_SCORE = 0.004
"""Scores differ by 0.0005 between bfloat16 and float32 (root mean square), in one of a hundred by 0.0013."""
DUPLICATE_BOX_IOU = 0.7
"""Proposals whose boxes agree by more than this are one cell."""


@dataclass(frozen=True, slots=True)
class Proposals:
    """What the heat map proposes.

    (N,) scores, classes, and the class's share of the scores of all; (N, 2) centres and (N, 4) boxes as x, y, pixels
    of the canvas.
    """

    scores: torch.Tensor
    classes: torch.Tensor
    certainty: torch.Tensor
    centres: torch.Tensor
    boxes: torch.Tensor

    def take(self, rows: torch.Tensor) -> Proposals:
        """Return some of them."""
        return Proposals(*(getattr(self, name)[rows] for name in self.__slots__))


def propose(heat_logits: torch.Tensor, sides: torch.Tensor, score_min: float) -> Proposals:
    """Return the local maxima of the heat map with their boxes; of boxes that agree the best stays.

    `heat_logits` are (K, H/4, W/4), one map per class; `sides` (4, H/4, W/4) the logarithms of the distances to left,
    upper, right and lower side, in red cell radii. A proposal whose score is below `score_min` is no cell.
    """
    heat = torch.sigmoid(heat_logits)
    best, kind = heat.max(0)
    least = score_min * torch.tensor(SCORE_SHARE, device=heat.device)[kind]
    rows, columns = torch.nonzero(_is_peak(best) & (best > least), as_tuple=True)
    centre = torch.stack([columns, rows], 1).float() * HEAT_STRIDE + HEAT_STRIDE / 2
    reach = sides[:, rows, columns].T.clamp(-4, 2.2).exp() * (RBC_DIAMETER_PX / 2)
    limit = torch.tensor([heat.shape[2], heat.shape[1]] * 2, device=heat.device) * HEAT_STRIDE
    boxes = torch.cat([centre - reach[:, :2], centre + reach[:, 2:]], 1).clamp(min=0).minimum(limit)
    scores = best[rows, columns]
    keep = non_maximum_suppression(boxes.cpu().numpy(), scores.cpu().numpy(), DUPLICATE_BOX_IOU)
    kept = torch.from_numpy(keep).to(heat.device)
    certainty = scores / heat[:, rows, columns].sum(0)
    return Proposals(scores, kind[rows, columns], certainty, centre, boxes).take(kept)


def _is_peak(scores: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(scores[None, None], 3, 1, 1)[0, 0] == scores


def doubtful_peaks(heat_logits: torch.Tensor, score_min: float) -> list[tuple[int, int]]:
    """Return the (row, column) of local maxima whose being a cell, or whose type, bfloat16's rounding may decide."""
    heat = torch.sigmoid(heat_logits)
    best = heat.amax(0)
    is_likely = heat > best - DOUBTFUL_SCORE
    least = score_min * torch.tensor(SCORE_SHARE, device=heat.device)[:, None, None]
    above = best - torch.where(is_likely, least, torch.inf).amin(0)
    doubtful = (above.abs() < DOUBTFUL_SCORE) | ((is_likely.sum(0) > 1) & (above > 0))
    return [(row, column) for row, column in torch.nonzero(_is_peak(best) & doubtful).tolist()]


MIN_CALIBRATION_CELLS = 3
"""With fewer whole red cells the white ones help to find the scale."""
WBC_PER_RBC_DIAMETER = 1.95
"""Width of a white cell in a smear, in red cells."""
CALIBRATION_SCORE = 0.35
CALIBRATION_ROUNDS = 5
CALIBRATION_SIDE_PX = 288
"""Working pixels: the middle of a sample is looked at first, and is enough where it shows this many whole red cells."""
ENOUGH_RED_CELLS = 15
LARGEST_SIDE_PX = 1024
"""Working pixels: no more than this of a sample is looked at to calibrate."""
DOUBTFUL_RED_CELLS = 6
"""With fewer whole red cells the scale is sought from other starts as well."""
OTHER_STARTS = (0.6, 0.35, 0.2, 1.7)
NARROWEST_PX = 6.0
"""Narrower red cells than this show too little to be found."""
DOUBTFUL_CONFIDENCE = 0.5
"""With less all widths are tried."""
SURE_PX, SURE_SUPPORT = 10.0, 0.015
"""Narrower red cells, or less of a picture in cells, may be specks of dust; ordinary smears have 30 px and 0.13."""
SURE_SCORE = 0.5
"""Of median score; red cells of smears of eight laboratories have 0.55 to 0.93, what the network takes for some in
noise 0.40 to 0.46."""
LADDER_PX, LADDER_STEP, LADDER_SIDE_PX = 8.0, 1.7, 640
"""Where no start leads to cells, widths from here on are tried by this factor, on this many working pixels."""
FEWEST_TO_COMPARE, LARGEST_SPREAD = 5, 0.25
"""Widths of so many whole red cells are compared; their logarithms scatter by 0.19 at most in ordinary smears, those
of specks of dust by a third."""
MOST_JUDGED = 150
"""Cells whose looks are judged."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for a scale: how much wider cells are, whole red cells, share of the image in plausible cells."""

    factor: float | None
    n_red: int
    support: float
    scale_confidence: float = 0.0
    smear_confidence: float = 0.0

    @property
    def strength(self) -> float:
        """Area explained, and by how many cells: a few huge "cells" explain as much as the many that they are."""
        return self.support * float(np.sqrt(1 + min(self.n_red, 25)))

    @property
    def confidence(self) -> float:
        """The lesser of both confidences."""
        return min(self.scale_confidence, self.smear_confidence)


NO_EVIDENCE = Evidence(None, 0, 0.0)


def find_scale(sample: NDArray[np.uint8], first: Calibration, look: Look) -> Calibration:
    """Follow the network's own measure of the cells in a sample (Y, X, 3) from a first estimate until it settles.

    Where few cells agree with where it settled, other widths are tried: a large white cell in a small field, or
    clumps, mislead the first estimate. Where none of these leads to cells of which the network is sure, all widths are.

    Parameters
    ----------
    sample : ndarray of uint8, shape (Y, X, 3)
        Part of the smear.
    first : Calibration
        Where to start.
    look : callable
        (part, calibration) → what the network proposes there, and what it sees.
    """
    best, evidence = _settle(sample, first, look)
    if evidence.n_red < DOUBTFUL_RED_CELLS:
        for factor in OTHER_STARTS:
            width = first.rbc_diameter_px * factor
            if NARROWEST_PX <= width <= max(sample.shape[:2]):
                other, weight = _settle(sample, replace(first, rbc_diameter_px=width), look)
                if weight.strength > evidence.strength:
                    best, evidence = other, weight
    if evidence.confidence < DOUBTFUL_CONFIDENCE:
        other, weight = _settle(sample, _best_of_ladder(sample, first, look), look)
        if weight.confidence > evidence.confidence:
            best, evidence = other, weight
    return replace(best, scale_confidence=evidence.scale_confidence, smear_confidence=evidence.smear_confidence)


def judge(sample: NDArray[np.uint8], calibration: Calibration, look: Look) -> Calibration:
    """Return a calibration whose width is given, with how much the picture looks like a smear at that width."""
    found = _measure(_middle(sample, calibration, LADDER_SIDE_PX), calibration, look)
    return replace(calibration, smear_confidence=found.smear_confidence)


def _best_of_ladder(sample: NDArray[np.uint8], first: Calibration, look: Look) -> Calibration:
    """Return the width, of all that a picture may have, at which the network explains most of it."""
    widths = []
    width = LADDER_PX
    while width <= max(LADDER_PX, max(sample.shape[:2]) / 3):
        widths.append(replace(first, rbc_diameter_px=width))
        width *= LADDER_STEP

    def worth(at: Calibration) -> float:
        found = _measure(_middle(sample, at, LADDER_SIDE_PX), at, look)
        return found.strength * found.scale_confidence * found.smear_confidence

    return max(widths, key=worth)


def _settle(sample: NDArray[np.uint8], start: Calibration, look: Look) -> tuple[Calibration, Evidence]:
    """Follow the network's own measure of the cells from one start; return where it ends and what speaks for it."""
    current, evidence = start, NO_EVIDENCE
    for _ in range(CALIBRATION_ROUNDS):
        middle = _middle(sample, current, CALIBRATION_SIDE_PX)
        found = NO_EVIDENCE
        if middle.size < 0.6 * sample.size:
            found = _measure(middle, current, look)
        if found.n_red < ENOUGH_RED_CELLS:
            found = _measure(_middle(sample, current, LARGEST_SIDE_PX), current, look)
        if found.factor is None:
            break
        evidence = found
        width = float(np.clip(current.rbc_diameter_px * found.factor, NARROWEST_PX, max(sample.shape[:2])))
        current = replace(current, rbc_diameter_px=width)
        if abs(np.log(found.factor)) < 0.04:
            break
    return current, evidence


def _measure(sample: NDArray[np.uint8], current: Calibration, look: Look) -> Evidence:
    """Measure how much wider cells are than `current` says, by the red ones where there are enough."""
    proposals, seen = look(sample, current)
    boxes = proposals.boxes
    height, width = (v * RBC_DIAMETER_PX / current.rbc_diameter_px for v in sample.shape[:2])
    whole = (boxes[:, :2] > 2).all(1) & (boxes[:, 2] < width - 2) & (boxes[:, 3] < height - 2)
    size = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt() / RBC_DIAMETER_PX
    is_red = proposals.classes == CLASSES.index("RBC")
    is_white = proposals.classes == CLASSES.index("WBC")
    red, white = size[whole & is_red], size[whole & is_white] / WBC_PER_RBC_DIAMETER
    plausible = (is_red & (size > 0.6) & (size < 1.6)) | (is_white & (size > 1.1) & (size < 3.2))
    native = (size * current.rbc_diameter_px) ** 2
    support = float((proposals.scores * native)[plausible].sum()) / (sample.shape[0] * sample.shape[1])
    sure = min(
        _scale_confidence(proposals.scores[is_red], red),
        current.rbc_diameter_px / (2 * SURE_PX),
        support / (2 * SURE_SUPPORT),
    )
    told = support, sure, _smear_confidence(proposals, is_red, seen, (height, width))
    if len(red) >= MIN_CALIBRATION_CELLS:
        return Evidence(float(red.median()), len(red), *told)
    both = torch.cat([red.repeat(2), white])
    return Evidence(float(both.log().mean().exp()) if len(both) else None, len(red), *told)


def _scale_confidence(scores: torch.Tensor, whole: torch.Tensor) -> float:
    """Return how sure a scale is, 0 to 1: red cells are several, the network is sure of them, and their widths agree.

    Of all red cells the scores (N,), of whole ones the widths (M,).
    """
    if not len(scores):
        return 0.0
    sure = (float(scores.median()) - 0.4) / (2 * (SURE_SCORE - 0.4))
    spread = float(whole.log().std()) if len(whole) >= FEWEST_TO_COMPARE else 0.0
    return float(np.clip(min(sure, len(scores) / 7, 1 - spread / (2 * LARGEST_SPREAD)), 0, 1))


def _smear_confidence(
    proposals: Proposals, is_red: torch.Tensor, seen: NDArray[np.float32], shape: tuple[float, float]
) -> float:
    """Return how much what the network takes for red cells looks like those of a mammal on glass, 0 to 1.

    Glass is bright, a red cell darker than the glass, all over about as dark, in its middle rather brighter: squares
    of a counting chamber are not darker than the lines around them, a picture in negative has no bright glass, the red
    cell of a bird has a nucleus. Optical densities, means of R, G and B.
    """
    boxes = proposals.boxes[is_red][:MOST_JUDGED].cpu().numpy()
    if not len(boxes):
        return 0.0
    height, width = min(int(shape[0]), seen.shape[0]), min(int(shape[1]), seen.shape[1])
    density = -np.log(np.clip(seen[:height, :width], 2, 255) / GLASS).mean(-1)
    is_free = np.ones(density.shape, bool)
    for x0, y0, x1, y1 in proposals.boxes.cpu().numpy().astype(int):
        is_free[max(y0, 0) : y1 + 1, max(x0, 0) : x1 + 1] = False
    middles, rims = [], []
    for x0, y0, x1, y1 in boxes:
        rows, columns = slice(max(int(y0), 0), int(y1) + 1), slice(max(int(x0), 0), int(x1) + 1)
        part = density[rows, columns]
        y, x = np.ogrid[: part.shape[0], : part.shape[1]]
        y, x = y + rows.start + 0.5 - (y0 + y1) / 2, x + columns.start + 0.5 - (x0 + x1) / 2
        distance = np.hypot(y / ((y1 - y0) / 2), x / ((x1 - x0) / 2))
        middle, rim = distance < 0.35, (distance >= 0.5) & (distance < 0.85)
        if middle.any() and rim.any():
            middles.append(float(part[middle].mean()))
            rims.append(float(part[rim].mean()))
    if not rims:
        return 0.0
    glass = float(np.median(density[is_free])) if is_free.mean() > 0.02 else 0.0
    rim = float(np.median(rims))
    nucleus = float(np.median((np.array(middles) - rims) / np.maximum(rims, 0.05)))
    parts = (1 - glass / 0.4, (rim - glass) / 0.08, 1 - nucleus / 1.6)
    return float(np.clip(min(parts), 0, 1))


def _middle(sample: NDArray[np.uint8], calibration: Calibration, side_px: int) -> NDArray[np.uint8]:
    """Return the middle of a (Y, X, 3) sample, at most `side_px` working pixels wide."""
    side = max(1, int(side_px * calibration.rbc_diameter_px / RBC_DIAMETER_PX))
    y, x = (max(0, (n - side) // 2) for n in sample.shape[:2])
    return sample[y : y + side, x : x + side]
