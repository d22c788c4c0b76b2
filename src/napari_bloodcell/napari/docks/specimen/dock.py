"""The Specimen dock: the open images as fields of one smear, analysed one after another, and pooled to one answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

import napari.viewer
import numpy as np
import pandas as pd
from napari.layers import Image, Labels
from napari.utils.notifications import show_info
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QAbstractItemView, QFileDialog, QHBoxLayout, QLineEdit, QSpinBox, QTableWidgetItem

from napari_bloodcell.core.cells import RBC, WBC
from napari_bloodcell.core.errors import BloodCellError, InputError
from napari_bloodcell.core.params import ClassifyParams, SegmentParams
from napari_bloodcell.core.protocols import CellClassifier, MaskGenerator
from napari_bloodcell.corrections.journal import Journal, default_journal_folder, image_hash
from napari_bloodcell.images.files import IMAGE_SUFFIXES
from napari_bloodcell.napari.docks.base import Dock, NarrowTable, PlainLabel, Watched, fill, form_rows, make_button
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.images import current_plane, image_source
from napari_bloodcell.napari.layers.results import result_of
from napari_bloodcell.napari.notify import notify_errors, notifying
from napari_bloodcell.napari.preferences import PLUGIN, preferred_settings
from napari_bloodcell.napari.work.runs import FindCells, TypeCells
from napari_bloodcell.napari.work.worker import Run, WorkPanel
from napari_bloodcell.results.files import REPORT
from napari_bloodcell.results.result import Result
from napari_bloodcell.results.specimens.report import write_report
from napari_bloodcell.results.specimens.specimen import Specimen, specimen_of
from napari_bloodcell.results.specimens.write import write_specimen

SOON_MS: Final = 300
"""Changes of cells within this time are pooled once."""
SUM, MEAN, PER_MM2 = "Sum", "Mean ± SD", "per mm²"
NOT_YET: Final = "not analysed yet"
"""State of a field."""


class SpecimenWidget(Dock):
    """Pools the cells of all open images; `generator` and `classifier`, if set, replace the models of the settings."""

    panel: WorkPanel

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self.generator: MaskGenerator | None = None
        self.classifier: CellClassifier | None = None
        self.specimen: Specimen | None = None
        self._results: WeakKeyDictionary[Labels, Result] = WeakKeyDictionary()
        self._waiting: list[Image] = []
        self._build()
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(SOON_MS)
        self._soon.timeout.connect(self.refresh)
        self.wake()

    def _build(self) -> None:
        self.name = QLineEdit("specimen")
        self.name.setToolTip("Name of the specimen, on its files and its report")
        self.target = QSpinBox()
        self.target.setRange(0, 100_000)
        self.target.setValue(100)
        self.target.setToolTip("How many white cells are to be counted; the dock says how many are missing")
        self.add = make_button("Add a folder…", "Open all pictures of a folder as fields of this specimen")
        self.analyse = make_button("Analyse all", "Find and type the cells of the images that were not analysed yet")
        self.panel = WorkPanel("Analyse all")
        self.table = NarrowTable([("Field", "An open image; choosing one shows it")], "Fields of the specimen")
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.told, self.doubts = PlainLabel(), PlainLabel()
        self.save = make_button("Save…", "Save numbers, table and report with models, settings and who corrected")
        for button, method in (
            (self.add, self.add_folder),
            (self.analyse, self.analyse_all),
            (self.save, self.save_specimen),
        ):
            button.clicked.connect(notifying(method))
        self.target.valueChanged.connect(lambda _: self._tell())
        self.table.cellClicked.connect(self._on_cell)
        row = fill(QHBoxLayout(), self.add, self.analyse)
        parts = (row, self.panel, self.table, self.told, self.doubts)
        rows = form_rows(Specimen=self.name, White_cells=self.target)
        self.lay_out(rows, *parts, self.save, stretched=self.table)

    @property
    def images(self) -> list[Image]:
        """The open images."""
        return [layer for layer in self._viewer.layers if isinstance(layer, Image)]

    @property
    def is_running(self) -> bool:
        """Whether images are being analysed."""
        return self.panel.work.is_running or bool(self._waiting)

    def add_folder(self, folder: Path | None = None) -> None:
        """Open all pictures of a folder, by default of one that is asked for."""
        chosen = str(folder or QFileDialog.getExistingDirectory(self, "Folder of the fields"))
        if not chosen:
            return
        files = sorted(path for path in Path(chosen).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise InputError(f"{chosen} holds no picture that can be opened ({', '.join(sorted(IMAGE_SUFFIXES))}).")
        self._viewer.open([str(path) for path in files], stack=False, plugin=PLUGIN)

    def analyse_all(self) -> None:
        """Analyse the images that have no typed cells, one after another."""
        if self.is_running:
            raise InputError("The images are being analysed: wait for that, or press Cancel.")
        self._waiting = [image for image in self.images if self._result_of(image) is None]
        if not self._waiting:
            raise InputError("All open images are analysed. Open more: drop them, or Add a folder.")
        self._next()

    def save_specimen(self) -> None:
        """Ask for a folder, and save numbers, fields and report of the specimen."""
        specimen = self.specimen
        if specimen is None:
            raise InputError("There is nothing to save yet: analyse an image first.")
        start = str(Path.home() / specimen.name)
        chosen, _ = QFileDialog.getSaveFileName(self, "Save the specimen in a folder", start, "Folder (*)")
        if not chosen:
            return
        sources = {image.name: image_source(image) for image in self.images}
        images = {name: source.data for name, source in sources.items() if source.rgb and not source.stack_shape}
        folder = write_specimen(specimen, chosen)
        write_report(specimen, folder / REPORT, journal=Journal(default_journal_folder()), images=images)
        show_info(f"Saved in {folder}.")

    def refresh(self) -> None:
        """Pool the open images anew."""
        results = {image.name: self._result_of(image) for image in self.images}
        found = [replace(result, image_name=name) for name, result in results.items() if result is not None]
        self.specimen = None
        if found:
            self.specimen = specimen_of(found, name=self.name.text().strip() or "specimen")
        self._show_table(results)
        self._tell()
        self.save.setEnabled(self.specimen is not None)

    def watched(self) -> Watched:
        """Yield what changes the numbers."""
        layers = self._viewer.layers
        for name in ("inserted", "removed", "reordered"):
            yield getattr(layers.events, name), self._on_layers
        for layer in layers:
            if links.is_cells(layer):
                yield layer.events.features, self._on_cells
                yield layer.events.scale, self._on_cells

    def on_wake(self) -> None:
        """Pool what is open."""
        self._results.clear()
        self.refresh()

    def on_rest(self) -> None:
        """Wait for nothing."""
        self._soon.stop()
        self._waiting.clear()

    def _on_layers(self, _event: object = None) -> None:
        self.watch()
        self._soon.start()

    def _on_cells(self, event: object) -> None:
        self._results.pop(getattr(event, "source", None), None)
        self._soon.start()

    def _result_of(self, image: Image) -> Result | None:
        """Return the result of an image's cells; None if they are not typed."""
        cells = links.cells_layer_for(self._viewer, image)
        if cells is None or not links.has_table(cells):
            return None
        if cells not in self._results:
            try:
                result = result_of(cells)
            except BloodCellError:
                return None
            source = image_source(image)
            self._results[cells] = result if source.is_large else replace(result, image_sha256=image_hash(source.data))
        return self._results[cells]

    def _next(self) -> None:
        """Find the cells of the next image that waits."""
        while self._waiting and self._waiting[0] not in self._viewer.layers:
            self._waiting.pop(0)
        if not self._waiting or self.panel.work.is_running:
            return
        image = self._waiting.pop(0)
        self.told.setText(f"{image.name}; {len(self._waiting):,} more after it")
        params, planes = SegmentParams(**preferred_settings("segment")), [current_plane(self._viewer, image)]
        run = FindCells(self._viewer, self.panel.work, image, params, planes=planes, generator=self.generator)
        run.done.connect(partial(self._on_found, run, image))

    def _on_found(self, run: FindCells, image: Image, _layer: object) -> None:
        if run.result is None or run.is_stopped:
            self._waiting.clear()
            return
        params = ClassifyParams(**preferred_settings("classify"))
        how = partial(TypeCells, classifier=self.classifier, is_one_step=False)
        typing = how(self._viewer, self.panel.work, run.result, image, params)
        typing.done.connect(partial(self._on_typed, typing))

    def _on_typed(self, run: Run, _types: object) -> None:
        if run.result is None:
            self._waiting.clear()
        notify_errors(self._next)

    def _show_table(self, results: dict[str, Result | None]) -> None:
        specimen = self.specimen
        types = list(specimen.counts) if specimen is not None else [RBC, WBC]
        rows = [[name, *_cells_of(result, types)] for name, result in results.items()]
        if specimen is not None:
            rows += _sums_of(specimen.fields, specimen.densities, types)
        self.table.setColumnCount(1 + len(types))
        self.table.setRowCount(len(rows))
        for i, name in enumerate(types, start=1):
            self.table.setHorizontalHeaderItem(i, QTableWidgetItem(name))
        for i, row in enumerate(rows):
            for j, text in enumerate(row):
                item = QTableWidgetItem(text)
                item.setToolTip(text)
                self.table.setItem(i, j, item)

    def _tell(self) -> None:
        """Say how many white cells are missing, and what speaks against the numbers."""
        specimen, target = self.specimen, self.target.value()
        n_fields = len(self.images)
        n_done = specimen.n_fields if specimen is not None else 0
        said = [f"{n_done:,} of {n_fields:,} field{'' if n_fields == 1 else 's'} analysed."]
        if specimen is not None and target:
            n = specimen.counts.get(WBC, 0)
            missing = f"{target - n:,} are missing" if n < target else "enough"
            said.append(f"{n:,} of {target:,} white cells: {missing}.")
        self.told.setText(" ".join(said))
        self.doubts.setText(" ".join(f"⚠ {sentence}" for sentence in specimen.warnings) if specimen is not None else "")

    def _on_cell(self, row: int, _column: int) -> None:
        """Look at a field."""
        if row < len(self.images):
            image = self.images[row]
            self._viewer.layers.selection.active = links.cells_layer_for(self._viewer, image) or image
            self._viewer.reset_view(layers=[image])


def _cells_of(result: Result | None, types: Sequence[str]) -> list[str]:
    if result is None:
        return [NOT_YET if i == 0 else "" for i in range(len(types))]
    return [f"{result.counts.get(name, 0):,}" for name in types]


def _sums_of(fields: pd.DataFrame, densities: pd.DataFrame, types: Sequence[str]) -> list[list[str]]:
    """Return the rows below the fields: sum, mean ± SD, and per mm²."""
    n = fields[list(types)]
    sums = [f"{int(total):,}" for total in n.sum()]
    spread = n.std(ddof=1) if len(n) > 1 else pd.Series(np.nan, n.columns)
    means = []
    for mean, sd in zip(n.mean(), spread, strict=True):
        means.append(f"{mean:,.1f}" if pd.isna(sd) else f"{mean:,.1f} ± {sd:,.1f}")
    areas = ["–" if pd.isna(value) else f"{value:,.0f}" for value in densities.loc[list(types), "per_mm2"]]
    return [[SUM, *sums], [MEAN, *means], [PER_MM2, *areas]]
