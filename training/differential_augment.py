"""Windows around single cells in stains, cameras and optics that no laboratory at hand has."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class MixerStrengths:
    """How strongly windows are varied: ranges, standard deviations, and probabilities (`p_…`)."""

    scale: tuple[float, float] = (0.8, 1.25)
    aspect: float = 0.08
    red_density: tuple[float, float] = (0.12, 0.6)
    red_tint: float = 1.5
    nucleus_density: tuple[float, float] = (0.6, 1.6)
    nucleus_tint: float = 1.6
    power: tuple[float, float] = (0.4, 2.0)
    p_own_stain: float = 0.2
    stain_matrix: float = 0.16
    flare: float = 0.15
    camera_matrix: float = 0.14
    saturation: tuple[float, float] = (0.3, 1.5)
    light: float = 0.05
    p_focus: float = 0.65
    p_far_out_of_focus: float = 0.15
    noise: float = 0.025
    p_erased: float = 0.25


class LaboratoryMixer(WindowAugmenter):
    """Turns canvases into windows of laboratories that are not there, another one each time."""

    window_px, shift = 64, 0.12
    s: MixerStrengths  # type: ignore[assignment]

    def __call__(self, canvases: Tensor, labels: Tensor, stains: Tensor) -> Tensor:
        """Return windows (N, 3, 64, 64), 0 to 1, of canvases (N, Y, X, 3) uint8, at their scale.

        `stains` (N, 3) is the optical density of a typical red cell beside each.
        """
        x = self._window(canvases.permute(0, 3, 1, 2).float() / 255)
        return self._erased(self._through_optics(self._of_another_camera(self._of_another_stain(x, stains))))

    def _ratio(self, n: int, low: float, high: float, *shape: int) -> Tensor:
        return torch.exp(self._uniform(n, float(np.log(low)), float(np.log(high)), *shape))

    def _normal(self, n: int, *shape: int) -> Tensor:
        return torch.randn((n, *shape), generator=self.random)

    def _of_another_stain(self, x: Tensor, stains: Tensor) -> Tensor:
        """Return what light windows let through, with red cells and nuclei as dark in each channel as chance wants.

        What is between them follows on a power curve: laboratories differ in both, and independently.
        """
        n, s = len(x), self.s
        density = -torch.log((x / GLASS).clamp(0.012, 1.1))
        red = stains[:, :, None, None].clamp(0.05, 1.0)
        weight = density.clamp(min=0) ** 2
        darkest = (weight * density).sum((2, 3), keepdim=True) / (weight.sum((2, 3), keepdim=True) + 1e-3)
        nucleus = torch.maximum(darkest.clamp(min=0.15), 1.3 * red)
        to_red = self._ratio(n, *s.red_density) * self._ratio(n, 1 / s.red_tint, s.red_tint, 3, 1, 1)
        to_nucleus = self._ratio(n, *s.nucleus_density) * self._ratio(n, 1 / s.nucleus_tint, s.nucleus_tint, 3, 1, 1)
        to_nucleus = torch.maximum(to_nucleus, 1.25 * to_red)
        power = (torch.log(to_nucleus / to_red) / torch.log(nucleus / red)).clamp(*s.power)
        own = self._chance(n, s.p_own_stain)
        power = torch.where(own, 1.0, power)
        to_nucleus = torch.where(own, nucleus * self._ratio(n, 0.7, 1.4), to_nucleus)
        density = torch.sign(density) * to_nucleus * (density.abs() / nucleus).clamp(min=1e-4) ** power
        matrix = torch.eye(3) + s.stain_matrix * self._normal(n, 3, 3)
        return torch.exp(-torch.einsum("nij,njhw->nihw", matrix, density).clamp(-0.1, 4))

    def _of_another_camera(self, through: Tensor) -> Tensor:
        """Add stray light, mix the channels about white, change saturation, light and its tint."""
        n, s = len(through), self.s
        flare = self._uniform(n, 0, s.flare) * self._uniform(n, 0.3, 1, 3, 1, 1)
        flare = torch.where(self._chance(n, 0.5), flare, 0.0)
        through = (through + flare) / (1 + flare)
        matrix = torch.eye(3) + s.camera_matrix * self._normal(n, 3, 3)
        through = 1 + torch.einsum("nij,njhw->nihw", matrix, through - 1)
        grey = through.mean(1, keepdim=True)
        saturation = torch.where(self._chance(n, 0.5), self._uniform(n, *s.saturation), 1.0)
        light = self._uniform(n, -s.light, s.light) + self._uniform(n, -s.light, s.light, 3, 1, 1)
        return ((grey + (through - grey) * saturation) * (1 + light) * GLASS).clamp(0, 1)

    def _through_optics(self, x: Tensor) -> Tensor:
        """Sharpen or blur, at times far, and add noise."""
        n, s = len(x), self.s
        soft = _softened(_softened(x))
        weight = torch.where(self._chance(n, s.p_focus), self._uniform(n, -0.5, 1.15), 0.0)
        x = torch.where(self._chance(n, s.p_far_out_of_focus), _softened(soft), x + weight * (soft - x))
        level = torch.where(self._chance(n, 0.6), self._uniform(n, 0, s.noise), 0.0)
        return (x + self._normal(*x.shape) * level).clamp(0, 1)

    def _erased(self, x: Tensor) -> Tensor:
        """Cover a part of some windows with one colour."""
        n, side = len(x), x.shape[-1]
        at = torch.arange(side) / side
        y, x_at, height, width = (self._uniform(n, *v) for v in ((0.1, 0.9), (0.1, 0.9), (0.05, 0.16), (0.05, 0.16)))
        box = ((at[:, None] - y).abs() < height) & ((at - x_at).abs() < width) & self._chance(n, self.s.p_erased)
        return torch.where(box, self._uniform(n, 0.2, 0.95, 3, 1, 1), x)


def _softened(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
