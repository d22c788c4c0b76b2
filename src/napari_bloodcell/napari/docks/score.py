"""The score below which a proposal is no cell, as a slider: the cells of the last run follow, without a new one."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Final
from weakref import ref

import numpy as np
import pandas as pd
from napari.components import ViewerModel
from napari.layers import Labels
from numpy.typing import NDArray
from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import QHBoxLayout, QSlider, QWidget

from napari_bloodcell.core.params import SegmentParams
from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.napari.docks.base import PlainLabel, fill, fill_column
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.notify import notify_error
from napari_bloodcell.napari.session.changes import Change, Snapshot
from napari_bloodcell.napari.session.opening import cells_session
from napari_bloodcell.napari.work.jobs import EarlierCells, cells_at_score
from napari_bloodcell.napari.work.runs import KEPT_FROM, FindCells
from napari_bloodcell.napari.work.worker import Run, Work
from napari_bloodcell.stages.segment import Segmentation

HIGHEST: Final = 0.95
SETTLED_MS: Final = 600
"""Once the slider has rested so long, new cells are typed."""
OF_SLIDES: Final = (
    "The score of a slide is in the settings of the Segment dock, for a new run: its proposals are not kept in memory."
)
_Found = tuple[NDArray[np.int32], pd.DataFrame]


class ScoreSlider(QWidget):
    """Slider of one result; hidden where there are no proposals to choose from."""

    settled = Signal(object)
    """The cells layer: the slider rests, and its new cells have no types yet."""

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self._viewer = viewer
        self._find: ref[Labels] | None = None
        self._found: Segmentation | None = None
        self._params = SegmentParams()
        self._change: Change | None = None  # of this slider, one step of undo
        self._wanted: float | None = None
        self._work = Work(self)
        self._title, self._note = PlainLabel(), PlainLabel()
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(round(100 * KEPT_FROM), round(100 * HIGHEST))
        self.slider.setAccessibleName("Score")
        self.slider.setToolTip(
            "Further to the right only proposals that the model is surer of are cells, further to the left more are"
        )
        fill_column(self, fill(QHBoxLayout(), self._title, self.slider, stretched=[self.slider]), self._note)
        self._settle = QTimer(self)
        self._settle.setSingleShot(True)
        self._settle.setInterval(SETTLED_MS)
        self._settle.timeout.connect(self._on_settled)
        self.slider.valueChanged.connect(self._on_value)
        self.forget()

    def forget(self, why: str = "") -> None:
        """Offer no slider, and say why not."""
        self._found, self._find, self._change, self._wanted = None, None, None, None
        self._settle.stop()
        for part in (self._title, self.slider):
            part.hide()
        self._note.setText(why)
        self._note.setVisible(bool(why))
        self.setVisible(bool(why))

    def follow(self, run: FindCells) -> None:
        """Offer the scores of a run that has just found cells."""
        self.forget()
        if run.result is None or run.kept is None:
            return
        self._find, self._found, self._params = ref(run.result), run.kept, run.params
        self.slider.blockSignals(True)
        self.slider.setValue(round(100 * run.params.score_min))
        self.slider.blockSignals(False)
        self._show_score(run.params.score_min)
        for part in (self, self._title, self.slider):
            part.show()

    def resume(self) -> None:
        """Go on with what was asked for while the cells were busy."""
        layer = self._find() if self._find is not None else None
        if self._wanted is None or self._found is None or layer is None or layer not in self._viewer.layers:
            return
        session = cells_session(self._viewer, layer)
        if self._work.is_running or session.busy:
            return
        score, self._wanted = self._wanted, None
        before, keep = session.snapshot(with_cells=True), session.by_hand
        if before.cells is None:
            return
        params = self._params.model_copy(update={"score_min": score})
        find = partial(cells_at_score, EarlierCells(before.cells, before.features), self._found, params, keep)

        def job(_should_stop: Callable[[], bool]) -> Generator[Progress, None, _Found]:
            yield Progress(0, 0, "cells")
            return find()

        run = Run(self._work)
        run.stop_without(self._viewer, layer)
        run.done.connect(partial(self._on_done, run, layer, params, before))
        run.start(job)
        session.busy = "found"

    def rest(self) -> None:
        """Stop the work: the dock is hidden or closed."""
        self._settle.stop()
        layer = self._find() if self._find is not None else None
        if self._work.is_running and layer is not None and layer in self._viewer.layers:
            cells_session(self._viewer, layer).busy = ""
        self._work.shut_down()

    def _on_value(self, value: int) -> None:
        self._wanted = value / 100
        self._show_score(self._wanted)
        self._settle.stop()
        self.resume()

    def _show_score(self, score: float) -> None:
        self._title.setText(f"Score {score:.2f}")

    def _on_done(self, run: Run, layer: Labels, params: SegmentParams, before: Snapshot, found: Any) -> None:
        if layer not in self._viewer.layers:
            return
        session = cells_session(self._viewer, layer)
        session.busy = ""
        if found is None:
            if run.error is not None:
                notify_error(run.error)
            return
        cells, table = found
        session.select([])
        links.full_resolution(layer)[...] = cells
        layers.set_table(layer, table)
        layers.refresh_cells(layer)
        links.note_settings(layer, "segment", params)
        what = f"found cells at score {params.score_min:.2f}"
        if self._change is None or not session.history.done or session.history.done[-1] is not self._change:
            session.remember_run(what, before, session.by_hand)
            self._change = session.history.done[-1]
        else:
            self._change.what = what  # type: ignore[misc]
        self._note.setText(f"{len(table):,} cells. Ctrl+Z brings back those of the run.")
        self._note.show()
        if self._wanted is not None:
            self.resume()
        else:
            self._settle.start()

    def _on_settled(self) -> None:
        layer = self._find() if self._find is not None else None
        if layer is not None and layer in self._viewer.layers:
            self.settled.emit(layer)
