"""The Segment dock: finds the cells of an image, of a part of it, or of a stack."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from napari.layers import Shapes

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.params import ClassifyParams, Recipe, SegmentParams
from napari_bloodcell.corrections.edits import union_of
from napari_bloodcell.napari.docks.base import StageDock, may_download
from napari_bloodcell.napari.docks.edit.by_hand import ask_to_keep
from napari_bloodcell.napari.docks.form import SettingsForm
from napari_bloodcell.napari.docks.layer_choice import LayerChoice
from napari_bloodcell.napari.docks.slide.folder import SlideFolder, is_large
from napari_bloodcell.napari.docks.slide.run import add_part, start_on_disk
from napari_bloodcell.napari.layers.regions import box_of_view, boxes_of_shapes
from napari_bloodcell.napari.preferences import preferred_settings
from napari_bloodcell.napari.work.models import needs_download
from napari_bloodcell.napari.work.runs import FindCells

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Image

    from napari_bloodcell.core.protocols import CellClassifier, MaskGenerator
    from napari_bloodcell.napari.work.runs import Run

    Box = tuple[int, int, int, int]


WHOLE, IN_VIEW = "The whole image", "What is in view"


class SegmentWidget(StageDock):
    """Finds cells and shows them as they are found."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(
            napari_viewer, button="Find cells", tooltip="Find the cells; they appear in the window as they are found"
        )
        self.generator: MaskGenerator | None = None
        self.classifier: CellClassifier | None = None
        """Used instead of the models of the settings, where they are given."""
        self.region = LayerChoice(napari_viewer, lambda layer: isinstance(layer, Shapes), fixed=(WHOLE, IN_VIEW))
        self.region.setToolTip(
            "Look at the whole image, at what the window shows, or at the rectangles of a Shapes layer "
            "(the selected ones, else all)"
        )
        self.rows.addRow("Where", self.region)
        self.folder = SlideFolder()
        self.rows.addRow("Results in", self.folder)
        self.form = SettingsForm(
            SegmentParams,
            first=("model", "device", "rbc_diameter_px"),
            values=preferred_settings("segment"),
            rows=self.rows,
        )
        self.body.addWidget(self.form)
        self.finish_layout()

    def start(self) -> None:
        """Find the cells with what is in the form; see `StageDock.start`."""
        layer = self.image.layer
        if layer is None:
            raise InputError("There is no image. Open a smear first: File ▸ Open, or File ▸ Open Sample ▸ Blood cells.")
        params: SegmentParams = self.form.settings()
        if self.generator is None and needs_download(params.model) and not may_download(self, params.model):
            return
        regions = self._boxes(layer)
        if is_large(layer) and regions:
            layer, regions = add_part(self._viewer, layer, union_of(regions)), []
            run: Run | None = self._find_in_memory(layer, params, regions)
        elif regions or (self.folder.path is None and not self.folder.is_required):
            run = self._find_in_memory(layer, params, regions)
        else:
            recipe = Recipe(segment=params, classify=ClassifyParams(**preferred_settings("classify")))
            run = start_on_disk(self, layer, self.folder, recipe, generator=self.generator, classifier=self.classifier)
        if run is not None:
            run.done.connect(partial(self._on_done, run))

    def _find_in_memory(self, layer: Image, params: SegmentParams, regions: list[Box]) -> FindCells | None:
        keeps_by_hand = ask_to_keep(self, self._viewer, layer)
        if keeps_by_hand is None:
            return None
        return FindCells(
            self._viewer,
            self.panel.work,
            layer,
            params,
            planes=self.chosen_planes(layer),
            regions=regions,
            keeps_by_hand=keeps_by_hand,
            generator=self.generator,
        )

    def _on_done(self, run: Run, _layer: object) -> None:
        self.summary.setText(run.summary)

    def _on_image(self) -> None:
        super()._on_image()
        self.rows.setRowVisible(self.folder, self.folder.follow(self.image.layer))

    def _boxes(self, layer: Image) -> list[Box]:
        shapes = self.region.layer
        if shapes is not None:
            return boxes_of_shapes(shapes, layer)
        return [box_of_view(layer)] if self.region.currentText() == IN_VIEW else []
