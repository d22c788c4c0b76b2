"""The Segment dock: finds the cells of an image, of a part of it, or of a stack."""

from __future__ import annotations

from functools import partial
from weakref import ref

import napari.viewer
from napari.components import ViewerModel
from napari.layers import Image, Labels, Shapes
from qtpy.compat import isalive
from qtpy.QtWidgets import QWidget

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.geometry import Box, union_of
from napari_bloodcell.core.params import ClassifyParams, Recipe, SegmentParams
from napari_bloodcell.core.protocols import CellClassifier, MaskGenerator
from napari_bloodcell.models.weights import needs_download
from napari_bloodcell.napari.docks.base import LayerChoice, StageDock, make_button, may_download
from napari_bloodcell.napari.docks.form import SettingsForm
from napari_bloodcell.napari.docks.scale import ScaleButton
from napari_bloodcell.napari.docks.score import OF_SLIDES, ScoreSlider
from napari_bloodcell.napari.docks.slide.run import AnalyseSlide, SlideFolder, add_part, is_large, may_write_into
from napari_bloodcell.napari.layers.images import image_source
from napari_bloodcell.napari.layers.links import cells_layer_for, image_layer_for
from napari_bloodcell.napari.layers.regions import box_of_view, boxes_of_shapes
from napari_bloodcell.napari.layers.results import recipe_of
from napari_bloodcell.napari.notify import connect_for_life, notify_errors, notifying
from napari_bloodcell.napari.preferences import preferred_settings
from napari_bloodcell.napari.session.journal import later, when_done
from napari_bloodcell.napari.session.kept import Kept, find_kept, is_any_kept
from napari_bloodcell.napari.session.opening import bring_back, cells_session, put_back
from napari_bloodcell.napari.window import ask
from napari_bloodcell.napari.work.runs import FindCells, TypeCells
from napari_bloodcell.napari.work.worker import Run

WHOLE, IN_VIEW = "The whole image", "What is in view"


class FindingDock(StageDock):
    """Base of the docks that find cells, in memory or, for a slide, in a folder; subclasses make `form`.

    `generator` and `classifier`, if set, replace the models of the settings.
    """

    form: SettingsForm

    def __init__(self, viewer: napari.viewer.Viewer, *, button: str, tooltip: str) -> None:
        super().__init__(viewer, button=button, tooltip=tooltip)
        self.generator: MaskGenerator | None = None
        self.classifier: CellClassifier | None = None
        self.folder = SlideFolder()
        self._kept: Kept | None = None
        self.bring_back = make_button("Bring back cells", "", self._on_bring_back)
        self.rows.addRow(self.bring_back)
        self.scale = ScaleButton(self._viewer)
        self.scale.dragged.connect(self._on_scale)
        self.score = ScoreSlider(self._viewer)
        self.score.settled.connect(notifying(self._on_score))
        self.after_summary += [self.score, self.scale]
        connect_for_life(viewer.layers.events.inserted, self._look_for_kept)

    def recipe(self) -> Recipe:
        """Return the settings of all stages, from the form."""
        raise NotImplementedError

    def regions(self, _layer: Image) -> list[Box]:
        """Return the parts to analyse, (y0, x0, y1, x1) in pixels; none for the whole image."""
        return []

    def on_found(self, run: Run, image: Image, recipe: Recipe) -> None:
        """Continue after a run, whatever its outcome."""
        self.summary.setText(run.summary)

    def start(self) -> None:
        """Find the cells with the settings of the form; see `StageDock.start`."""
        layer = self.image.layer
        if layer is None:
            raise InputError("There is no image. Open a smear first: File ▸ Open, or File ▸ Open Sample ▸ Blood cells.")
        recipe = self.recipe()
        model = recipe.segment.model
        if self.generator is None and needs_download(model) and not may_download(self, model):
            return
        regions = self.regions(layer)
        if is_large(layer) and regions:
            layer, regions = add_part(self._viewer, layer, union_of(regions)), []
            run: Run | None = self._find_in_memory(layer, recipe, regions)
        elif regions or (self.folder.path is None and not self.folder.is_required):
            run = self._find_in_memory(layer, recipe, regions)
        else:
            run = self._find_on_disk(layer, recipe)
        if run is not None:
            run.done.connect(lambda _layer: self._after_run(run, layer, recipe))

    def _after_run(self, run: Run, image: Image, recipe: Recipe) -> None:
        if isinstance(run, FindCells):
            self.score.follow(run)
        elif run.result is not None:
            self.score.forget(OF_SLIDES)
        self.on_found(run, image, recipe)

    def _on_score(self, cells_layer: Labels) -> None:
        """Type the cells that another score has brought, if cells are typed."""
        image, typed = image_layer_for(self._viewer, cells_layer), cells_layer.features["cell_type"]
        if image is None or not typed.fillna("").astype(bool).any():
            return
        params, viewer, work = recipe_of(cells_layer).classify, self._viewer, self.panel.work
        run = TypeCells(viewer, work, cells_layer, image, params, classifier=self.classifier, is_one_step=False)
        run.done.connect(lambda _types: self.summary.setText(f"{run.summary} {put_back(viewer, cells_layer)}"))

    def _on_idle(self) -> None:
        super()._on_idle()
        self.score.resume()

    def _find_in_memory(self, layer: Image, recipe: Recipe, regions: list[Box]) -> Run | None:
        if self._kept is not None and self._kept.n_by_hand:
            wish = ask_about_kept(self, self._kept)
            if wish is None:
                return None
            if wish:
                self._bring_back()
                return None
        keeps_by_hand = ask_to_keep(self, self._viewer, layer)
        if keeps_by_hand is None:
            return None
        find = partial(FindCells, keeps_by_hand=keeps_by_hand, generator=self.generator)
        planes = self.chosen_planes(layer)
        return find(self._viewer, self.panel.work, layer, recipe.segment, planes=planes, regions=regions)

    def _find_on_disk(self, layer: Image, recipe: Recipe) -> Run | None:
        """Start in the folder shown in the dock; None if there is none, or its contents must stay."""
        output = self.folder.ask()
        if output is None or not may_write_into(self, output, layer, recipe):
            return None
        analyse = partial(AnalyseSlide, generator=self.generator, classifier=self.classifier)
        return analyse(self._viewer, self.panel.work, layer, output, recipe)

    def _on_image(self) -> None:
        super()._on_image()
        self.rows.setRowVisible(self.folder, self.folder.follow(self.image.layer))
        self._look_for_kept()
        self.scale.follow(self.image.layer)
        self.score.forget()

    def on_wake(self) -> None:
        """Look for kept cells."""
        self._look_for_kept()

    def on_rest(self) -> None:
        """Take the circle away, and let the slider rest."""
        self.scale.hide_circle()
        self.score.rest()

    def _on_scale(self, diameter_px: float) -> None:
        self.form.set_values({"rbc_diameter_px": round(diameter_px, 1)})
        self.summary.setText(f"Red cell = {diameter_px:.1f} px, by the circle. {self.run.text()} to use it.")

    def _look_for_kept(self, _event: object = None) -> None:
        """Offer the cells that were kept of the image, unless it has cells."""
        self._show_kept(None)
        layer = self.image.layer
        if layer is None or cells_layer_for(self._viewer, layer) is not None or not is_any_kept():
            return
        source, dock, image = image_source(layer), ref(self), ref(layer)

        def show(kept: Kept | None) -> None:
            here = dock()
            if here is None or not isalive(here):  # type: ignore[no-untyped-call]
                return
            if here.is_resting or image() is not here.image.layer:
                return  # the dock is closed, or shows another image
            if cells_layer_for(here.viewer, image()) is None:
                here._show_kept(kept)

        when_done(later(lambda: find_kept(source)), show)

    def _show_kept(self, kept: Kept | None) -> None:
        self._kept = kept
        if kept is not None:
            self.bring_back.setText(f"Bring back {kept.n_cells:,} cells")
        self.bring_back.setToolTip(f"Show what was kept of this image: {kept}")
        self.rows.setRowVisible(self.bring_back, kept is not None)

    def _on_bring_back(self) -> None:
        notify_errors(self._bring_back)

    def _bring_back(self) -> None:
        layer, kept = self.image.layer, self._kept
        if layer is not None and kept is not None:
            cells = bring_back(self._viewer, layer, kept.read())
            self._viewer.layers.selection.active = cells
            self.summary.setText(f"Brought back {kept}.")


class SegmentWidget(FindingDock):
    """Finds cells and shows them as they are found."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        tooltip = "Find the cells, which appear in the window as they are found"
        super().__init__(napari_viewer, button="Find cells", tooltip=tooltip)
        self.region = LayerChoice(napari_viewer, lambda layer: isinstance(layer, Shapes), fixed=(WHOLE, IN_VIEW))
        self.region.setToolTip(
            "Look at the whole image, at what the window shows, or at the rectangles of a Shapes layer "
            "(the selected ones, else all)"
        )
        self.rows.addRow("Where", self.region)
        self.rows.addRow("Results in", self.folder)
        self.form = SettingsForm(
            SegmentParams, first=("model", "device", "rbc_diameter_px"), values=preferred_settings("segment")
        )
        self.finish_layout(self.form)

    def recipe(self) -> Recipe:
        """Return the settings of the form, and the preferred ones for typing a slide."""
        return Recipe(segment=self.form.settings(), classify=ClassifyParams(**preferred_settings("classify")))

    def regions(self, layer: Image) -> list[Box]:
        """Return the boxes of the chosen shapes, or of the view."""
        if self.region.layer is not None:
            return boxes_of_shapes(self.region.layer, layer)
        return [box_of_view(layer)] if self.region.currentText() == IN_VIEW else []


def ask_about_kept(parent: QWidget, kept: Kept) -> bool | None:
    """Return whether to bring back cells instead of finding them again, which would replace them; None: cancel."""
    text = f"There are {kept}. Finding the cells again replaces them."
    return ask(parent, "Bring back the cells?", text, yes="Bring them back", no="Find all anew")


def ask_to_keep(parent: QWidget, viewer: ViewerModel, image_layer: Image) -> bool | None:
    """Return whether to keep hand-made outlines, asking if there are some; None: cancel."""
    layer = cells_layer_for(viewer, image_layer)
    n = len(cells_session(viewer, layer).by_hand) if layer is not None else 0
    if not n:
        return True
    which = "One cell of this image was" if n == 1 else f"{n:,} cells of this image were"
    text = f"{which} added or outlined by hand. All others will be found again. Ctrl+Z undoes it."
    return ask(parent, "Find cells again?", text, yes="Keep by hand", no="Find all anew")
