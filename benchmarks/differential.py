"""The differential from end to end: ``python -m benchmarks.differential [DATA]``, about seven minutes on two cores.

TXL-PBC val: fields of two laboratories whose central white cell has a known kind; no field of it was trained on. Then
67 cells of two other laboratories, in ``differential_elsewhere.csv``: whole white cells of every third field of 640×480
and 416×416 px, whose kind was told by eye, before any answer of the program was seen; 14 more were left out because the
eye was not sure. Their kinds were in no training of the differential. A cell must be found, typed WBC, and given its
kind. Rows are the truth, columns what was told. Which processor and precision: the first line.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

import napari_bloodcell as nb
from benchmarks.speed import machine
from napari_bloodcell.core.cells import boxes_of
from napari_bloodcell.learning.dataset import read_picture
from training.cnn_data import WBC, txl_fields
from training.cnn_masks import box_iou

KINDS = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")
NOT_FOUND, NOT_WHITE = "not found", "not typed WBC"


def told_at(image: np.ndarray, box: np.ndarray) -> str:
    """Return the kind that the program tells of the white cell in a box (y0, x0, y1, x1) of an image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", nb.ResultWarning)
        table = nb.analyse(image).table
    shared = [box_iou(box, other) for other in boxes_of(table).astype(float)]
    if not shared or max(shared) < 0.3:
        return NOT_FOUND
    row = table.iloc[int(np.argmax(shared))]
    return str(row["subtype"]) if row["cell_type"] == "WBC" else NOT_WHITE


def told(data: Path, name: str) -> str | None:
    """Return the kind that the program tells of the white cell in the middle of a field; None where it has no box."""
    part, file = name.split("/")
    for _, image, boxes, _ in txl_fields(data, part, file=file):
        white = boxes[boxes[:, 0] == WBC, 1:]
        if not len(white):
            continue
        middle = (white[:, :2] + white[:, 2:]) / 2
        return told_at(image, white[np.hypot(*(middle - np.array(image.shape[:2]) / 2).T).argmin()])
    return None


def print_table(confusion: Counter[tuple[str, str]]) -> None:
    """Print a row for each true kind, and how many are right."""
    columns = [*KINDS, *sorted({answer for _, answer in confusion} - set(KINDS))]
    print("| truth | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
    for kind in KINDS:
        if any(truth == kind for truth, _ in confusion):
            print(f"| {kind} | " + " | ".join(str(confusion[kind, column]) for column in columns) + " |")
    right, total = sum(confusion[kind, kind] for kind in KINDS), sum(confusion.values())
    print(f"\n{right} of {total} right ({right / total:.1%})")


def main() -> None:
    """Print the table."""
    data = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data")
    print(machine())
    known = pd.read_csv(data / "txl_pbc" / "wbc_types.csv")
    known = known[known["image"].str.startswith("val/")]
    answers: dict[str, Counter[str]] = {source: Counter() for source in sorted(set(known["source"]))}
    confusion: Counter[tuple[str, str]] = Counter()
    for name, kind, source in zip(known["image"], known["class"], known["source"], strict=True):
        if (answer := told(data, name)) is not None:
            confusion[kind, answer] += 1
            answers[source]["right" if answer == kind else "wrong"] += 1
    print_table(confusion)
    for source, found in answers.items():
        print(f"{source}: {found['right']} of {found.total()} ({found['right'] / max(found.total(), 1):.1%})")
    print("\nElsewhere")
    cells = pd.read_csv(Path(__file__).with_name("differential_elsewhere.csv"))
    elsewhere: Counter[tuple[str, str]] = Counter()
    for name, kind, box in zip(cells["image"], cells["kind"], boxes_of(cells).astype(float), strict=True):
        elsewhere[kind, told_at(read_picture(data / "txl_pbc" / name), box)] += 1
    print_table(elsewhere)


if __name__ == "__main__":
    main()
