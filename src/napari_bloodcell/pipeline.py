"""From an image to numbers: the stages composed."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from pathlib import Path

from napari_bloodcell.core.errors import ResultWarning, SettingsError, heard_of_input
from napari_bloodcell.core.params import Recipe
from napari_bloodcell.core.progress import drain
from napari_bloodcell.core.protocols import CellClassifier, MaskGenerator, Progress, doubts_about
from napari_bloodcell.images.open import is_slide, read_plane
from napari_bloodcell.images.plane import Plane
from napari_bloodcell.models.load import load_classifier
from napari_bloodcell.results.plan import models_of
from napari_bloodcell.results.result import Result
from napari_bloodcell.results.store import write_result
from napari_bloodcell.slides.run import iter_analyse_slide
from napari_bloodcell.stages.calibration import SeenField
from napari_bloodcell.stages.classify import iter_classify, kinds_not_told
from napari_bloodcell.stages.quality.measures import Grid, measure_part
from napari_bloodcell.stages.quality.places import iter_count_places
from napari_bloodcell.stages.quality.verdicts import Quality, judge
from napari_bloodcell.stages.red_cells.measurements import iter_add_measurements
from napari_bloodcell.stages.red_cells.shapes import read_grades
from napari_bloodcell.stages.segment import iter_segment, segmentation_of


def analyse(
    image: object,
    *,
    recipe: Recipe | None = None,
    cells: object | None = None,
    generator: MaskGenerator | None = None,
    classifier: CellClassifier | None = None,
    output: str | Path | None = None,
    workers: int = 1,
    scheduler: str | None = None,
) -> Result:
    """Segment, type and count the cells of a smear.

    Parameters
    ----------
    image : array-like or path
        (Y, X, 3) uint8, or anything else that `open_image` opens; with `output` of any size.
    recipe : Recipe, optional
        Settings of every stage; ``Recipe.paper()`` for those of the paper.
    cells : path or array-like of int, shape (Y, X), optional
        A label image of another program: its cells are typed and counted, with their ids, instead of finding any.
    generator, classifier : optional
        Models to use instead of those the recipe names.
    output : path, optional
        Folder that the result is written into. A large image, a dask or a Zarr array is then never held in memory: it
        is analysed part by part, and a run that was stopped is resumed.
    workers : int
        Processes on this machine that share the work; with `output`.
    scheduler : str, optional
        Address of a dask.distributed scheduler whose workers share the work; with `output`.

    Returns
    -------
    Result
        Its pixels are Zarr arrays if the work was done on disk.

    Raises
    ------
    BloodCellError
        If the image cannot be read, a model cannot be loaded, or the folder cannot be written to.

    Warns
    -----
    ResultWarning
        For each of the result's `warnings`, for example if the picture shows no smear.
    """
    with heard_of_input() as heard:
        result = drain(
            iter_analyse(
                image,
                recipe=recipe,
                cells=cells,
                generator=generator,
                classifier=classifier,
                output=output,
                workers=workers,
                scheduler=scheduler,
            )
        )
    for sentence in result.warnings:
        if sentence not in heard.doubts:
            warnings.warn(f"{result.image_name}: {sentence}", ResultWarning, stacklevel=2)
    return result


def assess(
    image: object,
    *,
    recipe: Recipe | None = None,
    generator: MaskGenerator | None = None,
    classifier: CellClassifier | None = None,
) -> Quality:
    """Return how good the places of a smear are for counting.

    Parameters
    ----------
    image : array-like or path
        (Y, X, 3) uint8, or anything else that `open_image` opens.
    recipe : Recipe, optional
        Settings of segmentation and classification.
    generator, classifier : optional
        Models to use instead of those the recipe names.

    Returns
    -------
    Quality
        As `Result.quality` of `analyse`, without the kinds of cells being told.

    Raises
    ------
    BloodCellError
        If the image cannot be read, or a model cannot be loaded.
    """
    recipe = recipe or Recipe()
    changes = {
        "classify": recipe.classify.model_copy(update={"subtypes": ()}),
        "count": recipe.count.model_copy(update={"quality": "report", "measurements": ()}),
    }
    result = analyse(image, recipe=recipe.model_copy(update=changes), generator=generator, classifier=classifier)
    if result.quality is None:
        raise ValueError("the quality was not asked for")
    return result.quality


def iter_analyse(
    image: object,
    *,
    recipe: Recipe | None = None,
    cells: object | None = None,
    generator: MaskGenerator | None = None,
    classifier: CellClassifier | None = None,
    output: str | Path | None = None,
    workers: int = 1,
    scheduler: str | None = None,
) -> Generator[Progress, None, Result]:
    """Analyse as `analyse` does, yielding the progress of each stage in turn."""
    if output is None:
        if workers != 1 or scheduler is not None:
            raise SettingsError("Work is shared through a folder: give output=… with workers or scheduler.")
        return (yield from _iter_in_memory(read_plane(image), recipe, cells, generator, classifier))
    if cells is not None and (workers != 1 or scheduler is not None):
        raise SettingsError("Cells of another program are typed in one process: leave workers and scheduler out.")
    if cells is None and (workers != 1 or scheduler is not None or is_slide(image)):
        return (
            yield from iter_analyse_slide(
                image,
                output,
                recipe=recipe,
                generator=generator,
                classifier=classifier,
                workers=workers,
                scheduler=scheduler,
            )
        )
    plane = read_plane(image)
    result = yield from _iter_in_memory(plane, recipe, cells, generator, classifier)
    write_result(result, output, image=plane)
    return result


def _iter_in_memory(
    plane: Plane,
    recipe: Recipe | None,
    cells: object | None,
    generator: MaskGenerator | None,
    classifier: CellClassifier | None,
) -> Generator[Progress, None, Result]:
    recipe = recipe or Recipe()
    read_grades(recipe.count.grades)  # a mistake in it is better told before the work than after
    if cells is None:
        segmentation = yield from iter_segment(plane, params=recipe.segment, generator=generator)
    else:
        segmentation = segmentation_of(cells, plane)
    if classifier is None:
        classifier = load_classifier(recipe.classify.model, recipe.classify.device, recipe.classify.precision)
    recipe = recipe.as_used(segment=segmentation.precision, classify=getattr(classifier, "precision", None))
    typed = yield from iter_classify(plane.data, segmentation, params=recipe.classify, classifier=classifier)
    pixel_size_um = recipe.segment.pixel_size_um or plane.pixel_size_um
    table = yield from iter_add_measurements(
        plane.data,
        segmentation.cells,
        typed.table,
        segmentation.calibration,
        recipe.count.measurements,
        pixel_size_um=pixel_size_um,
    )
    quality = None
    if recipe.count.quality != "off":
        grid, (height, width) = Grid.of(segmentation.cells.shape, segmentation.calibration), segmentation.cells.shape
        whole = (0, 0, height, width)
        sums = measure_part(plane.data, segmentation.cells, (0, 0), whole, grid, segmentation.calibration)
        quality = judge(sums, table, grid, segmentation.calibration)
    counting = yield from iter_count_places(
        table,
        quality,
        params=recipe.count,
        rbc_diameter_px=segmentation.calibration.rbc_diameter_px,
        field=SeenField.of(segmentation.cells.shape, segmentation.calibration, recipe.segment, pixel_size_um),
    )
    not_told = kinds_not_told(recipe.classify, segmentation.calibration, table)
    return Result(
        cells=segmentation.cells,
        types=typed.types,
        rows=table.assign(cells_in_region=counting.cells_in_region),
        known_counting=counting,
        names=typed.names,
        calibration=segmentation.calibration,
        recipe=recipe,
        models=models_of(segmentation.model, classifier, recipe.classify.subtypes),
        image_name=plane.name,
        device=segmentation.device,
        failed_tiles=segmentation.failed_tiles,
        warnings=tuple(dict.fromkeys((*segmentation.warnings, *doubts_about(classifier), *not_told, *counting.doubts))),
        pixel_size_um=pixel_size_um,
        quality=quality,
    )
