"""The official Segment Anything models as mask generators (paper §3.3)."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.files import expanded
from napari_bloodcell.core.geometry import box_of_mask, slices_of
from napari_bloodcell.core.params import SegmentParams
from napari_bloodcell.core.protocols import Calibration, CellMask, Progress
from napari_bloodcell.models import weights
from napari_bloodcell.models.boxes import non_maximum_suppression
from napari_bloodcell.models.colour import distance_from_glass
from napari_bloodcell.models.device import autocast, pick_device, pick_precision
from napari_bloodcell.models.official.checkpoint import load_network
from napari_bloodcell.models.official.network import (
    SharedDecoder,
    encode,
    interpolation_matrix,
    normalise_and_pad,
    resize_longest_side,
)

BOX_NMS_IOU = 0.7
"""Of two masks whose boxes have a higher IoU, the one with the lower predicted IoU goes (SAM's default)."""
_THREE, _ONE = slice(1, None), slice(0, 1)
_CPU_BATCH = 8
"""Most prompts that a CPU decodes at once: more do not fit into its caches and are slower."""


class OfficialSam:
    """Segment Anything: ViT-B, ViT-L, ViT-H (downloaded on first use), or the path of a checkpoint of their layout.

    Masks are made as by `SamAutomaticMaskGenerator` with one crop, with equal numbers, but only the box of each mask is
    ever up-sampled. A tile without cells is not encoded at all if `SegmentParams.prompts` is "cells". Raises
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
        """Return 1.5 red cells: a cell on a tile's border is then seen whole, with some glass around it."""
        return int(np.ceil(1.5 * calibration.rbc_diameter_px))

    def calibrate(self, sample: NDArray[np.uint8], first: Calibration) -> Calibration:
        """Return the first estimate unchanged: SAM does not know the width of a red cell."""
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
        """Return a mask for everything SAM finds in an image (Y, X, 3) uint8; see `MaskGenerator.generate`.

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

        Of SAM's three masks for a point the one with the best predicted IoU is taken; if SAM finds nothing the mask is
        one empty pixel. The image of the last call is not encoded again. Raises `InputError` for an image that is not
        (Y, X, 3) uint8, and for prompts of another shape, outside the image, or empty.
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
        """Return the embedding of an image; the last one is cached."""
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
    """Return one mask per prompt, an empty pixel at the prompt if SAM finds nothing."""
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
    """Return prompts (N, n) as float64, (0, n) for None; boxes are cut to the image."""
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


# --- from logits to masks --------------------------------------------------------------------------------------------


STABILITY_OFFSET = 1.0
"""A mask's stability is the IoU of its logits cut at plus and at minus this (SamAutomaticMaskGenerator's default)."""


@dataclass(frozen=True, slots=True, eq=False)
class UpSampling:
    """SAM's linear up-sampling of logits (h, w) to an image (Y, X): `rows` (Y, h) and `columns` (X, w), float32."""

    rows: NDArray[np.float32]
    columns: NDArray[np.float32]

    def candidate(self, logits: NDArray[np.float32], iou: float, point: tuple[float, float]) -> Candidate | None:
        """Return the mask of logits (h, w) in the image's pixels, or None if it is empty.

        Only the box in which a logit exceeds the lower of the two cuts of the stability score is up-sampled.
        """
        inside = logits > -STABILITY_OFFSET
        y, y_low = _reach(inside, 1, self.rows)
        x, x_low = _reach(inside, 0, self.columns)
        if y.start >= y.stop or x.start >= x.stop:
            return None
        full = self.rows[y, y_low] @ logits[y_low, x_low] @ self.columns[x, x_low].T
        mask, corner = full > 0, (y.start, x.start)
        box = box_of_mask(mask, corner)
        if box is None:
            return None
        stability = np.count_nonzero(full > STABILITY_OFFSET) / np.count_nonzero(full > -STABILITY_OFFSET)
        return Candidate(
            bbox=box,
            changes=np.flatnonzero(np.diff(mask[slices_of(box, corner)].ravel(), prepend=False)).astype(np.int32),
            predicted_iou=iou,
            stability_score=float(stability),
            point=point,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A mask before suppression, as run lengths: hundreds of whole-tile masks would fill the memory."""

    bbox: tuple[int, int, int, int]
    changes: NDArray[np.int32]  # where the flattened mask changes, beginning with False
    predicted_iou: float  # the network's own value, may exceed 1
    stability_score: float
    point: tuple[float, float]

    def mask(self) -> CellMask:
        """Return the mask itself."""
        y0, x0, y1, x1 = self.bbox
        flips = np.zeros((y1 - y0) * (x1 - x0), bool)
        flips[self.changes] = True
        iou = min(max(self.predicted_iou, 0.0), 1.0)
        return CellMask(
            bbox=self.bbox,
            mask=np.logical_xor.accumulate(flips).reshape(y1 - y0, x1 - x0),
            predicted_iou=iou,
            stability_score=self.stability_score,
            score=iou * self.stability_score,
            point=self.point,
        )


def empty_mask(point: tuple[float, float]) -> CellMask:
    """Return a mask of one pixel that is not set."""
    y, x = int(point[0]), int(point[1])
    return CellMask((y, x, y + 1, x + 1), np.zeros((1, 1), np.bool_), 0.0, 0.0, 0.0, point)


def _reach(inside_2d: NDArray[np.bool_], across: int, matrix: NDArray[np.float32]) -> tuple[slice, slice]:
    """Return the pixels reached by the low-resolution places `inside`, and the places those pixels need."""
    inside = np.asarray(inside_2d.any(axis=across), np.bool_)
    pixels = np.flatnonzero(matrix[:, inside].any(1))
    if not pixels.size:
        return slice(0, 0), slice(0, 0)
    reached = slice(int(pixels[0]), int(pixels[-1]) + 1)
    needed = np.flatnonzero(matrix[reached].any(0))
    return reached, slice(int(needed[0]), int(needed[-1]) + 1)


# --- where cells are -------------------------------------------------------------------------------------------------


_LEAST_CONTRAST, _MOST_CONTRAST = 5.0, 20.0
"""Bounds of the threshold, Lab units: a tile without cells has only noise to split, one full of cells only shades."""


def find_foreground(image: NDArray[np.uint8], background_rgb: tuple[float, float, float]) -> NDArray[np.bool_]:
    """Return where a (Y, X, 3) uint8 image differs from the empty glass, (Y, X) bool, holes filled.

    Distance in Lab from the smear's background colour, above Otsu's threshold of the distances clipped at their 80th
    percentile: unclipped, one dominant white cell hides the red ones.
    """
    distance = distance_from_glass(image, background_rgb)
    clipped = np.minimum(distance, np.percentile(distance, 80))
    threshold = float(threshold_otsu(clipped)) if np.ptp(clipped) > 0 else _LEAST_CONTRAST  # type: ignore[no-untyped-call]
    above = distance > np.clip(threshold, _LEAST_CONTRAST, _MOST_CONTRAST)
    return np.asarray(ndimage.binary_fill_holes(above), np.bool_)


def regular_grid(shape: tuple[int, int], points_per_side: int) -> NDArray[np.float64]:
    """Return SAM's regular grid of points (N, 2) as (y, x), row by row, in the middle of equal boxes."""
    steps = (np.arange(points_per_side) + 0.5) / points_per_side
    y, x = np.meshgrid(steps * shape[0], steps * shape[1], indexing="ij")
    return np.stack([y.ravel(), x.ravel()], 1)


def points_on_cells(
    image: NDArray[np.uint8], calibration: Calibration, *, origin: tuple[int, int] = (0, 0)
) -> NDArray[np.float64]:
    """Return points (N, 2) float64 as (y, x) on the cells of an image (Y, X, 3) uint8, the most central first.

    These are the maxima of the foreground's distance transform, then a grid on the foreground with a spacing of half a
    red cell, aligned to the smear (`origin` is (y, x) of the image in it), without points that a maximum makes
    redundant.
    """
    diameter = calibration.rbc_diameter_px
    found = find_foreground(image, calibration.background_rgb)
    # The image's border is not a cell's; without any glass there is no distance to measure.
    distance = np.full(found.shape, diameter / 2) if found.all() else ndimage.distance_transform_edt(found)
    smooth = ndimage.gaussian_filter(distance, max(1.0, diameter / 34))
    window = max(3, round(diameter / 4) | 1)
    is_peak = (smooth == ndimage.maximum_filter(smooth, size=window)) & (distance > max(1.0, 0.08 * diameter))
    labels, n = ndimage.label(is_peak, structure=np.ones((3, 3)))  # a plateau is one maximum
    peaks = np.array(ndimage.center_of_mass(is_peak, labels, range(1, n + 1)), np.float64).reshape(-1, 2)

    spacing = max(2.0, 0.5 * diameter)
    axes = [np.arange((spacing / 2 - o) % spacing, n, spacing) for n, o in zip(image.shape, origin, strict=False)]
    grid = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], 1)
    rows, columns = grid.astype(np.intp).T
    grid = grid[distance[rows, columns] > max(1.0, 0.08 * diameter)]
    if len(peaks) and len(grid):
        from_peak = np.ones(image.shape[:2], bool)
        from_peak[tuple(np.rint(peaks).astype(np.intp).T)] = False
        rows, columns = grid.astype(np.intp).T
        grid = grid[ndimage.distance_transform_edt(from_peak)[rows, columns] > spacing / 2]
    return np.concatenate([peaks, grid])
