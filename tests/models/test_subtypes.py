"""The model that tells the kinds of white cells: its file, its answers, and what the shipped one knows."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from napari_bloodcell.core.errors import ModelError
from napari_bloodcell.models.cnn.subtypes import FORMAT, WINDOW_PX, SubtypeCnn, SubtypeInfo, SubtypeModel, network_of
from napari_bloodcell.models.load import load_subtypes, subtype_records

if TYPE_CHECKING:
    from pathlib import Path

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
    info = replace(INFO, red_level=None, window_px=64, widths=(8, 8, 16), is_relative=True)
    torch.manual_seed(0)
    model = SubtypeModel(network_of(info), info, name="small", device="cpu")
    (tmp_path / "small.safetensors").write_bytes(model.to_bytes())
    again = SubtypeModel.load(tmp_path / "small.safetensors", device="cpu")
    assert (again.info, again.view["size"]) == (info, 64)
    np.testing.assert_allclose(again.predict(windows(3)), model.predict(windows(3)), atol=2e-3)


def test_a_file_from_before_there_were_other_builds_is_still_read(model: SubtypeModel, tmp_path: Path) -> None:
    from safetensors.torch import load, save

    said = asdict(INFO)
    for name in ("window_px", "widths", "is_relative"):
        del said[name]
    metadata = {"format": FORMAT, "subtypes": json.dumps(said)}
    (tmp_path / "old.safetensors").write_bytes(save(load(model.to_bytes()), metadata))
    again = SubtypeModel.load(tmp_path / "old.safetensors", device="cpu")
    assert again.info == INFO
    np.testing.assert_allclose(again.predict(windows(3)), model.predict(windows(3)), atol=2e-3)


def test_a_relative_model_does_not_see_how_dark_a_stain_is() -> None:
    info = replace(INFO, is_relative=True)
    torch.manual_seed(0)
    model = SubtypeModel(network_of(info), info, name="relative", device="cpu")
    density = np.random.default_rng(0).uniform(0, 1.2, (2, 32, 32, 3)).repeat(4, 1).repeat(4, 2)
    dark, pale, blue = (np.rint(235 * np.exp(-density * gain)).astype(np.uint8) for gain in (1.0, 0.6, (0.6, 0.9, 1.2)))
    for other in (pale, blue):
        np.testing.assert_allclose(model.predict(other), model.predict(dark), atol=0.01)


def test_weights_are_written_in_one_order_whatever_the_order_in_memory(model: SubtypeModel) -> None:
    written = model.to_bytes()
    model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert model.to_bytes() == written


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
