"""`segment_anything.SamAutomaticMaskGenerator` as it is published, with what it wants of torchvision in pure torch.

The torchvision of the package index does not load beside a CPU-only torch; the generator needs four small functions
of it. Timing does not depend on the values of the weights.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

if TYPE_CHECKING:
    import numpy as np


def box_area(boxes: torch.Tensor) -> torch.Tensor:
    """Area of boxes (N, 4) as x0, y0, x1, y1."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_max: float) -> torch.Tensor:
    """Greedy non-maximum suppression; returns the indices kept, best first."""
    order = scores.argsort(descending=True)
    boxes, area, keep = boxes[order].float(), box_area(boxes[order].float()), []
    alive = torch.ones(len(order), dtype=torch.bool)
    for i in range(len(order)):
        if not alive[i]:
            continue
        keep.append(i)
        low, high = torch.maximum(boxes[i, :2], boxes[:, :2]), torch.minimum(boxes[i, 2:], boxes[:, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        alive &= shared / (area + area[i] - shared) <= iou_max
    return order[torch.tensor(keep, dtype=torch.long)]


def batched_nms(boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Suppress within each class: boxes of different classes are moved apart."""
    if not len(boxes):
        return torch.empty(0, dtype=torch.long)
    shift = idxs.to(boxes) * (boxes.max() + 1)
    return nms(boxes + shift[:, None], scores, iou_threshold)


def to_pil_image(image: np.ndarray) -> Image.Image:
    """Return a (Y, X, 3) uint8 array as a picture."""
    return Image.fromarray(image)


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Bilinear, as torchvision does with pictures; `size` is (height, width)."""
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)


def stock_generator(sam: Any, **settings: Any) -> Any:
    """Return the published generator around a `Sam`."""
    functions = {
        "torchvision.ops.boxes": {"batched_nms": batched_nms, "box_area": box_area},
        "torchvision.transforms.functional": {"resize": resize, "to_pil_image": to_pil_image},
    }
    for name in ("torchvision", "torchvision.ops", "torchvision.transforms", *functions):
        module = sys.modules.setdefault(name, ModuleType(name))
        for key, function in functions.get(name, {}).items():
            setattr(module, key, function)
    from segment_anything import SamAutomaticMaskGenerator

    return SamAutomaticMaskGenerator(sam, **settings)
