"""Verdicts on places beside those of the eye: ``python -m benchmarks.quality [DATA]``, half an hour on two cores.

``quality_labels.csv`` holds 420 tiles of nine sets that were judged by eye before any program had seen them; `also`
names verdicts that would do as well. Limits were set on the tiles of odd numbers; the figures are those of the even
ones. Then what blur (0.08 red cells' widths), JPEG of quality 70 and half and twice the size do to the verdicts of
tiles that the eye found sharp, and the time that judging takes, in processor time beside that of the whole analysis.
Which processor and precision: the first line.
"""

from __future__ import annotations

import io
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

import napari_bloodcell as nb
from benchmarks.speed import machine
from napari_bloodcell.images.open import read_plane
from napari_bloodcell.models.load import load_models
from napari_bloodcell.stages.quality.measures import Grid, measure_part
from napari_bloodcell.stages.quality.verdicts import GOOD, VERDICTS, Quality, judge

if TYPE_CHECKING:
    from numpy.typing import NDArray

LABELS = Path(__file__).with_name("quality_labels.csv")
BOX = ["y0", "x0", "y1", "x1"]
BLUR = 0.08
"""Standard deviation of blurred copies, red cells' widths."""


def judged(image: NDArray[np.uint8], result: nb.Result, scale: float = 1.0) -> Quality:
    """Return the quality of a picture that shows the cells of a result at another scale."""
    seen = replace(result.calibration, rbc_diameter_px=result.calibration.rbc_diameter_px * scale)
    cells = np.asarray(result.cells)
    if scale != 1:
        cells = np.asarray(Image.fromarray(cells).resize(image.shape[1::-1], Image.Resampling.NEAREST)).astype(np.int32)
    table = result.table.copy()
    table["area_px"] *= scale**2
    table[["centroid_y", "centroid_x"]] *= scale
    grid, (height, width) = Grid.of(cells.shape, seen), cells.shape
    return judge(measure_part(image, cells, (0, 0), (0, 0, height, width), grid, seen), table, grid, seen)


def verdict_in(quality: Quality, box: NDArray[np.float64], scale: float = 1.0) -> str:
    """Return the verdict of the tile that shares most with a box (y0, x0, y1, x1)."""
    tiles, box = quality.tiles[BOX].to_numpy(float), box * scale
    shared = np.minimum(tiles[:, 2:], box[2:]) - np.maximum(tiles[:, :2], box[:2])
    return str(quality.tiles["verdict"].iloc[int(np.maximum(shared, 0).prod(1).argmax())])


def changed(image: NDArray[np.uint8], width: float) -> dict[str, tuple[NDArray[np.uint8], float]]:
    """Return pictures of the same place, with their scales."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=70)
    sizes = {name: (round(image.shape[1] * s), round(image.shape[0] * s)) for name, s in (("half", 0.5), ("twice", 2))}
    resized = {
        name: np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)) for name, size in sizes.items()
    }
    return {
        "blurred": (ndimage.gaussian_filter(image, (BLUR * width, BLUR * width, 0)), 1.0),
        "JPEG 70": (np.asarray(Image.open(file)), 1.0),
        "half": (resized["half"], 0.5),
        "twice": (resized["twice"], 2.0),
    }


def compared(data: Path) -> pd.DataFrame:
    """Return the labels with the program's verdicts on each tile and its changed copies, and the seconds taken."""
    rows, found = [], pd.read_csv(LABELS, keep_default_na=False)
    recipe = nb.Recipe(count=nb.CountParams(quality="off"))
    generator, classifier = load_models(recipe)
    for file, own in found.groupby("file", sort=False):
        plane = read_plane(data / str(file))
        start = time.process_time()
        result = nb.analyse(plane, recipe=recipe, generator=generator, classifier=classifier)
        middle = time.process_time()
        quality = judged(plane.data, result)
        seconds = {"analysis_s": middle - start, "judging_s": time.process_time() - middle}
        others = {
            name: (judged(image, result, scale), scale)
            for name, (image, scale) in changed(plane.data, result.calibration.rbc_diameter_px).items()
        }
        for _, label in own.iterrows():
            box = label[BOX].to_numpy(float)
            told: dict[str, Any] = {name: verdict_in(q, box, scale) for name, (q, scale) in others.items()}
            rows.append({**label, "told": verdict_in(quality, box), **told, **seconds})
    return pd.DataFrame(rows)


def balanced(is_so: pd.Series[bool], said: pd.Series[bool]) -> float:
    """Return the balanced accuracy; NaN where one side is empty."""
    return float((said[is_so].mean() + (~said[~is_so]).mean()) / 2)


def main() -> None:
    """Print the tables."""
    data = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data")
    print(machine())
    found = compared(data)
    for name, part in (
        ("odd (limits)", found[found["number"] % 2 == 1]),
        ("even (figure)", found[found["number"] % 2 == 0]),
    ):
        clear = part[
            ~((part["verdict"] != GOOD) & part["also"].str.contains(GOOD))
            & ~((part["verdict"] == GOOD) & (part["also"] != ""))
        ]
        for which, some in (("all", part), ("clear", clear)):
            accuracy = balanced(some["verdict"] == GOOD, some["told"] == GOOD)
            print(f"| {name}, {which} | {len(some)} tiles | good or not, balanced accuracy {accuracy:.3f} |")
        for verdict in VERDICTS:
            is_so = part["verdict"] == verdict
            said = part["told"] == verdict
            may = part["also"].str.split(" or ").map(lambda names, v=verdict: v in names) & ~is_so
            if is_so.any():
                print(f"| {name}, {verdict} | {int(is_so.sum())} | {balanced(is_so[~may], said[~may]):.3f} |")
        print(pd.crosstab(part["verdict"], part["told"]))
    sharp = found[~(found["verdict"] + found["also"]).str.contains("blurred")]
    for name in ("blurred", "JPEG 70", "half", "twice"):
        same = (sharp[name] == sharp["told"]).mean()
        print(f"| {name} | good {(sharp[name] == GOOD).mean():.1%} | the verdict of the picture itself {same:.1%} |")
    clean = sharp[(sharp["verdict"] == GOOD) & (sharp["also"] == "")]
    print((clean["told"] == GOOD).groupby(clean["set"]).agg(["size", "mean"]).round(3))
    once = found.drop_duplicates("file")
    print(
        f"| judging | {(once['judging_s'] / once['analysis_s']).median():.1%} of the analysis, median of {len(once)} |"
    )


if __name__ == "__main__":
    main()
