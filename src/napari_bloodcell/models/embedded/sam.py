"""The embedded SAM as a mask generator: works offline at once, also on a laptop.

An image is brought to the scale at which a red cell is 28 px wide and to neutral glass; the encoder's heat map proposes
cells with their boxes; SAM's decoder turns each proposal into a mask on a small window around it.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from napari_bloodcell.core.errors import READ_ERRORS, ModelError, reason_of
from napari_bloodcell.core.geometry import box_of_mask, slices_of
from napari_bloodcell.core.params import SegmentParams
from napari_bloodcell.core.protocols import Calibration, CellMask
from napari_bloodcell.core.threads import Threads, in_threads
from napari_bloodcell.models.device import autocast, cpu_threads, pick_device, pick_precision
from napari_bloodcell.models.embedded.network import (
    CLASSES,
    HEAT_STRIDE,
    LARGE_WINDOW,
    RBC_DIAMETER_PX,
    SMALL_BOX_PX,
    SMALL_WINDOW,
    STRIDE,
    WindowSam,
)
from napari_bloodcell.models.embedded.proposals import (
    CALIBRATION_SCORE,
    GLASS,
    Proposals,
    doubtful_peaks,
    find_scale,
    judge,
    propose,
)

_DAMAGED: tuple[type[Exception], ...] = (SafetensorError, *READ_ERRORS)

FORMAT = "napari-bloodcell-embedded-sam"
"""Format in the metadata of its files."""
CANVAS_STEP_PX = 4 * STRIDE
"""Canvas origins and sides are multiples of this: few shapes need few convolution plans, and at the smear's edge all
tiles see the same width of nothing beyond it. The encoder's coarsest step divides it."""
LOOK_PX, MOST_LOOK_PX = 1280, 2048
"""Side of the image seen at once: in working pixels, and at most in pixels of the image. More is not faster."""
OVERLAP_PX = 144
"""Working pixels around a tile. What is farther away changes a score by at most 1e-4; with 112 px it was 2e-2, and one
cell in 1,500 depended on where a tile began."""
PROMPTS_STEP = 8
"""Prompts are decoded in multiples of this: smaller matrices are multiplied in another order, and round differently."""


def is_embedded_sam(path: Path) -> bool:
    """Return whether a file says that it holds an embedded SAM."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def normalise(image: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the network's input: 0 to 255 with glass at `GLASS` → about -2.3 to 1; zero means "no image"."""
    return ((np.asarray(image, np.float32) - 160.0) / 64.0).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Canvas:
    """A resampled image, (H, W, 3) float32, 0 to 255 with the glass at `GLASS`, and its features."""

    embedding: torch.Tensor
    detail: torch.Tensor
    heat: torch.Tensor
    sides: torch.Tensor
    corner: tuple[int, int]
    scale: float
    pixels: NDArray[np.float32]


class EmbeddedSam:
    """The project's own small SAM, a `MaskGenerator`; `ModelError` if `weights` is no such file."""

    def __init__(self, weights: Path, device: str = "auto", precision: str = "auto") -> None:
        self.name = "embedded"
        self.normalises_light = True
        self.keeps_proposals = True
        self.device = pick_device(device)
        try:
            with safe_open(weights, "pt") as file:
                metadata = file.metadata() or {}
            state = load_file(weights)
            settings = dict(json.loads(metadata.get("settings", "{}")))
        except _DAMAGED as error:
            raise ModelError(f"{weights} cannot be read as safetensors: {reason_of(error)}.") from error
        if metadata.get("format") != FORMAT:
            raise ModelError(f"{weights} holds no embedded SAM (format {metadata.get('format')!r}).")
        self.settings: dict[str, str] = {str(k): str(v) for k, v in settings.items()}
        self.sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
        self.network = WindowSam()
        try:
            self.network.load_state_dict({k: v.float() for k, v in state.items()})
            if not all(bool(torch.isfinite(v).all()) for v in self.network.state_dict().values()):
                raise ValueError("not all of its weights are finite")
        except READ_ERRORS as error:
            raise ModelError(f"{weights} does not fit the embedded SAM: {reason_of(error)}.") from error
        self.network = self.network.eval().requires_grad_(False).to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._set_precision(precision)

    def _set_precision(self, name: str) -> None:
        self.precision, self.doubt = pick_precision(name, self.device)
        self._quick = self.network.encoder
        if self.precision == "bfloat16":
            self._quick = copy.deepcopy(self.network.encoder).multiply_in(torch.bfloat16)

    def in_precision(self, name: str) -> EmbeddedSam:
        """Return this model working in another precision."""
        other = copy.copy(self)
        other._set_precision(name)
        return other

    def overlap_px(self, calibration: Calibration) -> int:
        """Return how many pixels around a tile the generator wants to see."""
        return int(np.ceil(OVERLAP_PX * calibration.rbc_diameter_px / RBC_DIAMETER_PX))

    @property
    def threads(self) -> Threads | None:
        """Threads in which `generate` may be called at once."""
        return cpu_threads(self.device)

    def look_px(self, calibration: Calibration) -> int:
        """Return the side of the image it prefers to see at once, pixels."""
        return min(MOST_LOOK_PX, int(LOOK_PX * calibration.rbc_diameter_px / RBC_DIAMETER_PX))

    @torch.inference_mode()
    def calibrate(self, sample: NDArray[np.uint8], first: Calibration) -> Calibration:
        """Refine the width of a red cell from the boxes that the network gives to cells, until it settles.

        Always in float32: all cells depend on it.
        """
        if first.source == "default":  # an empty field
            return replace(first, scale_confidence=0.0)

        def look(part: NDArray[np.uint8], current: Calibration) -> tuple[Proposals, NDArray[np.float32]]:
            canvas = self.see(part, current, is_exact=True)
            return propose(canvas.heat, canvas.sides, CALIBRATION_SCORE), canvas.pixels

        return judge(sample, first, look) if first.source == "given" else find_scale(sample, first, look)

    @torch.inference_mode()
    def generate(
        self,
        image: NDArray[np.uint8],
        calibration: Calibration,
        params: SegmentParams,
        *,
        origin: tuple[int, int] = (0, 0),
        within: tuple[int, int, int, int] | None = None,
        keep_from: float | None = None,
    ) -> list[CellMask]:
        """Return every cell of a (Y, X, 3) uint8 image; masks may still overlap. See `MaskGenerator.generate`.

        With `keep_from` they are those of every `score_min` from there on: `CellMask.proposed_at` tells them apart.
        """
        keeps = keep_from is not None
        score_min = params.score_min if keep_from is None else min(keep_from, params.score_min)
        canvas = self.see(image, calibration, origin, score_min=score_min)
        proposals = propose(canvas.heat, canvas.sides, score_min, keeps_displaced=keeps)
        if within is not None:
            proposals = _within(proposals, canvas, origin, within)
        size = (proposals.boxes[:, 2:] - proposals.boxes[:, :2]).max(1).values
        batches = []
        for window, chosen in ((SMALL_WINDOW, size <= SMALL_BOX_PX), (LARGE_WINDOW, size > SMALL_BOX_PX)):
            n_at_once = params.points_per_batch * (LARGE_WINDOW // window)
            batches += [(window, batch) for batch in torch.split(torch.nonzero(chosen).flatten(), n_at_once)]

        @torch.inference_mode()
        def decode(one: tuple[int, torch.Tensor]) -> list[CellMask]:
            window, batch = one
            return self._decode(canvas, proposals.take(batch), window, image.shape[:2], origin)

        threads = cpu_threads(self.device, one_core_each=True)
        cells = [cell for found in in_threads(decode, batches, threads) for cell in found]
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

        A point in a proposal of the heat map is decoded with that proposal's box.
        """
        if (points is None) == (boxes is None):
            raise ModelError("Give either points or boxes, not both and not neither.")
        canvas = self.see(image, calibration)
        cells: list[CellMask] = []
        if boxes is not None:
            given = torch.as_tensor(np.asarray(boxes, np.float32)[:, [1, 0, 3, 2]], device=self.device) * canvas.scale
            for box in given:
                cells += self._decode_prompt(canvas, box[None], (box[:2] + box[2:])[None] / 2, image.shape[:2])
            return cells
        proposals = propose(canvas.heat, canvas.sides, 0.15)
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

    def see(
        self,
        image: NDArray[np.uint8],
        calibration: Calibration,
        origin: tuple[int, int] = (0, 0),
        *,
        is_exact: bool = False,
        score_min: float | None = None,
    ) -> Canvas:
        """Return the features of an image (Y, X, 3) uint8, on which prompts are decoded.

        They are in float32 if `is_exact`; with `score_min`, what is a cell does not depend on the rounding of bfloat16.
        """
        scale = RBC_DIAMETER_PX / calibration.rbc_diameter_px
        resampled, inside, corner = resample(image, scale, origin=origin, align=CANVAS_STEP_PX, multiple=CANVAS_STEP_PX)
        gain = np.clip(GLASS / np.maximum(calibration.background_rgb, 1.0), 0.5, 6.0).astype(np.float32)
        pixels = np.minimum(resampled * gain, 255.0)
        seen = normalise(pixels) * inside[..., None]
        tensor = torch.from_numpy(seen).permute(2, 0, 1)[None].to(self.device)
        embedding, detail, heat, sides = (self.network.encoder if is_exact else self._quick)(tensor)
        heat = heat[0].float()
        if score_min is not None and self.precision != "float32":
            heat = self._decided(heat, tensor, score_min)
        return Canvas(embedding, detail, heat, sides[0].float(), corner, scale, pixels)

    def _decided(self, heat: torch.Tensor, seen: torch.Tensor, score_min: float) -> torch.Tensor:
        """Return a heat map (K, H/4, W/4) that is as in float32 around peaks that are doubtful in bfloat16."""
        doubtful = doubtful_peaks(heat, score_min)
        height, width = seen.shape[2:]
        if len(doubtful) * (2 * OVERLAP_PX) ** 2 > height * width:
            whole: torch.Tensor = self.network.encoder(seen)[2][0]
            return whole
        heat = heat.clone()
        for row, column in doubtful:
            (y0, y1), (x0, x1) = _around(row, height), _around(column, width)
            exact = self.network.encoder(seen[:, :, y0:y1, x0:x1])[2][0]
            for r in range(max(0, row - 1), min(row + 2, heat.shape[1])):
                for c in range(max(0, column - 1), min(column + 2, heat.shape[2])):
                    heat[:, r, c] = exact[:, r - y0 // HEAT_STRIDE, c - x0 // HEAT_STRIDE]
        return heat

    def _decode(
        self, canvas: Canvas, part: Proposals, window: int, shape: tuple[int, ...], origin: tuple[int, int]
    ) -> list[CellMask]:
        n = len(part.scores)
        boxes = torch.cat([part.boxes, part.boxes[:1].expand(-n % PROMPTS_STEP, -1)])
        index = torch.zeros(len(boxes), dtype=torch.long, device=self.device)
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        with autocast(self.device, self.precision):
            masks, iou, corner = self.network.decode(
                canvas.embedding, canvas.detail, index, centres=middle, points=middle, boxes=boxes, window=window
            )
        masks, iou = masks[:n, 0].float(), iou[:n, 0].float()
        return _to_cells(masks, iou, corner[:n], canvas, shape, origin, middle[:n], part)

    def _decode_prompt(
        self, canvas: Canvas, box: torch.Tensor | None, point: torch.Tensor, shape: tuple[int, ...]
    ) -> list[CellMask]:
        centre = point if box is None else (box[:, :2] + box[:, 2:]) / 2
        large = box is None or float((box[:, 2:] - box[:, :2]).max()) > SMALL_BOX_PX
        index = torch.zeros(1, dtype=torch.long, device=self.device)
        with autocast(self.device, self.precision):
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


def _around(element: int, side: int) -> tuple[int, int]:
    """Return the pixels that decide about an element of the heat map: whole steps of the encoder, within a side."""
    first = (element * HEAT_STRIDE - OVERLAP_PX) // CANVAS_STEP_PX * CANVAS_STEP_PX
    return max(0, first), min(side, first + 2 * OVERLAP_PX + 2 * CANVAS_STEP_PX)


def _within(proposals: Proposals, canvas: Canvas, origin: tuple[int, int], box: tuple[int, int, int, int]) -> Proposals:
    """Return the proposals that lie in a box (y0, x0, y1, x1) of the image's pixels."""
    if not len(proposals.scores):
        return proposals
    place = _native_points((proposals.boxes[:, :2] + proposals.boxes[:, 2:]) / 2, canvas, origin)
    inside = ((place >= box[:2]) & (place < box[2:])).all(1)
    return proposals.take(torch.from_numpy(np.flatnonzero(inside)).to(proposals.scores.device))


def _native_points(points: torch.Tensor, canvas: Canvas, origin: tuple[int, int]) -> NDArray[np.float64]:
    """Return points (N, 2), (x, y) of the canvas, as (y, x) of the image's pixels."""
    native = (points.cpu().numpy()[:, ::-1] + np.array(canvas.corner)) / canvas.scale - np.array(origin)
    return np.asarray(native, np.float64)


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
    at = [(0.0, float("inf"))] * n
    if proposals is not None:
        at = list(zip(proposals.lowest.tolist(), proposals.highest.tolist(), strict=True))
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
    in_row, in_column = np.abs(place[:, 0]) <= 1, np.abs(place[:, 1]) <= 1
    masks = (native > 0).cpu().numpy() & in_row[:, :, None] & in_column[:, None, :]
    points = _native_points(prompts, canvas, origin)
    cells = []
    for k in range(len(masks)):
        y0, x0 = first[k] - np.array(origin)
        top, left = max(0, -y0), max(0, -x0)
        mask = masks[k, top : max(top, min(n_native, shape[0] - y0)), left : max(left, min(n_native, shape[1] - x0))]
        corner_of_mask = (int(y0 + top), int(x0 + left))
        box = box_of_mask(mask, corner_of_mask)
        if box is None:
            continue
        cells.append(
            CellMask(
                bbox=box,
                mask=mask[slices_of(box, corner_of_mask)].copy(),
                predicted_iou=quality[k],
                stability_score=stability[k],
                score=scores[k],
                point=(float(points[k, 0]), float(points[k, 1])),
                cell_type=names[k],
                type_probability=certainty[k],
                proposed_at=at[k],
            )
        )
    return cells


# --- the working scale -----------------------------------------------------------------------------------------------


def resample(
    image: NDArray[np.uint8], scale: float, *, origin: tuple[int, int] = (0, 0), align: int = 1, multiple: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.bool_], tuple[int, int]]:
    """Resample a part (Y, X, 3) uint8 of a smear, which lies at `origin` (y, x), on the smear's one grid.

    Returns (H, W, 3) float32, 0 to 255, with 0 outside the part; the pixels (H, W) bool inside it; and the corner (y,
    x) on the resampled smear, a multiple of `align`. H and W are multiples of `multiple`, so that a network can reuse
    its plans for few shapes. Pixel k of the resampled smear is centred on (k + 0.5) / scale - 0.5 of the smear,
    whatever the part. The triangle filter is as wide as a resampled pixel when the image shrinks, so nothing aliases.
    """
    spans = [_span(offset, n_in, scale, align, multiple) for offset, n_in in zip(origin, image.shape[:2], strict=True)]
    margin = int(np.ceil(1 / scale)) + 1  # reach of the filter beyond the part
    planes = np.moveaxis(image, 2, 0).astype(np.float32)
    padded = np.pad(planes, ((0, 0), (margin, margin), (margin, margin)), mode="edge")
    y, x = spans
    top, left = margin - origin[0], margin - origin[1]
    box = (x.begin / scale + left, y.begin / scale + top, x.end / scale + left, y.end / scale + top)
    size = (x.end - x.begin, y.end - y.begin)
    # In floating point, so that rounding does not depend on where the part begins.
    channels = [Image.fromarray(c).resize(size, Image.Resampling.BILINEAR, box=box) for c in padded]
    resampled = np.zeros((y.size, x.size, 3), np.float32)
    inside = np.zeros((y.size, x.size), bool)
    here = (slice(y.begin - y.first, y.end - y.first), slice(x.begin - x.first, x.end - x.first))
    inside[here] = True
    for k, channel in enumerate(channels):
        resampled[(*here, k)] = np.asarray(channel)
    return resampled, inside, (y.first, x.first)


@dataclass(frozen=True, slots=True)
class _Span:
    """One axis of the resampled part: it begins at `first`; the image reaches from `begin` to `end`."""

    first: int
    size: int
    begin: int
    end: int


def _span(offset: int, n_in: int, scale: float, align: int, multiple: int) -> _Span:
    first = int(np.floor(offset * scale / align)) * align
    last = int(np.ceil((offset + n_in) * scale))
    size = max(1, int(np.ceil((last - first) / multiple))) * multiple
    begin = min(max(first, int(np.ceil(offset * scale - 0.5))), first + size - 1)
    end = max(begin + 1, min(last, int(np.ceil((offset + n_in) * scale - 0.5))))
    return _Span(first, size, begin, end)
