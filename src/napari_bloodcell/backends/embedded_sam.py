"""The embedded SAM as a mask generator: offline, from the first minute, on a laptop.

An image is brought to the scale at which a red cell is 28 px wide and to a neutral glass; the encoder's heat map
proposes cells with their boxes; SAM's decoder turns each proposal into a mask on a small window around it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from napari_bloodcell.backends.device import autocast, fast_bf16, pick_device
from napari_bloodcell.backends.window_sam import (
    CLASSES,
    HEAT_STRIDE,
    LARGE_WINDOW,
    RBC_DIAMETER_PX,
    SMALL_BOX_PX,
    SMALL_WINDOW,
    STRIDE,
    WindowSam,
)
from napari_bloodcell.errors import ModelError
from napari_bloodcell.protocols import Calibration, CellMask
from napari_bloodcell.resample import resample

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_bloodcell.params import SegmentParams

GLASS = 235.0
"""Brightness to which the colour of the empty glass is brought."""
ALIGN_PX = 2 * STRIDE
"""The encoder's coarsest step: canvases begin on multiples of it."""
CANVAS_STEP_PX = 2 * ALIGN_PX
"""Canvases have sides that are multiples of this, so that few shapes need a plan of the convolutions."""
OVERLAP_PX = 80
"""Working pixels around a tile: a white cell's radius and what the encoder wants to see around it."""
DUPLICATE_BOX_IOU = 0.7
"""Proposals whose boxes agree by more than this are one cell."""
MIN_CALIBRATION_CELLS = 3
"""With fewer whole red cells the white ones help to find the scale."""
WBC_PER_RBC_DIAMETER = 1.95
"""Width of a white cell in a smear, in red cells."""
CALIBRATION_SCORE = 0.35
CALIBRATION_ROUNDS = 5
CALIBRATION_SIDE_PX = 288
"""Working pixels: the middle of a sample is looked at first, and is enough where it shows this many whole red cells."""
ENOUGH_RED_CELLS = 15
LARGEST_SIDE_PX = 1024
"""Working pixels: no more than this of a sample is looked at to calibrate."""
DOUBTFUL_RED_CELLS = 6
"""With fewer whole red cells the scale is sought from other starts as well."""
OTHER_STARTS = (0.6, 0.35, 0.2, 1.7)
NARROWEST_PX = 6.0
"""Narrower red cells than this show too little to be found."""


def normalise(image: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return what the network sees: 0 to 255 with the glass at `GLASS` → about -2.3 to 1; zero is "no image"."""
    return ((np.asarray(image, np.float32) - 160.0) / 64.0).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Proposals:
    """What the heat map proposes.

    (N,) scores, classes, and the class's share of the scores of all; (N, 2) centres and (N, 4) boxes as x, y, pixels
    of the canvas.
    """

    scores: torch.Tensor
    classes: torch.Tensor
    certainty: torch.Tensor
    centres: torch.Tensor
    boxes: torch.Tensor

    def take(self, rows: torch.Tensor) -> Proposals:
        """Return some of them."""
        return Proposals(*(getattr(self, name)[rows] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for a scale: how much wider cells are, whole red cells, share of the image in plausible cells."""

    factor: float | None
    n_red: int
    support: float

    @property
    def strength(self) -> float:
        """Area explained, and by how many cells: a few huge "cells" explain as much as the many that they are."""
        return self.support * float(np.sqrt(1 + min(self.n_red, 25)))


NO_EVIDENCE = Evidence(None, 0, 0.0)


@dataclass(frozen=True, slots=True)
class Canvas:
    """A resampled image with its features."""

    embedding: torch.Tensor
    detail: torch.Tensor
    heat: torch.Tensor
    sides: torch.Tensor
    corner: tuple[int, int]
    scale: float


class EmbeddedSam:
    """The project's own small SAM; implements `protocols.MaskGenerator`.

    Parameters
    ----------
    weights : Path
        A safetensors file written by the project's training script.
    device : str
        As in `SegmentParams.device`.

    Raises
    ------
    ModelError
        If the file is not one of the embedded SAM.
    """

    def __init__(self, weights: Path, device: str = "auto") -> None:
        self.name = "embedded"
        self.normalises_light = True
        self.device = pick_device(device)
        try:
            with safe_open(weights, "pt") as file:
                metadata = file.metadata() or {}
            state = load_file(weights)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{weights} cannot be read as safetensors: {error}") from error
        if metadata.get("format") != "napari-bloodcell-embedded-sam":
            raise ModelError(f"{weights} holds no embedded SAM (format {metadata.get('format')!r}).")
        self.settings: dict[str, str] = json.loads(metadata.get("settings", "{}"))
        self.sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
        self.network = WindowSam()
        try:
            self.network.load_state_dict({k: v.float() for k, v in state.items()})
        except RuntimeError as error:
            raise ModelError(f"{weights} does not fit the embedded SAM: {error}") from error
        self.network = self.network.eval().requires_grad_(False).to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dtype = torch.bfloat16 if fast_bf16(self.device) else torch.float32
        self.network.encoder.to(self.dtype)

    def overlap_px(self, calibration: Calibration) -> int:
        """Return how many pixels around a tile the generator wants to see."""
        return int(np.ceil(OVERLAP_PX * calibration.rbc_diameter_px / RBC_DIAMETER_PX))

    @torch.inference_mode()
    def calibrate(self, sample: NDArray[np.uint8], first: Calibration) -> Calibration:
        """Refine the width of a red cell by looking at the boxes the network gives to cells, until it settles.

        Where few cells agree with where it settled, other widths are tried: a large white cell in a small field, or
        clumps, mislead the first estimate.
        """
        if first.source in ("given", "pixel size", "default"):  # "default": there is nothing but glass
            return first
        best, evidence = self._settle(sample, first)
        if evidence.n_red < DOUBTFUL_RED_CELLS:
            for factor in OTHER_STARTS:
                width = first.rbc_diameter_px * factor
                if NARROWEST_PX <= width <= max(sample.shape[:2]):
                    other, weight = self._settle(sample, replace(first, rbc_diameter_px=width))
                    if weight.strength > evidence.strength:
                        best, evidence = other, weight
        return best

    def _settle(self, sample: NDArray[np.uint8], start: Calibration) -> tuple[Calibration, Evidence]:
        """Follow the network's own measure of the cells from one start; return where it ends and what speaks for it."""
        current, evidence = start, NO_EVIDENCE
        for _ in range(CALIBRATION_ROUNDS):
            middle = _middle(sample, current, CALIBRATION_SIDE_PX)
            found = NO_EVIDENCE
            if middle.size < 0.6 * sample.size:
                found = self._measure(middle, current)
            if found.n_red < ENOUGH_RED_CELLS:
                found = self._measure(_middle(sample, current, LARGEST_SIDE_PX), current)
            if found.factor is None:
                break
            evidence = found
            width = float(np.clip(current.rbc_diameter_px * found.factor, NARROWEST_PX, max(sample.shape[:2])))
            current = replace(current, rbc_diameter_px=width)
            if abs(np.log(found.factor)) < 0.04:
                break
        return current, evidence

    def _measure(self, sample: NDArray[np.uint8], current: Calibration) -> Evidence:
        """Measure how much wider cells are than `current` says, by the red ones where there are enough."""
        proposals = self._propose(self._canvas(sample, current, (0, 0)), CALIBRATION_SCORE)
        boxes = proposals.boxes
        height, width = (v * RBC_DIAMETER_PX / current.rbc_diameter_px for v in sample.shape[:2])
        whole = (boxes[:, :2] > 2).all(1) & (boxes[:, 2] < width - 2) & (boxes[:, 3] < height - 2)
        size = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt() / RBC_DIAMETER_PX
        is_red = proposals.classes == CLASSES.index("RBC")
        is_white = proposals.classes == CLASSES.index("WBC")
        red, white = size[whole & is_red], size[whole & is_white] / WBC_PER_RBC_DIAMETER
        plausible = (is_red & (size > 0.6) & (size < 1.6)) | (is_white & (size > 1.1) & (size < 3.2))
        native = (size * current.rbc_diameter_px) ** 2
        support = float((proposals.scores * native)[plausible].sum()) / (sample.shape[0] * sample.shape[1])
        if len(red) >= MIN_CALIBRATION_CELLS:
            return Evidence(float(red.median()), len(red), support)
        both = torch.cat([red.repeat(2), white])
        return Evidence(float(both.log().mean().exp()) if len(both) else None, len(red), support)

    @torch.inference_mode()
    def generate(
        self,
        image: NDArray[np.uint8],
        calibration: Calibration,
        params: SegmentParams,
        *,
        origin: tuple[int, int] = (0, 0),
    ) -> list[CellMask]:
        """Return every cell of a (Y, X, 3) uint8 image; masks may still overlap."""
        canvas = self._canvas(image, calibration, origin)
        proposals = self._propose(canvas, params.score_min)
        size = (proposals.boxes[:, 2:] - proposals.boxes[:, :2]).max(1).values
        cells: list[CellMask] = []
        for window, chosen in ((SMALL_WINDOW, size <= SMALL_BOX_PX), (LARGE_WINDOW, size > SMALL_BOX_PX)):
            n_at_once = params.points_per_batch * (LARGE_WINDOW // window) ** 2
            for batch in torch.split(torch.nonzero(chosen).flatten(), n_at_once):
                part = proposals.take(batch)
                cells += self._decode(canvas, part, window, image.shape[:2], origin)
        return [
            c
            for c in cells
            if c.predicted_iou >= params.predicted_iou_min and c.stability_score >= params.stability_min
        ]

    @torch.inference_mode()
    def predict(
        self,
        image: NDArray[np.uint8],
        calibration: Calibration,
        *,
        points: NDArray[np.floating] | None = None,
        boxes: NDArray[np.floating] | None = None,
    ) -> list[CellMask]:
        """Return one mask per prompt: points (N, 2) as (y, x), or boxes (N, 4) as (y0, x0, y1, x1).

        A point that lies in a proposal of the heat map is decoded with that proposal's box.
        """
        if (points is None) == (boxes is None):
            raise ModelError("Give either points or boxes, not both and not neither.")
        canvas = self._canvas(image, calibration, (0, 0))
        cells: list[CellMask] = []
        if boxes is not None:
            given = torch.as_tensor(np.asarray(boxes, np.float32)[:, [1, 0, 3, 2]], device=self.device) * canvas.scale
            for box in given:
                cells += self._decode_prompt(canvas, box[None], (box[:2] + box[2:])[None] / 2, image.shape[:2])
            return cells
        proposals = self._propose(canvas, 0.15)
        for y, x in np.asarray(points, np.float32):
            point = torch.tensor([[x, y]], device=self.device) * canvas.scale
            b = proposals.boxes
            inside = (
                (b[:, 0] <= point[0, 0]) & (b[:, 1] <= point[0, 1]) & (b[:, 2] > point[0, 0]) & (b[:, 3] > point[0, 1])
            )
            distance = (proposals.centres - point).norm(dim=1) / (b[:, 2:] - b[:, :2]).prod(1).sqrt()
            distance[~inside] = torch.inf
            if inside.any():
                cells += self._decode_prompt(canvas, b[distance.argmin()][None], point, image.shape[:2])
            else:
                cells += self._decode_prompt(canvas, None, point, image.shape[:2])
        return cells

    def _canvas(self, image: NDArray[np.uint8], calibration: Calibration, origin: tuple[int, int]) -> Canvas:
        scale = RBC_DIAMETER_PX / calibration.rbc_diameter_px
        resampled, inside, corner = resample(image, scale, origin=origin, align=ALIGN_PX, multiple=CANVAS_STEP_PX)
        gain = np.clip(GLASS / np.maximum(calibration.background_rgb, 1.0), 0.5, 6.0).astype(np.float32)
        seen = normalise(np.minimum(resampled * gain, 255.0)) * inside[..., None]
        tensor = torch.from_numpy(seen).permute(2, 0, 1)[None].to(self.device, self.dtype)
        embedding, detail, heat, sides = self.network.encoder(tensor)
        return Canvas(embedding, detail, heat[0].float(), sides[0].float(), corner, scale)

    def _propose(self, canvas: Canvas, score_min: float) -> Proposals:
        """Local maxima of the heat map with their boxes; of boxes that agree the best stays."""
        heat = torch.sigmoid(canvas.heat)
        best, kind = heat.max(0)
        peak = (F.max_pool2d(best[None, None], 3, 1, 1)[0, 0] == best) & (best > score_min)
        rows, columns = torch.nonzero(peak, as_tuple=True)
        centre = torch.stack([columns, rows], 1).float() * HEAT_STRIDE + HEAT_STRIDE / 2
        reach = canvas.sides[:, rows, columns].T.clamp(-4, 2.2).exp() * (RBC_DIAMETER_PX / 2)
        limit = torch.tensor([heat.shape[2], heat.shape[1]] * 2, device=heat.device) * HEAT_STRIDE
        boxes = torch.cat([centre - reach[:, :2], centre + reach[:, 2:]], 1).clamp(min=0).minimum(limit)
        scores = best[rows, columns]
        keep = _suppress(boxes.cpu().numpy(), scores.cpu().numpy(), DUPLICATE_BOX_IOU)
        kept = torch.from_numpy(keep).to(heat.device)
        certainty = scores / heat[:, rows, columns].sum(0)
        return Proposals(scores, kind[rows, columns], certainty, centre, boxes).take(kept)

    def _decode(
        self, canvas: Canvas, part: Proposals, window: int, shape: tuple[int, ...], origin: tuple[int, int]
    ) -> list[CellMask]:
        index = torch.zeros(len(part.scores), dtype=torch.long, device=self.device)
        middle = (part.boxes[:, :2] + part.boxes[:, 2:]) / 2
        with autocast(self.device):
            masks, iou, corner = self.network.decode(
                canvas.embedding, canvas.detail, index, centres=middle, points=middle, boxes=part.boxes, window=window
            )
        return _to_cells(masks[:, 0].float(), iou[:, 0].float(), corner, canvas, shape, origin, middle, part)

    def _decode_prompt(
        self, canvas: Canvas, box: torch.Tensor | None, point: torch.Tensor, shape: tuple[int, ...]
    ) -> list[CellMask]:
        centre = point if box is None else (box[:, :2] + box[:, 2:]) / 2
        large = box is None or float((box[:, 2:] - box[:, :2]).max()) > SMALL_BOX_PX
        index = torch.zeros(1, dtype=torch.long, device=self.device)
        with autocast(self.device):
            masks, iou, corner = self.network.decode(
                canvas.embedding,
                canvas.detail,
                index,
                centres=centre,
                points=point,
                boxes=box,
                window=LARGE_WINDOW if large else SMALL_WINDOW,
            )
        token = 0 if box is not None else 1 + int(iou[0, 1:].argmax())
        return _to_cells(masks[:, token].float(), iou[:, token].float(), corner, canvas, shape, (0, 0), point, None)


def _middle(sample: NDArray[np.uint8], calibration: Calibration, side_px: int) -> NDArray[np.uint8]:
    """Return the middle of a (Y, X, 3) sample, at most `side_px` working pixels wide."""
    side = max(1, int(side_px * calibration.rbc_diameter_px / RBC_DIAMETER_PX))
    y, x = (max(0, (n - side) // 2) for n in sample.shape[:2])
    return sample[y : y + side, x : x + side]


def _suppress(boxes: NDArray[np.float32], scores: NDArray[np.float32], iou_max: float) -> NDArray[np.intp]:
    """Return which boxes (N, 4) stay, best first, when those that agree with a better one by more than `iou_max` go."""
    order = np.argsort(-scores, kind="stable")
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    keep: list[int] = []
    alive = np.ones(len(order), bool)
    for i in order:
        if not alive[i]:
            continue
        keep.append(int(i))
        low, high = np.maximum(boxes[:, :2], boxes[i, :2]), np.minimum(boxes[:, 2:], boxes[i, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        alive &= shared <= iou_max * (area + area[i] - shared)
    return np.array(keep, np.intp)


def _to_cells(
    logits: torch.Tensor,
    iou: torch.Tensor,
    corner: torch.Tensor,
    canvas: Canvas,
    shape: tuple[int, ...],
    origin: tuple[int, int],
    prompts: torch.Tensor,
    proposals: Proposals | None,
) -> list[CellMask]:
    """Bring low-resolution masks (N, s, s) at stride 2 to the image's pixels, cropped to their boxes."""
    n = len(logits)
    scores = [1.0] * n if proposals is None else proposals.scores.tolist()
    names = [None] * n if proposals is None else [CLASSES[k] for k in proposals.classes.tolist()]
    certainty = [float("nan")] * n if proposals is None else proposals.certainty.tolist()
    inner = (logits > 1).sum((1, 2)).float()
    stability = (inner / (logits > -1).sum((1, 2)).clamp(min=1)).tolist()
    quality = iou.clamp(0, 1).tolist()
    side = 2 * logits.shape[-1]
    # Window corner on the smear's resampled grid → first native pixel, the same for every tile.
    start = (corner.cpu().numpy()[:, ::-1] + np.array(canvas.corner)) / canvas.scale
    first = np.floor(start).astype(int)
    n_native = int(np.ceil(side / canvas.scale)) + 1
    steps = (np.arange(n_native)[None] + 0.5)[:, None, :] + first[:, :, None]
    place = (steps - start[:, :, None]) * canvas.scale / side * 2 - 1
    rows, columns = (torch.from_numpy(place[:, k].astype(np.float32)).to(logits.device) for k in (0, 1))
    grid = torch.stack([columns[:, None, :].expand(-1, n_native, -1), rows[:, :, None].expand(-1, -1, n_native)], -1)
    native = F.grid_sample(logits[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)[:, 0]
    within = (grid.abs() <= 1).all(-1)
    masks = ((native > 0) & within).cpu().numpy()
    points = prompts.cpu().numpy()
    cells = []
    for k in range(len(masks)):
        y0, x0 = first[k] - np.array(origin)
        top, left = max(0, -y0), max(0, -x0)
        mask = masks[k, top : max(top, min(n_native, shape[0] - y0)), left : max(left, min(n_native, shape[1] - x0))]
        filled_rows, filled_columns = np.flatnonzero(np.any(mask, axis=1)), np.flatnonzero(np.any(mask, axis=0))
        if not filled_rows.size:
            continue
        r0, r1 = int(filled_rows[0]), int(filled_rows[-1]) + 1
        c0, c1 = int(filled_columns[0]), int(filled_columns[-1]) + 1
        y, x = y0 + top + r0, x0 + left + c0
        point = (points[k, ::-1] + np.array(canvas.corner)) / canvas.scale - np.array(origin)
        cells.append(
            CellMask(
                bbox=(int(y), int(x), int(y) + r1 - r0, int(x) + c1 - c0),
                mask=mask[r0:r1, c0:c1].copy(),
                predicted_iou=quality[k],
                stability_score=stability[k],
                score=scores[k],
                point=(float(point[0]), float(point[1])),
                cell_type=names[k],
                type_probability=certainty[k],
            )
        )
    return cells
