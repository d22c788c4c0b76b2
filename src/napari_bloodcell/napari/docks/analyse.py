"""The Analyse dock: finds, types and counts the cells of an image with one click."""

from __future__ import annotations

from functools import partial
from typing import Any, Final, cast

import napari.viewer
from napari.layers import Image
from qtpy.QtWidgets import QComboBox

from napari_bloodcell.core.params import ClassifyParams, Recipe, SegmentParams
from napari_bloodcell.napari.docks.base import slim
from napari_bloodcell.napari.docks.form import NameChoice, SettingsForm, field_of
from napari_bloodcell.napari.docks.segment import FindingDock
from napari_bloodcell.napari.docks.trained import TypingModels
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
        self.models = TypingModels(cast("NameChoice", field_of("model", ClassifyParams.model_fields["model"])))
        self.models.classifier.native.setToolTip("Types the cells: the program's model, or a trained one")
        self.rows.addRow("Preset", self.preset)
        self.models.classifier.native.setAccessibleName("Classifier")
        self.rows.addRow("Classifier", self.models.classifier.native)
        self.rows.addRow("Kinds", self.models.kinds)
        self.rows.addRow("Results in", self.folder)
        others = [name for name in SegmentParams.model_fields if name not in _SHOWN]
        self.form = SettingsForm(SegmentParams, first=_SHOWN, without=others, values=preferred_settings("segment"))
        self.finish_layout(self.form)
        self.preset.currentTextChanged.connect(self._on_preset)

    def on_wake(self) -> None:
        """Look for kept cells, and for models that were trained meanwhile."""
        super().on_wake()
        self.models.refresh()

    @property
    def is_paper(self) -> bool:
        """Whether the paper's preset is chosen."""
        return self.preset.currentText() == PRESETS[1]

    def recipe(self) -> Recipe:
        """Return the settings of all stages, from the form."""
        base = Recipe.paper() if self.is_paper else Recipe()
        shown: SegmentParams = self.form.settings()
        typing: dict[str, Any] = {"device": shown.device}
        if not self.is_paper:
            typing |= {"model": self.models.classifier.value, "subtypes": self.models.kinds.value}
        segment = base.segment.model_copy(update={name: getattr(shown, name) for name in _SHOWN})
        classify = base.classify.model_copy(update=typing)
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
        for choice in (self.models.classifier.native, self.models.kinds):
            choice.setEnabled(not self.is_paper)
        base = Recipe.paper().segment if self.is_paper else SegmentParams()
        self.form.set_values({"model": base.model})
