"""The docks' work from a script, on the layers of a viewer; reached as ``napari_bloodcell.napari``.

>>> import napari, napari_bloodcell as nb  # doctest: +SKIP
>>> viewer = napari.Viewer()  # doctest: +SKIP
>>> viewer.open_sample("napari-bloodcell", "smear")  # doctest: +SKIP
>>> nb.napari.analyse_layer(viewer.layers["smear"]).counts  # doctest: +SKIP
{'RBC': 412, 'WBC': 3, 'platelet': 17}

Everything here works on a `napari.components.ViewerModel` too, without a display; napari is imported when it is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from napari_bloodcell.core.errors import InputError, warn_of_input
from napari_bloodcell.core.params import ClassifyParams, CountParams, Recipe, SegmentParams
from napari_bloodcell.core.progress import drain
from napari_bloodcell.slides.run import iter_analyse_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Layer, Shapes

    from napari_bloodcell.core.protocols import CellClassifier, MaskGenerator, Progress
    from napari_bloodcell.corrections.correction import Correction
    from napari_bloodcell.results.result import Result
    from napari_bloodcell.stages.counting import Counting

    Box = tuple[int, int, int, int]


__all__ = [
    "analyse_layer",
    "analyse_slide",
    "cells_layer_for",
    "classify_layer",
    "correct_cells",
    "count_layer",
    "open_result",
    "restore_corrections",
    "result_of",
    "save_result",
    "segment_layer",
    "table_of",
    "types_layer_for",
]


def segment_layer(
    image_layer: Image,
    *,
    params: SegmentParams | None = None,
    region: Box | Shapes | Literal["view"] | None = None,
    planes: Literal["current", "all"] = "current",
    viewer: ViewerModel | None = None,
    generator: MaskGenerator | None = None,
    on_progress: Callable[[Progress], object] | None = None,
) -> Labels:
    """Find the cells of an image layer, and return the Labels layer that shows them.

    Parameters
    ----------
    image_layer : Image
        The smear: grey, RGB or RGBA; of a pyramid the full resolution is used.
    params : SegmentParams, optional
        Settings.
    region : tuple of int, Shapes or "view", optional
        Only this part: (y0, x0, y1, x1) in pixels, the rectangles of a Shapes layer, or what is seen in the window.
        Its cells take the place of earlier ones there.
        Cells whose outlines a person made stay.
    planes : {"current", "all"}
        Which planes of a stack.
    viewer : Viewer or ViewerModel, optional
        Where the layer goes; by default where the image layer is.
    generator : MaskGenerator, optional
        Instead of the one that the settings name.
    on_progress : callable, optional
        Called with every `Progress`.

    Returns
    -------
    Labels
        ``"<image> cells"``, ids 1..N, the cell table in `features`, settings, versions and the hash of the weights in
        ``metadata["napari_bloodcell"]``. What a person said of these cells another day is put back.

    Raises
    ------
    BloodCellError
        If the layer is not an image, is in no viewer, or a model cannot be loaded.
    """
    from napari_bloodcell.napari.layers import cells as layers
    from napari_bloodcell.napari.layers.images import image_source, told_of_colours
    from napari_bloodcell.napari.layers.links import viewer_of
    from napari_bloodcell.napari.layers.regions import boxes_of
    from napari_bloodcell.napari.session.opening import put_back
    from napari_bloodcell.napari.work.jobs import FoundCells, iter_find_cells
    from napari_bloodcell.napari.work.live import CellsWriter

    viewer = viewer_of(image_layer, viewer)
    source = image_source(image_layer)
    if hint := told_of_colours(source):
        warn_of_input(hint)
    params = params or SegmentParams()
    index = layers.current_plane(viewer, image_layer)
    writer = CellsWriter(viewer, image_layer, Recipe(segment=params))

    def on_step(step: Progress) -> None:
        if isinstance(step.payload, FoundCells):
            writer.store(step.payload)
        if on_progress is not None:
            on_progress(step)

    drain(
        iter_find_cells(
            source,
            params=params,
            planes=list(source.plane_indices()) if planes == "all" else [index],
            regions=boxes_of(region, image_layer),
            earlier=writer.earlier,
            keep=writer.kept,
            generator=generator,
        ),
        on_step,
    )
    writer.finish()
    put_back(viewer, writer.layer)
    return writer.layer


def classify_layer(
    cells_layer: Labels,
    *,
    image_layer: Image | None = None,
    params: ClassifyParams | None = None,
    viewer: ViewerModel | None = None,
    classifier: CellClassifier | None = None,
    on_progress: Callable[[Progress], object] | None = None,
) -> Labels:
    """Type the cells of a Labels layer, and return the typed layer.

    Parameters
    ----------
    cells_layer : Labels
        What `segment_layer` returned, or the labels of another program. Its `cell_type` and `probability` are filled;
        cells that a user typed are left as they are.
    image_layer : Image, optional
        The smear; by default the one in which the cells were found.
    params : ClassifyParams, optional
        Settings.
    viewer : Viewer or ViewerModel, optional
        Where the layer goes; by default where the cells are.
    classifier : CellClassifier, optional
        Instead of the one that the settings name.
    on_progress : callable, optional
        Called with every `Progress`.

    Returns
    -------
    Labels
        ``"<image> types"``: 1 RBC, 2 WBC, 3 platelet, then the user's classes.

    Raises
    ------
    BloodCellError
        If the image is not there, does not fit, or the model cannot be loaded.
    """
    from napari_bloodcell.napari.layers import cells as layers
    from napari_bloodcell.napari.layers.foreign import number_cells, pieces_of_mask
    from napari_bloodcell.napari.layers.images import image_source
    from napari_bloodcell.napari.layers.links import viewer_of
    from napari_bloodcell.napari.session.opening import put_back
    from napari_bloodcell.napari.work.jobs import iter_type_cells

    viewer = viewer_of(cells_layer, viewer)
    image_layer = image_layer or layers.image_layer_for(viewer, cells_layer)
    if image_layer is None:
        raise InputError(f"The image of {cells_layer.name!r} is not in the viewer. Give it as image_layer.")
    params = params or ClassifyParams()
    layers.adopt(cells_layer, image_layer)
    pieces = pieces_of_mask(cells_layer)
    if pieces is not None:
        warn_of_input(
            f"{cells_layer.name!r} is a mask of one id in {int(pieces.max()):,} pieces: all of it is one cell. Number "
            "the pieces first, as scipy.ndimage.label does."
        )
    number_cells(cells_layer)
    typed = drain(
        iter_type_cells(
            image_source(image_layer),
            layers.full_resolution(cells_layer),
            layers.known_table_of(cells_layer),
            params=params,
            names=layers.names_of(cells_layer),
            calibration=layers.known_calibration_of(cells_layer),
            classifier=classifier,
        ),
        on_progress,
    )
    recipe = Recipe(classify=params)
    types = layers.add_types(viewer, cells_layer, typed, recipe=recipe, classifier=typed.classifier)
    put_back(viewer, cells_layer)
    return types


def count_layer(cells_layer: Labels, *, params: CountParams | None = None) -> Counting:
    """Count the typed cells of a layer; per mm² where the layer has physical units.

    Parameters
    ----------
    cells_layer : Labels
        Its cells must have types.
    params : CountParams, optional
        Settings.

    Returns
    -------
    Counting
        Counts with their interval; `cells_in_region` is written into the layer's features.

    Raises
    ------
    InputError
        If the cells have no types yet.
    """
    from napari_bloodcell.napari.layers import cells as layers
    from napari_bloodcell.napari.layers.results import count_cells

    counting = count_cells(cells_layer, params)
    if params is not None:
        info = layers.info_of(cells_layer)
        info["recipe"] = {**info.get("recipe", {}), "count": params.model_dump(mode="json")}
    layers.set_cells_in_region(cells_layer, counting.cells_in_region)
    return counting


def analyse_layer(
    image_layer: Image,
    *,
    recipe: Recipe | None = None,
    viewer: ViewerModel | None = None,
    generator: MaskGenerator | None = None,
    classifier: CellClassifier | None = None,
    on_progress: Callable[[Progress], object] | None = None,
) -> Result:
    """Segment, type and count an image layer: its cells and their types become layers.

    Parameters
    ----------
    image_layer : Image
        The smear; of a stack the plane that is shown.
    recipe : Recipe, optional
        Settings of every stage.
    viewer : Viewer or ViewerModel, optional
        Where the layers go; by default where the image layer is.
    generator, classifier : optional
        Models instead of those that the recipe names.
    on_progress : callable, optional
        Called with every `Progress`.

    Returns
    -------
    Result
        As `napari_bloodcell.analyse` returns it for the same pixels.

    Raises
    ------
    BloodCellError
        As `segment_layer` and `classify_layer` do.
    """
    from napari_bloodcell.napari.layers import cells as layers
    from napari_bloodcell.napari.layers.links import viewer_of

    viewer = viewer_of(image_layer, viewer)
    recipe = recipe or Recipe()
    index = layers.current_plane(viewer, image_layer)
    cells = segment_layer(
        image_layer, params=recipe.segment, viewer=viewer, generator=generator, on_progress=on_progress
    )
    classify_layer(
        cells,
        image_layer=image_layer,
        params=recipe.classify,
        viewer=viewer,
        classifier=classifier,
        on_progress=on_progress,
    )
    count_layer(cells, params=recipe.count)
    return result_of(cells, plane=index)


def correct_cells(
    cells_layer: Labels,
    types: Mapping[int, str],
    *,
    annotator: str | None = None,
    viewer: ViewerModel | None = None,
) -> int:
    """Say of what type cells are, as a person does in the Review dock, and return of how many.

    Parameters
    ----------
    cells_layer : Labels
        Cells with their table.
    types : mapping of int to str
        Type by id; a class that is not there yet is added.
    annotator : str, optional
        Who says so; by default the name in the preferences, or of the login.
    viewer : Viewer or ViewerModel, optional
        Where the layer is.

    Raises
    ------
    BloodCellError
        If the layer has no table, its image is not in the viewer, or the journal cannot be written.
    """
    from napari_bloodcell.napari.layers.links import viewer_of
    from napari_bloodcell.napari.session.opening import cells_session

    return cells_session(viewer_of(cells_layer, viewer), cells_layer).correct(types, annotator=annotator)


def restore_corrections(cells_layer: Labels, *, viewer: ViewerModel | None = None) -> list[Correction]:
    """Bring back what people said of the cells of this image, and return the corrections whose cell is not there."""
    from napari_bloodcell.napari.layers.links import viewer_of
    from napari_bloodcell.napari.session.opening import cells_session

    found, _ = cells_session(viewer_of(cells_layer, viewer), cells_layer).put_back()
    return found.lost


def result_of(cells_layer: Labels, *, plane: tuple[int, ...] = ()) -> Result:
    """Return a typed cells layer, or one plane of a stack, as a result that `write_result` takes."""
    from napari_bloodcell.napari.layers import results as layer_results

    return layer_results.result_of(cells_layer, plane)


def save_result(cells_layer: Labels, folder: str | Path, *, viewer: ViewerModel | None = None) -> Path:
    """Write a typed cells layer with its image as the result folder that the command line writes.

    Raises
    ------
    BloodCellError
        If the cells have no types, the image is not in the viewer, or the folder cannot be written to.
    """
    from napari_bloodcell.napari.layers import cells as layers
    from napari_bloodcell.napari.layers.links import viewer_of
    from napari_bloodcell.napari.writer import write_cells

    viewer = viewer_of(cells_layer, viewer)
    image_layer = layers.image_layer_for(viewer, cells_layer)
    if image_layer is None:
        raise InputError(f"The image of {cells_layer.name!r} is not in the viewer; a result is saved with its image.")
    return write_cells(Path(folder), cells_layer, image_layer)


def open_result(folder: str | Path, viewer: ViewerModel) -> list[Layer]:
    """Show a result that the program wrote: image, cells with their table, and types.

    Parameters
    ----------
    folder : path
        A result's folder, or the OME-Zarr in it.
    viewer : Viewer or ViewerModel
        Where the layers go.

    Raises
    ------
    InputError
        If it is not a result of the program, or damaged.
    """
    from napari.layers import Layer as NapariLayer

    from napari_bloodcell.napari.layers import cells as layers
    from napari_bloodcell.napari.reader import read_layers
    from napari_bloodcell.napari.session.opening import open_cells, put_back

    opened = [NapariLayer.create(*layer) for layer in read_layers(Path(folder))]
    viewer.layers.extend(opened)
    for cells in [layer for layer in opened if layers.is_cells(layer)]:
        open_cells(viewer, cells)
        put_back(viewer, cells)
    return opened


def table_of(cells_layer: Labels) -> Any:
    """Return the cell table of a cells layer as a DataFrame, index = id."""
    from napari_bloodcell.napari.layers import cells as layers

    return layers.table_of(cells_layer)


def cells_layer_for(viewer: ViewerModel, image_layer: Image) -> Labels | None:
    """Return the cells layer of an image layer, or None."""
    from napari_bloodcell.napari.layers import cells as layers

    return layers.cells_layer_for(viewer, image_layer)


def types_layer_for(viewer: ViewerModel, cells_layer: Labels) -> Labels | None:
    """Return the typed layer of a cells layer, or None."""
    from napari_bloodcell.napari.layers import cells as layers

    return layers.types_layer_for(viewer, cells_layer)


def analyse_slide(
    image_layer: Image,
    output: str | Path,
    *,
    recipe: Recipe | None = None,
    viewer: ViewerModel | None = None,
    generator: MaskGenerator | None = None,
    classifier: CellClassifier | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    on_progress: Callable[[Progress], object] | None = None,
) -> Result:
    """Segment, type and count a slide of any size into a folder; its cells become layers that are read from there.

    Parameters
    ----------
    image_layer : Image
        The slide: RGB, a pyramid or not.
    output : path
        The folder of the result; a run that was stopped there goes on.
    recipe : Recipe, optional
        Settings of every stage.
    viewer : Viewer or ViewerModel, optional
        Where the layers go; by default where the image layer is.
    generator, classifier : optional
        Models instead of those that the recipe names.
    workers, scheduler : optional
        Who shares the work, as in `napari_bloodcell.analyse`.
    on_progress : callable, optional
        Called with every `Progress`.

    Returns
    -------
    Result
        As `napari_bloodcell.analyse` returns it.

    Raises
    ------
    BloodCellError
        If the layer is a stack, a model cannot be loaded, or the folder cannot be written to.
    """
    from napari_bloodcell.napari.docks.slide.view import SlideView, slide_of
    from napari_bloodcell.napari.layers.links import viewer_of

    viewer = viewer_of(image_layer, viewer)
    view = SlideView(viewer, image_layer, Path(output))
    work = iter_analyse_slide(
        slide_of(image_layer),
        output,
        recipe=recipe,
        generator=generator,
        classifier=classifier,
        workers=workers,
        scheduler=scheduler,
    )

    def show(step: Progress) -> None:
        view.show(step)
        if on_progress is not None:
            on_progress(step)

    try:
        result = drain(work, show)
    finally:
        view.close()
    view.finish(result)
    return result
