"""Finds one cell from a click or a box: a generator for a worker, and the queue that feeds it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal

from napari_bloodcell.core.cells import measure_cells
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.geometry import Box, shared_box, slices_of
from napari_bloodcell.core.params import ClassifyParams, SegmentParams
from napari_bloodcell.core.protocols import Calibration, CellClassifier, CellMask, MaskGenerator, Progress
from napari_bloodcell.images.open import read_plane
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.features import cells_in_box
from napari_bloodcell.napari.layers.images import ImageSource, PlaneIndex, current_plane, image_source, plane_number
from napari_bloodcell.napari.layers.results import recipe_of
from napari_bloodcell.napari.notify import notify_errors
from napari_bloodcell.napari.session.opening import cells_session
from napari_bloodcell.napari.work.models import iter_classifier, iter_fetch, iter_generator
from napari_bloodcell.napari.work.worker import Run, Work
from napari_bloodcell.stages.calibration import brighten
from napari_bloodcell.stages.classify import iter_type_rows
from napari_bloodcell.stages.masks import fill_holes, moved
from napari_bloodcell.stages.segment import calibrate

WINDOW_PX = 512
"""Side of the window around a prompt that the model sees, pixels; more for large cells and boxes."""
WINDOW_CELLS = 8.0
"""Least side of that window in widths of a red cell."""
CELL_FROM = 0.7
"""Least score of a cell, the lower one of predicted IoU and stability.

On the shipped smear clicked cells score 0.90 and more, bare glass at most 0.63.
"""
STEP_PX = 128
"""Windows start at multiples of this, so that nearby clicks share one, whose embedding official SAMs cache."""


@dataclass(frozen=True)
class Prompt:
    """Where the user pointed: a point (y, x), or a box (y0, x0, y1, x1), in pixels of a plane."""

    plane: PlaneIndex
    point: tuple[float, float] | None = None
    box: tuple[float, float, float, float] | None = None

    @property
    def around(self) -> tuple[float, float, float, float]:
        """The box, or the point as an empty box."""
        if self.box is not None:
            return self.box
        y, x = self.point or (0.0, 0.0)
        return y, x, y, x


@dataclass(frozen=True, eq=False)
class PromptedCell:
    """A cell that was found: its mask in pixels of the plane, type ("" if unknown), and the smear's calibration."""

    prompt: Prompt
    mask: CellMask
    cell_type: str
    probability: float
    calibration: Calibration

    @property
    def plane(self) -> PlaneIndex:
        """The plane of the prompt."""
        return self.prompt.plane


def iter_prompt(
    source: ImageSource,
    prompt: Prompt,
    *,
    params: SegmentParams,
    calibration: Calibration | None = None,
    typing: ClassifyParams | None = None,
    generator: MaskGenerator | None = None,
    classifier: CellClassifier | None = None,
) -> Generator[Progress, None, PromptedCell]:
    """Find the cell at a prompt.

    `calibration` is measured if it is unknown. Without `typing` the cell is not typed. Raises `InputError` if the
    prompt lies outside the image, or there is no cell.
    """
    if generator is None:
        yield from iter_fetch(params.model)
        generator = yield from iter_generator(params)
    yield Progress(0, 2, "steps")
    if calibration is None:
        whole = source.plane(prompt.plane).data
        calibration = calibrate(whole, params=params, generator=generator, pixel_size_um=source.pixel_size_um)
    window = _window(prompt, source.shape[-2:], calibration.rbc_diameter_px)
    part = _read(source, prompt.plane, window)
    mask = _predict(generator, part, prompt, window, calibration, params)
    yield Progress(1, 2, "steps")
    cell_type, probability = mask.cell_type or "", float("nan")
    if typing is not None:
        if classifier is None:
            classifier = yield from iter_classifier(typing)
        cell_type, probability = yield from _iter_type(part, mask, calibration, typing, classifier)
    return PromptedCell(prompt, moved(mask, *window[:2]), cell_type, probability, calibration)


def _window(prompt: Prompt, shape: tuple[int, ...], rbc_diameter_px: float) -> Box:
    """Return the window that the model sees: a square around the prompt, on a grid, within the image."""
    y0, x0, y1, x1 = prompt.around
    if y1 < 0 or x1 < 0 or y0 > shape[0] - 0.5 or x0 > shape[1] - 0.5:
        raise InputError("This place is outside of the image: click, or draw a box, on the image.")
    side = max(WINDOW_PX, WINDOW_CELLS * rbc_diameter_px, 2 * (y1 - y0), 2 * (x1 - x0))
    box = []
    for middle, length in (((y0 + y1) / 2, shape[0]), ((x0 + x1) / 2, shape[1])):
        start = round((middle - side / 2) / STEP_PX) * STEP_PX
        start = int(min(max(start, 0), max(length - side, 0)))
        box.append((start, min(start + int(side), length)))
    return box[0][0], box[1][0], box[0][1], box[1][1]


def _read(source: ImageSource, plane: PlaneIndex, box: Box) -> NDArray[np.uint8]:
    """Read a part of a plane. Grey values scaled by the plane's maximum need the whole plane."""
    y0, x0, y1, x1 = box
    if np.dtype(source.data.dtype) != np.uint8:
        return np.ascontiguousarray(source.plane(plane).data[y0:y1, x0:x1])
    part = np.asarray(source.data[(*plane, slice(y0, y1), slice(x0, x1))])
    return np.ascontiguousarray(read_plane(part if source.rgb else part[..., None]).data)


def _predict(
    generator: MaskGenerator,
    part: NDArray[np.uint8],
    prompt: Prompt,
    window: Box,
    calibration: Calibration,
    params: SegmentParams,
) -> CellMask:
    """Return the best mask, without holes, in pixels of the window."""
    if params.brighten and not generator.normalises_light:
        part = brighten(part, params.brightness_target, mean=calibration.mean_brightness)
    y0, x0, y1, x1 = window
    if prompt.box is not None:
        corners = np.array([prompt.box], float) - [y0, x0, y0, x0]
        corners = np.clip(corners, 0, [y1 - y0, x1 - x0] * 2)
        found = generator.predict(part, calibration, boxes=corners)
    else:
        point = np.clip(np.array([prompt.point], float) - [y0, x0], 0, [y1 - y0 - 1, x1 - x0 - 1])
        found = generator.predict(part, calibration, points=point)
    masks = [fill_holes(m) for m in found if m.mask.any()]
    if prompt.box is None:
        masks = [m for m in masks if _holds(m, *point[0])]
    best = max(masks, key=lambda m: m.predicted_iou, default=None)
    if best is None:
        raise InputError("No cell was found there. Draw a box around the cell instead.")
    score = min(best.predicted_iou, best.stability_score)
    if score < CELL_FROM:
        raise InputError(
            f"Nothing there looks like a cell: what was found scores {score:.2f}, a cell {CELL_FROM} or more. "
            "Click on the middle of a cell, or paint it with napari's brush."
        )
    return best


def _holds(mask: CellMask, y: float, x: float) -> bool:
    """Return whether a mask contains a point; both in pixels of the window."""
    row, column = round(float(y)) - mask.bbox[0], round(float(x)) - mask.bbox[1]
    height, width = mask.mask.shape
    return 0 <= row < height and 0 <= column < width and bool(mask.mask[row, column])


def _iter_type(
    part: NDArray[np.uint8],
    mask: CellMask,
    calibration: Calibration,
    params: ClassifyParams,
    classifier: CellClassifier,
) -> Generator[Progress, None, tuple[str, float]]:
    """Return type and probability of one cell."""
    cells = np.zeros(part.shape[:2], np.int32)
    box = shared_box(mask.bbox, (0, 0, part.shape[0], part.shape[1]))
    if box is not None:
        cells[slices_of(box)] = mask.mask[slices_of(box, mask.bbox[:2])]
    if not cells.any():
        return mask.cell_type or "", float("nan")
    table = measure_cells(cells)
    typed = yield from iter_type_rows(part, cells, table, calibration, params=params, classifier=classifier)
    return str(typed["cell_type"].iloc[0]), float(typed["probability"].iloc[0])


BY_MODEL, UNTYPED = "typed by the model", "without a type"


class PromptQueue(QObject):
    """Runs prompts one after another.

    `params` holds model and device of the next prompt; other settings are the layer's. `cell_type` is for new cells:
    `BY_MODEL`, `UNTYPED` or a name. `generator` and `classifier`, if set, replace the models of the settings.
    """

    layer_made = Signal(object)
    """The cells layer made for the first cell of an image."""
    found = Signal(object, object)
    """The layer, and the `PromptedCell` that is to be looked at before it is added."""

    def __init__(self, viewer: ViewerModel, work: Work) -> None:
        super().__init__(work)
        self._viewer, self._work = viewer, work
        self._waiting: list[tuple[Layer, Prompt, bool]] = []
        self.params = SegmentParams()
        self.cell_type = BY_MODEL
        self.generator: MaskGenerator | None = None
        self.classifier: CellClassifier | None = None

    def ask(
        self,
        layer: Layer,
        *,
        point: tuple[float, float] | None = None,
        box: tuple[float, float, float, float] | None = None,
        is_shown_first: bool = False,
    ) -> None:
        """Find the cell at a point, or in a box, of the plane in view; add it to the layer, or emit `found`."""
        self._waiting.append((layer, Prompt(current_plane(self._viewer, layer), point, box), is_shown_first))
        self._next()

    def _next(self) -> None:
        """Start the next prompt, if none is running."""
        while self._waiting and not self._work.is_running:
            notify_errors(partial(self._start, *self._waiting.pop(0)))

    def _start(self, layer: Layer, prompt: Prompt, is_shown_first: bool) -> None:
        image = layer if isinstance(layer, Image) else links.image_layer_for(self._viewer, layer)
        if image is None or layer not in self._viewer.layers:
            raise InputError("The image of these cells is gone: open it again to add cells.")
        cells = links.cells_layer_for(self._viewer, layer) if isinstance(layer, Image) else layer
        params, calibration, typing = self.params, None, None
        if cells is not None:
            recipe, calibration = recipe_of(cells), links.known_calibration_of(cells)
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
        run = Run(self._work)
        run.done.connect(partial(self._on_done, run, layer, is_shown_first))
        run.start(lambda _should_stop: job())

    def _on_done(self, run: Run, layer: Layer, is_shown_first: bool, found: PromptedCell | None) -> None:
        if found is not None and is_shown_first and layer in self._viewer.layers:
            self.found.emit(layer, found)
        elif found is not None:
            notify_errors(partial(self.add, layer, found))
        elif run.error is None:  # cancelled, and so are the waiting ones
            self._waiting.clear()
        self._next()

    def add(self, layer: Layer, found: PromptedCell) -> None:
        """Add a found cell to its layer; raise `InputError` if that is gone, or as `CellsSession.add`."""
        if layer not in self._viewer.layers:
            raise InputError("The layer was deleted while a cell was looked for: nothing was added.")
        values: dict[str, object] = {"cell_type": found.cell_type, "probability": found.probability}
        if self.cell_type == UNTYPED:
            values = {"cell_type": "", "probability": np.nan}
        elif self.cell_type != BY_MODEL:
            values = {"cell_type": self.cell_type, "probability": 1.0, "type_source": "user"}
        cells = self._cells_of(layer, found) if isinstance(layer, Image) else layer
        clicked = _cells_at(cells, found.prompt)
        cells_session(self._viewer, cells).add(found.mask, plane=found.plane, may_replace=clicked, **values)

    def _cells_of(self, image: Image, found: PromptedCell) -> Labels:
        """Return the cells layer of an image; for its first cell, make it."""
        layer = links.cells_layer_for(self._viewer, image)
        if layer is None:
            layer = layers.add_cells(self._viewer, image)
            links.info_of(layer)["calibration"] = asdict(found.calibration)
            layers.set_table(layer, measure_cells(np.zeros((1, 1), np.int32)))
            self.layer_made.emit(layer)
        return layer


def _cells_at(cells_layer: Labels, prompt: Prompt) -> list[int]:
    """Return the known cells at a prompt, which the new cell may replace."""
    cells = links.full_resolution(cells_layer)
    if prompt.box is not None:
        plane = plane_number(prompt.plane, cells.shape[:-2]) if prompt.plane else None
        found: list[int] = cells_in_box(cells_layer.features, prompt.box, plane=plane).tolist()
        return found
    y, x = np.clip(np.round(prompt.around[:2]), 0, np.array(cells.shape[-2:]) - 1).astype(int)
    return [int(np.asarray(cells[(*prompt.plane, y, x)]))]


def _has_types(cells_layer: Any) -> bool:
    features = cells_layer.features
    return "cell_type" in features.columns and bool(features["cell_type"].astype(bool).any())
