"""Augmentation for the embedded classifier: geometry, masks that fail, colours of laboratories it never sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.cnn_data import CANVAS_PX, PLATELET, WBC, Samples

GLASS = 235.0 / 255.0
CUTOUT_PX = 128


@dataclass
class Strengths:
    """How strongly cells are varied; each number is documented by its use."""

    scale: tuple[float, float] = (0.75, 1.33)
    aspect: float = 0.10
    border_cut: float = 0.30
    nucleus_only: float = 0.22
    stain_of_another_image: float = 0.4
    stain_ratio: tuple[float, float] = (0.45, 2.2)
    grey: float = 0.0
    density_matrix: float = 0.10
    density: tuple[float, float] = (0.7, 1.5)
    gamma: tuple[float, float] = (0.8, 1.3)
    tint: float = 0.06
    light: float = 0.10


class Augmenter:
    """Turns canvases into masked cutouts, another one each time."""

    def __init__(self, samples: Samples, seed: int, strengths: Strengths | None = None) -> None:
        self.bank = torch.from_numpy(np.unique(samples.stains, axis=0))
        self.random = torch.Generator().manual_seed(seed)
        self.s = strengths or Strengths()

    def __call__(self, rgba: Tensor, labels: Tensor, stains: Tensor) -> Tensor:
        """Return cutouts (N, 3, 128, 128), 0 to 1, of canvases (N, 96, 96, 4) uint8."""
        x = rgba.permute(0, 3, 1, 2).float() / 255.0
        x = self._moved(x)
        colour, mask = x[:, :3], self._reshaped(x[:, 3:])
        mask = self._failed(colour, mask, labels)
        colour = self._blurred(self._recoloured(colour, stains))
        cutout = torch.where(mask, colour.clamp(1 / 255, 1), 0.0)
        cutout = _centred(torch.round(cutout * 255) / 255)
        pad = (CUTOUT_PX - CANVAS_PX) // 2
        return F.pad(cutout, (pad, pad, pad, pad))

    def _uniform(self, n: int, low: float, high: float, *shape: int) -> Tensor:
        return torch.rand((n, *(shape or (1, 1, 1))), generator=self.random) * (high - low) + low

    def _chance(self, n: int, p: float) -> Tensor:
        return self._uniform(n, 0, 1) < p

    def _moved(self, x: Tensor) -> Tensor:
        """Rotate, flip, scale, stretch."""
        n = len(x)
        angle = self._uniform(n, 0, 2 * np.pi, 1)[:, 0]
        low, high = np.log(self.s.scale[0]), np.log(self.s.scale[1])
        size = torch.exp(self._uniform(n, float(low), float(high), 1)[:, 0])
        aspect = torch.exp(self._uniform(n, -self.s.aspect, self.s.aspect, 1)[:, 0])
        flip = torch.where(self._chance(n, 0.5)[:, 0, 0, 0], 1.0, -1.0)
        cos, sin = torch.cos(angle), torch.sin(angle)
        sx, sy = flip / (size * aspect), aspect / size
        theta = torch.stack(
            [torch.stack([cos * sx, -sin * sy, cos * 0], 1), torch.stack([sin * sx, cos * sy, cos * 0], 1)], 1
        )
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        colour = F.grid_sample(x[:, :3], grid, padding_mode="border", align_corners=False)
        alpha = F.grid_sample(x[:, 3:], grid, padding_mode="zeros", align_corners=False)
        return torch.cat([colour, alpha], 1)

    def _reshaped(self, alpha: Tensor) -> Tensor:
        """Return masks that are a little too small or too large, with a wavy rim."""
        n = len(alpha)
        smooth = F.avg_pool2d(alpha, 5, 1, 2)
        waves = F.interpolate(torch.randn((n, 1, 7, 7), generator=self.random), size=alpha.shape[-2:], mode="bicubic")
        level = self._uniform(n, 0.25, 0.72) + 0.10 * waves
        wavy = (smooth > level) & (smooth > 0.1)
        kept = wavy.flatten(1).any(1)[:, None, None, None]
        return torch.where(kept & self._chance(n, 0.8), wavy, alpha > 0.5)

    def _failed(self, colour: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """Cut cells as the edge of an image does, and leave WBC without their cytoplasm, as segmenters do."""
        n, side = len(mask), mask.shape[-1]
        kinds = labels[:, None, None, None]
        green = colour[:, 1:2]
        area = mask.sum((2, 3), keepdim=True).clamp(min=1)
        mean = (green * mask).sum((2, 3), keepdim=True) / area
        nucleus = F.avg_pool2d((green < mean + self._uniform(n, -0.03, 0.03)).float() * mask, 3, 1, 1) > 0.5
        enough = nucleus.sum((2, 3), keepdim=True) > 0.25 * area
        bare = (kinds == WBC) & self._chance(n, self.s.nucleus_only) & enough
        mask = torch.where(bare, nucleus, mask)
        axis = torch.linspace(-1, 1, side)
        yy, xx = axis[None, None, :, None], axis[None, None, None, :]
        angle = torch.round(self._uniform(n, 0, 4)) * np.pi / 2 + torch.where(
            self._chance(n, 0.3), self._uniform(n, -1, 1), 0.0
        )
        along = yy * torch.sin(angle) + xx * torch.cos(angle)
        radius = torch.sqrt(mask.sum((2, 3), keepdim=True) / np.pi) * 2 / side
        remains = mask & (along < self._uniform(n, -0.65, 0.8) * radius)
        p_cut = torch.where(kinds == PLATELET, 0.3, 1.0) * self.s.border_cut
        cut = (self._uniform(n, 0, 1) < p_cut) & (remains.sum((2, 3), keepdim=True) > 12)
        return torch.where(cut, remains, mask)

    def _recoloured(self, colour: Tensor, stains: Tensor) -> Tensor:
        """Change stain, glass, light and camera, in optical density (Beer-Lambert)."""
        n, s = len(colour), self.s
        density = -torch.log((colour / GLASS).clamp(0.01, 1.15))
        other = self.bank[torch.randint(len(self.bank), (n,), generator=self.random)]
        ratio = (other / stains.clamp(min=0.03)).clamp(*self.s.stain_ratio)
        moved = self._chance(n, s.stain_of_another_image)
        density = torch.where(moved, density * ratio[:, :, None, None], density)
        matrix = torch.eye(3) + s.density_matrix * torch.randn((n, 3, 3), generator=self.random)
        density = torch.einsum("nij,njhw->nihw", matrix, density)
        density = density * torch.exp(self._uniform(n, float(np.log(s.density[0])), float(np.log(s.density[1]))))
        light = self._uniform(n, -s.light, s.light) + self._uniform(n, -s.tint, s.tint, 3, 1, 1)
        transmitted = (torch.exp(-density) * (1 + light)).clamp(0, 1.08)
        transmitted = transmitted ** torch.exp(self._uniform(n, float(np.log(s.gamma[0])), float(np.log(s.gamma[1]))))
        grey = transmitted.mean(1, keepdim=True)
        saturation = torch.where(self._chance(n, 0.3), self._uniform(n, 0.5, 1.3), 1.0)
        if s.grey:
            saturation = torch.where(self._chance(n, s.grey), 0.0, saturation)
        return ((grey + (transmitted - grey) * saturation) * GLASS).clamp(0, 1)

    def _blurred(self, colour: Tensor) -> Tensor:
        """Take focus and add noise."""
        n = len(colour)
        soft = F.avg_pool2d(colour, 3, 1, 1)
        weight = torch.where(self._chance(n, 0.35), self._uniform(n, -0.6, 1.0), 0.0)
        noise = torch.randn(colour.shape, generator=self.random) * self._uniform(n, 0, 0.02)
        return (colour + weight * (soft - colour) + noise).clamp(0, 1)


def _centred(cutout: Tensor) -> Tensor:
    """Move what is left of each cell to the middle, as cutting out does."""
    inside = cutout.amax(1) > 0
    side = cutout.shape[-1]
    out = cutout.clone()
    for i, (rows, columns) in enumerate(zip(inside.any(2), inside.any(1), strict=True)):
        y, x = torch.nonzero(rows)[:, 0], torch.nonzero(columns)[:, 0]
        if len(y):
            shift = ((side - int(y[0]) - int(y[-1])) // 2, (side - int(x[0]) - int(x[-1])) // 2)
            if shift != (0, 0):
                out[i] = torch.roll(cutout[i], shift, (1, 2))
    return out
