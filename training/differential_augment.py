"""Windows around single cells in stains, cameras and optics that no laboratory at hand has."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_bloodcell.models.cnn.subtypes import WINDOW_PX
from napari_bloodcell.stages.cutouts import GAINS, GLASS_LEVEL, RED_LEVEL
from training.cnn_augment import GLASS, Augmenter

RED_ERROR, RED_UNKNOWN = 0.15, 0.08
"""Relative error with which the colour of a red cell is measured in training, and how often it is not at all."""
SHIFT = 0.14
"""How far the middle of a window lies off that of the cell at most, in halves of the window."""


class WindowAugmenter(Augmenter):
    """Turns canvases into windows, another one each time."""

    window_px, shift = WINDOW_PX, SHIFT

    def __call__(self, canvases: Tensor, labels: Tensor, stains: Tensor) -> Tensor:
        """Return windows (N, 3, Y, X), 0 to 1, of canvases (N, Y, X, 3) uint8, at their scale."""
        x = self._window(canvases.permute(0, 3, 1, 2).float() / 255)
        x = self._of_one_stain(x, stains)
        far = F.avg_pool2d(x, 5, 1, 2)
        weight = torch.where(self._chance(len(x), 0.2), self._uniform(len(x), 0, 1), 0.0)
        return self._blurred(x + weight * (far - x))

    def _of_one_stain(self, colour: Tensor, stains: Tensor) -> Tensor:
        """Recolour, and bring the typical red cell of the smear, recoloured alike, to one colour, as in use."""
        n, width = len(colour), colour.shape[-1]
        red = (GLASS * torch.exp(-stains))[:, :, None, None].expand(-1, -1, 1, width)
        recoloured = self._recoloured(torch.cat([colour, red], 2), stains)
        measured = -torch.log((recoloured[:, :, -1:, :1] / GLASS).clamp(0.01, 0.98))
        measured = measured * torch.exp(RED_ERROR * torch.randn((n, 3, 1, 1), generator=self.random))
        wanted = -torch.log(torch.tensor(RED_LEVEL) / GLASS_LEVEL)
        gain = (wanted[None, :, None, None] / measured).clamp(*GAINS)
        gain = torch.where(self._chance(n, RED_UNKNOWN), torch.ones(()), gain)
        density = -torch.log((recoloured[:, :, :-1] / GLASS).clamp(0.004, 1.085))
        return (GLASS * torch.exp(-gain * density)).clamp(0, 1)

    def _window(self, x: Tensor) -> Tensor:
        n, s, side = len(x), self.s, self.window_px
        angle = self._uniform(n, 0, 2 * np.pi, 1)[:, 0]
        low, high = (float(np.log(v)) for v in s.scale)
        size = torch.exp(self._uniform(n, low, high, 1)[:, 0]) * x.shape[-1] / side
        aspect = torch.exp(self._uniform(n, -s.aspect, s.aspect, 1)[:, 0])
        flip = torch.where(self._chance(n, 0.5)[:, 0, 0, 0], 1.0, -1.0)
        cos, sin, sx, sy = torch.cos(angle), torch.sin(angle), flip / (size * aspect), aspect / size
        shift = self._uniform(n, -self.shift, self.shift, 2)
        theta = torch.stack(
            [torch.stack([cos * sx, -sin * sy, shift[:, 0]], 1), torch.stack([sin * sx, cos * sy, shift[:, 1]], 1)], 1
        )
        grid = F.affine_grid(theta, [n, 3, side, side], align_corners=False)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)
