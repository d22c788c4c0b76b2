"""The Count dock: numbers, the histogram of red-cell areas, and the cells in a part of it."""

from __future__ import annotations

from typing import Any, Final

import napari.viewer
from napari.layers import Labels, Shapes
from qtpy.QtCore import QTimer

from napari_bloodcell.core.errors import BloodCellError, InputError
from napari_bloodcell.core.params import CountParams
from napari_bloodcell.napari.docks.base import Dock, LayerChoice, PlainLabel, Watched, form_rows
from napari_bloodcell.napari.docks.colours import ColourSwitch
from napari_bloodcell.napari.docks.count.model import Counted, CountTask, area_of_cell, note_cells_in_region
from napari_bloodcell.napari.docks.count.panels import AreaFields, CountTable, ExportRow, LaterCount
from napari_bloodcell.napari.docks.count.plot import AreaPlot
from napari_bloodcell.napari.docks.count.report import ask_for_report
from napari_bloodcell.napari.docks.form import SettingsForm
from napari_bloodcell.napari.layers import selection
from napari_bloodcell.napari.layers.images import current_plane, plane_number
from napari_bloodcell.napari.layers.links import (
    colours_of,
    full_resolution,
    is_cells,
    names_of,
    note_settings,
    warnings_of,
)
from napari_bloodcell.napari.layers.look import cell_at, kind_colours
from napari_bloodcell.napari.layers.regions import Region, region_of
from napari_bloodcell.napari.layers.results import recipe_of
from napari_bloodcell.napari.notify import notify_errors

SOON_MS: Final = 15
"""Changes within one burst, as while a threshold is dragged, are counted together."""
MOST_AT_ONCE: Final = 120_000
"""More cells than this are counted in a worker, because the window would stop noticeably."""
WHOLE, THIS_PLANE = "Whole image", "Plane in view"


class CountWidget(Dock):
    """Counts the cells of a layer whenever something changes, except while hidden."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self._thresholds: list[float] | None = None
        self._hovered = 0
        self.counted: Counted | None = None
        self._build()
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(SOON_MS)
        self._soon.timeout.connect(self.recount)
        self._later = LaterCount(self)
        self._later.counted.connect(self._show)
        self._later.failed.connect(lambda error: self._show_nothing(str(error)))
        self._cells.chosen.connect(self._on_layer_chosen)
        self._region.chosen.connect(self._on_region_chosen)
        self._form.changed.connect(self._on_rule_changed)
        self._plot.thresholds_moved.connect(self.set_thresholds)
        self._plot.range_chosen.connect(self.select_range)
        self._plot.range_cleared.connect(self.clear_range)
        self._fields.thresholds_entered.connect(self.set_thresholds)
        self._fields.range_entered.connect(self.select_range)
        self._fields.range_cleared.connect(self.clear_range)
        self._on_layer_chosen()
        self.wake()

    def _build(self) -> None:
        self._cells = LayerChoice(self._viewer, is_cells, none="No cells yet", follows_active=True)
        self._cells.setToolTip("The layer whose cells are counted")
        self._region = LayerChoice(self._viewer, lambda layer: isinstance(layer, Shapes), fixed=[WHOLE])
        self._region.setToolTip("Count everything, or only cells whose centre lies in the shapes of a layer")
        self._form = SettingsForm(CountParams, first=["rule"], without=["thresholds"])
        self._table = CountTable()
        self._note = PlainLabel()
        self._plot = AreaPlot()
        self._fields = AreaFields()
        self._export = ExportRow()
        self._export.report.clicked.connect(lambda: notify_errors(self.save_report))
        self._colours = ColourSwitch()
        rows = form_rows(Cells=self._cells, Where=self._region, Colours=self._colours)
        parts = (self._form, self._table, self._note, self._plot, self._fields, self._export)
        self.lay_out(rows, *parts, stretched=self._plot)

    @property
    def cells_layer(self) -> Labels | None:
        """The layer that is counted."""
        return self._cells.layer

    def set_thresholds(self, thresholds: list[float] | None) -> None:
        """Count with these areas, pixels², which are saved with the layer; None: with those of the rule."""
        self._thresholds = thresholds
        self._note_params()
        self._count_soon()

    def select_range(self, low: float, high: float) -> None:
        """Select and outline the red cells with an area, pixels², in a range."""
        layer = self.cells_layer
        if layer is None or self.counted is None:
            return
        ids = self.counted.ids_between(low, high)
        selection.select_cells(self._viewer, layer, ids)
        self._plot.show_range(low, high)
        self._fields.show_range(low, high, n_cells=len(ids))

    def save_report(self) -> None:
        """Ask for a file, and save the report of the cells that are counted."""
        layer = self.cells_layer
        if layer is None:
            raise InputError("Nothing is counted yet: segment and classify an image first.")
        ask_for_report(self._viewer, layer, self)

    def clear_range(self) -> None:
        """Select no cell."""
        if self.cells_layer is not None:
            selection.select_cells(self._viewer, self.cells_layer, [])
        self._plot.show_range(None)
        self._fields.show_range(None, None)

    def recount(self) -> None:
        """Count now, and show the result."""
        self._soon.stop()
        layer = self.cells_layer
        if layer is None:
            self._show_nothing("Segment and classify an image: its cells are counted here.")
            return
        try:
            region, plane, where = self._where(layer)
            task = CountTask.of(layer, params=self._params(), region=region, plane=plane, where=where)
            if task.n_cells > MOST_AT_ONCE or self._later.is_running:
                self._later.ask(layer, task)
                return
            self._show(layer, task.run())
        except BloodCellError as error:
            self._show_nothing(str(error))

    def _show(self, layer: Labels, counted: Counted) -> None:
        """Show counts, unless another layer was chosen meanwhile."""
        if layer is not self.cells_layer:
            return
        self.counted = self._export.counted = counted
        note_cells_in_region(layer, counted)
        self._table.show_rows(counted, names_of(layer), {**kind_colours(layer), **colours_of(layer)})
        self._plot.show_counting(counted.counting, pixel_size_um=counted.pixel_size_um)
        self._fields.use_unit(counted.pixel_size_um)
        self._fields.show_thresholds(counted.counting.thresholds, by_hand=self._thresholds is not None)
        doubts = (f"⚠ {sentence}" for sentence in warnings_of(layer))
        self._note.setText(" ".join(filter(None, (*doubts, counted.scope, counted.population, counted.warning))))

    def _params(self) -> CountParams:
        """Return the settings of the form, with thresholds set by hand."""
        by_hand = None if self._thresholds is None else tuple(self._thresholds)
        layer = self.cells_layer
        measured = () if layer is None else recipe_of(layer).count.measurements
        params: CountParams = self._form.settings()
        return params.model_copy(update={"thresholds": by_hand, "measurements": measured})

    def _note_params(self) -> None:
        layer = self.cells_layer
        if layer is not None:
            notify_errors(lambda: note_settings(layer, "count", self._params()))

    def _where(self, layer: Labels) -> tuple[Region | None, int | None, str]:
        """Return region and plane to count, and their name."""
        shapes = self._region.layer
        if shapes is not None:
            return region_of(shapes, layer), None, shapes.name
        if self._region.currentText() == THIS_PLANE:
            plane = plane_number(current_plane(self._viewer, layer), full_resolution(layer).shape[:-2])
            return None, plane, f"plane {plane}"
        return None, None, ""

    def _show_nothing(self, why: str) -> None:
        self.counted = self._export.counted = None
        self._table.show_rows(None, [])
        self._plot.show_nothing()
        self._note.setText(why)

    def _on_rule_changed(self) -> None:
        self._thresholds = None
        self._note_params()
        self._count_soon()

    def _on_layer_chosen(self) -> None:
        self._thresholds = None
        layer = self.cells_layer
        self._colours.use(self._viewer, layer)
        if layer is not None:
            self._form.blockSignals(True)
            known = recipe_of(layer).count
            self._thresholds = None if known.thresholds is None else list(known.thresholds)
            self._form.set_values(known.model_dump())
            self._form.blockSignals(False)
            self._region.set_fixed([WHOLE, THIS_PLANE] if layer.ndim > 2 else [WHOLE])
        self.watch()
        self._count_soon()

    def _on_region_chosen(self) -> None:
        self.watch()
        self._count_soon()

    def _count_soon(self, _event: object = None) -> None:
        """Count at the end of this burst of changes; a hidden dock counts when it is shown again."""
        if not self.is_resting:
            self._soon.start()

    def watched(self) -> Watched:
        """Yield the events that affect the counts."""
        layer, shapes = self._cells.layer, self._region.layer
        if layer is not None:
            yield from ((layer.events[name], self._count_soon) for name in ("features", "scale", "units"))
        if shapes is not None:
            yield from ((shapes.events[name], self._count_soon) for name in ("data", "scale", "translate"))
        elif self._region.currentText() == THIS_PLANE:
            yield self._viewer.dims.events.current_step, self._count_soon
        yield self._viewer.events.theme, self._on_theme

    def _on_theme(self, _event: object = None) -> None:
        self._plot.use_theme(self._viewer.theme)

    def _on_hover(self, viewer: Any, event: Any) -> None:
        layer = self.cells_layer
        cell = cell_at(layer, event.position) if layer is not None and layer.visible else 0
        if cell == self._hovered:
            return
        self._hovered = cell
        found = area_of_cell(layer.features, cell) if layer is not None and cell else None
        if found is None:
            self._plot.show_cell(None)
        else:
            self._plot.show_cell(found[0], f"cell {cell}{f': {found[1]}' if found[1] else ''}")

    def on_wake(self) -> None:
        """Count, and follow the mouse."""
        self._viewer.mouse_move_callbacks.append(self._on_hover)
        self._on_theme()
        self._count_soon()

    def on_rest(self) -> None:
        """Stop counting, and release the mouse."""
        self._soon.stop()
        self._later.forget()
        self._viewer.mouse_move_callbacks.remove(self._on_hover)
