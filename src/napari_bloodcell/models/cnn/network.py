"""The paper's network (Fig. 3), with its own head or a smaller one that pools over the cell."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Places = list[tuple[int, int]]
"""(row, column) of places of the last feature map."""

CUTOUT_SIZE = 128
CHANNELS = (32, 64, 128)
"""Channels of the three convolutions (Fig. 3)."""
_STRIDE, _FIELD_PX = 8, 22
"""Pixels between places of the last feature map, and pixels that each place sees."""
_MIDDLE_PX = (_FIELD_PX - _STRIDE) // 2
"""Where, in a place's field of view, the pixels begin that it stands for."""
_MARGINS_PX = {"pool": (_MIDDLE_PX, _MIDDLE_PX), "flatten": (_FIELD_PX - _STRIDE, 0)}
"""How many pixels a window begins before its cell at least, and how many a cell may reach beyond as many strides as the
window has places: so that these places stand for the whole cell ("pool"), or are all that see it ("flatten")."""
_LEAST_PLACES = 4
"""Places along a side of a window: smaller windows would save nothing."""
_WORTH_A_WINDOW_PX = 3000
"""Pixels that a smaller window must save in training, over all its cells, to be worth its calls."""


def feature_side(side: int) -> int:
    """Return the side of the last feature map for a cutout of this side."""
    for _ in CHANNELS:
        side = (side - 2) // 2
    return side


_PLACES = feature_side(CUTOUT_SIZE)
"""Places along a side of the last feature map of a whole cutout."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of the network; 2 classes give one logit, K > 2 give K.

    The head is that of Fig. 3 ("flatten": every place of the last feature map has its own weights), or sum, mean and
    maximum over the cell ("pool"), which is smaller and does not depend on the black around the cell.
    """

    head: Literal["flatten", "pool"] = "flatten"
    dense_units: int = 128
    dropout: float = 0.2
    n_classes: int = 2


class MaxPool2x2(nn.Module):
    """2×2 max-pooling; on CPUs two to three times as fast as torch's for channels-last tensors, with equal values."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H // 2, W // 2) of (N, C, H, W)."""
        if self.training:  # of equal values, torch's own passes the gradient to one only
            return F.max_pool2d(x, 2)
        even = x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
        rows = torch.maximum(even[:, :, ::2], even[:, :, 1::2])
        return torch.maximum(rows[:, :, :, ::2], rows[:, :, :, 1::2])


class CellCnn(nn.Module):
    """Three 3×3 convolutions of 32, 64, 128 channels with ReLU and 2×2 max-pooling; dense + ReLU; dropout; logits.

    Convolutions are not padded, as in the authors' published code: a cutout of 128 px gives a map of 14×14×128.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        layers: list[nn.Module] = []
        for n_in, n_out in zip((3, *CHANNELS[:-1]), CHANNELS, strict=True):
            # Pooling first gives the same and is faster.
            layers += [nn.Conv2d(n_in, n_out, 3), MaxPool2x2(), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers)
        n_features = 3 * CHANNELS[-1] if architecture.head == "pool" else CHANNELS[-1] * _PLACES**2
        self.dense = nn.Linear(n_features, architecture.dense_units)
        self.dropout = nn.Dropout(architecture.dropout)
        n_logits = 1 if architecture.n_classes == 2 else architecture.n_classes
        self.logits = nn.Linear(architecture.dense_units, n_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, 1) or (N, K) float32 for cutouts (N, 3, 128, 128), uint8 or 0 to 1."""
        return self.decide(self.describe(x))

    def describe(self, x: Tensor, extents: Tensor | None = None, moved: Tensor | None = None) -> Tensor:
        """Return the input of the dense layer, (N, F) float32, for cutouts (N, 3, 128, 128), uint8 or 0 to 1.

        The convolutions run on windows that just hold the cells, and the values of black are filled in: the same
        result, several times faster. `extents` (N,) are those of `cell_extents` if known; `moved` (N, 2) is how far the
        cells' middles are from the cutouts' in y and x, pixels.
        """
        counts, firsts = _windows(self.architecture.head, cell_extents(x) if extents is None else extents, moved)
        if self.training:  # otherwise a cell's window must not depend on the others
            counts = _fewer(counts)
        parts: list[Tensor] = []
        places: list[int] = []
        for n in sorted(set(counts)):
            rows = [row for row, count in enumerate(counts) if count == n]
            # A single image is convolved by another kernel and rounds differently, so it goes in twice.
            twice = rows * 2 if len(rows) == 1 and not self.training else rows
            parts.append(self._described(x, twice, [firsts[row] for row in twice], n)[: len(rows)])
            places += rows
        return torch.cat(parts)[torch.argsort(torch.tensor(places, device=x.device))]

    def decide(self, described: Tensor) -> Tensor:
        """Return logits (N, 1) or (N, K) float32 for the output of `describe`.

        Outside of training the sums are in float64 (except on Apple's MPS, which has none): in float32 their rounding
        depends on the number of rows and threads.
        """
        with torch.autocast(described.device.type, enabled=False):
            if self.training or described.device.type == "mps":
                out: Tensor = self.logits(self.dropout(F.relu(self.dense(described))))
                return out
            dense = F.relu(_linear64(self.dense, described))
            return _linear64(self.logits, dense).float()

    def channels_last(self) -> CellCnn:
        """Return itself with its convolutions in the memory order that is fast on CPUs."""
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        return self

    def _black(self) -> Tensor:
        """Return the last feature map where its field of view is black, (C,): the same at every place."""
        first, *others = [module for module in self.features if isinstance(module, nn.Conv2d)]
        with torch.autocast(first.weight.device.type, enabled=False):
            out = F.relu(_bias_of(first))
            for convolution in others:
                out = F.relu(convolution.weight.sum((2, 3)) @ out + _bias_of(convolution))
        return out

    def _described(self, x: Tensor, rows: list[int], firsts: Places, n: int) -> Tensor:
        """Return the dense layer's input for these cutouts, trimmed to windows of n × n places from the first on."""
        firsts = [(min(y, _PLACES - n), min(x, _PLACES - n)) for y, x in firsts]
        window = _windows_in(x, rows, firsts, n).contiguous(memory_format=torch.channels_last)
        window = window if window.is_floating_point() else _levels(window)
        maps = self.features(window).float()
        if self.architecture.head == "pool":
            return _pool_over_cell(maps, window)
        if n < _PLACES:
            whole = self._black()[None, :, None, None].expand(len(maps), -1, _PLACES, _PLACES).clone()
            for these, (a, b) in _together(firsts):
                whole[these, :, a : a + n, b : b + n] = maps[these]
            maps = whole
        return torch.flatten(maps, 1)


def _linear64(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x.double(), layer.weight.double(), layer.bias.double())


def _levels(window: Tensor) -> Tensor:
    """Return uint8 as 0 to 1, directly in the precision of the convolutions."""
    kind = window.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
    return window.to(dtype).div_(255.0)


def _bias_of(convolution: nn.Conv2d) -> Tensor:
    bias = convolution.bias
    return convolution.weight.new_zeros(convolution.out_channels) if bias is None else bias


def cell_extents(x: Tensor) -> Tensor:
    """Return how far from the middle each cell of cutouts (N, 3, 128, 128) reaches in y or x, pixels, (N,)."""
    if len(x) == 0:
        return torch.zeros(0, device=x.device)
    inside = x.amax(1) > 0 if x.is_floating_point() else x.any(1)
    from_centre = (torch.arange(CUTOUT_SIZE, device=x.device) - (CUTOUT_SIZE - 1) / 2).abs() + 0.5
    return torch.maximum((inside.any(1) * from_centre).amax(1), (inside.any(2) * from_centre).amax(1))


def _windows(head: str, extents: Tensor, moved: Tensor | None) -> tuple[list[int], Places]:
    """Return each cell's smallest window: its number of places along a side, and its first place in y and x."""
    before, after = _MARGINS_PX[head]
    reach = extents[:, None].expand(-1, 2)
    middle = CUTOUT_SIZE / 2 + (torch.zeros_like(reach) if moved is None else moved)
    first = ((middle - reach - before) / _STRIDE).floor().clamp(0, _PLACES - _LEAST_PLACES)
    end = ((middle + reach - after) / _STRIDE).ceil().clamp(max=_PLACES)
    counts = (end - first).amax(1).clamp(min=_LEAST_PLACES)
    return counts.int().tolist(), [(y, x) for y, x in first.int().tolist()]


def _fewer(counts: list[int]) -> list[int]:
    """Round window sizes up to the next size when a separate smaller window would save too little."""
    out = counts
    for n, larger in pairwise(sorted(set(counts))):
        saved = _STRIDE**2 * (larger**2 - n**2)
        if out.count(n) * saved < _WORTH_A_WINDOW_PX:
            out = [larger if count == n else count for count in out]
    return out


def _windows_in(x: Tensor, rows: list[int], firsts: Places, n: int) -> Tensor:
    """Return windows of n × n places, from the first on, of these cutouts (N, 3, 128, 128)."""
    side = n * _STRIDE + _FIELD_PX - _STRIDE
    trimmed = []
    for these, (y, x0) in _together(firsts):
        a, b = y * _STRIDE, x0 * _STRIDE
        trimmed.append(x[:, :, a : a + side, b : b + side][rows[these]])
    return torch.cat(trimmed)


def _together(firsts: Places) -> list[tuple[slice, tuple[int, int]]]:
    """Return the rows of windows that share their first place, with that place."""
    if len(set(firsts)) == 1:
        return [(slice(None), firsts[0])]
    return [(slice(row, row + 1), first) for row, first in enumerate(firsts)]


def _pool_over_cell(maps: Tensor, x: Tensor) -> Tensor:
    """Return sum, mean and maximum of the maps (N, C, n, n) over the cell, (N, 3C)."""
    n = maps.shape[-1]
    inside = (x.amax(1, keepdim=True) > 0).float()
    seen = slice(_MIDDLE_PX, _MIDDLE_PX + _STRIDE * n)
    cover = F.avg_pool2d(inside[..., seen, seen], _STRIDE)
    weighted = (maps * cover).sum((2, 3))
    total = cover.sum((2, 3))
    highest = (maps * (cover > 0)).amax((2, 3))  # ReLU'd maps are never negative
    return torch.cat([weighted / 8.0, weighted / total.clamp_min(1 / 64), highest], 1)
