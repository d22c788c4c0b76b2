"""How the embedded SAM learns a laboratory's masks: ``python -m benchmarks.sam_adaptation DATA_FOLDER --sam FILE``.

A SAM that never saw a laboratory of TXL-PBC is fine-tuned by `train_sam`, with its defaults, on a few corrected fields
of it, and then segments other fields of that laboratory, and fields of others, which must not get worse. TXL-PBC has
boxes and no masks. A corrected field is what a person would leave in the Edit cells dock: in each labelled box the mask
that the model itself draws in it (``--masks model``) or the ellipse (``--masks ellipses``), as of a person who redraws
each outline until it fits the label. What is found is compared by its boxes.

``--sam`` is a model trained with ``python -m training.train_sam --leave-out 575x575 640x480``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
import torch
from PIL import Image

import napari_bloodcell as nb
from benchmarks.accuracy import cleaned_reference
from benchmarks.matching import box_iou, f1, label_iou, n_matched
from napari_bloodcell.backends.registry import load_generator
from napari_bloodcell.masks import paint
from napari_bloodcell.protocols import CellMask
from napari_bloodcell.train_sam import train_sam
from training.cnn_data import txl_fields
from training.cnn_masks import ellipse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Field = tuple["NDArray[np.uint8]", "NDArray[np.float64]"]
"""An image (Y, X, 3) and boxes (N, 4) of its cells as (y0, x0, y1, x1)."""
FIELD_NUMBERS = (5, 10)


def fields_of(data: Path, part: str, lab: str, n: int, seed: int = 0) -> list[Field]:
    """Return n fields of a laboratory, drawn at random."""
    found = [(image, boxes[:, 1:]) for _, image, boxes, _ in txl_fields(data, part, only=lab)]
    return [found[i] for i in np.random.default_rng(seed).permutation(len(found))[:n]]


def write_corrected(folder: Path, fields: Sequence[Field], model: str, masks_are: str) -> None:
    """Write images with label images: what a model draws in the true boxes, or their ellipses."""
    generator: Any = load_generator(model, "cpu")
    params = nb.SegmentParams(model=model, device="cpu")
    for number, (image, boxes) in enumerate(fields):
        calibration = nb.segment(image, params=params).calibration
        if masks_are == "model":
            masks = generator.predict(image, calibration, boxes=boxes)
        else:
            drawn = [ellipse(box, image.shape[:2]) for box in boxes]
            masks = [_as_cell(mask, corner) for mask, corner in (one for one in drawn if one is not None)]
        Image.fromarray(image).save(folder / f"{number}.png")
        tifffile.imwrite(folder / f"{number}_cells.tif", paint(masks, image.shape[:2])[0])


def _as_cell(mask: NDArray[np.bool_], corner: tuple[int, int]) -> CellMask:
    (y, x), (height, width) = corner, mask.shape
    middle = (y + height / 2, x + width / 2)
    return CellMask(
        (y, x, y + height, x + width), mask, predicted_iou=1.0, stability_score=1.0, score=1.0, point=middle
    )


def boxed(fields: Sequence[Field], model: str) -> tuple[float, float, float, float]:
    """Return F1 at IoU 0.5 and 0.75 of boxes of any type, their mean IoU where they match, and found by true cells."""
    params = nb.SegmentParams(model=model, device="cpu")
    matched, close, n_found, n_true, ious = 0, 0, 0, 0, []
    for image, boxes in fields:
        found = np.array(nb.segment(image, params=params).table["bbox"].tolist(), float).reshape(-1, 4)
        iou = box_iou(found, boxes)
        matched, close = matched + n_matched(iou), close + n_matched(iou, 0.75)
        n_found, n_true = n_found + len(found), n_true + len(boxes)
        best = iou.max(0, initial=0.0)
        ious += best[best >= 0.5].tolist()
    return f1(matched, n_found, n_true), f1(close, n_found, n_true), float(np.mean(ious)), n_found / n_true


def smear(data: Path, model: str, n: int) -> float:
    """Return the F1 at IoU 0.5 of whole-cell masks on patches of HS2 that no training saw."""
    params = nb.SegmentParams(model=model, device="cpu")
    paths = [p for p in sorted((data / "smears/HS2/images").glob("*.jpg")) if int(p.stem[-2:]) >= 12]
    matched, n_found, n_true = 0, 0, 0
    for path in paths[:: max(1, len(paths) // n)]:
        cells = nb.segment(path, params=params).cells
        truth, _ = cleaned_reference(data / f"smears/HS2/sam_vit_h/{path.stem}.json.gz", cells.shape)
        matched += n_matched(label_iou(cells, truth))
        n_found, n_true = n_found + len(np.unique(cells)) - 1, n_true + len(np.unique(truth)) - 1
    return f1(matched, n_found, n_true)


def row(data: Path, lab: str, others: Sequence[str], model: str, n_fields: int, name: str) -> None:
    """Print what a model reaches on a laboratory and on others."""
    here = boxed(fields_of(data, "val", lab, n_fields), model)
    there = boxed([f for other in others for f in fields_of(data, "val", other, n_fields // 2)], model)
    figures = [f"{here[0]:.4f}", f"{here[1]:.4f}", f"{here[2]:.4f}", f"{100 * here[3]:.1f} %"]
    figures += [f"{there[0]:.4f}", f"{there[1]:.4f}", f"{smear(data, model, n_fields // 2):.4f}"]
    print(f"| {lab} | {name} | " + " | ".join(figures) + " |", flush=True)


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
    print(
        "| left out | corrected fields | F1 at IoU 0.5 | at 0.75 | IoU of boxes | found / true | "
        "others: F1 at 0.5 | at 0.75 | HS2: F1 of masks |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for lab in arguments.labs:
        row(arguments.data, lab, arguments.others, arguments.sam, arguments.fields, "none")
        for n in arguments.corrected:
            with tempfile.TemporaryDirectory() as folder:
                write_corrected(
                    Path(folder), fields_of(arguments.data, "train", lab, n), arguments.sam, arguments.masks
                )
                begin = time.monotonic()
                tuned = train_sam(folder, Path(folder) / "tuned.safetensors", start=arguments.sam, device="cpu")
                name = f"{n} ({tuned.n_train + tuned.n_val} cells, {time.monotonic() - begin:.0f} s, "
                name += f"IoU {tuned.iou_before:.3f} -> {tuned.iou_after:.3f})"
                row(arguments.data, lab, arguments.others, str(tuned.path), arguments.fields, name)


if __name__ == "__main__":
    main()
