"""The model that tells the kinds of white cells: its file, its answers, and what the shipped one knows."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from napari_bloodcell.core.cells import measure_cells
from napari_bloodcell.core.errors import ModelError
from napari_bloodcell.core.params import ClassifyParams
from napari_bloodcell.core.progress import drain
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.models.cnn.subtypes import FORMAT, WINDOW_PX, SubtypeCnn, SubtypeInfo, SubtypeModel, network_of
from napari_bloodcell.models.load import load_subtypes, subtype_records
from napari_bloodcell.stages.classify import iter_refine, kinds_not_told
from napari_bloodcell.stages.cutouts import unlike_training

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

INFO = SubtypeInfo("WBC", ("round", "lobed", "other"), 50.0, 235.0, (202.0, 166.0, 183.0))


@pytest.fixture
def model() -> SubtypeModel:
    torch.manual_seed(0)
    return SubtypeModel(SubtypeCnn(3), INFO, name="mine", device="cpu")


def windows(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, WINDOW_PX, WINDOW_PX, 3), dtype=np.uint8)


def test_what_a_cell_is_depends_on_nothing_but_its_window(model: SubtypeModel) -> None:
    seen = windows(11)
    alone = np.concatenate([model.predict(seen[i : i + 1]) for i in range(len(seen))])
    assert np.array_equal(model.predict(seen), alone)
    assert alone.sum(1) == pytest.approx(1)


def test_a_cell_has_no_top(model: SubtypeModel) -> None:
    seen = windows(2)
    np.testing.assert_allclose(model.predict(np.rot90(seen, axes=(1, 2)).copy()), model.predict(seen), atol=1e-5)


def test_a_higher_temperature_makes_it_less_sure_and_changes_no_answer(model: SubtypeModel) -> None:
    warm = SubtypeModel(model.network, replace(INFO, temperature=3.0), name="mine", device="cpu")
    cool, seen = model.predict(windows(5)), windows(5)
    assert (warm.predict(seen).max(1) < cool.max(1)).all()
    assert np.array_equal(warm.predict(seen).argmax(1), cool.argmax(1))


def test_a_model_comes_back_from_its_file(model: SubtypeModel, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(model.to_bytes())
    again = load_subtypes(str(path), "cpu")
    assert (again.name, again.info) == ("mine", INFO)
    np.testing.assert_allclose(again.predict(windows(3)), model.predict(windows(3)), atol=2e-3)  # float16 on disk
    assert subtype_records([str(path)]) == {"mine": {"name": "mine", "sha256": again.sha256}}


def test_a_model_of_another_build_comes_back_from_its_file(tmp_path: Path) -> None:
    info = replace(INFO, red_level=None, window_px=64, widths=(8, 8, 16), seen={"width": (2.0, 60.0)})
    torch.manual_seed(0)
    model = SubtypeModel(network_of(info), info, name="small", device="cpu")
    (tmp_path / "small.safetensors").write_bytes(model.to_bytes())
    again = SubtypeModel.load(tmp_path / "small.safetensors", device="cpu")
    assert (again.info, again.view["size"]) == (info, 64)
    np.testing.assert_allclose(again.predict(windows(3)), model.predict(windows(3)), atol=2e-3)


def test_a_file_from_before_there_were_other_builds_is_still_read(model: SubtypeModel, tmp_path: Path) -> None:
    from safetensors.torch import load, save

    said = asdict(INFO)
    for name in ("window_px", "widths", "seen"):
        del said[name]
    metadata = {"format": FORMAT, "subtypes": json.dumps(said)}
    (tmp_path / "old.safetensors").write_bytes(save(load(model.to_bytes()), metadata))
    again = SubtypeModel.load(tmp_path / "old.safetensors", device="cpu")
    assert again.info == INFO
    np.testing.assert_allclose(again.predict(windows(3)), model.predict(windows(3)), atol=2e-3)


def test_weights_are_written_in_one_order_whatever_the_order_in_memory(model: SubtypeModel) -> None:
    written = model.to_bytes()
    model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert model.to_bytes() == written


def test_classes_of_one_name_are_one_kind(model: SubtypeModel) -> None:
    merged = SubtypeModel(model.network, replace(INFO, classes=("round", "other", "other")), name="mine", device="cpu")
    apart, together = model.predict(windows(4)), merged.predict(windows(4))
    assert merged.kinds == ("round", "other")
    np.testing.assert_allclose(together, np.stack([apart[:, 0], apart[:, 1] + apart[:, 2]], 1), atol=1e-6)


def saved(path: Path, classes: tuple[str, ...], answer: int, **info: object) -> str:
    """Write a model of red cells that always answers the same."""
    network = SubtypeCnn(len(classes), (8, 8, 8, 8))
    with torch.no_grad():
        network.logits.weight.zero_()
        network.logits.bias.zero_()
        network.logits.bias[answer] = 5.0
    about = replace(INFO, refines="RBC", classes=classes, window_px=32, widths=(8, 8, 8, 8), **info)
    path.write_bytes(SubtypeModel(network, about, name=path.stem, device="cpu").to_bytes())
    return str(path)


def refined(*models: str, below: float = 0.0) -> pd.DataFrame:
    cells = np.zeros((60, 60), np.int32)
    cells[10:30, 10:30] = 1
    cells[40:55, 40:55] = 2
    table = measure_cells(cells).assign(cell_type=["RBC", "WBC"])
    params = ClassifyParams(subtypes=models, unidentified_below=below)
    image = np.full((60, 60, 3), 120, np.uint8)
    return drain(iter_refine(image, table, CALIBRATION, params=params))


CALIBRATION = Calibration(20.0, (230.0, 230.0, 230.0), 200.0, red_rgb=(190.0, 150.0, 160.0))


def test_of_two_models_the_later_has_the_last_word_where_it_has_anything_to_say(tmp_path: Path) -> None:
    shape = saved(tmp_path / "shape.safetensors", ("normal", "teardrop"), 1)
    healthy = saved(tmp_path / "healthy.safetensors", ("", "infected"), 0)
    ill = saved(tmp_path / "ill.safetensors", ("", "infected"), 1)
    assert list(refined(shape)["subtype"]) == ["teardrop", ""]
    assert list(refined(shape, healthy)["subtype"]) == ["teardrop", ""]
    assert list(refined(shape, ill)["subtype"]) == ["infected", ""]
    assert list(refined(healthy, below=0.999)["subtype"]) == ["", ""]
    assert list(refined(shape, below=0.999)["subtype"]) == ["unidentified", ""]


def test_a_smear_unlike_those_of_the_training_is_not_graded(tmp_path: Path) -> None:
    name = "width of a red cell, px"
    far = saved(tmp_path / "far.safetensors", ("normal", "teardrop"), 1, seen={name: (30.0, 60.0)})
    near = saved(tmp_path / "near.safetensors", ("normal", "teardrop"), 1, seen={name: (15.0, 60.0)})
    assert list(refined(far)["subtype"]) == ["", ""]
    assert list(refined(near)["subtype"]) == ["teardrop", ""]
    (said,) = kinds_not_told(ClassifyParams(subtypes=(far, near)), CALIBRATION, refined(near))
    assert said == f'Not graded by "{far}": unlike the training data ({name} 20, seen 30 to 60).'
    pale = replace(CALIBRATION, red_rgb=(225.0, 220.0, 222.0))
    stain = {"density in green": (0.2, 0.6)}
    assert unlike_training(stain, pale) == ["density in green 0.0445, seen 0.2 to 0.6"]
    assert unlike_training(stain, CALIBRATION) == []


def test_another_file_is_no_model_of_subtypes(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match="no model of subtypes"):
        SubtypeModel.load(damaged)
    from napari_bloodcell.models.weights import find

    with pytest.raises(ModelError, match="format"):
        SubtypeModel.load(find("cnn_embedded").path)
    with pytest.raises(ModelError, match='give "differential"'):
        load_subtypes("haematologist")
