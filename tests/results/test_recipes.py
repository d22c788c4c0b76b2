from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_bloodcell.core.errors import SettingsError
from napari_bloodcell.core.params import ClassifyParams, CountParams, Recipe, SegmentParams
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.results.recipes import (
    ImageRecord,
    make_record,
    portable,
    read_recipe,
    read_record,
    to_json,
)

if TYPE_CHECKING:
    from pathlib import Path


def save(folder: Path, content: Any) -> Path:
    path = folder / "recipe.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def a_record(recipe: Recipe):
    return make_record(
        recipe,
        models={"segment": {"name": "embedded", "sha256": "a" * 64}},
        image=ImageRecord(name="smear", sha256="b" * 64, height=3, width=4),
        calibration=Calibration(
            rbc_diameter_px=36.5,
            background_rgb=(1, 2, 3),
            mean_brightness=150.25,
            source="estimated",
            red_rgb=(0.5, 1, 2),
        ),
        device="cpu",
    )


RECIPES = st.builds(
    Recipe,
    segment=st.builds(
        SegmentParams,
        tile_size=st.integers(64, 8192),
        rbc_diameter_px=st.none() | st.floats(5, 2000),
        overlap_max=st.floats(0.01, 1),
    ),
    count=st.builds(CountParams, bandwidth=st.none() | st.floats(1e-3, 1e6)),
    seed=st.integers(0, 2**40),
)


@given(RECIPES)
def test_settings_survive_the_file(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> None:
    folder = tmp_path_factory.mktemp("recipe")
    assert read_recipe(save(folder, to_json(recipe))) == recipe
    assert read_recipe(save(folder, to_json(a_record(recipe)))) == recipe


def test_a_record_tells_versions_weights_image_and_device(tmp_path: Path) -> None:
    record = read_record(save(tmp_path, to_json(a_record(Recipe.paper()))))
    assert record.recipe == Recipe.paper()
    assert record.models["segment"].sha256 == "a" * 64
    assert record.image.sha256 == "b" * 64
    assert record.calibration.rbc_diameter_px == 36.5
    assert {"numpy", "torch"} <= set(record.packages)


def test_a_part_of_the_settings_is_enough(tmp_path: Path) -> None:
    recipe = read_recipe(save(tmp_path, {"count": {"rule": "paper"}}))
    assert recipe == Recipe(count=CountParams(rule="paper"))
    assert read_recipe(save(tmp_path, {})) == Recipe()


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = save(tmp_path, {"count": {"rule": "paper", "bandwidth": 3.0}, "segment": {"model": "gone.safetensors"}})
    recipe = read_recipe(path, overrides={"count": {"rule": "none"}, "segment": {"model": "vit_b"}})
    assert recipe.count == CountParams(rule="none", bandwidth=3.0)
    assert recipe.segment.model == "vit_b"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param({"segment": {"tile_sise": 512}}, "tile_sise.*did you mean 'tile_size'", id="misspelt setting"),
        pytest.param({"segmnt": {}}, "segmnt.*did you mean 'segment'", id="misspelt stage"),
        pytest.param({"zzz": 1}, "zzz.*allowed are classify, count, seed, segment", id="unknown stage"),
        pytest.param({"segment": {"tile_size": 3}}, r"tile_size: .*64.*\(3 was given\)", id="out of bounds"),
        pytest.param({"segment": {"tile_size": "wide"}}, "tile_size.*'wide'", id="wrong type"),
        pytest.param({"segment": 3}, "segment", id="stage that is a number"),
        pytest.param({"recipe": {}}, "models", id="record without models"),
        pytest.param({"kind": "napari-bloodcell recipe", "version": 2}, "version", id="newer format"),
        pytest.param({"kind": "other"}, "kind", id="another kind of file"),
        pytest.param([1], "object", id="list"),
        pytest.param("{", "not JSON", id="no JSON"),
        pytest.param("[" * 100_000, "not JSON", id="deeply nested"),
        pytest.param('{"seed": 1}' + " " * 1_000_001, "too large", id="huge"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_recipe(save(tmp_path, content))


def test_an_unknown_field_beside_the_recipe_is_refused(tmp_path: Path) -> None:
    content = json.loads(to_json(a_record(Recipe()))) | {"command": "rm"}
    with pytest.raises(SettingsError, match="command is not a setting"):
        read_recipe(save(tmp_path, content))


def test_a_missing_file_and_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no recipe"):
        read_recipe(tmp_path / "nowhere.json")
    (tmp_path / "recipe.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="not JSON"):
        read_recipe(tmp_path / "recipe.json")


@pytest.mark.parametrize(
    "model",
    [
        "../outside.safetensors",
        "sub/../../outside.safetensors",
        "/etc/passwd",
        "C:\\models\\a.pth",
        "..\\outside.safetensors",
        "\\\\server\\share\\a.pth",
        "~/a.pth",
        ".",
        "a\0.pth",
    ],
)
@pytest.mark.parametrize("stage", ["segment", "classify"])
def test_a_model_path_that_leaves_the_recipes_folder_is_refused(tmp_path: Path, stage: str, model: str) -> None:
    (tmp_path / "outside.safetensors").write_bytes(b"x")
    (tmp_path / "here").mkdir()
    with pytest.raises(SettingsError, match=f"--{stage}-model"):
        read_recipe(save(tmp_path / "here", {stage: {"model": model}}))


def test_a_link_that_leads_out_of_the_recipes_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside.pth").write_bytes(b"x")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "model.pth").symlink_to(tmp_path / "outside.pth")
    with pytest.raises(SettingsError, match="not in the recipe's folder"):
        read_recipe(save(tmp_path / "here", {"segment": {"model": "model.pth"}}))


def test_a_model_file_beside_the_recipe_is_found(tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").write_bytes(b"x")
    recipe = read_recipe(save(tmp_path, {"classify": {"model": "mine.safetensors"}}))
    assert recipe.classify.model == str(tmp_path.resolve() / "mine.safetensors")


def test_a_recipe_is_written_without_the_folders_of_its_models() -> None:
    recipe = Recipe(
        segment=SegmentParams(model="/home/me/sam.pth"), classify=ClassifyParams(model=r"C:\me\mine.safetensors")
    )
    assert portable(recipe).segment.model == "sam.pth"
    assert portable(recipe).classify.model == "mine.safetensors"
    assert portable(Recipe.paper()) == Recipe.paper()
