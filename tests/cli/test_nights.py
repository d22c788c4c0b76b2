"""What happens to batches that nobody watches: two at once, killed, into a pipe, over odd files."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_bloodcell.cli import console
from napari_bloodcell.cli import main as cli
from napari_bloodcell.cli.folders import collect
from napari_bloodcell.cli.summary import Outcome, Summary
from napari_bloodcell.core.errors import OutputError
from napari_bloodcell.corrections.journal import image_hash
from napari_bloodcell.images.open import read_plane
from napari_bloodcell.results.store import read_result
from tests.cli.test_main import rows, run, save

if TYPE_CHECKING:
    from tests.fakes import ThresholdGenerator

FEW_FILES = ("--format", "tiff", "--no-overlay", "--no-kde", "-q")
NOT_UTF8 = "caf\udce9.png"  # as Python holds the byte E9 of a name


pytestmark = pytest.mark.usefixtures("generator")


# --- two at once -----------------------------------------------------------------------------------------------------

_JOB = """
import sys
from napari_bloodcell.cli import batch, main as cli
from tests.fakes import BrightnessClassifier, ThresholdGenerator
models = batch.Models(ThresholdGenerator(), BrightnessClassifier())
batch.load_models = lambda recipe, quiet=False: models
for line in sys.stdin:
    code = cli.main(["analyse", sys.argv[1], "-o", line.strip(), "--format", "tiff", "--no-overlay", "--no-kde", "-q"])
    sys.stderr.write(f"{code}\\n")
    sys.stderr.flush()
"""


@pytest.mark.slow
def test_two_batches_into_one_folder_at_the_same_second_lose_nothing(tmp_path: Path) -> None:
    places = [tmp_path / job / f"{name}.png" for job in "AB" for name in "xy"]
    images = [save(place, seed=seed) for seed, place in enumerate(places)]
    of_image = {image_hash(read_plane(image).data): image for image in images}
    pipes: dict[str, Any] = {"stdin": -1, "stdout": subprocess.DEVNULL, "stderr": -1, "text": True, "bufsize": 1}
    jobs = [
        subprocess.Popen([sys.executable, "-c", _JOB, str(tmp_path / job)], cwd=Path(__file__).parents[2], **pipes)
        for job in "AB"
    ]
    for number in range(12):
        output = tmp_path / f"out{number}"
        for job in jobs:
            job.stdin.write(f"{output}\n")
        assert [job.stderr.readline() for job in jobs] == ["0\n", "0\n"]
        found = {row["image"]: read_result(output / row["folder"]).record.image.sha256 for row in rows(output)}
        assert {image: str(of_image[sha256]) for image, sha256 in found.items()} == {str(i): str(i) for i in images}
        assert len({row["folder"] for row in rows(output)}) == len(images)
    for job in jobs:
        job.communicate()


def test_the_rows_of_other_runs_stay_in_the_summary(tmp_path: Path) -> None:
    first, second = Summary(tmp_path, ["a.png"]), Summary(tmp_path, ["b.png"])
    first.write([Outcome("a.png", "done", "a", {"RBC": 3})])
    second.write([Outcome("b.png", "done", "b", {"RBC": 4, "band": 1})])
    first.write([Outcome("a.png", "done", "a", {"RBC": 5})])
    assert [(r["image"], r["RBC"], r["band"]) for r in rows(tmp_path)] == [("b.png", "4", "1"), ("a.png", "5", "0")]
    Summary(tmp_path, ["b.png"]).write([Outcome("b.png", "failed", error="It is gone.")])
    assert [(r["image"], r["RBC"]) for r in rows(tmp_path)] == [("a.png", "5"), ("b.png", "")]


def test_what_killed_batches_left_is_swept(tmp_path: Path) -> None:
    image = save(tmp_path / "smear.png")
    for folder in (tmp_path / "out", tmp_path / "out" / "smear"):
        (folder / ".writing-1").mkdir(parents=True)
        os.utime(folder / ".writing-1", (0, 0))
    (tmp_path / "out" / ".writing-2").touch()
    assert run("analyse", image, "-o", tmp_path / "out", *FEW_FILES) == cli.DONE
    assert not list((tmp_path / "out").rglob(".writing-*"))


# --- again -----------------------------------------------------------------------------------------------------------


def test_a_batch_that_resumes_leaves_alone_what_is_done(tmp_path: Path, generator: ThresholdGenerator) -> None:
    for name, seed in (("a.png", 1), ("b.png", 2)):
        save(tmp_path / "in" / name, seed=seed)
    call = ("analyse", tmp_path / "in", "-o", tmp_path / "out", *FEW_FILES)
    assert run(*call) == cli.DONE
    before, generator.calls = rows(tmp_path / "out"), 0
    assert run(*call, "--resume") == cli.DONE
    assert generator.calls == 0
    for row in (again := rows(tmp_path / "out")) + before:
        del row["seconds"]
    assert again == before
    (tmp_path / "out" / "b" / "recipe.json").unlink()  # killed while it was written
    assert run(*call, "--resume") == cli.DONE
    assert generator.calls == 1


@pytest.mark.parametrize("change", [("--rule", "none"), ("--geojson",), ("--format", "ome-zarr")])
def test_what_was_made_with_other_settings_is_done_again(
    tmp_path: Path, generator: ThresholdGenerator, change: tuple[str, ...]
) -> None:
    image = save(tmp_path / "smear.png")
    assert run("analyse", image, "-o", tmp_path / "out", *FEW_FILES) == cli.DONE
    generator.calls = 0
    kept = FEW_FILES[2:] if change[0] == "--format" else FEW_FILES
    assert run("analyse", image, "-o", tmp_path / "out", *kept, *change, "--resume") == cli.DONE
    assert generator.calls == 1


# --- exit codes ------------------------------------------------------------------------------------------------------


def test_a_summary_that_cannot_be_written_is_told_and_everything_else_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(summary: Summary, outcomes: object) -> None:
        raise OutputError(f"{summary.path} cannot be written: Permission denied.")

    monkeypatch.setattr(Summary, "write", fail)
    images = [save(tmp_path / "a.png"), save(tmp_path / "b.png")]
    assert run("analyse", *images, "-o", tmp_path / "out", *FEW_FILES) == cli.SOME_FAILED
    assert all(len(read_result(tmp_path / "out" / name).table) for name in "ab")
    assert capsys.readouterr().err.count("summary.csv cannot be written: Permission denied.") == 1


@pytest.mark.parametrize("value", [0, 128, 255])
def test_the_picture_of_a_dead_camera_is_not_done_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: int
) -> None:
    import PIL.Image

    PIL.Image.fromarray(np.full((120, 160, 3), value, np.uint8)).save(tmp_path / "dead.png")
    run("analyse", tmp_path / "dead.png", "-o", tmp_path / "out", *FEW_FILES)
    (row,) = rows(tmp_path / "out")
    assert row["warnings"] or row["error"]
    assert "dead.png: " in capsys.readouterr().err
    assert run("analyse", tmp_path / "dead.png", "-o", tmp_path / "out", *FEW_FILES, "--strict") == cli.SOME_FAILED


def test_an_empty_folder_beside_an_image_is_named_and_the_image_done(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    image = save(tmp_path / "a.png")
    assert run("analyse", tmp_path / "empty", image, "-o", tmp_path / "out", *FEW_FILES) == cli.SOME_FAILED
    empty, done = rows(tmp_path / "out")
    assert (empty["status"], done["status"]) == ("failed", "done")
    assert "holds no image" in empty["error"]


def test_a_folder_that_must_not_be_read_is_named_and_the_others_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat, shut = os.stat, str(tmp_path / "shut")
    image = save(tmp_path / "a.png")
    save(tmp_path / "shut" / "b.png")

    def refuse(path: Any, *args: Any, **options: Any) -> Any:
        if not isinstance(path, int) and os.fspath(path).startswith(shut + os.sep):
            raise PermissionError(13, "Permission denied", path)
        return stat(path, *args, **options)

    def refuse_to_list(folder: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "stat", refuse)
    monkeypatch.setattr(Path, "iterdir", refuse_to_list)
    found, missing = collect([shut, str(image)])
    assert found == [image]
    assert missing == {shut: f"The folder {shut} cannot be read: Permission denied."}


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes of this kind")
@pytest.mark.parametrize("arguments", [["models", "list"], ["--help"], ["analyse", "--help"]])
def test_a_reader_that_goes_away_is_no_error(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "napari_bloodcell", *arguments]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (cli.DONE, b"")


def test_a_batch_whose_output_nobody_reads_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    image = save(tmp_path / "a.png")
    for stream in (Closed(), None):
        monkeypatch.setattr(sys, "stdout", stream)
        assert run("analyse", image, "-o", tmp_path / "out", *FEW_FILES) == cli.DONE


# --- odd names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["~nobody.png", "~nobody/a.png"])
def test_a_name_that_begins_with_a_tilde_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path(name))
    assert run("analyse", name, "-o", "out", *FEW_FILES) == cli.DONE
    assert run("analyse", "~nobody.jpg", "-o", "out", *FEW_FILES) == cli.WRONG_USE


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_utf8_is_escaped_and_everything_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "in" / "a.png")
    os.rename(save(tmp_path / "in" / "b.png", seed=3), tmp_path / "in" / NOT_UTF8)
    (tmp_path / "in" / NOT_UTF8.replace("png", "jpg")).write_bytes(b"no picture")
    assert run("analyse", tmp_path / "in", "-o", tmp_path / "out", "--geojson") == cli.SOME_FAILED
    status = {Path(row["image"]).name: row["status"] for row in rows(tmp_path / "out")}
    assert status == {"a.png": "done", r"caf\xe9.jpg": "failed", r"caf\xe9.png": "done"}
    assert {row["folder"] for row in rows(tmp_path / "out")} == {"a", "", "in_caf_xe9_png"}
    assert r"caf\xe9.jpg is not an image" in capsys.readouterr().err
    assert read_result(tmp_path / "out" / "in_caf_xe9_png").record.image.name


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_slide_whose_name_is_no_utf8_is_analysed_and_known_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generator: ThresholdGenerator
) -> None:
    monkeypatch.setattr("napari_bloodcell.images.open.LARGE_PX", 100)
    os.rename(save(tmp_path / "b.png"), tmp_path / NOT_UTF8)
    for calls in (True, False):
        generator.calls = 0
        assert run("analyse", tmp_path / NOT_UTF8, "-o", tmp_path / "out", "-q") == cli.DONE
        assert bool(generator.calls) == calls
    assert [p.name for p in (tmp_path / "out").glob("[!.]*/")] == ["caf_xe9"]


def test_names_do_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = save(tmp_path / "a\x1b[2J\n.png")
    assert run("analyse", image, "-o", tmp_path / "out", *FEW_FILES) == cli.DONE
    assert r"a\x1b[2J\n.png: RBC" in capsys.readouterr().out


def test_the_pictures_that_the_program_draws_are_not_analysed(tmp_path: Path) -> None:
    image = save(tmp_path / "smear.png")
    assert run("analyse", image, "-o", tmp_path / "out", "--format", "tiff", "-q") == cli.DONE
    result = tmp_path / "out" / "smear"
    own = save(result / "another.png")
    assert collect([str(result)]) == ([own], {})
    assert collect([f"{tmp_path}/**/*.*"])[0] == [own, image]
    assert "drawn by this program" in collect([str(result / "overlay.png")])[1][str(result / "overlay.png")]
    other = save(tmp_path / "overlay.png")  # not beside a result
    assert collect([str(other)]) == ([other], {})


# --- for other programs ----------------------------------------------------------------------------------------------


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_with_json_every_line_is_an_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = save(tmp_path / "a.png")
    assert run("analyse", image, tmp_path / "gone.png", "-o", tmp_path / "out", "--json") == cli.SOME_FAILED
    out, err = capsys.readouterr()
    failed, done = lines(out)
    assert (failed["event"], failed["status"], failed["image"]) == ("image", "failed", str(tmp_path / "gone.png"))
    assert (done["status"], done["folder"], done["numbers"]["WBC"]) == ("done", "a", 1)
    progress = [line for line in lines(err) if line["event"] == "progress"]
    assert {"title", "what", "done", "total"} <= progress[-1].keys()
    assert run("analyse", "gone.png", "-o", tmp_path / "out", "--json") == cli.WRONG_USE
    assert lines(capsys.readouterr().err) == [
        {"event": "error", "text": "There is no image gone.png.", "code": cli.WRONG_USE}
    ]
    assert run("analyse", "--no-such-flag", "--json") == cli.WRONG_USE
    assert lines(capsys.readouterr().err)[0]["event"] == "error"
    assert run("models", "where") == cli.DONE
    assert not console.writes_json()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_flags(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("completion", shell) == cli.DONE
    script = capsys.readouterr().out
    assert all(word in script for word in ("analyse", "train-sam", "resume", "tile-size"))


def test_no_name_is_a_formula_in_a_spreadsheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("=1+1.png", "-x.png", "+x.png", "@x.png"):
        save(tmp_path / "in" / name)
    monkeypatch.chdir(tmp_path / "in")
    assert run("analyse", "*.png", "-o", "../out", *FEW_FILES) == cli.DONE
    with (tmp_path / "out" / "summary.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    assert "'=1+1.png" in cells
