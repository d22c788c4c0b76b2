"""Accuracy on fields that no training saw: `python -m benchmarks.accuracy ../shared/data`.

Prints one Markdown table. `--sam` and `--cnn` measure other weights, such as those trained without a laboratory;
`--laboratory 575x575` restricts TXL-PBC to one. `--rule` counts red cells by another rule.
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.stats import beta

import napari_bloodcell as nb
from benchmarks.matching import box_iou, f1, label_iou, n_matched
from napari_bloodcell.core.cells import boxes_of as _boxes_of
from napari_bloodcell.models.load import load_classifier
from napari_bloodcell.stages.cutouts import cut_out
from napari_bloodcell.stages.masks import filter_masks, paint
from training.cnn_data import patch_of, smear_glass
from training.sam_data import HS_DIAMETER_PX, laboratory_of, read_boxes, read_sam_masks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

ERRATA = Path(__file__).with_name("label_errata.csv")
"""Boxes of TXL-PBC val labelled WBC that hold red cells (docs/accuracy.md shows them). They count in every figure but
the one that says that it leaves them out."""
WBC_FOUND_IOU = 0.3
"""A white cell is found where a cell typed WBC overlaps its box by at least this."""


@dataclass
class Tally:
    """Sums over the images of a set."""

    matched: dict[str, int] = field(default_factory=dict)
    found: dict[str, int] = field(default_factory=dict)
    true: dict[str, int] = field(default_factory=dict)
    wbc_hits: int = 0
    wrong_wbc_labels: int = 0
    counts: list[tuple[int, int]] = field(default_factory=list)

    def add(self, kind: str, matched: int, found: int, true: int) -> None:
        """Add an image's cells of a type."""
        for store, n in ((self.matched, matched), (self.found, found), (self.true, true)):
            store[kind] = store.get(kind, 0) + n

    def f1(self, kind: str) -> float:
        """F1 of a type."""
        return f1(self.matched.get(kind, 0), self.found.get(kind, 0), self.true.get(kind, 0))

    def count_ratio(self) -> float:
        """Red cells counted, by those that are there, over all images."""
        counts = np.array(self.counts)
        return float(counts[:, 0].sum() / counts[:, 1].sum())

    def image_error(self) -> float:
        """Mean over the images of the relative error of the count."""
        counts = np.array([c for c in self.counts if c[1]])
        return float(np.mean(np.abs(counts[:, 0] - counts[:, 1]) / counts[:, 1]))

    def bland_altman(self) -> tuple[float, float, float]:
        """Return bias and limits of agreement, red cells per image."""
        difference = np.diff(np.array(self.counts), axis=1)[:, 0] * -1.0
        spread = 1.96 * difference.std(ddof=1)
        return float(difference.mean()), float(difference.mean() - spread), float(difference.mean() + spread)


def interval(hits: int, n: int) -> str:
    """Exact (Clopper-Pearson) 95 % interval of a proportion, in percent."""
    low = beta.ppf(0.025, hits, n - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, n - hits) if hits < n else 1.0
    return f"{100 * low:.1f}-{100 * high:.1f} %"


def boxes_of(result: nb.SmearResult, kind: str) -> NDArray[np.float64]:
    """Boxes (N, 4) of the cells of a type."""
    return _boxes_of(result.table[result.table["cell_type"] == kind]).astype(float)


def wrong_wbc_labels(name: str, boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether boxes (N, 4) as (y0, x0, y1, x1) of a field are among the errata, (N,)."""
    with ERRATA.open(encoding="utf-8", newline="") as file:
        wrong = [
            [float(row[k]) for k in ("y0", "x0", "y1", "x1")] for row in csv.DictReader(file) if row["field"] == name
        ]
    if not wrong or not len(boxes):
        return np.zeros(len(boxes), bool)
    return np.asarray(box_iou(boxes, np.array(wrong)).max(1) > 0.9)


def boxed_fields(data: Path, recipe: nb.Recipe) -> dict[str, Tally]:
    """TXL-PBC val per laboratory: boxes, counts and white cells."""
    tallies: dict[str, Tally] = {}
    for path in sorted((data / "txl_pbc/images/val").glob("*")):
        with Image.open(path) as pil:
            size = pil.size
        truth = read_boxes(data / "txl_pbc/labels/val" / f"{path.stem}.txt", *size)
        result = nb.analyse(path, recipe=recipe)
        for key in (laboratory_of(size), "all"):
            tally = tallies.setdefault(key, Tally())
            for code, kind in enumerate(("WBC", "RBC", "platelet")):
                true = truth[truth[:, 0] == code][:, [2, 1, 4, 3]]
                found = boxes_of(result, kind)
                tally.add(kind, n_matched(box_iou(found, true)), len(found), len(true))
                if kind == "WBC":
                    tally.wbc_hits += n_matched(box_iou(found, true), WBC_FOUND_IOU)
                    wrong = wrong_wbc_labels(path.stem, true)
                    missed = box_iou(found, true[wrong]).max(0, initial=0.0) < WBC_FOUND_IOU
                    tally.wrong_wbc_labels += int(missed.sum())
            tally.counts.append((result.counts["RBC"], int((truth[:, 0] == 1).sum())))
    return tallies


def cleaned_reference(path: Path, shape: tuple[int, int]) -> tuple[NDArray[np.int32], list[tuple[int, ...]]]:
    """SAM ViT-H's masks of a patch as whole cells (platelets left out), and the boxes of the authors' WBC."""
    raw, labels, _ = read_sam_masks(path)
    wbc = [m.bbox for m, label in zip(raw, labels, strict=True) if label == "WBC"]
    typical = np.pi / 4 * HS_DIAMETER_PX**2
    cells = []
    for m in filter_masks(raw, rbc_diameter_px=HS_DIAMETER_PX):
        on_edge = m.bbox[0] <= 1 or m.bbox[1] <= 1 or m.bbox[2] >= shape[0] - 1 or m.bbox[3] >= shape[1] - 1
        if m.area > 0.25 * typical or on_edge:
            cells.append(m)
    return paint(cells, shape)[0], wbc


def smear_patches(data: Path, smear: str, columns: range, recipe: nb.Recipe) -> Tally:
    """Patches of HS1 or HS2 against cleaned SAM ViT-H."""
    tally = Tally()
    for path in sorted((data / f"smears/{smear}/images").glob("*.jpg")):
        if int(path.stem[-2:]) not in columns:
            continue
        result = nb.analyse(path, recipe=recipe)
        truth, wbc = cleaned_reference(data / f"smears/{smear}/sam_vit_h/{path.stem}.json.gz", result.cells.shape)
        kept = result.table["cell_type"] != "platelet"
        found = np.where(np.isin(result.cells, result.table.index[kept]), result.cells, 0)
        n_true, n_found = len(np.unique(truth)) - 1, int(kept.sum())
        tally.add("cell", n_matched(label_iou(found, truth)), n_found, n_true)
        n_wbc = 0
        for y0, x0, y1, x1 in wbc:
            code = result.types[(y0 + y1) // 2, (x0 + x1) // 2]
            n_wbc += int(code == 2)
        tally.wbc_hits += n_wbc
        tally.add("WBC", n_wbc, result.counts["WBC"], len(wbc))
        tally.counts.append((result.counts["RBC"], n_true - len(wbc)))
    return tally


def pointed_cells(data: Path, recipe: nb.Recipe) -> tuple[int, int]:
    """Chula: labelled RBC that lie in an RBC of their own, of all that are labelled."""
    own = total = 0
    for path in sorted((data / "chula/images").glob("*.jpg")):
        lines = (data / f"chula/points/{path.stem}.txt").read_text().split()
        points = np.array(lines, float).reshape(-1, 3).astype(int)
        result = nb.analyse(path, recipe=recipe)
        height, width = result.cells.shape
        y, x = points[:, 1].clip(0, height - 1), points[:, 0].clip(0, width - 1)
        ids = result.cells[y, x][result.types[y, x] == 1]
        own, total = own + len(np.unique(ids)), total + len(points)
    return own, total


def cutouts_accuracy(data: Path, recipe: nb.Recipe) -> dict[str, tuple[int, int]]:
    """Type the paper's own cutouts (val), cut again as the classifier wants them: right and all, per class."""
    classifier = load_classifier(recipe.classify.model, recipe.classify.device)
    scale = 1.0 if classifier.rbc_diameter_px is None else classifier.rbc_diameter_px / HS_DIAMETER_PX
    glass = smear_glass(data) if classifier.glass_level is not None else {}
    red = {smear: _typical_red(data, smear) for smear in glass}
    hits = {}
    for kind in ("RBC", "WBC"):
        cutouts = []
        for path in sorted((data / "cutouts/val" / kind).glob("*.png")):
            picture = np.asarray(Image.open(path).convert("RGB"))
            where = patch_of(path.stem)
            smear = where[0] if where else "HS1"
            colours = {"background_rgb": glass.get(smear), "red_rgb": red.get(smear), "red_level": classifier.red_level}
            cutouts.append(cut_out(picture, picture.any(-1).astype(np.int32), [1], scale=scale, **colours)[0])
        names = np.array(classifier.classes)[classifier.predict(np.stack(cutouts)).argmax(1)]
        hits[kind] = (int((names == kind).sum()), len(names))
    return hits


def _typical_red(data: Path, smear: str) -> tuple[float, float, float]:
    """Return the colour of a typical red cell among the paper's cutouts of a smear."""
    files = [path for path in (data / "cutouts/val/RBC").glob("*.png") if (patch_of(path.stem) or ("HS1",))[0] == smear]
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in files]
    red, green, blue = np.median([np.median(p[p.any(-1)], axis=0) for p in pictures], axis=0).tolist()
    return red, green, blue


def rows(data: Path, recipe: nb.Recipe, only: set[str]) -> Iterator[tuple[str, str, str]]:
    """(set, measure, value) one by one."""
    for smear, columns in (("HS2", range(12, 15)), ("HS1", range(17, 20))):
        if smear not in only:
            continue
        t = smear_patches(data, smear, columns, recipe)
        name = f"{smear}, columns {columns[0]}-{columns[-1]}"
        yield name, "F1 of whole cells at IoU 0.5", f"{t.f1('cell'):.3f}"
        yield name, "RBC count / cleaned masks", f"{100 * t.count_ratio():.1f} %"
        yield name, "WBC found", f"{t.wbc_hits} of {t.true['WBC']} (typed WBC: {t.found['WBC']})"
    if "TXL-PBC" in only:
        for laboratory, t in sorted(boxed_fields(data, recipe).items()):
            name = f"TXL-PBC val, {laboratory}"
            yield (
                name,
                "F1 of boxes at IoU 0.5: RBC, WBC, platelet",
                ", ".join(f"{t.f1(k):.3f}" for k in ("RBC", "WBC", "platelet")),
            )
            bias, low, high = t.bland_altman()
            yield (
                name,
                "RBC count / boxes; mean error per image",
                f"{100 * t.count_ratio():.1f} %; {100 * t.image_error():.1f} %",
            )
            yield name, "RBC per image, Bland-Altman bias (limits)", f"{bias:+.2f} ({low:+.1f} to {high:+.1f})"
            hits, n = t.wbc_hits, t.true["WBC"]
            share = f"{hits} of {n}, {100 * hits / n:.1f} % ({interval(hits, n)})"
            yield name, "WBC found", f"{share}; typed WBC: {t.found['WBC']}"
            if t.wrong_wbc_labels:
                n -= t.wrong_wbc_labels
                share = f"{hits} of {n}, {100 * hits / n:.1f} % ({interval(hits, n)})"
                yield name, f"the same without {t.wrong_wbc_labels} boxes that hold red cells", share
    if "Chula" in only:
        own, total = pointed_cells(data, recipe)
        yield (
            "Chula (laboratory never seen)",
            "labelled RBC in a cell of their own",
            f"{100 * own / total:.1f} % of {total}",
        )
    if "cutouts" in only:
        hits = cutouts_accuracy(data, recipe)
        right, n = sum(h for h, _ in hits.values()), sum(m for _, m in hits.values())
        yield "cutouts val", "type accuracy; WBC", f"{100 * right / n:.2f} %; {hits['WBC'][0]} of {hits['WBC'][1]}"


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sam", default="embedded")
    parser.add_argument("--cnn", default="embedded")
    parser.add_argument("--rule", default="robust")
    parser.add_argument("--only", nargs="*", default=["HS2", "HS1", "TXL-PBC", "Chula", "cutouts"])
    parser.add_argument("--laboratory", help="print only this one of TXL-PBC")
    args = parser.parse_args(arguments)
    recipe = nb.Recipe(
        segment=nb.SegmentParams(model=args.sam),
        classify=nb.ClassifyParams(model=args.cnn),
        count=nb.CountParams(rule=args.rule),
    )
    out = sys.stdout
    out.write("| on | measure | value |\n|---|---|---|\n")
    for row in rows(args.data, recipe, set(args.only)):
        if args.laboratory is None or args.laboratory in row[0]:
            out.write("| " + " | ".join(row) + " |\n")
            out.flush()


if __name__ == "__main__":
    main()
