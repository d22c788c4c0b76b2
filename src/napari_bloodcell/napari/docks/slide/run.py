"""Analyses a whole slide in a window: the row with its folder, and the run that shows what is written there."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image
from napari.viewer import Viewer
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QLineEdit, QMessageBox, QWidget

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.files import expanded
from napari_bloodcell.core.geometry import Box
from napari_bloodcell.core.params import Recipe
from napari_bloodcell.core.progress import Steps
from napari_bloodcell.core.protocols import CellClassifier, MaskGenerator, Progress
from napari_bloodcell.images.image import SlideImage
from napari_bloodcell.napari.docks.base import fill_column, plain, with_browse_button
from napari_bloodcell.napari.docks.slide.view import SlideView, slide_of
from napari_bloodcell.napari.layers.images import image_source
from napari_bloodcell.napari.layers.look import moved_placement, placement_of
from napari_bloodcell.napari.notify import show_doubts
from napari_bloodcell.napari.pyramids import MOST_PIXELS_HALVED
from napari_bloodcell.napari.work.models import iter_classifier, iter_fetch, iter_generator, postpone_collection
from napari_bloodcell.napari.work.runs import scale_of
from napari_bloodcell.napari.work.worker import Run, Work
from napari_bloodcell.results.files import RECIPE, SLIDE
from napari_bloodcell.results.result import Result
from napari_bloodcell.results.store import read_result
from napari_bloodcell.slides.run import iter_analyse_slide


def is_large(layer: Image) -> bool:
    """Return whether an image layer shows one plane too large for memory."""
    return image_source(layer).is_large


class SlideFolder(QWidget):
    """A folder, typed or chosen in a dialog, one per layer. Empty: analyse in memory."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._layer: Image | None = None
        self._paths: WeakKeyDictionary[Image, str] = WeakKeyDictionary()
        self._text = QLineEdit()
        self._text.setToolTip(
            "The folder that cells, table and counts of the slide are written to while they are found. "
            "An interrupted run in it is resumed"
        )
        fill_column(self, with_browse_button(self._text, self._on_browse))
        self._text.textChanged.connect(self._on_text)

    def follow(self, layer: Image | None) -> bool:
        """Switch to an image; return whether it can be analysed on disk, being a pyramid or large."""
        self._layer = layer
        may_be = layer is not None and not image_source(layer).stack_shape and (layer.multiscale or is_large(layer))
        self._text.setPlaceholderText("choose a folder" if self.is_required else "in memory only")
        self._text.setText(self._paths.get(layer, "") if layer is not None else "")
        return bool(may_be)

    @property
    def is_required(self) -> bool:
        """Whether the image is too large for memory."""
        return self._layer is not None and is_large(self._layer)

    @property
    def path(self) -> Path | None:
        """The folder, or None."""
        text = self._text.text().strip()
        return expanded(text) if text else None

    def set_path(self, path: str | Path) -> None:
        """Choose a folder."""
        self._text.setText(str(path))

    def ask(self) -> Path | None:
        """Return the folder; open a dialog if it is required but missing."""
        if self.path is None and self.is_required:
            self._on_browse()
        return self.path

    def _on_browse(self) -> None:
        start = str(self.path or Path.cwd())
        chosen = QFileDialog.getExistingDirectory(self, "Folder for the results of the slide", start)
        if chosen:
            self.set_path(chosen)

    def _on_text(self, text: str) -> None:
        if self._layer is not None:
            self._paths[self._layer] = text
        self.changed.emit()


def may_write_into(parent: QWidget, folder: Path, layer: Image, recipe: Recipe) -> bool:
    """Return whether a slide may be analysed into a folder, asking the user before replacing a result.

    Raises `InputError` if the folder holds what must not be replaced: a small image's result, or corrections.
    """
    if not (folder / RECIPE).is_file():
        return True
    if not (folder / SLIDE).is_file():
        raise InputError(f"{folder} holds the result of another image. Choose another folder.")
    found = read_result(folder)
    if recipe.allows(found.recipe) and found.cells.shape == image_source(layer).shape:
        return True
    if found.is_corrected:
        raise InputError(
            f"{folder} holds a result that was corrected by hand, found with other settings. Choose another folder."
        )
    answer = QMessageBox.question(
        parent,
        "Replace the result?",
        plain(f"{folder}\nholds a result of {found.image_name!r} that was found with other settings. Replace it?"),
    )
    return bool(answer == QMessageBox.StandardButton.Yes)


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
        if doubts := show_doubts(result.warnings):
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
