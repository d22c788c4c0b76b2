"""What the embedded SAM is trained to do: losses of its heat map, its boxes and its masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def heat_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Penalty-reduced focal loss of CenterNet, per cell."""
    logits = logits.float()
    p = torch.sigmoid(logits).clamp(1e-4, 1 - 1e-4)
    positive = (target >= 1).float()
    loss = positive * (1 - p) ** 2 * F.logsigmoid(logits) + (1 - positive) * (1 - target) ** 4 * p**2 * F.logsigmoid(
        -logits
    )
    return -(loss * weight).sum() / positive.sum().clamp(min=1)


def side_loss(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """L1 of the log distances to the four sides plus 1 - IoU of the boxes."""
    predicted = predicted.float()
    l1 = ((predicted - target).abs().mean(1) * weight).sum()
    a, b = predicted.clamp(-4, 3).exp(), target.exp()
    inter = (torch.minimum(a[:, 0], b[:, 0]) + torch.minimum(a[:, 2], b[:, 2])) * (
        torch.minimum(a[:, 1], b[:, 1]) + torch.minimum(a[:, 3], b[:, 3])
    )
    union = (a[:, 0] + a[:, 2]) * (a[:, 1] + a[:, 3]) + (b[:, 0] + b[:, 2]) * (b[:, 1] + b[:, 3]) - inter
    return (l1 + ((1 - inter / union.clamp(min=1e-4)) * weight).sum()) / weight.sum().clamp(min=1)


def mask_losses(logits: Tensor, iou: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return per prompt BCE + dice (token 0, plus the best of the others) and the error of the predicted IoU.

    `logits` are (N, 4, h, w), `iou` (N, 4), `target` (N, h, w), 0 to 1.
    """
    logits, target = logits.float(), target.unsqueeze(1)
    bce = F.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none").mean((2, 3))
    area = target.mean((2, 3)).clamp(min=0.02)
    p = torch.sigmoid(logits)
    dice = 1 - (2 * (p * target).sum((2, 3)) + 1) / (p.sum((2, 3)) + target.sum((2, 3)) + 1)
    loss = 0.15 * bce / area.sqrt() + dice
    hard, truth = logits > 0, target > 0.5
    true_iou = (hard & truth).sum((2, 3)) / (hard | truth).sum((2, 3)).clamp(min=1)
    return loss[:, 0] + 0.5 * loss[:, 1:].min(1).values, ((iou.float() - true_iou) ** 2).mean(1)
