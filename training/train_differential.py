"""Make the model that tells the kinds of white cells apart: ``python -m training.train_differential``, from the root.

Data and what is held out: `training.differential_data`. Settings, seed and figures stand in the file's metadata.
``--only pbc`` or ``--only raabin`` trains on one laboratory and tries the model on the other.
"""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_bloodcell.models.cnn.subtypes import WINDOW_PX, SubtypeCnn, SubtypeInfo, SubtypeModel
from napari_bloodcell.stages.cutouts import GAINS, GLASS_LEVEL, RED_LEVEL
from training import differential_data
from training.cnn_augment import GLASS, Augmenter, Strengths
from training.differential_data import CANVAS_PX, CLASSES, RBC_DIAMETER_PX, Windows

LOG = logging.getLogger("train_differential")
WEIGHTS = Path(__file__).parents[1] / "src" / "napari_bloodcell" / "weights"
DATA = Path(__file__).parents[2] / "shared" / "data"
FIVE = 5
"""The first classes of `CLASSES` are those of an ordinary differential."""
STRENGTHS = Strengths(scale=(0.8, 1.25), aspect=0.06, stain_of_another_image=0.5, stain_ratio=(0.3, 3.5), grey=0.02)
RED_ERROR, RED_UNKNOWN = 0.15, 0.08
"""Relative error with which the colour of a red cell is measured in training, and how often it is not at all."""
SHIFT = 0.14
"""How far the middle of a window lies off that of the cell at most, in halves of the window."""


class WindowAugmenter(Augmenter):
    """Turns canvases into windows, another one each time."""

    def __call__(self, canvases: Tensor, labels: Tensor, stains: Tensor) -> Tensor:
        """Return windows (N, 3, 128, 128), 0 to 1, of canvases (N, 176, 176, 3) uint8."""
        x = self._window(canvases.permute(0, 3, 1, 2).float() / 255)
        x = self._of_one_stain(x, stains)
        far = F.avg_pool2d(x, 5, 1, 2)
        weight = torch.where(self._chance(len(x), 0.2), self._uniform(len(x), 0, 1), 0.0)
        return self._blurred(x + weight * (far - x))

    def _of_one_stain(self, colour: Tensor, stains: Tensor) -> Tensor:
        """Recolour, and bring the typical red cell of the smear, recoloured alike, to one colour, as in use."""
        n, width = len(colour), colour.shape[-1]
        red = (GLASS * torch.exp(-stains))[:, :, None, None].expand(-1, -1, 1, width)
        recoloured = self._recoloured(torch.cat([colour, red], 2), stains)
        measured = -torch.log((recoloured[:, :, -1:, :1] / GLASS).clamp(0.01, 0.98))
        measured = measured * torch.exp(RED_ERROR * torch.randn((n, 3, 1, 1), generator=self.random))
        wanted = -torch.log(torch.tensor(RED_LEVEL) / GLASS_LEVEL)
        gain = (wanted[None, :, None, None] / measured).clamp(*GAINS)
        gain = torch.where(self._chance(n, RED_UNKNOWN), torch.ones(()), gain)
        density = -torch.log((recoloured[:, :, :-1] / GLASS).clamp(0.004, 1.085))
        return (GLASS * torch.exp(-gain * density)).clamp(0, 1)

    def _window(self, x: Tensor) -> Tensor:
        n, s = len(x), self.s
        angle = self._uniform(n, 0, 2 * np.pi, 1)[:, 0]
        low, high = (float(np.log(v)) for v in s.scale)
        size = torch.exp(self._uniform(n, low, high, 1)[:, 0]) * CANVAS_PX / WINDOW_PX
        aspect = torch.exp(self._uniform(n, -s.aspect, s.aspect, 1)[:, 0])
        flip = torch.where(self._chance(n, 0.5)[:, 0, 0, 0], 1.0, -1.0)
        cos, sin, sx, sy = torch.cos(angle), torch.sin(angle), flip / (size * aspect), aspect / size
        shift = self._uniform(n, -SHIFT, SHIFT, 2)
        theta = torch.stack(
            [torch.stack([cos * sx, -sin * sy, shift[:, 0]], 1), torch.stack([sin * sx, cos * sy, shift[:, 1]], 1)], 1
        )
        grid = F.affine_grid(theta, [n, 3, WINDOW_PX, WINDOW_PX], align_corners=False)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def windows_in_use(windows: Windows) -> np.ndarray:
    """Return windows (N, 128, 128, 3) uint8 as the program cuts them: in the middle, in one stain."""
    margin = (CANVAS_PX - WINDOW_PX) // 2
    inner = windows.canvases[:, margin : margin + WINDOW_PX, margin : margin + WINDOW_PX]
    out = np.empty_like(inner)
    for window, pixels, stain in zip(out, inner, windows.stains, strict=True):
        window[:] = differential_data.of_one_stain(pixels, stain)
    return out


def fit(windows: Windows, *, seed: int, steps: int, batch_size: int, rate: float) -> SubtypeCnn:
    """Train with AdamW, one cycle; return the moving average of the weights."""
    torch.manual_seed(seed)
    rng, augment = np.random.default_rng(seed), WindowAugmenter(windows, seed, STRENGTHS)  # type: ignore[arg-type]
    network = SubtypeCnn(len(CLASSES)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995), use_buffers=True
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.15)
    drawn = differential_data.sampling_weights(windows)
    begin, running, right = time.monotonic(), 0.0, 0.0
    network.train()
    for step in range(steps):
        rows = rng.choice(len(windows), batch_size, p=drawn)
        labels = torch.from_numpy(windows.labels[rows])
        with torch.no_grad():
            x = augment(torch.from_numpy(windows.canvases[rows]), labels, torch.from_numpy(windows.stains[rows]))
        logits = network(x.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits, labels, label_smoothing=0.05)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(network)
        running += (float(loss.detach()) - running) / min(step + 1, 50)
        right += (float((logits.argmax(1) == labels).float().mean()) - right) / min(step + 1, 50)
        if step % 100 == 99:
            seconds = time.monotonic() - begin
            LOG.info("step %d: loss %.4f, accuracy %.4f (augmented), %.0f s", step + 1, running, right, seconds)
    trained = SubtypeCnn(len(CLASSES))
    trained.load_state_dict(average.module.state_dict())
    return trained.eval()


def figures(model: SubtypeModel, windows: Windows) -> dict[str, Any]:
    """Return accuracy, that of the five balanced, calibration error and confusion on windows."""
    probabilities = model.predict(windows_in_use(windows))
    said, sure = probabilities.argmax(1), probabilities.max(1)
    is_right = said == windows.labels
    confusion = np.zeros((len(CLASSES), len(CLASSES)), int)
    np.add.at(confusion, (windows.labels, said), 1)
    five = [confusion[k, k] / confusion[k].sum() for k in range(FIVE) if confusion[k].sum()]
    bins = np.minimum((sure * 10).astype(int), 9)
    error = sum(abs(is_right[bins == b].mean() - sure[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))
    return {
        "n": len(windows),
        "accuracy": float(is_right.mean()),
        "balanced accuracy of the five": float(np.mean(five)),
        "calibration error": float(error),
        "confusion": confusion.tolist(),
    }


def calibrated(network: SubtypeCnn, info: SubtypeInfo, windows: Windows) -> SubtypeModel:
    """Return the model with the temperature at which held-out windows are the most probable."""
    seen, labels = windows_in_use(windows), windows.labels
    logits = np.log(SubtypeModel(network, info, name="differential", device="cpu").predict(seen).clip(1e-9))

    def surprise(temperature: float) -> float:
        scaled = torch.from_numpy(logits / temperature)
        return float(F.cross_entropy(scaled, torch.from_numpy(labels)))

    best = min(np.geomspace(0.4, 2.5, 60), key=surprise)
    return SubtypeModel(network, replace(info, temperature=float(best)), name="differential", device="cpu")


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=WEIGHTS / "differential.safetensors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=["pbc", "raabin"], help="train on this laboratory, try on the other")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    windows = differential_data.training_windows(arguments.data)
    tried = {
        "held out": windows.take(windows.is_val),
        "TXL-PBC val": differential_data.txl_windows(arguments.data, "val"),
    }
    used = windows.take(~windows.is_val)
    if arguments.only is not None:
        tried = {"the other laboratory": windows.take(~np.isin(windows.origins, LABS[arguments.only]))}
        used = used.take(np.isin(used.origins, LABS[arguments.only]))
    for origin in np.unique(used.origins):
        LOG.info("%s: %s", origin, np.bincount(used.labels[used.origins == origin], minlength=len(CLASSES)))
    settings = {k: v for k, v in vars(arguments).items() if k not in ("data", "out")}
    settings |= {"augmentation": asdict(STRENGTHS), "n": len(used)}
    info = SubtypeInfo("WBC", CLASSES, RBC_DIAMETER_PX, GLASS_LEVEL, RED_LEVEL, settings=settings)
    network = fit(
        used, seed=arguments.seed, steps=arguments.steps, batch_size=arguments.batch_size, rate=arguments.rate
    )
    held_out = windows.take(windows.is_val)
    if arguments.only is not None:
        held_out = held_out.take(np.isin(held_out.origins, LABS[arguments.only]))
    model = calibrated(network, info, held_out)
    report = {name: figures(model, some) for name, some in tried.items()}
    for origin in ("pbc", "raabin"):
        some = held_out.take(held_out.origins == origin)
        if len(some):
            report[f"held out of {origin}"] = figures(model, some)
    for name, found in report.items():
        LOG.info("%s: %s", name, found)
    model = SubtypeModel(network, replace(model.info, report=report), name="differential", device="cpu")
    arguments.out.write_bytes(model.to_bytes())
    LOG.info("%s written, sha256 %s, temperature %.3f", arguments.out, model.sha256, model.info.temperature)


LABS = {"pbc": ["pbc", "360x363"], "raabin": ["raabin", "575x575"]}
"""Which origins are of one laboratory."""


if __name__ == "__main__":
    main()
