"""What the plugin does outside of its docks: entries of menus, a sample that is downloaded, layers that were read."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from npe2 import PluginManager
from qtpy.QtCore import QEventLoop
from qtpy.QtWidgets import QApplication, QDockWidget

from napari_bloodcell.core.errors import BloodCellError
from napari_bloodcell.models.weights import SAMPLE, iter_download
from napari_bloodcell.napari import sample_data
from napari_bloodcell.napari.preferences import PLUGIN, use_preferred_cache
from napari_bloodcell.napari.work.worker import Work

if TYPE_CHECKING:
    from napari.viewer import Viewer
    from qtpy.QtWidgets import QWidget

    from napari_bloodcell.napari.pyramids import LayerData
    from napari_bloodcell.napari.work.worker import Job


def open_dock(viewer: Viewer, name: str) -> QWidget:
    """Show a dock of the plugin, opening it where it is not open yet, and return its widget.

    It gets the title that it has from the Plugins menu, so that the menu knows that it is open; napari's scripts and
    command line give it another one.
    """
    manager = PluginManager.instance()
    title = f"{name} ({manager.get_manifest(PLUGIN).display_name})"
    for known in (title, f"{name} ({PLUGIN})"):
        if known in viewer.window.dock_widgets:
            widget = cast("QWidget", viewer.window.dock_widgets[known])
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
    """Open the dock in which cells are corrected by hand."""
    open_dock(napari_viewer, "Edit cells")


def open_review(napari_viewer: Viewer) -> None:
    """Open the dock in which types are corrected."""
    open_dock(napari_viewer, "Review")


def open_train(napari_viewer: Viewer) -> None:
    """Open the dock in which a classifier is trained."""
    open_dock(napari_viewer, "Train")


def open_classify(napari_viewer: Viewer) -> None:
    """Open the Classify dock."""
    open_dock(napari_viewer, "Classify")


def open_count(napari_viewer: Viewer) -> None:
    """Open the Count dock."""
    open_dock(napari_viewer, "Count")


def bccd_field() -> list[LayerData]:
    """Return the real field among the samples; while it is downloaded the window stays alive.

    Raises
    ------
    DownloadError
        Without network, or if what came is not that field.
    """
    use_preferred_cache()
    if QApplication.instance() is not None and not SAMPLE.is_present:
        _wait_for(lambda _should_stop: iter_download(SAMPLE.name))
    return sample_data.bccd_field()


def _wait_for(job: Job) -> None:
    """Run a short job in a worker, with the events of the window going on, and raise what it raises."""
    work, loop, errors = Work(), QEventLoop(), list[BloodCellError]()
    work.failed.connect(errors.append)
    work.finished.connect(loop.quit)
    work.start(job)
    loop.exec()
    if errors:
        raise errors[0]
