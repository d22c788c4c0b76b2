"""Many images in one call: each analysed and written, and the summary."""

from __future__ import annotations

import contextlib
import csv
import ctypes
import io
import os
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Literal

from napari_bloodcell.cli.console import ProgressLine, describe_fault, say, warn
from napari_bloodcell.cli.folders import SUMMARY, folder_for, folder_for_slide, folder_names, not_found
from napari_bloodcell.core.cells import RBC
from napari_bloodcell.core.errors import BloodCellError, InputError, InputWarning, SettingsError
from napari_bloodcell.core.files import write_bytes
from napari_bloodcell.core.progress import drain
from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.corrections.journal import image_hash
from napari_bloodcell.images.open import is_slide, read_plane
from napari_bloodcell.pipeline import iter_analyse
from napari_bloodcell.results.pictures import pictures_of_smear, write_pictures_of_slide
from napari_bloodcell.results.store import LabelFormat, write_result
from napari_bloodcell.slides.run import iter_analyse_slide
from napari_bloodcell.slides.workers import (
    MOST_LOSSES,
    MOST_PROCESSES,
    end_with_parent,
    start_pool,
    threads_in_processes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from napari_bloodcell.core.params import Recipe
    from napari_bloodcell.core.protocols import CellClassifier, MaskGenerator
    from napari_bloodcell.images.plane import Plane
    from napari_bloodcell.results.result import Result


Status = Literal["done", "incomplete", "failed"]


@dataclass(frozen=True)
class Options:
    """What is written for each image."""

    output: Path
    label_format: LabelFormat = "ome-zarr"
    overlay: bool = True
    kde: bool = True
    geojson: bool = False
    quiet: bool = False
    workers: int = 1
    scheduler: str | None = None
    copies_image: bool = True
    strict: bool = False

    @property
    def is_shared(self) -> bool:
        """Whether other processes share the work on an image."""
        return self.workers > 1 or self.scheduler is not None


@dataclass(frozen=True)
class Models:
    """Loaded once for all images."""

    generator: MaskGenerator
    classifier: CellClassifier


@dataclass
class Outcome:
    """A row of the summary."""

    image: str
    status: Status
    folder: str = ""
    result: Result | None = None
    seconds: float = 0.0
    error: str = ""
    warnings: tuple[str, ...] = ()
    numbers: dict[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.result is not None:
            counting = self.result.counting
            self.numbers = dict(self.result.counts) | {
                f"{RBC}_uncorrected": counting.uncorrected.get(RBC, 0),
                f"{RBC}_low": counting.interval[0],
                f"{RBC}_high": counting.interval[1],
                "failed_tiles": len(self.result.failed_tiles),
            }
            self.warnings = self.result.warnings
            self.result = None  # its arrays are not kept for a whole batch


def load_models(recipe: Recipe, *, quiet: bool = False) -> Models:
    """Load both models, with a bar for what has to be downloaded first.

    Raises
    ------
    ModelError
        If one does not exist, is damaged or cannot be fetched.
    """
    from napari_bloodcell.models import weights
    from napari_bloodcell.models.load import load_generator
    from napari_bloodcell.stages.classify import load_classifier

    name = recipe.segment.model
    if name in weights.OFFICIAL and not weights.find(name).is_present:
        bar = ProgressLine(f"Fetching {name}", is_quiet=quiet)
        weights.download(name, bar)
        bar.clear()
    return Models(load_generator(name, recipe.segment.device), load_classifier(recipe.classify))


def run(images: Sequence[Path], missing: Sequence[str], *, recipe: Recipe, models: Models, options: Options) -> bool:
    """Analyse images, writing each result and the summary, and return whether all went well.

    All went well where every image is done and, if `options.strict`, no result has a warning.

    An image that fails is named and the others go on. Of several ordinary images `options.workers` are analysed at a
    time, each in a process of its own; on a whole slide all processes work together.
    """
    outcomes = [Outcome(name, "failed", error=not_found(name)) for name in missing]
    for outcome in outcomes:
        warn(f"{outcome.image}: failed: {outcome.error}")
    names = folder_names(images)
    found: dict[int, Outcome] = {}
    for number, outcome in _iter_outcomes(images, names, recipe, models, options):
        if outcome.error:
            warn(f"{outcome.image}: {outcome.status}: {outcome.error}")
        found[number] = outcome
        done = [*outcomes, *(found[i] for i in sorted(found))]
        write_bytes(options.output / SUMMARY, summary(done).encode())
        _give_memory_back()
    outcomes += found.values()
    problems = [outcome.image for outcome in outcomes if outcome.status != "done"]
    doubtful = [outcome.image for outcome in outcomes if outcome.warnings]
    if problems and len(outcomes) > 1:
        warn(f"{len(problems)} of {len(outcomes)} images failed: {', '.join(problems)}")
    if doubtful and len(outcomes) > 1:
        warn(f"{len(doubtful)} of {len(outcomes)} results have warnings: {', '.join(doubtful)}")
    return not problems and not (options.strict and doubtful)


def _iter_outcomes(
    images: Sequence[Path], names: Sequence[str], recipe: Recipe, models: Models, options: Options
) -> Iterator[tuple[int, Outcome]]:
    """Analyse images and yield what became of each, with its place among them."""
    alone = dict(enumerate(images))
    if options.workers > 1 and options.scheduler is None:
        ordinary = {i: image for i, image in alone.items() if _is_ordinary(image)}
        if len(ordinary) > 1:
            bar = ProgressLine(f"{len(ordinary)} images", is_quiet=options.quiet)
            for done, (number, outcome) in enumerate(
                iter_outcomes(ordinary, names, recipe=recipe, options=options), start=1
            ):
                bar(Progress(done, len(ordinary), "images"))
                bar.clear()
                yield number, outcome
            alone = {i: image for i, image in alone.items() if i not in ordinary}
    for number, image in alone.items():
        bar = ProgressLine(f"[{number + 1}/{len(images)}] {image}", is_quiet=options.quiet)
        outcome = analyse_one(image, names[number], names, recipe, models, options, bar)
        bar.clear()
        yield number, outcome


def _is_ordinary(image: Path) -> bool:
    """Return whether an image is analysed in memory; what is wrong with it is told when that is tried."""
    try:
        return not is_slide(image)
    except InputError:
        return True


def _give_memory_back() -> None:
    """Return freed memory to the system: images of many sizes leave gaps that glibc would keep for itself."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library has no such function
            ctypes.CDLL(None).malloc_trim(0)


def analyse_one(
    image: Path,
    name: str,
    names: Sequence[str],
    recipe: Recipe,
    models: Models,
    options: Options,
    bar: ProgressLine | None = None,
) -> Outcome:
    """Analyse one image of a batch, write its result, and return what became of it; it never raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)  # the result says it, too
        return _analyse_one(image, name, names, recipe, models, options, bar or ProgressLine("", is_quiet=True))


def _analyse_one(
    image: Path,
    name: str,
    names: Sequence[str],
    recipe: Recipe,
    models: Models,
    options: Options,
    bar: ProgressLine,
) -> Outcome:
    start = time.monotonic()
    result: Result
    try:
        if options.is_shared or is_slide(image):
            folder = folder_for_slide(options.output, name, image, names)
            result = analyse_slide_into(
                folder, image, name=name, recipe=recipe, models=models, options=options, on_progress=bar
            )
        else:
            plane = read_plane(image, name=name)
            folder = folder_for(options.output, name, image_hash(plane.data), names)
            result = analyse_into(folder, plane, recipe=recipe, models=models, options=options, on_progress=bar)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one image, the others go on and this is named
        reason = str(error) if isinstance(error, BloodCellError) else describe_fault(error)
        return Outcome(str(image), "failed", error=reason, seconds=time.monotonic() - start)
    bar.clear()
    say(f"{image}: {in_words(result)}")
    for sentence in result.warnings:
        warn(f"{image}: warning: {sentence}")
    tiles = ", ".join(f"{tile.name} ({tile.error})" for tile in result.failed_tiles)
    return Outcome(
        str(image),
        "incomplete" if tiles else "done",
        folder=folder.name,
        result=result,
        seconds=time.monotonic() - start,
        error=f"these tiles failed and hold no cells: {tiles}" if tiles else "",
    )


def analyse_into(
    folder: Path,
    plane: Plane,
    *,
    recipe: Recipe,
    models: Models,
    options: Options,
    on_progress: Callable[[Progress], object] | None = None,
) -> Result:
    """Analyse one image and write its result with its pictures."""
    work = iter_analyse(plane, recipe=recipe, generator=models.generator, classifier=models.classifier)
    result = drain(work, on_progress)
    write_result(
        result,
        folder,
        image=plane,
        label_format=options.label_format,
        geojson=options.geojson,
        pictures=pictures_of_smear(result, plane, overlay=options.overlay, kde=options.kde),
    )
    return result


def analyse_slide_into(
    folder: Path,
    image: Path,
    *,
    name: str,
    recipe: Recipe,
    models: Models,
    options: Options,
    on_progress: Callable[[Progress], object] | None = None,
) -> Result:
    """Analyse a whole slide part by part, on from where an earlier call was stopped, and draw its pictures."""
    if options.label_format == "tiff":
        raise SettingsError("A whole slide is written as OME-Zarr; leave out --format tiff.")
    work = iter_analyse_slide(
        image.resolve(),
        folder,
        recipe=recipe,
        # Processes load their own: a model of a file or a name needs not travel.
        generator=None if options.is_shared else models.generator,
        classifier=None if options.is_shared else models.classifier,
        workers=options.workers,
        scheduler=options.scheduler,
        copies_image=options.copies_image,
        geojson=options.geojson,
        name=name,
    )
    result = drain(work, on_progress)
    write_pictures_of_slide(result, overlay=options.overlay, kde=options.kde)
    return result


def in_words(result: Result) -> str:
    """Return the counts in one line."""
    low, high = result.counting.interval
    more = f" ({result.counting.uncorrected.get(RBC, 0)} uncorrected, 95 %: {low} to {high})"
    return ", ".join(f"{name} {n}{more if name == RBC else ''}" for name, n in result.counts.items())


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return the summary of a batch as CSV."""
    types: dict[str, None] = {}
    for outcome in outcomes:
        types |= dict.fromkeys(outcome.numbers)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "status", "folder", *types, "seconds", "warnings", "error"])
    for outcome in outcomes:
        numbers = [outcome.numbers.get(name, 0 if outcome.numbers else "") for name in types]
        row = [outcome.image, outcome.status, outcome.folder, *numbers, f"{outcome.seconds:.2f}"]
        writer.writerow([*row, " ".join(outcome.warnings), outcome.error])
    return text.getvalue()


_context: tuple[Sequence[str], Recipe, Options, Models] | None = None


def iter_outcomes(
    images: Mapping[int, Path], names: Sequence[str], *, recipe: Recipe, options: Options
) -> Iterator[tuple[int, Outcome]]:
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
        under_way: dict[Future[Outcome], int] = {}
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
                    yield number, Outcome(str(left.pop(number)), "failed", error=error)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(n_workers: int, names: Sequence[str], recipe: Recipe, options: Options) -> ProcessPoolExecutor:
    options = replace(options, workers=1, quiet=True)
    with threads_in_processes(max(1, (os.cpu_count() or 1) // n_workers)):
        pool = ProcessPoolExecutor(n_workers, get_context("spawn"), _begin, (names, recipe, options))
        return start_pool(pool, n_workers)


def _begin(names: Sequence[str], recipe: Recipe, options: Options) -> None:
    global _context
    end_with_parent()
    _context = names, recipe, options, load_models(recipe, quiet=True)


def _analyse(image: Path, name: str) -> Outcome:
    if _context is None:
        raise RuntimeError("the process was not told what to do")
    names, recipe, options, models = _context
    return analyse_one(image, name, names, recipe, models, options)
