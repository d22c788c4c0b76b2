"""Make the model that tells the shapes of red cells: ``python -m training.train_morphology``, from the root.

Data and what is held out: `training.morphology_data`. Settings, seed, hash of the data and figures stand in the
file's metadata.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.models.cnn.subtypes import SubtypeCnn, SubtypeInfo, SubtypeModel
from napari_bloodcell.stages.cutouts import GLASS_LEVEL, RED_LEVEL, measures_of_smear
from training import morphology_data
from training.cnn_augment import Strengths
from training.differential_augment import WindowAugmenter
from training.morphology_data import CLASSES, RBC_DIAMETER_PX
from training.train_differential import fit, parser_for, settings_of, windows_in_use

if TYPE_CHECKING:
    from training.differential_data import Windows

LOG = logging.getLogger("train_morphology")
WINDOW_PX, WIDTHS = 64, (24, 40, 72, 112)
STRENGTHS = Strengths(scale=(0.94, 1.06), aspect=0.03, stain_of_another_image=0.3)
MARGIN = 1.15
"""A smear is taken for one like those of the training if its stain lies within their range, or this factor beyond."""
BALANCE = 0.5
"""Classes are drawn by this power of their size: 1 as they come, 0 alike."""


class CellAugmenter(WindowAugmenter):
    """Windows of one cell, hardly off its middle and hardly scaled: its size is what tells some shapes."""

    window_px, shift = WINDOW_PX, 0.1


def drawn(windows: Windows) -> np.ndarray:
    """Return how often each is drawn, (N,)."""
    n = np.bincount(windows.labels, minlength=len(CLASSES))
    weights = n[windows.labels] ** (BALANCE - 1.0)
    return np.asarray(weights / weights.sum())


def stains_seen(windows: Windows) -> dict[str, tuple[float, float]]:
    """Return the range of the stains of fields, 1st to 99th percentile and `MARGIN` more: `SubtypeInfo.seen`."""
    glass = (GLASS_LEVEL,) * 3
    measured = []
    for stain in np.unique(windows.stains, axis=0):
        red, green, blue = (GLASS_LEVEL * np.exp(-stain.astype(float))).tolist()
        measured.append(measures_of_smear(Calibration(RBC_DIAMETER_PX, glass, GLASS_LEVEL, red_rgb=(red, green, blue))))
    found = {name: np.quantile([m[name] for m in measured], (0.01, 0.99)).tolist() for name in list(measured[0])[1:]}
    return {name: (low / MARGIN, high * MARGIN) for name, (low, high) in found.items()}


def macro_f1(confusion: np.ndarray) -> float:
    """Return the mean over the classes of F1, of a confusion matrix (truth, told)."""
    right, truth, told = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    return float(np.mean(2 * right / np.maximum(truth + told, 1)))


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return how often a positive scores higher than a negative."""
    order = np.argsort(np.argsort(scores, kind="stable"), kind="stable") + 1.0
    n = int(positive.sum())
    return float((order[positive].sum() - n * (n + 1) / 2) / (n * (len(scores) - n)))


def figures(model: SubtypeModel, windows: Windows) -> dict[str, Any]:
    """Return macro-F1, AUC of normal against the rest, R² of shares of fields, and the confusion matrix."""
    probabilities = model.predict(windows_in_use(windows, WINDOW_PX)).astype(np.float64)
    kinds = model.kinds
    labels = np.array([kinds.index(model.info.classes[k]) for k in windows.labels])
    said = probabilities.argmax(1)
    confusion = np.zeros((len(kinds), len(kinds)), int)
    np.add.at(confusion, (labels, said), 1)
    fields = [windows.groups == g for g in np.unique(windows.groups)]
    true, found = (
        np.array([np.bincount(k[f], minlength=len(kinds)) / f.sum() for f in fields if f.sum() >= 10]).ravel()
        for k in (labels, said)
    )
    return {
        "n": len(windows),
        "macro F1": macro_f1(confusion),
        "accuracy": float((labels == said).mean()),
        "AUC of abnormal": auc(1 - probabilities[:, 0], labels != 0),
        "R2 of shares": float(1 - ((true - found) ** 2).sum() / ((true - true.mean()) ** 2).sum()),
        "kinds": list(kinds),
        "confusion": confusion.tolist(),
    }


def main() -> None:
    """Train, measure, write."""
    arguments = parser_for(__doc__, "morphology", steps=1600, batch_size=48).parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    cells = morphology_data.windows(arguments.data)
    used, held_out = cells.take(~cells.is_val), cells.take(cells.is_val)
    for name, some in (("train", used), ("held out", held_out)):
        LOG.info("%s: %s", name, np.bincount(some.labels, minlength=len(CLASSES)))
    info = SubtypeInfo("RBC", CLASSES, RBC_DIAMETER_PX, GLASS_LEVEL, RED_LEVEL, window_px=WINDOW_PX, widths=WIDTHS)
    info = replace(info, settings=settings_of(arguments, used, STRENGTHS), seen=stains_seen(used))
    torch.manual_seed(arguments.seed)
    network = fit(
        used,
        SubtypeCnn(len(CLASSES), WIDTHS),
        CellAugmenter(used, arguments.seed, STRENGTHS),  # type: ignore[arg-type]
        drawn(used),
        seed=arguments.seed,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        rate=arguments.rate,
    )
    model = SubtypeModel(network, info, name="morphology", device="cpu")
    report = figures(model, held_out)
    LOG.info("%s", report)
    model = SubtypeModel(network, replace(info, report=report), name="morphology", device="cpu")
    arguments.out.write_bytes(model.to_bytes())
    LOG.info("%s written, sha256 %s", arguments.out, model.sha256)


if __name__ == "__main__":
    main()
