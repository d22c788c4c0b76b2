"""Infected red cells from end to end: ``python -m benchmarks.parasites [DATA]``, about three minutes on two cores.

The fields that `training.parasites_data` holds out: a slide block of iml_malaria, one field in four of bbbc041. A
labelled cell must be found, typed RBC, and called infected or not. Which processor and precision: the first line.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

import napari_bloodcell as nb
from benchmarks.speed import machine
from training.parasites_data import fields

ANSWERS = ("infected", "healthy", "not RBC", "not found")


def main() -> None:
    """Print the table: rows are what the label says, columns what was told."""
    data = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data")
    print(machine())
    recipe = nb.Recipe(classify=nb.ClassifyParams(subtypes=("parasites",)))
    told: dict[tuple[str, str], Counter[str]] = {}
    for origin, _, is_val, image, _, _, cells in fields(data):
        if not is_val:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", nb.ResultWarning)
            result = nb.analyse(image, recipe=recipe)
        for y, x, label in cells:
            cell = int(np.asarray(result.cells)[int(y), int(x)])
            row = result.table.loc[cell] if cell else None
            if row is None:
                answer = "not found"
            elif row["cell_type"] != "RBC":
                answer = "not RBC"
            else:
                answer = "infected" if row["subtype"] == "infected" else "healthy"
            told.setdefault((origin, ("healthy", "infected")[label]), Counter())[answer] += 1
    print(
        "| field | label | "
        + " | ".join(ANSWERS)
        + " | called infected |\n|---|---"
        + "|---" * (len(ANSWERS) + 1)
        + "|"
    )
    for (origin, label), answers in sorted(told.items()):
        share = answers["infected"] / answers.total()
        print(f"| {origin} | {label} | " + " | ".join(str(answers[a]) for a in ANSWERS) + f" | {share:.2%} |")


if __name__ == "__main__":
    main()
