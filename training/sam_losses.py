"""What the embedded SAM's encoder is trained to do: losses of its heat map and of its boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
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
