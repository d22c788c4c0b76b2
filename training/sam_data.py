"""Training data of the embedded SAM: fields at the working scale with the outlines of their cells.

Sources (read from the shared data folder, never copied into the project): HS1 and HS2 with SAM ViT-H's masks,
cleaned to whole cells, and TXL-PBC's boxes with an ellipse in each. Held out always: HS2 columns 12-14, HS1 columns
17-19, TXL-PBC val.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from skimage.measure import find_contours

from napari_bloodcell.core.protocols import CellMask
from napari_bloodcell.models.embedded.network import RBC_DIAMETER_PX
from napari_bloodcell.stages.calibration import background_colour
from napari_bloodcell.stages.masks import filter_masks

if TYPE_CHECKING:
    from pathlib import Path

CACHE_DIAMETER_PX = 1.25 * RBC_DIAMETER_PX
HS_DIAMETER_PX = 34.0
RBC, WBC, PLATELET = 0, 1, 2
UNKNOWN = 3


@dataclass
class Outline:
    """A cell: polygon (K, 2) as (x, y), class, and what of it can be trusted."""

    polygon: np.ndarray
    kind: int
    has_mask: bool = True
    weight: float = 1.0
    isolated: bool = False


@dataclass
class Field:
    """An image in which a red cell is `CACHE_DIAMETER_PX` wide, with its cells and the colour of its glass."""

    name: str
    laboratory: str
    image: np.ndarray
    background: np.ndarray
    cells: list[Outline]


def decode_rle(rle: dict) -> np.ndarray:
    """Column-major run lengths, background first → (Y, X) bool."""
    height, width = rle["size"]
    counts = np.asarray(rle["counts"])
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(width, height).T


def read_sam_masks(path: Path) -> tuple[list[CellMask], list[str | None], bool]:
    """SAM ViT-H's raw masks of a patch, their labels, and whether the authors checked the patch by hand."""
    with gzip.open(path) as stream:
        records = json.load(stream)
    masks, labels = [], []
    for record in records:
        x, y, w, h = (int(v) for v in record["bbox"])
        crop = decode_rle(record["segmentation"])[y : y + h + 1, x : x + w + 1]
        point = record["point_coords"][0]
        quality = record["predicted_iou"] * record["stability_score"]
        masks.append(
            CellMask(
                bbox=(y, x, y + crop.shape[0], x + crop.shape[1]),
                mask=crop,
                predicted_iou=record["predicted_iou"],
                stability_score=record["stability_score"],
                score=quality,
                point=(point[1], point[0]),
            )
        )
        labels.append(record.get("label"))
    return masks, labels, any(bool(r.get("checked")) for r in records)


def outline_of(mask: np.ndarray, origin: tuple[int, int], scale: float) -> np.ndarray:
    """Return the longest contour of a mask as (K, 2) (x, y), scaled, at most 40 points."""
    contours = find_contours(np.pad(mask, 1).astype(float), 0.5)
    longest = max(contours, key=len)
    step = max(1, len(longest) // 40)
    yx = longest[::step] - 1 + 0.5 + np.array(origin)
    return (yx[:, ::-1] * scale).astype(np.float32)


def resized(image: Image.Image, scale: float) -> np.ndarray:
    """Return the image at another scale as (Y, X, 3) uint8."""
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return np.asarray(
        image.convert("RGB").resize(
            size, Image.Resampling.BOX if scale < 0.7 else Image.Resampling.BICUBIC, reducing_gap=None
        )
    )


def read_smear(folder: Path, keep: range) -> list[Field]:
    """Patches of HS1 or HS2 in the given columns."""
    fields = []
    scale = CACHE_DIAMETER_PX / HS_DIAMETER_PX
    typical = np.pi / 4 * HS_DIAMETER_PX**2
    for path in sorted((folder / "images").glob("*.jpg")):
        if int(path.stem[-2:]) not in keep:
            continue
        raw, labels, _ = read_sam_masks(folder / "sam_vit_h" / f"{path.stem}.json.gz")
        label_of = {id(m.mask): lab for m, lab in zip(raw, labels, strict=True)}
        wbc_boxes = [m.bbox for m, lab in zip(raw, labels, strict=True) if lab == "WBC"]
        pil = Image.open(path)
        cells = []
        for m in filter_masks(raw, rbc_diameter_px=HS_DIAMETER_PX):
            y0, x0, y1, x1 = m.bbox
            on_edge = y0 <= 1 or x0 <= 1 or y1 >= pil.height - 1 or x1 >= pil.width - 1
            share = m.area / typical
            is_wbc = label_of.get(id(m.mask)) == "WBC" or any(_covers(m.bbox, b) for b in wbc_boxes)
            extent = m.area / ((y1 - y0) * (x1 - x0))
            polygon = outline_of(m.mask, (y0, x0), scale)
            if is_wbc:
                cells.append(Outline(polygon, WBC, has_mask=False))
            elif share > 2.6 or (share > 1.7 and extent < 0.6):
                cells.append(Outline(polygon, UNKNOWN, has_mask=False))
            elif share < 0.35 and not on_edge:
                cells.append(Outline(polygon, UNKNOWN, has_mask=False))
            else:
                cells.append(Outline(polygon, RBC, isolated=not on_edge and share > 0.6))
        for box in wbc_boxes:
            if not any(c.kind == WBC and _covers_polygon(c.polygon / scale, box) for c in cells):
                y0, x0, y1, x1 = box
                corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32) * scale
                cells.append(Outline(corners, WBC, has_mask=False))
        image = resized(pil, scale)
        fields.append(Field(path.stem, folder.name, image, background_colour(image), cells))
    return fields


def _covers(outer: tuple[int, ...], inner: tuple[int, ...]) -> bool:
    y, x = (inner[0] + inner[2]) / 2, (inner[1] + inner[3]) / 2
    return outer[0] <= y < outer[2] and outer[1] <= x < outer[3] and (outer[2] - outer[0]) > 0.8 * (inner[2] - inner[0])


def _covers_polygon(polygon: np.ndarray, box: tuple[int, ...]) -> bool:
    (x0, y0), (x1, y1) = polygon.min(0), polygon.max(0)
    return bool(x0 <= (box[1] + box[3]) / 2 <= x1 and y0 <= (box[0] + box[2]) / 2 <= y1)


def read_boxes(label_file: Path, width: int, height: int) -> np.ndarray:
    """YOLO boxes → (N, 5) class, x0, y0, x1, y1 in pixels."""
    rows = [[float(v) for v in line.split()] for line in label_file.read_text().splitlines() if line.strip()]
    b = np.array(rows, float).reshape(-1, 5)
    half_w, half_h = b[:, 3] * width / 2, b[:, 4] * height / 2
    cx, cy = b[:, 1] * width, b[:, 2] * height
    return np.stack([b[:, 0], cx - half_w, cy - half_h, cx + half_w, cy + half_h], 1)


def boxes_diameter(boxes: np.ndarray, width: int, height: int) -> float:
    """Median width of the red cells (class 1) that the border does not cut; NaN without any."""
    r = boxes[boxes[:, 0] == 1]
    r = r[(r[:, 1] > 2) & (r[:, 2] > 2) & (r[:, 3] < width - 2) & (r[:, 4] < height - 2)]
    return float(np.median(np.sqrt((r[:, 3] - r[:, 1]) * (r[:, 4] - r[:, 2])))) if len(r) >= 3 else float("nan")


def laboratory_of(size: tuple[int, int]) -> str:
    """Return the name of the laboratory of TXL-PBC that makes images of this size."""
    return "360x363" if size == (366, 369) else f"{size[0]}x{size[1]}"


def read_txl(folder: Path, part: str, leave_out: set[str]) -> list[Field]:
    """TXL-PBC with an ellipse in each box; of cells cut by the border the part of a whole ellipse that is inside."""
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    loaded = []
    for path in sorted((folder / "images" / part).glob("*")):
        pil = Image.open(path)
        if laboratory_of(pil.size) in leave_out:
            continue
        boxes = read_boxes(folder / "labels" / part / f"{path.stem}.txt", *pil.size)
        loaded.append((path, pil.convert("RGB"), boxes, boxes_diameter(boxes, *pil.size)))
    medians = {}
    for _, pil, _, d in loaded:
        medians.setdefault(laboratory_of(pil.size), []).append(d)
    medians = {lab: float(np.nanmedian(d)) for lab, d in medians.items()}
    fields = []
    for path, pil, boxes, diameter in loaded:
        lab = laboratory_of(pil.size)
        diameter = diameter if np.isfinite(diameter) else medians[lab]
        scale = CACHE_DIAMETER_PX / diameter
        cells = []
        for k, (kind, x0, y0, x1, y1) in enumerate(boxes):
            others = np.delete(boxes, k, 0)
            ix = np.clip(np.minimum(others[:, 3], x1) - np.maximum(others[:, 1], x0), 0, None)
            iy = np.clip(np.minimum(others[:, 4], y1) - np.maximum(others[:, 2], y0), 0, None)
            covered = (ix * iy).sum() / max((x1 - x0) * (y1 - y0), 1)
            inside = x0 > 2 and y0 > 2 and x1 < pil.width - 2 and y1 < pil.height - 2
            ex0, ey0, ex1, ey1 = _whole_box(x0, y0, x1, y1, pil.size, diameter if kind == 1 else 0)
            x = (ex0 + ex1) / 2 + (ex1 - ex0) / 2 * np.cos(angle)
            y = (ey0 + ey1) / 2 + (ey1 - ey0) / 2 * np.sin(angle)
            polygon = np.stack([x.clip(x0, x1), y.clip(y0, y1)], 1).astype(np.float32) * scale
            cells.append(
                Outline(
                    polygon,
                    {0: WBC, 1: RBC, 2: PLATELET}[int(kind)],
                    weight=0.6,
                    isolated=inside and covered < 0.06 and kind == 1,
                )
            )
        image = resized(pil, scale)
        fields.append(Field(path.stem, lab, image, background_colour(image), cells))
    return fields


def _whole_box(
    x0: float, y0: float, x1: float, y1: float, size: tuple[int, int], diameter: float
) -> tuple[float, float, float, float]:
    """Return the box of the whole cell of which the border shows a part: as wide as it is high, or as a red cell."""
    width, height = x1 - x0, y1 - y0
    whole = max(width, height, 0.85 * diameter)
    if x0 <= 2 and width < whole:
        x0 = x1 - whole
    elif x1 >= size[0] - 2 and width < whole:
        x1 = x0 + whole
    if y0 <= 2 and height < whole:
        y0 = y1 - whole
    elif y1 >= size[1] - 2 and height < whole:
        y1 = y0 + whole
    return x0, y0, x1, y1


def load_fields(data: Path, leave_out: set[str]) -> list[Field]:
    """Return every training field of the shared data folder; takes half a minute."""
    fields = read_smear(data / "smears/HS1", range(17)) + read_smear(data / "smears/HS2", range(12))
    return fields + read_txl(data / "txl_pbc", "train", leave_out)
