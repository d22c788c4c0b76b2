"""`OfficialSam` keeps the masks that SAM's published generator keeps, when the network gives cells.

No network is trained here: what the decoders answer is drawn, the same for both sides, so that every prompt on a cell
gives a mask a little different from its neighbours'. That ours decode as the stock modules is tested beside.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from benchmarks.official_masks import cell_mask, in_fp32
from benchmarks.stock_sam import stock_generator
from napari_bloodcell.core.params import SegmentParams
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.models.official.sam import OfficialSam
from napari_bloodcell.stages.masks import intersection_area
from tests.models.sam_examples import tiny_sam

CALIBRATION = Calibration(rbc_diameter_px=20.0, background_rgb=(235.0, 228.0, 225.0), mean_brightness=200.0)
CENTRES = torch.tensor([[20.0, 24.0], [52.0, 30.0], [96.0, 40.0], [70.0, 66.0], [110.0, 78.0], [31.0, 70.0]])
SIDE, LOW = 128, 32


@pytest.fixture(autouse=True)
def _no_traces():
    """Take out the stand-ins for torchvision, and the package that was imported with them."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("torchvision", "segment_anything"):
            del sys.modules[name]


def drawn(xy, radius):
    """Return logits (B, 3, LOW, LOW) and IoU (B, 3) of prompts (B, 2) as (x, y): a part, the cell, two cells' width."""
    nearest = CENTRES[torch.cdist(xy, CENTRES).argmin(1)]
    wobble = torch.stack([torch.sin(xy[:, 0] * 1.7 + xy[:, 1]), torch.cos(xy[:, 0] + xy[:, 1] * 2.3)], 1)
    middle = nearest + 2 * wobble
    steps = (torch.arange(LOW) + 0.5) * SIDE / LOW
    distance = torch.hypot(
        steps[None, None, :] - middle[:, 0, None, None], steps[None, :, None] - middle[:, 1, None, None]
    )
    radii = radius * torch.tensor([0.6, 1.0, 1.9]) * (1 + 0.1 * wobble[:, :1])
    logits = radii[:, :, None, None] - distance[:, None]
    iou = torch.tensor([0.8, 0.92, 0.7]) - 0.05 * wobble.abs().sum(1, keepdim=True) - 0.001 * xy[:, :1] / SIDE
    return logits, iou


@pytest.mark.parametrize("shape", [(96, 128), (75, 100), (180, 240)])
@pytest.mark.parametrize("radius", [8.0, 11.0])
def test_the_masks_kept_are_those_of_sams_generator(tmp_path, monkeypatch, shape, radius):
    sam = tiny_sam()
    torch.save(sam.state_dict(), tmp_path / "tiny.pth")
    with in_fp32():
        ours = OfficialSam(tmp_path / "tiny.pth", device="cpu")
    prompts = lambda points, boxes, masks: (points[0], None)  # noqa: E731
    answer = lambda *, sparse_prompt_embeddings, **_: drawn(sparse_prompt_embeddings[:, 0].float(), radius)  # noqa: E731
    for network in (sam, ours._network):
        monkeypatch.setattr(network.prompt_encoder, "forward", prompts)
    monkeypatch.setattr(sam.mask_decoder, "forward", answer)
    monkeypatch.setattr(ours._decoder, "predict", lambda _, sparse, tokens, dtype: drawn(sparse[:, 0].float(), radius))
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)

    generator = stock_generator(sam, points_per_side=16, pred_iou_thresh=0.6, stability_score_thresh=0.7)
    theirs = [cell_mask(record) for record in generator.generate(image)]
    params = SegmentParams(prompts="grid", points_per_side=16, predicted_iou_min=0.6, stability_min=0.7)
    found = ours.generate(image, CALIBRATION, params)

    assert len(theirs) >= 6
    assert [m.bbox for m in found] == [m.bbox for m in theirs]
    for mask, other in zip(found, theirs, strict=True):
        shared = intersection_area(mask, other)
        assert shared >= 0.98 * (mask.area + other.area - shared)
        assert mask.predicted_iou == pytest.approx(other.predicted_iou, abs=1e-5)
        assert mask.stability_score == pytest.approx(other.stability_score, abs=0.01)
        assert mask.point == pytest.approx(other.point)
