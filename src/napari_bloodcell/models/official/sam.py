"""The official Segment Anything models as mask generators (paper §3.3)."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.files import expanded
from napari_bloodcell.models import weights
from napari_bloodcell.models.boxes import non_maximum_suppression
from napari_bloodcell.models.device import autocast, pick_device, pick_precision
from napari_bloodcell.models.official.checkpoint import load_network
from napari_bloodcell.models.official.masks import UpSampling, empty_mask
from napari_bloodcell.models.official.network import (
    SharedDecoder,
    encode,
    interpolation_matrix,
    normalise_and_pad,
    resize_longest_side,
)
from napari_bloodcell.models.official.prompts import points_on_cells, regular_grid

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_bloodcell.core.params import SegmentParams
    from napari_bloodcell.core.protocols import Calibration, CellMask, Progress
    from napari_bloodcell.models.official.masks import Candidate

BOX_NMS_IOU = 0.7
"""Of two masks whose boxes have a larger IoU the one with the lower predicted IoU goes (SAM's default)."""
_THREE, _ONE = slice(1, None), slice(0, 1)
_CPU_BATCH = 8
"""Prompts that a CPU decodes at once at most: more do not fit into its caches and are slower."""


class OfficialSam:
    """Segment Anything: ViT-B, ViT-L, ViT-H (downloaded on first use), or a checkpoint of their layout, by its path.

    Masks are made as by `SamAutomaticMaskGenerator` with one crop, and to the same numbers, but only the box of each
    mask is ever up-sampled. A tile without cells is not encoded at all when `SegmentParams.prompts` is "cells". Raises
    `ModelError` if the file is no such checkpoint (nothing in it is executed), `DownloadError` or `DeviceError`.
    """

    normalises_light: bool = False

    def __init__(
        self,
        model: str | Path = "vit_b",
        *,
        device: str = "auto",
        precision: str = "auto",
        progress: Callable[[Progress], object] | None = None,
    ) -> None:
        self.device = pick_device(device)
        if str(model) in weights.OFFICIAL:
            entry = weights.OFFICIAL[str(model)]
            path, self.sha256 = weights.download(entry.name, progress), entry.sha256
        else:
            path = expanded(model)
            self.sha256 = weights.sha256_of(path) if path.is_file() else ""
        network, sizes = load_network(path)
        official = {entry.sha256: entry.name for entry in weights.OFFICIAL.values()}
        self.name = official.get(self.sha256, path.name)
        self.image_size = sizes.image_size
        self._network = network.to(self.device)
        with torch.inference_mode():
            self._decoder = SharedDecoder(network.mask_decoder, network.prompt_encoder.get_dense_pe())
        self._set_precision(precision)

    def _set_precision(self, name: str) -> None:
        self.precision, self.doubt = pick_precision(name, self.device)
        self._dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        self._last: _Encoded | None = None

    def in_precision(self, name: str) -> OfficialSam:
        """Return this model working in another precision."""
        other = copy.copy(self)
        other._set_precision(name)
        return other

    def overlap_px(self, calibration: Calibration) -> int:
        """Return 1.5 red cells: a cell on the border of a tile is then seen whole, with some glass around it."""
        return int(np.ceil(1.5 * calibration.rbc_diameter_px))

    def calibrate(self, sample: NDArray[np.uint8], first: Calibration) -> Calibration:
        """Return the first estimate unchanged: SAM has no idea of how wide a red cell is."""
        return first

    def generate(
        self,
        image: NDArray[np.uint8],
        calibration: Calibration,
        params: SegmentParams,
        *,
        origin: tuple[int, int] = (0, 0),
        within: tuple[int, int, int, int] | None = None,
    ) -> list[CellMask]:
        """Return a mask for everything that SAM finds in an image (Y, X, 3) uint8; see `MaskGenerator.generate`.

        `score` is predicted IoU times stability; the best predicted IoU comes first.
        """
        _check_image(image)
        if params.prompts == "grid":
            points = regular_grid((image.shape[0], image.shape[1]), params.points_per_side)
        else:
            points = points_on_cells(image, calibration, origin=origin)
        if within is not None:
            points = points[((points >= within[:2]) & (points < within[2:])).all(1)]
        if not len(points):
            return []
        encoded = self._encode(image)
        found: list[Candidate] = []
        for batch in self._batches(points, params.points_per_batch):
            logits, iou = self._decode(encoded, points=batch, tokens=_THREE)
            rows, masks = torch.nonzero(iou > params.predicted_iou_min, as_tuple=True)
            kept, scores = logits[rows, masks].cpu().numpy(), iou[rows, masks].cpu().numpy()
            for one, score, (y, x) in zip(kept, scores, batch[rows.cpu().numpy()], strict=True):
                candidate = encoded.up_sampling.candidate(one, float(score), (float(y), float(x)))
                if candidate is not None and candidate.stability_score >= params.stability_min:
                    found.append(candidate)
        if not found:
            return []
        boxes = np.array([c.bbox for c in found], np.float64)
        boxes[:, 2:] -= 1  # SAM's boxes end at the last pixel, not after it
        keep = non_maximum_suppression(boxes, np.array([c.predicted_iou for c in found]), BOX_NMS_IOU)
        return [found[i].mask() for i in keep]

    def predict(
        self,
        image: NDArray[np.uint8],
        calibration: Calibration,
        *,
        points: NDArray[np.floating] | None = None,
        boxes: NDArray[np.floating] | None = None,
    ) -> list[CellMask]:
        """Return one mask per prompt of the user; see `MaskGenerator.predict`.

        Of SAM's three masks of a point the one with the best predicted IoU is taken; where SAM finds nothing the mask
        is one empty pixel. The image of the last call is not encoded again. Raises `InputError` for an image that is
        not (Y, X, 3) uint8, and for prompts of another shape, outside the image, or empty.
        """
        _check_image(image)
        shape = image.shape[:2]
        clicks = _check_prompts(points, 2, shape, "points", "(y, x)")
        frames = _check_prompts(boxes, 4, shape, "boxes", "(y0, x0, y1, x1) with y0 < y1 and x0 < x1")
        masks: list[CellMask] = []
        if not len(clicks) and not len(frames):
            return masks
        encoded = self._encode(image)
        for batch in self._batches(clicks, _CPU_BATCH):
            logits, iou = self._decode(encoded, points=batch, tokens=_THREE)
            best = iou.argmax(1)
            rows = torch.arange(len(batch), device=best.device)
            masks += _one_each(encoded, logits[rows, best], iou[rows, best], batch)
        for batch in self._batches(frames, _CPU_BATCH):
            logits, iou = self._decode(encoded, boxes=batch, tokens=_ONE)
            masks += _one_each(encoded, logits[:, 0], iou[:, 0], (batch[:, :2] + batch[:, 2:]) / 2)
        return masks

    def _batches(self, prompts: NDArray[np.float64], size: int) -> list[NDArray[np.float64]]:
        """Split the prompts into batches of at most `size`, smaller ones on a CPU: the masks are the same."""
        step = min(size, _CPU_BATCH) if self.device.type == "cpu" else size
        return [prompts[i : i + step] for i in range(0, len(prompts), step)]

    @torch.inference_mode()
    def _encode(self, image: NDArray[np.uint8]) -> _Encoded:
        """Return the embedding of an image; the last one is remembered."""
        key = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest() + str(image.shape).encode()
        if self._last is not None and self._last.key == key:
            return self._last
        resized = resize_longest_side(image, self.image_size)
        with autocast(self.device, self.precision):
            seen = normalise_and_pad(resized, self.image_size).to(self.device)
            embedding = encode(self._network.image_encoder, seen)
        no_mask = self._network.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        low = 4 * embedding.shape[-1]
        (height, width), (new_height, new_width) = image.shape[:2], resized.shape[-2:]
        self._last = _Encoded(
            key=key,
            embedding=embedding.float() + no_mask,
            up_sampling=UpSampling(
                rows=interpolation_matrix(low, self.image_size, new_height, height).numpy(),
                columns=interpolation_matrix(low, self.image_size, new_width, width).numpy(),
            ),
            scale=(new_height / height, new_width / width),
        )
        return self._last

    @torch.inference_mode()
    def _decode(
        self,
        encoded: _Encoded,
        *,
        points: NDArray[np.float64] | None = None,
        boxes: NDArray[np.float64] | None = None,
        tokens: slice,
    ) -> tuple[Tensor, Tensor]:
        """Return low-resolution logits (B, M, 4h, 4w) and predicted IoU (B, M) of points (B, 2) or boxes (B, 4)."""
        prompt_encoder = self._network.prompt_encoder
        if points is not None:
            scaled = (points * encoded.scale)[:, None, ::-1].astype(np.float32)
            xy = torch.from_numpy(scaled.copy()).to(self.device)
            labels = torch.ones(xy.shape[:2], dtype=torch.int, device=self.device)
            sparse, _ = prompt_encoder(points=(xy, labels), boxes=None, masks=None)
        else:
            corners = (np.asarray(boxes) * (encoded.scale * 2))[:, [1, 0, 3, 2]].astype(np.float32)
            xyxy = torch.from_numpy(corners.copy()).to(self.device)
            sparse, _ = prompt_encoder(points=None, boxes=xyxy, masks=None)
        return self._decoder.predict(encoded.embedding, sparse, tokens=tokens, dtype=self._dtype)


@dataclass(frozen=True, slots=True, eq=False)
class _Encoded:
    """An image as SAM sees it, and the way back to its pixels."""

    key: bytes
    embedding: Tensor  # (1, C, h, w), with the "no mask" embedding added
    up_sampling: UpSampling
    scale: tuple[float, float]  # SAM's pixels per pixel along y and x


def _one_each(encoded: _Encoded, logits: Tensor, iou: Tensor, points: NDArray[np.float64]) -> list[CellMask]:
    """Return one mask per prompt, an empty pixel at the prompt where SAM finds nothing."""
    found = []
    for one, score, (y, x) in zip(logits.cpu().numpy(), iou.cpu().numpy(), points, strict=True):
        point = (float(y), float(x))
        candidate = encoded.up_sampling.candidate(one, float(score), point)
        found.append(empty_mask(point) if candidate is None else candidate.mask())
    return found


def _check_image(image: NDArray[np.uint8]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise InputError(f"SAM needs an image (Y, X, 3) uint8, not {image.shape} {image.dtype}.")


def _check_prompts(
    prompts: NDArray[np.floating] | None, n: int, shape: tuple[int, ...], what: str, order: str
) -> NDArray[np.float64]:
    """Return prompts (N, n) as float64, (0, n) for None; boxes that reach over the edge are cut to the image."""
    if prompts is None:
        return np.zeros((0, n))
    given = np.array(prompts, np.float64)
    if given.size == 0:
        return np.zeros((0, n))
    limit = np.array(shape[:2], np.float64)
    if given.ndim == 2 and given.shape[1] == n and bool(np.isfinite(given).all()):
        if n == 4:
            given = np.clip(given, 0, np.tile(limit, 2))
            if bool((given[:, :2] < given[:, 2:]).all()):
                return given
        elif bool(((given >= 0) & (given < limit)).all()):
            return given
    where = f"within the image of {shape[0]}×{shape[1]} pixels"
    raise InputError(f"{what} must be (N, {n}) as {order}, finite and {where}; given were {given.shape}.")
