"""Kinds are learned from cells with their surroundings, from the model before, and new kinds may be among them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

import napari_bloodcell as nb
from napari_bloodcell.cli.main import main
from napari_bloodcell.core.cells import measure_cells
from napari_bloodcell.core.errors import TrainingError
from napari_bloodcell.core.params import ClassifyParams, TrainParams
from napari_bloodcell.core.progress import drain
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.learning.kinds import add_kinds, kind_parts, kind_set
from napari_bloodcell.learning.training_set import Added
from napari_bloodcell.models.cnn.subtypes import SubtypeModel, middle_of
from napari_bloodcell.models.load import load_subtypes
from napari_bloodcell.stages.classify import iter_refine
from napari_bloodcell.stages.cutouts import cut_windows

if TYPE_CHECKING:
    from pathlib import Path

GLASS = (230.0, 232.0, 228.0)
CALIBRATION = Calibration(50.0, GLASS, 220.0, "given", red_rgb=(190.0, 150.0, 170.0))
KINDS = ("lymphocyte", "smudge cell")


def smear(seed: int = 0, n: int = 12) -> tuple[np.ndarray, SimpleNamespace]:
    """A row of white cells: violet ones are lymphocytes, yellow ones of a kind that the model does not know."""
    rng = np.random.default_rng(seed)
    image = np.full((100, 100 * n, 3), GLASS) + rng.normal(0, 3, (100, 100 * n, 3))
    cells = np.zeros(image.shape[:2], np.int32)
    yy, xx = np.mgrid[:100, : 100 * n]
    for i in range(n):
        inside = (yy - 50) ** 2 + (xx - 100 * i - 50) ** 2 <= rng.uniform(26, 32) ** 2
        image[inside] = ((110, 70, 160), (200, 180, 60))[i % 2] + rng.normal(0, 6, (int(inside.sum()), 3))
        cells[inside] = i + 1
    kinds = [KINDS[i % 2] for i in range(n)]
    table = measure_cells(cells, cell_type="WBC", type_source="user", subtype=kinds, subtype_source="user")
    return np.clip(image, 1, 255).astype(np.uint8), SimpleNamespace(cells=cells, table=table, calibration=CALIBRATION)


def a_set(folder: Path, n_smears: int = 2) -> Path:
    for seed in range(n_smears):
        image, segmented = smear(seed)
        about = {"annotator": "ada", "name": f"smear {seed}", "image_sha256": f"{seed:064d}"}
        assert add_kinds(kind_set(folder, "WBC"), image, segmented, "WBC", **about) == Added(12, 0, 0)
    return folder


def test_examples_are_seen_as_the_model_will_see_them(tmp_path: Path) -> None:
    image, segmented = smear()
    start = load_subtypes("differential", "cpu")
    parts = kind_parts(a_set(tmp_path, 1), "WBC", start)
    seen = cut_windows(image, segmented.table, CALIBRATION, **start.view)
    inner = np.s_[2:-2, 2:-2]  # what is resampled ends at the rim of a window, and of an example farther out
    for _, part in parts.items():
        for window in middle_of(part.cutouts, start.info.window_px):
            assert min(np.abs(window[inner].astype(int) - other[inner]).max() for other in seen) <= 1


def test_the_same_cell_is_added_once_and_only_kinds_that_a_person_told(tmp_path: Path) -> None:
    image, segmented = smear()
    segmented.table.loc[[1, 2], "subtype_source"] = "model"
    kept = kind_set(tmp_path, "WBC")
    about = {"annotator": "ada", "name": "smear", "image_sha256": "0" * 64}
    assert add_kinds(kept, image, segmented, "WBC", **about) == Added(10, 0, 0)
    assert add_kinds(kept, image, segmented, "WBC", **about) == Added(0, 10, 0)
    assert add_kinds(kind_set(tmp_path, "RBC"), image, segmented, "RBC", **about) == Added(0, 0, 0)


def test_a_new_kind_is_learned_beside_the_known_ones_and_told_by_the_program(tmp_path: Path) -> None:
    params = TrainParams(epochs=6, device="cpu")
    training = nb.train(a_set(tmp_path / "set"), params=params, of="WBC")
    report = training.report
    assert report.classes == [*load_subtypes("differential").kinds, "smudge cell"]
    assert report.parts["test"].accuracy == 1
    assert report.before["test"].accuracy < 0.8
    path = tmp_path / "mine.safetensors"
    training.classifier.save(path)
    image, segmented = smear(7)
    table = segmented.table.assign(subtype="", subtype_source="model")
    params = ClassifyParams(subtypes=(str(path),), device="cpu")
    told = drain(iter_refine(image, table, CALIBRATION, params=params))
    assert told["subtype"].tolist() == [KINDS[i % 2] for i in range(12)]


def test_kinds_of_a_type_without_a_model_begin_from_that_of_white_cells(tmp_path: Path) -> None:
    image, segmented = smear()
    segmented.table["cell_type"] = "platelet"
    about = {"annotator": "ada", "name": "smear", "image_sha256": "0" * 64}
    add_kinds(kind_set(tmp_path, "platelet"), image, segmented, "platelet", **about)
    training = nb.train(tmp_path, params=TrainParams(epochs=4, device="cpu"), of="platelet")
    assert isinstance(training.classifier, SubtypeModel)
    assert (training.classifier.info.refines, training.classifier.classes) == ("platelet", KINDS)
    assert training.report.before == {}
    assert training.report.parts["train"].accuracy == 1


def test_one_seed_gives_one_model(tmp_path: Path) -> None:
    params = TrainParams(epochs=1, device="cpu", seed=3)
    first, second = (nb.train(a_set(tmp_path / str(i)), params=params, of="WBC") for i in range(2))
    assert first.report == second.report  # but for the seconds it took
    seen = np.random.default_rng(0).integers(1, 256, (3, 128, 128, 3), dtype=np.uint8)
    assert np.array_equal(first.classifier.predict(seen), second.classifier.predict(seen))


def test_what_cannot_be_learned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no kinds of RBC"):
        nb.train(tmp_path, of="RBC")
    with pytest.raises(TrainingError, match="'blast' has no kinds"):
        nb.train(tmp_path, of="blast")
    image, segmented = smear()
    segmented.table["subtype"] = "lymphocyte"
    about = {"annotator": "ada", "name": "smear", "image_sha256": "0" * 64}
    add_kinds(kind_set(tmp_path, "WBC"), image, segmented, "WBC", **about)
    with pytest.raises(TrainingError, match="only lymphocyte"):
        nb.train(tmp_path, of="WBC")


def test_the_command_line_trains_kinds_and_writes_their_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_set(tmp_path / "set")
    output = tmp_path / "mine.safetensors"
    command = ["train", str(tmp_path / "set"), "-o", str(output), "--of", "wbc"]
    assert main([*command, "--epochs", "2", "--device", "cpu"]) == 0
    assert SubtypeModel.load(output).classes[-1] == "smudge cell"
    report = json.loads(output.with_suffix(".report.json").read_text())
    assert np.shape(report["parts"]["test"]["confusion"]) == (8, 8)
    assert "typed as" in capsys.readouterr().out
    assert main([*command, "--quick"]) == 2
