"""A small SAM of the official layout, trained from nothing in minutes until it gives cells."""

from __future__ import annotations

import copy
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from napari_bloodcell.models.device import autocast
from napari_bloodcell.models.embedded.tuning import mask_losses
from napari_bloodcell.models.sam_modules import modeling
from napari_bloodcell.stages.masks import filter_masks, paint
from training.sam_data import HS_DIAMETER_PX, read_sam_masks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

PATCH = 16
SIDE = 200
"""Side of the crops, pixels of the image; SAM sees them larger."""
TRAINED_COLUMNS = {"HS1": range(17), "HS2": range(12)}
CROPS_PER_STEP, CELLS_PER_CROP, GLASS_PER_CROP = 2, 12, 3
LEARNING_RATE = 8e-4

Crop = tuple["NDArray[np.uint8]", "NDArray[np.int32]"]


def sam_of_sizes(
    seed: int,
    *,
    image_size: int = 256,
    embed_dim: int = 192,
    depth: int = 6,
    heads: int = 3,
    window_size: int = 8,
    prompt_dim: int = 128,
) -> Any:
    """Return segment_anything's own Sam, small: every part and name as in the official checkpoints.

    Every third block of six, or the last one, attends to the whole image.
    """
    torch.manual_seed(seed)
    grid = image_size // PATCH
    return modeling.Sam(
        image_encoder=modeling.ImageEncoderViT(
            depth=depth,
            embed_dim=embed_dim,
            img_size=image_size,
            mlp_ratio=4,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            num_heads=heads,
            patch_size=PATCH,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=[2, 5] if depth == 6 else [depth - 1],
            window_size=window_size,
            out_chans=prompt_dim,
        ),
        prompt_encoder=modeling.PromptEncoder(
            embed_dim=prompt_dim,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        ),
        mask_decoder=modeling.MaskDecoder(
            num_multimask_outputs=3,
            transformer=modeling.TwoWayTransformer(
                depth=2, embedding_dim=prompt_dim, mlp_dim=4 * prompt_dim, num_heads=8
            ),
            transformer_dim=prompt_dim,
            iou_head_depth=3,
            iou_head_hidden_dim=prompt_dim,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )


def small_sam(seed: int) -> Any:
    """Return `sam_of_sizes`, changed so that minutes of training are enough."""
    sam = sam_of_sizes(seed)
    with torch.no_grad():  # attention across begins at the prompt
        torch.nn.init.trunc_normal_(sam.image_encoder.pos_embed, std=0.02)
        sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.mul_(2)
        transformer = sam.mask_decoder.transformer
        crossing = [transformer.final_attn_token_to_image]
        for layer in transformer.layers:
            crossing += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
        for attention in crossing:
            attention.k_proj.weight.copy_(attention.q_proj.weight)
    return sam


def read_patches(data: Path, columns: dict[str, range]) -> list[Crop]:
    """Return patches of HS1 and HS2 with SAM ViT-H's cleaned masks as label images (Y, X)."""
    patches = []
    for smear, kept in columns.items():
        folder = data / "smears" / smear
        for path in sorted((folder / "images").glob("*.jpg")):
            if int(path.stem[-2:]) in kept:
                image = np.asarray(Image.open(path).convert("RGB"))
                raw, _, _ = read_sam_masks(folder / "sam_vit_h" / f"{path.stem}.json.gz")
                cells, _ = paint(filter_masks(raw, rbc_diameter_px=HS_DIAMETER_PX), image.shape[:2])
                patches.append((image, cells))
    return patches


def random_crop(patches: Sequence[Crop], rng: np.random.Generator) -> Crop:
    """Return a crop of SIDE×SIDE of one of the patches, turned, flipped and a little lighter or darker."""
    image, cells = patches[int(rng.integers(len(patches)))]
    y, x = rng.integers(0, image.shape[0] - SIDE + 1), rng.integers(0, image.shape[1] - SIDE + 1)
    part, labels = image[y : y + SIDE, x : x + SIDE], cells[y : y + SIDE, x : x + SIDE]
    turns = int(rng.integers(4))
    part, labels = np.rot90(part, turns), np.rot90(labels, turns)
    if rng.random() < 0.5:
        part, labels = part[:, ::-1], labels[:, ::-1]
    light = np.clip(part * rng.normal(1, 0.05) + rng.normal(0, 4, 3), 0, 255).astype(np.uint8)
    return light, np.ascontiguousarray(labels)


def random_prompts(
    cells: NDArray[np.int32], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
    """Return points (N, 2) as (x, y), their cells' masks (N, Y, X), and how many are on cells; the rest is on glass."""
    area = np.bincount(cells.ravel())
    ids = rng.permutation(np.flatnonzero(area[1:] > 100) + 1)[:CELLS_PER_CROP]
    chosen = [rng.permutation(np.flatnonzero(cells.ravel() == i))[0] for i in ids]
    glass = np.flatnonzero(cells.ravel() == 0)
    places = np.concatenate([np.array(chosen, np.int64), rng.choice(glass, GLASS_PER_CROP)])
    points = np.stack([places % cells.shape[1], places // cells.shape[1]], 1).astype(np.float32) + 0.5
    return points, (cells[None] == ids[:, None, None]).astype(np.float32), len(ids)


def crop_loss(sam: Any, embedding: torch.Tensor, cells: NDArray[np.int32], rng: np.random.Generator) -> torch.Tensor:
    """Return SAM's loss of random prompts on one image's embedding (1, C, h, w).

    On a cell: cross-entropy + dice of the single mask and of the best of three, and the squared error of the
    predicted IoU. On glass only the latter, with no IoU at all as its aim.
    """
    points, masks, n = random_prompts(cells, rng)
    xy = torch.from_numpy(points)[:, None] * (sam.image_encoder.img_size / cells.shape[0])
    sparse, dense = sam.prompt_encoder((xy, torch.ones(len(points), 1)), None, None)
    decoder = sam.mask_decoder
    logits, iou = decoder.predict_masks(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense)
    loss = iou[n:].float().square().mean()
    if n:
        size = logits.shape[-2:]
        target = F.interpolate(torch.from_numpy(masks)[:, None], size, mode="bilinear", antialias=True)[:, 0]
        mask_loss, iou_loss = mask_losses(logits[:n], iou[:n], target)
        loss = loss + mask_loss.mean() + iou_loss.mean()
    return loss


def train_on_smears(data: Path, *, steps: int, stop: int, seed: int) -> Any:
    """Return a small SAM that was trained on HS1 and HS2."""
    patches = read_patches(data, TRAINED_COLUMNS)
    return train(small_sam(seed), lambda rng: random_crop(patches, rng), steps=steps, stop=stop, seed=seed)


def train(sam: Any, draw: Callable[[np.random.Generator], Crop], *, steps: int, stop: int, seed: int) -> Any:
    """Train a small SAM on crops that `draw` makes, and return the moving average of its weights.

    The learning rate falls over `steps`; training ends after `stop` of them.
    """
    rng = np.random.default_rng(seed)
    size = (sam.image_encoder.img_size,) * 2
    average = copy.deepcopy(sam).requires_grad_(False)
    optimiser = torch.optim.AdamW(sam.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    begin, recent = time.perf_counter(), 0.0
    for step in range(1, min(steps, stop) + 1):
        rate = LEARNING_RATE * min(1.0, step / 100) * max(0.01, 0.5 * (1 + np.cos(np.pi * step / steps)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        crops = [draw(rng) for _ in range(CROPS_PER_STEP)]
        seen = torch.from_numpy(np.stack([image for image, _ in crops])).permute(0, 3, 1, 2).float()
        seen = F.interpolate(seen, size, mode="bilinear")
        with autocast("cpu"):
            embeddings = sam.image_encoder(sam.preprocess(seen))
            losses = [crop_loss(sam, e[None], cells, rng) for e, (_, cells) in zip(embeddings, crops, strict=True)]
        loss = torch.stack(losses).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(sam.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            for old, new in zip(average.parameters(), sam.parameters(), strict=True):
                old.lerp_(new, max(0.01, 1 / (step + 1)))
        recent += 0.02 * (float(loss.detach()) - recent) if step > 1 else float(loss.detach())
        if step % 100 == 0:
            minutes = (time.perf_counter() - begin) / 60
            sys.stderr.write(f"step {step} of {steps}, {minutes:.1f} min, loss {recent:.3f}\n")
    return average.eval()
