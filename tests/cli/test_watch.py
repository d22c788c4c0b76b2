"""``napari-bloodcell watch``: pictures come while it runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from napari_bloodcell.cli import main as cli
from tests.cli.test_main import run, save

FEW_FILES = ("--format", "tiff", "--no-overlay", "--no-kde", "-q", "--every", "0.05")


pytestmark = pytest.mark.usefixtures("generator")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "camera").mkdir()
    return tmp_path / "camera"


def specimen(output: Path) -> dict[str, object]:
    return dict(json.loads((output / "specimen.json").read_text()))


def meanwhile(act: Callable[[], object]) -> threading.Thread:
    """Do something while the main thread, which hears of signals, watches."""
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def fields(output: Path) -> list[str]:
    return list(specimen(output)["fields"]) if (output / "specimen.json").exists() else []  # type: ignore[call-overload]


def test_pictures_that_come_are_pooled_until_there_is_enough(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def microscope() -> None:
        save(place / "a.png", seed=1)
        wait_for(lambda: fields(out) == ["a"])
        whole = save(tmp_path / "b.png", seed=2).read_bytes()
        (place / "b.png").write_bytes(whole[: len(whole) // 2])  # it is still being written
        wait_for((out / "summary.csv").exists)
        (place / "b.png").write_bytes(whole)
        save(place / "c.png", seed=3)

    thread = meanwhile(microscope)
    assert run("watch", place, "-o", out, *FEW_FILES, "--until", "3 fields", "--until", "1 RBC") == cli.DONE
    thread.join()
    assert fields(out) == ["a", "b", "c"]


def test_a_picture_that_is_renamed_replaced_or_there_twice_counts_once(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    save(place / "a.png", seed=1)
    save(place / "old.png", seed=2)
    shutil.copy(place / "a.png", place / "again.png")
    assert run("watch", place, "-o", out, *FEW_FILES, "--until", "2 fields") == cli.DONE
    assert fields(out) == ["a", "old"]
    save(place / "a.png", seed=3)
    (place / "again.png").unlink()
    (place / "old.png").rename(place / "new.png")
    (place / "old.png").unlink(missing_ok=True)
    assert run("watch", place, "-o", out, *FEW_FILES, "--until", "2 fields") == cli.DONE
    assert specimen(out)["counts"] == pooled_counts(place, tmp_path)


def pooled_counts(place: Path, tmp_path: Path) -> object:
    """Return the counts of the pictures that are there, analysed anew."""
    assert run("analyse", place, "-o", tmp_path / "anew", "--specimen", "folder", *FEW_FILES[:-2]) == cli.DONE
    return specimen(tmp_path / "anew" / "specimens" / "camera")["counts"]


def test_sigterm_ends_it_and_a_second_call_does_only_what_is_left(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    save(place / "a.png", seed=1)

    def system() -> None:
        wait_for(lambda: fields(out) == ["a"])
        os.kill(os.getpid(), signal.SIGTERM)

    thread = meanwhile(system)
    assert run("watch", place, "-o", out, *FEW_FILES) == cli.DONE
    thread.join()
    before = (out / "a" / "recipe.json").stat().st_mtime_ns
    save(place / "b.png", seed=2)
    assert run("watch", place, "-o", out, *FEW_FILES, "--until", "2 fields") == cli.DONE
    assert (out / "a" / "recipe.json").stat().st_mtime_ns == before
    assert fields(out) == ["a", "b"]


def test_a_picture_that_cannot_be_read_is_named_and_the_others_go_on(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    save(place / "b.png", seed=2)
    assert run("watch", place, "-o", tmp_path / "out", *FEW_FILES, "--until", "1 fields") == cli.SOME_FAILED
    assert "a.png: failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone"], "no folder gone"),
        ([".", "--until", "many WBC"], "'200 WBC'"),
        ([".", "--until", "0 WBC"], "'200 WBC'"),
        ([".", "--every", "0"], "--every is 0"),
        ([".", "--workers", "0"], "--workers is 0"),
    ],
)
def test_wrong_use_is_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("watch", *arguments, "-o", tmp_path / "out") == cli.WRONG_USE
    assert message in capsys.readouterr().err
