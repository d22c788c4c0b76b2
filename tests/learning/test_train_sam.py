"""The embedded SAM learns a laboratory's masks, and what is written is a model of the program."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from scipy import ndimage

import napari_bloodcell as nb
from napari_bloodcell.cli.main import main
from napari_bloodcell.core.errors import ModelError, OutputError, SettingsError, TrainingError
from napari_bloodcell.learning.train_sam import iter_train_sam, read_masked_fields, train_sam
from napari_bloodcell.models.embedded import tuning as sam_tuning
from napari_bloodcell.models.embedded.proposals import propose
from napari_bloodcell.models.embedded.tuning import see_field
from napari_bloodcell.models.load import load_generator

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def write_field(
    folder: Path, name: str = "a", ending: str = "_cells", *, are_diamonds: bool = False, seed: int = 0
) -> Path:
    """Write a smear of discs, and masks that are these, or the diamonds in them."""
    rng = np.random.default_rng(seed)
    image = np.full((220, 220, 3), 232.0)
    cells = np.zeros((220, 220), np.uint16)
    yy, xx = np.mgrid[:220, :220]
    for i in range(16):
        y, x = 30 + 52 * (i // 4) + rng.integers(-4, 5), 30 + 52 * (i % 4) + rng.integers(-4, 5)
        distance = np.hypot(yy - y, xx - x)
        image[distance <= 14] = (200, 130, 140)
        cells[(abs(yy - y) + abs(xx - x) if are_diamonds else distance) <= 14] = i + 1
    folder.mkdir(exist_ok=True)
    smooth = ndimage.gaussian_filter(image, (1, 1, 0)) + rng.normal(0, 2, image.shape)
    Image.fromarray(smooth.clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
    tifffile.imwrite(folder / f"{name}{ending}.tif", cells)
    return folder


def test_the_decoder_learns_masks_that_are_drawn_otherwise(tmp_path: Path):
    folder = write_field(tmp_path / "lab", are_diamonds=True)
    training = train_sam(folder, tmp_path / "mine.safetensors", steps=40, learning_rate=1e-3, device="cpu")
    assert training.iou_after > training.iou_before + 0.05
    assert (training.n_train, training.n_val) == (13, 3)
    field = read_masked_fields(folder, load_generator("embedded", "cpu"))[0]
    box = np.argwhere(field.cells == 6)
    box = np.array([[*box.min(0), *(box.max(0) + 1)]], float)
    areas = [
        load_generator(model, "cpu").predict(field.image, field.calibration, boxes=box)[0].area
        for model in ("embedded", str(training.path))
    ]
    assert areas[1] < 0.9 * areas[0]


def test_the_encoder_stays_as_it_was_and_provenance_is_written(tmp_path: Path):
    training = train_sam(write_field(tmp_path / "lab"), tmp_path / "mine.safetensors", steps=2, device="cpu")
    old, new = load_generator("embedded", "cpu"), load_generator(str(training.path), "cpu")
    for key, value in old.network.encoder.state_dict().items():
        torch.testing.assert_close(new.network.encoder.state_dict()[key], value)
    assert new.settings["fine_tuned_from"] == old.sha256
    assert new.settings["fine_tuning_steps"] == "2"


def test_the_result_is_never_worse_on_the_cells_that_were_kept(tmp_path: Path):
    training = train_sam(
        write_field(tmp_path / "lab"), tmp_path / "m.safetensors", steps=3, learning_rate=0.05, device="cpu"
    )
    assert training.iou_after >= training.iou_before


def test_weights_that_gain_nothing_stay_as_they_were(tmp_path: Path):
    folder = write_field(tmp_path / "lab")
    training = train_sam(folder, tmp_path / "m.safetensors", steps=20, learning_rate=1e-6, device="cpu")
    old, new = load_generator("embedded", "cpu").network, load_generator(str(training.path), "cpu").network
    for key, value in old.state_dict().items():
        torch.testing.assert_close(new.state_dict()[key], value, rtol=0, atol=0)


def test_what_other_cells_cover_counts_neither_for_nor_against_a_mask(tmp_path: Path):
    folder = write_field(tmp_path / "lab")
    cells = tifffile.imread(folder / "a_cells.tif")
    generator = load_generator("embedded", "cpu")
    field = read_masked_fields(folder, generator)[0]
    field = replace(field, calibration=replace(field.calibration, rbc_diameter_px=28.0))
    overlaps = []
    for covered in (cells, np.where((cells == 6) & (np.indices(cells.shape)[1] > 86), 40, cells)):
        seen = see_field(generator, replace(field, cells=covered.astype(np.int32)))
        row = np.flatnonzero(seen.ids == 6)
        whole = see_field(generator, field).boxes[np.flatnonzero(seen.ids == 6)]
        middle = (whole[:, :2] + whole[:, 2:]) / 2
        decoded = sam_tuning._decoded(generator.network, seen, row, middle, whole, "both")
        masks, _, target, others = next(decoded)
        found, truth = (masks[:, 0] > 0) & ~others, target > 0.5
        overlaps.append(float((found & truth).sum() / (found | truth).sum()))
        assert bool((masks[:, 0] > 0)[others].any()) == (covered is not cells)
    assert overlaps[1] == pytest.approx(overlaps[0], abs=0.1)  # half of it, if they counted


def test_one_seed_gives_one_file(tmp_path: Path):
    folder = write_field(tmp_path / "lab")
    for name in ("a", "b"):
        train_sam(folder, tmp_path / f"{name}.safetensors", steps=2, seed=5, device="cpu")
    first, second = (load_generator(str(tmp_path / f"{n}.safetensors"), "cpu").network for n in ("a", "b"))
    for key, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[key], value, rtol=0, atol=0)


def test_stopping_keeps_the_best_until_then(tmp_path: Path):
    asked = iter(range(100))
    training = train_sam(
        write_field(tmp_path / "lab"),
        tmp_path / "m.safetensors",
        steps=50,
        device="cpu",
        should_stop=lambda: next(asked) >= 3,
    )
    assert training.steps == 4
    assert training.path.is_file()


def test_the_command_line_trains_and_tells_what_came_of_it(tmp_path: Path, capsys):
    folder = write_field(tmp_path / "lab")
    out = tmp_path / "out" / "mine.safetensors"
    assert main(["train-sam", str(folder), "-o", str(out), "--steps", "2", "--device", "cpu", "-q"]) == 0
    assert "3 cells that were kept" in capsys.readouterr().out
    assert load_generator(str(out), "cpu").name == "embedded"


@pytest.mark.parametrize("ending", ["_cells", "_masks", "_labels"])
def test_label_images_are_found_by_their_names(tmp_path: Path, ending: str):
    fields = read_masked_fields(write_field(tmp_path / "lab", ending=ending), load_generator("embedded", "cpu"))
    assert [f.name for f in fields] == ["a"]


def test_masks_are_learned_at_the_scale_and_with_the_boxes_with_which_cells_will_be_found(tmp_path: Path):
    generator = load_generator("embedded", "cpu")
    field = read_masked_fields(write_field(tmp_path / "lab", are_diamonds=True), generator)[0]
    assert field.calibration == nb.segment(field.image, params=nb.SegmentParams(device="cpu")).calibration
    seen = see_field(generator, field)
    found = propose(seen.canvas.heat, seen.canvas.sides, nb.SegmentParams().score_min).boxes.numpy()
    assert {tuple(box) for box in seen.proposed} <= {tuple(box) for box in found}
    assert not np.array_equal(seen.proposed, seen.boxes)


def test_the_area_that_boxes_of_masks_share():
    masks = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    masks[0, 0, 1, 2], masks[0, 0, 4, 5] = True, True  # a box of 4 × 4
    masks[1, 0, 3:8, 3:8] = True
    assert sam_tuning._box_area(masks[0]).tolist() == [16]
    assert sam_tuning._box_area(masks[0], masks[1]).tolist() == [6]


def test_a_binary_mask_is_taken_apart(tmp_path: Path):
    folder = write_field(tmp_path / "lab")
    cells = tifffile.imread(folder / "a_cells.tif")
    tifffile.imwrite(folder / "a_cells.tif", (cells > 0).astype(np.uint8) * 255)
    assert read_masked_fields(folder, load_generator("embedded", "cpu"))[0].cells.max() == 16


def test_a_result_of_the_program_is_read_with_its_image(tmp_path: Path):
    image = Image.open(write_field(tmp_path / "lab") / "a.png")
    image.save(tmp_path / "b.png")
    image.close()
    assert main(["analyse", str(tmp_path / "b.png"), "-o", str(tmp_path / "results"), "--device", "cpu", "-q"]) == 0
    fields = read_masked_fields(tmp_path / "results", load_generator("embedded", "cpu"))
    assert len(fields) == 1
    assert fields[0].image.shape == (*fields[0].cells.shape, 3)
    assert fields[0].cells.max() >= 14


def test_a_folder_without_masks_is_refused(tmp_path: Path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    generator = load_generator("embedded", "cpu")
    with pytest.raises(TrainingError, match="holds no masks"):
        read_masked_fields(tmp_path, generator)
    with pytest.raises(TrainingError, match="no folder"):
        read_masked_fields(tmp_path / "none", generator)


def test_masks_that_do_not_fit_are_refused(tmp_path: Path):
    folder = write_field(tmp_path / "lab")
    tifffile.imwrite(folder / "a_cells.tif", np.pad(tifffile.imread(folder / "a_cells.tif"), 3))
    with pytest.raises(TrainingError, match="do not belong"):
        train_sam(folder, tmp_path / "m.safetensors", steps=1, device="cpu")
    tifffile.imwrite(folder / "a_cells.tif", np.zeros((220, 220), np.uint16))
    with pytest.raises(TrainingError, match="no cell"):
        read_masked_fields(folder, load_generator("embedded", "cpu"))
    tifffile.imwrite(folder / "a_cells.tif", np.zeros((220, 220), np.float32))
    with pytest.raises(TrainingError, match="whole numbers"):
        read_masked_fields(folder, load_generator("embedded", "cpu"))


def test_too_few_cells_are_refused(tmp_path: Path):
    folder = write_field(tmp_path / "lab")
    cells = tifffile.imread(folder / "a_cells.tif")
    tifffile.imwrite(folder / "a_cells.tif", np.where(cells <= 2, cells, 0).astype(np.uint16))
    with pytest.raises(TrainingError, match="too few"):
        train_sam(folder, tmp_path / "m.safetensors", steps=1, device="cpu")


def test_what_is_no_embedded_sam_cannot_be_fine_tuned(tmp_path: Path):
    from napari_bloodcell.models.embedded.tuning import load_start

    with pytest.raises(ModelError, match="official ones cannot"):
        load_start(object())
    with pytest.raises(OutputError, match=r"\.safetensors"):
        next(iter_train_sam(tmp_path, tmp_path / "weights.pth"))


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"learning_rate": 2.0}, {"step": 3}])
def test_settings_that_are_none_are_refused(tmp_path: Path, wrong: dict):
    with pytest.raises(SettingsError, match="cannot be used"):
        next(iter_train_sam(tmp_path, tmp_path / "m.safetensors", **wrong))


def test_the_flags_of_the_command_line_are_the_settings(capsys):
    assert main(["train-sam", "--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')}" in told for name in nb.TrainSamParams.model_fields)
