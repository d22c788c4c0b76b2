"""Make the model that tells the kinds of white cells apart: ``python -m training.train_differential``, from the root.

Data and what is held out: `training.differential_data`. Settings, seed and figures stand in the file's metadata.
``--only pbc`` or ``--only raabin`` trains on one laboratory and tries the model on the other; ``--without`` leaves a
class out and says how sure the model is of its cells.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from napari_bloodcell.models.cnn.subtypes import WINDOW_PX, SubtypeCnn, SubtypeInfo, SubtypeModel, network_of
from napari_bloodcell.stages.cutouts import GLASS_LEVEL, RED_LEVEL
from training import differential_data
from training.cnn_augment import Strengths
from training.differential_augment import WindowAugmenter
from training.differential_data import CLASSES, RBC_DIAMETER_PX, Windows

LOG = logging.getLogger("train_differential")
WEIGHTS = Path(__file__).parents[1] / "src" / "napari_bloodcell" / "weights"
DATA = Path(__file__).parents[2] / "shared" / "data"
FIVE = 5
"""The first classes of `CLASSES` are those of an ordinary differential."""
STRENGTHS = Strengths(scale=(0.8, 1.25), aspect=0.06, stain_of_another_image=0.5, stain_ratio=(0.3, 3.5), grey=0.02)
UNSURE = 0.8
"""A cell whose kind is less probable is not told, where laboratories ask for that."""


def windows_in_use(windows: Windows, window_px: int = WINDOW_PX, *, in_one_stain: bool = True) -> np.ndarray:
    """Return windows (N, Y, X, 3) uint8 as the program cuts them: in the middle, and in one stain or their own."""
    margin = (windows.canvases.shape[1] - window_px) // 2
    inner = windows.canvases[:, margin : margin + window_px, margin : margin + window_px]
    out = inner.copy()
    for window, stain in zip(out, windows.stains, strict=True) if in_one_stain else ():
        window[:] = differential_data.of_one_stain(window, stain)
    return out


def fit(
    windows: Windows,
    network: SubtypeCnn,
    augment: WindowAugmenter,
    drawn: np.ndarray,
    *,
    seed: int,
    steps: int,
    batch_size: int,
    rate: float,
) -> SubtypeCnn:
    """Train a network with AdamW, one cycle; return it with the moving average of its weights.

    Each window is drawn with the probability in `drawn`, (N,).
    """
    rng = np.random.default_rng(seed)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995), use_buffers=True
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.15)
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
    network.load_state_dict(average.module.state_dict())
    return network.eval()


def told(model: SubtypeModel, windows: Windows) -> np.ndarray:
    """Return the probabilities (N, K) that a model gives."""
    return model.predict(windows_in_use(windows, model.info.window_px, in_one_stain=model.info.red_level is not None))


def figures(model: SubtypeModel, windows: Windows) -> dict[str, Any]:
    """Return accuracy, that of the five balanced, calibration error, confusion, and shares that are unsure."""
    probabilities = told(model, windows)
    said, sure = probabilities.argmax(1), probabilities.max(1)
    is_right, is_one_of_five = said == windows.labels, windows.labels < FIVE
    confusion = np.zeros((len(CLASSES), len(CLASSES)), int)
    np.add.at(confusion, (windows.labels, said), 1)
    five = [confusion[k, k] / confusion[k].sum() for k in range(FIVE) if confusion[k].sum()]
    bins = np.minimum((sure * 10).astype(int), 9)
    error = sum(abs(is_right[bins == b].mean() - sure[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))
    parts = {"the five": is_one_of_five, "the others": ~is_one_of_five}
    return {
        "n": len(windows),
        "accuracy": float(is_right.mean()),
        "balanced accuracy of the five": float(np.mean(five)) if five else None,
        "calibration error": float(error),
        "confusion": confusion.tolist(),
        "unsure": {name: float((sure[rows] < UNSURE).mean()) for name, rows in parts.items() if rows.any()},
    }


def calibrated(network: SubtypeCnn, info: SubtypeInfo, windows: Windows) -> SubtypeModel:
    """Return the model with the temperature at which held-out windows are the most probable."""
    model = SubtypeModel(network, replace(info, temperature=1.0), name="differential", device="cpu")
    logits = torch.from_numpy(np.log(model.predict(windows_in_use(windows)).clip(1e-9)))
    labels = torch.from_numpy(windows.labels)
    best = min(np.geomspace(0.4, 2.5, 60), key=lambda t: float(F.cross_entropy(logits / t, labels)))
    return SubtypeModel(network, replace(info, temperature=float(best)), name="differential", device="cpu")


def parser_for(description: str | None, name: str, *, steps: int, batch_size: int) -> argparse.ArgumentParser:
    """Return a parser of what every training of a model of kinds is told; the model is written to `name`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=WEIGHTS / f"{name}.safetensors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    return parser


def settings_of(arguments: argparse.Namespace, used: Windows, strengths: Any) -> dict[str, Any]:
    """Return what goes into the metadata of a model: settings, augmentation, number and hash of its windows."""
    settings = {k: v for k, v in vars(arguments).items() if k not in ("data", "out", "cache")}
    data_hash = hashlib.sha256(used.canvases.tobytes() + used.labels.tobytes()).hexdigest()
    return settings | {"augmentation": asdict(strengths), "n": len(used), "data_sha256": data_hash}


def main() -> None:
    """Train, measure, write."""
    parser = parser_for(__doc__, "differential", steps=2400, batch_size=64)
    parser.add_argument("--cache", type=Path, help="folder that keeps the windows for the next run")
    parser.add_argument("--only", choices=["pbc", "raabin"], help="train on this laboratory, try on the other")
    parser.add_argument("--without", choices=CLASSES, help="leave a class out, and try on it")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    data, cache = arguments.data, arguments.cache
    windows = differential_data.kept_in(cache, "train", lambda: differential_data.training_windows(data))
    fields = differential_data.kept_in(cache, "val", lambda: differential_data.txl_windows(data, "val"))
    is_here = np.isin(windows.origins, LABS[arguments.only] if arguments.only else np.unique(windows.origins))
    is_left_out = windows.labels == (CLASSES.index(arguments.without) if arguments.without else -1)
    used = windows.take(is_here & ~is_left_out & ~windows.is_val)
    held_out = windows.take(is_here & ~is_left_out & windows.is_val)
    for origin in np.unique(used.origins):
        LOG.info("%s: %s", origin, np.bincount(used.labels[used.origins == origin], minlength=len(CLASSES)))
    settings = settings_of(arguments, used, STRENGTHS)
    info = SubtypeInfo("WBC", CLASSES, RBC_DIAMETER_PX, GLASS_LEVEL, RED_LEVEL, settings=settings)
    torch.manual_seed(arguments.seed)
    network = fit(
        used,
        network_of(info),
        WindowAugmenter(used, arguments.seed, STRENGTHS),  # type: ignore[arg-type]
        differential_data.sampling_weights(used),
        seed=arguments.seed,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        rate=arguments.rate,
    )
    model = calibrated(network, info, held_out)
    is_five = windows.labels < FIVE
    tried = {f"held out of {o}": held_out.take(held_out.origins == o) for o in np.unique(held_out.origins)}
    tried |= {"TXL-PBC val": fields, "the other laboratory": windows.take(~is_here & is_five)}
    tried |= {
        "left out": windows.take(is_left_out),
        "classes that the laboratory lacks": windows.take(~is_here & ~is_five),
    }
    report = {name: figures(model, some) for name, some in tried.items() if len(some)}
    for name, found in report.items():
        LOG.info("%s: %s", name, found)
    model = SubtypeModel(network, replace(model.info, report=report), name="differential", device="cpu")
    arguments.out.write_bytes(model.to_bytes())
    LOG.info("%s written, sha256 %s, temperature %.3f", arguments.out, model.sha256, model.info.temperature)


LABS = {"pbc": ["pbc", "360x363"], "raabin": ["raabin", "575x575"]}
"""Which origins are of one laboratory."""


if __name__ == "__main__":
    main()
