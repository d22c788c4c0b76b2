"""What stain and light do to types: ``python -m benchmarks.stains [DATA]``, about half an hour on two cores.

Malaria smears in many stains, on which nothing was trained: red cells, infected ones too, in a cell of their own, and
how many of them are typed WBC, all together and in the worst field of 20 cells or more. TXL-PBC val in stains that are
made of it: optical densities mixed by a matrix. Which processor and precision: the first line.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import napari_bloodcell as nb
from benchmarks.speed import machine
from napari_bloodcell.core.cells import boxes_of
from napari_bloodcell.stages.calibration import background_colour
from training.cnn_data import RBC, WBC, txl_fields
from training.cnn_masks import box_iou
from training.malaria import bbbc_fields, iml_fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    Field = tuple[str, NDArray[np.uint8], NDArray[np.float64]]

STAINS: dict[str, list[list[float]]] = {
    "as it is": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "purple": [[2.2, 0.6, 0], [0, 1.6, 0], [0, 0.2, 1.0]],
    "blue": [[3.0, 0.5, 0], [0.4, 1.2, 0], [0, 0, 0.6]],
    "green-grey": [[2.0, 0.3, 0], [0, 0.8, 0], [0, 0.3, 1.2]],
    "pale": [[0.45, 0, 0], [0, 0.45, 0], [0, 0, 0.45]],
    "over-stained": [[2.2, 0, 0], [0, 2.2, 0], [0, 0, 2.2]],
    "orange": [[0.4, 0, 0], [0, 1.2, 0], [0, 0, 2.0]],
    "grey": [[0.2, 0.6, 0.2], [0.2, 0.6, 0.2], [0.2, 0.6, 0.2]],
}
"""Optical density of R, G, B that each channel gets of those of R, G, B."""


def stained(image: NDArray[np.uint8], matrix: list[list[float]]) -> NDArray[np.uint8]:
    """Return an image (Y, X, 3) in another stain; the glass keeps its colour."""
    glass = background_colour(image)
    density = -np.log(np.clip(image / glass, 1 / 255, 1.1)) @ np.array(matrix, float).T
    return np.clip(np.rint(glass * np.exp(-density)), 0, 255).astype(np.uint8)


def txl_val(matrix: list[list[float]], every: int = 4) -> Iterator[Field]:
    """Yield every fourth field of TXL-PBC val in another stain."""
    for number, (lab, image, boxes, _) in enumerate(txl_fields(DATA, "val")):
        if number % every == 0:
            yield f"{lab} {number}", stained(image, matrix), boxes


def row(name: str, fields: Iterable[Field]) -> str:
    """Return a line of the table."""
    red = found = wrong = white = right = 0
    worst = 0.0
    for _, image, boxes in fields:
        result = nb.analyse(image)
        table = result.table
        its = [_of(box, boxes) for box in boxes_of(table).astype(float)]
        types = table["cell_type"].to_numpy(str)
        here = np.array([k == RBC for k in its], bool)
        called_white = int((types[here] == "WBC").sum())
        red, found, wrong = red + int((boxes[:, 0] == RBC).sum()), found + int(here.sum()), wrong + called_white
        worst = max(worst, called_white / here.sum() if here.sum() >= 20 else 0.0)
        there = np.array([k == WBC for k in its], bool)
        white, right = white + int((boxes[:, 0] == WBC).sum()), right + int((types[there] == "WBC").sum())
    share = wrong / max(found, 1)
    told = f"| {name} | {found:,} of {red:,} | {wrong} ({share:.2%}) | {worst:.1%} "
    return told + (f"| {right} of {white} |" if white else "| |")


def _of(box: NDArray[np.float64], boxes: NDArray[np.float64]) -> int | None:
    """Return the class of the labelled box with which a cell shares an IoU of 0.4, or None."""
    shared = [box_iou(box, other) for other in boxes[:, 1:]]
    return int(boxes[int(np.argmax(shared)), 0]) if shared and max(shared) >= 0.4 else None


def main() -> None:
    """Print the table."""
    print(machine())
    print("| set | red cells found | typed WBC | in the worst field | white cells typed WBC |\n|---|---|---|---|---|")
    print(row("iml_malaria, every fourth field", (f for i, f in enumerate(iml_fields(DATA)) if i % 4 == 0)), flush=True)
    print(row("bbbc041", bbbc_fields(DATA)), flush=True)
    for name, matrix in STAINS.items():
        print(row(f"TXL-PBC val, {name}", txl_val(matrix)), flush=True)


DATA = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data")


if __name__ == "__main__":
    main()
