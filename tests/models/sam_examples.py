"""Tiny Segment Anything models of the official layout, with random weights, and the stock way to run them."""

from __future__ import annotations

import torch

from benchmarks.small_sam import sam_of_sizes

TINY = {"embed_dim": 32, "depth": 2, "heads": 2, "image_size": 128, "window_size": 3, "prompt_dim": 32}


def tiny_sam(seed=0, *, level=2.0, **sizes):
    """Return segment_anything's own Sam, small; block 0 attends in windows, the last one globally."""
    sam = sam_of_sizes(seed, **TINY | sizes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # what is initialised to zero or one would hide mistakes
        for parameter in sam.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        for mlp in sam.mask_decoder.output_hypernetworks_mlps:  # masks of some size, with edges
            mlp.layers[-1].weight.mul_(400)
            mlp.layers[-1].weight[0], mlp.layers[-1].bias[0] = 0, -level / 4
        last = sam.mask_decoder.output_upscaling[3]
        last.weight[:, 0], last.bias[0] = 0, 4  # a constant channel, by which all masks are made smaller
        sam.mask_decoder.iou_prediction_head.layers[-1].bias.fill_(0.8)
    return sam.eval().requires_grad_(False)


def stock_masks(sam, image, *, points=None, boxes=None, multimask):
    """Return logits in the image's pixels (N, M, Y, X) and predicted IoU as segment_anything's SamPredictor makes them.

    `image` (Y, X, 3) uint8; `points` (N, 2) as (x, y) and `boxes` (N, 4) as (x0, y0, x1, y1), pixels.
    """
    from PIL import Image

    height, width = image.shape[:2]
    side = sam.image_encoder.img_size
    scale = side / max(height, width)
    new_height, new_width = int(height * scale + 0.5), int(width * scale + 0.5)
    resized = Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR)
    ratio = torch.tensor([new_width / width, new_height / height])
    record = {
        "image": torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8)
        .view(new_height, new_width, 3)
        .permute(2, 0, 1)
        .float(),
        "original_size": (height, width),
    }
    if points is not None:
        record["point_coords"] = (torch.as_tensor(points, dtype=torch.float32) * ratio)[:, None]
        record["point_labels"] = torch.ones(len(points), 1)
    if boxes is not None:
        record["boxes"] = torch.as_tensor(boxes, dtype=torch.float32) * ratio.repeat(2)
    out = sam([record], multimask_output=multimask)[0]
    logits = sam.postprocess_masks(out["low_res_logits"], (new_height, new_width), (height, width))
    return logits, out["iou_predictions"]
