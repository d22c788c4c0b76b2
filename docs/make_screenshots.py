"""Makes the pictures of the docs: a window of napari with a result on it. Needs a display, real or virtual.

xvfb-run -a -s "-screen 0 1600x1000x24" python docs/make_screenshots.py
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

import napari_bloodcell

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGES = Path(__file__).parent / "images"
SIZE = (1440, 900)
PLUGIN = "napari-bloodcell"


def wait(condition: Callable[[], bool] = lambda: False, seconds: float = 0.8) -> None:
    """Let the window live until something is so, or for some time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


def shoot(viewer: napari.Viewer, name: str) -> None:
    """Save the whole window, small enough for a repository."""
    wait()
    shot = Image.fromarray(np.asarray(viewer.screenshot(canvas_only=False, flash=False))).convert("RGB")
    shot.save(IMAGES / f"{name}.jpg", quality=88, subsampling=0, optimize=True)


def open_dock(viewer: napari.Viewer, name: str, width: int = 350) -> Any:
    """Open a dock of the plugin at the width for which it is made."""
    dock, widget = viewer.window.add_plugin_dock_widget(PLUGIN, name)
    viewer.window._qt_window.resizeDocks([dock], [width], Qt.Orientation.Horizontal)
    return widget


def main() -> None:
    """Run the docks on the shipped smear, with the shipped models, and take the pictures."""
    IMAGES.mkdir(exist_ok=True)
    register_plugin()
    viewer = napari.Viewer(title="napari-bloodcell")
    viewer.window._qt_window.resize(*SIZE)
    viewer.open_sample(PLUGIN, "smear")
    segment = open_dock(viewer, "Segment")
    wait()
    segment.run.click()
    wait(lambda: segment.panel._bar.maximum() > 0 and segment.panel._bar.value() >= 350, 600)
    shoot(viewer, "segment_running")
    wait(lambda: not segment.is_running, 1200)
    viewer.window.remove_dock_widget(segment)
    classify = open_dock(viewer, "Classify")
    wait()
    classify.run.click()
    wait(lambda: not classify.is_running, 1200)
    shoot(viewer, "classify")
    viewer.window.remove_dock_widget(classify)
    open_dock(viewer, "Count")
    wait(seconds=3)
    shoot(viewer, "count")
    viewer.window.remove_dock_widget("all")
    viewer.theme = "light"
    analyse = open_dock(viewer, "Analyse")
    analyse.run.click()
    wait(lambda: "RBC" in analyse.summary.text(), 1200)
    wait(seconds=3)
    shoot(viewer, "analyse_light")
    viewer.close()


def register_plugin() -> None:
    """Let napari know the plugin where it is run from a checkout that is not installed."""
    from npe2 import PluginManager, PluginManifest

    manager = PluginManager.instance()
    manager.discover()
    if PLUGIN not in {manifest.name for manifest in manager.iter_manifests()}:
        manager.register(PluginManifest.from_file(Path(napari_bloodcell.__path__[0]) / "napari.yaml"))


if __name__ == "__main__":
    sys.exit(main())
