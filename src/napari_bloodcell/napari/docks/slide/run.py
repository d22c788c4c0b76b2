"""One run on a whole slide in a window: it writes into a folder, and what is there becomes layers."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from napari.utils.notifications import show_info

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.progress import Steps
from napari_bloodcell.napari.docks.slide.folder import may_write_into
from napari_bloodcell.napari.docks.slide.view import SlideView, slide_of
from napari_bloodcell.napari.layers.cells import placement_of
from napari_bloodcell.napari.layers.look import moved_placement
from napari_bloodcell.napari.notify import tell_of_doubts
from napari_bloodcell.napari.pyramids import MOST_PIXELS_HALVED
from napari_bloodcell.napari.work.models import iter_classifier, iter_fetch, iter_generator
from napari_bloodcell.napari.work.runs import Run
from napari_bloodcell.slides.run import iter_analyse_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from napari.components import ViewerModel
    from napari.viewer import Viewer

    from napari_bloodcell.core.params import Recipe
    from napari_bloodcell.core.protocols import CellClassifier, MaskGenerator, Progress
    from napari_bloodcell.images.image import SlideImage
    from napari_bloodcell.napari.docks.base import StageDock
    from napari_bloodcell.napari.docks.slide.folder import SlideFolder
    from napari_bloodcell.napari.work.worker import Work
    from napari_bloodcell.results.result import Result

    Box = tuple[int, int, int, int]


class AnalyseSlide(Run):
    """Segments, types and counts a slide into a folder, and shows its cells while they are found."""

    def __init__(
        self,
        viewer: Viewer,
        work: Work,
        image_layer: Image,
        output: Path,
        recipe: Recipe,
        *,
        generator: MaskGenerator | None = None,
        classifier: CellClassifier | None = None,
    ) -> None:
        super().__init__(work)
        self._viewer, self._image_layer, self._output = viewer, image_layer, output
        slide = slide_of(image_layer)
        self._view = SlideView(viewer, image_layer, output)
        self._done = self._total = 0
        job = partial(_iter_slide, slide, output, recipe, generator, classifier)
        self._begin(lambda should_stop: job(should_stop=should_stop), keeps_done=True)

    def _on_progressed(self, step: Progress) -> None:
        if self._image_layer not in self._viewer.layers:
            self._work.cut()
            return
        if step.what == "tiles and blocks":
            self._done, self._total = step.done, step.total
        self._view.show(step)

    def _on_returned(self, result: Result | None) -> None:
        if result is None:
            self._on_lost()
            return
        if self._image_layer not in self._viewer.layers:
            show_info(f"The layer of the slide was deleted. Its result lies in {self._output}.")
            self._on_lost()
            return
        self._result = self._view.finish(result)
        self._viewer.layers.selection.active = self._result
        told = ", ".join(f"{n:,} {name}" for name, n in result.counts.items())
        parts = [f"{len(self._result.features) - 1:,} cells in {self._took}: {told}.", f"In {self._output}."]
        if result.failed_tiles:
            names = ", ".join(tile.name for tile in result.failed_tiles[:5])
            parts.append(f"{len(result.failed_tiles)} tiles failed ({names}): {result.failed_tiles[0].error}.")
            parts.append("Run it again to try them once more.")
        if doubts := tell_of_doubts(result.warnings):
            parts.append(doubts)
        self.summary = " ".join(parts)
        self._viewer.status = parts[0]

    def _on_lost(self, _error: object = None) -> None:
        """Leave on screen what was found: it is on the disk."""
        if self._image_layer in self._viewer.layers:
            self._view.pause()
        else:
            self._view.close()
        how_far = (
            f"{self._done:,} of {self._total:,} tiles and blocks are done and stay" if self._total else "Work stays"
        )
        self.summary = f"Stopped: {how_far} in {self._output}. Run it again with this folder to go on."


def _iter_slide(
    slide: SlideImage,
    output: Path,
    recipe: Recipe,
    generator: MaskGenerator | None,
    classifier: CellClassifier | None,
    *,
    should_stop: Callable[[], bool],
) -> Generator[Progress, None, Result | None]:
    """Analyse a slide until it is done, or until it should stop: then None, with what is done on the disk."""
    if generator is None:
        if not (yield from iter_fetch(recipe.segment.model, should_stop)):
            return None
        generator = yield from iter_generator(recipe.segment)
    if classifier is None:
        classifier = yield from iter_classifier(recipe.classify)
    work = iter_analyse_slide(slide, output, recipe=recipe, generator=generator, classifier=classifier, live=True)
    steps = Steps(work)
    with closing(work):
        for step in steps:
            yield step
            if should_stop():
                return None
    return steps.result


def start_on_disk(
    dock: StageDock,
    layer: Image,
    folder: SlideFolder,
    recipe: Recipe,
    *,
    generator: MaskGenerator | None,
    classifier: CellClassifier | None,
) -> AnalyseSlide | None:
    """Begin to analyse a slide into the folder that a dock shows; None where there is none, or what is there stays.

    Raises
    ------
    BloodCellError
        If the folder holds what must not be replaced, or the slide cannot be read.
    """
    output = folder.ask()
    if output is None or not may_write_into(dock, output, layer, recipe):
        return None
    return AnalyseSlide(dock.viewer, dock.panel.work, layer, output, recipe, generator=generator, classifier=classifier)


def add_part(viewer: ViewerModel, image_layer: Image, box: Box) -> Image:
    """Add a part of a large image, a box (y0, x0, y1, x1) in its pixels, as a layer of its own, to try settings on.

    Raises
    ------
    InputError
        If it is too large for memory.
    """
    y0, x0, y1, x1 = box
    if (y1 - y0) * (x1 - x0) > MOST_PIXELS_HALVED // 4:
        raise InputError(
            f"{y1 - y0} × {x1 - x0} pixels are too many to look at in memory. Zoom in, or choose the whole image and "
            "a folder."
        )
    data: Any = image_layer.data[0] if image_layer.multiscale else image_layer.data
    pixels = np.ascontiguousarray(np.asarray(data[y0:y1, x0:x1]))
    part = Image(
        pixels,
        rgb=image_layer.rgb,
        name=f"{image_layer.name} part",
        **{**placement_of(image_layer), **moved_placement(image_layer, (y0, x0))},
    )
    viewer.add_layer(part)
    return part
