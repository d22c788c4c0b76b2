"""Fine-tunes the embedded SAM's decoder on a laboratory's masks; its encoder, and so what counts as a cell, stays."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from napari_bloodcell.core.errors import ModelError, TrainingError
from napari_bloodcell.core.params import SegmentParams, TrainSamParams
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.models.embedded.network import (
    LARGE_WINDOW,
    RBC_DIAMETER_PX,
    SMALL_BOX_PX,
    SMALL_WINDOW,
    STRIDE,
    WindowSam,
)
from napari_bloodcell.models.embedded.proposals import propose
from napari_bloodcell.models.embedded.sam import FORMAT, Canvas, EmbeddedSam
from napari_bloodcell.models.safetensors_file import to_safetensors

CELLS_PER_STEP = 24
_MEASURED_EVERY = 20  # steps
_CELLS_MEASURED = 200
_REHEARSED = 2.0
"""Weight of cells whose masks should stay as they were."""
_SHARES = (0.0, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0)
"""Steps between the old weights and the new."""


@dataclass(frozen=True, slots=True, eq=False)
class TunedSam:
    """A fine-tuned SAM: its file, and the mean IoU on cells kept from training, before and after."""

    content: bytes
    iou_before: float
    iou_after: float
    n_train: int
    n_val: int
    steps: int


def tune_decoder(
    start: EmbeddedSam,
    fields: Sequence[MaskedField],
    *,
    rehearsal: Sequence[tuple[NDArray[np.uint8], Calibration]] = (),
    params: TrainSamParams,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generator[tuple[int, float, float], None, TunedSam]:
    """Train prompt encoder and mask decoder on the cells of fields; see `train_sam`.

    Yields (steps done, loss, last IoU on the validation cells) after each step. Raises `TrainingError` if there are too
    few cells, or the loss diverges.
    """
    views = see_all(start, fields)
    train, val = split_seen(views)
    n_val = sum(len(seen.ids) for seen in val)
    n_train = sum(len(of_field[0].ids) for of_field in views) - n_val
    if n_train < 2 or n_val < 1:
        raise TrainingError(f"{n_train + n_val} cells are too few to learn masks from. Correct ten or more.")
    known = [seen for seen in (see_proposed(start, *field) for field in rehearsal) if len(seen.ids)]
    tuner = _Tuner(start.network, train, known, params)
    before = iou = best_iou = _mean_iou(tuner.average, val)
    best, done = _decoder_state(tuner.average), 0
    for done in range(1, params.steps + 1):
        loss = tuner.step(done)
        is_stopped = should_stop()
        if is_stopped or done % _MEASURED_EVERY == 0 or done == params.steps:
            iou = _mean_iou(tuner.average, val)
            if iou > best_iou:
                best_iou, best = iou, _decoder_state(tuner.average)
        yield done, loss, iou
        if is_stopped:
            break
    old = {k: v.detach().cpu().float() for k, v in start.network.state_dict().items()}
    best, best_iou = _least_change(tuner.average, old, best, val)
    settings = {**start.settings, "fine_tuned_from": start.sha256, "fine_tuning_steps": str(done)}
    settings |= {"seed": str(params.seed), "fields": ", ".join(field.name for field in fields)[:2000]}
    settings |= {"val_iou": f"{before:.4f} -> {best_iou:.4f}"}
    state = {k: v.half().contiguous() for k, v in (old | best).items()}
    content = to_safetensors(state, {"format": FORMAT, "settings": json.dumps(settings)})
    return TunedSam(content, before, best_iou, n_train, n_val, done)


class _Tuner:
    """A decoder that learns from cells (`train`) and keeps its masks on others (`known`)."""

    def __init__(
        self, start: WindowSam, train: list[SeenField], known: list[SeenField], params: TrainSamParams
    ) -> None:
        self.train, self.known, self.params = train, known, params
        self.network = copy.deepcopy(start).float()
        self.teacher, self.average = copy.deepcopy(self.network), copy.deepcopy(self.network).requires_grad_(False)
        trained = (self.network.prompt_encoder, self.network.mask_decoder)
        self._parameters = [p.requires_grad_(True) for module in trained for p in module.parameters()]
        self._optimiser = torch.optim.AdamW(self._parameters, lr=params.learning_rate, weight_decay=0.01)
        self._random = np.random.default_rng(params.seed)
        sizes = np.array([len(seen.ids) for seen in train], float)
        self._shares = sizes / sizes.sum()

    def step(self, number: int) -> float:
        """Take a step, the first is number 1, and return its loss."""
        for group in self._optimiser.param_groups:
            group["lr"] = self.params.learning_rate * _schedule(number, self.params.steps)
        loss = self._loss(self.train[int(self._random.choice(len(self.train), p=self._shares))])
        if self.known:
            seen = self.known[int(self._random.integers(len(self.known)))]
            loss = loss + _REHEARSED * self._loss(seen, is_rehearsal=True)
        if not torch.isfinite(loss):
            raise TrainingError("The fine-tuning diverged: its loss is no longer a number. Choose a smaller rate.")
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimiser.step()
        with torch.no_grad():
            for old, new in zip(self.average.parameters(), self.network.parameters(), strict=True):
                old.lerp_(new, max(0.05, 1 / (number + 1)))
        return float(loss.detach())

    def _loss(self, seen: SeenField, *, is_rehearsal: bool = False) -> Tensor:
        rows = self._random.permutation(len(seen.ids))[:CELLS_PER_STEP]
        return _step_loss(self.network, self.teacher, seen, rows, self._random, is_rehearsal=is_rehearsal)


def _schedule(step: int, n_steps: int) -> float:
    """Return the share of the learning rate: ten steps of warm-up, then a cosine down to a twentieth."""
    return min(1.0, step / 10) * max(0.05, 0.5 * (1 + float(np.cos(np.pi * step / n_steps))))


def _mean_iou(network: WindowSam, val: list[SeenField]) -> float:
    return float(_ious(network, val)[:, 0].mean())


def _step_loss(
    network: WindowSam,
    teacher: WindowSam,
    seen: SeenField,
    rows: NDArray[np.intp],
    rng: np.random.Generator,
    *,
    is_rehearsal: bool = False,
) -> Tensor:
    """Return the loss of some cells, prompted as the program does, or as a person does: slightly off.

    The proposed box says less than the true one. A decoder trained on true boxes alone learns to fill them, and then
    reproduces the error of proposed boxes instead of the image. Where another cell covers one, a label image does not
    tell how it goes on: there the target is that of the teacher, the network before; left free, masks grow into their
    neighbours. In rehearsal the teacher gives the whole target.
    """
    mode = rng.choice(["proposed", "both", "point", "box"], p=[0.6, 0.16, 0.12, 0.12])
    boxes: NDArray[np.floating[Any]] = seen.proposed[rows] if mode == "proposed" else seen.boxes[rows]
    size = boxes[:, 2:] - boxes[:, :2]
    points = (boxes[:, :2] + boxes[:, 2:]) / 2
    if mode == "proposed":
        boxes = boxes + rng.normal(0, 0.02, boxes.shape) * np.tile(size, 2)
    else:
        spread = 0.12 if mode != "point" else 0.25
        points = points + rng.normal(0, 1, points.shape).clip(-1.8, 1.8) * size * spread
        wobble = rng.normal(0, 0.06, boxes.shape).clip(-0.2, 0.2) * np.tile(size, 2)
        boxes = boxes + wobble + rng.normal(0, 0.5, boxes.shape)
    losses = []
    with torch.no_grad():
        before = [masks for masks, *_ in _decoded(teacher, seen, rows, points, boxes, mode)]
    decoded = _decoded(network, seen, rows, points, boxes, mode)
    for (masks, iou, drawn, others), known in zip(decoded, before, strict=True):
        as_before = torch.sigmoid(known[:, 0])
        target = as_before if is_rehearsal else torch.where(others, as_before, drawn)
        mask_loss, iou_loss = mask_losses(masks, iou, target)
        losses += [2.0 * mask_loss + iou_loss]
    return torch.cat(losses).mean()


def _least_change(
    network: WindowSam, old: dict[str, Tensor], new: dict[str, Tensor], val: list[SeenField]
) -> tuple[dict[str, Tensor], float]:
    """Return the weights closest to the old ones, on the way to the new, that are as good as any, and their IoU.

    As good means: the mean IoU on the validation cells is less than one standard error below the best. What a few cells
    of one laboratory do not require stays as other laboratories need it (Wortsman et al. 2022). Weights for which the
    boxes of the masks fit less well than before are rejected: rough training masks make ragged outlines.
    """
    tried: list[tuple[dict[str, Tensor], NDArray[np.float64]]] = []
    for share in _SHARES:
        state = {k: torch.lerp(old[k], v, share) for k, v in new.items()}
        network.load_state_dict(state, strict=False)
        ious = _ious(network, val)
        if not tried or ious[:, 1].mean() >= tried[0][1][:, 1].mean():
            tried.append((state, ious))
    best = max((ious[:, 0] for _, ious in tried), key=np.mean)
    for state, ious in tried:
        worse = best - ious[:, 0]
        error = worse.std(ddof=1) / np.sqrt(len(worse)) if len(worse) > 1 else 0.0
        if worse.mean() <= error:
            return state, float(ious[:, 0].mean())
    raise AssertionError  # unreachable: the best is one of them


def _ious(network: WindowSam, val: list[SeenField]) -> NDArray[np.float64]:
    """Return the IoU of the program's masks, and of their boxes, (N, 2) for `_CELLS_MEASURED` cells."""
    ious: list[Tensor] = []
    per_field = max(1, _CELLS_MEASURED // len(val))
    for seen in val:
        rows = np.unique(np.linspace(0, len(seen.ids) - 1, min(per_field, len(seen.ids))).round().astype(np.intp))
        boxes = seen.proposed[rows]
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        with torch.no_grad():
            for masks, _, target, others in _decoded(network, seen, rows, middle, boxes, "proposed"):
                found, truth = (masks[:, 0] > 0) & ~others, target > 0.5
                of_masks = (found & truth).sum((1, 2)) / (found | truth).sum((1, 2)).clamp(min=1)
                shared, whole = _box_area(found, truth), _box_area(found) + _box_area(truth)
                ious.append(torch.stack([of_masks, shared / (whole - shared).clamp(min=1)], 1))
    return np.asarray(torch.cat(ious).double().cpu())


def _box_area(*masks: Tensor) -> Tensor:
    """Return the area shared by the boxes of masks (N, H, W), (N,)."""
    area: Tensor | int = 1
    for axis in (1, 2):
        sides = torch.stack([mask.any(axis) for mask in masks]).int()
        within = (sides.cummax(-1).values & sides.flip(-1).cummax(-1).values.flip(-1)).amin(0)
        area = area * within.sum(-1)
    return torch.as_tensor(area)


def _decoded(
    network: WindowSam,
    seen: SeenField,
    rows: NDArray[np.intp],
    points: NDArray[np.floating[Any]],
    boxes: NDArray[np.floating[Any]],
    mode: str,
) -> Generator[tuple[Tensor, Tensor, Tensor, Tensor], None, None]:
    """Yield (mask logits, predicted IoU, target, where other cells are) for the small window's cells, then the rest."""
    device = seen.canvas.embedding.device
    is_small = (boxes[:, 2:] - boxes[:, :2]).max(1) <= SMALL_BOX_PX
    for window, chosen in ((SMALL_WINDOW, is_small), (LARGE_WINDOW, ~is_small)):
        take = np.flatnonzero(chosen)
        if not take.size:
            continue
        p = torch.from_numpy(points[take].astype(np.float32)).to(device)
        b = torch.from_numpy(boxes[take].astype(np.float32)).to(device)
        masks, iou, origin = network.decode(
            seen.canvas.embedding.float(),
            seen.canvas.detail.float(),
            torch.zeros(take.size, dtype=torch.long, device=device),
            centres=p if mode == "point" else (b[:, :2] + b[:, 2:]) / 2,
            points=None if mode == "box" else p,
            boxes=None if mode == "point" else b,
            window=window,
        )
        ids = seen.ids[rows[take]]
        around = labels_around(seen, origin.cpu().numpy(), masks.shape[-1])
        target, others = around == ids[:, None, None], (around != ids[:, None, None]) & (around > 0)
        yield masks, iou, torch.from_numpy(target).to(device).float(), torch.from_numpy(others).to(device)


def _decoder_state(network: WindowSam) -> dict[str, Tensor]:
    return {
        k: v.detach().cpu().clone().float() for k, v in network.state_dict().items() if not k.startswith("encoder.")
    }


def load_start(model: Any) -> EmbeddedSam:
    """Return a mask generator to fine-tune; `ModelError` if it is no embedded SAM."""
    if not isinstance(model, EmbeddedSam):
        raise ModelError("Only the embedded SAM, or one fine-tuned from it, can be fine-tuned; official ones cannot.")
    return model


def mask_losses(logits: Tensor, iou: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return per prompt BCE + dice (token 0, plus the best of the others) and the error of the predicted IoU.

    `logits` are (N, 4, h, w), `iou` (N, 4), `target` (N, h, w), 0 to 1.
    """
    logits, target = logits.float(), target.unsqueeze(1)
    bce = F.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none").mean((2, 3))
    area = target.mean((2, 3)).clamp(min=0.02)
    p = torch.sigmoid(logits)
    dice = 1 - (2 * (p * target).sum((2, 3)) + 1) / (p.sum((2, 3)) + target.sum((2, 3)) + 1)
    loss = 0.15 * bce / area.sqrt() + dice
    hard, truth = logits > 0, target > 0.5
    true_iou = (hard & truth).sum((2, 3)) / (hard | truth).sum((2, 3)).clamp(min=1)
    return loss[:, 0] + 0.5 * loss[:, 1:].min(1).values, ((iou.float() - true_iou) ** 2).mean(1)


# --- what is looked at -----------------------------------------------------------------------------------------------


_SMALLEST_PX = 4.0
_SAME_CELL_IOU = 0.5
_MOST_PX_OF_VIEWS = 2e7
"""Working pixels of all views, whose features are kept: 12 bytes each."""


@dataclass(frozen=True, eq=False)
class MaskedField:
    """An image (Y, X, 3) uint8 with the label image (Y, X) of its cells."""

    name: str
    image: NDArray[np.uint8]
    cells: NDArray[np.integer[Any]]
    calibration: Calibration


@dataclass(frozen=True, slots=True, eq=False)
class SeenField:
    """A field as the decoder sees it.

    Features, label image, ids (N,) of its cells; their true boxes, and those that the encoder proposes for them (the
    true one if it proposes none), both (N, 4) as x0, y0, x1, y1, canvas pixels.
    """

    canvas: Canvas
    cells: NDArray[np.integer[Any]]
    ids: NDArray[np.int64]
    boxes: NDArray[np.float32]
    proposed: NDArray[np.float32]

    def take(self, rows: NDArray[np.bool_]) -> SeenField:
        """Return these cells."""
        return replace(self, ids=self.ids[rows], boxes=self.boxes[rows], proposed=self.proposed[rows])


def see_all(start: EmbeddedSam, fields: Sequence[MaskedField]) -> list[list[SeenField]]:
    """Return views of each field, first as it is, then turned and mirrored if all features fit in memory."""
    steps = [RBC_DIAMETER_PX / field.calibration.rbc_diameter_px for field in fields]
    size = sum(field.cells.size * step**2 for field, step in zip(fields, steps, strict=True))
    turns = [(k, is_mirrored) for is_mirrored in (False, True) for k in range(4)]
    if size * len(turns) > _MOST_PX_OF_VIEWS:
        turns = turns[:1]
    return [[see_field(start, _turned(field, *turn)) for turn in turns] for field in fields]


def _turned(field: MaskedField, quarters: int, is_mirrored: bool) -> MaskedField:
    """Return a field turned by quarters, and mirrored."""
    image, cells = (np.rot90(a, quarters) for a in (field.image, field.cells))
    if is_mirrored:
        image, cells = image[:, ::-1], cells[:, ::-1]
    return replace(field, image=np.ascontiguousarray(image), cells=np.ascontiguousarray(cells))


def see_field(start: EmbeddedSam, field: MaskedField) -> SeenField:
    """Return a field's features with those of its cells that fit into the decoder's window."""
    if field.image.shape[:2] != field.cells.shape:
        raise TrainingError(
            f"{field.name}: masks of {field.cells.shape} do not belong to an image of {field.image.shape[:2]}."
        )
    with torch.no_grad():
        canvas = start.see(field.image, field.calibration)
    ids, boxes = [], []
    for i, window in enumerate(ndimage.find_objects(field.cells), start=1):
        rows, columns = window or (slice(0, 0), slice(0, 0))
        box = np.array([columns.start, rows.start, columns.stop, rows.stop], np.float32) * canvas.scale
        box -= np.tile(np.array(canvas.corner[::-1], np.float32), 2)
        side = box[2:] - box[:2]
        if side.min() >= _SMALLEST_PX and side.max() < LARGE_WINDOW * STRIDE - 6:
            ids.append(i)
            boxes.append(box)
    true = np.array(boxes, np.float32).reshape(-1, 4)
    return SeenField(canvas, field.cells, np.array(ids, np.int64), true, _proposed_for(true, canvas))


def see_proposed(start: EmbeddedSam, image: NDArray[np.uint8], calibration: Calibration) -> SeenField:
    """Return an image with the cells proposed by the encoder, which have no drawn masks."""
    with torch.no_grad():
        canvas = start.see(image, calibration)
        boxes = propose(canvas.heat, canvas.sides, SegmentParams().score_min).boxes.cpu().numpy()
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2]).max(1, initial=0) < LARGE_WINDOW * STRIDE - 6]
    return SeenField(canvas, np.zeros(image.shape[:2], np.int64), np.arange(len(boxes)), boxes, boxes)


def _proposed_for(boxes: NDArray[np.float32], canvas: Canvas) -> NDArray[np.float32]:
    """Return the boxes (N, 4) that the program proposes for these cells; the given box if it misses one."""
    found = propose(canvas.heat, canvas.sides, SegmentParams().score_min).boxes.cpu().numpy()
    if not len(found) or not len(boxes):
        return boxes
    shared = np.minimum(boxes[:, None, 2:], found[None, :, 2:]) - np.maximum(boxes[:, None, :2], found[None, :, :2])
    both = shared.clip(min=0).prod(-1)
    areas = [(b[:, 2:] - b[:, :2]).prod(-1) for b in (boxes, found)]
    iou = both / (areas[0][:, None] + areas[1][None] - both)
    return np.where(iou.max(1, keepdims=True) >= _SAME_CELL_IOU, found[iou.argmax(1)], boxes)


def split_seen(seen: list[list[SeenField]]) -> tuple[list[SeenField], list[SeenField]]:
    """Return training and validation part: every fifth field if there are five, else every fifth cell.

    Training uses all views of a field, validation the first.
    """
    if len(seen) >= 5:
        train = [view for i, views in enumerate(seen) if i % 5 for view in views]
        return train, [views[0] for i, views in enumerate(seen) if i % 5 == 0]
    is_val = [np.arange(len(views[0].ids)) % 5 == 2 for views in seen]
    train = [view.take(~rows) for views, rows in zip(seen, is_val, strict=True) for view in views]
    val = [views[0].take(rows) for views, rows in zip(seen, is_val, strict=True)]
    return [s for s in train if len(s.ids)], [s for s in val if len(s.ids)]


def labels_around(seen: SeenField, origins: NDArray[np.integer[Any]], side: int) -> NDArray[np.int64]:
    """Return the label image in windows at stride 2 with these (x, y) origins, (N, side, side)."""
    steps = np.arange(side) * 2 + 1.0
    out = np.zeros((len(origins), side, side), np.int64)
    height, width = seen.cells.shape
    for labels, (x, y) in zip(out, origins, strict=True):
        rows = np.floor((y + steps + seen.canvas.corner[0]) / seen.canvas.scale).astype(int)
        columns = np.floor((x + steps + seen.canvas.corner[1]) / seen.canvas.scale).astype(int)
        in_y, in_x = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
        labels[np.ix_(in_y, in_x)] = seen.cells[np.ix_(rows[in_y], columns[in_x])]
    return out
