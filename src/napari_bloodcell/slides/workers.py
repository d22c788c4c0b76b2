"""Who does the tasks of a run: this process, others on this machine, or a cluster."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from typing import TYPE_CHECKING, Any, Protocol

from napari_bloodcell.core.errors import BloodCellError, ModelError, OutputError, SettingsError, in_one_line
from napari_bloodcell.results.plan import grown
from napari_bloodcell.slides.blocks import settle_block
from napari_bloodcell.slides.neighbours import TileNotDone
from napari_bloodcell.slides.numbering import paint_block
from napari_bloodcell.slides.tiles import find_tile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from napari_bloodcell.results.plan import Plan
    from napari_bloodcell.slides.site import Job, Site


MOST_LOSSES = 3
"""A task that was under way so often when its process died is what kills it."""
MOST_PROCESSES = 61 if sys.platform == "win32" else 4096
"""Windows cannot wait for more at a time."""
CLUSTER_EXTRA = 'It is not installed: pip install "napari-bloodcell[cluster]".'

TASKS: dict[str, Callable[..., int]] = {"tile": find_tile, "block": settle_block, "paint": paint_block}


@dataclass(frozen=True, slots=True)
class Task:
    """A piece of work: which of `TASKS`, on which tile or block, and what else it is told."""

    kind: str
    number: int
    more: Any = None

    def do(self, site: Site) -> int:
        """Do it here."""
        return TASKS[self.kind](site, self.number, *(() if self.more is None else (self.more,)))


class Schedule(Protocol):
    """Which task is next, as others end."""

    def next(self) -> Task | None:
        """Return a task that can be begun now, or None where there is none now."""
        ...

    def ended(self, task: Task, error: Exception | None) -> None:
        """Hear that a task has ended; `error` is why it failed."""
        ...


class Crew(Protocol):
    """Does the tasks of a schedule."""

    def work(self, schedule: Schedule) -> Iterator[Task]:
        """Do all tasks, yielding each when it has ended."""
        ...

    def close(self) -> None:
        """End what it started."""
        ...


class Alone:
    """Does every task in this process."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def work(self, schedule: Schedule) -> Iterator[Task]:
        """Do all tasks, yielding each when it has ended."""
        while (task := schedule.next()) is not None:
            error: Exception | None = None
            try:
                task.do(self._site)
            except Exception as problem:  # noqa: BLE001 - the schedule decides what it means
                error = problem
            schedule.ended(task, error)
            yield task

    def close(self) -> None:
        """There is nothing to end."""


class Team:
    """Hands tasks to an executor that does them elsewhere.

    Parameters
    ----------
    start : callable
        Returns a new executor.
    call : callable
        Does a task there: ``submit(call, task)``.
    n_at_once : callable
        Says how many tasks may be under way.
    """

    def __init__(self, start: Callable[[], Executor], call: Callable[..., int], n_at_once: Callable[[], int]) -> None:
        self._start, self._call, self._n_at_once = start, call, n_at_once
        self._executor: Executor | None = None

    def work(self, schedule: Schedule) -> Iterator[Task]:
        """Do all tasks, yielding each when it has ended; those of a process that died are done again."""
        under_way: dict[Future[int], tuple[Task, Executor]] = {}
        again: list[Task] = []
        losses: dict[Task, int] = {}
        while True:
            while len(under_way) < self._n_at_once():
                task = again.pop() if again else schedule.next()
                if task is None:
                    break
                executor = self._running()
                try:
                    under_way[executor.submit(self._call, task)] = task, executor
                except BrokenExecutor:
                    again.append(task)
                    self._drop(executor)
            if not under_way:
                return
            ended, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in ended:
                task, executor = under_way.pop(future)
                error = future.exception()
                if isinstance(error, BrokenExecutor):
                    losses[task] = losses.get(task, 0) + 1
                    self._drop(executor)
                    if losses[task] < MOST_LOSSES:
                        again.append(task)
                        continue
                    error = ModelError(f"The process that did it died {MOST_LOSSES} times; it may lack memory.")
                if error is not None and not isinstance(error, Exception):
                    raise error
                schedule.ended(task, error)
                yield task

    def close(self) -> None:
        """End the processes; what they have not begun is not done."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def _running(self) -> Executor:
        if self._executor is None:
            self._executor = self._start()
        return self._executor

    def _drop(self, broken: Executor) -> None:
        """Begin anew with the next task, unless that was done already."""
        if self._executor is broken:
            broken.shutdown(wait=False, cancel_futures=True)
            self._executor = None


def processes(job: Job, n_workers: int) -> Team:
    """Return a team of processes on this machine, each with its models and its share of the processor's cores."""
    n_workers = min(n_workers, MOST_PROCESSES)
    threads = max(1, (os.cpu_count() or 1) // n_workers)

    def start() -> Executor:
        with threads_in_processes(threads):
            return start_pool(ProcessPoolExecutor(n_workers, get_context("spawn"), _begin, (job,)), n_workers)

    return Team(start, _do_here, lambda: 2 * n_workers)


def start_pool(pool: ProcessPoolExecutor, n_workers: int) -> ProcessPoolExecutor:
    """Start all processes of a pool now: they inherit the environment when they start, and start with first tasks.

    Raises
    ------
    SettingsError
        If they end at once.
    """
    try:
        with _ignored_interrupts():
            tasks = [pool.submit(os.getpid) for _ in range(n_workers)]
        for started in tasks:
            started.result()
    except BrokenExecutor as error:
        raise SettingsError(
            "The processes that workers ask for end as soon as they are started. A script must call this under "
            '`if __name__ == "__main__":`, because each process reads the script.'
        ) from error
    return pool


@contextmanager
def _ignored_interrupts() -> Iterator[None]:
    """Let processes that are started meanwhile ignore Ctrl-C from their first moment; `_begin` would be too late."""
    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)


def cluster(job: Job, address: str) -> Team:
    """Return a team of the workers of a dask.distributed scheduler.

    Raises
    ------
    SettingsError
        If the extra is missing, or nothing answers at the address.
    """
    try:
        import distributed
    except ImportError as error:
        raise SettingsError(f"A scheduler needs dask.distributed. {CLUSTER_EXTRA}") from error
    try:
        client: Any = distributed.Client(address, set_as_default=False, timeout="20s")  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TimeoutError) as error:
        raise SettingsError(f"No dask scheduler answers at {address}: {error}.") from error
    shared = client.scatter(job, broadcast=True)

    class _Futures(Executor):
        """The client as an executor: what fails there fails here, and dead workers' tasks go to others."""

        def submit(self, call: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
            remote = client.submit(call, shared, *args, pure=False, retries=0, **options)
            future: Future[Any] = Future()
            future.set_running_or_notify_cancel()
            remote.add_done_callback(partial(_hand_over, future))
            future.remote = remote  # type: ignore[attr-defined]  # dask forgets what nobody holds
            return future

        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            client.close()

    return Team(_Futures, _do_there, lambda: max(2, 2 * len(client.scheduler_info(n_workers=-1)["workers"])))


def _hand_over(future: Future[Any], remote: Any) -> None:
    """Give a concurrent future what a dask future came to."""
    if remote.status == "finished":
        future.set_result(remote.result())
    else:
        error = remote.exception()
        future.set_exception(error if isinstance(error, Exception) else ModelError(f"It was {remote.status}."))


# --- in the other processes ------------------------------------------------------------------------------------------

_sites: dict[str, Site] = {}
_one_at_a_time = threading.Lock()  # a site is for one thread
_job: Job | None = None


def _begin(job: Job) -> None:
    global _job
    end_with_parent()
    _job = job


def end_with_parent() -> None:
    """Let this process end when the one that started it does, also where that is killed and cannot tell.

    Ctrl-C, which all processes of a terminal get, is left to that one.
    """
    parent = parent_process()
    if parent is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait_for_its_end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_its_end, daemon=True, name="end with parent").start()


def _do_here(task: Task) -> int:
    if _job is None:
        raise SettingsError("The process was not told what to work on.")
    return _do_there(_job, task)


def _do_there(job: Job, task: Task) -> int:
    with _one_at_a_time:
        if job.key not in _sites:
            _sites.clear()
            _sites[job.key] = job.open()
        return task.do(_sites[job.key])


@contextmanager
def threads_in_processes(n: int) -> Iterator[None]:
    """Let processes that are started meanwhile use n threads each."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(n)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


ROUNDS = 2
"""How often a tile or block is handed out before it has failed."""


class TilesThenBlocks:
    """Finds the cells of tiles and settles the blocks.

    Parameters
    ----------
    plan : Plan
        The run.
    tiles, blocks : iterable of int
        Which are left to do, rising.
    failed : dict of int to str, optional
        Tiles that have failed already, with their errors; those of this schedule are added.
    """

    def __init__(
        self, plan: Plan, tiles: Iterable[int], blocks: Iterable[int], failed: dict[int, str] | None = None
    ) -> None:
        self._plan = plan
        self._tiles, self._blocks = deque(tiles), deque(blocks)
        self._missing = set(self._tiles)
        self._again: deque[int] = deque()
        self._postponed: deque[int] = deque()
        self._tries: dict[Task, int] = {}
        self.failed = failed if failed is not None else {}

    def next(self) -> Task | None:
        """Return a block that can be settled, else a tile, or None."""
        if self._blocks and self._is_ready(self._blocks[0]):
            return self._block(self._blocks.popleft())
        if not self._tiles and self._again:
            self._tiles, self._again = self._again, self._tiles
        if self._tiles:
            return Task("tile", self._tiles.popleft())
        if not self._missing and self._postponed:
            return self._block(self._postponed.popleft())
        return None

    def ended(self, task: Task, error: Exception | None) -> None:
        """Hear that a task has ended.

        Raises
        ------
        Exception
            What stops the run: a full disk, or a block that failed again.
        """
        if isinstance(error, OutputError):
            raise error
        if error is None:
            if task.kind == "tile":
                self._missing.discard(task.number)
            return
        if task.kind == "block" and isinstance(error, TileNotDone) and self._missing:
            self._postponed.append(task.number)
            return
        self._tries[task] = self._tries.get(task, 0) + 1
        if self._tries[task] < ROUNDS:
            (self._again if task.kind == "tile" else self._blocks).append(task.number)
        elif task.kind == "tile":
            self.failed[task.number] = in_one_line(error)
            self._missing.discard(task.number)
        elif isinstance(error, BloodCellError):
            raise error
        else:
            place = self._plan.block(task.number)
            raise BloodCellError(f"The cells at {place} could not be typed: {in_one_line(error)}") from error

    def _is_ready(self, block: int) -> bool:
        if not self._missing:
            return True
        around = grown(self._plan.block(block), 2 * self._plan.overlap, self._plan.shape)
        return self._missing.isdisjoint(self._plan.tiles_reading(around))

    def _block(self, number: int) -> Task:
        return Task("block", number, frozenset(self.failed))


class InOrder:
    """Does tasks one after the other; one that fails stops the run."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = deque(tasks)

    def next(self) -> Task | None:
        """Return the next task, or None."""
        return self._tasks.popleft() if self._tasks else None

    def ended(self, task: Task, error: Exception | None) -> None:
        """Hear that a task has ended, and raise its error if it has one."""
        if error is not None:
            raise error
