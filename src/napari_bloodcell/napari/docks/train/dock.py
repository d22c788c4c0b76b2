"""The Train dock: trains a classifier on corrected cells, judges it, and uses it on the open image."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Final, cast

import napari.viewer
from napari.components import ViewerModel
from napari.utils.notifications import show_info
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QLineEdit, QTabWidget, QWidget

from napari_bloodcell.core.cells import PLATELET, RBC, WBC
from napari_bloodcell.core.errors import InputError, OutputError
from napari_bloodcell.core.files import expanded
from napari_bloodcell.core.params import ClassifyParams, TrainParams
from napari_bloodcell.core.protocols import CellClassifier, Progress
from napari_bloodcell.learning.grid_search import TABLE_1
from napari_bloodcell.learning.kinds import START, kind_set, start_of
from napari_bloodcell.learning.reports import Epoch
from napari_bloodcell.learning.training_list import LIST
from napari_bloodcell.models.weights import CLASSIFIERS
from napari_bloodcell.napari.docks.base import (
    Dock,
    LayerChoice,
    PlainLabel,
    Watched,
    fill,
    fill_column,
    form_rows,
    make_button,
    slim,
    with_browse_button,
)
from napari_bloodcell.napari.docks.form import NameChoice, SettingsForm
from napari_bloodcell.napari.docks.train.jobs import (
    Source,
    Trained,
    TrainTask,
    corrected_planes,
    default_training_set,
    iter_training,
    n_corrected,
)
from napari_bloodcell.napari.docks.train.result import GridTable, ResultView, TrainingPlot
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.links import is_cells
from napari_bloodcell.napari.notify import notifying
from napari_bloodcell.napari.preferences import annotator_name, note_trained, prefer_model
from napari_bloodcell.napari.work.runs import TypeCells
from napari_bloodcell.napari.work.worker import Run, WorkPanel

SCRATCH: Final = "from scratch"
CLASSES: Final = "Classes"
LEARNED: Final = {CLASSES: "", "Kinds of white cells": WBC, "Kinds of red cells": RBC, "Kinds of platelets": PLATELET}
"""What is learned: classes, or the kinds of a type."""


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
        self._learned, self._source, self._preset = QComboBox(), QComboBox(), QComboBox()
        self._learned.addItems(list(LEARNED))
        slim(self._learned)
        self._learned.setToolTip(
            "What the model tells apart: classes, or the kinds of one class, as the Review dock lists them after the "
            "key K. Kinds are always learned from a model before"
        )
        self._source.addItems([str(source) for source in Source])
        slim(self._source)
        slim(self._preset)
        self._source.setToolTip(
            "The cells to learn from: those typed by hand in the open images and earlier ones, a "
            "training set, or pictures in one folder per class, as the paper's authors published theirs"
        )
        self._folder = QLineEdit(str(default_training_set()))
        folder = with_browse_button(self._folder, self._on_browse)
        self.note = PlainLabel()
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
        rows = form_rows(
            Learn=self._learned,
            Examples=self._source,
            Folder=folder,
            Start=self._start.native,
            Settings=self._preset,
        )
        self.settings_form = SettingsForm(TrainParams, first=("epochs", "learning_rate"), values=self._usual())
        fill_column(self, rows, self.settings_form, self.note)
        self._learned.currentIndexChanged.connect(lambda _: self._on_learned())
        self._source.currentIndexChanged.connect(lambda _: self._on_source())
        self._start.changed.connect(lambda _: self._on_settings())
        self._preset.currentIndexChanged.connect(lambda _: self._on_settings())
        self._folder.textChanged.connect(lambda _: self.changed.emit())
        self._on_source()

    @property
    def of(self) -> str:
        """The type whose kinds are learned; "": classes are."""
        return LEARNED[self._learned.currentText()]

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
        of: str | None = None,
        source: Source | None = None,
        folder: str | Path | None = None,
        start: str | None = "",
        preset: Preset | None = None,
    ) -> None:
        """Fill in the form; omitted fields stay."""
        if of is not None:
            self._learned.setCurrentIndex(list(LEARNED.values()).index(of))
        if source is not None:
            self._source.setCurrentIndex(list(Source).index(source))
        if folder is not None:
            self._folder.setText(str(folder))
        if start != "":
            self._start.value = start or SCRATCH
        if preset is not None:
            self._preset.setCurrentIndex(list(Preset).index(preset))

    def show_examples(self) -> None:
        """Show how many examples there are."""
        self.note.setVisible(self.source is Source.CORRECTIONS)
        if self.source is not Source.CORRECTIONS:
            self.note.clear()
            return
        cells = [layer for layer in self._viewer.layers if is_cells(layer)]
        n = sum(n_corrected(layer, self.of) for layer in cells)
        folder = Path(self._folder.text())
        has_earlier = bool(len(kind_set(folder, self.of))) if self.of else (folder / LIST).is_file()
        earlier = " and those of earlier images" if has_earlier else ""
        what = "each kind in the Review dock (key K)" if self.of else "each class in the Review dock"
        hint = "" if n or has_earlier else f" Correct some of {what}, then train on them."
        self.note.setText(f"{n:,} corrected cell{'' if n == 1 else 's'} in the open images{earlier}.{hint}")

    def _usual(self) -> dict[str, Any]:
        """Return the values of the chosen preset."""
        params = TrainParams.quick() if self.preset is Preset.QUICK else TrainParams()
        return params.model_dump()

    def _on_source(self) -> None:
        if self.source is Source.CORRECTIONS:
            self._folder.setText(str(default_training_set()))
            self._folder.setToolTip("Corrections of many images are collected here; test cells stay test cells")
        elif self._folder.text() == str(default_training_set()):
            self._folder.clear()
            self._folder.setToolTip("The folder of examples")
        self._folder.setCursorPosition(len(self._folder.text()))
        self.show_examples()
        self.changed.emit()

    def _on_learned(self) -> None:
        """Offer what goes with classes or kinds."""
        self._preset.setCurrentIndex(0)
        self._preset.setEnabled(not self.of)
        self._start.value = start_of(self.of) if self.of else next(iter(CLASSIFIERS))
        for name in TrainParams.model_fields.keys() - {"split"}:
            self.settings_form.field(name).enabled = not self.of or name in ("epochs", "seed", "device")
        self.show_examples()
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


UNSAVED: Final = "trained, not saved"


class TrainWidget(Dock):
    """Trains, and shows progress and result."""

    panel: WorkPanel

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self._epochs: list[Epoch] = []
        self.trained: Trained | None = None
        self.saved_as: Path | None = None
        self._build()
        methods = (self.start, self.use_it, self._ask_and_save, self.use_from_now_on)
        for button, method in zip((self.run, self.use, self.save, self.prefer), methods, strict=True):
            button.clicked.connect(notifying(method))
        work = self.panel.work
        work.started.connect(self._show_state)
        work.finished.connect(self._show_state)
        self._show_state()
        self.wake()

    def _build(self) -> None:
        self.form = TrainForm(self._viewer)
        self.run = make_button("Train", "Train on the examples; Cancel keeps the best so far")
        self.panel = WorkPanel()
        self.summary = PlainLabel()
        self.summary.hide()
        self.plot, self.grid, self.result = TrainingPlot(), GridTable(), ResultView()
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        for title, page in (("Curves", self.plot), ("Result", self.result), ("Grid search", self.grid)):
            self.tabs.addTab(page, title)
        self.cells = LayerChoice(self._viewer, links.is_cells, none="No cells yet", follows_active=True)
        self.cells.setToolTip("The cells that are typed again")
        self.use = make_button("Use it on", "Type these cells with the new model; what a person typed stays as it is")
        self.save = make_button(
            "Save the model…", "As .safetensors, with classes, settings and report; the Classify dock takes it as model"
        )
        self.prefer = make_button(
            "Use from now on", "Save the model, and let it type cells in the Analyse and Classify docks from now on"
        )
        row = fill(QHBoxLayout(), self.use, self.cells, stretched=[self.cells])
        keeping = fill(QHBoxLayout(), self.save, self.prefer, stretched=[self.save, self.prefer])
        parts = (self.form, self.run, self.panel, self.summary, row, keeping, self.tabs)
        self.lay_out(*parts, stretched=self.tabs)

    @property
    def is_running(self) -> bool:
        """Whether work is running."""
        return self.panel.work.is_running

    def start(self) -> None:
        """Start training with the form's settings; raise `BloodCellError` if examples or valid settings are missing."""
        form = self.form
        is_grid = form.preset is Preset.GRID
        task = TrainTask(
            source=form.source,
            folder=form.folder,
            corrected=corrected_planes(self._viewer) if form.source is Source.CORRECTIONS else [],
            annotator=annotator_name(),
            params=form.params(),
            start=form.start,
            of=form.of,
            is_grid_search=is_grid,
        )
        self._epochs = []
        self._show_summary("")
        self.plot.show_epochs([])
        self.grid.clear_tries()
        self.tabs.setCurrentWidget(self.grid if is_grid else self.plot)
        run = Run(self.panel.work)
        run.stepped.connect(self._on_progressed)
        run.done.connect(notifying(self._on_trained))
        run.start(lambda should_stop: iter_training(task, should_stop), keeps_done=True)

    def use_it(self) -> None:
        """Type the chosen cells with the trained model, except those that a person typed."""
        trained, cells = self._trained(), self.cells.layer
        image = links.image_layer_for(self._viewer, cells)
        if cells is None or image is None:
            raise InputError("There are no cells to type, or their image is not open. Segment an image first.")
        if trained.of:
            file = self.saved_as or trained.kept
            if file is None:
                raise InputError("Save the model first: kinds are told by a model that lies in a file.")
            others = [name for name in ClassifyParams().subtypes if name != START.get(trained.of)]
            params, typing = ClassifyParams(subtypes=(*others, str(file))), None
        else:
            params = ClassifyParams(model=str(self.saved_as or UNSAVED))
            typing = cast("CellClassifier", trained.training.classifier)
        run = TypeCells(self._viewer, self.panel.work, cells, image, params, classifier=typing)
        run.done.connect(lambda _layer: self._show_summary(run.summary))

    def save_as(self, path: str | Path) -> None:
        """Save the trained model; raise `OutputError` if it cannot be written, or is no .safetensors file."""
        path = Path(path)
        if path.suffix != ".safetensors":
            raise OutputError(f"A model is a file that ends with .safetensors; {path.name!r} was given.")
        try:
            self._trained().training.classifier.save(path)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error}. Choose another folder.") from error
        self.saved_as = path
        note_trained(path)
        if self._trained().of:
            self._show_summary(f"Saved as {path}. On the command line: --classify-subtypes {path.name}.")
        else:
            self._show_summary(f"Saved as {path}. Choose it as model in the Classify dock, or on the command line.")

    def use_from_now_on(self) -> None:
        """Save the trained model, if it is not yet, and let the docks type with it from now on."""
        trained = self._trained()
        if self.saved_as is None:
            self._ask_and_save()
        if self.saved_as is not None:
            prefer_model(self.saved_as, of_kinds=bool(trained.of))
            self._show_summary(f"{self.saved_as.stem} types cells from now on; File ▸ Preferences has the setting.")

    def _trained(self) -> Trained:
        if self.trained is None:
            raise InputError("There is no model yet: train one first.")
        return self.trained

    def _on_progressed(self, step: Progress) -> None:
        if isinstance(step.payload, Epoch):
            self._epochs.append(step.payload)
            self.plot.show_epochs(self._epochs)
        elif isinstance(step.payload, dict):
            self.grid.add_try(step.payload)

    def _on_trained(self, trained: Trained | None) -> None:
        if trained is None:
            self._show_summary("Nothing was trained.")
            return
        self.trained, self.saved_as = trained, None
        if trained.kept is not None:
            note_trained(trained.kept)
        self._show_state()  # the work has ended already
        self.plot.show_epochs(trained.training.report.history)
        self.result.show_trained(trained)
        self.tabs.setCurrentWidget(self.result)
        stopped = trained.training.report.is_stopped or (trained.grid is not None and not trained.grid.is_complete)
        tries = f" The best of {len(trained.grid.tries)} settings." if trained.grid is not None else ""
        kept = f" Until the next training it is also in {trained.kept}." if trained.kept is not None else ""
        self._show_summary(("Stopped: the best so far is kept." if stopped else "Done.") + tries + kept)
        if not trained.parts:
            show_info("There were too few examples to set some aside: the model could not be judged.")

    def _show_summary(self, text: str) -> None:
        self.summary.setText(text)
        self.summary.setVisible(bool(text))

    def _show_state(self) -> None:
        is_running, has_model = self.is_running, self.trained is not None
        self.run.setEnabled(not is_running)
        self.form.setEnabled(not is_running)
        self.use.setEnabled(has_model and not is_running)
        for button in (self.save, self.prefer):
            button.setEnabled(has_model and not is_running)

    def _ask_and_save(self) -> None:
        name, _ = QFileDialog.getSaveFileName(
            self, "Save the model", "classifier.safetensors", "Models (*.safetensors)"
        )
        if name:
            self.save_as(name if name.endswith(".safetensors") else f"{name}.safetensors")

    def _on_theme(self, _event: object = None) -> None:
        self.plot.use_theme(self._viewer.theme)

    def watched(self) -> Watched:
        """Yield the theme, which the curves follow."""
        yield self._viewer.events.theme, self._on_theme

    def on_wake(self) -> None:
        """Show the number of corrections to train on."""
        self._on_theme()
        self.form.show_examples()
