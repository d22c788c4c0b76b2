"""Make the two classifiers that the project ships: ``python -m training.train_cnn paper|embedded``, from the root.

``paper``: the CNN of Fig. 3 on ../shared/data/cutouts/train (RBC, WBC; the authors' copies are left out, WBC × 10 by
our own), with `TrainParams.quick` but all 20 epochs, seed 0. ``embedded``: RBC, WBC and platelet on TXL-PBC
train, HS1, HS2 and cutouts/train (`training.cnn_data` says what is held out), seed 0. Data, seed, settings and figures
stand in the metadata of the files. Training varies the stain; in use every smear is brought to one (`RED_LEVEL`), the
median of those trained on.
``--leave-out 575x575`` trains without a laboratory of TXL-PBC, or several; only `--out` writes a file then.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_bloodcell.core.params import TrainParams
from napari_bloodcell.core.progress import drain
from napari_bloodcell.learning.reports import figures_of
from napari_bloodcell.learning.train import iter_train
from napari_bloodcell.models.cnn.classifier import ClassifierInfo, CnnClassifier
from napari_bloodcell.models.cnn.network import Architecture, CellCnn
from napari_bloodcell.models.cnn.training import loss_of
from napari_bloodcell.stages.cutouts import GLASS_LEVEL, RED_LEVEL
from training import cnn_data
from training.cnn_augment import Augmenter, Strengths

if TYPE_CHECKING:
    from napari_bloodcell.core.protocols import Progress

LOG = logging.getLogger("train_cnn")
WEIGHTS = Path(__file__).parents[1] / "src" / "napari_bloodcell" / "weights"
DATA = Path(__file__).parents[2] / "shared" / "data"
SHARES = {cnn_data.RBC: 0.45, cnn_data.WBC: 0.33, cnn_data.PLATELET: 0.22}
"""Of each class in a batch."""


def train_paper(data: Path, seed: int) -> CnnClassifier:
    """Return the paper's binary CNN."""
    dataset, held_out = cnn_data.paper_parts(data)
    training = drain(iter_train(dataset, params=TrainParams.quick(seed=seed, patience=None, device="cpu")), _log)
    figures = figures_of(training.classifier, held_out)
    seconds = training.report.seconds
    LOG.info("cutouts val: accuracy %.4f, confusion %s, %.0f s", figures.accuracy, figures.confusion, seconds)
    info = replace(training.classifier.info, report={**training.report.to_dict(), "cutouts val": asdict(figures)})
    return CnnClassifier(training.classifier.network, info, name="paper", device="cpu")


def train_embedded(
    data: Path,
    *,
    seed: int = 0,
    steps: int = 3000,
    batch_size: int = 64,
    dense_units: int = 96,
    learning_rate: float = 2e-3,
    leave_out: tuple[str, ...] = (),
    segmenter: cnn_data.Segmenter | None = None,
    cache: Path | None = None,
    max_minutes: float = 120.0,
    start: Path | None = None,
    is_evaluated: bool = True,
) -> CnnClassifier:
    """Return the embedded classifier of RBC, WBC and platelet; with `start`, trained on from an earlier one."""
    begin = time.monotonic()
    samples = _cached_samples(data, seed, segmenter, cache)
    if leave_out:
        samples = samples.take(np.nonzero(~np.isin(samples.origins, leave_out))[0])
    counts = {
        str(o): np.bincount(samples.labels[samples.origins == o], minlength=3).tolist()
        for o in np.unique(samples.origins)
    }
    LOG.info("samples (RBC, WBC, platelet): %s in %.0f s", counts, time.monotonic() - begin)
    torch.manual_seed(seed)
    network = CellCnn(Architecture("pool", dense_units, 0.2, len(cnn_data.CLASSES))).channels_last()
    if start is not None:
        network.load_state_dict(CnnClassifier.load(start, device="cpu").network.state_dict())
    average = _fit(network, samples, seed, steps, batch_size, learning_rate, begin, max_minutes)
    settings = {
        "seed": seed,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "augmentation": asdict(Strengths()),
        "samples": counts,
        "masks": "ellipses in boxes" + (" and the embedded SAM's" if segmenter else ""),
        "leave_out": leave_out,
        "start": hashlib.sha256(start.read_bytes()).hexdigest() if start is not None else None,
    }
    info = ClassifierInfo(
        classes=cnn_data.CLASSES,
        rbc_diameter_px=cnn_data.RBC_DIAMETER_PX,
        glass_level=GLASS_LEVEL,
        red_level=RED_LEVEL,
        settings=settings,
        data_hash=hashlib.sha256(samples.rgba.tobytes() + samples.labels.tobytes()).hexdigest(),
    )
    classifier = CnnClassifier(average, info, name="embedded", device="cpu")
    report = evaluate(classifier, data, segmenter) if is_evaluated else {}
    report["minutes"] = (time.monotonic() - begin) / 60
    return CnnClassifier(average, replace(info, report=report), name="embedded", device="cpu")


def _fit(
    network: CellCnn,
    samples: cnn_data.Samples,
    seed: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    begin: float,
    max_minutes: float,
) -> CellCnn:
    """Train with AdamW, one cycle; return the moving average of the weights."""
    rng = np.random.default_rng(seed)
    augment = Augmenter(samples, seed)
    members = {k: np.nonzero(samples.labels == k)[0] for k in SHARES}
    weights = cnn_data.sampling_weights(samples)
    numbers = {k: round(batch_size * share) for k, share in SHARES.items()}
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps, pct_start=0.15)
    average = CellCnn(network.architecture).channels_last()
    average.load_state_dict(network.state_dict())
    running, right = 0.0, 0.0
    for step in range(steps):
        rows = np.concatenate([rng.choice(members[k], n, p=weights[members[k]]) for k, n in numbers.items()])
        labels = torch.from_numpy(samples.labels[rows])
        with torch.no_grad():
            x = augment(torch.from_numpy(samples.rgba[rows]), labels, torch.from_numpy(samples.stains[rows]))
        network.train()
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(x)
        loss = loss_of(logits, labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            share = min(0.995, (step + 1) / (step + 20))
            for old, new in zip(average.parameters(), network.parameters(), strict=True):
                old.lerp_(new, 1 - share)
        running = 0.98 * running + 0.02 * float(loss.detach())
        right = 0.98 * right + 0.02 * float((logits.argmax(1) == labels).float().mean())
        if step % 100 == 99:
            seconds = time.monotonic() - begin
            LOG.info("step %d: loss %.4f, accuracy %.4f (augmented), %.0f s", step + 1, running, right, seconds)
        if time.monotonic() - begin > 60 * max_minutes:
            LOG.warning("stopped at step %d: %.0f minutes are over", step + 1, max_minutes)
            break
    return average


def evaluate(
    classifier: CnnClassifier,
    data: Path,
    segmenter: cnn_data.Segmenter | None = None,
    *,
    scales: tuple[float, ...] = (1.0, 0.8, 1.25),
) -> dict[str, Any]:
    """Return the figures on each set that was not trained on, at the right scale and at wrong ones."""
    report: dict[str, Any] = {}
    for scale in scales:
        masks_by = segmenter if scale == 1.0 else None
        for name, dataset in cnn_data.evaluation_sets(data, segmenter=masks_by, scale=scale).items():
            figures = figures_of(classifier, dataset)
            title = name if scale == 1.0 else f"{name}, scale × {scale}"
            report[title] = asdict(figures)
            recalls = {k: f"{v.recall:.4f} of {v.n}" for k, v in figures.per_class.items() if v.n}
            LOG.info("%-45s accuracy %.4f, recall %s, %s", title, figures.accuracy, recalls, figures.confusion)
    return report


def _cached_samples(
    data: Path, seed: int, segmenter: cnn_data.Segmenter | None, cache: Path | None
) -> cnn_data.Samples:
    """Return the samples, from a file that an earlier run left where there is one."""
    if cache is not None and cache.is_file():
        with np.load(cache, allow_pickle=False) as stored:
            return cnn_data.Samples(**stored)
    samples = cnn_data.training_samples(data, seed=seed, segmenter=segmenter)
    if cache is not None:
        np.savez(cache, **vars(samples))
    return samples


def _log(step: Progress) -> None:
    if step.payload is not None:
        LOG.info("%s", step.payload)


def _embedded_sam() -> cnn_data.Segmenter:
    """Return the program's own segmentation, told the width of a red cell."""
    from napari_bloodcell.core.params import SegmentParams
    from napari_bloodcell.models.load import load_generator
    from napari_bloodcell.stages.segment import segment

    generator = load_generator("embedded", "cpu")

    def run(image: Any, diameter: float) -> Any:
        return segment(image, params=SegmentParams(rbc_diameter_px=diameter, device="cpu"), generator=generator)

    return run


def main() -> None:
    """Train what the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["paper", "embedded", "evaluate"])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, help="file to write; default: the shipped one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--start", type=Path, help="embedded classifier to go on from")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--leave-out", nargs="*", default=[], help="laboratories of TXL-PBC, such as 575x575")
    parser.add_argument("--dense-units", type=int, default=96)
    parser.add_argument("--cache", type=Path, help="file in which the samples are kept between runs")
    parser.add_argument("--segment", action="store_true", help="also use the masks that the embedded SAM finds")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    segmenter = _embedded_sam() if arguments.segment else None
    out = arguments.out or WEIGHTS / f"cnn_{arguments.model}.safetensors"
    if arguments.model == "evaluate":
        file = arguments.out or WEIGHTS / "cnn_embedded.safetensors"
        evaluate(CnnClassifier.load(file, device="cpu"), arguments.data, segmenter)
        return
    if arguments.model == "paper":
        classifier = train_paper(arguments.data, arguments.seed)
    else:
        classifier = train_embedded(
            arguments.data,
            seed=arguments.seed,
            steps=arguments.steps,
            dense_units=arguments.dense_units,
            leave_out=tuple(arguments.leave_out),
            segmenter=segmenter,
            cache=arguments.cache,
            learning_rate=arguments.rate,
            start=arguments.start,
        )
    if not arguments.leave_out or arguments.out is not None:
        LOG.info("%s written, sha256 %s", out, classifier.save(out, dtype="float16"))


if __name__ == "__main__":
    main()
