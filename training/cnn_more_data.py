"""More smears for the embedded classifier: malaria in many stains, and crops around single white cells.

Held out always: `IML_VAL` of iml_malaria, by blocks of one slide each, and the fields of bbbc041 whose stain lies in
`BBBC_VAL`: neighbours in stain mostly come from one slide.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from napari_bloodcell.core.cells import boxes_of
from training.cnn_data import RBC_DIAMETER_PX, Collector
from training.cnn_masks import PLATELET, RBC, WBC, normalised, real_masks, resampled_mask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from training.cnn_data import Samples, Segmenter

WIDTH_PX = 50.0
"""Of a red cell in all three sets."""
IML_VAL = ((1772, 1808), (1903, 1946))
"""First and last number of the slide blocks of iml_malaria that no training sees."""
BBBC_VAL = ((10, 20), (50, 60))
"""Places, in the order of their stains, of the fields of bbbc041 that no training sees."""
RED_CELLS = 25
"""Of a field, at most, beside the infected ones."""
CROPS = 260
"""Of a class of a laboratory, at most."""
_SURE = 0.9
"""Probability from which a proposal beside the labelled cell is taken for what it says."""


def read_image(file: Path) -> NDArray[np.uint8]:
    """Return the pixels (Y, X, 3) of a file."""
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def iml_fields(data: Path, *, val: bool) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.float64]]]:
    """Yield (file, image, boxes) of iml_malaria; boxes (N, 5) are 1 where infected, y0, x0, y1, x1 in pixels."""
    for file, rows in pd.read_csv(data / "iml_malaria" / "boxes.csv").groupby("file"):
        number = int(re.findall(r"\d{4}(?=\.)", str(file))[0])
        if any(first <= number <= last for first, last in IML_VAL) is not val:
            continue
        infected = (rows["class"] != "red blood cell").to_numpy(float)
        boxes = np.stack([infected, rows["y"], rows["x"], rows["y"] + rows["h"], rows["x"] + rows["w"]], 1)
        yield str(file), read_image(data / "iml_malaria" / str(file)), boxes.astype(float)


def bbbc_fields(data: Path, *, val: bool) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.int32], pd.DataFrame]]:
    """Yield (name, image, instance ids, classes by id) of bbbc041."""
    folder = data / "bbbc041"
    table = pd.read_csv(folder / "cells.csv")
    fields = {str(name): rows.set_index("id")["class"] for name, rows in table.groupby("image")}
    stains = {}
    for name in fields:
        image, ids = _bbbc(folder, name)
        inside, glass = np.median(image[ids > 0], axis=0), np.median(image[ids == 0], axis=0)
        density = -np.log(np.clip(inside / np.maximum(glass, 1), 0.02, 0.98))
        stains[name] = float(np.log(density[0] / density[1]))
    for place, name in enumerate(sorted(fields, key=lambda name: stains[name])):
        if any(first <= place < end for first, end in BBBC_VAL) is val:
            yield name, *_bbbc(folder, name), fields[name]


def _bbbc(folder: Path, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    ids = np.asarray(Image.open(folder / f"{name}_inst.png")).astype(np.int32)
    return read_image(folder / f"{name}.jpg"), ids


def malaria_samples(data: Path, segmenter: Segmenter, *, seed: int) -> Samples:
    """Return red cells, infected ones too, of both malaria sets, and the few white ones."""
    rng, scale = np.random.default_rng(seed), RBC_DIAMETER_PX / WIDTH_PX
    collector = Collector()
    for _, image, boxes in iml_fields(data, val=False):
        known = np.c_[np.full(len(boxes), RBC), boxes[:, 1:]]
        found = real_masks(segmenter(image, WIDTH_PX), known, scale)
        chosen = [found[i] for i in rng.permutation(len(found))[:RED_CELLS]]
        collector.add_field("iml_malaria", normalised(image, scale), chosen)
    for _, image, ids, classes in bbbc_fields(data, val=False):
        objects, boxes = [], []
        for cell, window in enumerate(ndimage.find_objects(ids), start=1):
            if window is None or classes.get(cell, "unboxed") == "unboxed":
                continue
            kind = WBC if classes[cell] == "leukocyte" else RBC
            corner = (window[0].start, window[1].start)
            objects.append((*resampled_mask(ids[window] == cell, corner, scale), kind))
            boxes.append([kind, *corner, window[0].stop, window[1].stop])
        if not objects:
            continue
        objects += real_masks(segmenter(image, WIDTH_PX), np.array(boxes, float), scale)
        white = [one for one in objects if one[2] == WBC]
        red = [one for one in objects if one[2] == RBC]
        chosen = [red[i] for i in rng.permutation(len(red))[: 2 * RED_CELLS]]
        collector.add_field("bbbc041", normalised(image, scale), chosen + white)
    return collector.samples()


def white_cell_samples(data: Path, segmenter: Segmenter, *, seed: int) -> Samples:
    """Return what lies in the middle of the crops of `wbc`, as the program outlines it, and red cells beside it."""
    rng, scale = np.random.default_rng(seed), RBC_DIAMETER_PX / WIDTH_PX
    labels = pd.read_csv(data / "wbc" / "labels.csv")
    collector = Collector()
    for (source, kind), rows in labels.groupby(["source", "class"]):
        for file in rows["file"].to_numpy()[rng.permutation(len(rows))[:CROPS]]:
            image = read_image(data / "wbc" / file)
            objects = _crop_objects(image, segmenter(image, WIDTH_PX), PLATELET if kind == "platelet" else WBC, scale)
            if objects:
                collector.add_field(str(source), normalised(image, scale), objects)
    return collector.samples()


def _crop_objects(image: NDArray[np.uint8], segmentation: Any, kind: int, scale: float) -> list[Any]:
    """Return the cell in the middle of a crop, and up to three whole red ones; [] where nothing is in the middle."""
    table = segmentation.table
    boxes = boxes_of(table)
    middle = np.array(image.shape[:2]) / 2
    distance = np.hypot(*((boxes[:, :2] + boxes[:, 2:]) / 2 - middle).T)
    if not len(table) or distance.min() > WIDTH_PX / 3:
        return []
    is_red = (table["proposed_type"] == "RBC") & (table["proposed_probability"] > _SURE) & ~table["touches_edge"]
    is_red &= np.abs(np.sqrt(table["area_px"] * 4 / np.pi) / WIDTH_PX - 1) < 0.2
    is_red &= distance > WIDTH_PX / 2
    rows = [int(distance.argmin()), *np.flatnonzero(is_red)[:3].tolist()]
    objects = []
    for row in rows:
        y0, x0, y1, x1 = boxes[row].tolist()
        mask = np.asarray(segmentation.cells[y0:y1, x0:x1]) == table.index[row]
        objects.append((*resampled_mask(mask, (y0, x0), scale), kind if row == rows[0] else RBC))
    return objects
