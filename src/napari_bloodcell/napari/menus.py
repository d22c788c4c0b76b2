"""Menu entries that open docks, and a sample that is downloaded."""

from __future__ import annotations

from typing import Any, cast

from napari.viewer import Viewer
from npe2 import PluginManager
from qtpy.QtCore import QEventLoop
from qtpy.QtWidgets import QApplication, QDockWidget, QWidget

from napari_bloodcell.core.errors import BloodCellError
from napari_bloodcell.models.weights import SAMPLE, iter_download
from napari_bloodcell.napari import sample_data
from napari_bloodcell.napari.notify import notify_errors
from napari_bloodcell.napari.omero import merge_channels
from napari_bloodcell.napari.preferences import PLUGIN, use_preferred_cache
from napari_bloodcell.napari.pyramids import LayerData
from napari_bloodcell.napari.work.worker import Job, Work


def open_dock(viewer: Viewer, name: str) -> QWidget:
    """Show a dock of the plugin, or its tab in the Workbench, opening it if needed, and return its widget.

    It gets the title that the Plugins menu gives it, so that the menu knows it is open; napari's scripts and command
    line use another one.
    """
    for known in viewer.window.dock_widgets.values():
        if name in getattr(known, "pages", ()):  # the Workbench, which imports docks that import this module
            return cast("Any", known).page(name)  # type: ignore[no-any-return]
    manager = PluginManager.instance()
    title = f"{name} ({manager.get_manifest(PLUGIN).display_name})"
    for other in (title, f"{name} ({PLUGIN})"):
        if other in viewer.window.dock_widgets:
            widget = cast("QWidget", viewer.window.dock_widgets[other])
            break
    else:
        makers = (w for w in manager.iter_widgets() if w.plugin_name == PLUGIN and w.display_name == name)
        widget = cast("QWidget", next(makers).get_callable()(viewer))
        viewer.window.add_dock_widget(widget, name=title, tabify=True)
    dock = widget.parent()
    if isinstance(dock, QDockWidget):
        dock.show()
        dock.raise_()
    return widget


def open_segment(napari_viewer: Viewer) -> None:
    """Open the Segment dock."""
    open_dock(napari_viewer, "Segment")


def open_edit(napari_viewer: Viewer) -> None:
    """Open the Edit cells dock."""
    open_dock(napari_viewer, "Edit cells")


def open_review(napari_viewer: Viewer) -> None:
    """Open the Review dock."""
    open_dock(napari_viewer, "Review")


def open_train(napari_viewer: Viewer) -> None:
    """Open the Train dock."""
    open_dock(napari_viewer, "Train")


def open_classify(napari_viewer: Viewer) -> None:
    """Open the Classify dock."""
    open_dock(napari_viewer, "Classify")


def open_count(napari_viewer: Viewer) -> None:
    """Open the Count dock."""
    open_dock(napari_viewer, "Count")


def merge_omero(napari_viewer: Viewer) -> None:
    """Put the channels of the selected OMERO image together."""
    notify_errors(lambda: merge_channels(napari_viewer))


def bccd_field() -> list[LayerData]:
    """Return the real field among the samples, downloaded without blocking the window."""
    use_preferred_cache()
    if QApplication.instance() is not None and not SAMPLE.is_present:
        _wait_for(lambda _should_stop: iter_download(SAMPLE.name))
    return sample_data.bccd_field()


def _wait_for(job: Job) -> None:
    """Run a short job in a worker while the window stays responsive, and raise what it raises."""
    work, loop, errors = Work(), QEventLoop(), list[BloodCellError]()
    work.failed.connect(errors.append)
    work.finished.connect(loop.quit)
    work.start(job)
    loop.exec()
    if errors:
        raise errors[0]
