"""Clicks and boxes one after another: each is looked into by a worker, and its cell added to the layer."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from qtpy.QtCore import QObject, Signal

from napari_bloodcell.cells import measure_cells
from napari_bloodcell.errors import InputError
from napari_bloodcell.params import SegmentParams
from napari_bloodcell.widgets import _layers as layers
from napari_bloodcell.widgets._edit_session import edit_session
from napari_bloodcell.widgets._errors import notify_errors
from napari_bloodcell.widgets._images import current_plane, image_source
from napari_bloodcell.widgets._prompts import Prompt, PromptedCell, iter_prompt
from napari_bloodcell.widgets._results import recipe_of

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels, Layer

    from napari_bloodcell.protocols import CellClassifier, MaskGenerator
    from napari_bloodcell.widgets._worker import Work

BY_MODEL, UNTYPED = "typed by the model", "without a type"


class PromptQueue(QObject):
    """Prompts that wait for each other.

    Attributes
    ----------
    params : SegmentParams
        Model and device of the next prompt; the other settings are the layer's own.
    cell_type : str
        Type of new cells: `BY_MODEL`, `UNTYPED`, or a name.
    generator, classifier : optional
        Used instead of the models that the settings name.
    """

    layer_made = Signal(object)
    """The cells layer that was made for the first cell of an image."""

    def __init__(self, viewer: ViewerModel, work: Work) -> None:
        super().__init__(work)
        self._viewer, self._work = viewer, work
        self._waiting: list[tuple[Layer, Prompt]] = []
        self._layer: Layer | None = None
        self.params = SegmentParams()
        self.cell_type = BY_MODEL
        self.generator: MaskGenerator | None = None
        self.classifier: CellClassifier | None = None
        work.returned.connect(self._on_found)
        work.failed.connect(self._on_failed)
        work.cut_off.connect(self._waiting.clear)
        work.finished.connect(self._next)

    def ask(
        self,
        layer: Layer,
        *,
        point: tuple[float, float] | None = None,
        box: tuple[float, float, float, float] | None = None,
    ) -> None:
        """Find the cell at a point, or in a box, of the plane in view, and add it to the layer."""
        self._waiting.append((layer, Prompt(current_plane(self._viewer, layer), point, box)))
        self._next()

    def _next(self) -> None:
        """Start with the next prompt, if nothing is under way."""
        while self._waiting and not self._work.is_running:
            layer, prompt = self._waiting.pop(0)
            notify_errors(partial(self._start, layer, prompt))

    def _start(self, layer: Layer, prompt: Prompt) -> None:
        image = layer if isinstance(layer, Image) else layers.image_layer_for(self._viewer, layer)
        if image is None or layer not in self._viewer.layers:
            raise InputError("The image of these cells is gone: open it again to add cells.")
        cells = layers.cells_layer_for(self._viewer, layer) if isinstance(layer, Image) else layer
        params, calibration, typing = self.params, None, None
        if cells is not None:
            recipe, calibration = recipe_of(cells), layers.known_calibration_of(cells)
            params = recipe.segment.model_copy(update={"model": params.model, "device": params.device})
            if self.cell_type == BY_MODEL and _has_types(cells):
                typing = recipe.classify
        job = partial(
            iter_prompt,
            image_source(image),
            prompt,
            params=params,
            calibration=calibration,
            typing=typing,
            generator=self.generator,
            classifier=self.classifier,
        )
        self._layer = layer
        self._work.start(lambda _should_stop: job())

    def _on_failed(self, _error: object) -> None:
        self._layer = None

    def _on_found(self, found: PromptedCell) -> None:
        notify_errors(partial(self._add, found))

    def _add(self, found: PromptedCell) -> None:
        """Put a cell that was found where it belongs, if that is still there."""
        layer = self._layer
        if layer is None or layer not in self._viewer.layers:
            raise InputError("The layer was deleted while a cell was looked for: nothing was added.")
        values: dict[str, object] = {"cell_type": found.cell_type, "probability": found.probability}
        if self.cell_type == UNTYPED:
            values = {"cell_type": "", "probability": np.nan}
        elif self.cell_type != BY_MODEL:
            values = {"cell_type": self.cell_type, "probability": 1.0, "type_source": "user"}
        cells = self._cells_of(layer, found) if isinstance(layer, Image) else layer
        edit_session(self._viewer, cells).add(found.mask, plane=found.plane, **values)

    def _cells_of(self, image: Image, found: PromptedCell) -> Labels:
        """Return the cells layer of an image, made now if this is its first cell."""
        layer = layers.cells_layer_for(self._viewer, image)
        if layer is None:
            layer = layers.add_cells(self._viewer, image)
            layers.info_of(layer)["calibration"] = asdict(found.calibration)
            layers.set_table(layer, measure_cells(np.zeros((1, 1), np.int32)))
            self.layer_made.emit(layer)
        return layer


def _has_types(cells_layer: Any) -> bool:
    features = cells_layer.features
    return "cell_type" in features.columns and bool(features["cell_type"].astype(bool).any())
