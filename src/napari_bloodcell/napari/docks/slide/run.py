"""Analyses a whole slide in a window: writes into a folder, and shows its contents as layers."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image
from napari.viewer import Viewer

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.geometry import Box
from napari_bloodcell.core.params import Recipe
from napari_bloodcell.core.progress import Steps
from napari_bloodcell.core.protocols import CellClassifier, MaskGenerator, Progress
from napari_bloodcell.images.image import SlideImage
from napari_bloodcell.napari.docks.slide.view import SlideView, slide_of
from napari_bloodcell.napari.layers.look import moved_placement, placement_of
from napari_bloodcell.napari.notify import tell_of_doubts
from napari_bloodcell.napari.pyramids import MOST_PIXELS_HALVED
from napari_bloodcell.napari.work.models import iter_classifier, iter_fetch, iter_generator, postpone_collection
from napari_bloodcell.napari.work.runs import scale_of
from napari_bloodcell.napari.work.worker import Run, Work
from napari_bloodcell.results.result import Result
from napari_bloodcell.slides.run import iter_analyse_slide


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
        postpone_collection()  # layers are about to be added
        self._viewer, self._image_layer, self._output = viewer, image_layer, output
        self._done = self._total = 0
        slide = slide_of(image_layer)
        self._view = SlideView(viewer, image_layer, output)
        job = partial(_iter_slide, slide, output, recipe, generator, classifier)
        self.stop_without(viewer, image_layer)
        self.start(lambda should_stop: job(should_stop=should_stop), keeps_done=True)

    def on_step(self, step: Progress) -> None:
        """Show new cells on disk."""
        if step.what == "tiles and blocks":
            self._done, self._total = step.done, step.total
        self._view.show(step)

    def on_result(self, result: Result | None) -> None:
        """Replace the live layers by the final cells, and summarise."""
        if result is None:
            self.lose(None)
            return
        layer = self.result = self._view.finish(result)
        self._viewer.layers.selection.active = layer
        told = ", ".join(f"{n:,} {name}" for name, n in result.counts.items())
        parts = [f"{len(layer.features) - 1:,} cells in {self.took}: {told}.", scale_of(layer), f"In {self._output}."]
        if result.failed_tiles:
            names = ", ".join(tile.name for tile in result.failed_tiles[:5])
            parts.append(f"{len(result.failed_tiles)} tiles failed ({names}): {result.failed_tiles[0].error}.")
            parts.append("Run it again to try them once more.")
        if doubts := tell_of_doubts(result.warnings):
            parts.append(doubts)
        self.summary = " ".join(parts)
        self._viewer.status = parts[0]

    def on_lost(self) -> None:
        """Keep showing the cells found: they are on disk."""
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
    """Analyse a slide, or return None when it should stop; finished work stays on disk."""
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


def add_part(viewer: ViewerModel, image_layer: Image, box: Box) -> Image:
    """Add a part of a large image, box (y0, x0, y1, x1) in pixels, as a layer on which to try settings."""
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
