"""Many images at once: processes that each analyse one image after the other."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from multiprocessing import get_context
from typing import TYPE_CHECKING

from napari_bloodcell.commands import batch
from napari_bloodcell.slides.crew import MOST_LOSSES, MOST_PROCESSES, end_with_parent, start_pool, threads_in_processes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from napari_bloodcell.params import Recipe

_context: tuple[Sequence[str], Recipe, batch.Options, batch.Models] | None = None


def iter_outcomes(
    images: Mapping[int, Path], names: Sequence[str], *, recipe: Recipe, options: batch.Options
) -> Iterator[tuple[int, batch.Outcome]]:
    """Analyse images in processes that load the models once each and share the cores, and yield what became of each.

    Parameters
    ----------
    images : mapping of int to path
        Images by their place in the batch.
    names : sequence of str
        Names of the results of the whole batch.
    recipe : Recipe
        Settings; the processes load the models that it names.
    options : Options
        What is written, and by how many processes.

    Notes
    -----
    Where a process dies, the images that were under way are done again, one at a time: the one that kills its process
    again and again has failed.
    """
    left = dict(images)
    losses: Counter[int] = Counter()
    n_workers = min(options.workers, len(images), MOST_PROCESSES)
    while left:
        pool = _start(n_workers, names, recipe, options)
        under_way: dict[Future[batch.Outcome], int] = {}
        waiting = sorted(left, key=lambda number: (-losses[number], number))
        try:
            while waiting or under_way:
                is_suspect = bool(waiting and losses[waiting[0]])
                n_at_once = 1 if is_suspect or any(losses[n] for n in under_way.values()) else n_workers
                while waiting and len(under_way) < n_at_once:
                    number = waiting.pop(0)
                    under_way[pool.submit(_analyse, left[number], names[number])] = number
                ended, _ = wait(under_way, return_when=FIRST_COMPLETED)
                for future in ended:
                    outcome = future.result()
                    number = under_way.pop(future)
                    del left[number]
                    yield number, outcome
        except BrokenExecutor:
            for number in under_way.values():
                losses[number] += 1
                if losses[number] >= MOST_LOSSES:
                    error = f"The process that analysed it died {MOST_LOSSES} times; it may lack memory."
                    yield number, batch.Outcome(str(left.pop(number)), "failed", error=error)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(n_workers: int, names: Sequence[str], recipe: Recipe, options: batch.Options) -> ProcessPoolExecutor:
    options = replace(options, workers=1, quiet=True)
    with threads_in_processes(max(1, (os.cpu_count() or 1) // n_workers)):
        pool = ProcessPoolExecutor(n_workers, get_context("spawn"), _begin, (names, recipe, options))
        return start_pool(pool, n_workers)


def _begin(names: Sequence[str], recipe: Recipe, options: batch.Options) -> None:
    global _context
    end_with_parent()
    _context = names, recipe, options, batch.load_models(recipe, quiet=True)


def _analyse(image: Path, name: str) -> batch.Outcome:
    if _context is None:
        raise RuntimeError("the process was not told what to do")
    names, recipe, options, models = _context
    return batch.analyse_one(image, name, names, recipe, models, options)
