"""How the embedded SAM learns a laboratory's masks: ``python -m benchmarks.sam_adaptation DATA_FOLDER --sam FILE``.

A SAM that never saw two laboratories of TXL-PBC is fine-tuned by `train_sam`, with its defaults, on a few corrected
fields, and then segments others.

1. A laboratory that draws outlines otherwise: the masks of HS2 (SAM ViT-H, real outlines), 2 px further inside. Judged
   on columns of HS2 that no training saw, by masks, and on other laboratories.
2. The laboratories that were left out, with rough masks: TXL-PBC has boxes, so a corrected field has the ellipse in
   each labelled box (``--masks ellipses``), some pixels off the cell as the boxes are; or what the model draws in the
   box (``--masks model``), as a person leaves it who finds nothing wrong. Judged by boxes. It must not get worse.

``--sam`` is a model trained with ``python -m training.train_sam --leave-out 575x575 640x480``. The scale of a field is
found once, by that model: fine-tuning leaves the encoder, which finds it, as it is.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
import torch
from PIL import Image
from scipy import ndimage

import napari_bloodcell as nb
from benchmarks.accuracy import cleaned_reference
from benchmarks.matching import box_iou, f1, label_iou, n_matched
from napari_bloodcell.core.cells import boxes_of
from napari_bloodcell.core.protocols import CellMask
from napari_bloodcell.learning.train_sam import train_sam
from napari_bloodcell.models.load import load_generator
from napari_bloodcell.stages.masks import paint
from napari_bloodcell.stages.segment import calibrate
from training.cnn_data import txl_fields
from training.cnn_masks import ellipse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Field = tuple["NDArray[np.uint8]", "NDArray[np.float64]"]
"""An image (Y, X, 3) and boxes (N, 4) of its cells as (y0, x0, y1, x1)."""
FIELD_NUMBERS = (5, 10)
INSIDE_PX = 2


def fields_of(data: Path, part: str, lab: str, n: int, seed: int = 0) -> list[Field]:
    """Return n fields of a laboratory, drawn at random."""
    found = [(image, boxes[:, 1:]) for _, image, boxes, _ in txl_fields(data, part, only=lab)]
    return [found[i] for i in np.random.default_rng(seed).permutation(len(found))[:n]]


def segmented(image: NDArray[np.uint8], model: str, start: str) -> nb.Segmentation:
    """Return the cells that a model finds at the scale that `start` finds."""
    width = _width(image.tobytes(), image.shape, start)
    return nb.segment(image, params=nb.SegmentParams(model=model, device="cpu", rbc_diameter_px=width))


@cache
def _width(pixels: bytes, shape: tuple[int, ...], start: str) -> float:
    image = np.frombuffer(pixels, np.uint8).reshape(shape)
    generator = load_generator(start, "cpu")
    return calibrate(image, params=nb.SegmentParams(model=start), generator=generator).rbc_diameter_px


def write_corrected(folder: Path, fields: Sequence[Field], model: str, masks_are: str) -> None:
    """Write images with label images: what a model draws in the true boxes, or their ellipses."""
    generator: Any = load_generator(model, "cpu")
    for number, (image, boxes) in enumerate(fields):
        if masks_are == "model":
            masks = generator.predict(image, segmented(image, model, model).calibration, boxes=boxes)
        else:
            drawn = [ellipse(box, image.shape[:2]) for box in boxes]
            masks = [_as_cell(mask, corner) for mask, corner in (one for one in drawn if one is not None)]
        _write(folder, number, image, paint(masks, image.shape[:2])[0])


def _write(folder: Path, number: int, image: NDArray[np.uint8], cells: NDArray[np.integer]) -> None:
    Image.fromarray(image).save(folder / f"{number}.png")
    tifffile.imwrite(folder / f"{number}_cells.tif", cells.astype(np.int32))


def _as_cell(mask: NDArray[np.bool_], corner: tuple[int, int]) -> CellMask:
    (y, x), (height, width) = corner, mask.shape
    middle = (y + height / 2, x + width / 2)
    return CellMask(
        (y, x, y + height, x + width), mask, predicted_iou=1.0, stability_score=1.0, score=1.0, point=middle
    )


def boxed(fields: Sequence[Field], model: str, start: str) -> tuple[float, float, float, float]:
    """Return F1 at IoU 0.5 and 0.75 of boxes of any type, their mean IoU where they match, and found by true cells."""
    matched, close, n_found, n_true, ious = 0, 0, 0, 0, []
    for image, boxes in fields:
        found = boxes_of(segmented(image, model, start).table).astype(float)
        iou = box_iou(found, boxes)
        matched, close = matched + n_matched(iou), close + n_matched(iou, 0.75)
        n_found, n_true = n_found + len(found), n_true + len(boxes)
        best = iou.max(0, initial=0.0)
        ious += best[best >= 0.5].tolist()
    return f1(matched, n_found, n_true), f1(close, n_found, n_true), float(np.mean(ious)), n_found / n_true


def patches(data: Path, n: int, *, are_unseen: bool, inside_px: int = 0) -> list[tuple[NDArray[np.uint8], Any]]:
    """Return patches of HS2 with masks, from the columns that no training saw or from the others."""
    paths = [p for p in sorted((data / "smears/HS2/images").glob("*.jpg")) if (int(p.stem[-2:]) >= 12) == are_unseen]
    found = []
    for i in np.random.default_rng(0).permutation(len(paths))[:n]:
        image = np.asarray(Image.open(paths[i]).convert("RGB"))
        cells, _ = cleaned_reference(data / f"smears/HS2/sam_vit_h/{paths[i].stem}.json.gz", image.shape[:2])
        found.append((image, drawn_inside(cells, inside_px)))
    return found


def drawn_inside(cells: NDArray[np.integer], by_px: int) -> NDArray[np.integer]:
    """Return a label image with the outline of each cell that much further inside; the image's edge is no outline."""
    beyond = by_px + 1
    padded = np.pad(cells, beyond, mode="edge")
    inner = np.zeros_like(padded)
    for i, window in enumerate(ndimage.find_objects(padded), start=1):
        if window is not None:
            depth = ndimage.distance_transform_edt(np.pad(padded[window] == i, 1))[1:-1, 1:-1]
            inner[window][depth > by_px] = i
    return inner[beyond:-beyond, beyond:-beyond]


def outlined(fields: Sequence[tuple[NDArray[np.uint8], Any]], model: str, start: str) -> list[float]:
    """Return F1 of masks at IoU 0.5, 0.75 and 0.9."""
    found = [segmented(image, model, start).cells for image, _ in fields]
    ious = [label_iou(cells, truth) for cells, (_, truth) in zip(found, fields, strict=True)]
    n_found, n_true = (sum(len(np.unique(c)) - 1 for c in some) for some in (found, [truth for _, truth in fields]))
    return [f1(sum(n_matched(iou, least) for iou in ious), n_found, n_true) for least in (0.5, 0.75, 0.9)]


def print_row(*figures: str | float) -> None:
    """Print a row of a table."""
    print("| " + " | ".join(f if isinstance(f, str) else f"{f:.4f}" for f in figures) + " |", flush=True)


def tuned_on(folder: Path, start: str) -> tuple[str, str]:
    """Return the weights fine-tuned on the corrected fields of a folder, and what is said of it."""
    begin = time.process_time()
    tuned = train_sam(folder, folder / "tuned.safetensors", start=start, device="cpu")
    told = f"{tuned.n_train + tuned.n_val} masks, {time.process_time() - begin:.0f} s of processor time, "
    return str(tuned.path), told + f"kept cells' IoU {tuned.iou_before:.3f} → {tuned.iou_after:.3f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sam", required=True, help="a model that saw none of --labs")
    parser.add_argument("--labs", nargs="*", default=["575x575", "640x480"])
    parser.add_argument("--others", nargs="*", default=["360x363", "416x416"])
    parser.add_argument("--corrected", type=int, nargs="*", default=list(FIELD_NUMBERS), help="fields to learn from")
    parser.add_argument("--fields", type=int, default=30, help="to judge on, of each laboratory that was left out")
    parser.add_argument("--masks", choices=["model", "ellipses"], default="ellipses", help="of the corrected fields")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data, start = arguments.data, arguments.sam
    others = [f for other in arguments.others for f in fields_of(data, "val", other, arguments.fields // 2)]
    unseen = patches(data, 4, are_unseen=True, inside_px=INSIDE_PX)
    print("| HS2, outlines further inside | F1 of masks at IoU 0.5 | 0.75 | 0.9 | others: boxes at 0.5 | at 0.75 |")
    print("|---|---|---|---|---|---|")
    print_row("none", *outlined(unseen, start, start), *boxed(others, start, start)[:2])
    for n in arguments.corrected:
        with tempfile.TemporaryDirectory() as folder:
            for number, (image, cells) in enumerate(patches(data, n, are_unseen=False, inside_px=INSIDE_PX)):
                _write(Path(folder), number, image, cells)
            model, told = tuned_on(Path(folder), start)
            print_row(f"{n} ({told})", *outlined(unseen, model, start), *boxed(others, model, start)[:2])
    smear = patches(data, 4, are_unseen=True)
    print("\n| left out | corrected fields | F1 of boxes at IoU 0.5 | at 0.75 | IoU of boxes | found / true | ", end="")
    print("others: F1 at 0.5 | at 0.75 | HS2: F1 of masks at 0.75 |")
    print("|---|---|---|---|---|---|---|---|---|")
    for lab in arguments.labs:
        here = fields_of(data, "val", lab, arguments.fields)
        for n in (0, *arguments.corrected):
            with tempfile.TemporaryDirectory() as folder:
                model, told = start, "none"
                if n:
                    write_corrected(Path(folder), fields_of(data, "train", lab, n), start, arguments.masks)
                    model, told = tuned_on(Path(folder), start)
                    told = f"{n} ({told})"
                there = boxed(others, model, start)[:2]
                print_row(lab, told, *boxed(here, model, start), *there, outlined(smear, model, start)[1])


if __name__ == "__main__":
    main()
