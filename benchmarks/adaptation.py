"""How well the program learns from few corrections: ``python -m benchmarks.adaptation DATA_FOLDER``.

1. A laboratory of TXL-PBC is left out of the training of the embedded classifier; the classifier that results is then
   fine-tuned on 5 and 20 corrected cells per class of that laboratory (from its training fields, drawn at random, five
   seeds), and types the whole cells of its validation fields.
2. The paper's CNN is trained with Table 2 on the paper's cutouts, with five seeds, and types ``cutouts/val``.
3. The model of the kinds of white cells is fine-tuned on 5 and 20 corrected cells of each kind as another camera sees
   them (a matrix and gains of optical densities, a tone curve, blur, noise, drawn by seed), and tells other cells,
   seen by that camera and by the known ones; none of them was trained on. ``--kinds-start FILE --kinds-lab raabin``:
   the same with a model that never saw a laboratory (``python -m training.train_differential --only pbc``), on that
   laboratory's cells, those to be told of other smears than the corrected ones.

``--models`` names a folder in which starting classifiers are kept between runs: they take most of the time.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from napari_bloodcell.core.params import TrainParams
from napari_bloodcell.learning.dataset import LabelledCutouts, Parts, read_parts
from napari_bloodcell.learning.reports import figures_of
from napari_bloodcell.learning.train import train
from napari_bloodcell.models.cnn.classifier import CnnClassifier
from napari_bloodcell.models.load import load_subtypes
from napari_bloodcell.stages.cutouts import GLASS_LEVEL
from training import cnn_data, differential_data, train_cnn
from training.differential_data import CLASSES, of_one_stain, stain_of_crop

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_bloodcell.learning.reports import PartFigures
    from napari_bloodcell.models.cnn.subtypes import SubtypeModel
    from training.differential_data import Windows

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


def another_camera(canvases: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Return canvases (N, S, S, 3), glass at `GLASS_LEVEL`, as another camera and stain would show them."""
    rng = np.random.default_rng(seed)
    matrix = np.eye(3) + rng.normal(0, 0.18, (3, 3))
    gains, tone, blur = np.exp(rng.uniform(-0.35, 0.35, 3)), np.exp(rng.uniform(-0.5, 0.5)), rng.uniform(0.6, 1.6)
    out = np.empty_like(canvases)
    for seen, canvas in zip(out, canvases, strict=True):
        density = -np.log((canvas / GLASS_LEVEL).clip(0.01, 1.1)) @ matrix.T * gains
        light = gaussian_filter(np.exp(-density).clip(0, 1.05) ** tone * GLASS_LEVEL, (blur, blur, 0))
        seen[:] = np.rint(light + rng.normal(0, 1.5, light.shape)).clip(1, 255)
    return out


def as_seen(windows: Windows, rows: NDArray[np.intp], model: SubtypeModel, camera: int | None) -> LabelledCutouts:
    """Return some cells as a model sees them: through a camera by seed, or the one that they were taken with."""
    canvases = windows.canvases[rows]
    if camera is not None:
        canvases = another_camera(canvases, camera)
    if model.info.red_level is not None:
        canvases = np.stack([of_one_stain(canvas, stain_of_crop(canvas)) for canvas in canvases])
    info = model.info
    return LabelledCutouts(
        canvases, windows.labels[rows], CLASSES, info.rbc_diameter_px, info.glass_level, (), info.red_level
    )


def balanced(figures: PartFigures) -> float:
    """Return the mean recall of the classes that there are cells of."""
    return float(np.mean([one.recall for one in figures.per_class.values() if one.n]))


def kinds(data: Path, start: str, lab: str | None) -> bool:
    """Print the table of kinds of white cells, and return whether fine-tuning helps as it must."""
    print("\n| look | cells per kind | balanced accuracy before | after | known cells before | after |")
    print("|---|---|---|---|---|---|")
    model, windows = load_subtypes(start, "cpu"), differential_data.crops(data)
    windows = windows.take(windows.is_val if lab is None else np.isin(windows.origins, [lab]))
    is_good = True
    for seed in SEEDS[:3]:
        rng = np.random.default_rng(seed)
        groups = np.unique(windows.groups)
        mine = np.isin(windows.groups, rng.permutation(groups)[::2]) if lab else rng.random(len(windows)) < 0.5
        corrected, unseen = (_some(windows.labels, rows, n, rng) for rows, n in ((mine, 20), (~mine, 40)))
        for n in CELLS_PER_CLASS:
            few_rows = np.concatenate([corrected[windows.labels[corrected] == k][:n] for k in range(len(CLASSES))])
            camera = None if lab else seed
            train_part, test = (as_seen(windows, rows, model, camera) for rows in (few_rows, unseen))
            known = as_seen(windows, unseen, model, None)
            nothing = train_part.take(np.zeros(0, np.int64))
            parts = Parts(train_part, nothing, test)
            training = train(parts, params=TrainParams(seed=seed, device="cpu"), start=model, of="WBC")
            before, after = (balanced(r["test"]) for r in (training.report.before, training.report.parts))
            known_before, known_after = (balanced(figures_of(m, known)) for m in (model, training.classifier))
            is_good &= n < 20 or after >= max(before, 0.95)
            print(
                f"| {lab or f'camera {seed}'} | {n} | {before:.3f} | {after:.3f} | {known_before:.3f} "
                f"| {known_after:.3f} |",
                flush=True,
            )
    return is_good


def _some(labels: NDArray[np.int64], among: NDArray[np.bool_], n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return n rows of each label, drawn at random."""
    return np.concatenate([rng.permutation(np.nonzero(among & (labels == k))[0])[:n] for k in np.unique(labels)])


def main() -> None:
    """Measure what the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", type=Path, default=Path("adaptation-models"))
    parser.add_argument("--labs", nargs="*", default=list(LABORATORIES), help="sizes of images, such as 575x575")
    parser.add_argument("--steps", type=int, default=1000, help="of training a starting classifier")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["laboratories", "paper", "kinds"])
    parser.add_argument("--kinds-start", default="differential", help="model that kinds are learned from")
    parser.add_argument("--kinds-lab", help="its laboratory that it never saw, such as raabin")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    is_good = True
    if arguments.only in (None, "laboratories"):
        is_good &= adaptation(arguments.data, arguments.models, arguments.labs, arguments.steps)
    if arguments.only in (None, "paper"):
        is_good &= paper(arguments.data)
    if arguments.only in (None, "kinds"):
        is_good &= kinds(arguments.data, arguments.kinds_start, arguments.kinds_lab)
    raise SystemExit(0 if is_good else 1)


if __name__ == "__main__":
    main()
