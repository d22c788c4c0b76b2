"""The docks' work from a script, on the layers of a viewer; reached as ``napari_bloodcell.napari``.

>>> import napari, napari_bloodcell as nb  # doctest: +SKIP
>>> viewer = napari.Viewer()  # doctest: +SKIP
>>> viewer.open_sample("napari-bloodcell", "smear")  # doctest: +SKIP
>>> nb.napari.analyse_layer(viewer.layers["smear"]).counts  # doctest: +SKIP
{'RBC': 412, 'WBC': 3, 'platelet': 17}

Everything also works on a `napari.components.ViewerModel`, without a display. napari is imported on the first call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from napari_bloodcell.core.errors import InputError, warn_of_input
from napari_bloodcell.core.geometry import Box
from napari_bloodcell.core.params import ClassifyParams, CountParams, Recipe, SegmentParams
from napari_bloodcell.core.progress import drain
from napari_bloodcell.core.protocols import CellClassifier, MaskGenerator, Progress
from napari_bloodcell.corrections.correction import Correction
from napari_bloodcell.results.result import Result
from napari_bloodcell.slides.run import iter_analyse_slide
from napari_bloodcell.stages.counting import Counting

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Layer, Shapes

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
        The smear: grey, RGB or RGBA. A pyramid is analysed at full resolution.
    params : SegmentParams, optional
        Settings.
    region : tuple of int, Shapes or "view", optional
        Restrict to a part: (y0, x0, y1, x1) in pixels, the rectangles of a Shapes layer, or the part in the window.
        New cells replace earlier ones there, except those that a person outlined.
    planes : {"current", "all"}
        Planes of a stack to analyse.
    viewer : Viewer or ViewerModel, optional
        Viewer of the new layer; by default that of the image layer.
    generator : MaskGenerator, optional
        Replaces the model of the settings.
    on_progress : callable, optional
        Called with every `Progress`.

    Returns
    -------
    Labels
        ``"<image> cells"``, ids 1..N, the cell table in `features`, settings, versions and the hash of the weights in
        ``metadata["napari_bloodcell"]``. Earlier corrections of these cells are restored.

    Raises
    ------
    BloodCellError
        If the layer is not an image, is in no viewer, or a model cannot be loaded.
    """
    from napari_bloodcell.napari.layers import links
    from napari_bloodcell.napari.layers.images import channels_hint, current_plane, image_source
    from napari_bloodcell.napari.layers.regions import boxes_of
    from napari_bloodcell.napari.session.opening import put_back
    from napari_bloodcell.napari.work.jobs import FoundCells, iter_find_cells
    from napari_bloodcell.napari.work.live import CellsWriter

    viewer = links.viewer_of(image_layer, viewer)
    source = image_source(image_layer)
    if hint := channels_hint(source):
        warn_of_input(hint)
    params = params or SegmentParams()
    index = current_plane(viewer, image_layer)
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
    """Type the cells of a Labels layer, and return the types layer.

    Parameters
    ----------
    cells_layer : Labels
        From `segment_layer`, or from another program. Its `cell_type` and `probability` are filled in, except for
        cells that a person typed.
    image_layer : Image, optional
        The smear; by default the one that the cells were found in.
    params : ClassifyParams, optional
        Settings.
    viewer : Viewer or ViewerModel, optional
        Viewer of the new layer; by default that of the cells.
    classifier : CellClassifier, optional
        Replaces the model of the settings.
    on_progress : callable, optional
        Called with every `Progress`.

    Returns
    -------
    Labels
        ``"<image> types"``: 1 RBC, 2 WBC, 3 platelet, then the user's classes.

    Raises
    ------
    BloodCellError
        If the image is missing, has another shape, or the model cannot be loaded.
    """
    from napari_bloodcell.napari.layers import cells as layers
    from napari_bloodcell.napari.layers import links
    from napari_bloodcell.napari.layers.foreign import number_cells, pieces_of_mask
    from napari_bloodcell.napari.layers.images import image_source
    from napari_bloodcell.napari.session.opening import put_back
    from napari_bloodcell.napari.work.jobs import iter_type_cells

    viewer = links.viewer_of(cells_layer, viewer)
    image_layer = image_layer or links.image_layer_for(viewer, cells_layer)
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
            links.full_resolution(cells_layer),
            links.known_table_of(cells_layer),
            params=params,
            names=links.names_of(cells_layer),
            calibration=links.known_calibration_of(cells_layer),
            classifier=classifier,
        ),
        on_progress,
    )
    recipe = Recipe(classify=params)
    types = layers.add_types(viewer, cells_layer, typed, recipe=recipe, classifier=typed.classifier)
    put_back(viewer, cells_layer)
    return types


def count_layer(cells_layer: Labels, *, params: CountParams | None = None) -> Counting:
    """Count the typed cells of a layer; per mm² if the layer has physical units.

    Parameters
    ----------
    cells_layer : Labels
        Its cells must have types.
    params : CountParams, optional
        Settings.

    Returns
    -------
    Counting
        Counts with their interval; `cells_in_region` is stored in the layer's features.

    Raises
    ------
    InputError
        If the cells have no types yet.
    """
    from napari_bloodcell.napari.layers import cells as layers
    from napari_bloodcell.napari.layers import links
    from napari_bloodcell.napari.layers.results import count_cells

    counting = count_cells(cells_layer, params)
    if params is not None:
        links.note_settings(cells_layer, "count", params)
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
    """Segment, type and count an image layer, and show cells and types as layers.

    Parameters
    ----------
    image_layer : Image
        The smear; of a stack, the current plane.
    recipe : Recipe, optional
        Settings of every stage.
    viewer : Viewer or ViewerModel, optional
        Viewer of the new layers; by default that of the image layer.
    generator, classifier : optional
        Replace the models of the recipe.
    on_progress : callable, optional
        Called with every `Progress`.

    Returns
    -------
    Result
        The same as `napari_bloodcell.analyse` returns for these pixels.

    Raises
    ------
    BloodCellError
        As `segment_layer` and `classify_layer` do.
    """
    from napari_bloodcell.napari.layers import links
    from napari_bloodcell.napari.layers.images import current_plane

    viewer = links.viewer_of(image_layer, viewer)
    recipe = recipe or Recipe()
    index = current_plane(viewer, image_layer)
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
    cells_layer: Labels, types: Mapping[int, str], *, annotator: str | None = None, viewer: ViewerModel | None = None
) -> int:
    """Set the types of cells as a person does in the Review dock, and return how many.

    Parameters
    ----------
    cells_layer : Labels
        Cells with their table.
    types : mapping of int to str
        Type by id; missing classes are added.
    annotator : str, optional
        Who corrects; by default the name in the preferences, else the login.
    viewer : Viewer or ViewerModel, optional
        Viewer of the layer.

    Raises
    ------
    BloodCellError
        If the layer has no table, its image is not in the viewer, or the journal cannot be written.
    """
    from napari_bloodcell.napari.layers import links
    from napari_bloodcell.napari.session.opening import cells_session

    return cells_session(links.viewer_of(cells_layer, viewer), cells_layer).correct(types, annotator=annotator)


def restore_corrections(cells_layer: Labels, *, viewer: ViewerModel | None = None) -> list[Correction]:
    """Restore earlier corrections of this image, and return those whose cell does not exist any more."""
    from napari_bloodcell.napari.layers import links
    from napari_bloodcell.napari.session.opening import cells_session

    found, _ = cells_session(links.viewer_of(cells_layer, viewer), cells_layer).put_back()
    return found.lost


def result_of(cells_layer: Labels, *, plane: tuple[int, ...] = ()) -> Result:
    """Return a typed cells layer, or one plane of a stack, as a result for `write_result`."""
    from napari_bloodcell.napari.layers import results as layer_results

    return layer_results.result_of(cells_layer, plane)


def save_result(cells_layer: Labels, folder: str | Path, *, viewer: ViewerModel | None = None) -> Path:
    """Save a typed cells layer with its image as a result folder, like the command line.

    Raises
    ------
    BloodCellError
        If the cells have no types, the image is not in the viewer, or the folder cannot be written to.
    """
    from napari_bloodcell.napari.layers import links
    from napari_bloodcell.napari.writer import write_cells

    viewer = links.viewer_of(cells_layer, viewer)
    image_layer = links.image_layer_for(viewer, cells_layer)
    if image_layer is None:
        raise InputError(f"The image of {cells_layer.name!r} is not in the viewer; a result is saved with its image.")
    return write_cells(Path(folder), cells_layer, image_layer)


def open_result(folder: str | Path, viewer: ViewerModel) -> list[Layer]:
    """Show a saved result: image, cells with their table, and types.

    Parameters
    ----------
    folder : path
        A result's folder, or the OME-Zarr in it.
    viewer : Viewer or ViewerModel
        Viewer of the new layers.

    Raises
    ------
    InputError
        If it is no intact result of this program.
    """
    from napari.layers import Layer as NapariLayer

    from napari_bloodcell.napari.layers import links
    from napari_bloodcell.napari.reader import read_layers
    from napari_bloodcell.napari.session.opening import open_cells, put_back

    opened = [NapariLayer.create(*layer) for layer in read_layers(Path(folder))]
    viewer.layers.extend(opened)
    for cells in [layer for layer in opened if links.is_cells(layer)]:
        open_cells(viewer, cells)
        put_back(viewer, cells)
    return opened


def table_of(cells_layer: Labels) -> Any:
    """Return the cell table of a cells layer as a DataFrame, index = id."""
    from napari_bloodcell.napari.layers import links

    return links.table_of(cells_layer)


def cells_layer_for(viewer: ViewerModel, image_layer: Image) -> Labels | None:
    """Return the cells layer of an image layer, or None."""
    from napari_bloodcell.napari.layers import links

    return links.cells_layer_for(viewer, image_layer)


def types_layer_for(viewer: ViewerModel, cells_layer: Labels) -> Labels | None:
    """Return the types layer of a cells layer, or None."""
    from napari_bloodcell.napari.layers import links

    return links.types_layer_for(viewer, cells_layer)


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
    """Segment, type and count a slide of any size into a folder, and show its cells from there.

    Parameters
    ----------
    image_layer : Image
        The slide: RGB, with or without a pyramid.
    output : path
        Folder of the result; an interrupted run in it is resumed.
    recipe : Recipe, optional
        Settings of every stage.
    viewer : Viewer or ViewerModel, optional
        Viewer of the new layers; by default that of the image layer.
    generator, classifier : optional
        Replace the models of the recipe.
    workers, scheduler : optional
        Processes that share the work, as in `napari_bloodcell.analyse`.
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
    from napari_bloodcell.napari.layers import links

    viewer = links.viewer_of(image_layer, viewer)
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
