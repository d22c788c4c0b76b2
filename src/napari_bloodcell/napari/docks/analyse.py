"""The Analyse dock: finds, types and counts the cells of an image with one click."""

from __future__ import annotations

from functools import partial
from typing import Final

import napari.viewer
from napari.layers import Image
from qtpy.QtWidgets import QComboBox

from napari_bloodcell.core.params import Recipe, SegmentParams
from napari_bloodcell.napari.docks.base import slim
from napari_bloodcell.napari.docks.form import SettingsForm
from napari_bloodcell.napari.docks.segment import FindingDock
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.menus import open_dock
from napari_bloodcell.napari.notify import notify_errors
from napari_bloodcell.napari.preferences import preferred_settings
from napari_bloodcell.napari.work.runs import FindCells, TypeCells
from napari_bloodcell.napari.work.worker import Run

PRESETS: Final = ("Default", "Paper (Rao et al. 2024)")
_SHOWN: Final = ("model", "device", "rbc_diameter_px", "pixel_size_um")


class AnalyseWidget(FindingDock):
    """Runs the whole analysis, then opens the Count dock."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        tooltip = "Find the cells, type them, and open the Count dock with the numbers"
        super().__init__(napari_viewer, button="Analyse", tooltip=tooltip)
        self.preset = QComboBox()
        self.preset.addItems(list(PRESETS))
        slim(self.preset)
        self.preset.setToolTip(
            "Default: the models that come with the program. Paper: the settings of Rao et al. 2024, with SAM ViT-H, "
            "which is downloaded (2.6 GB) and slow without a GPU"
        )
        self.rows.addRow("Preset", self.preset)
        self.rows.addRow("Results in", self.folder)
        others = [name for name in SegmentParams.model_fields if name not in _SHOWN]
        self.form = SettingsForm(SegmentParams, first=_SHOWN, without=others, values=preferred_settings("segment"))
        self.finish_layout(self.form)
        self.preset.currentTextChanged.connect(self._on_preset)

    @property
    def is_paper(self) -> bool:
        """Whether the paper's preset is chosen."""
        return self.preset.currentText() == PRESETS[1]

    def recipe(self) -> Recipe:
        """Return the settings of all stages, from the form."""
        base = Recipe.paper() if self.is_paper else Recipe()
        shown: SegmentParams = self.form.settings()
        preferred = {**preferred_settings("classify"), "device": shown.device}
        if self.is_paper:
            preferred.pop("model", None)
        segment = base.segment.model_copy(update={name: getattr(shown, name) for name in _SHOWN})
        classify = base.classify.model_copy(update=preferred)
        return base.model_copy(update={"segment": segment, "classify": classify})

    def on_found(self, run: Run, image: Image, recipe: Recipe) -> None:
        """Type the cells that were found, unless the user stopped; cells of a slide are typed already."""
        self.summary.setText(run.summary)
        if not isinstance(run, FindCells):
            if run.result is not None:
                open_dock(self._viewer, "Count")
        elif run.result is not None and not run.is_stopped:
            notify_errors(lambda: self._type(run, image, recipe))

    def _type(self, found: FindCells, image: Image, recipe: Recipe) -> None:
        type_cells = partial(TypeCells, classifier=self.classifier, is_one_step=False)
        run = type_cells(self._viewer, self.panel.work, found.result, image, recipe.classify)
        run.started_s = found.started_s  # report the time of the whole analysis
        run.done.connect(lambda _types: self._on_typed(run, found, recipe))

    def _on_typed(self, run: TypeCells, found: FindCells, recipe: Recipe) -> None:
        if run.result is None:
            self.summary.setText(f"{found.summary} They have no types yet. {run.summary}")
            return
        self.summary.setText(" ".join([f"{found.n_cells:,} cells: {run.summary}", *found.remarks]))
        links.note_settings(found.result, "count", recipe.count)
        open_dock(self._viewer, "Count")

    def _on_preset(self) -> None:
        base = Recipe.paper().segment if self.is_paper else SegmentParams()
        self.form.set_values({"model": base.model})
