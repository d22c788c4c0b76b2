"""One run of a stage in a window: the worker's steps become layers; several docks use it."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_info
from qtpy.QtCore import QObject, Signal

from napari_bloodcell.core.params import Recipe
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers.features import to_table
from napari_bloodcell.napari.layers.foreign import number_cells
from napari_bloodcell.napari.layers.images import image_source, told_of_colours
from napari_bloodcell.napari.notify import notify_errors
from napari_bloodcell.napari.session.session import open_cells, put_back
from napari_bloodcell.napari.work.jobs import FoundCells, FoundMasks, iter_find_cells, iter_type_cells
from napari_bloodcell.napari.work.live import CellsWriter
from napari_bloodcell.napari.work.models import postpone_collection
from napari_bloodcell.napari.work.worker import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from napari.layers import Image, Labels
    from napari.viewer import Viewer

    from napari_bloodcell.core.params import ClassifyParams, SegmentParams
    from napari_bloodcell.core.protocols import CellClassifier, MaskGenerator, Progress
    from napari_bloodcell.napari.layers.images import PlaneIndex
    from napari_bloodcell.napari.work.jobs import TypedCells
    from napari_bloodcell.napari.work.worker import Work

    Box = tuple[int, int, int, int]


class Run(QObject):
    """Listens to a `Work` for one job; `done` is emitted once, when the work has ended, with a layer or None."""

    done = Signal(object)

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        postpone_collection()  # layers are added now
        self._work = work
        self._result: Labels | None = None
        self.summary = ""
        """What to tell the user of it."""
        self._started = time.monotonic()

    def _begin(self, job: Callable[[Callable[[], bool]], Generator[Progress, None, Any]], *, keeps_done: bool) -> None:
        self._work.progressed.connect(self._on_step)
        self._work.returned.connect(self._on_end)
        self._work.failed.connect(self._on_lost)
        self._work.cut_off.connect(self._on_lost)
        self._work.finished.connect(self._on_finished)
        self._work.start(job, keeps_done=keeps_done)

    def _on_step(self, step: Progress) -> None:
        if not notify_errors(partial(self._on_progressed, step)):
            self._work.cut()

    def _on_end(self, result: Any) -> None:
        if not notify_errors(partial(self._on_returned, result)):
            self._on_lost()

    def _on_progressed(self, step: Progress) -> None:
        pass

    def _on_returned(self, result: Any) -> None:
        raise NotImplementedError

    def _on_lost(self, _error: object = None) -> None:
        self.summary = "Nothing was changed."

    def _on_finished(self) -> None:
        self._work.progressed.disconnect(self._on_step)
        self._work.returned.disconnect(self._on_end)
        self._work.failed.disconnect(self._on_lost)
        self._work.cut_off.disconnect(self._on_lost)
        self._work.finished.disconnect(self._on_finished)
        self.done.emit(self._result)
        self.deleteLater()

    @property
    def _took(self) -> str:
        return duration(time.monotonic() - self._started)


class FindCells(Run):
    """Finds the cells of an image layer and shows them tile by tile."""

    def __init__(
        self,
        viewer: Viewer,
        work: Work,
        image_layer: Image,
        params: SegmentParams,
        *,
        planes: Sequence[PlaneIndex],
        regions: Sequence[Box] = (),
        keeps_by_hand: bool = True,
        generator: MaskGenerator | None = None,
    ) -> None:
        super().__init__(work)
        self._viewer = viewer
        self._writer = CellsWriter(viewer, image_layer, Recipe(segment=params), keeps_by_hand=keeps_by_hand)
        self._writer.lock(is_on=True)  # the layer is made before the worker starts: the two would hold each other up
        source = image_source(image_layer)
        hint = told_of_colours(source)
        if hint:
            show_info(hint)
        job = partial(
            iter_find_cells,
            source,
            params=params,
            planes=planes,
            regions=regions,
            earlier=self._writer.earlier,
            keep=self._writer.kept,
            generator=generator,
        )
        self._begin(lambda should_stop: job(should_stop=should_stop), keeps_done=True)

    def _on_progressed(self, step: Progress) -> None:
        if self._writer.is_gone:
            self._work.cut()
        elif isinstance(step.payload, FoundMasks):
            self._writer.show(step.payload)
        elif isinstance(step.payload, FoundCells):
            self._writer.store(step.payload)

    def _on_returned(self, found: list[FoundCells]) -> None:
        if self._writer.is_gone or not found:
            self._on_lost()
            return
        self._writer.lock(is_on=False)
        self._writer.finish()
        layer = self._result = self._writer.layer  # every plane was stored when it was done
        self._viewer.layers.selection.active = layer
        n_cells = sum(len(plane.table) for plane in found)
        parts = [f"{n_cells:,} cells in {self._took}."]
        missing = [tile for plane in found for tile in plane.segmentation.failed_tiles]
        failed = [tile for tile in missing if not tile.error.startswith("not reached")]
        if len(missing) > len(failed):
            parts.append(f"Stopped: {len(missing) - len(failed)} tiles were not reached; run it again for the rest.")
        if failed:
            names = ", ".join(tile.name for tile in failed[:5])
            parts.append(f"{len(failed)} tiles failed ({names}): {failed[0].error}. They hold no new cells.")
        parts.append(put_back(self._viewer, layer))
        self.summary = " ".join(part for part in parts if part)
        self._viewer.status = self.summary  # what it said of the cell under the mouse is out of date

    def _on_lost(self, _error: object = None) -> None:
        self._writer.lock(is_on=False)
        if self._writer.is_gone:
            show_info("The layer of the cells was deleted, so the work was stopped.")
        else:
            self._writer.undo()
        super()._on_lost()


class TypeCells(Run):
    """Types the cells of a layer and shows their types."""

    def __init__(
        self,
        viewer: Viewer,
        work: Work,
        cells_layer: Labels,
        image_layer: Image,
        params: ClassifyParams,
        *,
        classifier: CellClassifier | None = None,
        is_one_step: bool = True,
    ) -> None:
        super().__init__(work)
        self._viewer, self._cells_layer, self._params = viewer, cells_layer, params
        self._is_one_step = is_one_step
        number_cells(cells_layer)
        layers.adopt(cells_layer, image_layer)
        self._session = open_cells(viewer, cells_layer)
        self._session.busy = "typed"
        source, cells = image_source(image_layer), layers.full_resolution(cells_layer)
        features = cells_layer.features.copy() if layers.has_table(cells_layer) else None
        names, calibration = layers.names_of(cells_layer), layers.known_calibration_of(cells_layer)

        def job(_should_stop: Callable[[], bool]) -> Generator[Progress, None, TypedCells]:
            table = to_table(features) if features is not None else None  # takes time, and this is the worker
            return iter_type_cells(
                source, cells, table, params=params, names=names, calibration=calibration, classifier=classifier
            )

        self._begin(job, keeps_done=False)

    def _on_lost(self, _error: object = None) -> None:
        self._session.busy = ""
        super()._on_lost()

    def _on_returned(self, typed: TypedCells) -> None:
        self._session.busy = ""
        if self._cells_layer not in self._viewer.layers:
            show_info("The layer of the cells was deleted meanwhile, so they were not typed.")
            self._on_lost()
            return
        recipe = Recipe(classify=self._params)
        before = self._session.snapshot(with_cells=False)
        self._result = layers.add_types(
            self._viewer, self._cells_layer, typed, recipe=recipe, classifier=typed.classifier
        )
        counts = typed.table["cell_type"].value_counts()
        told = ", ".join(f"{counts[name]:,} {name}" for name in typed.names if name in counts)
        back = ""
        if self._is_one_step:
            self._session.remember_run("cells typed", before, self._session.by_hand)
            back = put_back(self._viewer, self._cells_layer)
        self.summary = f"{told or 'No cell to type'} in {self._took}. {back}".strip()
        self._viewer.status = self.summary
