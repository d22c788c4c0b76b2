"""Processes of this machine, and those of a cluster, come to what one process comes to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import napari_bloodcell as nb
from napari_bloodcell.core.errors import SettingsError
from napari_bloodcell.core.progress import drain
from napari_bloodcell.slides.run import iter_analyse_slide
from napari_bloodcell.slides.workers import InOrder, Task, WorkerPool, start_pool
from tests.fakes import BrightnessClassifier, ThresholdGenerator
from tests.slides.conftest import SlowGenerator, random_discs, same, settings

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    """Two blocks wide: blocks hold whole chunks, so that processes write them at once."""
    return random_discs((300, 2500), 200, seed=4)


def run(image: Any, output: Path, generator: ThresholdGenerator | None = None, **options: Any) -> nb.SlideResult:
    models = {"generator": generator or ThresholdGenerator(), "classifier": BrightnessClassifier()}
    return drain(iter_analyse_slide(image, output, recipe=settings(), **models, **options))


@pytest.mark.slow
def test_two_workers_find_what_one_finds_though_one_of_them_dies(image: NDArray[np.uint8], tmp_path: Path) -> None:
    deadly = SlowGenerator(deadly_once=str(tmp_path / "has killed"))
    together = run(image, tmp_path / "two", deadly, workers=2)
    assert (tmp_path / "has killed").exists()
    assert not together.failed_tiles
    assert same(together, run(image, tmp_path / "one"))


class DyingExecutor(Executor):
    """Does tasks at once, and dies of one of them."""

    def __init__(self, deadly: int) -> None:
        self._deadly, self.is_dead = deadly, False

    def submit(self, call: Any, /, *args: Any, **_: Any) -> Future[Any]:
        if self.is_dead:
            raise BrokenExecutor
        future: Future[Any] = Future()
        if args[0].number == self._deadly:
            self.is_dead = True
            future.set_exception(BrokenExecutor("it died"))
        else:
            future.set_result(call(*args))
        return future


class Collected(InOrder):
    """Remembers what came of each task."""

    def __init__(self, tasks: list[Task]) -> None:
        super().__init__(tasks)
        self.errors: dict[int, Exception | None] = {}

    def ended(self, task: Task, error: Exception | None) -> None:
        self.errors[task.number] = error


def test_a_task_that_kills_every_process_fails_and_the_others_are_done() -> None:
    started: list[DyingExecutor] = []

    def start() -> DyingExecutor:
        started.append(DyingExecutor(deadly=3))
        return started[-1]

    schedule = Collected([Task("tile", n) for n in range(8)])
    list(WorkerPool(start, lambda task: task.number, lambda: 4).work(schedule))
    assert sorted(schedule.errors) == list(range(8))
    assert [n for n, error in schedule.errors.items() if error is not None] == [3]
    assert "died 3 times" in str(schedule.errors[3])
    assert len(started) >= 3


@pytest.mark.slow
def test_a_cluster_survives_the_death_of_a_worker(image: NDArray[np.uint8], tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    zarr.create_array(tmp_path / "image.zarr", data=image, chunks=(128, 128, 3))
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs="ERROR"
    ) as there:
        work = iter_analyse_slide(
            tmp_path / "image.zarr",
            tmp_path / "cluster",
            recipe=settings(),
            generator=SlowGenerator(seconds=0.2),
            classifier=BrightnessClassifier(),
            scheduler=there.scheduler_address,
        )
        for _ in range(4):
            next(work)
        victim = next(iter(there.workers.values()))
        os.kill(victim.process.process.pid, signal.SIGKILL)
        result = drain(work)
    assert not result.failed_tiles
    assert same(result, run(tmp_path / "image.zarr", tmp_path / "one", SlowGenerator()))


def test_a_scheduler_that_is_not_there_is_an_error_that_names_it(image: NDArray[np.uint8], tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(SettingsError, match=r"No dask scheduler answers at tcp://127\.0\.0\.1:1"):
        run(image, tmp_path, scheduler="tcp://127.0.0.1:1")


def test_workers_need_a_folder() -> None:
    with pytest.raises(SettingsError, match="give output"):
        nb.analyse(np.zeros((9, 9, 3), np.uint8), workers=2)  # type: ignore[call-overload]


def test_processes_that_end_at_once_are_an_error_that_tells_of_scripts() -> None:
    with (
        ProcessPoolExecutor(1, get_context("spawn"), os._exit, (1,)) as pool,
        pytest.raises(SettingsError, match='if __name__ == "__main__"'),
    ):
        start_pool(pool, 1)


def test_processes_end_with_the_one_that_started_them_though_it_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from multiprocessing import get_context\n"
        "import os, time\n"
        "from napari_bloodcell.slides.workers import end_with_parent\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPoolExecutor(1, get_context('spawn'), end_with_parent)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 60
    while _is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_alive(child)


def _is_alive(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
