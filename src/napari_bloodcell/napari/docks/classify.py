"""The Classify dock: types the cells that were found."""

from __future__ import annotations

from typing import cast

import napari.viewer
from napari.layers import Labels
from qtpy.QtWidgets import QMessageBox

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.params import ClassifyParams
from napari_bloodcell.core.protocols import CellClassifier
from napari_bloodcell.napari.docks.base import LayerChoice, StageDock
from napari_bloodcell.napari.docks.form import NameChoice, SettingsForm
from napari_bloodcell.napari.docks.trained import TypingModels
from napari_bloodcell.napari.layers.foreign import pieces_of_mask
from napari_bloodcell.napari.layers.links import cells_layer_for, image_layer_for, is_types
from napari_bloodcell.napari.layers.look import pyramid_of
from napari_bloodcell.napari.preferences import preferred_settings
from napari_bloodcell.napari.work.runs import TypeCells


class ClassifyWidget(StageDock):
    """Types cells and shows their types."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer, button="Type cells", tooltip="Type every cell that was not typed by hand")
        self.classifier: CellClassifier | None = None
        """If set, replaces the model in the form."""
        self.cells = LayerChoice(
            napari_viewer,
            lambda layer: isinstance(layer, Labels) and not is_types(layer),
            none="Find cells first",
            follows_active=True,
        )
        self.cells.setToolTip("The Labels layer of the cells; it may be one of another program")
        self.rows.addRow("Cells", self.cells)
        self.form = SettingsForm(
            ClassifyParams, first=("model", "device", "unidentified_below"), values=preferred_settings("classify")
        )
        self.models = TypingModels(cast("NameChoice", self.form.field("model")))
        self.rows.addRow("Kinds", self.models.kinds)
        self.finish_layout(self.form)
        self.cells.chosen.connect(self._on_cells)
        self._on_cells()

    def start(self) -> None:
        """Type the cells with the settings of the form; see `StageDock.start`."""
        cells, image = self.cells.layer, self.image.layer
        if cells is None:
            raise InputError("There are no cells. Find them first: Plugins ▸ Blood cells ▸ Segment.")
        if image is None:
            raise InputError("There is no image. Open the smear in which the cells were found.")
        pieces = pieces_of_mask(cells)
        if pieces is not None and self._wants_pieces(int(pieces.max())):
            cells.data = pyramid_of(pieces, is_pyramid=cells.multiscale)
        params: ClassifyParams = self.form.settings().model_copy(update={"subtypes": self.models.kinds.value})
        run = TypeCells(self._viewer, self.panel.work, cells, image, params, classifier=self.classifier)
        run.done.connect(lambda _layer: self.summary.setText(run.summary))

    def on_wake(self) -> None:
        """Offer the models that were trained meanwhile."""
        self.models.refresh()

    def _wants_pieces(self, n: int) -> bool:
        answer = QMessageBox.question(
            self,
            "Label the pieces?",
            f"These labels are a mask of one id in {n:,} pieces: all of it would be one cell. Make each piece a cell?",
        )
        return bool(answer == QMessageBox.StandardButton.Yes)

    def _on_cells(self) -> None:
        """Choose the image that the cells were found in."""
        image = image_layer_for(self._viewer, self.cells.layer)
        if image is not None:
            self.image.choose(image)

    def _on_image(self) -> None:
        self.rows.setRowVisible(self.planes, False)  # all planes that have cells are typed
        found = cells_layer_for(self._viewer, self.image.layer)
        if found is not None and image_layer_for(self._viewer, self.cells.layer) is not self.image.layer:
            self.cells.choose(found)
