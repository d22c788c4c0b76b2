"""The first run of a process in a window, with the shipped models; prints the longest gaps of the event loop as JSON.

Run as a script: in a test's own process torch may be loaded already, which is what takes longest.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from qtpy.QtCore import QEventLoop, QTimer

from napari_bloodcell.synthetic import load_shipped
from tests.napari.heartbeat import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable


def wait(seconds: float, until: Callable[[], bool] = lambda: False) -> None:
    """Let the window live for some time, or until something is so."""
    end = time.monotonic() + seconds
    loop, timer = QEventLoop(), QTimer()
    timer.timeout.connect(lambda: loop.quit() if until() or time.monotonic() > end else None)
    timer.start(20)
    loop.exec()


def main() -> None:
    """Show a smear, add a bare layer of napari's own, then find and type the cells."""
    told: dict[str, Any] = {}
    viewer = napari.Viewer()
    viewer.add_image(load_shipped()[0], name="smear", rgb=True)
    wait(2)
    with Heartbeat() as heart:  # the first Labels layer of a process: napari's own part
        bare = viewer.add_labels(np.zeros(viewer.layers[0].data.shape[:2], np.int32))
        wait(2)
    told["bare_labels_s"] = heart.longest_s
    viewer.layers.remove(bare)
    for name in ("Segment", "Classify"):
        _, dock = viewer.window.add_plugin_dock_widget("napari-bloodcell", name)
        wait(2)
        with Heartbeat() as heart:
            dock.run.click()
            wait(900, lambda dock=dock: not dock.is_running)  # type: ignore[misc]
            wait(1)
        told[f"{name.lower()}_s"] = heart.longest_s
        told[f"{name.lower()}_above_100_ms"] = sorted((round(g, 3) for g in heart.gaps_s if g > 0.1), reverse=True)
        told[f"{name.lower()}_summary"] = dock.summary.text()
    told["torch_loaded"] = "torch" in sys.modules
    viewer.close()
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
