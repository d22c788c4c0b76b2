"""Training data of the embedded classifier: cells with their surroundings, at the working scale, glass at one level.

Sources (read from the shared data folder, never copied into the project): TXL-PBC's boxes with the ellipse in each, and
the masks of a segmenter where one is given; HS1 and HS2 with SAM ViT-H's masks; the paper's own cutouts. Held out
always: HS2 columns 12 and up, HS1 columns 17 and up, every cell of cutouts/val, TXL-PBC val.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_bloodcell.learning.dataset import LabelledCutouts, concatenate, read_cutouts
from napari_bloodcell.models.colour import colour_in_boxes
from napari_bloodcell.stages.calibration import background_colour
from napari_bloodcell.stages.cutouts import GLASS_LEVEL, RED_LEVEL, cut_out
from napari_bloodcell.stages.segment import FEWEST_MEASURED
from training.cnn_masks import (
    CANVAS_PX,
    PLATELET,
    RBC,
    WBC,
    box_iou,
    canvas,
    clumps,
    ellipse,
    normalised,
    real_masks,
    resampled_mask,
    stain,
)
from training.sam_data import read_sam_masks

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = ("RBC", "WBC", "platelet")
RBC_DIAMETER_PX = 28.0
HS_DIAMETER_PX = 34.0
HELD_OUT_FROM = {"HS1": 17, "HS2": 12}
"""First column of each smear that no training sees."""
SMEAR_SHARE = 0.28
"""Of the cells drawn of a class, how many come from HS1, HS2 and the paper's cutouts."""
_TXL_CLASSES = (WBC, RBC, PLATELET)

Segmenter = Callable[[NDArray[np.uint8], float], Any]
"""(image, RBC diameter in pixels) → something with `.cells` and `.table`, such as `napari_bloodcell.segment` gives."""


@dataclass
class Samples:
    """Cells in the middle of canvases: (N, 96, 96, 4) uint8, RGB with glass at `GLASS_LEVEL`, and the mask as alpha."""

    rgba: NDArray[np.uint8]
    labels: NDArray[np.int64]
    stains: NDArray[np.float32]
    """Median optical density of the red cells of the image that each comes from, (N, 3)."""
    origins: NDArray[np.str_]
    """Where each comes from: a laboratory of TXL-PBC, "HS1", "HS2" or "cutouts"."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.integer]) -> Samples:
        """Return the samples of these rows."""
        return Samples(self.rgba[rows], self.labels[rows], self.stains[rows], self.origins[rows])


class _Collector:
    """Gathers canvases of one field after the other."""

    def __init__(self) -> None:
        self.rgba: list[NDArray[np.uint8]] = []
        self.labels: list[int] = []
        self.stains: list[NDArray[np.float32]] = []
        self.origins: list[str] = []

    def add_field(
        self,
        origin: str,
        image: NDArray[np.uint8],
        objects: list[tuple[NDArray[np.bool_], tuple[int, int], int]],
    ) -> None:
        """Add cells (mask, (y0, x0), class) of a field whose glass and scale are those of training."""
        colour = stain(image, [o for o in objects if o[2] == RBC])
        for mask, corner, label in objects:
            self.rgba.append(canvas(image, mask, corner))
            self.labels.append(label)
            self.stains.append(colour)
            self.origins.append(origin)

    def samples(self) -> Samples:
        """Return what was gathered."""
        return Samples(np.stack(self.rgba), np.array(self.labels), np.stack(self.stains), np.array(self.origins))


def laboratory(name: str) -> str:
    """Return the laboratory of a size of image; 366×369 is 360×363's."""
    return "360x363" if name == "366x369" else name


def txl_fields(
    data: Path, part: str, leave_out: str | None = None, only: str | None = None, file: str = "*"
) -> Iterator[tuple[str, Any, Any, float]]:
    """Yield (laboratory, image, boxes, RBC diameter); boxes (N, 5) are class, y0, x0, y1, x1 in pixels."""
    for path in sorted((data / "txl_pbc" / "images" / part).glob(file)):
        with Image.open(path) as picture:
            image = np.asarray(picture.convert("RGB"))
        height, width = image.shape[:2]
        lab = laboratory(f"{width}x{height}")
        if lab == leave_out or (only is not None and lab != only):
            continue
        text = (data / "txl_pbc" / "labels" / part / f"{path.stem}.txt").read_text()
        rows = np.array([line.split() for line in text.splitlines() if line.strip()], float).reshape(-1, 5)
        x, y, w, h = rows[:, 1] * width, rows[:, 2] * height, rows[:, 3] * width, rows[:, 4] * height
        boxes = np.stack(
            [np.array(_TXL_CLASSES)[rows[:, 0].astype(int)], y - h / 2, x - w / 2, y + h / 2, x + w / 2], 1
        )
        inner = (boxes[:, 1] > 1) & (boxes[:, 2] > 1) & (boxes[:, 3] < height - 1) & (boxes[:, 4] < width - 1)
        sides = np.sqrt(w * h)[(boxes[:, 0] == RBC) & inner]
        if sides.size >= 2:
            yield lab, image, boxes, float(np.median(sides))


def txl_samples(data: Path, *, seed: int, rbc_per_field: int = 6, segmenter: Segmenter | None = None) -> Samples:
    """Return cells of TXL-PBC's training part; all WBC and platelets, some RBC, and some clumps.

    An RBC whose box shares much with that of a WBC is left out: the ellipse in its box holds a piece of the WBC.
    """
    rng = np.random.default_rng(seed)
    collector = _Collector()
    for lab, image, boxes, diameter in txl_fields(data, "train"):
        scale = RBC_DIAMETER_PX / diameter
        small = normalised(image, scale)
        white = boxes[boxes[:, 0] == WBC, 1:]
        red = [i for i in np.nonzero(boxes[:, 0] == RBC)[0] if all(box_iou(boxes[i, 1:], w) < 0.02 for w in white)]
        chosen = np.concatenate([np.nonzero(boxes[:, 0] != RBC)[0], rng.permutation(red)[:rbc_per_field]]).astype(int)
        masks = [ellipse(b[1:] * scale, small.shape[:2]) for b in boxes]
        objects = [(*masks[i], int(boxes[i, 0])) for i in chosen if masks[i] is not None]
        objects += clumps(masks, boxes, scale, rng)
        if segmenter is not None:
            real = real_masks(segmenter(image, diameter), boxes, scale)
            objects += [o for o in real if o[2] != RBC or rng.random() < 0.4]
        collector.add_field(lab, small, objects)
    return collector.samples()


def smear_samples(data: Path, *, seed: int, rbc_per_patch: int = 16) -> Samples:
    """Return cells of HS1 and HS2 with the masks that the paper's authors got from SAM ViT-H."""
    rng = np.random.default_rng(seed)
    collector = _Collector()
    kept_back, kept_back_cells = _validation_patches(data)
    scale = RBC_DIAMETER_PX / HS_DIAMETER_PX
    for smear, first_held_out in HELD_OUT_FROM.items():
        for file in sorted((data / "smears" / smear / "images").glob("*.jpg")):
            row, column = (int(v) for v in re.findall(r"_[rc](\d+)", file.stem))
            if column >= first_held_out:
                continue
            masks, labels, _ = read_sam_masks(data / "smears" / smear / "sam_vit_h" / f"{file.stem}.json.gz")
            with Image.open(file) as picture:
                small = normalised(np.asarray(picture.convert("RGB")), scale)
            rbc = [] if (smear, row, column) in kept_back else [i for i, k in enumerate(labels) if k == "RBC"]
            wbc = [i for i, k in enumerate(labels) if k == "WBC" and (smear, row, column, i) not in kept_back_cells]
            chosen = [*rng.permutation(rbc)[:rbc_per_patch], *wbc]
            objects = []
            for i in chosen:
                m = masks[int(i)]
                mask, corner = resampled_mask(m.mask, (m.bbox[0], m.bbox[1]), scale)
                objects.append((mask, corner, WBC if labels[int(i)] == "WBC" else RBC))
            if objects:
                collector.add_field(smear, small, objects)
    return collector.samples()


def cutout_samples(data: Path) -> Samples:
    """Return the paper's training cutouts that come from parts of the smears that training may see."""
    collector = _Collector()
    glass = smear_glass(data)
    for label, name in ((RBC, "RBC"), (WBC, "WBC")):
        for file in sorted((data / "cutouts" / "train" / name).glob("*.png")):
            where = patch_of(file.stem)
            if where is None or where[2] >= HELD_OUT_FROM[where[0]]:
                continue
            with Image.open(file) as picture:
                cutout = np.asarray(picture.convert("RGB"))
            whole = cut_out(
                cutout,
                cutout.any(-1).astype(np.int32),
                [1],
                size=CANVAS_PX,
                scale=RBC_DIAMETER_PX / HS_DIAMETER_PX,
                background_rgb=glass[where[0]],
            )[0]
            mask = whole.any(-1)
            around = np.where(mask[..., None], whole, np.uint8(GLASS_LEVEL))
            collector.add_field("cutouts", around, [(mask, (0, 0), label)])
    samples = collector.samples()
    samples.stains[:] = np.median(samples.stains[samples.labels == RBC], axis=0)
    return samples


def training_samples(data: Path, *, seed: int, segmenter: Segmenter | None = None) -> Samples:
    """Return the samples of all sources."""
    parts = [txl_samples(data, seed=seed, segmenter=segmenter), smear_samples(data, seed=seed), cutout_samples(data)]
    return join(parts)


def sampling_weights(samples: Samples) -> NDArray[np.float64]:
    """Return how often each sample is drawn within its class, (N,): laboratories by the square root of their size.

    HS1, HS2 and the paper's cutouts, of which there are few WBC, are together `SMEAR_SHARE` of each class they have.
    """
    weights = np.zeros(len(samples))
    of_smears = np.isin(samples.origins, ["HS1", "HS2", "cutouts"])
    for label in np.unique(samples.labels):
        mine = samples.labels == label
        groups = {o: mine & (samples.origins == o) for o in np.unique(samples.origins[mine & ~of_smears])}
        for group in groups.values():
            weights[group] = 1 / np.sqrt(group.sum())
        others = weights[mine].sum() if groups else 1.0
        for origin in np.unique(samples.origins[mine & of_smears]):
            group = mine & (samples.origins == origin)
            weights[group] = 1 / np.sqrt(group.sum())
        smears = mine & of_smears
        if smears.any():
            weights[smears] *= others * SMEAR_SHARE / (1 - SMEAR_SHARE) / weights[smears].sum()
        weights[mine] /= weights[mine].sum()
    return weights


def join(parts: list[Samples]) -> Samples:
    """Return all samples together."""
    return Samples(*(np.concatenate([getattr(p, k) for p in parts]) for k in ("rgba", "labels", "stains", "origins")))


def evaluation_sets(
    data: Path, *, only: str | None = None, segmenter: Segmenter | None = None, scale: float = 1.0
) -> dict[str, LabelledCutouts]:
    """Return what the classifier is measured on, as it sees cells in use; none of it is trained on.

    Each TXL-PBC laboratory's val part (`only` one of them, if given), cutouts/val, and the hand-checked patches of
    HS2's held-out columns. `scale` is an error of the scale estimate to simulate.
    """
    sets: dict[str, list[LabelledCutouts]] = {}
    for lab, image, boxes, diameter in txl_fields(data, "val", only=only):
        factor = RBC_DIAMETER_PX * scale / diameter
        glass = background_colour(image)
        masks = [ellipse(b[1:], image.shape[:2]) for b in boxes]
        found = [(m, int(b[0])) for m, b in zip(masks, boxes, strict=True) if m is not None]
        sets.setdefault(f"TXL val {lab}", []).append(
            _labelled(image, [(m, c, k) for (m, c), k in found], factor, glass)
        )
        if segmenter is not None:
            real = real_masks(segmenter(image, diameter), boxes, 1.0)
            if real:
                sets.setdefault(f"TXL val {lab}, own masks", []).append(_labelled(image, real, factor, glass))
    if only is None:
        sets["cutouts val"] = [_scaled_cutouts(data, scale)]
        sets["HS2 columns 12-14, checked patches"] = list(_checked_patches(data, scale))
    return {name: concatenate(parts) for name, parts in sets.items()}


def laboratory_cells(data: Path, part: str, lab: str) -> LabelledCutouts:
    """Return the whole cells of a laboratory of TXL-PBC, as the classifier sees them.

    Cells cut by the image's edge are left out, and red cells whose box shares much with that of a white one: the
    ellipse in such a box is not the cell. Each is named by its field.
    """
    cut: list[LabelledCutouts] = []
    for number, (_, image, boxes, diameter) in enumerate(txl_fields(data, part, only=lab)):
        height, width = image.shape[:2]
        white = boxes[boxes[:, 0] == WBC, 1:]
        whole = [
            box
            for box in boxes
            if min(box[1], box[2], height - box[3], width - box[4]) > 1
            and (box[0] != RBC or all(box_iou(box[1:], w) < 0.02 for w in white))
        ]
        masks = [(ellipse(box[1:], image.shape[:2]), int(box[0])) for box in whole]
        objects = [(*mask, kind) for mask, kind in masks if mask is not None]
        if objects:
            labelled = _labelled(image, objects, RBC_DIAMETER_PX / diameter, background_colour(image))
            cut.append(replace(labelled, names=tuple(f"{lab} {part} {number}" for _ in objects)))
    return concatenate(cut)


def patch_of(stem: str) -> tuple[str, int, int, int] | None:
    """Return (smear, row, column, mask) of a cutout's name; None for the authors' augmented copies."""
    found = re.fullmatch(r"(HS2_)?(\d+)_(\d+)_(\d+)", stem)
    return None if found is None else ("HS2" if found[1] else "HS1", int(found[2]), int(found[3]), int(found[4]))


def smear_glass(data: Path) -> dict[str, NDArray[np.float64]]:
    """Return the colour of the glass of HS1 and HS2: the median over some patches."""
    glass = {}
    for smear in HELD_OUT_FROM:
        files = sorted((data / "smears" / smear / "images").glob("*.jpg"))[::17]
        glass[smear] = np.median([background_colour(np.asarray(Image.open(f).convert("RGB"))) for f in files], axis=0)
    return glass


def _validation_patches(data: Path) -> tuple[set[tuple[str, int, int]], set[tuple[str, int, int, int]]]:
    """Return the patches, and the cells, that cutouts/val was taken from."""
    cells = {patch_of(f.stem) for f in (data / "cutouts" / "val").rglob("*.png")}
    known = {c for c in cells if c is not None}
    return {c[:3] for c in known}, known


def _scaled_cutouts(data: Path, scale: float) -> LabelledCutouts:
    """Return cutouts/val as the embedded classifier sees them."""
    glass, factor = smear_glass(data), RBC_DIAMETER_PX / HS_DIAMETER_PX * scale
    pictures: dict[str, list[tuple[NDArray[np.uint8], int]]] = {}
    for label, name in ((RBC, "RBC"), (WBC, "WBC")):
        for file in sorted((data / "cutouts" / "val" / name).glob("*.png")):
            where = patch_of(file.stem)
            picture = np.asarray(Image.open(file).convert("RGB"))
            pictures.setdefault(where[0] if where else "HS1", []).append((picture, label))
    parts = []
    for smear, cells in pictures.items():
        red = np.median([np.median(c[c.any(-1)], axis=0) for c, label in cells if label == RBC], axis=0)
        typical = (float(red[0]), float(red[1]), float(red[2]))
        parts += [_labelled(c, [(c.any(-1), (0, 0), label)], factor, glass[smear], typical) for c, label in cells]
    return concatenate(parts)


def _checked_patches(data: Path, scale: float) -> Iterator[LabelledCutouts]:
    """Yield the labelled cells of HS2's held-out columns where the authors checked the labels."""
    for file in sorted((data / "smears" / "HS2" / "images").glob("*.jpg")):
        if int(file.stem[-2:]) < HELD_OUT_FROM["HS2"]:
            continue
        masks, labels, checked = read_sam_masks(data / "smears" / "HS2" / "sam_vit_h" / f"{file.stem}.json.gz")
        if not checked:
            continue
        image = np.asarray(Image.open(file).convert("RGB"))
        kinds = {"RBC": RBC, "WBC": WBC}
        objects = [(m.mask, (m.bbox[0], m.bbox[1]), kinds[k]) for m, k in zip(masks, labels, strict=True) if k in kinds]
        yield _labelled(image, objects, RBC_DIAMETER_PX / HS_DIAMETER_PX * scale, background_colour(image))


def _labelled(
    image: NDArray[np.uint8],
    objects: list[Any],
    scale: float,
    glass: NDArray[np.float64],
    red: tuple[float, float, float] | None = None,
) -> LabelledCutouts:
    """Cut objects (mask, corner, class), which may overlap, as the program does; `red` is measured where not given."""
    if red is None:
        boxes = np.array([(y, x, y + m.shape[0], x + m.shape[1]) for m, (y, x), k in objects if k == RBC])
        red = colour_in_boxes(image, boxes) if len(boxes) >= FEWEST_MEASURED else None
    cutouts = np.zeros((len(objects), 128, 128, 3), np.uint8)
    for i, (mask, (y, x), _) in enumerate(objects):
        crop = image[y : y + mask.shape[0], x : x + mask.shape[1]]
        colours: dict[str, Any] = {"background_rgb": glass, "red_rgb": red, "red_level": RED_LEVEL}
        cutouts[i] = cut_out(crop, mask.astype(np.int32), [1], scale=scale, **colours)[0]
    labels = np.array([o[2] for o in objects], np.int64)
    return LabelledCutouts(cutouts, labels, CLASSES, RBC_DIAMETER_PX, GLASS_LEVEL, red_level=RED_LEVEL)


def paper_parts(data: Path) -> tuple[LabelledCutouts, LabelledCutouts]:
    """Return the paper's cutouts: train without the authors' copies, and val."""
    return read_cutouts(data / "cutouts" / "train"), read_cutouts(data / "cutouts" / "val")
