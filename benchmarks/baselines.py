"""What others' ways give on the same fields: `python -m benchmarks.baselines ../shared/data`.

Prints one Markdown table: Otsu and watershed on the fields of `benchmarks.accuracy`, and the paper's own counting
rule on the masks that its authors got from SAM ViT-H, next to this program's rule on the same masks.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

import napari_bloodcell as nb
from benchmarks.accuracy import cleaned_reference
from benchmarks.classical import classical_cells, measure
from benchmarks.matching import box_iou, f1, label_iou, n_matched
from napari_bloodcell.stages.masks import filter_masks
from training.sam_data import HS_DIAMETER_PX, boxes_diameter, laboratory_of, read_boxes, read_sam_masks

if TYPE_CHECKING:
    from collections.abc import Iterator

Row = tuple[str, str, str]
HELD_OUT = {"HS2": range(12, 15), "HS1": range(17, 20)}


def held_out_patches(data: Path, smear: str) -> list[Path]:
    """Return the patches of a smear that no training saw."""
    return [p for p in sorted((data / f"smears/{smear}/images").glob("*.jpg")) if int(p.stem[-2:]) in HELD_OUT[smear]]


def watershed_on_smear(data: Path, smear: str) -> Row:
    """Cells of the classical way against cleaned SAM ViT-H."""
    matched = found = true = 0
    for path in held_out_patches(data, smear):
        cells = classical_cells(np.asarray(Image.open(path).convert("RGB")), HS_DIAMETER_PX)
        truth, _ = cleaned_reference(data / f"smears/{smear}/sam_vit_h/{path.stem}.json.gz", cells.shape)
        matched += n_matched(label_iou(cells, truth))
        found, true = found + int(cells.max()), true + len(np.unique(truth)) - 1
    columns = HELD_OUT[smear]
    return (
        f"{smear}, columns {columns[0]}-{columns[-1]}",
        "Otsu + watershed, scale given: F1 of whole cells at IoU 0.5; count",
        f"{f1(matched, found, true):.3f}; {100 * found / true:.1f} %",
    )


def watershed_on_boxes(data: Path) -> Iterator[Row]:
    """Cells of the classical way against the boxes of TXL-PBC, all types together: it tells none apart."""
    sums: dict[str, np.ndarray] = {}
    for path in sorted((data / "txl_pbc/images/val").glob("*")):
        picture = Image.open(path).convert("RGB")
        truth = read_boxes(data / "txl_pbc/labels/val" / f"{path.stem}.txt", *picture.size)
        diameter = boxes_diameter(truth, *picture.size)
        if not np.isfinite(diameter):
            continue
        truth = truth[truth[:, 0] != 2][:, [2, 1, 4, 3]]
        boxes = np.array([b for _, b in measure(classical_cells(np.asarray(picture), diameter))], float).reshape(-1, 4)
        numbers = np.array([n_matched(box_iou(boxes, truth)), len(boxes), len(truth)])
        for key in (laboratory_of(picture.size), "all"):
            sums[key] = sums.get(key, np.zeros(3, int)) + numbers
    for key, (matched, found, true) in sorted(sums.items()):
        yield (
            f"TXL-PBC val, {key}",
            "Otsu + watershed, scale given: F1 of boxes (RBC and WBC); count",
            f"{f1(matched, found, true):.3f}; {100 * found / true:.1f} %",
        )


def rules_on_authors_masks(data: Path, smear: str) -> Iterator[Row]:
    """Count the masks that the authors labelled RBC, filtered, by the paper's rule and by ours."""
    areas, edges, n_true = [], [], 0
    for path in held_out_patches(data, smear):
        file = data / f"smears/{smear}/sam_vit_h/{path.stem}.json.gz"
        masks, labels, _ = read_sam_masks(file)
        size = Image.open(path).size[::-1]
        truth, wbc = cleaned_reference(file, size)
        n_true += len(np.unique(truth)) - 1 - len(wbc)
        labelled = [m for m, label in zip(masks, labels, strict=True) if label == "RBC"]
        for m in filter_masks(labelled, rbc_diameter_px=HS_DIAMETER_PX):
            y0, x0, y1, x1 = m.bbox
            areas.append(float(m.area))
            edges.append(y0 <= 0 or x0 <= 0 or y1 >= size[0] or x1 >= size[1])
    table = pd.DataFrame({"cell_type": "RBC", "area_px": areas, "touches_edge": edges})
    for rule in ("none", "paper", "robust"):
        counting = nb.count(table, params=nb.CountParams(rule=rule), rbc_diameter_px=HS_DIAMETER_PX)
        columns = HELD_OUT[smear]
        yield (
            f"{smear}, columns {columns[0]}-{columns[-1]}",
            f'authors\' own SAM masks, rule "{rule}": RBC / cleaned masks',
            f"{100 * counting.counts['RBC'] / n_true:.1f} %",
        )


def rows(data: Path) -> Iterator[Row]:
    """Return the rows one by one."""
    for smear in HELD_OUT:
        yield watershed_on_smear(data, smear)
        yield from rules_on_authors_masks(data, smear)
    yield from watershed_on_boxes(data)


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    args = parser.parse_args(arguments)
    out = sys.stdout
    out.write("| on | measure | value |\n|---|---|---|\n")
    for row in rows(args.data):
        out.write("| " + " | ".join(row) + " |\n")
        out.flush()


if __name__ == "__main__":
    main()
