"""The Segment dock opened, run and closed again and again: `xvfb-run -a python -m benchmarks.dock_cycles --cycles 500`.

Each cycle opens a small smear and the dock in one napari, finds its cells, closes the dock and removes the layers. What
the process holds is counted after every tenth, and printed as slopes by least squares after a warm-up.
"""

from __future__ import annotations

import argparse
import gc
import time

import napari
import numpy as np
import psutil
from qtpy.QtCore import QEvent, QEventLoop, QObject, QThreadPool, QTimer
from qtpy.QtWidgets import QApplication

from benchmarks.soak import slope
from napari_bloodcell.synthetic import load_shipped
from napari_bloodcell.widgets.segment import SegmentWidget

WHAT = ("memory, MB", "file handles", "threads", "Qt objects", "widgets", "Python objects")


def settle(app: QApplication) -> None:
    """Let everything that was closed be deleted."""
    QThreadPool.globalInstance().waitForDone(10_000)
    for _ in range(3):
        app.processEvents()
        app.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        gc.collect()


def held(app: QApplication, process: psutil.Process) -> tuple[float, ...]:
    """Return what the process holds, as in `WHAT`."""
    objects = gc.get_objects()
    n_qt = sum(issubclass(type(thing), QObject) for thing in objects)
    memory = process.memory_info().rss / 2**20
    return memory, process.num_fds(), process.num_threads(), n_qt, len(app.allWidgets()), len(objects)


def cycle(viewer: napari.Viewer, app: QApplication, image: np.ndarray) -> int:
    """Open, segment, close; return the number of cells."""
    viewer.add_image(image, name="smear", rgb=True)
    dock, widget = viewer.window.add_plugin_dock_widget("napari-bloodcell", "Segment")
    if not isinstance(widget, SegmentWidget):
        raise TypeError(f"the dock is a {type(widget)}")
    loop = QEventLoop()
    widget.panel.work.finished.connect(loop.quit)
    QTimer.singleShot(0, widget.run.click)
    QTimer.singleShot(120_000, loop.quit)
    loop.exec()
    app.processEvents()
    found = max((int(layer.data.max()) for layer in viewer.layers if layer.name.endswith("cells")), default=0)
    viewer.window.remove_dock_widget(dock)
    viewer.layers.clear()
    app.processEvents()
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=500)
    parser.add_argument("--warm-up", type=int, default=50)
    arguments = parser.parse_args()
    image = load_shipped()[0][:128, :160].copy()
    viewer = napari.Viewer()
    app, process = QApplication.instance(), psutil.Process()
    rows, start = [], time.monotonic()
    for number in range(1, arguments.cycles + 1):
        n_cells = cycle(viewer, app, image)
        if not n_cells:
            raise SystemExit(f"no cell was found in cycle {number}")
        if number % 10 == 0:
            settle(app)
            rows.append((number, *held(app, process)))
            print(number, *(f"{v:.0f}" for v in rows[-1][1:]), f"{time.monotonic() - start:.0f} s", flush=True)
    after = np.array([row for row in rows if row[0] > arguments.warm_up], float)
    seconds = (time.monotonic() - start) / arguments.cycles
    print(f"\n{arguments.cycles} cycles of {seconds:.2f} s; the first {arguments.warm_up} are the warm-up\n")
    print("| of the process | after the warm-up | at the end | slope per 100 cycles (± standard error) |")
    print("|---|---|---|---|")
    for i, what in enumerate(WHAT, start=1):
        value, error = slope(after[:, 0] / 100, after[:, i])
        print(f"| {what} | {after[0, i]:,.0f} | {after[-1, i]:,.0f} | {value:+.2f} ± {error:.2f} |")
    viewer.close()


if __name__ == "__main__":
    main()
