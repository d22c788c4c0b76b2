"""Where the tasks of a run are done: in this process, in others on this machine, or on a cluster."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from typing import Any, Generic, Protocol, TypeVar

from napari_bloodcell.core.errors import BloodCellError, ModelError, OutputError, SettingsError, in_one_line
from napari_bloodcell.core.geometry import grown
from napari_bloodcell.results.plan import Plan
from napari_bloodcell.slides.blocks import settle_block
from napari_bloodcell.slides.context import Context, Job
from napari_bloodcell.slides.neighbours import TileNotDone
from napari_bloodcell.slides.numbering import paint_block
from napari_bloodcell.slides.tiles import find_tile

T = TypeVar("T")
MOST_LOSSES = 3
"""A task whose worker died this many times is assumed to be the cause, and fails."""
MOST_PROCESSES = 61 if sys.platform == "win32" else 4096
"""Windows cannot wait for more at a time."""
CLUSTER_EXTRA = 'It is not installed: pip install "napari-bloodcell[cluster]".'

TASKS: dict[str, Callable[..., int]] = {"tile": find_tile, "block": settle_block, "paint": paint_block}


@dataclass(frozen=True, slots=True)
class Task:
    """A piece of work: one of `TASKS`, a tile or block number, and a further argument."""

    kind: str
    number: int
    more: Any = None

    def do(self, context: Context) -> int:
        """Do it in this process."""
        return TASKS[self.kind](context, self.number, *(() if self.more is None else (self.more,)))


class Schedule(Protocol[T]):
    """Chooses the next task as others end."""

    def next(self) -> T | None:
        """Return a task that can start now, or None."""
        ...

    def ended(self, task: T, error: Exception | None) -> None:
        """Note that a task has ended; `error` is why it failed."""
        ...


class SingleProcess(Generic[T]):
    """Does every task in this process."""

    def __init__(self, call: Callable[[T], Any]) -> None:
        self._call = call

    def work(self, schedule: Schedule[T]) -> Iterator[tuple[T, Any]]:
        """Do all tasks; yield each with its result, or None if it failed."""
        while (task := schedule.next()) is not None:
            error, value = None, None
            try:
                value = self._call(task)
            except Exception as problem:  # noqa: BLE001 - the schedule decides what it means
                error = problem
            schedule.ended(task, error)
            yield task, value

    def close(self) -> None:
        """Nothing to end."""


class WorkerPool(Generic[T]):
    """Hands tasks to an executor whose processes may die.

    `start` returns a new executor and `end` shuts it down. Tasks are hashable and run as ``call(*first, task)``, at
    most `n_at_once()` at a time.
    """

    def __init__(
        self,
        start: Callable[[], Executor],
        call: Callable[..., Any],
        n_at_once: Callable[[], int],
        *,
        end: Callable[[Executor], object] = lambda executor: executor.shutdown(wait=True, cancel_futures=True),
        first: tuple[Any, ...] = (),
    ) -> None:
        self._start, self._end, self._call, self._n_at_once, self._first = start, end, call, n_at_once, first
        self._executor: Executor | None = None

    def work(self, schedule: Schedule[T]) -> Iterator[tuple[T, Any]]:
        """Do all tasks; yield each with its result, or None if it failed.

        If a process dies, the tasks that were running are done again one at a time: the one whose process keeps dying
        is the cause, and fails.
        """
        under_way: dict[Future[Any], tuple[T, Executor]] = {}
        again: deque[T] = deque()
        losses: Counter[T] = Counter()
        while True:
            while len(under_way) < (1 if again or losses else self._n_at_once()):
                task = again.popleft() if again else schedule.next()
                if task is None:
                    break
                executor = self._running()
                try:
                    under_way[executor.submit(self._call, *self._first, task)] = task, executor
                except BrokenExecutor:
                    again.append(task)
                    self._drop(executor)
            if not under_way:
                return
            ended, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in ended:
                task, executor = under_way.pop(future)
                error, value = _outcome_of(future)
                if isinstance(error, BrokenExecutor):
                    losses[task] += 1
                    self._drop(executor)
                    if losses[task] < MOST_LOSSES:
                        again.append(task)
                        continue
                    error = ModelError(f"The process that did it died {MOST_LOSSES} times; it may lack memory.")
                losses.pop(task, None)
                schedule.ended(task, error)
                yield task, value

    def close(self) -> None:
        """Shut down the executor; tasks that have not started are dropped."""
        if self._executor is not None:
            self._end(self._executor)
            self._executor = None

    def _running(self) -> Executor:
        if self._executor is None:
            self._executor = self._start()
        return self._executor

    def _drop(self, broken: Executor) -> None:
        """Start a new executor with the next task, unless that was done already."""
        if self._executor is broken:
            broken.shutdown(wait=False, cancel_futures=True)
            self._executor = None


def _outcome_of(future: Future[Any]) -> tuple[Exception | None, Any]:
    """Return why a task failed, or None, and its result."""
    try:
        return None, future.result()
    except CancelledError:
        return ModelError("It was lost with the worker that did it."), None
    except Exception as error:  # noqa: BLE001 - the schedule decides what it means
        return error, None


Workers = SingleProcess[Task] | WorkerPool[Task]


def processes(job: Job, n_workers: int) -> WorkerPool[Task]:
    """Return a pool of processes on this machine for a slide, each with its models and its share of the cores."""
    return process_pool(n_workers, _do_here, _begin, (job,), tasks_each=2)


def process_pool(
    n_workers: int,
    call: Callable[[T], Any],
    begin: Callable[..., object],
    arguments: tuple[Any, ...],
    *,
    tasks_each: int = 1,
) -> WorkerPool[T]:
    """Return a pool of processes that share this machine's cores; each first calls `begin` with the arguments."""
    n_workers = min(n_workers, MOST_PROCESSES)
    threads = max(1, (os.cpu_count() or 1) // n_workers)

    def start() -> Executor:
        with threads_in_processes(threads):
            return start_pool(ProcessPoolExecutor(n_workers, get_context("spawn"), begin, arguments), n_workers)

    return WorkerPool(start, call, lambda: tasks_each * n_workers)


def start_pool(pool: ProcessPoolExecutor, n_workers: int) -> ProcessPoolExecutor:
    """Start all processes of a pool now, since they inherit the environment; `SettingsError` if they end at once."""
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
    """Let processes started in the block ignore Ctrl-C from their first moment; `_begin` would be too late."""
    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)


def cluster(job: Job, address: str) -> WorkerPool[Task]:
    """Return a pool of the workers of a dask.distributed scheduler, for a slide.

    Raises `SettingsError` if the extra is missing or nothing answers at the address.
    """
    try:
        import distributed
    except ImportError as error:
        raise SettingsError(f"A scheduler needs dask.distributed. {CLUSTER_EXTRA}") from error
    try:
        client: Any = distributed.Client(address, set_as_default=False, timeout="20s")  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TimeoutError) as error:
        raise SettingsError(f"No dask scheduler answers at {address}: {error}.") from error
    return WorkerPool(
        lambda: client.get_executor(pure=False, retries=0),
        _do_there,
        lambda: max(2, 2 * len(client.scheduler_info(n_workers=-1)["workers"])),
        end=lambda _: client.close(),
        first=(client.scatter(job, broadcast=True),),
    )


# --- in the other processes ------------------------------------------------------------------------------------------

_contexts: dict[str, Context] = {}
_one_at_a_time = threading.Lock()  # a context is for one thread
_job: Job | None = None


def _begin(job: Job) -> None:
    global _job
    end_with_parent()
    _job = job


def end_with_parent() -> None:
    """End this process when its parent does, even if that is killed, and leave Ctrl-C to the parent."""
    parent = parent_process()
    if parent is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait_for_its_end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_its_end, daemon=True, name="end with parent").start()


def _do_here(task: Task) -> None:
    if _job is None:
        raise SettingsError("The process was not told what to work on.")
    _do_there(_job, task)


def _do_there(job: Job, task: Task) -> None:
    with _one_at_a_time:
        if job.key not in _contexts:
            _contexts.clear()
            _contexts[job.key] = job.open()
        task.do(_contexts[job.key])


@contextmanager
def threads_in_processes(n: int) -> Iterator[None]:
    """Let processes started in the block use n threads each."""
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
"""Times a tile or block is handed out before it has failed."""


class TilesThenBlocks:
    """Schedules the tiles and blocks left to do, given rising; each block as soon as its tiles are done.

    `failed` maps tiles that failed to their errors; those that fail here are added.
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
        """Note that a task has ended; raise what stops the run: a full disk, or a block that failed again."""
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


class InOrder(Generic[T]):
    """Schedules tasks one after the other; an error stops the run."""

    def __init__(self, tasks: Iterable[T]) -> None:
        self._tasks = deque(tasks)

    def next(self) -> T | None:
        """Return the next task, or None."""
        return self._tasks.popleft() if self._tasks else None

    def ended(self, task: T, error: Exception | None) -> None:
        """Raise the error of a task that failed."""
        if error is not None:
            raise error
