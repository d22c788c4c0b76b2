"""The slider of the score: the cells of the last run follow, without a new one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_bloodcell.core.protocols import CellMask
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.session.opening import cells_session
from tests.fakes import BrightnessClassifier, ThresholdGenerator, disc_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari import Viewer
    from napari.layers import Labels
    from numpy.typing import NDArray
    from pytestqt.qtbot import QtBot

SURE, DOUBTFUL, HARDLY = (40, 40), (40, 120), (110, 70)


class Scored(ThresholdGenerator):
    """Is surer of a cell the darker it is: 230 less its level, in hundredths."""

    keeps_proposals = True
    n_runs = 0

    def overlap_px(self, calibration: Any) -> int:
        return 8

    def generate(
        self, image: NDArray[np.uint8], *args: Any, keep_from: float | None = None, **more: Any
    ) -> list[CellMask]:
        type(self).n_runs += 1
        found = []
        for mask in super().generate(image, *args, **more):
            y0, x0, y1, x1 = mask.bbox
            score = (230 - int(np.median(image[y0:y1, x0:x1][mask.mask]))) / 100
            found.append(replace(mask, score=score, proposed_at=(0.0, score)))
        least = args[1].score_min if keep_from is None else min(keep_from, args[1].score_min)
        return [mask for mask in found if mask.is_proposed(least)]


@pytest.fixture
def scored(nothing_left: None, make_napari_viewer: Callable[..., Viewer]) -> Viewer:
    """A window with three cells that score 0.8, 0.6 and 0.3."""
    viewer = make_napari_viewer(show=True)
    image = np.full((160, 160, 3), 230, np.uint8)
    for place, level in ((SURE, 150), (DOUBTFUL, 170), (HARDLY, 200)):
        image = np.minimum(image, disc_image([place], (160, 160), value=level))
    viewer.add_image(image, name="smear", rgb=True)
    return viewer


def found_in(viewer: Viewer) -> list[bool]:
    layer = viewer.layers["smear cells"]
    return [bool(layer.data[place]) for place in (SURE, DOUBTFUL, HARDLY)]


def run(viewer: Viewer, qtbot: QtBot, name: str = "Analyse") -> Any:
    dock: Any = viewer.window.add_plugin_dock_widget("napari-bloodcell", name)[1]
    dock.generator, dock.classifier = Scored(threshold=215), BrightnessClassifier()
    dock.form.set_values({"rbc_diameter_px": 24})
    qtbot.mouseClick(dock.run, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not dock.is_running and bool(dock.summary.text()), timeout=60_000)
    return dock


def slide(dock: Any, qtbot: QtBot, presses: int) -> None:
    """Press an arrow key on the slider, to the right, or to the left where negative."""
    dock.score.slider.setFocus()
    for _ in range(abs(presses)):
        qtbot.keyClick(dock.score.slider, Qt.Key.Key_Right if presses > 0 else Qt.Key.Key_Left)
    work = dock.score._work
    qtbot.waitUntil(lambda: not work.is_running and dock.score._wanted is None, timeout=60_000)


def test_the_cells_follow_the_slider_without_a_new_run_and_in_one_step_of_undo(scored: Viewer, qtbot: QtBot) -> None:
    dock = run(scored, qtbot)
    n_runs, layer = Scored.n_runs, scored.layers["smear cells"]
    assert found_in(scored) == [True, True, False]
    slide(dock, qtbot, 25)  # 0.65
    assert found_in(scored) == [True, False, False]
    slide(dock, qtbot, -40)  # 0.25
    assert found_in(scored) == [True, True, True]
    assert Scored.n_runs == n_runs
    table = links.table_of(layer)
    qtbot.waitUntil(lambda: (links.table_of(layer)["cell_type"] != "").all(), timeout=60_000)  # new cells are typed
    assert len(table) == 3
    assert links.info_of(layer)["recipe"]["segment"]["score_min"] == 0.25
    cells_session(scored, layer).undo()
    assert found_in(scored) == [True, True, False]
    assert not cells_session(scored, layer).history.done


def test_cells_by_hand_stay_while_the_score_is_moved(scored: Viewer, qtbot: QtBot) -> None:
    dock = run(scored, qtbot)
    layer: Labels = scored.layers["smear cells"]  # type: ignore[assignment]
    session = cells_session(scored, layer)
    session.type_cells([int(layer.data[SURE])], "platelet")
    own = session.add(CellMask((130, 130, 140, 140), np.ones((10, 10), bool), 1.0, 1.0, 1.0, (135.0, 135.0)))
    slide(dock, qtbot, 25)
    assert found_in(scored) == [True, False, False]
    assert layer.data[135, 135] == own
    assert links.table_of(layer)["cell_type"][int(layer.data[SURE])] == "platelet"


def test_a_generator_that_keeps_no_proposals_has_no_slider(scored: Viewer, qtbot: QtBot) -> None:
    dock: Any = scored.window.add_plugin_dock_widget("napari-bloodcell", "Segment")[1]
    dock.generator = ThresholdGenerator()
    qtbot.mouseClick(dock.run, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not dock.is_running and bool(dock.summary.text()), timeout=60_000)
    assert not dock.score.isVisible()
