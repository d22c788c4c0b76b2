"""The Train dock's form: examples, starting model, settings."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from napari.components import ViewerModel
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QLineEdit, QWidget

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.files import expanded
from napari_bloodcell.core.params import TrainParams
from napari_bloodcell.learning.grid_search import TABLE_1
from napari_bloodcell.learning.training_list import LIST
from napari_bloodcell.models.weights import CLASSIFIERS
from napari_bloodcell.napari.docks.base import PlainLabel, fill_column, form_rows, slim, with_browse_button
from napari_bloodcell.napari.docks.form import NameChoice, SettingsForm
from napari_bloodcell.napari.docks.train.jobs import Source, default_training_set, n_corrected
from napari_bloodcell.napari.layers.links import is_cells

SCRATCH: Final = "from scratch"


class Preset(StrEnum):
    """Which settings."""

    PAPER = "Paper"
    QUICK = "Quick"
    GRID = "Grid search"


class TrainForm(QWidget):
    """Examples, starting model and settings."""

    changed = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self._viewer = viewer
        self._source, self._preset = QComboBox(), QComboBox()
        self._source.addItems([str(source) for source in Source])
        slim(self._source)
        slim(self._preset)
        self._source.setToolTip(
            "The cells that are learned from: those that were typed by hand in the open images and earlier ones, a "
            "training set, or pictures in one folder per class, as the paper's authors published theirs"
        )
        self._folder = QLineEdit(str(default_training_set()))
        folder = with_browse_button(self._folder, self._on_browse)
        self.told = PlainLabel()
        self._start = NameChoice((*CLASSIFIERS, SCRATCH), is_file=True)
        self._start.tooltip = (
            "Go on from the embedded classifier (transfer learning), from the paper's, from a file of an earlier "
            "training, or from nothing"
        )
        self._preset.addItems([str(preset) for preset in Preset])
        self._preset.setToolTip(
            "Paper: the settings of its training. Quick: larger steps, early stop, several times faster. Grid search: "
            "every combination of the paper's search is trained from scratch, which takes hours; the best is kept"
        )
        rows = form_rows(Examples=self._source, Folder=folder, Start=self._start.native, Settings=self._preset)
        self.settings_form = SettingsForm(TrainParams, first=("epochs", "learning_rate"), values=self._usual())
        fill_column(self, rows, self.settings_form, self.told)
        self._source.currentIndexChanged.connect(lambda _: self._on_source())
        self._start.changed.connect(lambda _: self._on_settings())
        self._preset.currentIndexChanged.connect(lambda _: self._on_settings())
        self._folder.textChanged.connect(lambda _: self.changed.emit())
        self._on_source()

    @property
    def source(self) -> Source:
        """Where examples come from."""
        return list(Source)[self._source.currentIndex()]

    @property
    def folder(self) -> Path:
        """The training set, or the folders of pictures; raises `InputError` if the field is empty."""
        text = self._folder.text().strip()
        if not text:
            raise InputError("There is no folder of examples. Choose one with the button beside its field.")
        return expanded(text)

    @property
    def start(self) -> str | None:
        """Model to start from; None: from scratch."""
        is_scratch = self.preset is Preset.GRID or self._start.value in ("", SCRATCH)
        return None if is_scratch else self._start.value

    @property
    def preset(self) -> Preset:
        """Which settings."""
        return list(Preset)[self._preset.currentIndex()]

    def params(self) -> TrainParams:
        """Return the settings; raises as `SettingsForm.settings`."""
        params: TrainParams = self.settings_form.settings()
        return params

    def choose(
        self,
        *,
        source: Source | None = None,
        folder: str | Path | None = None,
        start: str | None = "",
        preset: Preset | None = None,
    ) -> None:
        """Fill in the form; omitted fields stay."""
        if source is not None:
            self._source.setCurrentIndex(list(Source).index(source))
        if folder is not None:
            self._folder.setText(str(folder))
        if start != "":
            self._start.value = start or SCRATCH
        if preset is not None:
            self._preset.setCurrentIndex(list(Preset).index(preset))

    def tell(self) -> None:
        """Show how many examples there are."""
        self.told.setVisible(self.source is Source.CORRECTIONS)
        if self.source is not Source.CORRECTIONS:
            self.told.clear()
            return
        cells = [layer for layer in self._viewer.layers if is_cells(layer)]
        n = sum(n_corrected(layer) for layer in cells)
        has_earlier = (Path(self._folder.text()) / LIST).is_file()
        earlier = " and those of earlier images" if has_earlier else ""
        hint = "" if n or has_earlier else " Correct some of each class in the Review dock, then train on them."
        self.told.setText(f"{n:,} corrected cell{'' if n == 1 else 's'} in the open images{earlier}.{hint}")

    def _usual(self) -> dict[str, Any]:
        """Return the values of the chosen preset."""
        params = TrainParams.quick() if self.preset is Preset.QUICK else TrainParams()
        return params.model_dump()

    def _on_source(self) -> None:
        if self.source is Source.CORRECTIONS:
            self._folder.setText(str(default_training_set()))
            self._folder.setToolTip("Corrections are gathered here, over many images; the test cells stay test cells")
        elif self._folder.text() == str(default_training_set()):
            self._folder.clear()
            self._folder.setToolTip("The folder of examples")
        self._folder.setCursorPosition(len(self._folder.text()))
        self.tell()
        self.changed.emit()

    def _on_settings(self) -> None:
        is_grid = self.preset is Preset.GRID
        self._start.enabled = not is_grid
        for name in TABLE_1:  # the search varies these
            self.settings_form.field(name).enabled = not is_grid
        self.settings_form.set_values(self._usual())
        self.changed.emit()

    def _on_browse(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder of examples", self._folder.text())
        if folder:
            self._folder.setText(folder)
