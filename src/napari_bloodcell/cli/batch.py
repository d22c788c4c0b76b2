"""Analyses many images in one call: writes each result, and the summary."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from cyclopts import Parameter

from napari_bloodcell.cli.console import ProgressLine, describe_fault, say, warn, writes_json
from napari_bloodcell.cli.folders import folder_for, folder_for_slide, folder_names
from napari_bloodcell.cli.summary import Outcome, Summary, numbers_of
from napari_bloodcell.core.cells import RBC
from napari_bloodcell.core.errors import (
    READ_ERRORS,
    BloodCellError,
    InputError,
    InputWarning,
    OutputError,
    SettingsError,
    escaped,
    heard_of_input,
)
from napari_bloodcell.core.files import LOCK, locked, move_in, sweep_files, sweep_folders, temporary_folder, writing
from napari_bloodcell.core.params import Recipe
from napari_bloodcell.core.progress import Steps, drain
from napari_bloodcell.core.protocols import CellClassifier, MaskGenerator, Progress
from napari_bloodcell.corrections.journal import image_hash
from napari_bloodcell.images.open import is_slide, read_plane
from napari_bloodcell.images.plane import Plane
from napari_bloodcell.models import load, weights
from napari_bloodcell.pipeline import iter_analyse
from napari_bloodcell.results.files import CELLS_TIFF, COUNTS, FILES, GEOJSON, KDE, OVERLAY, RECIPE, TYPES_TIFF, ZARR
from napari_bloodcell.results.pictures import pictures_of_smear, write_pictures_of_slide
from napari_bloodcell.results.plan import models_of
from napari_bloodcell.results.recipes import portable, read_record
from napari_bloodcell.results.result import Result
from napari_bloodcell.results.store import LabelFormat, write_result
from napari_bloodcell.slides.run import iter_analyse_slide
from napari_bloodcell.slides.work import WORK
from napari_bloodcell.slides.workers import InOrder, end_with_parent, process_pool

Format = Annotated[
    LabelFormat,
    Parameter(name="--format", help="Label images as one OME-Zarr, or as cells.tif and types.tif."),
]


@dataclass(frozen=True)
class Options:
    """Options of a batch."""

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
    resumes: bool = False

    @property
    def is_shared(self) -> bool:
        """Whether other processes share the work on an image."""
        return self.workers > 1 or self.scheduler is not None


@dataclass(frozen=True)
class Models:
    """Models loaded once for all images."""

    generator: MaskGenerator
    classifier: CellClassifier


class Image(NamedTuple):
    """An image of a batch: its number, its path, and the name of its result."""

    number: int
    path: Path
    name: str

    @property
    def is_ordinary(self) -> bool:
        """Whether it is analysed in memory; errors are reported when that is tried."""
        try:
            return not is_slide(self.path)
        except InputError:
            return True


def load_models(recipe: Recipe, *, quiet: bool = False) -> Models:
    """Load both models, with a bar for downloads; `ModelError` if one is unknown, damaged or cannot be fetched."""
    name = recipe.segment.model
    if weights.needs_download(name):
        bar = ProgressLine(f"Fetching {name}", is_quiet=quiet)
        weights.download(name, bar)
        bar.clear()
    return Models(*load.load_models(recipe))


def run(
    images: Sequence[Path], missing: Mapping[str, str], *, recipe: Recipe, models: Models, options: Options
) -> bool:
    """Analyse images, write each result and the summary, and return whether all went well.

    That is so if every image is done, the summary is written and, with `options.strict`, no result has a warning. An
    image that fails is named and the others go on; `missing` says why other arguments name no image. Of several
    ordinary images `options.workers` are analysed at a time, each in its own process; on a whole slide all processes
    work together.
    """
    with locked(options.output / LOCK):
        sweep_files(options.output)
    sweep_folders(options.output)
    absent = [Outcome(escaped(name), "failed", error=why) for name, why in missing.items()]
    outcomes = dict(enumerate(absent, start=-len(absent)))
    summary = Summary(options.output, [escaped(name) for name in (*images, *missing)])
    names, no_summary = folder_names(images), ""
    analysed = _iter_outcomes(images, names, recipe, models, options)
    for number, outcome in itertools.chain(list(outcomes.items()), analysed):
        _tell(outcome)
        outcomes[number] = outcome
        if number < 0:
            continue
        try:
            summary.write([outcomes[n] for n in sorted(outcomes)])
            no_summary = ""
        except OutputError as error:  # the results themselves are written
            no_summary = str(error)
        _give_memory_back()
    problems = [outcome.image for outcome in outcomes.values() if outcome.status != "done"]
    doubtful = [outcome.image for outcome in outcomes.values() if outcome.warnings]
    if no_summary:
        warn(no_summary)
    if problems and len(outcomes) > 1:
        warn(f"{len(problems)} of {len(outcomes)} images failed: {', '.join(problems)}")
    if doubtful and len(outcomes) > 1:
        warn(f"{len(doubtful)} of {len(outcomes)} results have warnings: {', '.join(doubtful)}")
    return not problems and not no_summary and not (options.strict and doubtful)


def _tell(outcome: Outcome) -> None:
    """Print the outcome of an image."""
    about = asdict(outcome)
    if outcome.folder:
        say(f"{outcome.image}: {in_words(outcome.numbers)}", "image", **about)
    for sentence in outcome.notes:
        warn(f"{outcome.image}: note: {sentence}", "note", image=outcome.image, text=sentence)
    for sentence in outcome.warnings:
        warn(f"{outcome.image}: warning: {sentence}", "warning", image=outcome.image, text=sentence)
    if outcome.error:
        text = f"{outcome.image}: {outcome.status}: {outcome.error}"
        if outcome.folder:
            warn(text, "warning", image=outcome.image, text=outcome.error)
        else:
            (say if writes_json() else warn)(text, "image", **about)


class _Images(InOrder[Image]):
    """Schedules images one after the other, and records why the processes of some died."""

    def __init__(self, images: Iterable[Image]) -> None:
        super().__init__(images)
        self.deaths: dict[Image, str] = {}

    def ended(self, task: Image, error: Exception | None) -> None:
        """Record why an image's process died."""
        if error is not None:
            self.deaths[task] = str(error)


def _iter_outcomes(
    images: Sequence[Path], names: Sequence[str], recipe: Recipe, models: Models, options: Options
) -> Iterator[tuple[int, Outcome]]:
    """Analyse images and yield each outcome with the image's number."""
    everything = [Image(n, path, name) for n, (path, name) in enumerate(zip(images, names, strict=True))]
    shared = [image for image in everything if options.workers > 1 and options.scheduler is None and image.is_ordinary]
    if len(shared) > 1:
        bar = ProgressLine(f"{len(shared)} images", is_quiet=options.quiet)
        yield from _iter_in_processes(shared, names, recipe, options, bar)
        everything = [image for image in everything if image not in shared]
    for image in everything:
        bar = ProgressLine(f"[{image.number + 1}/{len(images)}] {escaped(image.path)}", is_quiet=options.quiet)
        outcome = analyse_one(image, names, recipe, models, options, bar)
        bar.clear()
        yield image.number, outcome


def _iter_in_processes(
    images: Sequence[Image], names: Sequence[str], recipe: Recipe, options: Options, bar: ProgressLine
) -> Iterator[tuple[int, Outcome]]:
    """Analyse images in processes that each load the models once and share the cores."""
    schedule, n_workers = _Images(images), min(options.workers, len(images))
    arguments = (names, recipe, replace(options, workers=1, quiet=True))
    pool = process_pool(n_workers, _analyse, _begin, arguments)
    try:
        for done, (image, outcome) in enumerate(pool.work(schedule), start=1):
            bar(Progress(done, len(images), "images"))
            bar.clear()
            yield image.number, outcome or Outcome(escaped(image.path), "failed", error=schedule.deaths[image])
    finally:
        pool.close()


def _give_memory_back() -> None:
    """Return freed memory to the system: images of many sizes leave gaps that glibc would keep."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library has no such function
            ctypes.CDLL(None).malloc_trim(0)


def analyse_one(
    image: Image,
    names: Sequence[str],
    recipe: Recipe,
    models: Models,
    options: Options,
    on_progress: Callable[[Progress], object] | None = None,
) -> Outcome:
    """Analyse one image of a batch, write its result, and return the outcome; it never raises."""
    start = time.monotonic()
    analyse = _analyse_slide if options.is_shared or not image.is_ordinary else _analyse_smear
    try:
        with warnings.catch_warnings(), heard_of_input() as heard:
            warnings.simplefilter("ignore", InputWarning)  # recorded in the outcome
            folder = analyse(image, names, recipe, models, options, on_progress)
        content = json.loads((folder / COUNTS).read_text(encoding="utf-8"))
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one image, the others go on and this is named
        reason = str(error) if isinstance(error, BloodCellError) else describe_fault(error)
        return Outcome(escaped(image.path), "failed", error=reason, seconds=time.monotonic() - start)
    tiles = ", ".join(f"{tile['name']} ({tile['error']})" for tile in content["failed_tiles"])
    return Outcome(
        escaped(image.path),
        "incomplete" if tiles else "done",
        folder=folder.name,
        numbers=numbers_of(content),
        seconds=time.monotonic() - start,
        warnings=tuple(content["warnings"]),
        notes=tuple(heard.notes),
        error=f"these tiles failed and hold no cells: {tiles}" if tiles else "",
    )


def _analyse_smear(
    image: Image,
    names: Sequence[str],
    recipe: Recipe,
    models: Models,
    options: Options,
    on_progress: Callable[[Progress], object] | None,
) -> Path:
    """Analyse an image in memory and return the folder of its result.

    The folder is chosen when the result is ready, under the output folder's lock: batches that write there at the same
    time choose one after the other, and see each other's results.
    """
    plane = read_plane(image.path, name=image.name)
    sha256 = image_hash(plane.data)
    if options.resumes:
        folder = folder_for(options.output, image.name, sha256, image.path, names)
        sweep_folders(folder)
        if _is_done(folder, recipe, models, options):
            return folder
    with temporary_folder(options.output) as stage:
        analyse_into(stage, plane, recipe=recipe, models=models, options=options, on_progress=on_progress)
        with locked(options.output / LOCK):
            folder = folder_for(options.output, image.name, sha256, image.path, names)
            with writing(folder):
                folder.mkdir(exist_ok=True)
                sweep_folders(folder)
                move_in(stage, folder, last=RECIPE, stale=(*FILES, WORK))
    return folder


def _is_done(folder: Path, recipe: Recipe, models: Models, options: Options) -> bool:
    """Return whether a folder holds everything this batch would write there, made with equal settings and models."""
    labels = (CELLS_TIFF, TYPES_TIFF) if options.label_format == "tiff" else (ZARR,)
    wanted = {OVERLAY: options.overlay, KDE: options.kde, GEOJSON: options.geojson} | dict.fromkeys(labels, True)
    if not all((folder / name).exists() for name, is_wanted in wanted.items() if is_wanted):
        return False
    damaged: tuple[type[Exception], ...] = (SettingsError, *READ_ERRORS)
    try:
        record = read_record(folder / RECIPE)
        content = json.loads((folder / COUNTS).read_text(encoding="utf-8"))
    except damaged:
        return False
    used = {stage: model.sha256 for stage, model in record.models.items()}
    known = models_of(models.generator, models.classifier, recipe.classify.subtypes)
    loaded = {stage: model["sha256"] for stage, model in known.items()}
    return (
        portable(recipe).allows(record.recipe)
        and used == loaded
        and content.get("failed_tiles") == []
        and "warnings" in content
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


def _analyse_slide(
    image: Image,
    names: Sequence[str],
    recipe: Recipe,
    models: Models,
    options: Options,
    on_progress: Callable[[Progress], object] | None,
) -> Path:
    """Analyse a slide part by part, resuming an earlier call, and return the folder of its result."""
    if options.label_format == "tiff":
        raise SettingsError("A whole slide is written as OME-Zarr; leave out --format tiff.")

    def begun(folder: Path) -> Generator[Progress, None, Result]:
        return iter_analyse_slide(
            image.path.resolve(),
            folder,
            recipe=recipe,
            # Processes load their own models instead of receiving them.
            generator=None if options.is_shared else models.generator,
            classifier=None if options.is_shared else models.classifier,
            workers=options.workers,
            scheduler=options.scheduler,
            copies_image=options.copies_image,
            geojson=options.geojson,
            name=image.name,
        )

    with locked(options.output / LOCK):
        folder = folder_for_slide(options.output, image.name, image.path, names)
        work = begun(folder)
        steps = Steps(work)
        each = iter(steps)
        next(each, None)  # now its plan is there, and no other batch takes the folder
    with closing(work):
        for step in each:
            if on_progress is not None:
                on_progress(step)
    write_pictures_of_slide(steps.result, overlay=options.overlay, kde=options.kde)
    return folder


def in_words(numbers: Mapping[str, Any]) -> str:
    """Return the counts of a row in one line."""
    low, high, plain = (numbers[f"{RBC}_{what}"] for what in ("low", "high", "uncorrected"))
    more = f" ({plain} uncorrected{f', 95 %: {low} to {high}' if low != '' else ''})"
    counts = itertools.takewhile(lambda item: item[0] != f"{RBC}_uncorrected", numbers.items())
    return ", ".join(f"{name} {n}{more if name == RBC else ''}" for name, n in counts)


# --- in the other processes ------------------------------------------------------------------------------------------

_batch: tuple[Sequence[str], Recipe, Models, Options] | None = None


def _begin(names: Sequence[str], recipe: Recipe, options: Options) -> None:
    global _batch
    end_with_parent()
    _batch = names, recipe, load_models(recipe, quiet=True), options


def _analyse(image: Image) -> Outcome:
    if _batch is None:
        raise SettingsError("The process was not told what to do.")
    return analyse_one(image, *_batch)
