"""Who does the tasks of a run: this process, others on this machine, or a cluster."""

from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from typing import TYPE_CHECKING, Any, Protocol

from napari_bloodcell.errors import ModelError, SettingsError
from napari_bloodcell.slides.block_cells import settle_block
from napari_bloodcell.slides.numbering import paint_block
from napari_bloodcell.slides.tile_cells import find_tile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
