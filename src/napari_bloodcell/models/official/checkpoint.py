"""Reads checkpoints of SAM's official layout, of any size, without executing anything in the file."""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from napari_bloodcell.core.errors import READ_ERRORS, ModelError, reason_of
from napari_bloodcell.core.params import OFFICIAL_SAMS
from napari_bloodcell.models.sam_modules import modeling

_ANCHOR = "image_encoder.patch_embed.proj.weight"
_DECODER_HEADS = 8
"""The only number of the official layout that the shapes of the weights do not show."""
_OFFICIAL = dict(zip(((768, 12, 12), (1024, 24, 16), (1280, 32, 16)), OFFICIAL_SAMS, strict=True))
_DAMAGED: tuple[type[Exception], ...] = (pickle.UnpicklingError, zipfile.BadZipFile, SafetensorError, *READ_ERRORS)


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of a SAM of the official layout, read from the shapes of its weights."""

    embed_dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    patch_size: int
    image_size: int
    window_size: int
    global_blocks: tuple[int, ...]
    prompt_dim: int
    mask_channels: int
    decoder_depth: int
    decoder_mlp_dim: int
    decoder_downsample: int
    iou_depth: int
    iou_dim: int
    num_masks: int

    @property
    def name(self) -> str:
        """Its official name, "vit_b", "vit_l" or "vit_h"; "sam" for any other size."""
        return _OFFICIAL.get((self.embed_dim, self.depth, self.num_heads), "sam")


class SamNetwork(nn.Module):
    """Image encoder, prompt encoder and mask decoder under their official names."""

    def __init__(self, sizes: Architecture) -> None:
        super().__init__()
        grid = sizes.image_size // sizes.patch_size
        self.image_encoder: Any = modeling.ImageEncoderViT(
            img_size=sizes.image_size,
            patch_size=sizes.patch_size,
            embed_dim=sizes.embed_dim,
            depth=sizes.depth,
            num_heads=sizes.num_heads,
            mlp_ratio=sizes.mlp_dim / sizes.embed_dim,
            out_chans=sizes.prompt_dim,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            qkv_bias=True,
            use_rel_pos=True,
            window_size=sizes.window_size,
            global_attn_indexes=sizes.global_blocks,
        )
        self.prompt_encoder: Any = modeling.PromptEncoder(
            embed_dim=sizes.prompt_dim,
            image_embedding_size=(grid, grid),
            input_image_size=(sizes.image_size, sizes.image_size),
            mask_in_chans=sizes.mask_channels,
        )
        self.mask_decoder: Any = modeling.MaskDecoder(
            num_multimask_outputs=sizes.num_masks - 1,
            transformer=modeling.TwoWayTransformer(
                depth=sizes.decoder_depth,
                embedding_dim=sizes.prompt_dim,
                mlp_dim=sizes.decoder_mlp_dim,
                num_heads=_DECODER_HEADS,
                attention_downsample_rate=sizes.decoder_downsample,
            ),
            transformer_dim=sizes.prompt_dim,
            iou_head_depth=sizes.iou_depth,
            iou_head_hidden_dim=sizes.iou_dim,
        )


def load_network(path: Path) -> tuple[SamNetwork, Architecture]:
    """Return the network of a checkpoint (.pth, .pt or .safetensors), on the CPU, in float32, ready to predict.

    Raises `ModelError` if the file is missing, cannot be read as tensors alone, or holds something else than a SAM.
    """
    state = read_tensors(path)
    sizes = recognise(state, path)
    try:
        with torch.device("meta"):
            network = SamNetwork(sizes)
        # On the meta device only shapes exist; the tensors of the file become the parameters.
        network.load_state_dict(_owned(state, path), strict=True, assign=True)
    except (RuntimeError, AssertionError, ZeroDivisionError) as error:
        raise _no_sam(path, reason_of(error)) from error
    return network.eval().requires_grad_(False), sizes


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return a checkpoint's tensors by name; `ModelError` if it is damaged or holds more, which is never run."""
    if not os.path.isfile(path):
        raise ModelError(f'There is no checkpoint {path}. Give "vit_b", "vit_l" or "vit_h", or the path of a file.')
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        # Memory-mapped if the format allows, so that file and network are not in memory at once.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about details of pickles that are refused in any case
            is_zip = zipfile.is_zipfile(path)
            if is_zip:
                _refuse_bombs(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except _DAMAGED as error:
        reason = str(error).strip().splitlines()
        raise ModelError(
            f"{path} cannot be read as a checkpoint: it is damaged, truncated, or holds more than tensors, which is "
            f"never executed ({type(error).__name__}: {reason[0] if reason else 'no details'}). Download it again."
        ) from error
    return _flatten(content, path)


def _refuse_bombs(path: Path) -> None:
    """Raise if a zip would unpack to more than its size; torch writes no compressed files."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if (
        any(e.compress_type != zipfile.ZIP_STORED for e in entries)
        or sum(e.file_size for e in entries) > path.stat().st_size
    ):
        raise ValueError("it is compressed, which no checkpoint of torch is")


def _flatten(content: object, path: Path) -> dict[str, Tensor]:
    """Unwrap {"model": state dict} and strip prefixes that trainers add to the names ("module.", "sam.")."""
    for key in ("model", "state_dict", "model_state", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict):
        raise _no_sam(path, f"it holds a {type(content).__name__}, not named tensors")
    state = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    prefix = next((key.removesuffix(_ANCHOR) for key in state if key.endswith(_ANCHOR)), "")
    return {key.removeprefix(prefix): value for key, value in state.items()}


def _owned(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Copy the tensors out of the file as float32; refuse any that are not finite or larger than the file."""
    claimed = sum(t.numel() * t.element_size() for t in state.values())
    if claimed > 2 * path.stat().st_size:
        raise _no_sam(path, "its tensors claim to be larger than the file")
    owned = {}
    for key, value in state.items():
        if not value.is_floating_point() or value.layout != torch.strided:
            raise _no_sam(path, f"{key} is {value.dtype}, {value.layout}")
        owned[key] = value.to(torch.float32, copy=True).contiguous()
        if not bool(torch.isfinite(owned[key]).all()):
            raise _no_sam(path, f"{key} holds values that are not finite")
    return owned


def recognise(state: dict[str, Tensor], path: Path) -> Architecture:
    """Return the sizes of the SAM with these weights; `ModelError` if they are not a SAM's."""
    try:
        return _sizes(state)
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        reason = f"it has no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise _no_sam(path, reason) from error


def _sizes(state: dict[str, Tensor]) -> Architecture:
    embed_dim, channels, patch_size, _ = state[_ANCHOR].shape
    _, grid, columns, _ = state["image_encoder.pos_embed"].shape
    if channels != 3 or grid != columns:
        raise ValueError(f"its encoder takes {channels} channels and {grid}×{columns} patches")
    depth = _count(state, r"image_encoder\.blocks\.(\d+)\.")
    lengths, head_dim = [], 0
    for i in range(depth):
        rel_pos = state[f"image_encoder.blocks.{i}.attn.rel_pos_h"]
        lengths.append((rel_pos.shape[0] + 1) // 2)
        head_dim = rel_pos.shape[1]
    windows = sorted({side for side in lengths if side != grid})
    if len(windows) > 1:
        raise ValueError(f"its blocks attend in windows of {windows}")
    decoder = "mask_decoder.transformer"
    prompt_dim = state["mask_decoder.iou_token.weight"].shape[1]
    cross = state[f"{decoder}.layers.0.cross_attn_token_to_image.q_proj.weight"]
    return Architecture(
        embed_dim=embed_dim,
        depth=depth,
        num_heads=embed_dim // head_dim,
        mlp_dim=state["image_encoder.blocks.0.mlp.lin1.weight"].shape[0],
        patch_size=patch_size,
        image_size=grid * patch_size,
        window_size=windows[0] if windows else 0,
        global_blocks=tuple(i for i, side in enumerate(lengths) if side == grid),
        prompt_dim=prompt_dim,
        mask_channels=state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
        decoder_depth=_count(state, r"mask_decoder\.transformer\.layers\.(\d+)\."),
        decoder_mlp_dim=state[f"{decoder}.layers.0.mlp.lin1.weight"].shape[0],
        decoder_downsample=prompt_dim // cross.shape[0],
        iou_depth=_count(state, r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\."),
        iou_dim=state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
        num_masks=state["mask_decoder.mask_tokens.weight"].shape[0],
    )


def _count(state: dict[str, Tensor], pattern: str) -> int:
    """Return how many numbered parts the weights have."""
    found = {int(hit[1]) for key in state if (hit := re.match(pattern, key))}
    if found != set(range(len(found))) or not found:
        raise ValueError(f"its parts {pattern!r} are numbered {sorted(found)}")
    return len(found)


def _no_sam(path: Path, reason: str) -> ModelError:
    return ModelError(
        f"{path} is not a Segment Anything checkpoint of the official layout: {reason}. Allowed are vit_b, vit_l and "
        f"vit_h, and other sizes of the same layout, as .pth or .safetensors."
    )
