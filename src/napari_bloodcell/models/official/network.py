"""SAM's image encoder and mask decoder with less memory traffic than the stock modules, to the same result.

They use `segment_anything`'s modules with their weights; the tests compare them with the modules' own `forward`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from napari_bloodcell.models.sam_modules import modeling

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)

_get_rel_pos: Any = modeling.image_encoder.get_rel_pos
_window_partition: Any = modeling.image_encoder.window_partition
_window_unpartition: Any = modeling.image_encoder.window_unpartition


def resize_longest_side(image: NDArray[np.uint8], side: int) -> Tensor:
    """Return a (Y, X, 3) uint8 image as (3, y, x) float32, 0 to 255, its longer side scaled to `side` (SAM's way)."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
    channels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # a copy, since torch wants writable memory
    # In 8 bits, as Pillow does it for SAM; up-scaling is the same to the bit.
    return F.interpolate(channels, size=size, mode="bilinear", align_corners=False, antialias=True)[0].float()


def normalise_and_pad(resized: Tensor, side: int) -> Tensor:
    """Return the input of SAM's encoder, (1, 3, side, side): normalised, then padded with zeros right and below."""
    mean, std = torch.tensor(PIXEL_MEAN).view(3, 1, 1), torch.tensor(PIXEL_STD).view(3, 1, 1)
    return F.pad((resized - mean) / std, (0, side - resized.shape[2], 0, side - resized.shape[1]))[None]


def encode(encoder: Any, image: Tensor) -> Tensor:
    """Return the embedding (1, C, S/16, S/16) of a preprocessed image (1, 3, S, S).

    The stock attention holds several maps of all heads × 4096 × 4096 at once, 3 GB in ViT-H's global blocks. Here heads
    go one by one, with the relative positions as a bias of the fused attention: the same sums.
    """
    x = encoder.patch_embed(image)
    if encoder.pos_embed is not None:
        x = x + encoder.pos_embed
    for block in encoder.blocks:
        shortcut = x
        x = block.norm1(x)
        if block.window_size > 0:
            height, width = x.shape[1:3]
            x, padded = _window_partition(x, block.window_size)
            x = _attend(block.attn, x)
            x = _window_unpartition(x, block.window_size, padded, (height, width))
        else:
            x = _attend(block.attn, x)
        x = shortcut + x
        x = x + block.mlp(block.norm2(x))
    embedding: Tensor = encoder.neck(x.permute(0, 3, 1, 2))
    return embedding


def _attend(attention: Any, x: Tensor) -> Tensor:
    """Attend within (B, H, W, C) tokens, head by head."""
    b, height, width, _ = x.shape
    n, heads = height * width, attention.num_heads
    qkv = attention.qkv(x).reshape(b, n, 3, heads, -1)
    rows: Tensor = _get_rel_pos(height, height, attention.rel_pos_h).to(qkv.dtype)
    columns: Tensor = _get_rel_pos(width, width, attention.rel_pos_w).to(qkv.dtype)
    outputs = []
    for head in range(heads):
        query, key, value = qkv[:, :, :, head].unbind(2)
        grid = query.reshape(b, height, width, -1)
        bias_rows = torch.einsum("bhwc,hkc->bhwk", grid, rows)
        bias_columns = torch.einsum("bhwc,wkc->bhwk", grid, columns)
        bias = (bias_rows[..., :, None] + bias_columns[..., None, :]).reshape(b, 1, n, n)
        attended = F.scaled_dot_product_attention(
            query[:, None], key[:, None], value[:, None], attn_mask=bias.to(query.dtype), scale=attention.scale
        )
        outputs.append(attended[:, 0])
    output: Tensor = attention.proj(torch.cat(outputs, -1).view(b, height, width, -1))
    return output


class SharedDecoder:
    """SAM's mask decoder for many prompts on one image, with the weights of the stock module.

    The stock decoder repeats the image embedding and its position encoding, `position` (1, C, h, w), once per prompt
    and projects all of it to keys and values again and again. There are 7 tokens a prompt but 4,096 places, so here the
    projections are moved to the tokens' side, (q Wq)(k Wk)ᵀ = (q Wq Wkᵀ) kᵀ; the encoding's share, the same for every
    prompt, is computed once; and the first layer attends to one shared embedding. Up-scaling is a matrix product in
    channels-last order.
    """

    def __init__(self, decoder: Any, position: Tensor) -> None:
        self._decoder = decoder
        self._position = position.flatten(2).transpose(1, 2)  # (1, N, C)
        self._side = (position.shape[2], position.shape[3])

    def predict(self, embedding: Tensor, sparse: Tensor, *, tokens: slice, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return mask logits (B, M, 4h, 4w) and predicted IoU (B, M), float32, for prompts on one image.

        `embedding` is (1, C, h, w) with the prompt encoder's "no mask" embedding added, `sparse` (B, P, C) the encoded
        prompts. `tokens` selects mask tokens: ``slice(1, None)`` the three of an ambiguous prompt, ``slice(0, 1)`` the
        one of a clear one. Places are computed in `dtype`, tokens in float32.
        """
        decoder = self._decoder
        first = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        start = torch.cat([first.expand(sparse.shape[0], -1, -1), sparse], 1)
        queries, places = self._transform(start, embedding.flatten(2).transpose(1, 2), dtype)
        iou: Tensor = decoder.iou_prediction_head(queries[:, 0])
        asked = range(decoder.num_mask_tokens)[tokens]
        hyper = torch.stack([decoder.output_hypernetworks_mlps[i](queries[:, 1 + i]) for i in asked], 1)
        return self._upscale(places, hyper), iou[:, tokens]

    def _transform(self, start: Tensor, places: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Run the two-way transformer on tokens (B, T, C) and places (1, N, C)."""
        transformer = self._decoder.transformer
        position = self._position.to(places.dtype)
        places = places.to(dtype)
        queries = start
        for layer in transformer.layers:
            if layer.skip_first_layer_pe:
                queries = layer.self_attn(q=queries, k=queries, v=queries)
            else:
                q = queries + start
                queries = queries + layer.self_attn(q=q, k=q, v=queries)
            queries = layer.norm1(queries)
            attended = _tokens_to_places(layer.cross_attn_token_to_image, queries + start, places, position)
            queries = layer.norm2(queries + attended)
            queries = layer.norm3(queries + layer.mlp(queries))
            places = _places_to_tokens(layer.cross_attn_image_to_token, queries + start, queries, places, position)
            norm = layer.norm4
            places = F.layer_norm(places, norm.normalized_shape, norm.weight.to(dtype), norm.bias.to(dtype), norm.eps)
        attended = _tokens_to_places(transformer.final_attn_token_to_image, queries + start, places, position)
        return transformer.norm_final_attn(queries + attended), places

    def _upscale(self, places: Tensor, hyper: Tensor) -> Tensor:
        """Return mask logits (B, M, 4h, 4w) of places (B, N, C) and mask weights (B, M, C/8), prompt by prompt."""
        grow1, norm, activate1, grow2, activate2 = self._decoder.output_upscaling
        weight1, bias1 = _as_linear(grow1, places.dtype)
        weight2, bias2 = _as_linear(grow2, places.dtype)
        channels = grow1.out_channels
        scale, shift = norm.weight.to(places.dtype), norm.bias.to(places.dtype)
        height, width = self._side
        out = torch.empty(hyper.shape[0], hyper.shape[1], 4 * height, 4 * width, device=hyper.device)
        for one, weights, logits in zip(places, hyper.to(places.dtype), out, strict=True):
            x = F.linear(one, weight1, bias1).view(-1, channels)  # (N·4, C/4)
            x = activate1(F.layer_norm(x, (channels,), scale, shift, norm.eps))
            x = activate2(F.linear(x, weight2, bias2)).view(-1, grow2.out_channels)  # (N·16, C/8)
            fine = (x @ weights.T).float().view(height, width, 2, 2, 2, 2, -1)
            logits.copy_(fine.permute(6, 0, 2, 4, 1, 3, 5).reshape(logits.shape))
        return out


def _as_linear(grow: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return weight (4·out, in) and bias (4·out,) of a 2×2 transposed convolution of stride 2."""
    weight = grow.weight.permute(2, 3, 1, 0).reshape(-1, grow.in_channels)
    return weight.to(dtype), grow.bias.repeat(4).to(dtype)


def _heads(attention: Any, x: Tensor) -> Tensor:
    """(B, T, I) → (B, H, T, I/H)."""
    return x.view(x.shape[0], x.shape[1], attention.num_heads, -1).transpose(1, 2)


def _by_head(attention: Any, weight: Tensor) -> Tensor:
    """(I, C) → (H, I/H, C)."""
    return weight.view(attention.num_heads, -1, weight.shape[1])


def _times_places(x: Tensor, places_t: Tensor) -> Tensor:
    """(B, M, C) times (B or 1, C, N) → (B, M, N), without repeating what is shared."""
    if places_t.shape[0] == 1:
        return (x.reshape(-1, x.shape[-1]) @ places_t[0]).view(x.shape[0], x.shape[1], -1)
    return torch.bmm(x, places_t)


def _position_share(small: Tensor, projected: Tensor) -> Tensor:
    """(B, H, T, c) times (H, c, N) → (B, H, T, N): what the position encoding adds to the logits."""
    b, h, t, c = small.shape
    return (small.transpose(0, 1).reshape(h, b * t, c) @ projected).view(h, b, t, -1).transpose(0, 1)


def _logits(
    attention: Any, small: Tensor, projection: Any, places: Tensor, position: Tensor, bias: Tensor | None
) -> Tensor:
    """Return logits (B, H, T, N), float32, of tokens (B, H, T, c) against places (B or 1, N, C) + position."""
    b, h, t, _ = small.shape
    small = small * small.shape[-1] ** -0.5
    folded = torch.einsum("bhtc,hcd->bhtd", small, _by_head(attention, projection.weight)).reshape(b, h * t, -1)
    logits = _times_places(folded.to(places.dtype), places.transpose(1, 2)).float().view(b, h, t, -1)
    of_position = _by_head(attention, F.linear(position[0], projection.weight, bias).T)
    return logits + _position_share(small, of_position)


def _tokens_to_places(attention: Any, queries: Tensor, places: Tensor, position: Tensor) -> Tensor:
    """Tokens (B, T, C) attend to places (B or 1, N, C) with a position encoding (1, N, C); returns (B, T, C).

    The bias of the keys adds the same to all places and drops out of the softmax.
    """
    small = _heads(attention, attention.q_proj(queries))
    share = torch.softmax(_logits(attention, small, attention.k_proj, places, position, None), -1)
    b, h, t, n = share.shape
    share = share.view(b, h * t, n).to(places.dtype)
    if places.shape[0] == 1:
        seen = (share.view(-1, n) @ places[0]).view(b, h, t, -1)
    else:
        seen = torch.bmm(share, places).view(b, h, t, -1)
    value = torch.einsum("bhtd,hcd->bthc", seen.float(), _by_head(attention, attention.v_proj.weight)).flatten(2)
    output: Tensor = attention.out_proj(value + attention.v_proj.bias)
    return output


def _places_to_tokens(attention: Any, keys: Tensor, values: Tensor, places: Tensor, position: Tensor) -> Tensor:
    """Places (B or 1, N, C) attend to tokens; returns places (B, N, C) with what they saw added."""
    small = _heads(attention, attention.k_proj(keys))
    logits = _logits(attention, small, attention.q_proj, places, position, attention.q_proj.bias)
    share = torch.softmax(logits, 2)  # over the tokens of each head
    b, h, t, n = share.shape
    out = attention.out_proj.weight.T.reshape(h, -1, attention.out_proj.out_features)
    folded = torch.einsum("bhtc,hcd->bhtd", _heads(attention, attention.v_proj(values)), out)
    folded = folded + attention.out_proj.bias / h  # the shares of each head sum to 1
    share = share.view(b, h * t, n).transpose(1, 2).to(places.dtype)
    return torch.baddbmm(places.expand(b, -1, -1), share, folded.reshape(b, h * t, -1).to(places.dtype))


def interpolation_matrix(low: int, padded: int, resized: int, original: int) -> Tensor:
    """Return the (original, low) matrix of SAM's up-sampling along one axis.

    Linear from `low` to `padded`, cut to `resized`, linear to `original`: its rows give any part of a mask alone.
    """
    whole = F.interpolate(torch.eye(low).unsqueeze(0), size=padded, mode="linear", align_corners=False)
    part = F.interpolate(whole[..., :resized], size=original, mode="linear", align_corners=False)
    return part[0].T.contiguous()
