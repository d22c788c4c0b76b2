"""Whether `OfficialSam` gives the masks of SAM's generator: `python -m benchmarks.official_masks ../shared/data OUT`.

Trains a small SAM of the official layout on HS1 and HS2 (five minutes on one core; its checkpoint is kept in OUT and
used again), then runs `segment_anything.SamAutomaticMaskGenerator` and `OfficialSam` with these weights side by side
on columns that it was not trained on. Prints one Markdown table and draws the masks of both into OUT.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from skimage.segmentation import find_boundaries

import napari_bloodcell as nb
from benchmarks.accuracy import cleaned_reference
from benchmarks.matching import f1, label_iou, n_matched
from benchmarks.small_sam import SIDE, small_sam, train_on_smears
from benchmarks.speed import machine
from benchmarks.stock_sam import stock_generator
from napari_bloodcell.core.protocols import Calibration, CellMask
from napari_bloodcell.models.official import sam as official_sam
from napari_bloodcell.models.official.sam import OfficialSam
from napari_bloodcell.stages.calibration import background_colour
from napari_bloodcell.stages.masks import filter_masks, intersection_area, paint
from training.sam_data import HS_DIAMETER_PX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from benchmarks.small_sam import Crop

HELD_OUT_COLUMNS = {"HS1": range(17, 20), "HS2": range(12, 15)}
THRESHOLDS = {"iou": 0.4, "stability": 0.5}
"""Lower than SAM's, whose masks are surer of themselves."""
CELL_AREAS = (0.25, 2.6)
"""Of masks from a quarter of a red cell to two and a half is asked whether both generators have them."""
SAME = 0.98


def held_out_crops(data: Path, n: int) -> list[Crop]:
    """Return the middles of n patches from the columns left out of training, with their cells (Y, X)."""
    crops = []
    paths = [
        path
        for smear, kept in HELD_OUT_COLUMNS.items()
        for path in sorted((data / "smears" / smear / "images").glob("*.jpg"))
        if int(path.stem[-2:]) in kept
    ]
    for k in np.linspace(0, len(paths) - 1, n).round().astype(int):
        image = np.asarray(Image.open(paths[k]).convert("RGB"))
        json_path = paths[k].parent.parent / "sam_vit_h" / f"{paths[k].stem}.json.gz"
        cells, _ = cleaned_reference(json_path, image.shape[:2])
        y, x = (image.shape[0] - SIDE) // 2, (image.shape[1] - SIDE) // 2
        crops.append((image[y : y + SIDE, x : x + SIDE], cells[y : y + SIDE, x : x + SIDE]))
    return crops


def cell_mask(record: dict[str, Any]) -> CellMask:
    """Return a record of SAM's generator as a mask; its boxes (x, y, w, h) leave out the last row and column."""
    x, y, w, h = (int(v) for v in record["bbox"])
    mask = record["segmentation"][y : y + h + 1, x : x + w + 1]
    iou, stability, (point,) = record["predicted_iou"], record["stability_score"], record["point_coords"]
    return CellMask((y, x, y + h + 1, x + w + 1), mask, iou, stability, iou * stability, (point[1], point[0]))


@contextmanager
def suppression(iou_max: float) -> Iterator[None]:
    """Let `OfficialSam` suppress masks whose boxes have a larger IoU."""
    with patch.object(official_sam, "BOX_NMS_IOU", iou_max):
        yield


@contextmanager
def in_fp32() -> Iterator[None]:
    """Let `OfficialSam` compute in float32 as SAM's generator does, whatever the processor is fast at."""
    with patch("napari_bloodcell.models.device.fast_bf16", lambda _: False):
        yield


def is_of_cell_size(mask: CellMask) -> bool:
    """Say whether a mask may be one cell."""
    typical = np.pi / 4 * HS_DIAMETER_PX**2
    return CELL_AREAS[0] * typical <= mask.area <= CELL_AREAS[1] * typical


def best_partners(theirs: Sequence[CellMask], ours: Sequence[CellMask], *, same_prompt: bool) -> list[float]:
    """Return for each of their masks of a cell's size the IoU of the most similar of ours (of the same prompt)."""
    by_prompt: dict[tuple[float, float], list[CellMask]] = {}
    for mask in ours:
        by_prompt.setdefault((round(mask.point[0], 3), round(mask.point[1], 3)), []).append(mask)
    best = []
    for mask in filter(is_of_cell_size, theirs):
        others = by_prompt.get((round(mask.point[0], 3), round(mask.point[1], 3)), []) if same_prompt else ours
        shared = [intersection_area(mask, other) for other in others]
        best.append(max((s / (mask.area + o.area - s) for s, o in zip(shared, others, strict=True)), default=0.0))
    return best


def cells_f1(found: Sequence[Sequence[CellMask]], crops: Sequence[Crop]) -> float:
    """Return the F1 at IoU 0.5 of masks, filtered as the program filters them, against SAM ViT-H's cleaned ones."""
    sums = np.zeros(3, int)
    for masks, (image, truth) in zip(found, crops, strict=True):
        cells, order = paint(filter_masks(masks, rbc_diameter_px=HS_DIAMETER_PX), image.shape[:2])
        sums += n_matched(label_iou(cells, truth)), len(order), len(np.unique(truth)) - 1
    return f1(*(int(n) for n in sums))


def overlay(image: NDArray[np.uint8], *sides: Sequence[CellMask]) -> Image.Image:
    """Return the image, and beside it once per generator with the borders of its masks of a cell's size."""
    large = np.kron(image, np.ones((3, 3, 1), np.uint8))
    parts = [large]
    for masks in sides:
        drawn = large.copy()
        for k, mask in enumerate(filter(is_of_cell_size, masks)):
            y0, x0, y1, x1 = (3 * v for v in mask.bbox)
            border = find_boundaries(np.pad(np.kron(mask.mask, np.ones((3, 3), bool)), 1), mode="inner")[1:-1, 1:-1]
            drawn[y0:y1, x0:x1][border] = ((255, 255, 0), (0, 255, 255), (0, 255, 0), (255, 0, 255))[k % 4]
        parts.append(drawn)
    return Image.fromarray(np.concatenate(parts, 1))


class Contest:
    """SAM's generator and `OfficialSam` with the weights of one checkpoint, on the same crops."""

    def __init__(self, path: Path, crops: Sequence[Crop], points_per_side: int) -> None:
        self.crops, self.path = crops, path
        self.points_per_side = points_per_side
        self._sam = small_sam(0).eval().requires_grad_(False)
        self._sam.load_state_dict(torch.load(path, weights_only=True))

    def stock(self, iou_max: float) -> Callable[[NDArray[np.uint8]], list[CellMask]]:
        """Return SAM's generator, in float32."""
        generator = stock_generator(
            self._sam,
            points_per_side=self.points_per_side,
            pred_iou_thresh=THRESHOLDS["iou"],
            stability_score_thresh=THRESHOLDS["stability"],
            box_nms_thresh=iou_max,
        )
        return lambda image: [cell_mask(record) for record in generator.generate(image)]

    def ours(self, *, prompts: str = "grid", every: bool = False) -> Callable[[NDArray[np.uint8]], list[CellMask]]:
        """Return ours, in the precision that holds now; `every` mask, or those above the thresholds."""
        model = OfficialSam(self.path, device="cpu")
        params = nb.SegmentParams.model_validate(
            {
                "prompts": prompts,
                "points_per_side": self.points_per_side,
                "predicted_iou_min": 0.0 if every else THRESHOLDS["iou"],
                "stability_min": 0.0 if every else THRESHOLDS["stability"],
            }
        )

        def generate(image: NDArray[np.uint8]) -> list[CellMask]:
            model._last = None  # the image is encoded every time, as by SAM's generator
            red, green, blue = (float(v) for v in background_colour(image))
            return model.generate(image, Calibration(HS_DIAMETER_PX, (red, green, blue), 200.0, "given"), params)

        return generate

    def run(self, generate: Callable[[NDArray[np.uint8]], list[CellMask]]) -> tuple[list[list[CellMask]], float]:
        """Return the masks of every crop, and the seconds a crop."""
        generate(self.crops[0][0])
        begin = time.perf_counter()
        found = [generate(image) for image, _ in self.crops]
        return found, (time.perf_counter() - begin) / len(self.crops)


def described(theirs: list[list[CellMask]], ours: list[list[CellMask]], *, same_prompt: bool) -> tuple[str, str]:
    """Return the share of their masks that ours have, and how alike they are."""
    iou = np.concatenate([best_partners(t, o, same_prompt=same_prompt) for t, o in zip(theirs, ours, strict=True)])
    if not iou.size:
        sys.exit("SAM's generator finds nothing of a cell's size: train longer.")
    share = f"{100 * np.mean(iou >= SAME):.2f} % of {len(iou)}"
    return share, f"{iou.min():.3f}, {np.quantile(iou, 0.01):.3f}, {np.median(iou):.4f}"


def compare(contest: Contest) -> Iterator[Sequence[str]]:
    """Yield the rows of the table: what is measured, SAM's generator, ours in float32, ours as it runs here."""
    stock, stock_s = contest.run(contest.stock(0.7))
    every, _ = contest.run(contest.stock(1.0))
    sides = []
    for precision in (in_fp32, ExitStack):
        with precision():
            masks, seconds = contest.run(contest.ours())
            _, cells_s = contest.run(contest.ours(prompts="cells"))
            with suppression(1.0):
                prompt_masks, _ = contest.run(contest.ours(every=True))
        sides.append((masks, prompt_masks, seconds, cells_s))
    alike = [described(every, side[1], same_prompt=True) for side in sides]
    after = [described(stock, side[0], same_prompt=False) for side in sides]
    n = [sum(map(len, masks)) for masks in (stock, *(side[0] for side in sides))]
    cells = [sum(is_of_cell_size(m) for one in masks for m in one) for masks in (stock, *(side[0] for side in sides))]
    yield "masks; of a cell's size", *(f"{a}; {b}" for a, b in zip(n, cells, strict=True))
    yield f"masks of the same prompt with IoU ≥ {SAME}", "", *(share for share, _ in alike)
    yield "their smallest IoU, 1st percentile, median", "", *(figures for _, figures in alike)
    yield f"after suppression, masks with IoU ≥ {SAME}", "", *(share for share, _ in after)
    yield "their smallest IoU, 1st percentile, median", "", *(figures for _, figures in after)
    scores = [cells_f1(masks, contest.crops) for masks in (stock, *(side[0] for side in sides))]
    yield "F1 at IoU 0.5 against cleaned ViT-H", *(f"{score:.3f}" for score in scores)
    yield "seconds a crop", f"{stock_s:.2f}", *(f"{s[2]:.2f} ({stock_s / s[2]:.1f} times as fast)" for s in sides)
    yield "the same, points at cells", "", *(f"{s[3]:.2f} ({stock_s / s[3]:.1f} times as fast)" for s in sides)
    for k in (0, len(stock) // 2):
        picture = overlay(contest.crops[k][0], stock[k], sides[0][0][k], sides[1][0][k])
        picture.save(contest.path.with_name(f"masks_{k:02d}.png"))


def main(arguments: list[str] | None = None) -> None:
    """Train where there is no checkpoint yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path, help="for the checkpoint small_sam.pth and the pictures")
    parser.add_argument("--steps", type=int, default=1800, help="over which the learning rate falls")
    parser.add_argument("--stop", type=int, default=750, help="step after which training ends")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crops", type=int, default=6)
    parser.add_argument("--points-per-side", type=int, default=16)
    args = parser.parse_args(arguments)
    args.folder.mkdir(parents=True, exist_ok=True)
    path = args.folder / "small_sam.pth"
    if not path.exists():
        torch.save(train_on_smears(args.data, steps=args.steps, stop=args.stop, seed=args.seed).state_dict(), path)
    contest = Contest(path, held_out_crops(args.data, args.crops), args.points_per_side)
    out = sys.stdout
    out.write(f"{machine()}; {args.crops} crops of {SIDE}×{SIDE} px, {args.points_per_side}² points\n\n")
    out.write("| measure | SAM's generator | ours, fp32 | ours, as it runs here |\n|---|---|---|---|\n")
    for row in compare(contest):
        out.write("| " + " | ".join(row) + " |\n")


if __name__ == "__main__":
    main()
