"""The embedded SAM's network: a convolutional pyramid, a heat map of cells, and SAM's decoder on small windows.

SAM's own prompt encoder, two-way transformer and mask decoder work on a window of the embedding around each prompt
instead of the whole image. Every layer sees only a bounded neighbourhood (normalisation is over the channels of one
place, never over an area), so the result does not depend on where a tile begins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_bloodcell.models.sam_modules import modeling

STRIDE = 8
"""Pixels per token of the embedding."""
HEAT_STRIDE = 4
"""Pixels per element of the heat map."""
RBC_DIAMETER_PX = 28.0
"""Working scale: images are resampled so that a red cell is this wide."""
SMALL_WINDOW, LARGE_WINDOW = 6, 12
"""Sides of the two windows, tokens: 48 px for red cells and platelets, 96 px for white cells."""
SMALL_BOX_PX = 38.0
"""Boxes up to this wide are decoded in the small window."""
CLASSES = ("RBC", "WBC", "platelet")
"""Channels of the heat map."""


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each place, fast for channels-last tensors."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        y = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight.to(x.dtype), self.bias.to(x.dtype), 1e-5)
        channels_first: Tensor = y.permute(0, 3, 1, 2)
        return channels_first


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(norm(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.conv2.weight.mul_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape, (B, C, H, W)."""
        out: Tensor = x + self.conv2(F.relu(self.conv1(_as(self.conv1, self.norm(x))), inplace=True))
        return out


def _as(convolution: nn.Module, x: Tensor) -> Tensor:
    """Return a tensor in the precision in which a convolution multiplies."""
    return x.to(next(convolution.parameters()).dtype)


class PyramidEncoder(nn.Module):
    """(B, 3, H, W), H and W multiples of 16 → embedding at stride 8, detail and proposals at stride 4.

    Sums of residual blocks, and all from the pyramid to the heat map, are float32 whatever `multiply_in` says.
    """

    def __init__(
        self, dim: int = 96, widths: Sequence[int] = (32, 64, 128, 192), depths: Sequence[int] = (1, 3, 4)
    ) -> None:
        super().__init__()
        w2, w4, w8, w16 = widths
        self.stem = nn.Sequential(
            nn.Conv2d(3, w2, 3, stride=2, padding=1),
            ChannelNorm(w2),
            nn.ReLU(inplace=True),
            nn.Conv2d(w2, w4, 3, stride=2, padding=1),
        )
        self.stage4 = nn.Sequential(*(ResidualBlock(w4) for _ in range(depths[0])))
        self.down8 = nn.Sequential(ChannelNorm(w4), nn.Conv2d(w4, w8, 3, stride=2, padding=1))
        self.stage8 = nn.Sequential(*(ResidualBlock(w8) for _ in range(depths[1])))
        self.down16 = nn.Sequential(ChannelNorm(w8), nn.Conv2d(w8, w16, 3, stride=2, padding=1))
        self.stage16 = nn.Sequential(*(ResidualBlock(w16) for _ in range(depths[2])))
        self.lateral16 = nn.Sequential(ChannelNorm(w16), nn.Conv2d(w16, dim, 1))
        self.lateral8 = nn.Sequential(ChannelNorm(w8), nn.Conv2d(w8, dim, 1))
        self.smooth8 = ResidualBlock(dim)
        self.out8 = ChannelNorm(dim)
        self.lateral4 = nn.Conv2d(w4, w4, 1)
        self.top4 = nn.Conv2d(dim, w4, 1)
        self.smooth4 = nn.Sequential(ChannelNorm(w4), nn.Conv2d(w4, w4, 3, padding=1), nn.ReLU(inplace=True))
        self.detail = nn.Conv2d(w4, dim // 4, 1)
        self.heat = nn.Conv2d(w4, len(CLASSES), 1)
        self.sides = nn.Conv2d(w4, 4, 1)
        with torch.no_grad():
            for parameter, value in ((self.heat.bias, -4.0), (self.sides.weight, 0.0), (self.sides.bias, 0.0)):
                if parameter is not None:
                    parameter.fill_(value)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return embedding (B, dim, H/8, W/8), detail (B, dim/4, H/4, W/4), heat logits and log sides at H/4."""
        first, norm, relu, second = self.stem
        f4 = self.stage4(second(_as(second, relu(norm(first(x))))).to(x.dtype))
        f8 = self.stage8(_narrowed(self.down8, f4))
        f16 = self.stage16(_narrowed(self.down16, f8))
        p8 = self.lateral8(f8) + F.interpolate(self.lateral16(f16), scale_factor=2.0, mode="nearest")
        p8 = self.out8(self.smooth8(p8))
        p4 = self.smooth4(self.lateral4(f4) + F.interpolate(self.top4(p8), scale_factor=2.0, mode="nearest"))
        heat, sides = _side_by_side((self.heat, self.sides), p4)
        return p8, self.detail(p4), heat, sides

    def multiply_in(self, dtype: torch.dtype) -> PyramidEncoder:
        """Return itself with most of its products in `dtype`: all but those that see the pixels or decide.

        With all of it in bfloat16 scores are off by 0.0025 (root mean square), mostly by the rounding of the pixels and
        in the last layers; like this by 0.0005, for a sixth more time.
        """
        for part in (self.stem[3], self.stage4, self.down8, self.stage8, self.down16, self.stage16, self.smooth8):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    module.to(dtype)
        return self


def _narrowed(down: nn.Sequential, x: Tensor) -> Tensor:
    """Return what a norm and a convolution of two pixels' stride make of (B, C, H, W)."""
    norm, convolution = down
    out: Tensor = convolution(_as(convolution, norm(x))).to(x.dtype)
    return out


def _side_by_side(heads: Sequence[nn.Conv2d], x: Tensor) -> tuple[Tensor, ...]:
    """Return the outputs of 1×1 convolutions, computed as one with a multiple of 16 channels.

    With fewer channels oneDNN splits the sum over the inputs between threads, and their number affects rounding.
    """
    sizes = [head.out_channels for head in heads]
    n_unused = -sum(sizes) % 16
    weight = F.pad(torch.cat([head.weight for head in heads]), (0, 0, 0, 0, 0, 0, 0, n_unused))
    bias = F.pad(torch.cat([head.bias for head in heads if head.bias is not None]), (0, n_unused))
    return torch.split(F.conv2d(x, weight, bias)[:, : sum(sizes)], sizes, 1)


class WindowMaskDecoder(modeling.MaskDecoder):  # type: ignore[misc]
    """SAM's mask decoder for one embedding window per prompt, with detail at stride 4 added as in SAM 2."""

    def predict_windows(
        self, windows: Tensor, pe: Tensor, sparse: Tensor, dense: Tensor, detail: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return mask logits (N, 4, 4n, 4n) at stride 2 and predicted IoU (N, 4) for windows (N, C, n, n)."""
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight], 0)
        tokens = torch.cat([tokens.unsqueeze(0).expand(len(sparse), -1, -1), sparse], 1)
        n, c, h, w = windows.shape
        hs, src = self.transformer(windows + dense, pe.expand(n, -1, -1, -1), tokens)
        src = src.transpose(1, 2).reshape(n, c, h, w)
        up = self.output_upscaling
        fine = up[4](up[3](up[2](up[1](up[0](src))) + detail))
        kernels = torch.stack([mlp(hs[:, 1 + i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], 1)
        masks = (kernels @ fine.flatten(2)).unflatten(2, fine.shape[-2:])
        return masks, self.iou_prediction_head(hs[:, 0])


class WindowSam(nn.Module):
    """Encoder, heat map, and SAM's prompt encoder and mask decoder on windows."""

    def __init__(self, dim: int = 96) -> None:
        super().__init__()
        self.encoder = PyramidEncoder(dim)
        side = LARGE_WINDOW * STRIDE
        self.prompt_encoder = modeling.PromptEncoder(
            embed_dim=dim,
            image_embedding_size=(LARGE_WINDOW, LARGE_WINDOW),
            input_image_size=(side, side),
            mask_in_chans=16,
        )
        # Masks as prompts are not used: their convolutions would be dead weight.
        self.prompt_encoder.mask_downscaling = nn.Identity()
        self.mask_decoder = WindowMaskDecoder(
            transformer_dim=dim,
            transformer=modeling.TwoWayTransformer(depth=2, embedding_dim=dim, num_heads=4, mlp_dim=256),
            num_multimask_outputs=3,
            iou_head_hidden_dim=dim,
        )

    def decode(
        self,
        embedding: Tensor,
        detail: Tensor,
        image_index: Tensor,
        *,
        centres: Tensor,
        points: Tensor | None,
        boxes: Tensor | None,
        window: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode prompts on windows of the embedding, `window` tokens wide.

        Takes `embedding` (B, C, H/8, W/8) and `detail` (B, C/4, H/4, W/4) of the encoder; for each prompt its image
        (N,), the centre of its window (N, 2) and its point (N, 2) or box (N, 4) or both, as x, y, pixels. Returns mask
        logits (N, 4, 4·window, 4·window) at stride 2, predicted IoU (N, 4), and the pixel (x, y) of each window's top
        left corner (N, 2).
        """
        first = torch.round(centres / STRIDE - window / 2).long()
        limit = torch.tensor([embedding.shape[3], embedding.shape[2]], device=first.device)
        first = first.clamp(min=1 - LARGE_WINDOW).minimum(limit - 1)
        windows = _gather(embedding, image_index, first, window)
        fine = _gather(detail, image_index, first * 2, window * 2)
        origin = first * STRIDE
        margin = (LARGE_WINDOW - window) * STRIDE / 2
        shift = margin - origin.to(centres.dtype)
        labelled = None
        if points is not None:
            local = (points + shift).unsqueeze(1)
            labelled = (local, torch.ones(local.shape[:2], dtype=torch.int, device=local.device))
        local_boxes = None if boxes is None else boxes + shift.repeat(1, 2)
        sparse, _ = self.prompt_encoder(points=labelled, boxes=local_boxes, masks=None)
        dense = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        skip = (LARGE_WINDOW - window) // 2
        pe = self.prompt_encoder.get_dense_pe()[:, :, skip : skip + window, skip : skip + window]
        masks, iou = self.mask_decoder.predict_windows(windows, pe, sparse, dense, fine)
        return masks, iou, origin


def _gather(maps: Tensor, image_index: Tensor, first: Tensor, side: int) -> Tensor:
    """Cut (N, C, side, side) windows whose top left element is `first` (x, y); outside the map is zero."""
    steps = torch.arange(side, device=maps.device)
    (xs, inside_x), (ys, inside_y) = (
        (place.clamp(0, size - 1), (place >= 0) & (place < size))
        for place, size in ((first[:, k, None] + steps, maps.shape[3 - k]) for k in (0, 1))
    )
    windows = maps.permute(0, 2, 3, 1)[image_index[:, None, None], ys[:, :, None], xs[:, None, :]]
    inside = (inside_y[:, :, None] & inside_x[:, None, :]).unsqueeze(3)
    return (windows * inside).permute(0, 3, 1, 2)
