"""Train the embedded SAM: `python -m training.train_sam --data ../shared/data --out weights.safetensors`.

Data, seed and settings are the arguments' defaults and stand in the weight file's metadata. `--leave-out LAB` trains
without a laboratory of TXL-PBC (by image size), to measure how the model does on images from elsewhere.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from napari_bloodcell.models.embedded.network import (
    LARGE_WINDOW,
    RBC_DIAMETER_PX,
    SMALL_BOX_PX,
    SMALL_WINDOW,
    STRIDE,
    WindowSam,
)
from napari_bloodcell.models.embedded.tuning import mask_losses
from training.sam_crops import CropStream, window_masks
from training.sam_data import load_fields
from training.sam_losses import heat_loss, side_loss


def step_loss(model: WindowSam, batch: dict, rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of one batch; prompts are point and box, point alone or box alone."""
    image = batch["image"].to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        embedding, detail, heat, sides = model.encoder(image)
    h = heat_loss(heat, batch["heat"], batch["heat_weight"])
    s = side_loss(sides, batch["sides"], batch["sides_weight"])
    boxes = batch["boxes"]
    size = boxes[:, 2:] - boxes[:, :2]
    small = (size.max(1).values <= SMALL_BOX_PX).numpy()
    mode = rng.choice(["both", "point", "box"], p=[0.6, 0.2, 0.2])
    total_mask, total_iou, n = torch.zeros(()), torch.zeros(()), 0
    for window, chosen in ((SMALL_WINDOW, small), (LARGE_WINDOW, ~small)):
        take = np.flatnonzero(chosen)
        if take.size == 0:
            continue
        index = torch.from_numpy(take)
        b, sz = boxes[index], size[index]
        spread = 0.12 if mode != "point" else 0.25
        points = (b[:, :2] + b[:, 2:]) / 2 + torch.from_numpy(
            rng.normal(0, 1, (take.size, 2)).clip(-1.8, 1.8).astype(np.float32)
        ) * sz * spread
        wobble = torch.from_numpy(rng.normal(0, 0.07, (take.size, 4)).clip(-0.2, 0.2).astype(np.float32)) * sz.repeat(
            1, 2
        ) + torch.from_numpy(rng.normal(0, 0.6, (take.size, 4)).astype(np.float32))
        prompt = b + wobble
        centres = points if mode == "point" else (prompt[:, :2] + prompt[:, 2:]) / 2
        with torch.autocast("cpu", torch.bfloat16):
            masks, iou, origin = model.decode(
                embedding,
                detail,
                batch["index"][index],
                centres=centres,
                points=None if mode == "box" else points,
                boxes=None if mode == "point" else prompt,
                window=window,
            )
        side = window * STRIDE // 2
        target = torch.from_numpy(window_masks([batch["polygons"][i] for i in take], origin.numpy(), side))
        m, q = mask_losses(masks, iou, _clip_to_image(target, origin, image.shape[-1]))
        w = batch["weights"][index]
        total_mask, total_iou, n = total_mask + (m * w).sum(), total_iou + q.sum(), n + take.size
    n = max(n, 1)
    loss = h + 0.5 * s + 2.0 * total_mask / n + total_iou / n
    return loss, {"heat": h.item(), "sides": s.item(), "mask": total_mask.item() / n, "iou": total_iou.item() / n}


def _clip_to_image(target: torch.Tensor, origin: torch.Tensor, size: int) -> torch.Tensor:
    """Clear what lies outside the crop: a cell that is cut by it ends there."""
    steps = torch.arange(target.shape[-1]) * 2 + 1
    ok_x = ((origin[:, 0, None] + steps) >= 0) & ((origin[:, 0, None] + steps) < size)
    ok_y = ((origin[:, 1, None] + steps) >= 0) & ((origin[:, 1, None] + steps) < size)
    return target * (ok_y[:, :, None] & ok_x[:, None, :])


def main() -> None:
    """Train and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="weights to go on from")
    parser.add_argument("--leave-out", nargs="*", default=[])
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--steps", type=int, default=0, help="instead of --minutes")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    fields = load_fields(args.data, set(args.leave_out))
    model = WindowSam().to(memory_format=torch.channels_last)
    if args.start:
        model.load_state_dict({k: v.float() for k, v in load_file(args.start).items()})
    average = copy.deepcopy(model).requires_grad_(False)
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.rate, weight_decay=0.02, betas=(0.9, 0.98))
    stream = iter(
        torch.utils.data.DataLoader(
            CropStream(fields, args.batch, args.seed), batch_size=None, num_workers=1, prefetch_factor=4
        )
    )
    start, step, running = time.time(), 0, {}
    while True:
        done = step / args.steps if args.steps else (time.time() - start) / (60 * args.minutes)
        if done >= 1:
            break
        warm = min(1.0, (step + 1) / 150)
        for group in optimiser.param_groups:
            group["lr"] = args.rate * warm * max(0.01, 0.5 * (1 + np.cos(np.pi * done)))
        loss, parts = step_loss(model, next(stream), rng)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        step += 1
        keep = min(0.995, (step + 1) / (step + 20))
        with torch.no_grad():
            for a, b in zip(average.parameters(), model.parameters(), strict=True):
                a.lerp_(b, 1 - keep)
        for k, v in parts.items():
            running[k] = 0.97 * running.get(k, v) + 0.03 * v
        if step % 25 == 0:
            print(
                f"{step} {done:.3f} {time.time() - start:.0f}s",
                {k: round(v, 4) for k, v in running.items()},
                flush=True,
            )
        if step % 200 == 0:
            save(average, args, step, len(fields))
    save(average, args, step, len(fields))


def save(model: WindowSam, args: argparse.Namespace, step: int, n_fields: int) -> None:
    """Write the averaged weights as float16 safetensors with everything needed to repeat the run."""
    settings = {k: str(v) for k, v in vars(args).items()} | {
        "step": str(step),
        "fields": str(n_fields),
        "rbc_diameter_px": str(RBC_DIAMETER_PX),
    }
    state = {k: v.detach().half().contiguous() for k, v in model.state_dict().items()}
    temporary = args.out.with_suffix(".part")
    save_file(state, temporary, metadata={"format": "napari-bloodcell-embedded-sam", "settings": json.dumps(settings)})
    temporary.replace(args.out)


if __name__ == "__main__":
    main()
