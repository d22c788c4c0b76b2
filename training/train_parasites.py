"""Make the model that tells infected red cells: ``python -m training.train_parasites``, from the root.

Data and what is held out: `training.parasites_data`. Settings, seed, hash of the data and figures stand in the
file's metadata.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from napari_bloodcell.models.cnn.subtypes import SubtypeCnn, SubtypeInfo, SubtypeModel
from napari_bloodcell.stages.cutouts import GLASS_LEVEL, RED_LEVEL
from training import parasites_data
from training.cnn_augment import Strengths
from training.differential_augment import WindowAugmenter
from training.differential_data import Windows
from training.parasites_data import CLASSES, LOOKALIKES, RBC_DIAMETER_PX
from training.train_differential import fit, parser_for, settings_of, windows_in_use

LOG = logging.getLogger("train_parasites")
WINDOW_PX, WIDTHS = 64, (24, 40, 72, 112)
STRENGTHS = Strengths(scale=(0.85, 1.18), aspect=0.06, stain_of_another_image=0.5, stain_ratio=(0.3, 3.5), grey=0.02)
SHARES = {"infected": 0.35, "healthy": 0.4, "lookalike": 0.25}
"""How often each is drawn."""
FALSE_ALARMS = 0.004
"""Share of the healthy cells of the training slides that may be called infected: where the threshold is put."""


class CellAugmenter(WindowAugmenter):
    """Windows of one cell, hardly off its middle."""

    window_px, shift = WINDOW_PX, 0.12


def drawn(windows: Windows) -> np.ndarray:
    """Return how often each is drawn, (N,): by `SHARES`, then both sets alike, then fields."""
    weights = np.zeros(len(windows))
    is_made = np.isin(windows.origins, LOOKALIKES)
    groups = {
        "infected": [("iml_malaria", 1, 0.55), ("bbbc041", 1, 0.45)],
        "healthy": [("iml_malaria", 0, 0.45), ("bbbc041", 0, 0.55)],
        "lookalike": [(kind, 0, 1 / len(LOOKALIKES)) for kind in LOOKALIKES],
    }
    for share, members in groups.items():
        for origin, label, part in members:
            rows = (windows.origins == origin) & (windows.labels == label) & (is_made == (share == "lookalike"))
            weights[rows] = SHARES[share] * part / rows.sum()
    return weights / weights.sum()


def shifted(model: SubtypeModel, windows: Windows) -> SubtypeModel:
    """Return the model with its threshold at one half: `FALSE_ALARMS` of the healthy cells lie above."""
    healthy = model.predict(windows_in_use(windows.take(windows.labels == 0), WINDOW_PX))[:, 1].astype(np.float64)
    threshold = float(np.clip(np.quantile(healthy, 1 - FALSE_ALARMS), 1e-4, 1 - 1e-4))
    LOG.info("threshold %.4f", threshold)
    with torch.no_grad():
        model.network.logits.bias[1] -= float(np.log(threshold / (1 - threshold)))
    info = replace(model.info, settings=model.info.settings | {"threshold": threshold})
    return SubtypeModel(model.network, info, name="parasites", device="cpu")


def figures(model: SubtypeModel, windows: Windows) -> dict[str, Any]:
    """Return how many of each set were called infected, and out of how many."""
    found = model.predict(windows_in_use(windows, WINDOW_PX))[:, 1]
    report = {}
    for origin in np.unique(windows.origins):
        for label, name in enumerate(("healthy", "infected")):
            rows = (windows.origins == origin) & (windows.labels == label)
            if rows.any():
                report[f"{origin}: {name} called infected"] = [int((found[rows] >= 0.5).sum()), int(rows.sum())]
    return report


def main() -> None:
    """Train, measure, write."""
    parser = parser_for(__doc__, "parasites", steps=2500, batch_size=48)
    parser.add_argument("--lookalikes", type=int, default=2000, help="healthy cells with each of them")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    cells = parasites_data.windows(arguments.data)
    parts = {}
    for name, is_val, part, n in (("train", False, "train", arguments.lookalikes), ("val", True, "val", 500)):
        here = cells.take(cells.is_val == is_val)
        platelets = parasites_data.platelet_densities(arguments.data, part)
        made = parasites_data.with_lookalikes(here.take(here.labels == 0), platelets, n, arguments.seed + is_val)
        parts[name] = Windows(*(np.concatenate([getattr(p, k) for p in (here, made)]) for k in vars(here)))
        LOG.info("%s: %d cells, %d infected, %d platelets", name, len(here), here.labels.sum(), len(platelets))
    used = parts["train"]
    info = SubtypeInfo("RBC", CLASSES, RBC_DIAMETER_PX, GLASS_LEVEL, RED_LEVEL, window_px=WINDOW_PX, widths=WIDTHS)
    info = replace(info, settings=settings_of(arguments, used, STRENGTHS))
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
    natural = used.take(~np.isin(used.origins, LOOKALIKES))
    model = shifted(SubtypeModel(network, info, name="parasites", device="cpu"), natural)
    report = figures(model, parts["val"])
    for name, (n, total) in report.items():
        LOG.info("%s: %d of %d (%.2f %%)", name, n, total, 100 * n / total)
    model = SubtypeModel(model.network, replace(model.info, report=report), name="parasites", device="cpu")
    arguments.out.write_bytes(model.to_bytes())
    LOG.info("%s written, sha256 %s", arguments.out, model.sha256)


if __name__ == "__main__":
    main()
