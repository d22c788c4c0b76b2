"""How quickly a corrected cell is on screen: `python -m benchmarks.review`. Needs a display, real or virtual.

A million cells on a pyramid of 40,960², cut into chunks as a slide is, nothing of it in memory. Prints the milliseconds
from the key press to the new texture, and to the frame on screen, by the clock and in this thread's own processor time.
Without a graphics card OpenGL draws on the processor, and most of the second figure is that.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from qtpy.QtWidgets import QApplication

from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.session.opening import cells_session
from tests.napari.smears import N_SIDE, PITCH, add_million_cells

if TYPE_CHECKING:
    from collections.abc import Callable

REPEATS = 20


def timed(action: Callable[[int], Any]) -> tuple[float, float, float]:
    """Return median and worst wall-clock time, and the median processor time, milliseconds."""
    wall, own = [], []
    for i in range(REPEATS):
        begin, begin_own = time.perf_counter(), time.thread_time()
        action(i)
        wall.append(1e3 * (time.perf_counter() - begin))
        own.append(1e3 * (time.thread_time() - begin_own))
    return float(np.median(wall)), float(np.max(wall)), float(np.median(own))


def main() -> int:
    """Measure at three zooms and print a Markdown table."""
    os.environ["NAPARI_BLOODCELL_JOURNAL"] = tempfile.mkdtemp()
    viewer = napari.Viewer()
    viewer.window._qt_window.resize(1440, 900)
    layer = add_million_cells(viewer)
    session = cells_session(viewer, layer)
    typed = links.types_layer_for(viewer, layer)
    centre = PITCH * N_SIDE // 2
    cell = (N_SIDE // 2) * N_SIDE + N_SIDE // 2 + 1
    canvas = viewer.window._qt_viewer.canvas._scene_canvas.native
    frames = [0]

    def on_frame() -> None:
        frames[0] += 1

    canvas.frameSwapped.connect(on_frame)
    names = ("WBC", "platelet")

    def change(i: int) -> None:
        session.type_cells([cell], names[i % 2])

    def draw(_: int) -> None:
        before, end = frames[0], time.perf_counter() + 5
        canvas.update()
        while frames[0] == before and time.perf_counter() < end:
            QApplication.processEvents()

    def change_and_draw(i: int) -> None:
        change(i)
        draw(i)

    print("| zoom | level | what | median, ms | worst, ms | processor, ms |")
    print("|---|---|---|---|---|---|")
    for zoom in (1.0, 0.25, 0.02):
        viewer.scene.camera.center = (0, centre, centre)
        viewer.scene.camera.zoom = zoom
        for _ in range(20):
            QApplication.processEvents()
            time.sleep(0.02)
        draw(0)
        for what, action in (
            ("new type in table and texture", change),
            ("the same, and its frame on screen", change_and_draw),
            ("a frame alone", draw),
        ):
            median, worst, own = timed(action)
            draw(0)
            print(f"| {zoom:g} | {typed.data_level} | {what} | {median:.1f} | {worst:.1f} | {own:.1f} |", flush=True)
    viewer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
