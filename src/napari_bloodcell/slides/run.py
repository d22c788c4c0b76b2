"""Analyses a slide of any size into a folder, tile by tile, resuming where an earlier run stopped."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from napari_bloodcell.core.cells import type_names
from napari_bloodcell.core.errors import InputError, OutputError, escaped, heard_of_input
from napari_bloodcell.core.files import LOCK, expanded, locked, make_folder, sweep, writing
from napari_bloodcell.core.params import Recipe
from napari_bloodcell.core.progress import Steps
from napari_bloodcell.core.protocols import CellClassifier, FailedTile, MaskGenerator, Progress, doubts_about
from napari_bloodcell.corrections.journal import image_hash
from napari_bloodcell.images.image import SlideImage
from napari_bloodcell.images.open import open_image
from napari_bloodcell.models.load import load_models
from napari_bloodcell.results.files import RECIPE, ZARR
from napari_bloodcell.results.ome_zarr import create_smear, open_levels
from napari_bloodcell.results.plan import Plan, models_of
from napari_bloodcell.results.pyramid import CELLS, IMAGE, TYPES, Pyramids
from napari_bloodcell.results.result import Result
from napari_bloodcell.results.store import read_result, write_slide_result
from napari_bloodcell.slides.context import Context, Job
from napari_bloodcell.slides.joined import join_slide
from napari_bloodcell.slides.numbering import number_cells_of_slide, write_numbers
from napari_bloodcell.slides.work import WorkFolder, is_made_with, read_arrays, write_arrays
from napari_bloodcell.slides.workers import InOrder, SingleProcess, Task, TilesThenBlocks, Workers, cluster, processes
from napari_bloodcell.stages.calibration import SeenField, doubts_of
from napari_bloodcell.stages.classify import iter_refine, kinds_not_told
from napari_bloodcell.stages.quality.measures import Grid
from napari_bloodcell.stages.quality.places import iter_count_places
from napari_bloodcell.stages.quality.verdicts import judge
from napari_bloodcell.stages.red_cells.measurements import iter_add_measurements
from napari_bloodcell.stages.red_cells.shapes import read_grades
from napari_bloodcell.stages.segment import calibrate, sample_of, tiles_across
from napari_bloodcell.stages.tiles import BLOCK_LEVELS, BLOCK_PX

T = TypeVar("T")
logger = logging.getLogger(__name__)
COPY = "copy.npz"


def iter_analyse_slide(
    image: object,
    output: str | Path,
    *,
    recipe: Recipe | None = None,
    generator: MaskGenerator | None = None,
    classifier: CellClassifier | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    copies_image: bool = True,
    geojson: bool = False,
    name: str | None = None,
    live: bool = False,
) -> Generator[Progress, None, Result]:
    """Segment, type and count the cells of a slide of any size into a folder.

    Work that an earlier run with the same image, settings and weights left in `output` is resumed; a complete result is
    opened. `workers` is the number of processes on this machine, each with the models and its share of the cores;
    `scheduler` the address of a dask.distributed scheduler, such as "tcp://10.0.0.1:8786", whose workers reach image
    and folder by the same paths. Models given must then be picklable. `copies_image` writes a lossless copy of the
    image, `geojson` ``cells.geojson`` for QuPath; `live` updates the coarsest label levels after each block, for
    viewers.

    Yields progress after each tile and block; the payload is the box (y0, x0, y1, x1) whose cells are new in the
    OME-Zarr, or None. Raises `InputError` if the image cannot be opened, and `OutputError` if the folder cannot be
    written to, is full, or is in use by another run; finished work stays, and the same call resumes it.
    """
    recipe = recipe or Recipe()
    read_grades(recipe.count.grades)  # a mistake in it is better told before the work than after
    output = expanded(output)
    if workers < 1:
        raise InputError(f"{workers} workers were asked for; give at least 1.")
    with heard_of_input() as heard:
        slide = open_image(image, name=name).with_measured_values()
    make_folder(output)
    with locked(output / LOCK, wait=False):
        work, earlier, digest = WorkFolder(output), _result_in(output), _digest(slide)
        plans = [plan for plan in (work.read_plan(), None if earlier is None else earlier.plan) if plan is not None]
        asked, recipe = recipe, _in_earlier_precision(recipe, digest, plans)
        generator_here, classifier_here = load_models(recipe, generator, classifier)
        recipe = recipe.as_used(
            segment=getattr(generator_here, "precision", None), classify=getattr(classifier_here, "precision", None)
        )
        plan = _plan(slide, digest, recipe, generator_here, classifier_here, plans, copies_image=copies_image)
        doubts = doubts_of(plan.calibration, plan.pixel_size_used_um)
        warnings = (*heard.doubts, *doubts, *doubts_about(generator_here, classifier_here))
        if earlier is not None and _is_that_of(earlier, plan, asked):
            work.discard()  # left over if a run was killed just before its end
            return earlier
        if earlier is not None and earlier.is_corrected:
            raise OutputError(
                f"{output} holds a result that was corrected by hand, of another image or with other settings. Choose "
                "another folder, or remove it."
            )
        _make_ready(work, plan)
        are_elsewhere = workers > 1 or scheduler is not None
        if not slide.reads_tiles or (are_elsewhere and slide.source is None):
            slide = yield from _iter_copy(work, plan, slide)
        source = str(Path(slide.source).resolve()) if slide.source is not None else ""
        given = (None if generator is None else generator_here, None if classifier is None else classifier_here)
        job = Job(str(output.resolve()), source, plan, len(slide.levels), *given)
        pool: Workers
        if scheduler is not None:
            pool = cluster(job, scheduler)
        elif workers > 1:
            pool = processes(job, workers)
        else:
            context = Context(work, plan, slide, generator_here, classifier_here)
            pool = SingleProcess(lambda task: task.do(context))
        try:
            failed = yield from _iter_shown(_iter_find(work, plan, pool), work if live else None)
            cells, numbers, sums = number_cells_of_slide(work, plan)
            cells = yield from iter_refine(slide.pixels, cells, plan.calibration, params=recipe.classify)
            write_numbers(work, numbers)
            digest = numbers.digest
            del numbers
            yield from _iter_shown(_iter_paint(plan, pool, digest), work if live else None)
        finally:
            pool.close()
        yield from _iter_coarse(work, plan)
        cells = yield from iter_add_measurements(
            slide.pixels,
            open_levels(output / ZARR, "labels/cells", "r")[0],
            cells,
            plan.calibration,
            recipe.count.measurements,
            pixel_size_um=plan.pixel_size_used_um,
            part_px=plan.block_px,
        )
        grid = Grid.of(plan.shape, plan.calibration)
        quality = None if recipe.count.quality == "off" else judge(sums, cells, grid, plan.calibration)
        counting = yield from iter_count_places(
            cells,
            quality,
            params=recipe.count,
            rbc_diameter_px=plan.calibration.rbc_diameter_px,
            field=SeenField.of(plan.shape, plan.calibration, recipe.segment, plan.pixel_size_used_um),
        )
        lost = [FailedTile(plan.tile(n).name, plan.tile(n).core, error) for n, error in sorted(failed.items())]
        result = write_slide_result(
            Result.of_plan(
                output,
                plan,
                cells,
                failed_tiles=lost,
                warnings=tuple(
                    dict.fromkeys(
                        (*warnings, *kinds_not_told(recipe.classify, plan.calibration, cells), *counting.doubts)
                    )
                ),
                image_sha256=_hash_of(slide, work, plan),
                known_counting=counting,
                quality=quality,
            ),
            geojson=geojson,
        )
        if not lost:
            work.discard()
        return result


# --- the plan --------------------------------------------------------------------------------------------------------


def _in_earlier_precision(recipe: Recipe, digest: str, known: Sequence[Plan]) -> Recipe:
    """Return settings with the precision in which earlier work on the same slide was begun, where they leave it open.

    So that what another kind of processor began is not thrown away, nor mixed with what this one would find.
    """
    for earlier in known:
        if earlier.image_digest == digest:
            recipe = recipe.in_precision_of(earlier.recipe)
    return recipe


def _plan(
    slide: SlideImage,
    digest: str,
    recipe: Recipe,
    generator: MaskGenerator,
    classifier: CellClassifier,
    known: Sequence[Plan],
    *,
    copies_image: bool,
) -> Plan:
    """Return the plan of a run; a known plan of the same slide and settings spares the calibration."""
    params, models = recipe.segment, models_of(generator, classifier, recipe.classify.subtypes)
    for earlier in known:
        if earlier.image_digest != digest:
            continue
        if earlier.recipe.segment == params and earlier.models["segment"] == models["segment"]:
            calibration, overlap = earlier.calibration, earlier.overlap
            break
    else:
        calibration = calibrate(
            slide.pixels,
            params=params,
            generator=generator,
            pixel_size_um=slide.pixel_size_um,
            overview=np.asarray(slide.levels[-1]) if len(slide.levels) > 1 else None,
        )
        overlap = generator.overlap_px(calibration) if params.tile_overlap is None else params.tile_overlap
    return Plan(
        shape=slide.shape,
        overlap=overlap,
        calibration=calibration,
        recipe=recipe,
        classes=tuple(classifier.classes),
        models=models,
        image_digest=digest,
        name=slide.name,
        source=None if slide.source is None else escaped(slide.source),
        pixel_size_um=slide.pixel_size_um,
        copies_image=copies_image,
        block_px=BLOCK_PX,
        device=str(getattr(generator, "device", params.device)),
        tiles_across=tiles_across(params, generator, calibration, overlap),
    )


def _hash_of(slide: SlideImage, work: WorkFolder, plan: Plan) -> str:
    """Return the hash that names an image by its content, the same in memory and on disk."""
    image = open_image(work.output / ZARR) if plan.copies_image else slide  # the copy can be read in any case
    try:
        return image_hash(image.pixels)
    except InputError:
        return plan.image_digest


def _digest(slide: SlideImage) -> str:
    """Return the fingerprint of a slide: its shape, a sample of its pixels, and its file's size and date."""
    digest = hashlib.sha256(repr((slide.shape, slide.pixel_size_um)).encode())
    digest.update(sample_of(slide.pixels).tobytes())
    if slide.source is not None and Path(slide.source).is_file():
        state = Path(slide.source).stat()
        digest.update(repr((state.st_size, state.st_mtime_ns)).encode())
    return digest.hexdigest()


def _result_in(output: Path) -> Result | None:
    try:
        return read_result(output)
    except InputError:
        return None


def _is_that_of(result: Result, plan: Plan, asked: Recipe) -> bool:
    """Return whether a result is complete and what a run with this plan would give.

    Versions that recorded no precision may have used any: if any was asked for, their results are taken.
    """
    made = result.plan
    if made is None or result.failed_tiles or made.copies_image != plan.copies_image:
        return False
    if asked.allows(made.recipe):
        plan = replace(plan, recipe=made.recipe)
    return (made.block_hash, made.recipe, made.models) == (plan.block_hash, plan.recipe, plan.models)


def _make_ready(work: WorkFolder, plan: Plan) -> None:
    """Keep earlier work if it fits; otherwise make the folder and an empty OME-Zarr."""
    earlier, zarr = work.read_plan(), work.output / ZARR
    sweep(work.output)
    fits = (
        earlier is not None
        and zarr.is_dir()
        and (earlier.tile_hash, earlier.name, earlier.classes) == (plan.tile_hash, plan.name, plan.classes)
        and (earlier.copies_image, earlier.pixel_size_um) == (plan.copies_image, plan.pixel_size_um)
    )
    if not fits:
        if earlier is not None:
            logger.info("the work in %s was done with other settings and is begun anew", work.path)
        work.discard()
        shutil.rmtree(zarr, ignore_errors=True)
        with writing(zarr):
            create_smear(
                zarr,
                shape=plan.shape,
                names=type_names(plan.classes),
                name=plan.name,
                pixel_size_um=plan.pixel_size_used_um,
                with_image=plan.copies_image,
            )
    (work.output / RECIPE).unlink(missing_ok=True)  # the earlier result is no longer complete
    work.write_plan(plan)


def _iter_copy(work: WorkFolder, plan: Plan, slide: SlideImage) -> Generator[Progress, None, SlideImage]:
    """Copy a slide that has no tiles, or that other processes cannot reach, and return the copy."""
    target = (work.output / ZARR if plan.copies_image else work.path / "image.ome.zarr").resolve()
    if not target.is_dir():
        with writing(target):
            create_smear(target, shape=plan.shape, names=[], name=plan.name, pixel_size_um=plan.pixel_size_um)
    marker = work.path / COPY
    if not is_made_with(marker, plan.image_digest):
        pyramids = Pyramids(target)
        for number in range(plan.n_blocks):
            box = plan.block(number)
            pyramids.write_block(IMAGE, np.moveaxis(slide.read(box), -1, 0), box)
            yield Progress(number + 1, plan.n_blocks, "blocks copied")
        write_arrays(marker, {}, plan.image_digest)
    copy = open_image(target, name=slide.name)
    return replace(copy, levels=copy.levels[:BLOCK_LEVELS])  # coarser levels are filled at the end


# --- the stages ------------------------------------------------------------------------------------------------------


def _iter_find(work: WorkFolder, plan: Plan, pool: Workers) -> Generator[Progress, None, dict[int, str]]:
    """Find the cells of all tiles and settle all blocks; return failed tiles with their errors."""
    tiles = [n for n in range(plan.n_tiles) if not is_made_with(work.tile_path(plan, n), plan.tile_hash)]
    blocks = [n for n in range(plan.n_blocks) if not _is_settled(work, plan, n)]
    total = plan.n_tiles + plan.n_blocks
    done = total - len(tiles) - len(blocks)
    yield Progress(done, total, "tiles and blocks")
    failed: dict[int, str] = {}
    if plan.overlap:
        schedules: list[tuple[list[int], list[int]]] = [(tiles, blocks)]
    else:
        schedules = [(tiles, []), ([], blocks)]
    for i, (some_tiles, some_blocks) in enumerate(schedules):
        if i:
            join_slide(work, plan, failed)
        ended: set[Task] = set()
        for task, _ in pool.work(TilesThenBlocks(plan, some_tiles, some_blocks, failed)):
            ended.add(replace(task, more=None))
            box = plan.block(task.number) if task.kind == "block" else None
            yield Progress(done + len(ended), total, "tiles and blocks", box)
        done += len(ended)
    for number, error in failed.items():
        logger.error("tile %s failed: %s", plan.tile(number).name, error)
    return failed


def _is_settled(work: WorkFolder, plan: Plan, number: int) -> bool:
    """Return whether a block is done, with all of its tiles."""
    arrays = read_arrays(work.block_path(plan, number), plan.block_hash)
    return arrays is not None and "sums_tile" in arrays and not len(arrays["failed"])


def _iter_shown(analysis: Generator[Progress, None, T], work: WorkFolder | None) -> Generator[Progress, None, T]:
    """Yield steps once their blocks are in the coarsest levels of the labels."""
    if work is None:
        return (yield from analysis)
    pyramids = Pyramids(work.output / ZARR)
    steps = Steps(analysis)
    for step in steps:
        if isinstance(step.payload, tuple):
            for group in (CELLS, TYPES):
                pyramids.fill_coarse_levels_at(group, step.payload)
        yield step
    return steps.result


def _iter_paint(plan: Plan, pool: Workers, digest: str) -> Generator[Progress, None, None]:
    tasks = [Task("paint", n, digest) for n in range(plan.n_blocks)]
    for done, (task, _) in enumerate(pool.work(InOrder(tasks)), start=1):
        yield Progress(done, len(tasks), "blocks numbered", plan.block(task.number))


def _iter_coarse(work: WorkFolder, plan: Plan) -> Iterator[Progress]:
    pyramids = Pyramids(work.output / ZARR)
    groups = [CELLS, TYPES, *([IMAGE] if plan.copies_image else [])]
    for done, group in enumerate(groups, start=1):
        pyramids.fill_coarse_levels(group)
        yield Progress(done, len(groups), "pyramids completed")
