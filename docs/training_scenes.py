"""The scenes of the Review and Train docks, which `make_screenshots` shows when cells are found and typed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari_bloodcell

if TYPE_CHECKING:
    from collections.abc import Callable

LONG_S = 1200.0
WITHIN_PX = 250
"""A cell so far from the edge is shown with what lies around it."""
PER_CLASS = 40
"""Cells of each class that are confirmed before training."""


def show_review(studio: Any, wait: Callable[..., None]) -> None:
    """Look at cells that the model doubts most, up to one within the image, then at the gallery of red cells."""
    use_own_folders()
    dock = studio.open("Review")
    wait(1)
    cells = studio.viewer.layers["smear cells"]
    table = napari_bloodcell.napari.table_of(cells)
    for cell in table.sort_values("probability", kind="stable").index:
        dock.step(1)
        y, x = table.loc[cell, ["centroid_y", "centroid_x"]]
        if min(y, x, cells.data.shape[0] - y, cells.data.shape[1] - x) > WITHIN_PX:
            break
    studio.shoot("review")
    studio.shoot_dock("review")
    dock.tabs.setCurrentIndex(1)
    panel = dock.gallery
    panel.show_class("RBC")
    shown = panel.gallery.cells.ids[:9].tolist()
    wait(120, lambda: all(panel.gallery.cells.has_picture(cell) for cell in shown))
    panel.gallery.mark(shown[1:3])
    studio.shoot_dock("review_gallery", ".jpg")
    types = napari_bloodcell.napari.table_of(cells)["cell_type"]
    for name in ("RBC", "WBC", "platelet"):
        dock.type_cells(types[types == name].index[:PER_CLASS].tolist(), name)
    dock.tabs.setCurrentIndex(2)
    dock.journal.name.setText("A. Reader")
    wait(3)
    studio.shoot_dock("review_journal")
    dock.tabs.setCurrentIndex(0)


def show_train(studio: Any, wait: Callable[..., None]) -> None:
    """Train on what was confirmed, and look at what came of it."""
    use_own_folders()
    studio.viewer.reset_view()
    dock = studio.open("Train")
    dock.form.settings_form.set_values({"epochs": 12})
    dock.run.click()
    wait(LONG_S, lambda: dock.trained is not None and not dock.is_running)
    dock.tabs.setCurrentWidget(dock.plot)
    studio.shoot("train_curves")
    dock.tabs.setCurrentWidget(dock.result)
    dock.result.open_cell(1, 1)
    studio.shoot_dock("train")


def use_own_folders() -> None:
    """Keep the journal and the training set of the pictures away from those of whoever makes them."""
    folder = Path(tempfile.gettempdir()) / f"smears-{os.getpid()}"
    for what in ("journal", "training set"):
        variable = f"NAPARI_BLOODCELL_{what.replace(' ', '_').upper()}"
        os.environ.setdefault(variable, str(folder / what))
