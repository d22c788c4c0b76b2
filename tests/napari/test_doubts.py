"""A window says what speaks against a result."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import pytest

import napari_bloodcell as nb
from napari_bloodcell.cli import batch
from napari_bloodcell.cli import main as cli
from napari_bloodcell.napari.layers import links
from tests.examples import pictures
from tests.fakes import BrightnessClassifier, ThresholdGenerator, disc_image

if TYPE_CHECKING:
    from pathlib import Path

    from napari import Viewer
    from pytestqt.qtbot import QtBot

    from napari_bloodcell.core.protocols import Calibration
    from napari_bloodcell.napari.docks.count.dock import CountWidget

EMPTY = "Nothing but glass"
GLASS = np.full((120, 160, 3), 230, np.uint8)


CELLS = disc_image([(y, x) for y in range(30, 210, 45) for x in range(30, 290, 45)], (220, 300))


@dataclass
class Measuring(ThresholdGenerator):
    """Finds in every smear what it was told."""

    found: dict[str, float] = field(default_factory=dict)

    def calibrate(self, sample: np.ndarray, first: Calibration) -> Calibration:
        return replace(first, **self.found)


DOUBTS: dict[str, tuple[np.ndarray, dict[str, float], float | None]] = {
    "Nothing but glass was found": (GLASS, {}, None),
    "How wide a red cell is, is unsure": (CELLS, {"scale_confidence": 0.2}, None),
    "The picture does not look like": (CELLS, {"smear_confidence": 0.2}, None),
    "The light falls off to": (pictures.light_from_one_side(CELLS, 0.4), {}, None),
    "Straight lines run across the picture": (pictures.mosaic_with_gaps(CELLS, level=255), {}, None),
    "With 1.5 µm per pixel a red cell would be": (CELLS, {"rbc_diameter_px": 24.0}, 1.5),
}
"""What a warning says first; a picture, what is measured of it, and µm per pixel."""


@pytest.mark.parametrize("said", DOUBTS)
def test_every_doubt_is_said_in_the_terminal_the_files_the_dock_and_on_the_layer(
    said: str,
    viewer: Viewer,
    qtbot: QtBot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture, found, pixel_size_um = DOUBTS[said]
    models = batch.Models(Measuring(found=found), BrightnessClassifier())
    monkeypatch.setattr(batch, "load_models", lambda recipe, quiet=False: models)
    PIL.Image.fromarray(picture).save(tmp_path / "one.png")
    units = () if pixel_size_um is None else ("--pixel-size-um", str(pixel_size_um))
    cli.main(["analyse", str(tmp_path / "one.png"), "-o", str(tmp_path / "out"), "-q", *units])
    assert said in capsys.readouterr().err
    (in_counts,) = json.loads((tmp_path / "out/one/counts.json").read_text())["warnings"]
    (row,) = csv.DictReader((tmp_path / "out/summary.csv").read_text().splitlines())
    assert in_counts.startswith(said)
    assert row["warnings"] == in_counts

    scale = (1.0, 1.0) if pixel_size_um is None else (pixel_size_um, pixel_size_um)
    image = viewer.add_image(picture, rgb=True, scale=scale, units=("pixel" if pixel_size_um is None else "µm",) * 2)
    widget = dock_of(viewer, "Analyse")
    widget.generator, widget.classifier = models.generator, models.classifier
    with qtbot.waitSignal(widget.panel.work.finished, timeout=60_000):
        widget.run.click()
    qtbot.waitUntil(lambda: not widget.is_running, timeout=60_000)
    assert in_counts in widget.summary.text()
    assert links.warnings_of(links.cells_layer_for(viewer, image)) == (in_counts,)


def dock_of(viewer: Viewer, name: str) -> Any:
    return viewer.window.add_plugin_dock_widget("napari-bloodcell", name)[1]


def test_the_dock_the_layer_and_a_notification_say_what_speaks_against_a_result(
    viewer: Viewer, qtbot: QtBot, notifications: list[str]
) -> None:
    image = viewer.add_image(GLASS, name="smear", rgb=True)
    widget = dock_of(viewer, "Analyse")
    widget.generator, widget.classifier = ThresholdGenerator(), BrightnessClassifier()
    with qtbot.waitSignal(widget.panel.work.finished, timeout=60_000):
        widget.run.click()
    qtbot.waitUntil(lambda: not widget.is_running, timeout=60_000)
    cells = links.cells_layer_for(viewer, image)
    assert EMPTY in widget.summary.text()
    assert links.warnings_of(cells)[0].startswith(EMPTY)
    assert sum(EMPTY in told for told in notifications) == 1


def test_the_count_dock_says_what_speaks_against_the_cells_it_counts(
    viewer: Viewer, qtbot: QtBot, field: np.ndarray
) -> None:
    image = viewer.add_image(field, name="smear", rgb=True)
    params = nb.SegmentParams(rbc_diameter_px=24, tile_size=128)
    cells = nb.napari.segment_layer(image, params=params, generator=ThresholdGenerator())
    nb.napari.classify_layer(cells, classifier=BrightnessClassifier())
    links.info_of(cells)["warnings"] = ["The light comes from one side."]
    dock: CountWidget = dock_of(viewer, "Count")
    dock.recount()
    assert dock._note.text().startswith("⚠ The light comes from one side.")


def test_a_saved_result_keeps_its_warnings_when_it_is_opened_again(
    viewer: Viewer, field: np.ndarray, tmp_path: Path
) -> None:
    image = viewer.add_image(field, name="smear", rgb=True)
    params = nb.SegmentParams(rbc_diameter_px=24, tile_size=128)
    cells = nb.napari.segment_layer(image, params=params, generator=ThresholdGenerator())
    nb.napari.classify_layer(cells, classifier=BrightnessClassifier())
    links.info_of(cells)["warnings"] = ["The light comes from one side."]
    assert nb.napari.result_of(cells).warnings == ("The light comes from one side.",)
    nb.napari.save_result(cells, tmp_path / "saved")
    _, *opened = nb.napari.open_result(tmp_path / "saved", viewer)
    assert [links.warnings_of(layer) for layer in opened if links.is_cells(layer)] == [links.warnings_of(cells)]
