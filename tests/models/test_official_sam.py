"""The official Segment Anything loads safely and gives the stock masks, only faster.

The models are tiny ones of the official layout with random weights: what is compared is the arithmetic.
"""

from __future__ import annotations

import hashlib
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy import ndimage

from napari_bloodcell.core.errors import DeviceError, InputError, ModelError
from napari_bloodcell.core.params import SegmentParams
from napari_bloodcell.core.protocols import Calibration, MaskGenerator
from napari_bloodcell.models import weights
from napari_bloodcell.models.boxes import non_maximum_suppression
from napari_bloodcell.models.official import sam as official_sam
from napari_bloodcell.models.official.checkpoint import load_network, recognise
from napari_bloodcell.models.official.network import SharedDecoder, encode, interpolation_matrix, resize_longest_side
from napari_bloodcell.models.official.sam import OfficialSam, UpSampling, find_foreground, points_on_cells, regular_grid
from tests.models.sam_examples import stock_masks, tiny_sam

GLASS = (235.0, 228.0, 225.0)
CALIBRATION = Calibration(rbc_diameter_px=20.0, background_rgb=GLASS, mean_brightness=200.0)
EVERYTHING = SegmentParams(prompts="grid", points_per_side=4, predicted_iou_min=0.0, stability_min=0.0)

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def smear(shape=(80, 120), centres=((20, 25), (50, 60), (30, 95)), radius=10):
    """Return red discs on glass, (Y, X, 3) uint8."""
    image = np.full((*shape, 3), GLASS, np.float64)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for cy, cx in centres:
        image[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = (200, 120, 130)
    noise = np.random.default_rng(0).normal(0, 2, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def sam():
    return tiny_sam()


@pytest.fixture(scope="module")
def checkpoint(sam, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny.pth"
    torch.save(sam.state_dict(), path)
    return path


@pytest.fixture
def generator(checkpoint):
    return OfficialSam(checkpoint, device="cpu", precision="float32")


# --- loading ---------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_named_and_identified_by_its_file(generator, checkpoint):
    assert generator.name == "tiny.pth"
    assert generator.sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert generator.image_size == 128
    assert isinstance(generator, MaskGenerator)


@pytest.mark.parametrize(
    ("sizes", "window"),
    [
        ({}, 3),
        ({"embed_dim": 48, "depth": 3, "heads": 3, "image_size": 96, "window_size": 4}, 4),
        ({"image_size": 64, "window_size": 14, "prompt_dim": 64}, 14),  # windows larger than the image
    ],
)
def test_the_architecture_is_recognised_from_the_weights_alone(tmp_path, sizes, window):
    stock = tiny_sam(**sizes)
    torch.save(stock.state_dict(), tmp_path / "model.pth")
    network, found = load_network(tmp_path / "model.pth")
    assert (found.image_size, found.window_size) == (stock.image_encoder.img_size, window)
    assert found.depth == len(stock.image_encoder.blocks)
    assert [b.window_size for b in network.image_encoder.blocks] == [b.window_size for b in stock.image_encoder.blocks]
    image = torch.randn(1, 3, found.image_size, found.image_size)
    torch.testing.assert_close(network.image_encoder(image), stock.image_encoder(image))


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_the_official_sizes_are_recognised_by_name(name):
    from napari_bloodcell.models.sam_modules import build_sam

    with torch.device("meta"):
        stock = build_sam.sam_model_registry[name]()
    found = recognise(stock.state_dict(), weights.OFFICIAL[name].path)
    assert found.name == name
    assert (found.image_size, found.window_size, found.patch_size) == (1024, 14, 16)
    globally = tuple(i for i, block in enumerate(stock.image_encoder.blocks) if block.window_size == 0)
    assert found.global_blocks == globally


def test_safetensors_wrapped_and_prefixed_checkpoints_give_the_same_network(sam, checkpoint, tmp_path):
    state = sam.state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"model": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "b.pth")
    torch.save(state, tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    torch.save({k: v.half() for k, v in state.items()}, tmp_path / "d.pth")
    expected = load_network(checkpoint)[0].state_dict()
    for name, tolerance in (("a.safetensors", 0), ("b.pth", 0), ("c.pth", 0), ("d.pth", 1e-2)):
        found = load_network(tmp_path / name)[0].state_dict()
        assert found.keys() == expected.keys()
        assert all(v.dtype == torch.float32 for v in found.values())
        for key, value in found.items():
            torch.testing.assert_close(value, expected[key], rtol=tolerance, atol=tolerance)


def test_an_official_name_loads_what_the_cache_holds(checkpoint, tmp_path, monkeypatch):
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    entry = weights.ModelFile("vit_b", "b.pth", digest, 1, "Apache-2.0", "https://example.invalid/b.pth", "")
    monkeypatch.setitem(weights.OFFICIAL, "vit_b", entry)
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path))
    (tmp_path / "b.pth").write_bytes(checkpoint.read_bytes())
    by_name = OfficialSam("vit_b", device="cpu")
    by_file = OfficialSam(tmp_path / "b.pth", device="cpu")
    assert by_name.name == by_file.name == "vit_b"
    assert by_name.sha256 == by_file.sha256 == digest


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


@pytest.mark.parametrize(
    "wrap", [lambda p, s: p, lambda p, s: {**s, "image_encoder.extra": p}], ids=["alone", "hidden"]
)
@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle"])
@pytest.mark.parametrize("force", ["0", "1"])
def test_no_code_of_a_malicious_checkpoint_runs(sam, tmp_path, monkeypatch, wrap, form, force):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", force)
    marker, path = tmp_path / "ran", tmp_path / "evil.pth"
    content = wrap(Payload(marker), sam.state_dict())
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ModelError, match="never executed"):
        OfficialSam(path, device="cpu")
    assert not marker.exists()
    assert pickle.loads(pickle.dumps(Payload(marker))) is None  # the payload does work where pickles are run
    assert marker.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_a_truncated_checkpoint_is_an_error(sam, tmp_path, suffix, share):
    path = tmp_path / f"cut{suffix}"
    save_file(sam.state_dict(), path) if suffix == ".safetensors" else torch.save(sam.state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ModelError, match=str(path)):
        load_network(path)


@given(content=st.binary(max_size=200), start=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04\x95", b"{"]))
def test_any_bytes_at_all_are_an_error_of_the_programs_own(tmp_path_factory, content, start):
    for suffix in (".pth", ".safetensors"):
        path = tmp_path_factory.mktemp("any") / f"file{suffix}"
        path.write_bytes(start + content)
        with pytest.raises(ModelError):
            load_network(path)


def test_what_is_not_a_sam_is_refused_with_the_reason(sam, tmp_path):
    state = sam.state_dict()
    neck = "image_encoder.neck.0.weight"
    wrong = {
        "no image_encoder": {"layer.weight": torch.zeros(3)},
        "not named tensors": [1, 2, 3],
        neck: {k: v for k, v in state.items() if k != neck},
        "surplus": {**state, "surplus": torch.zeros(1)},
        "size mismatch": {**state, neck: torch.zeros(7, 32, 1, 1)},
        "not finite": {**state, neck: torch.full_like(state[neck], torch.nan)},
        "int64": {**state, neck: state[neck].long()},
        "larger than the file": {**state, neck: torch.zeros(1).expand(10**6, 10**6)},
        "blocks": {k: v for k, v in state.items() if not k.startswith("image_encoder.blocks.0.")},
    }
    for reason, content in wrong.items():
        torch.save(content, tmp_path / "wrong.pth")
        with pytest.raises(ModelError, match=reason):
            load_network(tmp_path / "wrong.pth")


def test_a_file_that_is_not_there_is_an_error_that_lists_the_names(tmp_path):
    with pytest.raises(ModelError, match=r'There is no checkpoint .*"vit_b", "vit_l" or "vit_h"'):
        OfficialSam(tmp_path / "none.pth", device="cpu")


def test_a_device_that_is_not_there_is_an_error(checkpoint):
    with pytest.raises(DeviceError, match="cuda:99"):
        OfficialSam(checkpoint, device="cuda:99")


# --- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(80, 120), (200, 130), (300, 37), (128, 128), (1, 9)])
def test_an_image_is_resized_as_pillow_does_it_for_sam(shape):
    from PIL import Image

    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    ours = resize_longest_side(image, 128)
    size = (ours.shape[2], ours.shape[1])
    assert max(size) == 128
    theirs = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR), np.float32)
    difference = np.abs(ours.permute(1, 2, 0).numpy() - theirs)
    assert difference.max() <= (1 if max(shape) > 128 else 0)  # down-scaling rounds in another order


def test_the_encoder_gives_the_stock_embedding(sam):
    image = torch.randn(1, 3, 128, 128)
    torch.testing.assert_close(encode(sam.image_encoder, image), sam.image_encoder(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("n", [1, 7])
def test_the_shared_decoder_gives_the_stock_masks(sam, multimask, n):
    embedding = torch.randn(1, 32, 8, 8)
    points = torch.rand(n, 1, 2) * 128
    sparse, dense = sam.prompt_encoder((points, torch.ones(n, 1)), None, None)
    position = sam.prompt_encoder.get_dense_pe()
    expected, expected_iou = sam.mask_decoder(embedding, position, sparse, dense, multimask_output=multimask)
    no_mask = sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    shared = SharedDecoder(sam.mask_decoder, position)
    tokens = slice(1, None) if multimask else slice(0, 1)
    logits, iou = shared.predict(embedding + no_mask, sparse, tokens=tokens, dtype=torch.float32)
    assert expected.abs().max() > 1  # else all would be close
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(iou, expected_iou, rtol=1e-4, atol=1e-5)


def test_decoding_in_bf16_gives_nearly_the_same_masks(sam):
    embedding = torch.randn(1, 32, 8, 8)
    sparse, _ = sam.prompt_encoder((torch.rand(5, 1, 2) * 128, torch.ones(5, 1)), None, None)
    shared = SharedDecoder(sam.mask_decoder, sam.prompt_encoder.get_dense_pe())
    exact, exact_iou = shared.predict(embedding, sparse, tokens=slice(1, None), dtype=torch.float32)
    quick, quick_iou = shared.predict(embedding, sparse, tokens=slice(1, None), dtype=torch.bfloat16)
    assert ((exact > 0) == (quick > 0)).float().mean() > 0.98
    torch.testing.assert_close(quick_iou, exact_iou, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("padded", "resized", "original"), [(128, 128, 64), (128, 85, 57), (128, 128, 500), (128, 7, 3)]
)
def test_up_sampling_a_box_gives_the_same_pixels_as_up_sampling_everything(padded, resized, original):
    logits = torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(3).normal(0, 9, (32, 32)), 2)).float() - 0.7
    whole = torch.nn.functional.interpolate(logits[None, None], (padded, padded), mode="bilinear")
    whole = torch.nn.functional.interpolate(whole[..., :resized, :padded], (original, 64), mode="bilinear")[0, 0]
    up = UpSampling(
        interpolation_matrix(32, padded, resized, original).numpy(),
        interpolation_matrix(32, padded, padded, 64).numpy(),
    )
    candidate = up.candidate(logits.numpy(), 0.9, (1.0, 2.0))
    found = candidate.mask()
    y0, x0, y1, x1 = found.bbox
    painted = np.zeros((original, 64), bool)
    painted[y0:y1, x0:x1] = found.mask
    np.testing.assert_array_equal(painted, whole.numpy() > 0)
    assert found.mask[[0, -1]].any(1).all()
    assert found.mask[:, [0, -1]].any(0).all()
    assert candidate.stability_score == pytest.approx(float((whole > 1).sum() / (whole > -1).sum()))


# --- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(80, 120), (200, 130), (128, 128)])
def test_clicks_give_the_best_of_the_stock_predictors_three_masks(sam, generator, shape):
    image = smear(shape)
    points = np.array([[20.0, 25.0], [50.0, 60.0], [3.5, 119.0]])
    masks = generator.predict(image, CALIBRATION, points=points)
    logits, iou = stock_masks(sam, image, points=points[:, ::-1].copy(), multimask=True)
    assert len(masks) == 3
    for mask, these, scores, point in zip(masks, logits, iou, points, strict=True):
        best = scores.argmax()
        assert_same_mask(mask, these[best].numpy())
        assert mask.predicted_iou == pytest.approx(min(1.0, float(scores[best])), abs=0.01)
        assert mask.point == tuple(point)


def test_boxes_give_the_stock_predictors_single_mask(sam, generator):
    image = smear()
    boxes = np.array([[10.0, 15.0, 31.0, 36.0], [40.0, 49.0, 61.0, 71.0]])
    masks = generator.predict(image, CALIBRATION, boxes=boxes)
    logits, _ = stock_masks(sam, image, boxes=boxes[:, [1, 0, 3, 2]].copy(), multimask=False)
    for mask, these in zip(masks, logits[:, 0], strict=True):
        assert_same_mask(mask, these.numpy())


def assert_same_mask(mask, logits):
    """Compare with stock logits (Y, X); where the resized image differs by a rounding, pixels at the edge may too."""
    painted = np.zeros(logits.shape, bool)
    y0, x0, y1, x1 = mask.bbox
    painted[y0:y1, x0:x1] = mask.mask
    expected = logits > 0
    assert 20 < expected.sum() < expected.size
    assert (painted != expected).sum() <= 0.01 * expected.size
    assert not (painted != expected)[np.abs(logits) > 0.1 * np.abs(logits).max()].any()


def test_points_and_boxes_in_one_call_give_one_mask_each_in_order(generator):
    image = smear()
    points, boxes = np.array([[20.0, 25.0]]), np.array([[40.0, 49.0, 61.0, 71.0]])
    both = generator.predict(image, CALIBRATION, points=points, boxes=boxes)
    apart = generator.predict(image, CALIBRATION, points=points) + generator.predict(image, CALIBRATION, boxes=boxes)
    assert [m.bbox for m in both] == [m.bbox for m in apart]
    assert both[1].point == (50.5, 60.0)


def test_a_second_click_on_the_same_image_does_not_encode_it_again(generator, monkeypatch):
    image = smear()
    calls = []
    monkeypatch.setattr(official_sam, "encode", lambda *args: calls.append(1) or encode(*args))
    generator.predict(image, CALIBRATION, points=np.array([[20.0, 25.0]]))
    generator.predict(image.copy(), CALIBRATION, points=np.array([[50.0, 60.0]]))
    assert len(calls) == 1
    generator.predict(image[::-1], CALIBRATION, points=np.array([[50.0, 60.0]]))
    assert len(calls) == 2


def test_no_prompts_give_no_masks(generator):
    assert generator.predict(smear(), CALIBRATION) == []
    assert generator.predict(smear(), CALIBRATION, points=np.zeros((0, 2))) == []


def test_where_sam_finds_nothing_the_mask_is_one_empty_pixel(generator, monkeypatch):
    nothing = lambda *args, **kwargs: (torch.full((1, 3, 32, 32), -9.0), torch.zeros(1, 3))  # noqa: E731
    monkeypatch.setattr(generator, "_decode", nothing)
    (mask,) = generator.predict(smear(), CALIBRATION, points=np.array([[20.7, 25.0]]))
    assert mask.bbox == (20, 25, 21, 26)
    assert mask.area == 0


@pytest.mark.parametrize(
    "prompts",
    [
        {"points": np.zeros(2)},
        {"points": np.zeros((1, 3))},
        {"points": np.array([[-1.0, 3.0]])},
        {"points": np.array([[80.0, 3.0]])},
        {"points": np.array([[np.nan, 3.0]])},
        {"boxes": np.zeros((1, 2))},
        {"boxes": np.array([[5.0, 5.0, 5.0, 9.0]])},
        {"boxes": np.array([[200.0, 5.0, 300.0, 9.0]])},
    ],
)
def test_prompts_that_cannot_be_used_are_an_error_that_says_what_is_allowed(generator, prompts):
    with pytest.raises(InputError, match=r"within the image of 80×120"):
        generator.predict(smear(), CALIBRATION, **prompts)


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)])
def test_an_image_that_cannot_be_used_is_an_error(generator, image):
    with pytest.raises(InputError, match="uint8"):
        generator.generate(image, CALIBRATION, EVERYTHING)


def test_the_grid_gives_what_sams_automatic_generator_gives(sam, generator, monkeypatch):
    """The same records as SamAutomaticMaskGenerator's with one crop, computed here in full resolution.

    Masks of random weights all reach across the image: suppression, which would leave one, has a test of its own.
    """
    monkeypatch.setattr(official_sam, "BOX_NMS_IOU", 1.0)
    image = smear()
    params = EVERYTHING.model_copy(update={"predicted_iou_min": 0.88, "stability_min": 0.01})
    points = regular_grid((80, 120), 4)
    logits, iou = stock_masks(sam, image, points=points[:, ::-1].copy(), multimask=True)
    logits, iou = logits.flatten(0, 1), iou.flatten()
    stability = (logits > 1).flatten(1).sum(1) / (logits > -1).flatten(1).sum(1)
    good = torch.nonzero((iou > 0.88) & (stability >= 0.01) & (logits > 0).flatten(1).any(1))[:, 0]
    order = good[iou[good].argsort(descending=True, stable=True)]
    found = generator.generate(image, CALIBRATION, params)
    assert 10 < len(found) < len(iou)
    assert len(found) == len(order)
    for mask, i in zip(found, order, strict=True):
        assert_same_mask(mask, logits[i].numpy())
        assert mask.stability_score == pytest.approx(float(stability[i]), abs=0.02)


def test_thresholds_drop_masks(generator, monkeypatch):
    monkeypatch.setattr(official_sam, "BOX_NMS_IOU", 1.0)
    every = generator.generate(smear(), CALIBRATION, EVERYTHING)
    iou = np.median([m.predicted_iou for m in every])
    fewer = generator.generate(smear(), CALIBRATION, EVERYTHING.model_copy(update={"predicted_iou_min": float(iou)}))
    assert 0 < len(fewer) < len(every)
    assert all(m.predicted_iou > iou for m in fewer)
    stable = generator.generate(smear(), CALIBRATION, EVERYTHING.model_copy(update={"stability_min": 0.7}))
    assert 0 < len(stable) < len(every)
    assert all(m.stability_score >= 0.7 for m in stable)


def test_masks_whose_boxes_agree_are_suppressed_but_for_the_best(generator):
    found = generator.generate(smear(), CALIBRATION, EVERYTHING)
    scores = [m.predicted_iou for m in found]
    assert scores == sorted(scores, reverse=True)
    keep = non_maximum_suppression(np.array([m.bbox for m in found], float), np.array(scores), 0.7)
    assert len(keep) == len(found) < 48


def test_the_size_of_the_batches_changes_nothing(generator):
    one = generator.generate(smear(), CALIBRATION, EVERYTHING.model_copy(update={"points_per_batch": 1}))
    many = generator.generate(smear(), CALIBRATION, EVERYTHING.model_copy(update={"points_per_batch": 64}))
    assert [m.bbox for m in one] == [m.bbox for m in many]
    assert all((a.mask == b.mask).all() for a, b in zip(one, many, strict=True))


def test_prompts_at_the_cells_lie_on_cells_and_empty_glass_is_not_even_encoded(generator, monkeypatch):
    params = EVERYTHING.model_copy(update={"prompts": "cells"})
    image = smear()
    on_cell = image.astype(int)[..., 1] < 180
    found = generator.generate(image, CALIBRATION, params)
    assert found
    assert all(on_cell[int(m.point[0]), int(m.point[1])] for m in found)
    monkeypatch.setattr(generator, "_encode", lambda image: pytest.fail("encoded"))
    assert generator.generate(smear(centres=()), CALIBRATION, params) == []


def test_the_overlap_of_tiles_is_one_and_a_half_cells_and_calibration_is_left_alone(generator):
    assert generator.overlap_px(CALIBRATION) == 30
    assert generator.calibrate(smear(), CALIBRATION) is CALIBRATION


# --- prompts and suppression -----------------------------------------------------------------------------------------


def test_every_cell_gets_a_point_near_its_middle_and_neighbouring_cells_get_their_own():
    centres = ((20, 25), (20, 43), (50, 60), (30, 95))  # the first two touch
    points = points_on_cells(smear(centres=centres), CALIBRATION)
    for centre in centres:
        assert np.linalg.norm(points - centre, axis=1).min() < 3
    spacing = np.linalg.norm(points[:, None] - points, axis=-1)[np.triu_indices(len(points), 1)]
    assert spacing.min() > 2
    assert len(points) < 30


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    seed=st.integers(0, 99),
    diameter=st.floats(1, 60),
)
def test_points_lie_within_any_image(rows, columns, seed, diameter):
    image = np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), np.uint8)
    calibration = Calibration(rbc_diameter_px=diameter, background_rgb=GLASS, mean_brightness=200.0)
    points = points_on_cells(image, calibration)
    assert points.shape[1:] == (2,)
    assert ((points >= 0) & (points < image.shape[:2])).all()


def test_the_grid_of_points_is_one_for_all_tiles():
    image = smear()
    whole = {tuple(p) for p in points_on_cells(image, CALIBRATION).round(6)}
    part = points_on_cells(image[13:, 27:], CALIBRATION, origin=(13, 27)) + np.array([13, 27])
    on_grid = [tuple(p) for p in part.round(6) if all(abs((v - 5) % 10) < 1e-6 for v in p)]
    assert on_grid
    assert set(on_grid) <= whole | {tuple(p) for p in points_on_cells(image, CALIBRATION)}


def test_foreground_keeps_the_pallor_of_a_cell_and_finds_nothing_on_noise():
    image = smear(centres=((40, 60),), radius=15)
    image[37:44, 57:64] = np.array(GLASS, np.uint8)
    found = find_foreground(image, GLASS)
    assert found[40, 60]
    assert find_foreground(smear(centres=()), GLASS).mean() < 0.02  # specks


def test_the_regular_grid_is_sams():
    points = regular_grid((100, 200), 2)
    np.testing.assert_allclose(points, [[25, 50], [25, 150], [75, 50], [75, 150]])


def test_suppression_keeps_the_better_of_two_boxes_and_those_far_away():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 11], [50, 50, 60, 60]], float)
    assert non_maximum_suppression(boxes, np.array([0.5, 0.9, 0.1]), 0.7).tolist() == [1, 2]
    assert non_maximum_suppression(boxes[:0], np.zeros(0), 0.7).tolist() == []


def test_boxes_whose_iou_is_the_limit_itself_are_both_kept():
    boxes = np.array([[0, 0, 9, 9], [0, 2, 9, 10]], float)  # 63 / 90
    assert non_maximum_suppression(boxes, np.array([0.5, 0.9]), 0.7).tolist() == [1, 0]


def test_an_image_that_must_not_be_written_to_is_scaled_without_a_warning():
    image = np.zeros((20, 30, 3), np.uint8)
    image.flags.writeable = False
    assert resize_longest_side(image, 60).shape == (3, 40, 60)
