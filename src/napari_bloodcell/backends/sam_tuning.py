"""Fine-tunes the embedded SAM's decoder on the masks of a laboratory; its encoder, and so what is a cell, stays."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save as to_safetensors
from scipy import ndimage

from napari_bloodcell.backends.embedded_sam import Canvas, EmbeddedSam
from napari_bloodcell.backends.sam_losses import mask_losses
from napari_bloodcell.backends.window_sam import LARGE_WINDOW, SMALL_BOX_PX, SMALL_WINDOW, STRIDE, WindowSam
from napari_bloodcell.errors import ModelError, TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_bloodcell.protocols import Calibration

CELLS_PER_STEP = 24
FORMAT = "napari-bloodcell-embedded-sam"
_MEASURED_EVERY = 20  # steps
_CELLS_MEASURED = 200
_SMALLEST_PX = 4.0
_CERTAINLY_NOT = -20.0
"""A logit."""
_SHARES = (0.0, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0)
"""Of the way from the old weights to the new."""


@dataclass(frozen=True, eq=False)
class MaskedField:
    """An image with the masks of its cells.

    Attributes
    ----------
    name : str
        For messages.
    image : ndarray of uint8, shape (Y, X, 3)
        The field.
    cells : ndarray of int, shape (Y, X)
        Its label image.
    calibration : Calibration
        Width of a red cell and colour of the glass.
    """

    name: str
    image: NDArray[np.uint8]
    cells: NDArray[np.integer[Any]]
    calibration: Calibration


@dataclass(frozen=True, slots=True, eq=False)
class TunedSam:
    """A fine-tuned SAM: its file, and the mean IoU on cells that were not trained on, before and after."""

    content: bytes
    iou_before: float
    iou_after: float
    n_train: int
    n_val: int
    steps: int


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """A field as the decoder sees it: features, label image, and boxes (N, 4) as x0, y0, x1, y1, canvas pixels."""

    canvas: Canvas
    cells: NDArray[np.integer[Any]]
    ids: NDArray[np.int64]
    boxes: NDArray[np.float32]


def tune_decoder(
    start: EmbeddedSam,
    fields: Sequence[MaskedField],
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generator[tuple[int, float, float], None, TunedSam]:
    """Train prompt encoder and mask decoder on the cells of fields.

    Every fifth field (of few fields, every fifth cell) is kept for validation; of the weights measured there, those of
    the highest IoU are kept, the old ones among them: the result is never worse on these cells.

    Yields
    ------
    tuple of int, float, float
        Steps done, the loss, and the last IoU on the validation cells, after each step.

    Raises
    ------
    TrainingError
        If there are too few cells, or the loss diverges.
    """
    train, val = _split([_see(start, field) for field in fields])
    n_train, n_val = sum(len(s.ids) for s in train), sum(len(s.ids) for s in val)
    if n_train < 2 or n_val < 1:
        raise TrainingError(f"{n_train + n_val} cells are too few to learn masks from. Correct ten or more.")
    network = copy.deepcopy(start.network).float()
    trained = [network.prompt_encoder, network.mask_decoder]
    parameters = [p.requires_grad_(True) for module in trained for p in module.parameters()]
    average = copy.deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)
    rng = np.random.default_rng(seed)
    weights = np.array([len(s.ids) for s in train], float) / n_train
    before = best_iou = float(np.mean(_ious(average, val)))
    best, done, iou = _decoder_state(average), 0, before
    for step in range(1, steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * min(1.0, step / 10) * max(0.05, 0.5 * (1 + np.cos(np.pi * step / steps)))
        seen = train[int(rng.choice(len(train), p=weights))]
        rows = rng.permutation(len(seen.ids))[:CELLS_PER_STEP]
        loss = _step_loss(network, seen, rows, rng)
        if not torch.isfinite(loss):
            raise TrainingError("The fine-tuning diverged: its loss is no longer a number. Choose a smaller rate.")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        with torch.no_grad():
            for old, new in zip(average.parameters(), network.parameters(), strict=True):
                old.lerp_(new, max(0.05, 1 / (step + 1)))
        done = step
        is_stopped = should_stop()
        if step % _MEASURED_EVERY == 0 or step == steps or is_stopped:
            iou = float(np.mean(_ious(average, val)))
            if iou > best_iou:
                best_iou, best = iou, _decoder_state(average)
        yield done, float(loss.detach()), iou
        if is_stopped:
            break
    state_before = {k: v.detach().cpu().float() for k, v in start.network.state_dict().items()}
    best, best_iou = _least_change(average, state_before, best, val)
    state = state_before | best
    settings = {**start.settings, "fine_tuned_from": start.sha256, "fine_tuning_steps": str(done), "seed": str(seed)}
    settings |= {"fields": ", ".join(f.name for f in fields)[:2000], "val_iou": f"{before:.4f} -> {best_iou:.4f}"}
    content = to_safetensors(
        {k: v.half().contiguous() for k, v in state.items()}, {"format": FORMAT, "settings": json.dumps(settings)}
    )
    return TunedSam(content, before, best_iou, n_train, n_val, done)


def _see(start: EmbeddedSam, field: MaskedField) -> _Seen:
    """Return the features of a field with its cells, those that the decoder can hold whole."""
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
    return _Seen(canvas, field.cells, np.array(ids, np.int64), np.array(boxes, np.float32).reshape(-1, 4))


def _split(seen: list[_Seen]) -> tuple[list[_Seen], list[_Seen]]:
    """Return training and validation part: every fifth field of five or more, else every fifth cell."""
    if len(seen) >= 5:
        return [s for i, s in enumerate(seen) if i % 5], [s for i, s in enumerate(seen) if i % 5 == 0]
    parts: tuple[list[_Seen], list[_Seen]] = ([], [])
    for s in seen:
        is_val = np.arange(len(s.ids)) % 5 == 2
        for part, rows in zip(parts, (~is_val, is_val), strict=True):
            part.append(_Seen(s.canvas, s.cells, s.ids[rows], s.boxes[rows]))
    return [s for s in parts[0] if len(s.ids)], [s for s in parts[1] if len(s.ids)]


def _step_loss(network: WindowSam, seen: _Seen, rows: NDArray[np.intp], rng: np.random.Generator) -> Tensor:
    """Return the loss of some cells; prompts are point and box, point alone or box alone, a little off."""
    mode = rng.choice(["both", "point", "box"], p=[0.6, 0.2, 0.2])
    size = seen.boxes[rows, 2:] - seen.boxes[rows, :2]
    middle = (seen.boxes[rows, :2] + seen.boxes[rows, 2:]) / 2
    spread = 0.12 if mode != "point" else 0.25
    points = middle + rng.normal(0, 1, middle.shape).clip(-1.8, 1.8) * size * spread
    wobble = rng.normal(0, 0.06, (len(rows), 4)).clip(-0.2, 0.2) * np.tile(size, 2) + rng.normal(0, 0.5, (len(rows), 4))
    losses = []
    for masks, iou, target, others in _decoded(network, seen, rows, points, seen.boxes[rows] + wobble, mode):
        masks = masks.masked_fill(others[:, None], _CERTAINLY_NOT)  # a label image does not say what lies below
        mask_loss, iou_loss = mask_losses(masks, iou, target)
        losses += [2.0 * mask_loss + iou_loss]
    return torch.cat(losses).mean()


def _least_change(
    network: WindowSam, old: dict[str, Tensor], new: dict[str, Tensor], val: list[_Seen]
) -> tuple[dict[str, Tensor], float]:
    """Return the weights nearest to the old ones, on the way to the new, that are as good as any there, and their IoU.

    As good: the mean IoU on the validation cells is less than one standard error below. What a few cells of one
    laboratory do not ask for stays as it was, which other laboratories need (Wortsman et al. 2022).
    """
    tried: list[tuple[dict[str, Tensor], NDArray[np.float64]]] = []
    for share in _SHARES:
        state = {k: torch.lerp(old[k], v, share) for k, v in new.items()}
        network.load_state_dict(state, strict=False)
        tried.append((state, np.array(_ious(network, val))))
    best = max((ious for _, ious in tried), key=np.mean)
    for state, ious in tried:
        worse = best - ious
        error = worse.std(ddof=1) / np.sqrt(len(worse)) if len(worse) > 1 else 0.0
        if worse.mean() <= error:
            return state, float(ious.mean())
    raise AssertionError  # the best is one of them


def _ious(network: WindowSam, val: list[_Seen]) -> list[float]:
    """Return the IoU of the masks that boxes give, of at most `_CELLS_MEASURED` cells."""
    ious: list[float] = []
    per_field = max(1, _CELLS_MEASURED // len(val))
    for seen in val:
        rows = np.unique(np.linspace(0, len(seen.ids) - 1, min(per_field, len(seen.ids))).round().astype(np.intp))
        middle = (seen.boxes[rows, :2] + seen.boxes[rows, 2:]) / 2
        with torch.no_grad():
            for masks, _, target, others in _decoded(network, seen, rows, middle, seen.boxes[rows], "both"):
                found, truth = (masks[:, 0] > 0) & ~others, target > 0.5
                ious += ((found & truth).sum((1, 2)) / (found | truth).sum((1, 2)).clamp(min=1)).tolist()
    return ious


def _decoded(
    network: WindowSam,
    seen: _Seen,
    rows: NDArray[np.intp],
    points: NDArray[np.floating[Any]],
    boxes: NDArray[np.floating[Any]],
    mode: str,
) -> Generator[tuple[Tensor, Tensor, Tensor, Tensor], None, None]:
    """Yield (mask logits, predicted IoU, target, where other cells are) of cells of the small window, then the rest."""
    device = seen.canvas.embedding.device
    is_small = (seen.boxes[rows, 2:] - seen.boxes[rows, :2]).max(1) <= SMALL_BOX_PX
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
        around = _labels_around(seen, origin.cpu().numpy(), masks.shape[-1])
        target, others = around == ids[:, None, None], (around != ids[:, None, None]) & (around > 0)
        yield masks, iou, torch.from_numpy(target).to(device).float(), torch.from_numpy(others).to(device)


def _labels_around(seen: _Seen, origins: NDArray[np.integer[Any]], side: int) -> NDArray[np.int64]:
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


def _decoder_state(network: WindowSam) -> dict[str, Tensor]:
    return {
        k: v.detach().cpu().clone().float() for k, v in network.state_dict().items() if not k.startswith("encoder.")
    }


def load_start(model: Any) -> EmbeddedSam:
    """Return a mask generator as what fine-tuning can begin with.

    Raises
    ------
    ModelError
        If it is none of the embedded SAM's kind.
    """
    if not isinstance(model, EmbeddedSam):
        raise ModelError("Only the embedded SAM, or one fine-tuned from it, can be fine-tuned; official ones cannot.")
    return model
