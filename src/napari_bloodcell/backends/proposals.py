"""From the embedded SAM's heat map to proposals: where cells are, of which type, in which box."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from napari_bloodcell.backends.boxes import non_maximum_suppression
from napari_bloodcell.backends.window_sam import HEAT_STRIDE, RBC_DIAMETER_PX

SCORE_SHARE = (1.0, 1.0, 0.75)
"""Of the score from which on a proposal is a cell, what a red cell, a white cell and a platelet need."""
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

    Parameters
    ----------
    heat_logits : Tensor
        (K, H/4, W/4) float32, one map per class.
    sides : Tensor
        (4, H/4, W/4) float32: logarithms of the distances to left, upper, right and lower side, red cell radii.
    score_min : float
        Score from which on a proposal is a cell, 0 to 1.
    """
    heat = torch.sigmoid(heat_logits)
    best, kind = heat.max(0)
    least = score_min * torch.tensor(SCORE_SHARE, device=heat.device)[kind]
    peak = (F.max_pool2d(best[None, None], 3, 1, 1)[0, 0] == best) & (best > least)
    rows, columns = torch.nonzero(peak, as_tuple=True)
    centre = torch.stack([columns, rows], 1).float() * HEAT_STRIDE + HEAT_STRIDE / 2
    reach = sides[:, rows, columns].T.clamp(-4, 2.2).exp() * (RBC_DIAMETER_PX / 2)
    limit = torch.tensor([heat.shape[2], heat.shape[1]] * 2, device=heat.device) * HEAT_STRIDE
    boxes = torch.cat([centre - reach[:, :2], centre + reach[:, 2:]], 1).clamp(min=0).minimum(limit)
    scores = best[rows, columns]
    keep = non_maximum_suppression(boxes.cpu().numpy(), scores.cpu().numpy(), DUPLICATE_BOX_IOU)
    kept = torch.from_numpy(keep).to(heat.device)
    certainty = scores / heat[:, rows, columns].sum(0)
    return Proposals(scores, kind[rows, columns], certainty, centre, boxes).take(kept)
