"""How well the program learns from few corrections: ``python -m benchmarks.adaptation DATA_FOLDER``.

1. A laboratory of TXL-PBC is left out of the training of the embedded classifier; the classifier that results is then
   fine-tuned on 5 and 20 corrected cells per class of that laboratory (from its training fields, drawn at random, five
   seeds), and types the whole cells of its validation fields.
2. The paper's CNN is trained with Table 2 on the paper's cutouts, with five seeds, and types ``cutouts/val``.

``--models`` names a folder in which starting classifiers are kept between runs: they take most of the time.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_bloodcell.core.params import TrainParams
from napari_bloodcell.learning.dataset import Parts, read_parts
from napari_bloodcell.learning.reports import figures_of
from napari_bloodcell.learning.train import train
from napari_bloodcell.models.cnn.classifier import CnnClassifier
from training import cnn_data, train_cnn

if TYPE_CHECKING:
    from napari_bloodcell.learning.dataset import LabelledCutouts
    from napari_bloodcell.learning.reports import PartFigures

LABORATORIES = ("575x575", "640x480", "360x363", "416x416")
CELLS_PER_CLASS = (5, 20)
SEEDS = range(5)


def starting_classifier(data: Path, lab: str, models: Path, steps: int) -> CnnClassifier:
    """Return a classifier that never saw a laboratory: from `models`, or trained now."""
    models.mkdir(parents=True, exist_ok=True)
    path = models / f"without-{lab}.safetensors"
    if not path.is_file():
        classifier = train_cnn.train_embedded(
            data, steps=steps, leave_out=(lab,), cache=models / "samples.npz", is_evaluated=False
        )
        classifier.save(path)
    return CnnClassifier.load(path, device="cpu")


def few(cells: LabelledCutouts, n: int, seed: int) -> LabelledCutouts:
    """Return n cells of each class, drawn at random: those of a smaller n are among those of a larger one."""
    rng = np.random.default_rng(seed)
    return cells.take(
        np.concatenate([rng.permutation(np.nonzero(cells.labels == k)[0])[:n] for k in range(len(cells.classes))])
    )


def fine_tuned(start: CnnClassifier, corrected: LabelledCutouts, unseen: LabelledCutouts, seed: int) -> PartFigures:
    """Return the figures on unseen cells after fine-tuning on corrected ones with the default settings."""
    nothing = corrected.take(np.zeros(0, np.int64))
    params = TrainParams(seed=seed, device="cpu")
    return train(Parts(corrected, nothing, unseen), params=params, start=start).report.parts["test"]


def adaptation(data: Path, models: Path, labs: list[str], steps: int) -> bool:
    """Print the table of laboratories, and return whether all reach what they must."""
    print(
        "| left out | cells per class | accuracy before | after, mean | least of 5 seeds | recall RBC, WBC, platelet |"
    )
    print("|---|---|---|---|---|---|")
    is_good = True
    for lab in labs:
        start = starting_classifier(data, lab, models, steps)
        known, unseen = (cnn_data.laboratory_cells(data, part, lab) for part in ("train", "val"))
        before = figures_of(start, unseen)
        for n in CELLS_PER_CLASS:
            after = [fine_tuned(start, few(known, n, seed), unseen, seed) for seed in SEEDS]
            accuracy = [f.accuracy for f in after]
            recalls = ", ".join(f"{np.mean([f.per_class[c].recall for f in after]):.3f}" for c in unseen.classes)
            is_good &= float(np.mean(accuracy)) >= (0.99 if n >= 20 else before.accuracy)
            print(
                f"| {lab} ({len(unseen)} cells) | {n} | {before.accuracy:.4f} | {np.mean(accuracy):.4f} "
                f"| {min(accuracy):.4f} | {recalls} |",
                flush=True,
            )
    return is_good


def paper(data: Path) -> bool:
    """Print the table of the paper's CNN, and return whether all seeds reach what they must."""
    print("\n| seed | seconds | accuracy on cutouts/val | WBC found | RBC typed WBC |")
    print("|---|---|---|---|---|")
    parts = read_parts(data / "cutouts", with_augmented=True)
    if parts is None:
        raise SystemExit(f"{data / 'cutouts'} has no train folder.")
    nothing = parts.train.take(np.zeros(0, np.int64))
    is_good = True
    for seed in SEEDS:
        begin = time.monotonic()
        params = TrainParams(seed=seed, device="cpu", wbc_augmentation=1, rbc_per_wbc=None)
        classifier = train(Parts(parts.train, nothing, nothing), params=params).classifier
        seconds = time.monotonic() - begin
        figures = figures_of(classifier, parts.val)
        (_, false), (missed, found) = figures.confusion
        is_good &= figures.accuracy >= 0.99 and missed == 0
        print(
            f"| {seed} | {seconds:.0f} | {figures.accuracy:.4f} | {found} of {found + missed} | {false} |", flush=True
        )
    return is_good


def main() -> None:
    """Measure what the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", type=Path, default=Path("adaptation-models"))
    parser.add_argument("--labs", nargs="*", default=list(LABORATORIES), help="sizes of images, such as 575x575")
    parser.add_argument("--steps", type=int, default=1000, help="of training a starting classifier")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["laboratories", "paper"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    is_good = True
    if arguments.only != "paper":
        is_good &= adaptation(arguments.data, arguments.models, arguments.labs, arguments.steps)
    if arguments.only != "laboratories":
        is_good &= paper(arguments.data)
    raise SystemExit(0 if is_good else 1)


if __name__ == "__main__":
    main()
