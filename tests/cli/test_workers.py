"""``analyse --workers`` and ``--scheduler``: the files of one process, byte by byte."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import BrokenExecutor, Executor, Future
from subprocess import PIPE
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from napari_bloodcell.cli import batch
from napari_bloodcell.cli import main as cli
from napari_bloodcell.cli.console import ProgressLine
from napari_bloodcell.core.params import Recipe
from napari_bloodcell.slides.workers import WorkerPool
from napari_bloodcell.synthetic import load_shipped

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.network

PLACES = {"a": (0, 0), "b": (300, 500), "c": (700, 900), "d": (200, 1200)}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, (y, x) in PLACES.items():
        Image.fromarray(load_shipped()[0][y : y + 220, x : x + 260]).save(folder / f"{name}.png")
    return folder


def run(*arguments: object) -> int:
    return cli.main([str(a) for a in arguments])


def summary(output: Path) -> list[dict[str, str]]:
    with (output / "summary.csv").open(newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_batch_in_two_processes_gives_the_numbers_of_one(images: Path, tmp_path: Path) -> None:
    (images / "broken.png").write_bytes(b"no picture")
    one, two = tmp_path / "one", tmp_path / "two"
    assert run("analyse", images, "--output", one, "--quiet") == cli.SOME_FAILED
    assert run("analyse", images, "--output", two, "--quiet", "--workers", 2) == cli.SOME_FAILED
    assert summary(one) == summary(two)
    assert [row["status"] for row in summary(two)] == ["done", "done", "failed", "done", "done"]
    for name in PLACES:
        table = (one / name / "cells.csv").read_bytes()
        assert table.count(b"\n") > 10
        assert (two / name / "cells.csv").read_bytes() == table
        assert not (two / name / "slide.json").exists()


@pytest.mark.slow
def test_two_processes_on_one_image_and_a_cluster_give_the_table_of_one(images: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    options = ["analyse", images / "a.png", "--quiet", "--tile-size", 128, "--output"]
    assert run(*options, tmp_path / "one") == cli.DONE
    table = (tmp_path / "one" / "a" / "cells.csv").read_bytes()
    assert run(*options, tmp_path / "two", "--workers", 2) == cli.DONE
    assert (tmp_path / "two" / "a" / "slide.json").is_file()
    assert (tmp_path / "two" / "a" / "cells.csv").read_bytes() == table
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs="ERROR"
    ) as there:
        assert run(*options, tmp_path / "cluster", "--scheduler", there.scheduler_address) == cli.DONE
    assert (tmp_path / "cluster" / "a" / "cells.csv").read_bytes() == table


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the signal goes to a group of processes")
def test_ctrl_c_ends_a_batch_in_processes_with_one_line(images: Path, tmp_path: Path) -> None:
    for number in range(20):
        shutil.copy(images / "a.png", images / f"more{number}.png")
    command = [sys.executable, "-m", "napari_bloodcell", "analyse", str(images), "--workers", "2", "--quiet"]
    command += ["--output", str(tmp_path / "out")]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background of a shell ignore it
    batch_run = subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, start_new_session=True)
    signal.signal(signal.SIGINT, before)
    assert batch_run.stdout is not None
    batch_run.stdout.readline()  # the first image is done
    os.killpg(batch_run.pid, signal.SIGINT)
    _, said = batch_run.communicate(timeout=300)
    assert batch_run.returncode == cli.INTERRUPTED
    assert said == "napari-bloodcell: error: Interrupted. What was written so far is complete.\n"


class Dying(Executor):
    """Dies of one image, with all that is under way."""

    def __init__(self, deadly: str) -> None:
        self._deadly, self._futures = deadly, list[Future[batch.Outcome]]()

    def submit(self, call: Any, /, *args: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._futures.append(future)
        if args[0].path.stem == self._deadly:
            for one in self._futures:
                if not one.done():
                    one.set_exception(BrokenExecutor("it died"))
        elif len(self._futures) == 1 or args[0].path.stem > self._deadly:
            future.set_result(batch.Outcome(str(args[0].path), "done"))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        pass


def test_an_image_that_kills_its_process_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Dying] = []

    def start() -> Dying:
        started.append(Dying("c"))
        return started[-1]

    monkeypatch.setattr(batch, "process_pool", lambda n, call, *_: WorkerPool(start, call, lambda: n))
    images = [batch.Image(i, tmp_path / f"{name}.png", name) for i, name in enumerate("abcde")]
    options = batch.Options(tmp_path, workers=2)
    bar = ProgressLine("5 images", is_quiet=True)
    found = dict(batch._iter_in_processes(images, list("abcde"), Recipe(), options, bar))
    assert {n: outcome.status for n, outcome in found.items()} == {i: "failed" if i == 2 else "done" for i in range(5)}
    assert "died 3 times" in found[2].error
    assert len(started) >= 3
