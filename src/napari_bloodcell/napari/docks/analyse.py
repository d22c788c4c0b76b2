"""The Analyse dock: finds, types and counts the cells of an image in one click."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from qtpy.QtWidgets import QComboBox

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.params import Recipe, SegmentParams
from napari_bloodcell.napari.docks.base import StageDock, may_download
from napari_bloodcell.napari.docks.edit.by_hand import ask_to_keep
from napari_bloodcell.napari.docks.form import SettingsForm
from napari_bloodcell.napari.docks.slide.folder import SlideFolder
from napari_bloodcell.napari.docks.slide.run import AnalyseSlide, start_on_disk
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.menus import open_dock
from napari_bloodcell.napari.notify import notify_errors
from napari_bloodcell.napari.preferences import preferred_settings
from napari_bloodcell.napari.work.models import needs_download
from napari_bloodcell.napari.work.runs import FindCells, TypeCells

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Image, Labels

    from napari_bloodcell.core.protocols import CellClassifier, MaskGenerator

PRESETS: Final = ("Default", "Paper (Rao et al. 2024)")
_SHOWN: Final = ("model", "device", "rbc_diameter_px", "pixel_size_um")


class AnalyseWidget(StageDock):
    """Runs the whole chain, then opens the Count dock."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(
            napari_viewer,
            button="Analyse",
            tooltip="Find the cells, type them, and open the Count dock with the numbers",
        )
        self.generator: MaskGenerator | None = None
        self.classifier: CellClassifier | None = None
        """Used instead of the models in the form, where they are given."""
        self.preset = QComboBox()
        self.preset.addItems(list(PRESETS))
        self.preset.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.preset.setMinimumContentsLength(8)
        self.preset.setToolTip(
            "Default: the models that come with the program. Paper: the settings of Rao et al. 2024, with SAM ViT-H, "
            "which is downloaded (2.6 GB) and slow without a GPU"
        )
        self.rows.addRow("Preset", self.preset)
        self.folder = SlideFolder()
        self.rows.addRow("Results in", self.folder)
        self.form = SettingsForm(
            SegmentParams,
            first=_SHOWN,
            without=[name for name in SegmentParams.model_fields if name not in _SHOWN],
            values=preferred_settings("segment"),
            rows=self.rows,
        )
        self.body.addWidget(self.form)
        self.finish_layout()
        self.preset.currentTextChanged.connect(self._on_preset)

    def recipe(self) -> Recipe:
        """Return the settings of all stages as they are in the form."""
        is_paper = self.preset.currentText() == PRESETS[1]
        base = Recipe.paper() if is_paper else Recipe()
        shown: SegmentParams = self.form.settings()
        update = {name: getattr(shown, name) for name in _SHOWN}
        preferred = preferred_settings("classify")
        if is_paper:
            preferred.pop("model", None)
        preferred["device"] = shown.device
        return base.model_copy(
            update={
                "segment": base.segment.model_copy(update=update),
                "classify": base.classify.model_copy(update=preferred),
            }
        )

    def start(self) -> None:
        """Run the chain with what is in the form; see `StageDock.start`."""
        layer = self.image.layer
        if layer is None:
            raise InputError("There is no image. Open a smear first: File ▸ Open, or File ▸ Open Sample ▸ Blood cells.")
        recipe = self.recipe()
        if (
            self.generator is None
            and needs_download(recipe.segment.model)
            and not may_download(self, recipe.segment.model)
        ):
            return
        if self.folder.path is not None or self.folder.is_required:
            slide_run = start_on_disk(
                self, layer, self.folder, recipe, generator=self.generator, classifier=self.classifier
            )
            if slide_run is not None:
                slide_run.done.connect(partial(self._on_slide, slide_run))
            return
        keeps_by_hand = ask_to_keep(self, self._viewer, layer)
        if keeps_by_hand is None:
            return
        run = FindCells(
            self._viewer,
            self.panel.work,
            layer,
            recipe.segment,
            planes=self.chosen_planes(layer),
            keeps_by_hand=keeps_by_hand,
            generator=self.generator,
        )
        run.done.connect(lambda cells: self._on_found(cells, layer, recipe, run))

    def _on_found(self, cells: Labels | None, image: Image, recipe: Recipe, run: FindCells) -> None:
        self.summary.setText(run.summary)
        was_stopped = "Stopped" in run.summary
        if cells is None or was_stopped or image not in self._viewer.layers:
            return
        notify_errors(lambda: self._type(cells, image, recipe, run.summary))

    def _type(self, cells: Labels, image: Image, recipe: Recipe, found: str) -> None:
        run = TypeCells(
            self._viewer, self.panel.work, cells, image, recipe.classify, classifier=self.classifier, is_one_step=False
        )
        run.done.connect(lambda types: self._on_typed(types, cells, recipe, f"{found} {run.summary}"))

    def _on_typed(self, types: Labels | None, cells: Labels, recipe: Recipe, summary: str) -> None:
        self.summary.setText(summary)
        if types is None:
            return
        info = layers.info_of(cells)
        info["recipe"] = {**info.get("recipe", {}), "count": recipe.count.model_dump(mode="json")}
        open_dock(self._viewer, "Count")

    def _on_slide(self, run: AnalyseSlide, cells: Labels | None) -> None:
        self.summary.setText(run.summary)
        if cells is not None:
            open_dock(self._viewer, "Count")

    def _on_image(self) -> None:
        super()._on_image()
        self.rows.setRowVisible(self.folder, self.folder.follow(self.image.layer))

    def _on_preset(self) -> None:
        base = Recipe.paper().segment if self.preset.currentText() == PRESETS[1] else SegmentParams()
        self.form.set_values({"model": base.model})
