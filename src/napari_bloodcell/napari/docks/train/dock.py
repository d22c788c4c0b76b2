"""The Train dock: trains a classifier on corrected cells, judges it, and uses it on the open image."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import napari.viewer
from napari.utils.notifications import show_info
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QTabWidget

from napari_bloodcell.core.errors import InputError, OutputError
from napari_bloodcell.core.params import ClassifyParams
from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.learning.reports import Epoch
from napari_bloodcell.napari.docks.base import Dock, LayerChoice, PlainLabel, Watched, fill, make_button
from napari_bloodcell.napari.docks.train.form import Preset, TrainForm
from napari_bloodcell.napari.docks.train.jobs import Source, Trained, TrainTask, corrected_planes, iter_training
from napari_bloodcell.napari.docks.train.plots import GridTable, TrainingPlot
from napari_bloodcell.napari.docks.train.result import ResultView
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.notify import notifying
from napari_bloodcell.napari.preferences import annotator_name
from napari_bloodcell.napari.work.runs import TypeCells
from napari_bloodcell.napari.work.worker import Run, WorkPanel

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
        for button, method in ((self.run, self.start), (self.use, self.use_it), (self.save, self._ask_and_save)):
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
        row = fill(QHBoxLayout(), self.use, self.cells, stretched=[self.cells])
        parts = (self.form, self.run, self.panel, self.summary, row, self.save, self.tabs)
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
            is_grid_search=is_grid,
        )
        self._epochs = []
        self._tell("")
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
        params = ClassifyParams(model=str(self.saved_as or UNSAVED))
        run = TypeCells(self._viewer, self.panel.work, cells, image, params, classifier=trained.training.classifier)
        run.done.connect(lambda _layer: self._tell(run.summary))

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
        self._tell(f"Saved as {path}. Choose it as model in the Classify dock, or on the command line.")

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
            self._tell("Nothing was trained.")
            return
        self.trained, self.saved_as = trained, None
        self._show_state()  # the work has ended already
        self.plot.show_epochs(trained.training.report.history)
        self.result.show_trained(trained)
        self.tabs.setCurrentWidget(self.result)
        stopped = trained.training.report.is_stopped or (trained.grid is not None and not trained.grid.is_complete)
        tries = f" The best of {len(trained.grid.tries)} settings." if trained.grid is not None else ""
        kept = f" Until the next training it is also in {trained.kept}." if trained.kept is not None else ""
        self._tell(("Stopped: the best so far is kept." if stopped else "Done.") + tries + kept)
        if not trained.parts:
            show_info("There were too few examples to set some aside: the model could not be judged.")

    def _tell(self, text: str) -> None:
        self.summary.setText(text)
        self.summary.setVisible(bool(text))

    def _show_state(self) -> None:
        is_running, has_model = self.is_running, self.trained is not None
        self.run.setEnabled(not is_running)
        self.form.setEnabled(not is_running)
        self.use.setEnabled(has_model and not is_running)
        self.save.setEnabled(has_model and not is_running)

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
        self.form.tell()
