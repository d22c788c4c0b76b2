"""Makes the pictures of the docs: a window of napari with a result on it, and each dock at 350 px in both themes.

Needs a display, real or virtual:

xvfb-run -a -s "-screen 0 1600x1000x24" python docs/make_screenshots.py [folder] [result of a slide]

The slide of the picture is what `python -m benchmarks.scale` analyses first: `scale-benchmark/10240-one`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from PIL import Image
from qtpy.QtCore import QEvent, QEventLoop, Qt, QTimer
from qtpy.QtWidgets import QApplication
from training_scenes import show_review, show_train

import napari_bloodcell
from napari_bloodcell.napari.docks.mouse import Tool
from napari_bloodcell.napari.layers.links import is_cells

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGES = Path(__file__).parent / "images"
SIZE = (1440, 900)
DOCK_PX = 350
"""Width at which every dock must be readable."""
PLUGIN = "napari-bloodcell"


class Studio:
    """A window in which the docks are opened one after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.viewer = napari.Viewer(title="napari-bloodcell")
        self.viewer.window._qt_window.resize(*SIZE)
        self.dock: Any = None

    def open(self, name: str) -> Any:
        """Open a dock of the plugin alone, and return its widget."""
        self.close_docks()
        self.dock, widget = self.viewer.window.add_plugin_dock_widget(PLUGIN, name)
        self.narrow()
        return widget

    def close_docks(self) -> None:
        """Close all docks, also those that others opened."""
        for dock in list(self.viewer.window.dock_widgets.values()):
            self.viewer.window.remove_dock_widget(dock)
        QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)

    def narrow(self) -> None:
        """Make the dock as wide as it must be readable."""
        self.viewer.window._qt_window.resizeDocks([self.dock], [DOCK_PX], Qt.Orientation.Horizontal)
        wait(0.8)

    def shoot(self, name: str) -> None:
        """Save the whole window, small enough for a repository."""
        wait(0.8)
        save(np.asarray(self.viewer.screenshot(canvas_only=False, flash=False)), self.folder / f"{name}.jpg")

    def shoot_dock(self, name: str, suffix: str = ".png") -> None:
        """Save the dock alone, in the dark and in the light theme side by side."""
        shots = []
        for theme in ("dark", "light"):
            self.viewer.theme = theme
            self.narrow()
            shots.append(_pixels(self.dock))
        self.viewer.theme = "dark"
        height = max(_used_rows(shot) for shot in shots)
        shots = [shot[:height] for shot in shots]
        padded = [np.pad(shot, ((0, height - len(shot)), (0, 6), (0, 0))) for shot in shots]
        save(np.concatenate(padded, 1), self.folder / f"dock_{name}{suffix}")


def wait(seconds: float, until: Callable[[], bool] = lambda: False) -> None:
    """Let the window live for some time, or until something is so."""
    end = time.monotonic() + seconds
    loop, timer = QEventLoop(), QTimer()
    timer.timeout.connect(lambda: loop.quit() if until() or time.monotonic() > end else None)
    timer.start(20)
    loop.exec()
    timer.stop()


def save(pixels: Any, path: Path) -> None:
    """Write a picture: .jpg for windows, .png for docks."""
    picture = Image.fromarray(pixels[..., :3])
    if path.suffix == ".png":
        picture.save(path, optimize=True)  # as it is: a palette would change the colours of the classes
    else:
        picture.save(path, quality=85, subsampling=0, optimize=True)


def _pixels(widget: Any) -> Any:
    """Return what a widget shows, (Y, X, 3) uint8."""
    image = widget.grab().toImage().convertToFormat(widget.grab().toImage().Format.Format_RGB888)
    rows = np.frombuffer(image.constBits().asarray(image.sizeInBytes()), np.uint8).reshape(image.height(), -1)
    return rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3).copy()


def _used_rows(shot: Any) -> int:
    """Return how many rows there are to the last that shows something, and a little more."""
    return min(len(shot), int(np.flatnonzero((shot != shot[-1:]).any((1, 2)))[-1]) + 12)


def touching_pair(labels: Any, near: tuple[slice, slice]) -> list[int]:
    """Return the two cells of a part of a label image that share the longest border."""
    part = np.asarray(labels[near])
    first = np.concatenate([part[:, :-1].ravel(), part[:-1].ravel()])
    second = np.concatenate([part[:, 1:].ravel(), part[1:].ravel()])
    border = (first > 0) & (second > 0) & (first != second)
    pairs, n = np.unique(np.sort(np.stack([first[border], second[border]], 1), 1), axis=0, return_counts=True)
    ids: list[int] = pairs[n.argmax()].tolist()
    return ids


def show_segment(studio: Studio) -> None:
    """Find the cells; a picture while they appear."""
    dock = studio.open("Segment")
    dock.run.click()
    wait(600, lambda: dock.panel._bar.maximum() > 0 and dock.panel._bar.value() >= 500)
    studio.shoot("segment_running")
    wait(1200, lambda: not dock.is_running)
    studio.shoot_dock("segment")


def show_classify(studio: Studio) -> None:
    """Type the cells."""
    dock = studio.open("Classify")
    dock.run.click()
    wait(1200, lambda: not dock.is_running)
    studio.shoot("classify")
    studio.shoot_dock("classify")


def show_count(studio: Studio) -> None:
    """Count the cells, and choose a part of the curve."""
    dock = studio.open("Count")
    wait(60, lambda: dock.counted is not None)
    areas = dock.counted.counting.areas
    dock.select_range(float(np.quantile(areas, 0.96)), float(areas.max()))
    studio.shoot("count")
    studio.shoot_dock("count")
    dock.clear_range()


def show_edit(studio: Studio) -> None:
    """Select cells that touch, as before they are merged or split."""
    viewer = studio.viewer
    dock = studio.open("Edit cells")
    cells = viewer.layers["smear cells"]
    viewer.layers.selection.active = cells
    camera = viewer.scene.camera
    before = camera.center, camera.zoom
    camera.center, camera.zoom = (0, 620, 900), 3.2
    dock.use_tool(Tool.SELECT)
    dock.session.select(touching_pair(cells.data, np.s_[540:700, 820:980]))
    studio.shoot("edit")
    studio.shoot_dock("edit_cells")
    dock.act("Select none")
    camera.center, camera.zoom = before


def show_analyse(studio: Studio) -> None:
    """Run the whole chain in the light theme."""
    studio.viewer.layers.clear()
    studio.viewer.open_sample(PLUGIN, "smear")
    dock = studio.open("Analyse")
    studio.shoot_dock("analyse")
    studio.viewer.theme = "light"
    dock.run.click()
    wait(1200, lambda: "RBC" in dock.summary.text())
    wait(3)
    studio.narrow()
    studio.shoot("analyse_light")
    studio.viewer.theme = "dark"


def show_slide(studio: Studio, result: Path) -> None:
    """Open the result of a slide and count it."""
    viewer = studio.viewer
    viewer.layers.clear()
    napari_bloodcell.napari.open_result(result, viewer)
    dock = studio.open("Count")
    viewer.layers.selection.active = next(layer for layer in viewer.layers if is_cells(layer))
    wait(60, lambda: dock.counted is not None)
    viewer.scene.camera.zoom *= 6
    studio.shoot("slide")


def main(folder: Path = IMAGES, slide: Path | None = None) -> None:
    """Run the docks on the shipped smear, with the shipped models, and on the result of a slide; take the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    register_plugin()
    studio = Studio(folder)
    studio.viewer.open_sample(PLUGIN, "smear")
    wait(1)
    for show in (show_segment, show_classify, show_count, show_edit):
        show(studio)
    for show_training in (show_review, show_train):
        show_training(studio, wait)
    show_analyse(studio)
    if slide is not None:
        show_slide(studio, slide)
    studio.close_docks()
    studio.viewer.close()


def register_plugin() -> None:
    """Let napari know the plugin where it is run from a checkout that is not installed."""
    from npe2 import PluginManager, PluginManifest

    manager = PluginManager.instance()
    manager.discover()
    if PLUGIN not in {manifest.name for manifest in manager.iter_manifests()}:
        manager.register(PluginManifest.from_file(Path(napari_bloodcell.__path__[0]) / "napari.yaml"))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
