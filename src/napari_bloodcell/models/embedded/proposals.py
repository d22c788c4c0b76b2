"""Turns the embedded SAM's heat map into proposals: where cells are, of which type, in which box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.models.boxes import box_ious, non_maximum_suppression
from napari_bloodcell.models.colour import colour_in_boxes
from napari_bloodcell.models.embedded.network import CLASSES, HEAT_STRIDE, RBC_DIAMETER_PX

Look: TypeAlias = "Callable[[NDArray[np.uint8], Calibration], tuple[Proposals, NDArray[np.float32]]]"


GLASS = 235.0
"""Brightness to which the empty glass is brought."""
SCORE_SHARE = (1.0, 1.0, 0.75)
"""Share of `score_min` that a red cell, a white cell and a platelet need."""
DOUBTFUL_SCORE = 0.004
"""Scores differ by 0.0005 between bfloat16 and float32 (root mean square), one in a hundred by 0.0013."""
DUPLICATE_BOX_IOU = 0.7
"""Proposals whose boxes have a higher IoU are one cell."""


@dataclass(frozen=True, slots=True)
class Proposals:
    """Proposals of the heat map.

    (N,) scores, classes, and the class's share of the scores of all; (N, 2) centres and (N, 4) boxes as x, y, pixels of
    the canvas; (N,) values of `score_min` from which, and below which, each is proposed.
    """

    scores: torch.Tensor
    classes: torch.Tensor
    certainty: torch.Tensor
    centres: torch.Tensor
    boxes: torch.Tensor
    lowest: torch.Tensor
    highest: torch.Tensor

    def take(self, rows: torch.Tensor) -> Proposals:
        """Return these rows."""
        return Proposals(*(getattr(self, name)[rows] for name in self.__slots__))


def propose(
    heat_logits: torch.Tensor, sides: torch.Tensor, score_min: float, *, keeps_displaced: bool = False
) -> Proposals:
    """Return the local maxima of the heat map with their boxes; of boxes that agree the best stays.

    `heat_logits` are (K, H/4, W/4), one map per class; `sides` (4, H/4, W/4) the logarithms of the distances to the
    left, upper, right and lower side, in red cell radii. Proposals with a score below `score_min` are dropped.
    With `keeps_displaced` those stay too that a better one displaces which, at a higher `score_min`, is none.
    """
    heat = torch.sigmoid(heat_logits)
    best, kind = heat.max(0)
    share = torch.tensor(SCORE_SHARE, device=heat.device)
    least = score_min * share[kind]
    rows, columns = torch.nonzero(_is_peak(best) & (best > least), as_tuple=True)
    centre = torch.stack([columns, rows], 1).float() * HEAT_STRIDE + HEAT_STRIDE / 2
    reach = sides[:, rows, columns].T.clamp(-4, 2.2).exp() * (RBC_DIAMETER_PX / 2)
    limit = torch.tensor([heat.shape[2], heat.shape[1]] * 2, device=heat.device) * HEAT_STRIDE
    boxes = torch.cat([centre - reach[:, :2], centre + reach[:, 2:]], 1).clamp(min=0).minimum(limit)
    scores = best[rows, columns]
    highest = scores / share[kind[rows, columns]]
    found = boxes.cpu().numpy(), scores.cpu().numpy()
    keep, lowest = non_maximum_suppression(*found, DUPLICATE_BOX_IOU), np.zeros(len(scores), np.float32)
    if keeps_displaced:
        keep, lowest = _with_displaced(*found, highest.cpu().numpy(), keep)
    kept = torch.from_numpy(keep).to(heat.device)
    certainty = scores / heat[:, rows, columns].sum(0)
    at = torch.from_numpy(lowest).to(heat.device)
    return Proposals(scores, kind[rows, columns], certainty, centre, boxes, at, highest).take(kept)


def _with_displaced(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], highest: NDArray[np.float32], keep: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return which boxes (N, 4) are proposed at some `score_min`, and from which on, (N,)."""
    lowest = np.zeros(len(scores), np.float32)
    rivals = boxes[keep]
    others = np.setdiff1d(np.arange(len(scores)), keep)
    late = []
    for i in others[highest[others] > scores[others]].tolist():  # of a class that needs less than others
        is_rival = (box_ious(boxes[i], rivals) > DUPLICATE_BOX_IOU) & (scores[keep] >= scores[i])
        lowest[i] = highest[keep][is_rival].max(initial=0.0)
        if lowest[i] < highest[i]:
            late.append(i)
    return np.concatenate([keep, np.array(late, np.intp)]), lowest


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
"""With fewer whole red cells, white ones help to find the scale."""
WBC_PER_RBC_DIAMETER = 1.95
"""Width of a white cell in a smear, in red cells."""
CALIBRATION_SCORE = 0.35
CALIBRATION_ROUNDS = 5
CALIBRATION_SIDE_PX = 288
"""Working pixels: the middle of a sample is tried first, and is enough if it shows this many whole red cells."""
ENOUGH_RED_CELLS = 15
LARGEST_SIDE_PX = 1024
"""Working pixels: at most this much of a sample is used to calibrate."""
DOUBTFUL_RED_CELLS = 6
"""With fewer whole red cells other starting widths are tried too."""
OTHER_STARTS = (0.6, 0.35, 0.2, 1.7)
SAME_WIDTH = 0.04
"""Two starts agree if the logarithms of the widths that they lead to differ by less."""
NARROWEST_PX = 6.0
"""Narrower red cells show too little to be found."""
DOUBTFUL_CONFIDENCE = 0.5
"""With less confidence all widths are tried."""
SURE_PX, SURE_SUPPORT = 10.0, 0.015
"""Narrower red cells, or a smaller share of the picture in cells, may be dust; ordinary smears have 30 px and 0.13."""
SURE_SCORE = 0.5
"""Median score; red cells of eight laboratories' smears have 0.55 to 0.93, false ones in noise 0.40 to 0.46."""
LADDER_PX, LADDER_STEP, LADDER_SIDE_PX = 8.0, 1.7, 640
"""If no start leads to cells, widths from here on are tried by this factor, on this many working pixels."""
FEWEST_TO_COMPARE, LARGEST_SPREAD = 5, 0.22
"""Widths of at least this many whole red cells are compared; their logarithms scatter by at most 0.19 in ordinary
smears, those of dust by a third."""
MOST_JUDGED = 64
"""Cells whose appearance and colour are judged."""
SURELY_RED = 0.8
"""Certainty from which a proposal is a red cell whose colour counts."""
NUCLEUS_STEP, ASSUMED_ORDINARY = 0.15, 4
"""By so much of its density the middle of a red cell with a nucleus stands out of what is around; so many more cells
are counted as without one, since a few may look so by chance. Of the red cells of ordinary smears 0.41 at most do, of
those with a nucleus laid into each 0.56 and more."""
LEAST_COLOUR = 0.09
"""Densities in red, green and blue differ by this share of their mean at least: by 0.09 in the greyest of 162 fields of
ordinary smears, by 0.08 in brownish dust, by less in grey dust."""
SAME_DISTANCE, SAME_TURN, MOST_ALIKE = 0.05, 0.5, 0.5
FEWEST_IN_LATTICE, MOST_IN_LATTICE = 8, 150
"""Squares of a counting chamber have their next neighbour at one distance (within a share) and on one of four sides
(within a quarter of so many radians): a third or more do, of red cells a seventh at most. Fewer tell nothing."""
_PLACES = np.mgrid[-1:1:21j, -1:1:21j].reshape(2, 1, -1)
"""Places in a box at which a cell is looked at, (y, x) from -1 to 1, and which of them lie in its middle and rings."""
_RINGS = [
    (low <= distance) & (distance < high)
    for distance in [np.hypot(*_PLACES[:, 0])]
    for low, high in ((0, 0.3), (0.55, 0.7), (0.7, 0.85), (0.5, 0.85))
]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Evidence for a scale: how much wider cells are, whole red cells, share of the image in plausible cells."""

    factor: float | None
    n_red: int
    support: float
    scale_confidence: float = 0.0
    proposals: Proposals | None = None
    seen: NDArray[np.float32] | None = None
    """What the network proposed, and its input without the padding: judged when it is asked for."""

    @cached_property
    def smear_confidence(self) -> float:
        """How much the picture looks like a smear, 0 to 1."""
        return 0.0 if self.proposals is None or self.seen is None else _smear_confidence(self.proposals, self.seen)

    def told(self, calibration: Calibration) -> Calibration:
        """Return a calibration with all that was seen of the smear but its scale."""
        red = None if self.proposals is None or self.seen is None else _red_in(self.proposals, self.seen)
        if red is not None:
            r, g, b = (float(v * glass / GLASS) for v, glass in zip(red, calibration.background_rgb, strict=True))
            red = r, g, b
        return replace(calibration, smear_confidence=self.smear_confidence, red_rgb=red)

    @property
    def strength(self) -> float:
        """Area explained and number of cells: a few huge "cells" explain as much area as the many they really are."""
        return self.support * float(np.sqrt(1 + min(self.n_red, 25)))

    @property
    def confidence(self) -> float:
        """The lower of both confidences."""
        return min(self.scale_confidence, self.smear_confidence)


NO_EVIDENCE = Evidence(None, 0, 0.0)


def find_scale(sample: NDArray[np.uint8], first: Calibration, look: Look) -> Calibration:
    """Iterate the network's own measure of the cells in a sample (Y, X, 3) uint8 until it settles.

    If few cells support the result, other starting widths are tried: a large white cell in a small field, or clumps,
    mislead the first estimate. Two starts that agree on red cells are enough. If none gives cells of which the network
    is sure, all widths are tried. `look` takes (part, calibration) and returns the network's proposals and input.
    """
    best, evidence = _settle(sample, first, look)
    if evidence.n_red < DOUBTFUL_RED_CELLS:
        for factor in OTHER_STARTS:
            width = first.rbc_diameter_px * factor
            if NARROWEST_PX <= width <= max(sample.shape[:2]):
                other, weight = _settle(sample, replace(first, rbc_diameter_px=width), look)
                agree = abs(np.log(other.rbc_diameter_px / best.rbc_diameter_px)) < SAME_WIDTH
                is_settled = agree and min(weight.confidence, evidence.confidence) >= DOUBTFUL_CONFIDENCE
                if weight.strength > evidence.strength:
                    best, evidence = other, weight
                if is_settled:
                    break
    if evidence.confidence < DOUBTFUL_CONFIDENCE:
        other, weight = _settle(sample, _best_of_ladder(sample, first, look), look)
        if (weight.confidence, weight.scale_confidence) > (evidence.confidence, evidence.scale_confidence):
            best, evidence = other, weight
    return replace(evidence.told(best), scale_confidence=evidence.scale_confidence)


def judge(sample: NDArray[np.uint8], calibration: Calibration, look: Look) -> Calibration:
    """Return a calibration of given width with how much the picture looks like a smear at that width."""
    found = NO_EVIDENCE
    for side in (CALIBRATION_SIDE_PX, LADDER_SIDE_PX):
        found = _measure(_middle(sample, calibration, side), calibration, look)
        if found.n_red >= ENOUGH_RED_CELLS and found.smear_confidence >= DOUBTFUL_CONFIDENCE:
            break
    return found.told(calibration)


def _best_of_ladder(sample: NDArray[np.uint8], first: Calibration, look: Look) -> Calibration:
    """Return the width, of all that a picture may have, at which the network explains most of it."""
    widths = []
    width = LADDER_PX
    while width <= max(LADDER_PX, max(sample.shape[:2]) / 3):
        widths.append(replace(first, rbc_diameter_px=width))
        width *= LADDER_STEP

    def worth(at: Calibration) -> tuple[float, float]:
        found = _measure(_middle(sample, at, LADDER_SIDE_PX), at, look)
        scale = found.strength * found.scale_confidence
        # Where nothing looks like a smear, the cells still have a width.
        return (scale * found.smear_confidence if scale else 0.0), scale

    return max(widths, key=worth)


def _settle(sample: NDArray[np.uint8], start: Calibration, look: Look) -> tuple[Calibration, Evidence]:
    """Iterate the scale estimate from one starting value; return the fixed point and its score."""
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
    """Measure how much wider cells are than `current` says, by red cells if there are enough."""
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
    told = support, sure, proposals, seen[: int(height), : int(width)]
    if len(red) >= MIN_CALIBRATION_CELLS:
        return Evidence(float(red.median()), len(red), *told)
    both = torch.cat([red.repeat(2), white])
    return Evidence(float(both.log().mean().exp()) if len(both) else None, len(red), *told)


def _red_in(proposals: Proposals, seen: NDArray[np.float32]) -> tuple[float, float, float] | None:
    """Return the colour of a typical red cell in the network's input; None if too few are certain."""
    is_sure = (proposals.classes == CLASSES.index("RBC")) & (proposals.certainty > SURELY_RED)
    boxes = proposals.boxes[is_sure].cpu().numpy()[:, [1, 0, 3, 2]]
    boxes = boxes[:: -(-len(boxes) // MOST_JUDGED) or 1]
    return colour_in_boxes(seen, boxes) if len(boxes) >= FEWEST_TO_COMPARE else None


def _scale_confidence(scores: torch.Tensor, whole: torch.Tensor) -> float:
    """Return the confidence in a scale, 0 to 1: several red cells, high scores, and widths that agree.

    `scores` (N,) are those of all red cells, `whole` (M,) the widths of whole ones.
    """
    if not len(scores):
        return 0.0
    sure = (float(scores.median()) - 0.4) / (2 * (SURE_SCORE - 0.4))
    spread = float(whole.log().std()) if len(whole) >= FEWEST_TO_COMPARE else 0.0
    return float(np.clip(min(sure, len(scores) / 7, 1 - spread / (2 * LARGEST_SPREAD)), 0, 1))


def _smear_confidence(proposals: Proposals, seen: NDArray[np.float32]) -> float:
    """Return how much the supposed red cells look like those of a mammal on glass, 0 to 1.

    Glass is bright, and a red cell is darker than glass, evenly so or paler towards its middle: squares of a counting
    chamber are not darker than the lines around them, or lie in a lattice, a picture in negative has no bright glass,
    the red cell of a bird has a nucleus, whose edge is a step within the cell, and dust is grey. Optical densities.
    """
    red = proposals.boxes[proposals.classes == CLASSES.index("RBC")][:MOST_IN_LATTICE].cpu().numpy()
    if not len(red):
        return 0.0
    height, width = seen.shape[:2]
    is_free = np.ones((height, width), bool)
    for x0, y0, x1, y1 in proposals.boxes.cpu().numpy().astype(int):
        is_free[max(y0, 0) : y1 + 1, max(x0, 0) : x1 + 1] = False
    coarse = slice(None, None, 3)
    free = seen[coarse, coarse][is_free[coarse, coarse]]
    glass = float(np.median(_densities(free).mean(-1))) if is_free.mean() > 0.02 else 0.0
    judged = red[:: -(-len(red) // MOST_JUDGED)]
    (x0, y0), (x1, y1) = judged[:, :2, None].transpose(1, 0, 2), judged[:, 2:, None].transpose(1, 0, 2)
    rows = np.clip((y0 + y1 + _PLACES[0] * (y1 - y0)) / 2, 0, height - 1).astype(int)
    columns = np.clip((x0 + x1 + _PLACES[1] * (x1 - x0)) / 2, 0, width - 1).astype(int)
    colours = _densities(seen[rows, columns])  # (cells, places, 3)
    middle, inner, outer, rim = (colours[:, ring].mean((1, 2)) for ring in _RINGS)
    step = np.minimum(middle - inner - np.maximum(inner - outer, 0), middle - outer)
    n_nucleated = int((step > NUCLEUS_STEP * np.maximum(rim, 0.05)).sum())
    typical, r_g_b = float(np.median(rim)), np.median(colours[:, _RINGS[-1]].mean(1), axis=0)
    is_grey_picture = not np.ptp(seen[coarse, coarse], axis=-1).any()
    parts = (
        1.0 if is_grey_picture else float(np.ptp(r_g_b)) / max(typical, 0.02) / (2 * LEAST_COLOUR),
        1 - glass / 0.4,
        (typical - glass) / 0.08,
        1 - n_nucleated / (len(judged) + ASSUMED_ORDINARY),
        1 - _n_in_lattice(red) / (len(red) + ASSUMED_ORDINARY) / MOST_ALIKE,
    )
    return float(np.clip(min(parts), 0, 1))


def _densities(seen: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the optical densities of pixels (…, 3) of the network's input."""
    return np.asarray(-np.log(np.clip(seen, 2, 255) / GLASS), np.float32)


def _n_in_lattice(boxes: NDArray[np.float32]) -> int:
    """Return how many boxes (N, 4) have their next neighbour as far as the typical one, and beside, above or below."""
    if len(boxes) < FEWEST_IN_LATTICE:
        return 0
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    distances, neighbours = (np.asarray(found)[:, 1] for found in cKDTree(middles).query(middles, 2))
    is_alike = np.abs(distances / max(float(np.median(distances)), 1.0) - 1) < SAME_DISTANCE
    turn = np.exp(4j * np.angle((middles[neighbours] - middles) @ np.array([1, 1j])))  # the same for all four sides
    return int((is_alike & (np.abs(np.angle(turn * np.conj(turn[is_alike].sum()))) < SAME_TURN)).sum())


def _middle(sample: NDArray[np.uint8], calibration: Calibration, side_px: int) -> NDArray[np.uint8]:
    """Return the middle of a (Y, X, 3) sample, at most `side_px` working pixels wide."""
    side = max(1, int(side_px * calibration.rbc_diameter_px / RBC_DIAMETER_PX))
    y, x = (max(0, (n - side) // 2) for n in sample.shape[:2])
    return sample[y : y + side, x : x + side]
