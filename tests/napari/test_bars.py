"""What a person at the window must not notice: start-up, waiting for large results, a window that stands still.

The bars are those of a quiet machine. Machines that run tests are shared, and get `BARS_SLACK` times as long (2 unless
the environment says otherwise; 1 shows the bars themselves).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_bloodcell.core.cells import measure_cells
from napari_bloodcell.napari.layers import cells as layers
from tests.napari.heartbeat import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari import Viewer
    from pytestqt.qtbot import QtBot

ROOT = Path(__file__).parents[2]
SLACK = float(os.environ.get("BARS_SLACK", "2"))
START = """
import importlib.metadata, json, sys, time
start = time.process_time()
usual = importlib.metadata.distributions
if {hidden}:
    importlib.metadata.distributions = lambda **k: (d for d in usual(**k) if d.metadata["Name"] != "napari-bloodcell")
import napari
viewer = napari.Viewer()
from qtpy.QtWidgets import QApplication
QApplication.processEvents()
took = time.process_time() - start
from npe2 import PluginManager
known = "napari-bloodcell" in {{manifest.name for manifest in PluginManager.instance().iter_manifests()}}
print(json.dumps([took, known, [name for name in sys.modules if name.startswith(("torch", "napari_bloodcell"))]]))
viewer.close()
"""


def started(*, hidden: bool) -> Any:
    """Seconds of the processor until a window is there, whether the plugin is known, and its modules."""
    code = START.format(hidden=hidden)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.slow
def test_napari_starts_no_later_than_0_3_s_with_the_plugin(qapp: object) -> None:
    plain, with_plugin = [], []
    for _ in range(4):  # the shortest of several: what else a machine does only ever adds
        took, known, _modules = started(hidden=True)
        assert not known
        plain.append(took)
        took, known, modules = started(hidden=False)
        assert known
        assert not [name for name in modules if name.startswith(("torch", "napari_bloodcell.napari"))]
        with_plugin.append(took)
        if min(with_plugin) - min(plain) < 0.3 * SLACK:
            break
    assert min(with_plugin) - min(plain) < 0.3 * SLACK, (plain, with_plugin)


def test_a_result_of_forty_thousand_cells_is_on_screen_within_two_seconds(
    nothing_left: None, make_napari_viewer: Callable[..., Viewer], qtbot: QtBot
) -> None:
    viewer = make_napari_viewer(show=True)
    ids = np.arange(1, 40_001, dtype=np.int32).reshape(200, 200)
    cells = np.kron(ids, np.ones((10, 10), np.int32))
    cells[::10] = 0
    table = measure_cells(cells)
    table["cell_type"] = "RBC"
    image = viewer.add_image(np.zeros((*cells.shape, 3), np.uint8), rgb=True, name="smear")
    qtbot.wait(200)
    start = time.process_time()
    layer = layers.add_cells(viewer, image, cells=cells)
    layers.set_table(layer, table)
    layers.add_types(viewer, layer)
    viewer.screenshot(canvas_only=True, flash=False)
    assert time.process_time() - start < 2 * SLACK
    assert len(layer.features) == 40_001


@pytest.mark.slow
def test_the_window_stands_still_for_no_longer_than_200_ms_in_the_first_run_of_a_process(qapp: object) -> None:
    script = [sys.executable, "-m", "tests.napari.first_run"]
    longest = {"segment_s": np.inf, "classify_s": np.inf}
    for _ in range(3):  # the best of several: what else a machine does only ever adds
        done = subprocess.run(script, capture_output=True, text=True, check=True, cwd=ROOT, timeout=800)
        told = json.loads(done.stdout.strip().splitlines()[-1])
        assert told["torch_loaded"]
        assert "cells in" in told["segment_summary"]
        assert "RBC" in told["classify_summary"]
        longest = {name: min(known, told[name]) for name, known in longest.items()}
        if max(longest.values()) <= 0.2 * SLACK:
            break
    assert max(longest.values()) <= 0.2 * SLACK, told


def test_a_window_that_stands_still_is_noticed(qapp: object, qtbot: QtBot) -> None:
    with Heartbeat() as heart:
        qtbot.wait(50)
        end = time.process_time() + 0.25
        while time.process_time() < end:
            pass
        qtbot.wait(50)
    assert heart.longest_s > 0.24
    with Heartbeat() as heart:
        qtbot.wait(100)
    assert len(heart.gaps_s) > 3
