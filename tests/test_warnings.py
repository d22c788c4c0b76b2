"""What speaks against a result is said wherever the result is looked at."""

from __future__ import annotations

import csv
import json
import warnings
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import pytest

import napari_bloodcell as nb
from napari_bloodcell.cli import batch
from napari_bloodcell.cli import main as cli
from napari_bloodcell.core.errors import heard_of_input, warn_of_input
from tests.fakes import BrightnessClassifier, ThresholdGenerator

if TYPE_CHECKING:
    from pathlib import Path

EMPTY = "Nothing but glass"


def glass() -> np.ndarray:
    return np.full((90, 120, 3), 230, np.uint8)


def without_alpha() -> np.ndarray:
    """RGBA whose alpha is 0 everywhere, as some programs write it."""
    image = np.dstack([glass(), np.zeros((90, 120), np.uint8)])
    image[20:50, 20:50, :3] = 120
    return image


def analysed(image: object, output: Path | None = None) -> nb.SmearResult | nb.SlideResult:
    work = nb.iter_analyse(image, generator=ThresholdGenerator(), classifier=BrightnessClassifier(), output=output)
    return nb.drain(work)


@pytest.fixture
def fake_models(monkeypatch: pytest.MonkeyPatch) -> None:
    models = batch.Models(ThresholdGenerator(), BrightnessClassifier())
    monkeypatch.setattr(batch, "load_models", lambda recipe, quiet=False: models)


def run(tmp_path: Path, image: np.ndarray, *options: str) -> tuple[int, dict[str, str]]:
    PIL.Image.fromarray(image).save(tmp_path / "one.png")
    code = cli.main(["analyse", str(tmp_path / "one.png"), "-o", str(tmp_path / "out"), "-q", *options])
    with (tmp_path / "out" / "summary.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    return code, row


def test_a_result_says_what_speaks_against_it() -> None:
    (sentence,) = analysed(glass()).warnings
    assert sentence.startswith(EMPTY)


def test_a_script_is_warned_of_a_result_that_is_not_to_be_trusted() -> None:
    with pytest.warns(nb.ResultWarning, match=EMPTY):
        nb.analyse(glass(), generator=ThresholdGenerator(), classifier=BrightnessClassifier())


def test_the_warnings_of_a_result_are_read_back(tmp_path: Path) -> None:
    result = analysed(glass(), tmp_path)
    assert result.warnings
    assert nb.read_result(tmp_path).warnings == result.warnings
    assert tuple(json.loads((tmp_path / "counts.json").read_text())["warnings"]) == result.warnings


def test_a_result_of_before_there_were_warnings_has_none(tmp_path: Path) -> None:
    analysed(glass(), tmp_path)
    numbers = json.loads((tmp_path / "counts.json").read_text())
    del numbers["warnings"]
    (tmp_path / "counts.json").write_text(json.dumps(numbers))
    assert nb.read_result(tmp_path).warnings == ()


def test_a_slide_says_what_speaks_against_it_after_it_was_opened_again(tmp_path: Path) -> None:
    result = analysed(nb.open_slide(glass()), tmp_path)
    assert nb.open_slide_result(tmp_path).warnings == result.warnings != ()
    assert json.loads((tmp_path / "counts.json").read_text())["warnings"] == list(result.warnings)


@pytest.mark.filterwarnings("ignore::napari_bloodcell.core.errors.InputWarning")
@pytest.mark.parametrize("opened", [lambda image: image, nb.open_slide])
def test_what_was_done_to_the_pixels_is_a_warning_of_the_result(opened: object, tmp_path: Path) -> None:
    result = analysed(opened(without_alpha()), tmp_path)
    assert any("alpha" in sentence for sentence in result.warnings)


@pytest.mark.usefixtures("fake_models")
def test_a_batch_prints_a_warning_once_and_writes_it_into_the_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code, row = run(tmp_path, without_alpha())
    assert code == cli.DONE
    assert "alpha channel" in row["warnings"]
    assert capsys.readouterr().err.count("alpha channel") == 1


@pytest.mark.usefixtures("fake_models")
@pytest.mark.parametrize(("options", "expected"), [((), cli.DONE), (("--strict",), cli.SOME_FAILED)])
def test_strict_ends_with_an_exit_code_where_there_is_a_warning(
    options: tuple[str, ...], expected: int, tmp_path: Path
) -> None:
    code, row = run(tmp_path, glass(), *options)
    assert (code, row["status"]) == (expected, "done")
    assert (tmp_path / "out" / "one" / "counts.json").is_file()


@pytest.mark.usefixtures("fake_models")
def test_strict_says_nothing_of_a_result_without_warnings(tmp_path: Path) -> None:
    image = glass()
    for x in (20, 60, 95):
        image[30:50, x : x + 20] = 120
    code, row = run(tmp_path, image, "--strict")
    assert (code, row["warnings"]) == (cli.DONE, "")


@pytest.mark.usefixtures("fake_models")
def test_a_picture_that_is_turned_upright_is_said_to_be_and_its_result_has_no_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, exif = glass(), PIL.Image.Exif()
    for x in (20, 60, 95):
        image[30:50, x : x + 20] = 120
    exif[0x0112] = 6
    PIL.Image.fromarray(image).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    code = cli.main(["analyse", str(tmp_path / "phone.jpg"), "-o", str(tmp_path / "out"), "-q", "--strict"])
    assert code == cli.DONE
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "phone.jpg: note: " in said[0]
    assert "EXIF orientation 6" in said[0]
    assert json.loads((tmp_path / "out" / "phone" / "counts.json").read_text())["warnings"] == []


def test_what_is_heard_of_an_input_is_heard_by_all_who_read_it() -> None:
    with warnings.catch_warnings(), heard_of_input() as outer, heard_of_input() as inner:
        warnings.simplefilter("ignore", nb.InputWarning)
        warn_of_input("It was turned.")
        warn_of_input("It was turned.")
    assert inner.doubts == outer.doubts == ["It was turned."]
