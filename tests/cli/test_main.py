from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile

from napari_bloodcell.cli import batch
from napari_bloodcell.cli import main as cli
from napari_bloodcell.cli.folders import collect, folder_for, folder_names
from napari_bloodcell.cli.settings import recipe_from
from napari_bloodcell.core.errors import DownloadError, InputError, SettingsError
from napari_bloodcell.core.params import ClassifyParams, CountParams, Recipe, SegmentParams
from napari_bloodcell.images.open import read_plane
from napari_bloodcell.models import weights
from napari_bloodcell.results.recipes import read_recipe, to_json
from napari_bloodcell.results.store import read_result
from tests.fakes import BrightnessClassifier, ThresholdGenerator

N_CELLS = 6


def smear(*, seed: int = 0, n: int = N_CELLS) -> np.ndarray:
    """Discs on bright glass; the first is darker than the others."""
    image = np.full((120, 160, 3), 230, np.uint8)
    y, x = np.mgrid[:120, :160]
    for i in range(n):
        inside = (y - 30 - 60 * (i // 3)) ** 2 + (x - 30 - 50 * (i % 3)) ** 2 < 15**2
        image[inside] = 30 if i == 0 else 120
    image[0, 0] = seed
    return image


def save(path: Path, **options: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(smear(**options)).save(path)
    return path


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def fake_models(monkeypatch: pytest.MonkeyPatch) -> batch.Models:
    models = batch.Models(ThresholdGenerator(), BrightnessClassifier())
    monkeypatch.setattr(batch, "load_models", lambda recipe, quiet=False: models)
    return models


def run(*arguments: object) -> int:
    return cli.main([str(a) for a in arguments])


# --- analyse ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fake_models")
def test_one_image_gives_every_file_and_its_counts_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = save(tmp_path / "smear.png")
    assert run("analyse", image, "--output", tmp_path / "out", "--geojson") == cli.DONE
    names = {"counts.json", "cells.csv", "cells.parquet", "smear.ome.zarr", "overlay.png", "kde.png", "recipe.json"}
    names |= {"cells.geojson", "quality.csv"}
    assert {p.name for p in (tmp_path / "out" / "smear").iterdir()} == names
    stored = read_result(tmp_path / "out" / "smear")
    assert len(stored.table) == N_CELLS
    out, err = capsys.readouterr()
    assert f"RBC {stored.counts['RBC']}" in out
    assert "tiles: 1 of 1" in err
    (row,) = rows(tmp_path / "out")
    assert (row["status"], row["folder"], row["error"]) == ("done", "smear", "")
    assert int(row["RBC"]) == stored.counts["RBC"]
    assert int(row["RBC_low"]) <= int(row["RBC"]) <= int(row["RBC_high"])


@pytest.mark.usefixtures("fake_models")
def test_flags_say_what_is_written(tmp_path: Path) -> None:
    image = save(tmp_path / "smear.png")
    assert (
        run("analyse", image, "-o", tmp_path / "out", "--format", "tiff", "--no-overlay", "--no-kde", "-q") == cli.DONE
    )
    names = {"counts.json", "cells.csv", "cells.parquet", "cells.tif", "types.tif", "quality.csv", "recipe.json"}
    assert {p.name for p in (tmp_path / "out" / "smear").iterdir()} == names


@pytest.mark.usefixtures("fake_models")
def test_settings_come_from_flags_and_are_recorded(tmp_path: Path) -> None:
    image = save(tmp_path / "smear.png")
    flags = ["--tile-size", 64, "--no-brighten", "--rbc-diameter-px", 30.5, "--rule", "none", "--seed", 7]
    assert run("analyse", image, "-o", tmp_path / "out", "--device", "cpu", *flags) == cli.DONE
    recipe = read_recipe(tmp_path / "out" / "smear" / "recipe.json")
    assert recipe.segment == SegmentParams(tile_size=64, brighten=False, rbc_diameter_px=30.5, device="cpu")
    assert recipe.classify == ClassifyParams(device="cpu")
    assert recipe.count == CountParams(rule="none")
    assert recipe.seed == 7


@pytest.mark.usefixtures("fake_models")
def test_a_recorded_recipe_replays_to_the_same_numbers(tmp_path: Path) -> None:
    image = save(tmp_path / "smear.png")
    flags = ["--rbc-diameter-px", 25, "--rule", "paper", "--format", "tiff"]
    assert run("analyse", image, "-o", tmp_path / "first", *flags) == cli.DONE
    recipe = tmp_path / "first" / "smear" / "recipe.json"
    assert run("analyse", image, "-o", tmp_path / "again", "--recipe", recipe, "--format", "tiff") == cli.DONE
    for path in (tmp_path / "first" / "smear").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / "smear" / path.name).read_bytes(), path.name


def test_a_replay_with_other_weights_says_so(
    tmp_path: Path, fake_models: batch.Models, capsys: pytest.CaptureFixture[str]
) -> None:
    image = save(tmp_path / "smear.png")
    assert run("analyse", image, "-o", tmp_path / "first") == cli.DONE
    assert isinstance(fake_models.classifier, BrightnessClassifier)
    fake_models.classifier.sha256 = "f" * 64
    recipe = tmp_path / "first" / "smear" / "recipe.json"
    assert run("analyse", image, "-o", tmp_path / "again", "--recipe", recipe) == cli.DONE
    assert "The classify model is brightness (ffffffffffff…), not the one of" in capsys.readouterr().err


@pytest.mark.usefixtures("fake_models")
def test_images_that_fail_are_named_and_the_others_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "in" / "a.png")
    good = save(tmp_path / "in" / "c.jpg").read_bytes()
    (tmp_path / "in" / "b.jpg").write_bytes(good[: len(good) // 2])
    missing = tmp_path / "gone.png"
    assert run("analyse", tmp_path / "in", missing, "-o", tmp_path / "out") == cli.SOME_FAILED
    status = {Path(row["image"]).name: row["status"] for row in rows(tmp_path / "out")}
    assert status == {"a.png": "done", "b.jpg": "failed", "c.jpg": "done", "gone.png": "failed"}
    error = capsys.readouterr().err
    assert f"{tmp_path / 'in' / 'b.jpg'}: failed:" in error
    assert "truncated" in error
    assert "2 of 4 images failed" in error
    assert not (tmp_path / "out" / "b").exists()


def test_a_failing_tile_makes_an_image_incomplete_by_name(
    tmp_path: Path, fake_models: batch.Models, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(fake_models.generator, ThresholdGenerator)
    fake_models.generator.fails_on = (0, 0)
    image = save(tmp_path / "smear.png")
    assert run("analyse", image, "-o", tmp_path / "out") == cli.SOME_FAILED
    (row,) = rows(tmp_path / "out")
    assert row["status"] == "incomplete"
    assert "out of memory" in row["error"]
    assert "out of memory" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "smear" / "counts.json").read_text())["failed_tiles"]


@pytest.mark.usefixtures("fake_models")
def test_an_unforeseen_error_in_one_image_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    analyse = batch.iter_analyse

    def fails_on_a(plane: Any, **options: Any) -> Any:
        if plane.name == "a":
            raise MemoryError("too much")
        return analyse(plane, **options)

    monkeypatch.setattr(batch, "iter_analyse", fails_on_a)
    for name in ("a.png", "b.png"):
        save(tmp_path / "in" / name)
    assert run("analyse", tmp_path / "in", "-o", tmp_path / "out") == cli.SOME_FAILED
    failed, done = rows(tmp_path / "out")
    assert (failed["status"], done["status"], done["error"]) == ("failed", "done", "")
    assert failed["error"].startswith("There is not enough memory (MemoryError: too much).")


@pytest.mark.usefixtures("fake_models")
def test_an_image_without_cells_is_done_with_zeros(tmp_path: Path) -> None:
    image = save(tmp_path / "white.png", n=0)
    assert run("analyse", image, "-o", tmp_path / "out", "--geojson") == cli.DONE
    assert rows(tmp_path / "out")[0]["RBC"] == "0"


@pytest.mark.usefixtures("fake_models")
def test_each_image_of_a_batch_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, decode = [], tifffile.TiffPageSeries.asarray
    monkeypatch.setattr(
        tifffile.TiffPageSeries, "asarray", lambda self, **more: decoded.append(self) or decode(self, **more)
    )
    for name in ("a.tif", "b.tif"):
        tifffile.imwrite(tmp_path / name, smear(), photometric="rgb", compression="zlib")
    assert all(batch.Image(0, tmp_path / name, name).is_ordinary for name in ("a.tif", "b.tif"))
    assert decoded == []  # as the process asks that hands images out to others
    assert run("analyse", tmp_path, "-o", tmp_path / "out", "-q") == cli.DONE
    assert len(decoded) == 2


@pytest.mark.usefixtures("fake_models")
def test_what_was_done_to_an_image_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 3
    PIL.Image.fromarray(smear()).save(tmp_path / "turned.png", exif=exif)
    run("analyse", tmp_path / "turned.png", "-o", tmp_path / "out", "-q")
    err = capsys.readouterr().err
    assert err.count("it is read as people see it") == 1
    assert ".py" not in err
    assert rows(tmp_path / "out")[0]["warnings"] == ""  # the picture is as good as any other


@pytest.mark.parametrize("n", [1, 2])
def test_dicom_files_of_a_folder_are_tried_or_named(n: int, tmp_path: Path) -> None:
    save(tmp_path / "smear.jpg")
    slides = [tmp_path / f"level_{i}.dcm" for i in range(n)]
    for path in slides:
        path.write_bytes(b"\0" * 128 + b"DICM")
    found, missing = collect([str(tmp_path)])
    if n == 1:
        assert (found, missing) == ([*slides, tmp_path / "smear.jpg"], {})
        with pytest.raises(InputError, match=r"level_0\.dcm is not read: OpenSlide finds no slide"):
            read_plane(slides[0])
    else:
        assert found == [tmp_path / "smear.jpg"]
        assert list(missing) == [str(path) for path in slides]
        assert all("levels of one slide" in why for why in missing.values())


@pytest.mark.usefixtures("fake_models")
def test_an_image_of_a_folder_that_is_not_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    assert run("analyse", tmp_path / "in", "-o", tmp_path / "out", "-q") == cli.SOME_FAILED
    assert "photo.heic is left out: .heic files are not read" in capsys.readouterr().err
    assert [row["status"] for row in rows(tmp_path / "out")] == ["done", "failed"]


@pytest.mark.usefixtures("fake_models")
def test_the_end_of_a_line_of_a_windows_list_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = save(tmp_path / "a.png")
    assert run("analyse", image, f"{image}\r", "-o", tmp_path / "out", "-q") == cli.SOME_FAILED
    err = capsys.readouterr().err
    assert "a.png\\r. It ends as the lines of a Windows list do" in err
    assert "\r" not in err


@pytest.mark.usefixtures("fake_models")
def test_images_of_the_same_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    images = [save(tmp_path / place / "smear.png", seed=i) for i, place in enumerate(("A", "B"))]
    assert run("analyse", *images, "-o", tmp_path / "out") == cli.DONE
    assert [row["folder"] for row in rows(tmp_path / "out")] == ["A_smear", "B_smear"]
    for image in images:  # now one by one: the second run must not replace the first's result
        assert run("analyse", image, "-o", tmp_path / "one") == cli.DONE
    assert {p.name for p in (tmp_path / "one").glob("[!.]*")} == {"smear", "smear_2", "summary.csv"}
    assert run("analyse", images[1], "-o", tmp_path / "one") == cli.DONE  # the same image again: its own folder
    assert {p.name for p in (tmp_path / "one").glob("[!.]*")} == {"smear", "smear_2", "summary.csv"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "at least one image", id="no image"),
        pytest.param(["nowhere.png"], "no image nowhere.png", id="missing image"),
        pytest.param(["*.tiff"], r"no image \*\.tiff", id="glob of nothing"),
        pytest.param(["empty"], "empty holds no image", id="folder without images"),
        pytest.param([""], "'' is empty", id="empty name"),
        pytest.param(["a.png", "--output="], "'--output=' is empty", id="empty output"),
        pytest.param(["a.png", "--tile-size", "3"], "--tile-size.*64", id="setting out of bounds"),
        pytest.param(["a.png", "--tile-sise", "3"], "--tile-sise", id="unknown flag"),
        pytest.param(["a.png", "--recipe", "gone.json"], r"no recipe gone\.json", id="missing recipe"),
        pytest.param(["a.png", "--recipe", "bad.json"], "tile_sise is not a setting", id="recipe with unknown setting"),
        pytest.param(["a.png", "--recipe", "ok.json", "--preset", "paper"], "either", id="recipe and preset"),
        pytest.param(["a.png", "--format", "png"], "--format", id="unknown format"),
        pytest.param(["a.png", "--output", "file"], "file is a file", id="output is a file"),
        pytest.param(["a.png", "--output", "file/x"], "file", id="output below a file"),
        pytest.param(["a.png", "--classify-model", "gone.safetensors"], r"gone\.safetensors", id="missing model"),
    ],
)
def test_wrong_use_ends_with_2_before_anything_is_done(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("napari_bloodcell.models.load.load_generator", lambda *_: ThresholdGenerator())
    save(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "ok.json").write_text("{}")
    (tmp_path / "bad.json").write_text('{"segment": {"tile_sise": 3}}')
    output = [] if any(a.startswith("--output") for a in arguments) else ["--output", "out"]
    assert run("analyse", *arguments, *output) == cli.WRONG_USE
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert not (tmp_path / "out" / "summary.csv").exists()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write anywhere")
@pytest.mark.usefixtures("fake_models")
def test_an_output_folder_that_cannot_be_written_is_wrong_use(tmp_path: Path) -> None:
    image = save(tmp_path / "smear.png")
    (tmp_path / "closed").mkdir(mode=0o500)
    assert run("analyse", image, "-o", tmp_path / "closed") == cli.WRONG_USE


@pytest.mark.usefixtures("fake_models")
def test_an_interrupted_batch_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    analyse = batch.iter_analyse

    def stops_at_b(plane: Any, **options: Any) -> Any:
        if plane.name == "b":
            raise KeyboardInterrupt
        return analyse(plane, **options)

    monkeypatch.setattr(batch, "iter_analyse", stops_at_b)
    for name in ("a.png", "b.png"):
        save(tmp_path / "in" / name)
    assert run("analyse", tmp_path / "in", "-o", tmp_path / "out") == cli.INTERRUPTED
    assert [row["status"] for row in rows(tmp_path / "out")] == ["done"]
    assert len(read_result(tmp_path / "out" / "a").table) == N_CELLS
    assert not (tmp_path / "out" / "b").exists()


# --- which images, and where to --------------------------------------------------------------------------------------


def test_files_folders_and_globs_are_collected_once_each(tmp_path: Path) -> None:
    for name in ("x/a.png", "x/b.png", "x/deep/c.png", "y/d.png"):
        save(tmp_path / name)
    (tmp_path / "x" / "notes.txt").write_text("")
    found, missing = collect(
        [f"{tmp_path}/x", f"{tmp_path}/x/a.png", f"{tmp_path}/**/*.*", "gone.png", f"{tmp_path}/*.bmp"]
    )
    assert [p.name for p in found] == ["a.png", "b.png", "c.png", "d.png"]
    assert list(missing) == ["gone.png", f"{tmp_path}/*.bmp"]


def test_a_file_whose_name_looks_like_a_glob_is_taken_as_it_is(tmp_path: Path) -> None:
    image = save(tmp_path / "smear [1].png")
    assert collect([str(image)]) == ([image], {})


def test_a_folder_without_images_is_named_with_its_reason(tmp_path: Path) -> None:
    image = save(tmp_path / "deep" / "a.png")
    found, missing = collect([str(tmp_path), str(image)])
    assert found == [image]
    assert "holds no image" in missing[str(tmp_path)]


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (["a.png", "b.png"], ["a", "b"]),
        (["x/a.png", "y/a.png"], ["x_a", "y_a"]),
        (["x/a.png", "y/A.png", "z/b.png"], ["x_a", "y_A", "b"]),
        (["x/a.png", "x/a.jpg"], ["x_a_png", "x_a_jpg"]),
        (["1/x/a.png", "2/x/a.png"], ["x_a_png", "x_a_png_2"]),
        (["x/a.png", "y/a.png", "x_a.png"], ["x_a_png", "y_a", "x_a"]),
        (["x/summary.csv.png"], ["x_summary.csv"]),
    ],
)
def test_every_image_gets_a_folder_of_its_own(tmp_path: Path, images: list[str], names: list[str]) -> None:
    assert folder_names([tmp_path / image for image in images]) == names


def test_a_folder_with_a_damaged_recipe_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "recipe.json").write_text("{}")
    assert folder_for(tmp_path, "a", "0" * 64, tmp_path / "a.png", ["a"]).name == "a_2"
    assert folder_for(tmp_path, "a", "0" * 64, tmp_path / "a.png", ["a", "a_2"]).name == "a_3"


# --- settings --------------------------------------------------------------------------------------------------------


def no_flags() -> dict[str, Any]:
    return dict.fromkeys(("segment", "classify", "count", "device", "precision", "seed"))


def test_without_flags_the_settings_are_the_defaults_or_the_presets() -> None:
    assert recipe_from(None, None, **no_flags()) == Recipe()
    assert recipe_from(None, "paper", **no_flags()) == Recipe.paper()


def test_flags_win_over_preset_and_recipe_even_where_they_give_the_default(tmp_path: Path) -> None:
    flags = no_flags() | {"segment": SegmentParams(model="embedded"), "count": CountParams(rule="robust")}
    assert recipe_from(None, "paper", **flags).segment.model == "embedded"
    assert recipe_from(None, "paper", **flags).segment.predicted_iou_min == 0.92
    (tmp_path / "r.json").write_text(to_json(Recipe.paper()))
    assert recipe_from(tmp_path / "r.json", None, **flags).count == CountParams(
        rule="robust", edges="all", max_cells_per_region=4
    )


def test_one_device_flag_is_for_both_models_unless_one_has_its_own() -> None:
    flags = no_flags() | {"device": "cuda", "classify": ClassifyParams(device="cpu")}
    recipe = recipe_from(None, None, **flags)
    assert (recipe.segment.device, recipe.classify.device) == ("cuda", "cpu")


def test_one_precision_flag_is_for_both_models_unless_one_has_its_own() -> None:
    flags = no_flags() | {"precision": "float32", "classify": ClassifyParams(precision="bfloat16")}
    recipe = recipe_from(None, None, **flags)
    assert (recipe.segment.precision, recipe.classify.precision) == ("float32", "bfloat16")


def test_a_recipe_beside_a_preset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="either"):
        recipe_from(tmp_path / "r.json", "paper", **no_flags())


@pytest.mark.parametrize("stage", [SegmentParams, ClassifyParams, CountParams])
def test_every_setting_has_a_flag_in_the_help(stage: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run("analyse", "--help")
    out = capsys.readouterr().out
    prefix = {SegmentParams: "segment-", ClassifyParams: "classify-"}.get(stage, "")
    for name in stage.model_fields:
        assert f"--{prefix if name in ('model', 'device') else ''}{name.replace('_', '-')} " in out


# --- models ----------------------------------------------------------------------------------------------------------


def test_models_lists_the_official_ones_and_says_where_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path))
    assert run("models", "list") == cli.DONE
    out = capsys.readouterr().out
    assert all(f"{name}  " in out for name in weights.OFFICIAL)
    assert "not here" in out
    assert run("models", "where") == cli.DONE
    assert capsys.readouterr().out.strip() == str(tmp_path)


def test_models_verify_ends_with_1_where_weights_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path))
    (tmp_path / weights.OFFICIAL["vit_b"].file_name).write_bytes(b"other")
    assert run("models", "verify", "vit_b") == cli.SOME_FAILED
    assert "vit_b: wrong" in capsys.readouterr().err


def test_models_download_without_network_ends_with_1_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_network(name: str, progress: object = None) -> Path:
        raise DownloadError("no network: fetch https://example.org/x")

    monkeypatch.setattr(weights, "download", no_network)
    assert run("models", "download", "vit_b") == cli.SOME_FAILED
    assert "https://example.org/x" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["download", "vit_x"], ["download"], ["verify", "vit_x"]])
def test_an_unknown_model_is_wrong_use(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", *arguments) == cli.WRONG_USE
    assert "vit_b" in capsys.readouterr().err


# --- demo and train --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fake_models")
def test_demo_prints_true_and_found_counts_and_where_the_pictures_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("demo", "--output", tmp_path / "out", "--format", "tiff") == cli.DONE
    out = capsys.readouterr().out
    stored = read_result(tmp_path / "out" / "smear")
    assert any(line.split()[0::2] == ["RBC", str(stored.counts["RBC"])] for line in out.splitlines() if line.strip())
    assert str(tmp_path / "out" / "smear" / "overlay.png") in out
    assert (tmp_path / "out" / "smear" / "overlay.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone", "-o", "m.safetensors"], "no folder gone"),
        ([".", "-o", "m.pt"], r"\.safetensors"),
        ([".", "-o", "m.safetensors"], "no sub-folders"),
        ([".", "-o", "m.safetensors", "--epochs", "0"], "--epochs"),
        ([".", "-o", "m.safetensors", "--from", "paper", "--grid-search"], "either"),
    ],
)
def test_train_refuses_wrong_use(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("train", *arguments) == cli.WRONG_USE
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "m.safetensors").exists()


def test_train_writes_a_model_and_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    for name, level in (("RBC", 90), ("WBC", 200)):
        (tmp_path / "cutouts" / name).mkdir(parents=True)
        for i in range(12):
            cutout = np.zeros((128, 128, 3), np.uint8)
            cutout[44:84, 44:84] = level + generator.integers(0, 20, (40, 40, 3))
            PIL.Image.fromarray(cutout).save(tmp_path / "cutouts" / name / f"{i}.png")
    output = tmp_path / "m.safetensors"
    flags = ["--epochs", 1, "--dense-units", 8, "--no-patience", "--no-rbc-per-wbc", "--wbc-augmentation", 1]
    assert run("train", tmp_path / "cutouts", "-o", output, "--device", "cpu", *flags) == cli.DONE
    assert output.stat().st_size > 1000
    report = json.loads((tmp_path / "m.report.json").read_text())
    assert report["params"]["patience"] is None
    assert set(report["parts"]) == {"train", "val", "test"}
    out = capsys.readouterr().out
    assert "epoch   1" in out
    assert "val: " in out
    assert str(output) in out


# --- in a process of its own -----------------------------------------------------------------------------------------


def program(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "napari_bloodcell.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from napari_bloodcell.cli.main import main; main(['--help']);"
        "heavy = ('torch', 'napari', 'qtpy', 'matplotlib', 'pandas', 'numpy', 'pydantic');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "analyse" in done.stdout


def test_the_program_ends_with_the_exit_code(tmp_path: Path) -> None:
    assert program("--version").returncode == 0
    done = program("analyse", tmp_path, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "holds no image" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
