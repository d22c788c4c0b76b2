"""The Segment dock opened, run and closed again and again: `xvfb-run -a python -m benchmarks.dock_cycles --cycles 500`.

Each cycle opens a small smear and the Segment dock in one napari, finds its cells, closes the dock and removes the
layers. For comparison the same is done, in a process of its own, with an empty dock and layers of napari alone. What
the process holds is counted after every tenth cycle, and printed as slopes by least squares after a warm-up, with the
types of Python objects that became more.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

import napari
import numpy as np
import psutil
from qtpy.QtCore import QEvent, QEventLoop, QObject, QThreadPool, QTimer
from qtpy.QtWidgets import QApplication, QWidget

from benchmarks.soak import slope
from napari_bloodcell.napari.docks.segment import SegmentWidget
from napari_bloodcell.synthetic import load_shipped

if TYPE_CHECKING:
    from numpy.typing import NDArray

WHAT = ("memory, MB", "file handles", "threads", "Qt objects", "widgets", "Python objects")
COLUMNS = {"the dock": True, "napari alone": False}
COUNT_EVERY = 10


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


def cycle(viewer: napari.Viewer, app: QApplication, image: NDArray[np.uint8]) -> None:
    """Open the smear and the dock, find the cells, close both."""
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
    if not any(layer.name.endswith("cells") and layer.data.any() for layer in viewer.layers):
        raise SystemExit("no cell was found")
    viewer.window.remove_dock_widget(dock)
    viewer.layers.clear()
    app.processEvents()


def plain_cycle(viewer: napari.Viewer, app: QApplication, image: NDArray[np.uint8], cells: NDArray[np.integer]) -> None:
    """Open the smear, its cells and an empty dock, and close them; nothing of the plugin takes part."""
    viewer.add_image(image, name="smear", rgb=True)
    dock = viewer.window.add_dock_widget(QWidget(), name="empty")
    app.processEvents()
    viewer.add_labels(cells, name="smear cells", features={"index": np.arange(int(cells.max()) + 1)})
    app.processEvents()
    viewer.window.remove_dock_widget(dock)
    viewer.layers.clear()
    app.processEvents()


def run(cycles: int, warm_up: int, with_dock: bool) -> tuple[NDArray[np.float64], dict[str, float]]:
    """Return the rows that were counted after the warm-up, and the types that grew, in objects a cycle."""
    image, truth = load_shipped()
    image, cells = image[:128, :160].copy(), truth["cells"][:128, :160].copy()
    viewer = napari.Viewer()
    app, process = QApplication.instance(), psutil.Process()
    rows, before, start = [], Counter[str](), time.monotonic()
    for number in range(1, cycles + 1):
        if with_dock:
            cycle(viewer, app, image)
        else:
            plain_cycle(viewer, app, image, cells)
        if number % COUNT_EVERY == 0 and number >= warm_up:
            settle(app)
            before = before or types_held()
            rows.append((number, *held(app, process)))
            print(number, *(f"{v:.0f}" for v in rows[-1][1:]), f"{time.monotonic() - start:.0f} s", flush=True)
    after = types_held()
    viewer.close()
    a_cycle = {name: (after[name] - before[name]) / (cycles - warm_up) for name in after}
    return np.array(rows, float), {name: more for name, more in a_cycle.items() if more > 0.1}


def types_held() -> Counter[str]:
    """Return how many Python objects there are of each type."""
    return Counter(f"{type(thing).__module__}.{type(thing).__qualname__}" for thing in gc.get_objects())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=500)
    parser.add_argument("--warm-up", type=int, default=50)
    arguments = parser.parse_args()
    found = {}
    for name, with_dock in COLUMNS.items():
        print(f"\n{name}: cycle, {', '.join(WHAT)}", flush=True)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found[name] = pool.submit(run, arguments.cycles, arguments.warm_up, with_dock).result()
    print(f"\n{arguments.cycles} cycles each; the first {arguments.warm_up} are the warm-up\n")
    print("| of the process | " + " | ".join(f"{name}: from, to | slope per 100 cycles" for name in found) + " |")
    print("|---" * (1 + 2 * len(found)) + "|")
    for i, what in enumerate(WHAT, start=1):
        parts = [what]
        for rows, _ in found.values():
            value, error = slope(rows[:, 0] / 100, rows[:, i])
            parts += [f"{rows[0, i]:,.0f}, {rows[-1, i]:,.0f}", f"{value:+.2f} ± {error:.2f}"]
        print("| " + " | ".join(parts) + " |")
    for name, (_, types) in found.items():
        grown = ", ".join(f"{more:.1f} {kind}" for kind, more in sorted(types.items(), key=lambda item: -item[1]))
        print(f"\n{name}, Python objects that each cycle leaves: {grown or 'none'}")


if __name__ == "__main__":
    main()
