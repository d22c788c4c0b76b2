"""Runs of the stages in a window: what a worker finds becomes layers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Final

import numpy as np
from napari.layers import Image, Labels
from napari.utils.notifications import show_info
from napari.viewer import Viewer

from napari_bloodcell.core.geometry import Box
from napari_bloodcell.core.params import ClassifyParams, Recipe, SegmentParams
from napari_bloodcell.core.protocols import CellClassifier, MaskGenerator, Progress
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.features import to_table
from napari_bloodcell.napari.layers.foreign import number_cells
from napari_bloodcell.napari.layers.images import PlaneIndex, channels_hint, image_source, pixel_size_um
from napari_bloodcell.napari.notify import show_doubts
from napari_bloodcell.napari.session.opening import open_cells, put_back
from napari_bloodcell.napari.work.jobs import FoundCells, FoundMasks, TypedCells, iter_find_cells, iter_type_cells
from napari_bloodcell.napari.work.live import CellsWriter
from napari_bloodcell.napari.work.models import postpone_collection
from napari_bloodcell.napari.work.worker import Run, Work
from napari_bloodcell.stages.segment import Segmentation

KEPT_FROM: Final = 0.2
"""Proposals of an image are kept down to this score, for the slider: 6 % more work on the shipped smear."""
LIKE_A_RED_CELL: Final = (0.6, 1.5)
"""Area of a cell taken for one whole red cell, relative to the area that the scale predicts."""


class FindCells(Run):
    """Finds the cells of an image layer and shows them tile by tile."""

    is_stopped = False
    """Whether Cancel ended it early."""
    n_cells = 0
    remarks: Sequence[str] = ()
    """Beside the number of cells: the scale, missing tiles, warnings."""
    kept: Segmentation | None = None
    """What was found in an image as a whole, with proposals of other scores; None where there are none."""

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
        postpone_collection()  # layers are about to be added
        self._viewer, self.params = viewer, params
        self._writer = CellsWriter(viewer, image_layer, Recipe(segment=params), keeps_by_hand=keeps_by_hand)
        _ = self._writer.layer  # made before the worker starts: each would delay the other
        source = image_source(image_layer)
        hint = channels_hint(source)
        if hint:
            show_info(hint)
        job = partial(
            iter_find_cells,
            image_source(image_layer),
            params=params,
            planes=planes,
            regions=regions,
            earlier=self._writer.earlier,
            keep=self._writer.kept,
            keep_from=KEPT_FROM if not regions and not source.stack_shape else None,
            generator=generator,
        )
        self.stop_without(viewer, image_layer, self._writer.layer)
        self.start(lambda should_stop: job(should_stop=should_stop), keeps_done=True)
        self._writer.lock(is_on=True)

    def on_step(self, step: Progress) -> None:
        """Show the masks of a tile, or all cells of a plane."""
        if isinstance(step.payload, FoundMasks):
            self._writer.show(step.payload)
        elif isinstance(step.payload, FoundCells):
            self._writer.store(step.payload)

    def on_result(self, found: list[FoundCells]) -> None:
        """Write the table, and summarise."""
        if not found:
            self.lose(None)
            return
        self._writer.lock(is_on=False)
        self._writer.finish()
        layer = self.result = self._writer.layer  # each plane is stored already
        self._viewer.layers.selection.active = layer
        self.kept = found[0].segmentation if found[0].segmentation.proposals else None
        self.n_cells = sum(len(plane.table) for plane in found)
        missing = [tile for plane in found for tile in plane.segmentation.failed_tiles]
        failed = [tile for tile in missing if not tile.error.startswith("not reached")]
        self.is_stopped = len(missing) > len(failed)
        remarks = [scale_of(layer)]
        if self.is_stopped:
            remarks.append(f"Stopped: {len(missing) - len(failed)} tiles were not reached; run it again for the rest.")
        if failed:
            names = ", ".join(tile.name for tile in failed[:5])
            remarks.append(f"{len(failed)} tiles failed ({names}): {failed[0].error}. They hold no new cells.")
        remarks.append(show_doubts(links.warnings_of(layer)))
        remarks.append(put_back(self._viewer, layer))
        self.remarks = [remark for remark in remarks if remark]
        self.summary = " ".join([f"{self.n_cells:,} cells in {self.took}.", *self.remarks])
        self._viewer.status = self.summary  # it described the cell under the mouse

    def on_lost(self) -> None:
        """Restore the earlier cells."""
        self._writer.lock(is_on=False)
        self._writer.undo()
        super().on_lost()


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
        postpone_collection()  # layers are about to be added
        self._viewer, self._cells_layer, self._params = viewer, cells_layer, params
        self._is_one_step = is_one_step
        layers.adopt(cells_layer, image_layer)
        number_cells(cells_layer)
        self._session = open_cells(viewer, cells_layer)
        source, cells = image_source(image_layer), links.full_resolution(cells_layer)
        features = cells_layer.features.copy() if links.has_table(cells_layer) else None
        names, calibration = links.names_of(cells_layer), links.known_calibration_of(cells_layer)

        def job(_should_stop: Callable[[], bool]) -> Generator[Progress, None, TypedCells]:
            table = to_table(features) if features is not None else None  # slow, so in the worker
            return iter_type_cells(
                source, cells, table, params=params, names=names, calibration=calibration, classifier=classifier
            )

        self.stop_without(viewer, image_layer, cells_layer)
        self.start(job)
        self._session.busy = "typed"

    def on_lost(self) -> None:
        """Leave the types as they were."""
        self._session.busy = ""
        super().on_lost()

    def on_result(self, typed: TypedCells) -> None:
        """Show the types, and summarise."""
        self._session.busy = ""
        recipe = Recipe(classify=self._params)
        before = self._session.snapshot(with_cells=False)
        self.result = layers.add_types(
            self._viewer, self._cells_layer, typed, recipe=recipe, classifier=typed.classifier
        )
        counts = typed.table["cell_type"].value_counts()
        told = ", ".join(f"{counts[name]:,} {name}" for name in typed.names if name in counts)
        back = ""
        if self._is_one_step:
            self._session.remember_run("typed cells", before, self._session.by_hand)
            back = put_back(self._viewer, self._cells_layer)
        self.summary = f"{told or 'No cell to type'} in {self.took}. {back}".strip()
        self._viewer.status = self.summary


def scale_of(cells_layer: Labels) -> str:
    """Return the assumed width of a red cell, and how many whole cells have about that width; "" if unknown."""
    calibration = links.known_calibration_of(cells_layer)
    features = cells_layer.features
    if calibration is None or "touches_edge" not in features.columns:
        return ""
    width = calibration.rbc_diameter_px
    size = pixel_size_um(cells_layer)
    whole = features["area_px"][~features["touches_edge"].astype(bool)] / (np.pi / 4 * width**2)
    n = int(whole.between(*LIKE_A_RED_CELL).sum())
    origin = {"default": ", which was not measured", "given": ", as given"}.get(calibration.source, "")
    told = f"{width:.0f} px{'' if size is None else f' ({width * size:.1f} µm)'}{origin}"
    return f"Red cell = {told}; {n:,} whole cell{' is' if n == 1 else 's are'} about that wide."
